//! Bytes that Apache Kafka wrote (4.3.1: a console consumer with a static id, a reset of a group without members), read
//! and written back; and hostile bytes.

use super::*;

const GROUP_KEY_HEX: &str = "000200056772702d61";
const EMPTY_GROUP_HEX: &str = "0003000000000000ffffffff000001a20ac9b8bb00000000";
const GROUP_HEX: &str = "00030008636f6e73756d657200000001000572616e6765002b696e73742d312d32313164376163662d37\
6136392d346536312d396535622d376163656438633838386566000001a20ac9b8c700000001002b696e73742d312d32313164376163662d\
376136392d346536312d396535622d3761636564386338383865660006696e73742d310003636c69000a2f3132372e302e302e31000493e0\
0000afc8000000190003000000010003766563ffffffff00000000ffffffffffff0000001b000300000001000376656300000002000000\
0000000001ffffffff";
const OFFSET_KEY_HEX: &str = "000100056772702d61000376656300000001";
/// Version 4, with the topic's id as a tagged field.
const OFFSET_HEX: &str =
    "000400000000000000140000000001000001a20ac9b99a01001090be9348add94a6b98cca850d2e82704";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn member() -> MemberValue {
    MemberValue {
        member_id: text("inst-1-211d7acf-7a69-4e61-9e5b-7aced8c888ef"),
        group_instance_id: Some(text("inst-1")),
        client_id: text("cli"),
        client_host: text("/127.0.0.1"),
        rebalance_timeout_ms: 300_000,
        session_timeout_ms: 45_000,
        subscription: hex("0003000000010003766563ffffffff00000000ffffffffffff").into(),
        assignment: hex("0003000000010003766563000000020000000000000001ffffffff").into(),
    }
}

#[test]
fn groups_are_read_and_written_as_kafka_does() {
    let empty = GroupValue {
        protocol_type: text(""),
        generation: 0,
        protocol: None,
        leader: None,
        state_timestamp: Some(WallMs(1_795_477_321_915)),
        members: vec![],
    };
    let stable = GroupValue {
        protocol_type: text("consumer"),
        generation: 1,
        protocol: Some(text("range")),
        leader: Some(member().member_id),
        state_timestamp: Some(WallMs(1_795_477_321_927)),
        members: vec![member()],
    };
    for (value, bytes) in [(empty, EMPTY_GROUP_HEX), (stable, GROUP_HEX)] {
        let record = OffsetsRecord::Group(text("grp-a"), Some(value));
        let (key, bytes) = (hex(GROUP_KEY_HEX), hex(bytes));
        assert_eq!(OffsetsRecord::decode(&key, Some(&bytes)).unwrap(), record);
        assert_eq!(record.encode().unwrap(), (key.into(), Some(bytes.into())));
    }
    let tombstone = OffsetsRecord::Group(text("grp-a"), None);
    assert_eq!(OffsetsRecord::decode(&hex(GROUP_KEY_HEX), None).unwrap(), tombstone);
    assert_eq!(tombstone.encode().unwrap(), (hex(GROUP_KEY_HEX).into(), None));
}

#[test]
fn offsets_of_every_version_are_read() {
    let value = |leader_epoch, metadata, expire_timestamp| OffsetValue {
        offset: 20,
        leader_epoch,
        metadata: text(metadata),
        commit_timestamp: WallMs(1_795_477_322_138),
        expire_timestamp,
    };
    let cases = [
        ("0000 0000000000000014 00026d64 000001a20ac9b99a", value(-1, "md", None)),
        (
            "0001 0000000000000014 00026d64 000001a20ac9b99a 000001a20ac9b99b",
            value(-1, "md", Some(WallMs(1_795_477_322_139))),
        ),
        ("0001 0000000000000014 00026d64 000001a20ac9b99a ffffffffffffffff", value(-1, "md", None)),
        ("0002 0000000000000014 00026d64 000001a20ac9b99a", value(-1, "md", None)),
        ("0003 0000000000000014 00000007 00026d64 000001a20ac9b99a", value(7, "md", None)),
        (OFFSET_HEX, value(0, "", None)),
    ];
    for (bytes, value) in cases {
        let bytes = hex(&bytes.replace(' ', ""));
        let record = OffsetsRecord::Offset(text("grp-a"), text("vec"), 1, Some(value));
        assert_eq!(OffsetsRecord::decode(&hex(OFFSET_KEY_HEX), Some(&bytes)).unwrap(), record);
        let (key, written) = record.encode().unwrap();
        assert_eq!(key, hex(OFFSET_KEY_HEX));
        let again = OffsetsRecord::decode(&key, written.as_deref()).unwrap();
        assert_eq!(again, record, "what is written reads back");
        if bytes[1] == 3 {
            assert_eq!(written, Some(bytes.into()));
        }
    }
}

/// Versions 0 to 2 of the group value lack the instance id, the state's time and the rebalance timeout; 4 is compact.
#[test]
fn groups_of_every_version_are_read() {
    let value =
        |state_timestamp, rebalance_timeout_ms, instance: Option<&'static str>| GroupValue {
            protocol_type: text("c"),
            generation: 2,
            protocol: Some(text("r")),
            leader: Some(text("m")),
            state_timestamp,
            members: vec![MemberValue {
                member_id: text("m"),
                group_instance_id: instance.map(text),
                client_id: text("i"),
                client_host: text("/"),
                rebalance_timeout_ms,
                session_timeout_ms: 6,
                subscription: Bytes::from_static(b"s"),
                assignment: Bytes::new(),
            }],
        };
    let head = "000163 00000002 000172 00016d";
    let who = "00016d";
    let tail = "00000006 00000001 73 00000000";
    let time = "0000000000000009";
    let cases = [
        (format!("0000 {head} 00000001 {who} 000169 00012f {tail}"), value(None, 6, None)),
        (format!("0001 {head} 00000001 {who} 000169 00012f 00000005 {tail}"), value(None, 5, None)),
        (
            format!("0002 {head} {time} 00000001 {who} 000169 00012f 00000005 {tail}"),
            value(Some(WallMs(9)), 5, None),
        ),
        (
            format!("0003 {head} {time} 00000001 {who} 000178 000169 00012f 00000005 {tail}"),
            value(Some(WallMs(9)), 5, Some("x")),
        ),
        (
            format!(
                "0004 0263 00000002 0272 026d {time} 02 026d 0278 0269 022f 00000005 00000006 0273 01 00 00"
            ),
            value(Some(WallMs(9)), 5, Some("x")),
        ),
    ];
    for (bytes, value) in cases {
        let bytes = hex(&bytes.replace(' ', ""));
        let record = OffsetsRecord::decode(&hex(GROUP_KEY_HEX), Some(&bytes)).unwrap();
        assert_eq!(record, OffsetsRecord::Group(text("grp-a"), Some(value)), "{}", bytes[1]);
    }
}

#[test]
fn foreign_and_hostile_bytes_are_told_apart_from_ours() {
    assert_eq!(
        OffsetsRecord::decode(&hex("0003000161"), Some(b"anything")).unwrap(),
        OffsetsRecord::Foreign(3)
    );
    for (key, value) in [(GROUP_KEY_HEX, GROUP_HEX), (OFFSET_KEY_HEX, OFFSET_HEX)] {
        let (key, value) = (hex(key), hex(value));
        for cut in 0..key.len() {
            assert!(OffsetsRecord::decode(&key[..cut], None).is_err(), "key cut at {cut}");
        }
        for cut in 0..value.len() {
            let outcome = OffsetsRecord::decode(&key, Some(&value[..cut]));
            assert!(outcome.is_err(), "value cut at {cut}");
        }
        let newer = [&[0, 5], &value[2..]].concat();
        assert!(OffsetsRecord::decode(&key, Some(&newer)).is_err());
    }
    // A count of members that the bytes cannot hold.
    let mut bomb = hex(EMPTY_GROUP_HEX);
    let count_at = bomb.len() - 4;
    bomb[count_at..].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(OffsetsRecord::decode(&hex(GROUP_KEY_HEX), Some(&bomb)).is_err());
    let long = StrBytes::from_string("x".repeat(40_000));
    assert!(OffsetsRecord::Group(long, None).encode().is_err());
}
