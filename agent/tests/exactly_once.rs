//! Each line once and in order, whatever happens to the files, the agent and the broker.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

#[path = "exactly_once/after_a_kill.rs"]
mod after_a_kill;
#[path = "exactly_once/asked_or_looked_for.rs"]
mod asked_or_looked_for;
mod common;
#[path = "exactly_once/in_doubt_for_long.rs"]
mod in_doubt_for_long;

use common::kafka::{Fault, Kafka};
use common::{Agent, at_once, numbers};

fn expected(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_key(|line| line.parse::<u32>().unwrap());
    lines
}

#[test]
fn a_restart_neither_loses_nor_repeats() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    let mut end = 0;
    for _ in 0..4 {
        agent.write("a.log", &numbers(end..end + 50));
        agent.start();
        agent.write("a.log", &numbers(end + 50..end + 100));
        end += 100;
        kafka.wait_for(end as usize);
        agent.stop();
    }
    assert_eq!(kafka.messages(), expected(0..end));
    let loud = agent.log().lines().filter(|line| line.contains("sent in PLAINTEXT")).count();
    assert_eq!(loud, 4, "insecure: true is said at each start: {}", agent.log());
}

#[test]
fn a_rotated_file_is_read_to_its_end_also_when_nobody_watched() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    // While it runs.
    agent.write("a.log", &numbers(10..20));
    agent.rename("a.log", "a.log.1");
    agent.write("a.log", &numbers(20..30));
    kafka.wait_for(30);
    agent.stop();
    // While it does not: one file goes on under another name, one comes and goes unseen.
    agent.write("a.log", &numbers(30..40));
    agent.rename("a.log.1", "a.log.3");
    agent.rename("a.log", "a.log.2");
    agent.write("a.log", &numbers(40..50));
    agent.rename("a.log", "a.log.1");
    agent.write("a.log", &numbers(50..60));
    agent.start();
    kafka.wait_for(60);
    agent.write("a.log.2", &numbers(60..61));
    kafka.wait_for(61);
    agent.stop();
    assert_eq!(sorted(kafka.messages()), expected(0..61), "{}", agent.log());
}

#[test]
fn a_truncated_file_is_read_from_its_start() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    // Shorter; then as long as before, with other bytes.
    std::fs::write(agent.path("a.log"), "10\n").unwrap();
    kafka.wait_for(11);
    std::fs::write(agent.path("a.log"), "11\n").unwrap();
    kafka.wait_for(12);
    agent.stop();
    std::fs::write(agent.path("a.log"), "12\n").unwrap();
    agent.start();
    kafka.wait_for(13);
    agent.stop();
    assert_eq!(kafka.messages(), expected(0..13), "{}", agent.log());
}

#[test]
fn a_deleted_file_is_read_to_its_end() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.start();
    let mut file = std::fs::File::create(agent.path("a.log")).unwrap();
    std::io::Write::write_all(&mut file, b"0\n").unwrap();
    kafka.wait_for(1);
    std::fs::remove_file(agent.path("a.log")).unwrap();
    std::io::Write::write_all(&mut file, b"1\n").unwrap();
    kafka.wait_for(2);
    agent.write("a.log", "2\n");
    kafka.wait_for(3);
    agent.stop();
    assert_eq!(kafka.messages(), expected(0..3), "{}", agent.log());
}

/// A backlog of some seconds, in which a file is rotated more often than anybody looks, and rotated
/// files are compressed and removed: what was open is read, and what is compressed is not taken for new.
#[test]
fn fast_rotation_and_a_backlog_lose_nothing() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    kafka.set_fault(Fault::Deaf);
    for n in 1..=60 {
        agent.write("a.log", &numbers(n * 10..n * 10 + 5));
        agent.rename("a.log", &format!("a.log.{n}"));
        agent.write("a.log", &numbers(n * 10 + 5..n * 10 + 10));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // Found and open by now, and not read: the first of them, as `logrotate` with `compress` does it.
    agent.write("a.log.1.gz", "compressed\n");
    std::fs::remove_file(agent.path("a.log.1")).unwrap();
    kafka.set_fault(Fault::None);
    kafka.wait_for(610);
    agent.stop();
    assert_eq!(sorted(kafka.messages()), expected(0..610), "{}", agent.log());
}

/// `copytruncate` under a writer that never rests: what nobody had read is lost, as it must be, but no
/// line comes twice, out of order, or in pieces.
#[test]
fn copytruncate_under_load_repeats_and_tears_nothing() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.start();
    let path = agent.path("a.log");
    let mut n = 0;
    for rotation in 0..30 {
        for _ in 0..40 {
            agent.write("a.log", &numbers(n..n + 25));
            n += 25;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::fs::copy(&path, agent.path(&format!("a.log.{rotation}"))).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    }
    agent.write("a.log", "30000\n");
    let last = |lines: &[String]| lines.last().is_some_and(|line| line == "30000");
    let until = tokio::time::Instant::now() + common::PATIENCE;
    while !last(&kafka.messages()) {
        assert!(tokio::time::Instant::now() < until, "{}", agent.log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    agent.stop();
    let seen: Vec<u32> = kafka.messages().iter().map(|line| line.parse().unwrap()).collect();
    assert!(seen.is_sorted_by(|a, b| a < b), "{}", agent.log());
    assert!(seen.len() > 3_000, "{} of {n} lines", seen.len());
}

#[test]
fn an_ack_that_got_lost_is_made_up_for() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.reconfigure("request_timeout: 2s", "request_timeout: 500ms");
    agent.start();
    kafka.set_fault(Fault::NoAnswer);
    agent.write("a.log", &numbers(0..10));
    kafka.wait_for(10);
    // The first attempt times out; the second is recognised as a duplicate.
    kafka.wait_for_produces(2);
    kafka.set_fault(Fault::None);
    agent.write("a.log", &numbers(10..20));
    kafka.wait_for(20);
    agent.stop();
    assert_eq!(kafka.messages(), expected(0..20), "{}", agent.log());
}

/// The topic is deleted and made anew under a running agent, with a batch on its way: by a broker
/// that takes any first sequence of a producer, and by one that does not.
#[test]
fn a_topic_that_is_made_anew_gets_what_was_on_its_way() {
    at_once([false, true], |strict| {
        let kafka = Kafka::start();
        let mut agent = Agent::new(&kafka, "");
        agent.reconfigure("request_timeout: 2s", "request_timeout: 500ms");
        agent.write("a.log", &numbers(0..10));
        agent.start();
        kafka.wait_for(10);
        kafka.set_fault(Fault::Deaf);
        agent.write("a.log", &numbers(10..20));
        kafka.wait_for_produces(2);
        kafka.recreate_topic();
        if strict {
            kafka.be_strict();
        }
        kafka.set_fault(Fault::None);
        kafka.wait_for(10);
        agent.write("a.log", &numbers(20..30));
        kafka.wait_for(20);
        agent.write("b.log", &numbers(30..40));
        kafka.wait_for(30);
        let moved = agent.log().contains("the topic is another one of its name now");
        assert!(moved || !strict, "{}", agent.log());
        // The next process finds its way as well.
        kafka.set_fault(Fault::NoAnswer);
        agent.write("a.log", &numbers(40..50));
        kafka.wait_for(40);
        agent.kill();
        kafka.set_fault(Fault::None);
        agent.start();
        agent.write("a.log", &numbers(50..60));
        kafka.wait_for(50);
        agent.stop();
        assert_eq!(kafka.messages(), expected(10..60), "strict: {strict}\n{}", agent.log());
    });
}

/// Text that does not compress: pseudo-random letters, so many at a time.
fn letters() -> impl FnMut(usize) -> String {
    let mut seed = 1_u64;
    let mut letter = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + u8::try_from((seed >> 40) % 90).unwrap())
    };
    move |n| (0..n).map(|_| letter()).collect()
}

/// A backlog meets a broker that takes small batches only: each size is tried once, not once for each
/// batch, and what comes then is not smaller than it must be.
#[test]
fn how_much_a_broker_takes_is_found_out_once() {
    const LINES: u32 = 20_000;
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    kafka.set_fault(Fault::SizeMax(4_096));
    let mut letters = letters();
    let lines: Vec<String> = (0..LINES).map(|n| format!("{n} {}", letters(50))).collect();
    agent.write("a.log", &(lines.join("\n") + "\n"));
    agent.start();
    kafka.wait_for_end(i64::from(LINES));
    agent.stop();
    assert_eq!(kafka.messages(), lines, "{}", agent.log());
    let (requests, batches) = kafka.produced();
    let stored = LINES as usize / batches;
    println!("{requests} requests, {batches} batches of {stored} lines");
    assert!(requests - batches <= 60, "{} of {requests} were refused", requests - batches);
    assert!(stored >= 20, "{stored} lines a batch, and twice as many fit");
}

/// Killed with batches on their way that the broker does not take any more: sent again as they were they
/// are refused, and then their lines are read again and go out in batches that it takes.
#[test]
fn what_is_in_doubt_and_too_large_by_now_goes_out_in_smaller_batches() {
    const LINES: u32 = 20_000;
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    let mut letters = letters();
    let lines: Vec<String> = (0..LINES).map(|n| format!("{n} {}", letters(50))).collect();
    kafka.set_fault(Fault::Deaf);
    agent.write("a.log", &(lines.join("\n") + "\n"));
    agent.start();
    kafka.wait_for_produces(1);
    agent.kill();
    kafka.set_fault(Fault::SizeMax(4_096));
    agent.start();
    kafka.wait_for_end(i64::from(LINES));
    agent.stop();
    assert_eq!(kafka.messages(), lines, "{}", agent.log());
    let (requests, batches) = kafka.produced();
    assert!(requests - batches <= 60, "{} of {requests} were refused", requests - batches);
    assert!(!agent.log().contains("stored twice"), "{}", agent.log());
}

#[test]
fn what_is_too_large_is_split_and_at_last_cut() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, ", format: ecs");
    kafka.set_fault(Fault::SizeMax(1_500));
    let mut letters = letters();
    let mut lines: Vec<String> = (0..20).map(|_| letters(200)).collect();
    lines.push(letters(4_000));
    agent.write("a.log", &(lines.join("\n") + "\n"));
    agent.start();
    let whole = lines.concat();
    let mut n = lines.len();
    while kafka.wait_for(n).concat().len() < whole.len() {
        n += 1;
    }
    agent.stop();
    let messages = kafka.messages();
    assert_eq!(messages.concat(), whole, "{}", agent.log());
    assert_eq!(messages[..20], lines[..20]);
    assert!(messages.len() > 22, "the long line came in {} pieces", messages.len() - 20);
}

#[test]
fn the_first_record_of_a_batch_says_where_it_came_from() {
    let kafka = Kafka::start();
    let mut agent = Agent::new(&kafka, "");
    agent.write("a.log", &numbers(0..10));
    agent.start();
    kafka.wait_for(10);
    agent.stop();
    let origins = kafka.batch_headers("tailway.origin");
    let [origin] = &origins[..] else { panic!("{origins:?}") };
    let (generation, range) = origin.split_once(':').unwrap();
    assert_eq!((generation.len(), range), (32, "0-20"));
}
