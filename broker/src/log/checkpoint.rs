//! Kafka's small text files: offset checkpoints of a data directory, the leader epochs and the topic id of a log.
//!
//! All are rewritten as a whole (`atomic_replace`). A reader that finds anything but the exact format gets an error that
//! says so; callers then fall back to what the segments themselves say.

use std::collections::BTreeMap;

use tailway_metadata::ids::{TopicId, TopicPartition};
use uuid::Uuid;

/// Offsets below this are durable.
pub const RECOVERY_POINT: &str = "recovery-point-offset-checkpoint";
/// First offset that is kept.
pub const LOG_START: &str = "log-start-offset-checkpoint";
/// High watermarks.
pub const HIGH_WATERMARK: &str = "replication-offset-checkpoint";
/// First offset that compaction has not seen.
pub const CLEANER: &str = "cleaner-offset-checkpoint";
/// Its presence says that the last stop wrote everything.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Kafka's content of that marker; the broker epoch is only used by Kafka's controller.
pub const CLEAN_SHUTDOWN_BYTES: &[u8] = br#"{"version":0,"brokerEpoch":-1}"#;
/// The leader epochs of one log.
pub const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";
/// The topic id of one log.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// Offsets by partition, as in one checkpoint file.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// Writes version 0 of an offset checkpoint.
pub fn encode_offsets(offsets: &Offsets) -> Vec<u8> {
    let mut text = format!("0\n{}\n", offsets.len());
    for (tp, offset) in offsets {
        for part in
            [tp.topic.as_ref(), " ", &tp.partition.to_string(), " ", &offset.to_string(), "\n"]
        {
            text.push_str(part);
        }
    }
    text.into_bytes()
}

/// Reads an offset checkpoint, or says what is wrong with it.
pub fn decode_offsets(bytes: &[u8]) -> Result<Offsets, String> {
    let rows = rows(bytes)?;
    let mut offsets = Offsets::new();
    for row in rows {
        let mut fields = row.split_whitespace();
        let parsed = (|| {
            let topic = fields.next()?;
            let partition = fields.next()?.parse().ok()?;
            let offset: i64 = fields.next()?.parse().ok()?;
            (fields.next().is_none() && offset >= 0)
                .then(|| (TopicPartition::new(topic, partition), offset))
        })();
        let (tp, offset) = parsed.ok_or_else(|| format!("bad line {row:?}"))?;
        offsets.insert(tp, offset);
    }
    Ok(offsets)
}

/// Writes version 0 of a leader epoch checkpoint: (epoch, first offset), ascending.
pub fn encode_epochs(epochs: &[(i32, i64)]) -> Vec<u8> {
    let mut text = format!("0\n{}\n", epochs.len());
    for (epoch, start) in epochs {
        for part in [&epoch.to_string(), " ", &start.to_string(), "\n"] {
            text.push_str(part);
        }
    }
    text.into_bytes()
}

/// Reads a leader epoch checkpoint, or says what is wrong with it.
pub fn decode_epochs(bytes: &[u8]) -> Result<Vec<(i32, i64)>, String> {
    let mut epochs: Vec<(i32, i64)> = Vec::new();
    for row in rows(bytes)? {
        let parsed = row
            .split_once(' ')
            .and_then(|(epoch, start)| Some((epoch.parse().ok()?, start.parse().ok()?)));
        let (epoch, start) = parsed.ok_or_else(|| format!("bad line {row:?}"))?;
        if epochs.last().is_some_and(|last| last.0 >= epoch || last.1 > start) {
            return Err(format!("epochs do not rise at {row:?}"));
        }
        epochs.push((epoch, start));
    }
    Ok(epochs)
}

/// The lines behind version and count, if they are as many as announced.
fn rows(bytes: &[u8]) -> Result<Vec<&str>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    let mut lines = text.lines();
    match lines.next() {
        Some("0") => {}
        other => return Err(format!("version {other:?}, expected \"0\"")),
    }
    let count: usize =
        lines.next().and_then(|line| line.parse().ok()).ok_or("the count is missing")?;
    let rows: Vec<&str> = lines.collect();
    if rows.len() == count {
        Ok(rows)
    } else {
        Err(format!("{} lines, expected {count}", rows.len()))
    }
}

/// Writes `partition.metadata`.
pub fn encode_partition_metadata(topic_id: TopicId) -> Vec<u8> {
    format!("version: 0\ntopic_id: {}", kafka_uuid(topic_id)).into_bytes()
}

/// Reads the topic id of `partition.metadata`, or says what is wrong with it.
pub fn decode_partition_metadata(bytes: &[u8]) -> Result<TopicId, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    let mut lines = text.lines();
    if lines.next() != Some("version: 0") {
        return Err("unknown version".to_owned());
    }
    lines
        .next()
        .and_then(|line| line.strip_prefix("topic_id: "))
        .and_then(parse_kafka_uuid)
        .ok_or_else(|| "no topic id".to_owned())
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A UUID as Kafka prints it: unpadded URL-safe base64, 22 characters.
pub fn kafka_uuid(id: TopicId) -> String {
    let bits = id.0.as_u128();
    let mut text = String::with_capacity(22);
    for i in 0..22_u32 {
        // 128 bits are 21 digits of six bits and one of two, which is padded on its right.
        let digit = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 };
        text.push(char::from(BASE64_URL[usize::try_from(digit & 63).unwrap_or(0)]));
    }
    text
}

fn parse_kafka_uuid(text: &str) -> Option<TopicId> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (i, byte) in text.bytes().enumerate() {
        let digit = BASE64_URL.iter().position(|known| *known == byte)? as u128;
        bits = if i < 21 { bits << 6 | digit } else { bits << 2 | digit >> 4 };
    }
    Some(TopicId(Uuid::from_u128(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_checkpoints_are_kafkas() {
        let offsets = Offsets::from([
            (TopicPartition::new("logs", 0), 12),
            (TopicPartition::new("logs", 10), 0),
            (TopicPartition::new("__consumer_offsets", 3), 7),
        ]);
        let text = b"0\n3\n__consumer_offsets 3 7\nlogs 0 12\nlogs 10 0\n";
        assert_eq!(encode_offsets(&offsets), text);
        assert_eq!(decode_offsets(text), Ok(offsets));
        assert_eq!(decode_offsets(b"0\n0\n"), Ok(Offsets::new()));
        for bad in [
            &b""[..],
            b"1\n0\n",
            b"0\n",
            b"0\n1\n",
            b"0\n0\nlogs 0 1\n",
            b"0\n1\nlogs 0\n",
            b"0\n1\nlogs 0 1 2\n",
            b"0\n1\nlogs 0 -1\n",
            b"0\n1\nlogs x 1\n",
            b"\0\0\0\0",
            b"\xff\xfe",
        ] {
            assert!(decode_offsets(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn leader_epochs_rise() {
        let text = b"0\n2\n0 0\n3 120\n";
        assert_eq!(encode_epochs(&[(0, 0), (3, 120)]), text);
        assert_eq!(decode_epochs(text), Ok(vec![(0, 0), (3, 120)]));
        for bad in [&b"0\n2\n3 0\n3 5\n"[..], b"0\n2\n1 9\n2 5\n", b"0\n1\n1\n", b""] {
            assert!(decode_epochs(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn topic_ids_are_written_as_kafka_prints_them() {
        // The second is Kafka's Uuid.METADATA_TOPIC_ID, as Kafka prints it.
        let table = [
            (0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, "AQIDBAUGBwgJCgsMDQ4PEA"),
            (1_u128, "AAAAAAAAAAAAAAAAAAAAAQ"),
            (0, "AAAAAAAAAAAAAAAAAAAAAA"),
            (u128::MAX, "_____________________w"),
        ];
        for (bits, text) in table {
            let id = TopicId(Uuid::from_u128(bits));
            assert_eq!(kafka_uuid(id), text);
            let file = encode_partition_metadata(id);
            assert_eq!(decode_partition_metadata(&file), Ok(id));
        }
        for bad in [&b""[..], b"version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ", b"version: 0\n"] {
            assert!(decode_partition_metadata(bad).is_err());
        }
    }
}
