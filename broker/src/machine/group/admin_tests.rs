//! Offsets, retention, administration, and a coordinator that starts anew.

use bytes::Bytes;
use tailway_wire::ErrorCode;
use tailway_wire::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use tailway_wire::messages::{OffsetDeleteRequest, TopicName};

use super::bench_tests::{
    Bench, commit, group_id, heartbeat, image_with, join, leave, none, sync, text,
};
use super::*;
use crate::machine::offsets::schema::{OffsetValue, OffsetsRecord};

fn fetch_all(bench: &mut Bench, group: &str) -> Vec<(i32, i64)> {
    let request = FetchOffsets { group_id: text(group), topics: None };
    let call = bench.send(Request::FetchOffsets(request));
    let fetched =
        bench.take(call, |it| if let Response::FetchOffsets(it) = it { Some(it) } else { None });
    let all = fetched.topics.into_iter().flat_map(|(_, partitions)| partitions);
    all.map(|(partition, value)| (partition, value.unwrap().offset)).collect()
}

#[test]
fn commits_are_answered_and_seen_only_when_durable() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a"]]).remove(0);
    let call = bench.send(commit("g", &id, 1, "t", 1, 42));
    assert!(bench.is_waiting(call));
    assert_eq!(fetch_all(&mut bench, "g"), vec![], "not yet");
    let value = OffsetValue {
        offset: 42,
        leader_epoch: 3,
        metadata: text("md"),
        commit_timestamp: bench.wall,
        expire_timestamp: None,
    };
    let record = OffsetsRecord::Offset(text("g"), text("t"), 1, Some(value.clone()));
    assert_eq!(bench.durable(), vec![record]);
    assert_eq!(bench.code(call), ErrorCode::NONE);
    let request = FetchOffsets { group_id: text("g"), topics: Some(vec![(text("t"), vec![0, 1])]) };
    let call = bench.send(Request::FetchOffsets(request));
    let expected = FetchedOffsets {
        error: ErrorCode::NONE,
        topics: vec![(text("t"), vec![(0, None), (1, Some(value))])],
    };
    assert_eq!(bench.answers.remove(&call), Some(Response::FetchOffsets(expected)));

    // One that fails changes nothing.
    let call = bench.send(commit("g", &id, 1, "t", 1, 43));
    let (append, _) = bench.appends.remove(0);
    bench.event(Event::Appended { append, outcome: Err(ErrorCode::NOT_COORDINATOR) });
    assert_eq!(bench.code(call), ErrorCode::NOT_COORDINATOR);
    assert_eq!(fetch_all(&mut bench, "g"), vec![(1, 42)]);
    // During a rebalance's second half nobody can have consumed anything yet.
    let rejoin = bench.send(join("g", &id, None, &["a"]));
    assert_eq!(bench.joined(rejoin).generation_id, 2);
    let call = bench.send(commit("g", &id, 2, "t", 1, 44));
    assert_eq!(bench.code(call), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn bounds_are_answered_with_errors() {
    let config = GroupConfig {
        groups_max: 2,
        members_max: 2,
        offsets_max: 1,
        offset_metadata_bytes_max: 2,
        ..GroupConfig::default()
    };
    let mut bench = Bench::with(config);
    bench.knock("g", &["a"]);
    bench.send(join("g", &none(), None, &["a"]));
    let call = bench.send(join("g", &none(), None, &["a"]));
    assert_eq!(bench.code(call), ErrorCode::GROUP_MAX_SIZE_REACHED, "a member and a pending one");
    let first = bench.send(commit("h", &none(), -1, "t", 0, 1));
    let second = bench.send(commit("h", &none(), -1, "t", 1, 1));
    assert_eq!(bench.code(second), ErrorCode::INVALID_COMMIT_OFFSET_SIZE, "the first is under way");
    bench.durable();
    assert_eq!(bench.code(first), ErrorCode::NONE);
    let mut request = commit("h", &none(), -1, "t", 0, 2);
    if let Request::Commit(request) = &mut request {
        request.topics[0].partitions[0].committed_metadata = Some(text("abc"));
    }
    let call = bench.send(request);
    assert_eq!(bench.code(call), ErrorCode::OFFSET_METADATA_TOO_LARGE);
    let call = bench.send(commit("i", &none(), -1, "t", 0, 1));
    assert_eq!(bench.code(call), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(bench.notices.last(), Some(&Notice::TooManyGroups { groups_max: 2 }));
}

#[test]
fn offsets_outlive_their_group_for_the_retention_and_go_with_their_topic() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a"]]).remove(0);
    bench.send(commit("g", &id, 1, "t", 0, 5));
    bench.send(commit("by-hand", &none(), -1, "t", 0, 6));
    bench.send(leave("g", &id, None, 5));
    bench.durable();
    let day = 24 * 3_600_000;
    bench.advance(7 * day - 1);
    assert_eq!(bench.durable(), vec![]);
    assert_eq!(
        (fetch_all(&mut bench, "g"), fetch_all(&mut bench, "by-hand")),
        (vec![(0, 5)], vec![(0, 6)])
    );
    bench.advance(600_001);
    assert_eq!(
        bench.durable(),
        vec![
            OffsetsRecord::Offset(text("by-hand"), text("t"), 0, None),
            OffsetsRecord::Offset(text("g"), text("t"), 0, None),
            OffsetsRecord::Group(text("g"), None),
        ]
    );
    assert_eq!(bench.shard.group_count(), 0);

    bench.send(commit("by-hand", &none(), -1, "t", 0, 7));
    bench.durable();
    bench.event(Event::Image(image_with(&[("t", 1), ("new", 3)])));
    assert_eq!(bench.durable(), vec![], "the topic is the same");
    bench.event(Event::Image(image_with(&[("t", 2)])));
    assert_eq!(bench.durable(), vec![OffsetsRecord::Offset(text("by-hand"), text("t"), 0, None)]);
    assert_eq!(bench.shard.group_count(), 0);
}

#[test]
fn offsets_are_deleted_on_demand_except_those_in_use() {
    let delete = |group: &str, topic: &str| {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request =
            OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(vec![topic]);
        Request::DeleteOffsets(request)
    };
    let mut bench = Bench::new();
    bench.send(commit("by-hand", &none(), -1, "t", 0, 6));
    bench.durable();
    let call = bench.send(delete("by-hand", "t"));
    assert_eq!(bench.durable(), vec![OffsetsRecord::Offset(text("by-hand"), text("t"), 0, None)]);
    assert_eq!(bench.code(call), ErrorCode::NONE);
    let call = bench.send(delete("by-hand", "t"));
    assert_eq!(bench.code(call), ErrorCode::GROUP_ID_NOT_FOUND);
    // A subscription to "t" as consumers write it, and one that cannot be read.
    for (metadata, topic, expected) in [
        (
            &b"\0\x03\0\0\0\x01\0\x01t\xff\xff\xff\xff"[..],
            "t",
            ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
        ),
        (&b"\0\x03\0\0\0\x01\0\x01t\xff\xff\xff\xff"[..], "u", ErrorCode::NONE),
        (&b"?"[..], "u", ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC),
    ] {
        let mut bench = Bench::new();
        let mut request = join("g", &none(), None, &["a"]);
        if let Request::Join { request, .. } = &mut request {
            request.protocols[0].metadata = Bytes::from_static(metadata);
        }
        bench.send_on(1, 3, request);
        bench.advance(250);
        let call = bench.send(delete("g", topic));
        assert_eq!(bench.code(call), expected, "{metadata:?} {topic}");
    }
}

#[test]
fn groups_are_described_listed_and_deleted() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a"]]).remove(0);
    bench.send(commit("by-hand", &none(), -1, "t", 0, 6));
    bench.durable();
    let describe = |bench: &mut Bench, group: &str, version: i16| {
        let call = bench.send_on(1, version, Request::Describe(text(group)));
        bench.take(call, |it| if let Response::Describe(it) = it { Some(it) } else { None })
    };
    let described = describe(&mut bench, "g", 5);
    assert_eq!((&*described.group_state, &*described.protocol_data), ("Stable", "a"));
    let member = &described.members[0];
    assert_eq!((&member.member_id, &*member.client_host), (&id, "/10.0.0.1"));
    assert_eq!(
        (&member.member_metadata[..], &member.member_assignment[..]),
        (&b"sub-a"[..], &b"part-0"[..])
    );
    let unknown = describe(&mut bench, "nobody", 5);
    assert_eq!((&*unknown.group_state, unknown.error_code), ("Dead", 0));
    let unknown = describe(&mut bench, "nobody", 6);
    assert_eq!(unknown.error_code, ErrorCode::GROUP_ID_NOT_FOUND.code());
    assert_eq!(unknown.error_message.as_deref(), Some("Group nobody not found."));

    let list = |bench: &mut Bench, states: &[&str], types: &[&str]| -> Vec<String> {
        let filter = ListFilter {
            states: states.iter().map(|name| text(name)).collect(),
            types: types.iter().map(|name| text(name)).collect(),
        };
        let call = bench.send(Request::List(filter));
        let listed =
            bench.take(call, |it| if let Response::List(it) = it { Some(it) } else { None });
        listed
            .iter()
            .map(|group| {
                format!("{} {} {}", &*group.group_id, &*group.group_state, &*group.protocol_type)
            })
            .collect()
    };
    assert_eq!(list(&mut bench, &[], &[]), ["by-hand Empty ", "g Stable consumer"]);
    assert_eq!(list(&mut bench, &["stable"], &["Classic"]), ["g Stable consumer"]);
    assert_eq!(list(&mut bench, &[], &["consumer"]), Vec::<String>::new());

    let call = bench.send(Request::Delete(text("by-hand")));
    assert!(bench.is_waiting(call));
    assert_eq!(
        bench.durable(),
        vec![
            OffsetsRecord::Offset(text("by-hand"), text("t"), 0, None),
            OffsetsRecord::Group(text("by-hand"), None),
        ]
    );
    assert_eq!(bench.code(call), ErrorCode::NONE);
    assert_eq!(list(&mut bench, &[], &[]), ["g Stable consumer"]);
}

#[test]
fn a_new_coordinator_goes_on_where_the_partition_ends() {
    let mut bench = Bench::new();
    let (id, call) = bench.knock("g", &["a"]);
    bench.advance(250);
    bench.joined(call);
    bench.send(sync("g", &id, None, 1, &[(id.clone(), Bytes::from_static(b"all"))]));
    let mut log = bench.durable();
    bench.send(commit("g", &id, 1, "t", 0, 5));
    bench.send(commit("gone", &none(), -1, "t", 0, 5));
    log.extend(bench.durable());
    log.push(OffsetsRecord::Offset(text("gone"), text("t"), 0, None));
    log.push(OffsetsRecord::Foreign(3));

    let mut next = Bench::new();
    next.shard = GroupShard::new(GroupConfig::default(), image_with(&[("t", 1)]));
    for record in log {
        next.event(Event::Replayed(record));
    }
    next.event(Event::Loaded);
    assert_eq!(next.shard.group_count(), 1, "a group of tombstones is none");
    assert_eq!(fetch_all(&mut next, "g"), vec![(0, 5)]);
    next.advance(9_999);
    let call = next.send(heartbeat("g", &id, None, 1));
    assert_eq!(next.code(call), ErrorCode::NONE, "its session began anew");
    let call = next.send(sync("g", &id, None, 1, &[]));
    assert_eq!(&next.synced(call).assignment[..], b"all");
    next.advance(10_000);
    assert_eq!(
        next.notices[0],
        Notice::MemberRemoved { group: text("g"), member: id, reason: "its session expired" }
    );
}
