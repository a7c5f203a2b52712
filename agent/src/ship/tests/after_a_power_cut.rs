//! The host loses its power: log files come back with less in them than was read and acknowledged,
//! and the journal with less in it than was written.

use std::path::Path;

use tailway_wire::record::Batch;

use super::*;
use crate::tail::memory::Survivor;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn boot(world: &World, id: &str) {
    let path = Path::new(BOOT_ID);
    world.files.create_dir_all(path.parent().unwrap()).unwrap();
    drop(world.files.remove(path));
    world.files.append(path, id.as_bytes()).unwrap();
}

/// Lines of ten bytes.
fn lines(word: &str, range: std::ops::Range<u32>) -> String {
    range.fold(String::new(), |text, n| text + &format!("{word} {n:04}\n"))
}

/// A first run that was cut off after it had five batches of three lines acknowledged.
fn cut_off() -> World {
    let world = World::new();
    boot(&world, "first");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    for batch in 0..5 {
        world.append("/logs/a.log", &lines("line", batch * 3..batch * 3 + 3));
        // It is not polled while the test's clock stands still.
        shipper.dirty_names.insert("/logs/a.log".into());
        shipper.dirty.insert("/logs".into());
        steps(&mut shipper);
        if batch == 0 {
            topic_found(&mut shipper, "logs");
            began(&mut shipper, 1, Vec::new());
        }
        ack_all(&mut shipper);
        assert_eq!(offsets(&shipper), [("/logs/a.log".into(), u64::from(batch + 1) * 30)]);
    }
    shipper.registry.sync().unwrap();
    world
}

/// What the second run does with the file: from where it reads on, which lines it sends, and whether
/// it says that some may come again.
fn second_life(world: &World) -> (u64, Vec<String>, bool) {
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    let file = shipper.files.values().next().unwrap();
    let (from, told) = (file.machine.acked(), file.repeated.is_some());
    steps(&mut shipper);
    topic_found(&mut shipper, "logs");
    if !shipper.lanes.is_empty() {
        began(&mut shipper, 2, Vec::new());
    }
    let mut sent = Vec::new();
    for parcel in shipper.lanes.iter_mut().flat_map(Lane::take_sent) {
        let batch = Batch::parse(&parcel.parcel.bytes).unwrap();
        for record in batch.records(1 << 20).unwrap() {
            let value = record.unwrap().value.unwrap();
            let event: Value = serde_json::from_slice(&value).unwrap();
            sent.push(event["message"].as_str().unwrap().to_owned());
        }
    }
    (from, sent, told)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_lost_its_end_is_read_on_at_what_is_proven_of_it() {
    use Survivor::{Short, Whole, Zeros};
    let old = |n: u32| format!("line {n:04}");
    let new = |n: u32| format!("next {n:04}");
    let all = |range: std::ops::Range<u32>| range.map(old).chain([new(0)]).collect::<Vec<_>>();
    for (survivor, written_on, from, sent, told) in [
        (Whole, true, 150, vec![new(0)], false),
        (Whole, false, 150, vec![], false),
        // Between two rungs: the line in between is read again, and that is said.
        (Short(130), true, 120, vec![old(12), new(0)], true),
        (Short(130), false, 120, vec![old(12)], true),
        // Nothing but what is proven: nothing comes again.
        (Short(120), false, 120, vec![], false),
        // In the middle of a line, to which the next one is joined.
        (Short(95), true, 90, vec![format!("line {}", new(0))], true),
        (Short(10), true, 0, all(0..1), true),
        // Everything in it is new.
        (Short(0), true, 0, vec![new(0)], true),
        // As long as before: zeros are no lines, and what follows them is one.
        (Zeros(130), true, 120, vec![old(12), new(0)], true),
        (Zeros(135), true, 120, vec![old(12), "line ".to_owned(), new(0)], true),
        (Zeros(0), true, 0, vec![new(0)], true),
    ] {
        let case = format!("{survivor:?}, written on: {written_on}");
        let world = cut_off();
        world.files.power_cut(|_, _, _| survivor);
        boot(&world, "second");
        if written_on {
            world.append("/logs/a.log", &lines("next", 0..1));
        }
        assert_eq!(second_life(&world), (from, sent.clone(), told), "{case}");
        // A third run on the same host finds what the second one decided.
        let mut third = world.shipper(config("logs", "beginning"));
        third.start().unwrap();
        let resumed: Vec<_> = third.files.values().map(|f| f.machine.acked()).collect();
        let in_doubt = third.registry.ledger().plans.len();
        assert_eq!((resumed.len(), in_doubt), if sent.is_empty() { (1, 0) } else { (0, 1) });
        assert!(resumed.iter().all(|at| *at == from), "{case}: {resumed:?}");
    }
}

/// Without another start of the host a file that is shorter was truncated: it is read from its start.
#[tokio::test(start_paused = true)]
async fn a_file_that_was_truncated_is_no_file_that_lost_its_end() {
    let world = cut_off();
    world.files.truncate("/logs/a.log".as_ref(), 0).unwrap();
    world.append("/logs/a.log", &lines("next", 0..1));
    assert_eq!(second_life(&world), (0, vec!["next 0000".to_owned()], false));
    // Rewritten at the start of the host: nothing of it is old.
    let world = cut_off();
    world.files.truncate("/logs/a.log".as_ref(), 0).unwrap();
    boot(&world, "second");
    world.append("/logs/a.log", &lines("next", 0..16));
    let (from, sent, told) = second_life(&world);
    assert_eq!((from, sent.len(), told), (0, 16, false));
}

/// Unacknowledged lines became zeros: they are gone, and nothing is made of them.
#[tokio::test(start_paused = true)]
async fn zeros_behind_what_was_acknowledged_are_passed_over() {
    let world = cut_off();
    world.append("/logs/a.log", &lines("lost", 0..500));
    world.files.power_cut(|_, _, _| Survivor::Zeros(150));
    boot(&world, "second");
    world.append("/logs/a.log", &lines("next", 0..1));
    assert_eq!(second_life(&world), (150, vec!["next 0000".to_owned()], false));
}

/// The journal is cut where it was synced last or later, and what it says of files holds.
#[tokio::test(start_paused = true)]
async fn a_torn_journal_goes_on_at_its_last_good_record() {
    for seed in 0..20 {
        let world = cut_off();
        let mut shipper = world.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        topic_found(&mut shipper, "logs");
        world.append("/logs/b.log", &lines("more", 0..3));
        shipper.calendar.full_scan = Mono::ZERO;
        steps(&mut shipper);
        began(&mut shipper, 2, Vec::new());
        ack_all(&mut shipper);
        let acked = offsets(&shipper);
        assert_eq!(acked, [("/logs/a.log".into(), 150), ("/logs/b.log".into(), 30)]);
        drop(shipper);
        let world = World { disk: world.disk.crash_image(seed), ..world };
        boot(&world, "second");
        let mut again = world.shipper(config("logs", "beginning"));
        again.start().unwrap();
        assert!(again.repeated.is_some(), "seed {seed}: nobody stopped it");
        let known = offsets(&again);
        assert_eq!(known[0], ("/logs/a.log".to_owned(), 150), "seed {seed}");
        assert!(known[1].1 == 0 || known[1].1 == 30, "seed {seed}: {known:?}");
    }
}

/// A run that came to its end left nothing to be said.
#[tokio::test(start_paused = true)]
async fn a_host_that_was_stopped_in_order_lost_nothing() {
    let world = cut_off();
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    shipper.inbox.send(Message::Stop(Duration::from_mins(1)));
    assert_eq!(shipper.step().unwrap(), Step::Done);
    drop(shipper);
    boot(&world, "second");
    let mut again = world.shipper(config("logs", "beginning"));
    again.start().unwrap();
    assert_eq!(again.repeated, None);
    assert_eq!(offsets(&again), [("/logs/a.log".into(), 150)]);
}
