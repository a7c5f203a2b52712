//! How it is found out what became of a batch in doubt: the leader tells of its producers, or the
//! partition is read, or neither is allowed. Each line is there once, or it is said that it may not be.

use tailway_wire::error_code::ErrorCode;

use super::after_a_kill::{ends_well, killed};
use super::common::kafka::{Fault, Kafka, Tells};
use super::common::{Agent, at_once, numbers};
use super::expected;

/// What a case makes of the time between the two lives of an agent.
#[derive(Debug, Clone, Copy)]
struct Between {
    stored: bool,
    tells: Tells,
    forgotten: bool,
    /// The configuration makes other events of the lines now.
    changed: bool,
}

#[test]
fn whoever_tells_and_whatever_changed_each_line_is_there_once() {
    let cases = (0..8).flat_map(|bits| [(Tells::All, bits), (Tells::TooOld, bits)]);
    at_once(cases, |(tells, bits)| {
        let [stored, forgotten, changed] = [1, 2, 4].map(|bit| bits & bit != 0);
        let between = Between { stored, tells, forgotten, changed };
        let (kafka, mut agent) = killed(if stored { Fault::NoAnswer } else { Fault::Deaf });
        kafka.tell(tells);
        if forgotten {
            kafka.forget_producers();
        }
        if changed {
            agent.reconfigure("name: web-01", "name: web-02");
        }
        agent.start();
        ends_well(&kafka, &mut agent, &format!("{between:?}"));
        says_how(&kafka, &agent, between);
    });
}

fn says_how(kafka: &Kafka, agent: &Agent, between: Between) {
    let Between { stored, tells, forgotten, changed } = between;
    let log = agent.log();
    // What the leader has need not be read, unless it cannot be sent again as it was: then it must
    // be known that it is committed.
    let is_told = tells == Tells::All && !forgotten && !(stored && changed);
    if is_told && stored {
        assert_eq!(kafka.fetches(), 0, "{between:?}\n{log}");
    }
    let said = match (is_told, stored, changed) {
        (true, _, false) | (false, false, false) => "sending a batch again as it was",
        (_, false, true) => "sending the lines of a batch anew",
        (_, true, _) => "a batch in doubt is stored",
    };
    assert!(log.contains(said), "{between:?}: it must say `{said}`\n{log}");
    let why = match tells {
        Tells::TooOld => "serves DescribeProducers not at all",
        _ if forgotten => "its leader remembers nothing of them",
        _ => "the leader told",
    };
    assert!(log.contains(why), "{between:?}: it must say `{why}`\n{log}");
    assert!(!log.contains("stored twice"), "{between:?}\n{log}");
}

/// Nothing may be asked and nothing read: a broker that remembers the producer keeps each line once,
/// but nobody can know that it did.
#[test]
fn without_any_permission_it_is_said_that_lines_may_be_there_twice() {
    at_once([true, false], |stored| {
        let (kafka, mut agent) = killed(if stored { Fault::NoAnswer } else { Fault::Deaf });
        kafka.tell(Tells::NoPermission);
        agent.start();
        kafka.wait_for(20);
        agent.wait_for_log("events may be stored twice");
        ends_well(&kafka, &mut agent, &format!("stored: {stored}"));
        let log = agent.log();
        assert!(log.contains("give this client's principal the right"), "stored: {stored}\n{log}");
    });
}

/// The leader has the batch and its replicas do not: it counts only once it is committed, and after a
/// failover it is not there at all.
#[test]
fn what_is_appended_and_not_committed_is_not_counted_on() {
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    at_once(cases, |(failed_over, changed)| {
        let case = format!("failed over: {failed_over}, changed: {changed}");
        let kafka = Kafka::start();
        let mut agent = Agent::new(&kafka, "");
        agent.write("a.log", &numbers(0..10));
        agent.start();
        kafka.wait_for(10);
        kafka.commit_no_more();
        agent.write("a.log", &numbers(10..20));
        kafka.wait_for(20);
        agent.kill();
        if changed {
            agent.reconfigure("name: web-01", "name: web-02");
        }
        agent.start();
        if changed {
            agent.wait_for_log("a batch in doubt that its replicas do not have yet");
        } else {
            kafka.wait_for_produces(3);
        }
        if failed_over {
            kafka.fail_over();
        } else {
            kafka.commit_all();
        }
        ends_well(&kafka, &mut agent, &case);
        assert!(!agent.log().contains("stored twice"), "{case}\n{}", agent.log());
    });
}

/// The request of the killed process is carried out after the leader was asked, and the producer is
/// forgotten before the batch is sent again: nobody can prevent that, but it is found and told.
#[test]
fn a_producer_that_is_forgotten_in_between_is_told_of() {
    at_once([Tells::All, Tells::TooOld], |tells| {
        let (kafka, mut agent) = killed(Fault::Hold);
        kafka.tell(tells);
        kafka.set_fault(Fault::ReleaseAndForget);
        agent.start();
        kafka.wait_for(30);
        agent.wait_for_log("events are stored twice");
        agent.stop();
        let twice = [expected(0..20), expected(10..20)].concat();
        assert_eq!(kafka.messages(), twice, "{tells:?}\n{}", agent.log());
    });
}

/// Each error after which nobody may send again blindly: the batch is stored all the same, or not.
#[test]
fn a_refused_batch_is_looked_for() {
    let codes = [
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::UNKNOWN_PRODUCER_ID,
    ];
    at_once(codes.into_iter().flat_map(|code| [(code, true), (code, false)]), |(code, stored)| {
        let case = format!("{code}, stored: {stored}");
        let kafka = Kafka::start();
        let mut agent = Agent::new(&kafka, "");
        agent.write("a.log", &numbers(0..10));
        agent.start();
        kafka.wait_for(10);
        kafka.set_fault(if stored { Fault::StoreAndRefuse(code) } else { Fault::Refuse(code) });
        agent.write("a.log", &numbers(10..20));
        agent.wait_for_log("a partition's sender stopped");
        kafka.set_fault(Fault::None);
        ends_well(&kafka, &mut agent, &case);
        let said =
            if stored { "a batch in doubt is stored" } else { "a batch in doubt is not stored" };
        assert!(agent.log().contains(said), "{case}\n{}", agent.log());
    });
}

/// The agent's directory was copied: whoever has the other copy may go on under the same producer,
/// so this one looks, and sends under another.
#[test]
fn a_copied_journal_sends_nothing_under_its_old_producer() {
    let cases = [Tells::All, Tells::TooOld].into_iter();
    at_once(cases.flat_map(|tells| [(tells, true), (tells, false)]), |(tells, stored)| {
        let case = format!("{tells:?}, stored: {stored}");
        let (kafka, mut agent) = killed(if stored { Fault::NoAnswer } else { Fault::Deaf });
        kafka.tell(tells);
        agent.copy_data();
        agent.start();
        ends_well(&kafka, &mut agent, &case);
        let log = agent.log();
        assert!(log.contains("the journal is a copy"), "{case}\n{log}");
        assert!(log.contains("the partition was read"), "{case}\n{log}");
        assert_eq!(kafka.producers(), 2, "{case}\n{log}");
        assert!(!log.contains("stored twice"), "{case}\n{log}");
    });
}

/// Other lines are in the partition under the producer and sequences of the batch in doubt, so sent
/// again as it was it would be taken for them, and be lost.
#[test]
fn a_batch_of_somebody_else_is_not_taken_for_ours() {
    let (kafka, mut agent) = killed(Fault::Hold);
    kafka.tell(Tells::TooOld);
    kafka.usurp();
    agent.start();
    agent.write("a.log", &numbers(20..30));
    kafka.wait_for(40);
    agent.stop();
    let log = agent.log();
    let theirs = vec!["theirs".to_owned(); 10];
    let all = [expected(0..10), theirs, expected(10..30)].concat();
    assert_eq!(kafka.messages(), all, "{log}");
    assert!(log.contains("somebody else sends under this agent's producer"), "{log}");
    assert_eq!(kafka.producers(), 2, "{log}");
}
