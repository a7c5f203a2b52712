//! The disk under the journal is full, or fails: nothing new is sent, and all goes on by itself.

use std::io::ErrorKind;

use tailway_storage::Operation;

use super::*;

/// What is in the report, under a key.
fn reported(shipper: &Shipper, key: &str) -> Value {
    shipper.report.lock().unwrap()[key].clone()
}

/// Lets a second pass, in steps, in which the shipper reads, syncs and tries again. Whether the
/// journal was behind.
async fn pass_a_second(shipper: &mut Shipper) -> bool {
    let mut was_behind = false;
    for _ in 0..10 {
        tokio::time::advance(Duration::from_millis(110)).await;
        steps(shipper);
        // A sync runs on another thread.
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(2)).await;
        tokio::time::pause();
        shipper.step().unwrap();
        was_behind |= shipper.registry.trouble().is_some();
        steps(shipper);
    }
    was_behind
}

fn sent(shipper: &Shipper) -> u64 {
    shipper.metrics.batches_sent.get()
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_room_and_goes_on_by_itself() {
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let mut shipper = world.begun();
    ack_all(&mut shipper);
    assert_eq!(sent(&shipper), 1);
    world.disk.set_capacity(Some(shipper.registry.bytes()));
    world.append("/logs/a.log", "3\n4\n");
    pass_a_second(&mut shipper).await;
    assert_eq!((sent(&shipper), shipper.registry.ledger().plans.len()), (1, 0));
    let trouble = reported(&shipper, "journal_trouble");
    assert!(trouble.as_str().unwrap().contains("cannot be written"), "{trouble}");
    let step = steps(&mut shipper);
    assert!(matches!(step, Step::Wait(patience) if !patience.is_zero()), "{step:?}");
    world.append("/logs/a.log", "5\n");
    pass_a_second(&mut shipper).await;
    assert_eq!(sent(&shipper), 1, "there is no room yet");

    world.disk.set_capacity(None);
    pass_a_second(&mut shipper).await;
    assert_eq!(reported(&shipper, "journal_trouble"), Value::Null);
    ack_all(&mut shipper);
    pass_a_second(&mut shipper).await;
    ack_all(&mut shipper);
    assert_eq!(offsets(&shipper), [("/logs/a.log".into(), 10)]);
    // What it remembers is on the disk.
    drop(shipper);
    let mut again = world.shipper(config("logs", "beginning"));
    again.start().unwrap();
    assert_eq!(offsets(&again), [("/logs/a.log".into(), 10)]);
    assert_eq!(again.registry.ledger().plans.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_file_and_not_the_agent() {
    let world = World::new();
    world.append("/logs/a.log", "1\n2\n");
    let mut shipper = world.begun();
    world.disk.fail(Operation::SyncData, 1, ErrorKind::Other);
    // Two in a row: also the first try to write it anew fails.
    world.disk.fail(Operation::SyncData, 2, ErrorKind::Other);
    let mut was_behind = false;
    for _ in 0..3 {
        was_behind |= pass_a_second(&mut shipper).await;
    }
    assert!(was_behind);
    assert_eq!(reported(&shipper, "journal_trouble"), Value::Null);
    ack_all(&mut shipper);
    world.append("/logs/a.log", "3\n");
    pass_a_second(&mut shipper).await;
    ack_all(&mut shipper);
    assert_eq!(offsets(&shipper), [("/logs/a.log".into(), 6)]);
    shipper.registry.sync().unwrap();
    let world = World { disk: world.disk.crash_image(3), ..world };
    let mut again = world.shipper(config("logs", "beginning"));
    again.start().unwrap();
    assert_eq!(offsets(&again), [("/logs/a.log".into(), 6)]);
}
