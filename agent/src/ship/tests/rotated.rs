//! Files that are truncated, rewritten, rotated and removed, while the agent looks and while it does not.

use serde_json::json;

use super::*;

const A: &str = "/logs/a.log";

/// So long that every calendar has come round; whatever is sent is acknowledged.
async fn age(shipper: &mut Shipper) {
    for _ in 0..40 {
        steps(shipper);
        if shipper.lanes.first().is_some_and(|lane| !lane.is_flowing()) {
            began(shipper, 1, Vec::new());
        }
        ack_all(shipper);
        tokio::time::advance(Duration::from_secs(2)).await;
    }
}

/// Where each file is, and what of it is acknowledged.
fn followed(shipper: &Shipper) -> Vec<(String, u64)> {
    let of = |file: &Followed| (file.path.display().to_string(), file.machine.acked());
    let mut all: Vec<_> = shipper.files.values().map(of).collect();
    all.sort();
    all
}

fn at(path: &str, acked: u64) -> (String, u64) {
    (path.to_owned(), acked)
}

/// Nothing can be read, because there is no topic yet; what is truncated away meanwhile is lost, and
/// that is counted, of this file and in all.
#[tokio::test(start_paused = true)]
async fn what_is_truncated_away_unread_is_counted_and_told() {
    let world = World::new();
    world.append(A, "1\n2\n");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    age(&mut shipper).await;
    world.files.copy_truncate(A.as_ref(), "/logs/a.log.1".as_ref()).unwrap();
    age(&mut shipper).await;
    world.append(A, "3\n");
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    shipper.publish();
    let report = shipper.report.lock().unwrap().clone();
    assert_eq!((&report["bytes_lost"], &report["files"][0]["lost"]), (&json!(4), &json!(4)));
    assert_eq!(shipper.metrics.bytes_lost.get(), 4);
    assert_eq!(followed(&shipper), [at(A, 2)], "what came then is read");
}

/// Whatever is done to a file that was read to its end, while the agent looks or while it is down:
/// what stands in it then is read once, from where it must be.
#[tokio::test(start_paused = true)]
async fn each_kind_of_rotation_is_known_for_what_it_is() {
    type Act = fn(&MemoryFiles);
    // What is done, and the files with what is acknowledged of each after that. The first four bytes
    // were read before.
    let acts: [(&str, Act, Vec<(String, u64)>); 7] = [
        ("nothing", |_| (), vec![at(A, 4)]),
        (
            "renamed and made anew",
            |files| {
                files.append(A.as_ref(), b"3\n").unwrap();
                files.rename(A.as_ref(), "/logs/a.log.1".as_ref()).unwrap();
                files.append(A.as_ref(), b"4\n").unwrap();
            },
            vec![at(A, 2), at("/logs/a.log.1", 6)],
        ),
        (
            "copied and truncated",
            |files| {
                files.copy_truncate(A.as_ref(), "/logs/a.log.1".as_ref()).unwrap();
                files.append(A.as_ref(), b"4\n").unwrap();
            },
            vec![at(A, 2)],
        ),
        (
            "truncated and refilled past what was read",
            |files| {
                files.truncate(A.as_ref(), 0).unwrap();
                files.append(A.as_ref(), b"5\n6\n7\n").unwrap();
            },
            vec![at(A, 6)],
        ),
        (
            "truncated and refilled to the same length",
            |files| {
                files.truncate(A.as_ref(), 0).unwrap();
                files.append(A.as_ref(), b"5\n6\n").unwrap();
            },
            vec![at(A, 4)],
        ),
        (
            "removed and made anew, smaller",
            |files| files.replace(A.as_ref(), b"8\n").unwrap(),
            vec![at(A, 2)],
        ),
        (
            "removed and made anew, larger",
            |files| files.replace(A.as_ref(), b"8\n9\n10\n11\n").unwrap(),
            vec![at(A, 10)],
        ),
    ];
    for (what, act, expected) in acts {
        for down in [false, true] {
            let world = read_before("1\n2\n");
            let begin = || {
                let mut shipper = world.shipper(config("logs", "beginning"));
                shipper.start().unwrap();
                topic_found(&mut shipper, "logs");
                shipper
            };
            let mut shipper = begin();
            age(&mut shipper).await;
            if down {
                drop(shipper);
                act(&world.files);
                shipper = begin();
            } else {
                act(&world.files);
            }
            age(&mut shipper).await;
            assert_eq!(followed(&shipper), expected, "{what}, down: {down}");
            let lines = shipper.metrics.records_acked.get();
            let old = expected.iter().map(|(_, acked)| *acked).sum::<u64>();
            assert!(lines * 2 <= old + 2, "{what}, down: {down}: {lines} lines of {old} bytes");
        }
    }
}

/// A file is left unread when the agent stops, and is then renamed to where no pattern looks: the
/// first scan of the next start finds it by its inode, also among many that are not there any more.
#[tokio::test(start_paused = true)]
async fn a_start_finds_what_was_renamed_out_of_sight_at_once() {
    let world = read_before("1\n2\n");
    {
        let mut shipper = world.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        for n in 0..200 {
            world.append(&format!("/logs/{n}.log"), "x\n");
        }
        age(&mut shipper).await;
        assert_eq!(shipper.files.len(), 201);
    }
    for n in 0..200 {
        world.files.remove(format!("/logs/{n}.log").as_ref()).unwrap();
    }
    world.append(A, "3\n");
    world.files.rename(A.as_ref(), "/logs/old".as_ref()).unwrap();
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    assert_eq!(followed(&shipper), [at("/logs/old", 4)], "by the first scan");
    // Those that are gone are remembered for a while, in case they come back, and then no more.
    assert_eq!(shipper.registry.ledger().files.len(), 201);
    let clock = &world.context.clock;
    clock.set_wall(WallMs(clock.wall().0 + 1_000 * 86_400_000));
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    age(&mut shipper).await;
    assert_eq!(followed(&shipper), [at("/logs/old", 6)]);
    assert_eq!(shipper.registry.ledger().files.len(), 1);
}

/// The kernel's queue overflows while a line is written to a file that was rotated and is idle: no
/// pattern takes its name, so only a scan that looks at such files finds it.
#[tokio::test(start_paused = true)]
async fn what_no_watch_told_of_a_rotated_file_is_read_all_the_same() {
    let world = read_before("1\n2\n");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    world.files.rename(A.as_ref(), "/logs/a.log.1".as_ref()).unwrap();
    age(&mut shipper).await;
    assert_eq!((followed(&shipper), shipper.opened.len()), (vec![at("/logs/a.log.1", 4)], 0));
    world.append("/logs/a.log.1", "3\n");
    world.files.overflow();
    age(&mut shipper).await;
    assert_eq!(followed(&shipper), [at("/logs/a.log.1", 6)]);
}
