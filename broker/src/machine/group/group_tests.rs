//! The classic protocol, decision by decision.

use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_wire::ErrorCode;
use tailway_wire::messages::{JoinGroupRequest, JoinGroupResponse};

use super::bench_tests::{Bench, commit, heartbeat, join, leave, none, sync, text};
use super::*;
use crate::machine::offsets::schema::{GroupValue, MemberValue, OffsetsRecord};

#[test]
fn a_lone_consumer_has_its_assignment_after_the_initial_delay() {
    let mut bench = Bench::new();
    let (id, call) = bench.knock("g", &["range", "roundrobin"]);
    assert_eq!(&*id, "c-1");
    assert!(bench.is_waiting(call));
    assert_eq!(bench.shard.deadline(), Some(bench.now + Duration::from_millis(250)));
    bench.advance(250);
    let expected = JoinGroupResponse::default()
        .with_generation_id(1)
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_leader(id.clone())
        .with_member_id(id.clone())
        .with_members(vec![
            tailway_wire::messages::join_group_response::JoinGroupResponseMember::default()
                .with_member_id(id.clone())
                .with_metadata(Bytes::from_static(b"sub-range")),
        ]);
    assert_eq!(bench.joined(call), expected);

    let call = bench.send(sync("g", &id, None, 1, &[(id.clone(), Bytes::from_static(b"all"))]));
    assert!(bench.is_waiting(call), "the assignment is not durable yet");
    let expected = OffsetsRecord::Group(
        text("g"),
        Some(GroupValue {
            protocol_type: text("consumer"),
            generation: 1,
            protocol: Some(text("range")),
            leader: Some(id.clone()),
            state_timestamp: Some(WallMs(1_700_000_000_250)),
            members: vec![MemberValue {
                member_id: id.clone(),
                group_instance_id: None,
                client_id: text("c"),
                client_host: text("/10.0.0.1"),
                rebalance_timeout_ms: 60_000,
                session_timeout_ms: 10_000,
                subscription: Bytes::from_static(b"sub-range"),
                assignment: Bytes::from_static(b"all"),
            }],
        }),
    );
    assert_eq!(bench.durable(), vec![expected]);
    let synced = bench.synced(call);
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    let call = bench.send(heartbeat("g", &id, None, 1));
    assert_eq!(bench.code(call), ErrorCode::NONE);
    let generation = 1;
    assert_eq!(
        bench.notices,
        vec![
            Notice::RebalanceStarted { group: text("g"), generation: 0, reason: "a member joined" },
            Notice::GenerationStarted { group: text("g"), generation, members: 1 },
            Notice::Stable { group: text("g"), generation },
        ]
    );
}

/// Each newcomer prolongs the wait once, and never beyond the rebalance timeout.
#[test]
fn the_initial_delay_waits_for_company() {
    let config =
        GroupConfig { initial_rebalance_delay: Duration::from_secs(25), ..GroupConfig::default() };
    let mut bench = Bench::with(config);
    let (_, first) = bench.knock("g", &["a"]);
    bench.advance(24_000);
    let (_, second) = bench.knock("g", &["a"]);
    bench.advance(1_000);
    assert!(bench.is_waiting(first) && bench.is_waiting(second), "25 s more");
    bench.advance(24_000);
    let (_, third) = bench.knock("g", &["a"]);
    bench.advance(1_000);
    assert!(bench.is_waiting(first), "only 10 of the 60 s are left");
    bench.advance(10_000);
    for call in [first, second, third] {
        assert_eq!(bench.joined(call).generation_id, 1);
    }
}

#[test]
fn followers_wait_for_the_leaders_assignment() {
    let mut bench = Bench::new();
    let (leader, first) = bench.knock("g", &["a"]);
    let (follower, second) = bench.knock("g", &["a"]);
    bench.advance(250);
    bench.advance(250);
    assert_eq!(bench.joined(first).members.len(), 2);
    let told = bench.joined(second);
    assert_eq!(
        (told.members.len(), &told.leader),
        (0, &leader),
        "only the leader learns the members"
    );
    let waits = bench.send(sync("g", &follower, None, 1, &[]));
    bench.advance(5_000);
    assert!(bench.is_waiting(waits), "never an empty assignment before the leader's");
    let given = [(follower.clone(), Bytes::from_static(b"x")), (text("stranger"), Bytes::new())];
    let leads = bench.send(sync("g", &leader, None, 1, &given));
    bench.durable();
    assert_eq!(&bench.synced(waits).assignment[..], b"x");
    assert_eq!(bench.synced(leads).assignment.len(), 0, "the leader passed itself over");
    let again = bench.send(sync("g", &follower, None, 1, &[]));
    assert_eq!(&bench.synced(again).assignment[..], b"x", "asked again, told again");
}

#[test]
fn an_assignment_that_cannot_be_stored_starts_over() {
    let mut bench = Bench::new();
    let (id, call) = bench.knock("g", &["a"]);
    bench.advance(250);
    bench.joined(call);
    let call = bench.send(sync("g", &id, None, 1, &[]));
    let (append, _) = bench.appends.remove(0);
    bench.event(Event::Appended { append, outcome: Err(ErrorCode::NOT_COORDINATOR) });
    assert_eq!(bench.code(call), ErrorCode::NOT_COORDINATOR);
    let call = bench.send(heartbeat("g", &id, None, 1));
    assert_eq!(bench.code(call), ErrorCode::REBALANCE_IN_PROGRESS);
    let call = bench.send(join("g", &id, None, &["a"]));
    assert_eq!(bench.joined(call).generation_id, 2);
}

#[test]
fn each_wrong_request_gets_its_error() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a", "b"]]).remove(0);
    let stranger = text("stranger");
    let with = |mut request: Request, change: &dyn Fn(&mut JoinGroupRequest)| {
        if let Request::Join { request, .. } = &mut request {
            change(request);
        }
        request
    };
    let newcomer = || join("g", &none(), None, &["a"]);
    let cases: Vec<(Request, ErrorCode)> = vec![
        (join("", &none(), None, &["a"]), ErrorCode::INVALID_GROUP_ID),
        (join("g", &stranger, None, &["a"]), ErrorCode::UNKNOWN_MEMBER_ID),
        (join("other", &stranger, None, &["a"]), ErrorCode::UNKNOWN_MEMBER_ID),
        (join("g", &none(), None, &["z"]), ErrorCode::INCONSISTENT_GROUP_PROTOCOL),
        (join("g", &none(), None, &[]), ErrorCode::INCONSISTENT_GROUP_PROTOCOL),
        (
            with(newcomer(), &|r| r.protocol_type = text("connect")),
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (with(newcomer(), &|r| r.session_timeout_ms = 5_999), ErrorCode::INVALID_SESSION_TIMEOUT),
        (
            with(newcomer(), &|r| r.session_timeout_ms = i32::MAX),
            ErrorCode::INVALID_SESSION_TIMEOUT,
        ),
        (
            with(newcomer(), &|r| r.protocols[0].metadata = vec![0; (1 << 20) + 1].into()),
            ErrorCode::INVALID_REQUEST,
        ),
        (join("g", &id, Some(&text("no-such-instance")), &["a"]), ErrorCode::UNKNOWN_MEMBER_ID),
        (sync("g", &stranger, None, 1, &[]), ErrorCode::UNKNOWN_MEMBER_ID),
        (sync("g", &id, None, 2, &[]), ErrorCode::ILLEGAL_GENERATION),
        (sync("other", &id, None, 1, &[]), ErrorCode::UNKNOWN_MEMBER_ID),
        (heartbeat("g", &stranger, None, 1), ErrorCode::UNKNOWN_MEMBER_ID),
        (heartbeat("g", &id, None, 0), ErrorCode::ILLEGAL_GENERATION),
        (heartbeat("other", &id, None, 1), ErrorCode::UNKNOWN_MEMBER_ID),
        (leave("g", &stranger, None, 5), ErrorCode::UNKNOWN_MEMBER_ID),
        (leave("other", &id, None, 5), ErrorCode::UNKNOWN_MEMBER_ID),
        (leave("g", &none(), Some(&text("no-such-instance")), 5), ErrorCode::UNKNOWN_MEMBER_ID),
        (commit("g", &none(), -1, "t", 0, 1), ErrorCode::UNKNOWN_MEMBER_ID),
        (commit("g", &stranger, 1, "t", 0, 1), ErrorCode::UNKNOWN_MEMBER_ID),
        (commit("g", &id, 9, "t", 0, 1), ErrorCode::ILLEGAL_GENERATION),
        (commit("other", &id, 1, "t", 0, 1), ErrorCode::ILLEGAL_GENERATION),
        (commit("g", &id, 1, "no-topic", 0, 1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (commit("g", &id, 1, "t", 2, 1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (Request::Delete(text("g")), ErrorCode::NON_EMPTY_GROUP),
        (Request::Delete(text("other")), ErrorCode::GROUP_ID_NOT_FOUND),
        (Request::Delete(none()), ErrorCode::INVALID_GROUP_ID),
    ];
    for (n, (request, expected)) in cases.into_iter().enumerate() {
        let call = bench.send(request);
        assert_eq!(bench.code(call), expected, "case {n}");
    }
    // None of it left a trace.
    assert_eq!((bench.shard.group_count(), bench.appends.len(), bench.notices.len()), (1, 0, 0));
    let call = bench.send(heartbeat("g", &id, None, 1));
    assert_eq!(bench.code(call), ErrorCode::NONE);
}

/// Versions before 4 join at once; before 7 the protocol's name may not be null; before 3 a leave is about one member.
#[test]
fn old_versions_are_answered_in_their_own_way() {
    let mut bench = Bench::new();
    let mut request = join("g", &none(), None, &["a"]);
    if let Request::Join { request, .. } = &mut request {
        request.rebalance_timeout_ms = -1;
    }
    let call = bench.send_on(1, 0, request);
    bench.advance(250);
    let joined = bench.joined(call);
    assert_eq!((joined.error_code, joined.members.len()), (0, 1));
    let call = bench.send_on(1, 3, join("g", &text("x"), None, &["a"]));
    assert_eq!(bench.joined(call).protocol_name, Some(none()));
    let call = bench.send_on(1, 9, join("g", &text("x"), None, &["a"]));
    assert_eq!(bench.joined(call).protocol_name, None);
    let call = bench.send_on(1, 1, leave("g", &text("x"), None, 1));
    let response =
        bench.take(call, |it| if let Response::Leave(it) = it { Some(it) } else { None });
    assert_eq!(
        (response.error_code, response.members.len()),
        (ErrorCode::UNKNOWN_MEMBER_ID.code(), 0)
    );
    let call = bench.send_on(1, 1, leave("g", &joined.member_id, None, 1));
    let response =
        bench.take(call, |it| if let Response::Leave(it) = it { Some(it) } else { None });
    assert_eq!((response.error_code, response.members.len()), (0, 0));
}

/// A member id that nobody comes back with holds a rebalance up only until its connection closes, or for 5 s.
#[test]
fn orphans_of_the_member_id_handshake_do_not_block_the_group() {
    for closes in [true, false] {
        let mut bench = Bench::new();
        let id = bench.stable(&[&["a"]]).remove(0);
        bench.send_on(7, 5, join("g", &none(), None, &["a"]));
        let newcomer = bench.send_on(8, 3, join("g", &none(), None, &["a"]));
        let rejoin = bench.send(join("g", &id, None, &["a"]));
        assert!(bench.is_waiting(rejoin), "the pending member may still come");
        if closes {
            bench.event(Event::ConnectionClosed(7));
        } else {
            bench.advance(4_999);
            assert!(bench.is_waiting(rejoin));
            bench.advance(1);
        }
        assert_eq!(
            (bench.joined(rejoin).generation_id, bench.joined(newcomer).generation_id),
            (2, 2)
        );
    }
}

#[test]
fn a_closed_connection_takes_a_joining_newcomer_with_it_but_not_a_member() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a"]]).remove(0);
    let newcomer = bench.send_on(7, 3, join("g", &none(), None, &["a"]));
    let rejoin = bench.send_on(8, 5, join("g", &id, None, &["a"]));
    assert_eq!((bench.joined(rejoin).generation_id, bench.joined(newcomer).members.len()), (2, 0));
    // Both rejoin for the next generation; the connections of a member and of a newcomer close.
    let late = bench.send_on(9, 3, join("g", &none(), None, &["a"]));
    let call = bench.send_on(8, 5, join("g", &id, None, &["a"]));
    assert!(bench.is_waiting(late) && bench.is_waiting(call));
    bench.event(Event::ConnectionClosed(9));
    assert_eq!(bench.code(late), ErrorCode::UNKNOWN_MEMBER_ID);
    bench.event(Event::ConnectionClosed(8));
    let again = bench.send_on(10, 5, join("g", &id, None, &["a"]));
    assert!(bench.is_waiting(again), "it is still a member; the other one has not rejoined");
    bench.advance(10_000);
    assert_eq!(bench.joined(again).generation_id, 3, "the other's session ended");
}

#[test]
fn a_silent_member_is_expelled_and_the_group_rebalances() {
    let mut bench = Bench::new();
    let ids = bench.stable(&[&["a"], &["a"]]);
    bench.advance(9_000);
    bench.send(heartbeat("g", &ids[0], None, 1));
    bench.answers.clear();
    bench.advance(1_000);
    let reason = "its session expired";
    assert_eq!(
        bench.notices,
        vec![
            Notice::MemberRemoved { group: text("g"), member: ids[1].clone(), reason },
            Notice::RebalanceStarted {
                group: text("g"),
                generation: 1,
                reason: "members were lost"
            },
        ]
    );
    let call = bench.send(heartbeat("g", &ids[0], None, 1));
    assert_eq!(bench.code(call), ErrorCode::REBALANCE_IN_PROGRESS);
    let call = bench.send(join("g", &ids[0], None, &["a"]));
    assert_eq!(bench.joined(call).generation_id, 2);
}

#[test]
fn whoever_does_not_rejoin_or_sync_in_time_is_out() {
    let mut bench = Bench::new();
    let ids = bench.stable(&[&["a"], &["a"]]);
    let call = bench.send(join("g", &ids[0], None, &["a"]));
    for _ in 0..7 {
        bench.advance(9_000);
        bench.send(heartbeat("g", &ids[1], None, 1));
    }
    let joined = bench.joined(call);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1), "after the rebalance timeout");
    // And the only member of this generation never asks for its assignment.
    bench.answers.clear();
    bench.appends.clear();
    for _ in 0..7 {
        bench.advance(9_000);
        bench.send(heartbeat("g", &ids[0], None, 2));
    }
    let removed = Notice::MemberRemoved {
        group: text("g"),
        member: ids[0].clone(),
        reason: "it did not sync in time",
    };
    assert!(bench.notices.contains(&removed), "{:?}", bench.notices);
}

#[test]
fn the_leaders_rejoin_and_a_new_subscription_rebalance_a_followers_repeat_does_not() {
    let mut bench = Bench::new();
    let ids = bench.stable(&[&["a", "b"], &["a", "b"]]);
    let repeat = bench.send(join("g", &ids[1], None, &["a", "b"]));
    assert_eq!(bench.joined(repeat).generation_id, 1);
    let changed = bench.send(join("g", &ids[1], None, &["b", "a"]));
    assert!(bench.is_waiting(changed));
    let leader = bench.send(join("g", &ids[0], None, &["b"]));
    let joined = bench.joined(leader);
    assert_eq!(
        (joined.generation_id, joined.protocol_name),
        (2, Some(text("b"))),
        "the vote goes to b"
    );
    assert_eq!(bench.joined(changed).generation_id, 2);
}

#[test]
fn the_vote_goes_to_what_most_prefer_and_a_tie_to_the_leader() {
    let cases: [(&[&[&str]], &str); 4] = [
        (&[&["a", "b"], &["b", "a"], &["b", "a"]], "b"),
        (&[&["a", "b"], &["b", "a"]], "a"),
        (&[&["b", "a"], &["a", "b"]], "b"),
        (&[&["a", "b", "c"], &["c", "b"], &["c", "b"]], "c"),
    ];
    for (members, expected) in cases {
        let mut bench = Bench::new();
        let calls: Vec<Call> =
            members.iter().map(|protocols| bench.knock("g", protocols).1).collect();
        bench.advance(250);
        bench.advance(250);
        assert_eq!(bench.joined(calls[0]).protocol_name, Some(text(expected)), "{members:?}");
    }
}

#[test]
fn a_static_member_comes_back_unnoticed_and_fences_its_former_self() {
    for version in [5, 9] {
        let mut bench = Bench::new();
        let instance = text("i");
        let call = bench.send_on(1, version, join("g", &none(), Some(&instance), &["a"]));
        bench.advance(250);
        let first = bench.joined(call);
        assert_eq!(&*first.member_id, "i-1", "static members get no handshake");
        let given = [(first.member_id.clone(), Bytes::from_static(b"mine"))];
        bench.send(sync("g", &first.member_id, Some(&instance), 1, &given));
        bench.durable();

        let call = bench.send_on(2, version, join("g", &none(), Some(&instance), &["a"]));
        assert!(bench.is_waiting(call), "not before its new id is durable");
        bench.durable();
        let second = bench.joined(call);
        assert_eq!((second.error_code, second.generation_id), (0, 1));
        assert_ne!(second.member_id, first.member_id);
        let expected = match version {
            9 => (second.member_id.clone(), true, 1),
            _ => (first.member_id.clone(), false, 0),
        };
        assert_eq!((second.leader.clone(), second.skip_assignment, second.members.len()), expected);
        let call = bench.send(heartbeat("g", &first.member_id, Some(&instance), 1));
        assert_eq!(bench.code(call), ErrorCode::FENCED_INSTANCE_ID);
        let call = bench.send(sync("g", &second.member_id, Some(&instance), 1, &[]));
        assert_eq!(&bench.synced(call).assignment[..], b"mine");
        // An operator removes it by instance id alone.
        let call = bench.send(leave("g", &none(), Some(&instance), 5));
        assert_eq!(bench.code(call), ErrorCode::NONE);
    }
}

#[test]
fn the_last_leave_empties_the_group_durably() {
    let mut bench = Bench::new();
    let id = bench.stable(&[&["a"]]).remove(0);
    let call = bench.send(leave("g", &id, None, 5));
    assert_eq!(bench.code(call), ErrorCode::NONE);
    let empty = GroupValue {
        protocol_type: text("consumer"),
        generation: 2,
        protocol: None,
        leader: None,
        state_timestamp: Some(bench.wall),
        members: vec![],
    };
    assert_eq!(bench.durable(), vec![OffsetsRecord::Group(text("g"), Some(empty))]);
    assert_eq!(bench.shard.group_count(), 1, "remembered until the retention check");
    bench.advance(600_000);
    assert_eq!(bench.durable(), vec![OffsetsRecord::Group(text("g"), None)]);
    assert_eq!(bench.shard.group_count(), 0);
}

/// A static member with a rebalance timeout of nothing is absent: the group waits for its session, second by second.
#[test]
fn a_rebalance_timeout_of_zero_does_not_spin() {
    let mut bench = Bench::new();
    let instance = text("i");
    let mut request = join("g", &none(), Some(&instance), &["a"]);
    if let Request::Join { request, .. } = &mut request {
        request.rebalance_timeout_ms = 0;
    }
    let call = bench.send(request);
    bench.advance(1_000);
    let id = bench.joined(call).member_id;
    bench.send(sync("g", &id, Some(&instance), 1, &[]));
    bench.durable();
    let newcomer = bench.send_on(7, 3, join("g", &none(), None, &["a"]));
    bench.event(Event::ConnectionClosed(7));
    assert!(!bench.is_waiting(newcomer));
    for _ in 0..10 {
        bench.advance(1_000);
        assert!(bench.shard.deadline().is_some_and(|deadline| deadline > bench.now));
    }
    assert_eq!(
        bench.notices.last(),
        Some(&Notice::BecameEmpty { group: text("g"), generation: 2 })
    );
}
