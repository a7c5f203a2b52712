//! The shipper step by step, on files in memory and without a network: the answers are made up here.

use tailway_client::ClientConfig;
use tailway_client::machine::pipeline::{Ack, ProducerIdentity, StopReason};
use tailway_client::resolve::{How, Resolved, Standing};
use tailway_daemon::metrics::Metrics;
use tailway_daemon::{Context, Problems};
use tailway_metadata::time::WallMs;
use tailway_storage::SimDisk;

use super::*;
use crate::config::RawConfig;
use crate::machine::ledger::FileEntry;
use crate::output::topic::TopicFound;
use crate::tail::memory::MemoryFiles;

mod after_a_power_cut;
mod full_disk;
mod rotated;

/// What outlives a shipper.
struct World {
    context: Context,
    disk: SimDisk,
    files: MemoryFiles,
}

fn config(topic: &str, start: &str) -> Config {
    let yaml = format!(
        "agent: {{ name: web-01 }}\n\
         output: {{ brokers: [\"127.0.0.1:1\"], insecure: true, topic: {topic}, linger: 0ms }}\n\
         inputs: [ {{ id: i, paths: [ \"/logs/*.log\" ], start: {start} }} ]\n",
    );
    let loaded = tailway_daemon::config::load_text::<RawConfig>("agent.yaml".as_ref(), &yaml);
    let checked: Result<Config, Problems> =
        loaded.and_then(|(raw, problems)| Config::check(raw, problems));
    checked.unwrap()
}

impl World {
    fn new() -> Self {
        let clock = Clock::manual(WallMs(1_000));
        let files = MemoryFiles::new(clock.clone());
        files.create_dir_all("/logs".as_ref()).unwrap();
        Self { context: Context::new(clock), disk: SimDisk::new(), files }
    }

    /// The next run of an agent.
    fn shipper(&self, config: Config) -> Shipper {
        let disk = Arc::new(self.disk.clone());
        let (registry, _) = Registry::open(disk, "/journal".as_ref()).unwrap();
        let sender = Sender {
            name: "web-01".into(),
            id: "id".into(),
            ephemeral_id: "eph".into(),
            beat_version: "8.14.4".into(),
        };
        Shipper::new(Parts {
            config: Arc::new(config),
            sender,
            clock: self.context.clock.clone(),
            inbox: Inbox::default(),
            registry,
            source: Arc::new(self.files.clone()),
            // No broker to ask, so nobody but the test answers.
            client: Client::new(ClientConfig::new(Vec::new(), "test")),
            tasks: self.context.tasks.group("output"),
            metrics: AgentMetrics::new(&Metrics::new()),
            report: Arc::default(),
        })
    }

    /// A first run that has found its topic, and its partition to be without a past.
    fn begun(&self) -> Shipper {
        let mut shipper = self.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        topic_found(&mut shipper, "logs");
        began(&mut shipper, 1, Vec::new());
        shipper
    }

    fn append(&self, path: &str, text: &str) {
        self.files.append(path.as_ref(), text.as_bytes()).unwrap();
    }
}

fn steps(shipper: &mut Shipper) -> Step {
    (0..20).map(|_| shipper.step().unwrap()).last().unwrap()
}

fn topic_found(shipper: &mut Shipper, name: &str) {
    let found = TopicFound { cluster: "c".into(), topic_id: format!("{name}-id"), partitions: 1 };
    shipper.inbox.send(Message::Topic { name: name.into(), found });
    steps(shipper);
}

/// The link of lane 0 knows what became of the plans.
fn began(shipper: &mut Shipper, producer_id: i64, found: Vec<Option<i64>>) {
    resolved(shipper, found);
    let identity = ProducerIdentity { producer_id, producer_epoch: 0 };
    shipper.inbox.send(Message::Started { lane: 0, identity });
    steps(shipper);
}

fn resolved(shipper: &mut Shipper, found: Vec<Option<i64>>) {
    let standing = |found: Option<i64>| found.map_or(Standing::Missing, Standing::Stored);
    tell_resolved(shipper, How::Scanned(None), found.into_iter().map(standing).collect());
}

fn tell_resolved(shipper: &mut Shipper, how: How, found: Vec<Standing>) {
    let (deleted_from, usurped) = (None, false);
    let resolved = Resolved { scan_from: 0, found, how, usurped, deleted_from, looked_to: 0 };
    shipper.inbox.send(Message::Resolved { lane: 0, resolved });
    steps(shipper);
}

fn ack_all(shipper: &mut Shipper) {
    let plans: Vec<_> = shipper.registry.ledger().plans.values().cloned().collect();
    for plan in plans {
        let ack = Ack {
            base_sequence: plan.first_sequence,
            record_count: plan.last_sequence - plan.first_sequence + 1,
            base_offset: i64::from(plan.first_sequence),
            log_append_time: -1,
            leader_epoch: 0,
        };
        shipper.inbox.send(Message::Acked { lane: 0, ack });
    }
    steps(shipper);
}

/// Of each file that was ever followed: its first name, its offset.
fn offsets(shipper: &Shipper) -> Vec<(String, u64)> {
    let of = |entry: &FileEntry| (entry.origin.display().to_string(), entry.offset);
    let mut all: Vec<_> = shipper.registry.ledger().files.values().map(|entry| of(entry)).collect();
    all.sort();
    all
}

/// A first run that has read `a.log` to its end.
fn read_before(text: &str) -> World {
    let world = World::new();
    world.append("/logs/a.log", text);
    let mut shipper = world.begun();
    ack_all(&mut shipper);
    assert_eq!(offsets(&shipper), [("/logs/a.log".into(), text.len() as u64)]);
    world
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_in_the_journal_before_its_batch_is_sent_and_decides_where_to_go_on() {
    for stored in [true, false] {
        let world = World::new();
        world.append("/logs/a.log", "1\n2\n");
        let mut first = world.shipper(config("logs", "beginning"));
        first.start().unwrap();
        topic_found(&mut first, "logs");
        began(&mut first, 1, Vec::new());
        // Killed: nothing of it is left but the journal.
        drop(first);
        let mut second = world.shipper(config("logs", "beginning"));
        second.start().unwrap();
        steps(&mut second);
        assert_eq!(second.registry.ledger().plans.len(), 1);
        assert!(second.files.is_empty(), "followed although a plan of it is open");
        topic_found(&mut second, "logs");
        assert!(second.files.is_empty(), "followed although a plan of it is open");
        let before = second.registry.ledger().plans.clone();
        began(&mut second, 1, vec![stored.then_some(0)]);
        if !stored {
            assert!(second.files.is_empty(), "followed although its plan is open still");
            assert_eq!(second.registry.ledger().plans, before, "it is sent again as it was");
            ack_all(&mut second);
        }
        let file = second.files.values().next().unwrap();
        assert_eq!(file.machine.acked(), 4, "stored: {stored}");
        assert_eq!(second.registry.ledger().plans.len(), 0, "stored: {stored}");
        assert_eq!(offsets(&second), [("/logs/a.log".into(), 4)], "stored: {stored}");
    }
}

/// Plans of a run whose configuration named another topic: the old topic is asked for as well, or
/// the files would wait for its answer for ever.
#[tokio::test(start_paused = true)]
async fn what_was_sent_to_a_topic_that_no_input_names_any_more_is_resolved_too() {
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let first = world.begun();
    drop(first);
    world.append("/logs/a.log", "3\n");
    let mut second = world.shipper(config("other", "beginning"));
    second.start().unwrap();
    assert_eq!(second.topics.keys().collect::<Vec<_>>(), ["logs", "other"]);
    topic_found(&mut second, "other");
    topic_found(&mut second, "logs");
    began(&mut second, 2, vec![Some(0)]);
    assert_eq!(offsets(&second), [("/logs/a.log".into(), 4)]);
    assert_eq!(second.lanes[1].target.topic, "other");
    assert!(second.lanes[1].buffered() > 0, "the rest goes to the new topic");
}

/// A file is rotated at any moment of a start: it goes on where it was left, under either name,
/// and the new one is read from its start.
#[tokio::test(start_paused = true)]
async fn a_rotation_in_the_middle_of_a_start_is_no_reason_to_read_anew() {
    let world = read_before("1\n2\n");
    world.files.record();
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    let questions = world.files.recorded().len() as u64;
    assert!(questions > 5, "{:?}", world.files.recorded());
    for at in 0..questions {
        let world = read_before("1\n2\n");
        world.files.record();
        world.files.interleave(at, |files| {
            files.rename("/logs/a.log".as_ref(), "/logs/a.log.1".as_ref()).unwrap();
            files.append("/logs/a.log".as_ref(), b"3\n").unwrap();
        });
        let mut shipper = world.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        // Long enough for a full scan, which finds what no listing in between told of.
        for _ in 0..20 {
            steps(&mut shipper);
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        let expected = [("/logs/a.log".to_owned(), 0), ("/logs/a.log".to_owned(), 4)];
        assert_eq!(offsets(&shipper), expected, "at {at} of {:#?}", world.files.recorded());
        let read: BTreeMap<_, _> =
            shipper.files.values().map(|f| (f.path.clone(), f.machine.acked())).collect();
        let expected = [("/logs/a.log".into(), 0), ("/logs/a.log.1".into(), 4)];
        assert_eq!(read, BTreeMap::from(expected), "at {at} of {:#?}", world.files.recorded());
    }
}

/// A file that nobody has open is removed, and another one gets its name and its inode number: that
/// the listing shows the same number there does not mean that the first one is still there.
#[tokio::test(start_paused = true)]
async fn a_number_that_is_used_again_leaves_nobody_behind() {
    let world = read_before("1\n2\n");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    let age = async |shipper: &mut Shipper| {
        for _ in 0..20 {
            steps(shipper);
            tokio::time::advance(Duration::from_secs(2)).await;
        }
    };
    age(&mut shipper).await;
    let before = shipper.files.values().next().unwrap().id;
    assert_eq!(shipper.opened.len(), 0, "it is still open");
    world.files.replace("/logs/a.log".as_ref(), b"3\n").unwrap();
    age(&mut shipper).await;
    let now: Vec<_> = shipper.files.values().map(|file| file.id).collect();
    let [now] = now[..] else { panic!("{now:?} are followed") };
    assert_eq!((now.ino, now.birth_ns > before.birth_ns), (before.ino, true));
}

/// Whatever the shipper waits for, it waits: no time that has passed makes it step without end.
#[tokio::test(start_paused = true)]
async fn nothing_makes_it_spin() {
    let waits = |step: Step| matches!(step, Step::Wait(patience) if !patience.is_zero());
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    assert!(waits(steps(&mut shipper)), "without a topic");
    topic_found(&mut shipper, "logs");
    assert!(waits(steps(&mut shipper)), "without an identity");
    began(&mut shipper, 1, Vec::new());
    assert!(waits(steps(&mut shipper)), "without an answer");
    let reason =
        StopReason::DeliveryTimedOut { after: Duration::from_mins(2), cause: "away".into() };
    shipper.inbox.send(Message::Stopped { lane: 0, reason, open: Vec::new() });
    assert!(waits(steps(&mut shipper)), "before it begins again");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(waits(steps(&mut shipper)), "after it began again");

    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let mut shipper = world.begun();
    shipper.inbox.send(Message::Stop(Duration::from_mins(10)));
    tokio::time::advance(Duration::from_mins(1)).await;
    world.append("/logs/b.log", "1\n");
    assert!(waits(steps(&mut shipper)), "while it stops");
}

/// After a stop was asked for, what is written is left to the next start, so that the stop ends.
#[tokio::test(start_paused = true)]
async fn a_stop_reads_nothing_more() {
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let mut shipper = world.begun();
    shipper.inbox.send(Message::Stop(Duration::from_mins(1)));
    for _ in 0..10 {
        world.append("/logs/a.log", "3\n");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(matches!(shipper.step().unwrap(), Step::Wait(_)), "an answer is missing");
    }
    ack_all_of_first(&mut shipper);
    assert_eq!(shipper.step().unwrap(), Step::Done);
    assert_eq!(offsets(&shipper), [("/logs/a.log".into(), 4)]);
}

/// What people are told of a file: while a batch is on its way, in doubt after a kill, and when it
/// may be there twice.
#[tokio::test(start_paused = true)]
async fn the_report_says_what_is_guaranteed_and_why_if_less() {
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n3");
    let first = world.begun();
    let told = |shipper: &Shipper| {
        shipper.publish();
        let file = shipper.report.lock().unwrap()["files"][0].clone();
        let of = |keys: &[&str]| keys.iter().map(|key| file[*key].clone()).collect::<Vec<_>>();
        let numbers = of(&["size", "read", "acked", "lag", "plans_open"]);
        let numbers: Vec<_> = numbers.iter().map(|n| n.as_u64().unwrap()).collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&file["state"]), numbers, text(&file["guarantee"]), text(&file["guarantee_why"]))
    };
    let exactly = "exactly-once".to_owned();
    let state = ("waiting".to_owned(), vec![5, 4, 0, 5, 1], exactly.clone(), String::new());
    assert_eq!(told(&first), state);
    drop(first);
    let mut second = world.shipper(config("logs", "beginning"));
    second.start().unwrap();
    let state = ("in doubt".to_owned(), vec![4, 4, 0, 4, 1], exactly, String::new());
    assert_eq!(told(&second), state);
    topic_found(&mut second, "logs");
    tell_resolved(&mut second, How::Blind("no permission".into()), vec![Standing::Missing]);
    let identity = ProducerIdentity { producer_id: 1, producer_epoch: 0 };
    second.inbox.send(Message::Started { lane: 0, identity });
    ack_all(&mut second);
    let (_, numbers, guarantee, why) = told(&second);
    assert_eq!((numbers, guarantee.as_str()), (vec![5, 4, 4, 1, 0], "at-least-once"));
    assert!(why.contains("no permission"), "{why}");
}

fn ack_all_of_first(shipper: &mut Shipper) {
    let ack = Ack {
        base_sequence: 0,
        record_count: 2,
        base_offset: 0,
        log_append_time: -1,
        leader_epoch: 0,
    };
    shipper.inbox.send(Message::Acked { lane: 0, ack });
}
