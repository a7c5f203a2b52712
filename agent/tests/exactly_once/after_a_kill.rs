//! Each line once and in order when the agent is killed while batches of it are in doubt: stored,
//! not stored, or still on their way to the broker, which may or may not know the producer then.

use std::time::Duration;

use tailway_wire::error_code::ErrorCode;
use tokio::time::Instant;

use super::common::kafka::{Fault, Kafka, Tells};
use super::common::{Agent, at_once, numbers};
use super::expected;

/// Lines 0 to 9 are stored, and the agent was killed while lines 10 to 19 were in doubt.
pub(super) fn killed(fault: Fault) -> (Kafka, Agent) {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    kafka.set_fault(fault);
    agent.write("a.log", &numbers(10..20));
    kafka.wait_for_produces(2);
    agent.kill();
    kafka.set_fault(Fault::None);
    (kafka, agent)
}

/// The agent's next life ends well: each line is there once.
pub(super) fn ends_well(kafka: &Kafka, agent: &mut Agent, case: &str) {
    agent.write("a.log", &numbers(20..30));
    kafka.wait_for(30);
    agent.stop();
    assert_eq!(kafka.messages(), expected(0..30), "{case}\n{}", agent.log());
}

#[test]
fn what_is_stored_is_found_and_what_is_not_is_sent_again() {
    at_once([(Fault::NoAnswer, true), (Fault::Deaf, false)], |(fault, stored)| {
        let (kafka, mut agent) = killed(fault);
        let found = kafka.messages().len();
        assert_eq!(found > 10, stored, "{fault:?}: {found} are there");
        // What has no part in the batch may change.
        let other = "inputs: [ { id: other, paths: [ \"/nowhere/*.log\" ] }, {";
        agent.reconfigure("inputs: [ {", other);
        agent.start();
        ends_well(&kafka, &mut agent, &format!("{fault:?}"));
        let said = "sending a batch again as it was";
        assert!(agent.log().contains(said), "{fault:?}: it must say `{said}`\n{}", agent.log());
    });
}

/// A request of the killed process is carried out after its successor has looked for it: before or
/// after the successor's own, or long after.
#[test]
fn what_comes_late_is_stored_once() {
    let faults = [Fault::ReleaseBefore, Fault::ReleaseAfter, Fault::None];
    at_once(
        faults.into_iter().flat_map(|fault| [(false, fault), (true, fault)]),
        |(untold, fault)| {
            let case = format!("{fault:?}, untold: {untold}");
            let (kafka, mut agent) = killed(Fault::Hold);
            assert_eq!(kafka.held(), 1, "{case}");
            if untold {
                kafka.tell_no_old_offsets();
            }
            kafka.set_fault(fault);
            agent.start();
            kafka.wait_for(20);
            if fault == Fault::None {
                agent.write("a.log", &numbers(20..25));
                kafka.wait_for(25);
                let again = if untold { -1 } else { 10 };
                assert_eq!(kafka.release(), [Ok(again)], "{case}: it is known again");
                agent.write("a.log", &numbers(25..30));
                kafka.wait_for(30);
                agent.stop();
                assert_eq!(kafka.messages(), expected(0..30), "{case}\n{}", agent.log());
            } else {
                ends_well(&kafka, &mut agent, &case);
            }
            assert!(!agent.log().contains("stored twice"), "{case}\n{}", agent.log());
        },
    );
}

/// Several batches are in doubt, of two files, and what becomes of them differs.
#[test]
fn several_in_doubt_are_stored_once_and_in_order() {
    at_once((0..=3).flat_map(|stored| [(stored, false), (stored, true)]), |(stored, restarted)| {
        let case = format!("{stored} of 3 are stored, restarted: {restarted}");
        let kafka = Kafka::start();
        let mut agent = Agent::new(&kafka, "");
        agent.write("a.log", &numbers(0..10));
        agent.start();
        kafka.wait_for(10);
        // The leader has acknowledged one, so all three are on their way at once.
        kafka.set_fault(Fault::Hold);
        agent.write("a.log", &numbers(10..20));
        kafka.wait_for_produces(2);
        agent.write("b.log", &numbers(100..110));
        kafka.wait_for_produces(3);
        agent.write("a.log", &numbers(20..30));
        kafka.wait_for_produces(4);
        agent.kill();
        kafka.set_fault(Fault::None);
        kafka.release_first(stored);
        let late = kafka.held();
        assert_eq!(late, 3 - stored, "{case}");
        if restarted {
            kafka.restart();
        }
        // The rest arrives before the successor's first batch.
        kafka.set_fault(Fault::ReleaseBefore);
        agent.rename("a.log", "a.log.1");
        agent.start();
        agent.write("a.log", &numbers(30..40));
        agent.write("b.log", &numbers(110..120));
        kafka.wait_for(60);
        agent.stop();
        let (mut b, mut a) = (kafka.messages(), kafka.messages());
        b.retain(|line| line.len() == 3);
        a.retain(|line| line.len() < 3);
        assert_eq!(a, expected(0..40), "{case}\n{}", agent.log());
        assert_eq!(b, expected(100..120), "{case}\n{}", agent.log());
    });
}

/// All of it arrived after the look, and the broker was restarted then: it knows the last one again.
#[test]
fn a_broker_that_knows_the_last_one_only_proves_the_others() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    kafka.set_fault(Fault::Hold);
    for at in 1..=3 {
        agent.write("a.log", &numbers(at * 10..at * 10 + 10));
        kafka.wait_for_produces(at as usize + 1);
    }
    agent.kill();
    kafka.set_fault(Fault::Deaf);
    agent.start();
    kafka.wait_for_produces(5);
    assert_eq!(kafka.release(), [Ok(10), Ok(20), Ok(30)]);
    kafka.restart();
    kafka.set_fault(Fault::None);
    agent.write("a.log", &numbers(40..50));
    kafka.wait_for(50);
    agent.stop();
    assert_eq!(kafka.messages(), expected(0..50), "{}", agent.log());
    assert!(!agent.log().contains("sender stopped"), "{}", agent.log());
}

/// The producer is forgotten, and the first sequence of what is sent again is not the first of all.
#[test]
fn a_producer_that_expired_goes_on_under_its_next_epoch() {
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    at_once(cases, |(strict, stored)| {
        let case = format!("strict: {strict}, stored: {stored}");
        let (kafka, mut agent) = killed(if stored { Fault::NoAnswer } else { Fault::Deaf });
        kafka.forget_producers();
        if strict {
            kafka.be_strict();
        }
        agent.start();
        kafka.wait_for(20);
        ends_well(&kafka, &mut agent, &case);
        let stopped = agent.log().contains("sender stopped");
        assert_eq!(stopped, strict && !stored, "{case}\n{}", agent.log());
    });
}

/// The bytes do not make the same records any more, so they go out anew, under the next epoch: what
/// arrives after the first of them is kept out, and what arrives before it is told.
#[test]
fn what_cannot_be_sent_as_it_was_keeps_the_late_out() {
    at_once([Fault::ReleaseAfter, Fault::ReleaseBefore], |fault| {
        let (kafka, mut agent) = killed(Fault::Hold);
        agent.reconfigure("name: web-01", "name: web-02");
        kafka.set_fault(fault);
        // The first look needs none; the second fails twice and is tried again.
        kafka.refuse_fetches(2);
        agent.start();
        if fault == Fault::ReleaseAfter {
            ends_well(&kafka, &mut agent, "the late is kept out");
            assert_eq!(kafka.late(), [Err(ErrorCode::INVALID_PRODUCER_EPOCH)]);
            assert!(!agent.log().contains("stored twice"), "{}", agent.log());
            return;
        }
        kafka.wait_for(30);
        agent.wait_for_log("events are stored twice");
        agent.stop();
        let twice = [expected(0..20), expected(10..20)].concat();
        assert_eq!(kafka.messages(), twice, "{}", agent.log());
    });
}

/// Killed between the decision to go on under the next epoch and the first batch under it, which
/// waits for its file: the decision is remembered.
#[test]
fn the_next_epoch_is_in_the_journal_before_it_is_used() {
    let (kafka, mut agent) = killed(Fault::Hold);
    agent.reconfigure("name: web-01", "name: web-02");
    agent.rename("a.log", "../a.log");
    agent.start();
    agent.wait_for_log("sending the lines of a batch anew");
    agent.kill();
    assert_eq!(kafka.messages(), expected(0..10));
    agent.rename("../a.log", "a.log");
    kafka.set_fault(Fault::ReleaseAfter);
    agent.start();
    ends_well(&kafka, &mut agent, "after the second kill");
    assert_eq!(kafka.late(), [Err(ErrorCode::INVALID_PRODUCER_EPOCH)], "{}", agent.log());
}

/// The second look holds up neither what is sent nor the stop.
#[test]
fn a_look_that_never_works_is_waited_for_by_nobody() {
    let (kafka, mut agent) = killed(Fault::Hold);
    agent.reconfigure("name: web-01", "name: web-02");
    kafka.refuse_fetches(usize::MAX);
    agent.start();
    kafka.wait_for(20);
    agent.wait_for_log("cannot look again");
    let before = Instant::now();
    ends_well(&kafka, &mut agent, "without a second look");
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

/// Retention deleted the place where a batch in doubt would be. If the broker knows the producer
/// still, it tells; if not, nobody knows, and that is said.
#[test]
fn what_retention_deleted_is_no_proof() {
    let cases = [
        (true, false, Tells::All),
        (true, false, Tells::TooOld),
        (true, true, Tells::All),
        (false, false, Tells::All),
        (false, false, Tells::TooOld),
    ];
    at_once(cases, |(stored, forgotten, tells)| {
        let case = format!("stored: {stored}, forgotten: {forgotten}, tells: {tells:?}");
        let (kafka, mut agent) = killed(if stored { Fault::NoAnswer } else { Fault::Deaf });
        kafka.tell(tells);
        // A batch of somebody else, so that something is deleted behind what was acknowledged.
        kafka.store_foreign();
        kafka.delete_all();
        if forgotten {
            kafka.forget_producers();
        }
        agent.write("a.log", &numbers(20..30));
        agent.start();
        let again = if stored && !forgotten { 20 } else { 10 };
        kafka.wait_for((30 - again) as usize);
        agent.stop();
        let log = agent.log();
        assert_eq!(kafka.messages(), expected(again..30), "{case}\n{log}");
        let told = log.contains("events may be stored twice");
        let is_known = !forgotten && (stored || tells == Tells::All);
        assert_eq!(told, !is_known, "{case}\n{log}");
    });
}

/// The topic is deleted and made anew while a batch is in doubt: requests go to it by its name.
#[test]
fn a_topic_that_was_made_anew_is_looked_into() {
    let cases = [
        (Fault::None, false),
        (Fault::None, true),
        (Fault::ReleaseBefore, false),
        (Fault::ReleaseBefore, true),
        (Fault::ReleaseAfter, false),
    ];
    at_once(cases, |(fault, strict)| {
        let case = format!("{fault:?}, strict: {strict}");
        let (kafka, mut agent) = killed(Fault::Hold);
        kafka.recreate_topic();
        if strict {
            kafka.be_strict();
        }
        if fault == Fault::None {
            // Before the look, if it is carried out at all.
            let late = kafka.release();
            assert_eq!(late[0].is_ok(), !strict, "{case}");
        }
        kafka.set_fault(fault);
        agent.start();
        agent.write("a.log", &numbers(20..30));
        kafka.wait_for(20);
        agent.stop();
        assert_eq!(kafka.messages(), expected(10..30), "{case}\n{}", agent.log());
    });
}

/// Another cluster answers: what was on its way to the first is sent to it, under a producer that is
/// nobody else's there, and it is said that the first may have it too.
#[test]
fn another_cluster_gets_what_was_in_doubt_under_another_producer() {
    let (kafka, mut agent) = killed(Fault::NoAnswer);
    kafka.become_another_cluster();
    agent.start();
    agent.write("a.log", &numbers(20..30));
    kafka.wait_for(20);
    agent.stop();
    assert_eq!(kafka.messages(), expected(10..30), "{}", agent.log());
    assert_eq!(kafka.producers(), 2, "its own and its namesake's");
    assert!(agent.log().contains("events may be stored twice"), "{}", agent.log());
}

/// Killed again and again before anything is acknowledged: it stays the same batch.
#[test]
fn a_second_kill_changes_nothing() {
    at_once([false, true], |changed| {
        let (kafka, mut agent) = killed(Fault::Hold);
        if changed {
            agent.reconfigure("name: web-01", "name: web-02");
        }
        kafka.set_fault(Fault::Hold);
        for kills in 2..5 {
            agent.start();
            kafka.wait_for_produces(kills + 1);
            agent.kill();
        }
        assert_eq!(kafka.held(), 4);
        kafka.set_fault(Fault::ReleaseAfter);
        agent.start();
        ends_well(&kafka, &mut agent, &format!("changed: {changed}"));
        let late = kafka.late();
        let (again, stale) = (Ok(10), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
        let of_late = if changed { [stale, again, again, again] } else { [again; 4] };
        assert_eq!(late, of_late, "changed: {changed}");
    });
}
