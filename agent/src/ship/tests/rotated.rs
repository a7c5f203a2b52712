//! Files that are truncated, rewritten, rotated and removed, while the agent looks and while it does not.

use serde_json::json;

use super::*;
use crate::tail::memory::Watching;

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
        // Files say when they were written to.
        shipper.clock.set_wall(WallMs(shipper.clock.wall().0 + 2_000));
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

/// Something that is done to `a.log`, of which four bytes were read, and the files with what is
/// acknowledged of each after that.
struct Rotation {
    what: &'static str,
    act: fn(&MemoryFiles),
    expected: Vec<(String, u64)>,
}

fn append(files: &MemoryFiles, path: &str, text: &str) {
    files.append(path.as_ref(), text.as_bytes()).unwrap();
}

fn rename(files: &MemoryFiles, from: &str, to: &str) {
    files.rename(from.as_ref(), to.as_ref()).unwrap();
}

fn rotations() -> Vec<Rotation> {
    let act = |what, act, expected: &[(&str, u64)]| {
        let expected = expected.iter().map(|(path, acked)| at(path, *acked)).collect();
        Rotation { what, act, expected }
    };
    vec![
        act("nothing", |_| (), &[(A, 4)]),
        act(
            "written to, renamed and made anew",
            |files| {
                append(files, A, "3\n");
                rename(files, A, "/logs/a.log.1");
                append(files, A, "4\n");
            },
            &[(A, 2), ("/logs/a.log.1", 6)],
        ),
        act(
            "copied and truncated",
            |files| {
                files.copy_truncate(A.as_ref(), "/logs/a.log.1".as_ref()).unwrap();
                append(files, A, "4\n");
            },
            &[(A, 2)],
        ),
        act(
            "truncated and refilled past what was read",
            |files| {
                files.truncate(A.as_ref(), 0).unwrap();
                append(files, A, "5\n6\n7\n");
            },
            &[(A, 6)],
        ),
        act(
            "truncated and refilled to the same length",
            |files| {
                files.truncate(A.as_ref(), 0).unwrap();
                append(files, A, "5\n6\n");
            },
            &[(A, 4)],
        ),
        act(
            "removed and made anew, smaller",
            |files| files.replace(A.as_ref(), b"8\n").unwrap(),
            &[(A, 2)],
        ),
        act(
            "removed and made anew, larger",
            |files| files.replace(A.as_ref(), b"8\n9\n10\n11\n").unwrap(),
            &[(A, 10)],
        ),
        act(
            "copied to a compressed file, and removed",
            |files| {
                append(files, "/logs/a.log.1.gz", "compressed\n");
                files.remove(A.as_ref()).unwrap();
            },
            &[],
        ),
    ]
}

/// Whatever is done to a file that was read to its end, while the agent looks or while it is down,
/// and whether a watch tells of it or nothing does: what stands in it then is read once.
#[tokio::test(start_paused = true)]
async fn each_kind_of_rotation_is_known_for_what_it_is() {
    let places = [Watching::Told, Watching::Refused, Watching::Foreign];
    let cases = places.into_iter().flat_map(|watching| [(watching, false), (watching, true)]);
    for (watching, down) in cases {
        for Rotation { what, act, expected } in rotations() {
            let case = format!("{what}, {watching:?}, down: {down}");
            let world = read_before("1\n2\n");
            world.files.set_watching(watching);
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
            assert_eq!(followed(&shipper), expected, "{case}");
            // The four bytes of before, at most, are not read again.
            let read = shipper.metrics.bytes.get();
            let old = if what.contains("written to") || what == "nothing" { 4 } else { 0 };
            let there: u64 = expected.iter().map(|(_, acked)| *acked).sum();
            assert_eq!(read, there - old, "{case}");
        }
    }
}

/// Killed with a batch on its way that is not stored: its lines are sent again from the file, and where
/// that is truncated or removed meanwhile, they are lost, and that is counted.
#[tokio::test(start_paused = true)]
async fn what_was_sent_and_not_stored_is_lost_with_its_file_and_that_is_told() {
    type Act = fn(&MemoryFiles);
    let cases: [(&str, Act, u64, u64); 4] = [
        ("still there", |_| (), 0, 2),
        ("renamed", |files| rename(files, A, "/logs/a.log.1"), 0, 2),
        ("truncated", |files| files.truncate(A.as_ref(), 0).unwrap(), 4, 0),
        ("removed", |files| files.remove(A.as_ref()).unwrap(), 4, 0),
    ];
    for (what, act, lost, resent) in cases {
        let world = World::new();
        world.append(A, "1\n2\n");
        drop(world.begun());
        act(&world.files);
        let mut shipper = world.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        topic_found(&mut shipper, "logs");
        began(&mut shipper, 1, vec![None]);
        age(&mut shipper).await;
        let metrics = &shipper.metrics;
        assert_eq!(
            (metrics.bytes_lost.get(), metrics.records_acked.get()),
            (lost, resent),
            "{what}"
        );
        let of_file = shipper.files.values().map(|file| file.lost).sum::<u64>();
        assert_eq!(of_file, if what == "truncated" { lost } else { 0 }, "{what}");
    }
}

/// Nothing can be sent for ten minutes, in which a file is rotated each 100 ms, compressed and
/// removed; then the agent goes on, or is killed and started again. Each line of what is still there,
/// or was open, is stored once.
#[tokio::test(start_paused = true)]
async fn what_is_rotated_while_nothing_can_be_sent_is_read_later() {
    const ROTATIONS: usize = 60;
    for killed in [false, true] {
        let world = World::new();
        world.append(A, "0\n");
        let mut shipper = world.shipper(config("logs", "beginning"));
        shipper.start().unwrap();
        for n in 1..=ROTATIONS {
            for old in (1..n).rev() {
                let name = |n: usize| format!("/logs/a.log.{n}");
                rename(&world.files, &name(old), &name(old + 1));
            }
            rename(&world.files, A, "/logs/a.log.1");
            append(&world.files, A, &format!("{n}\n"));
            tokio::time::advance(Duration::from_millis(100)).await;
            steps(&mut shipper);
        }
        // It is open, or it could not be read any more after a kill.
        let oldest = format!("/logs/a.log.{ROTATIONS}");
        append(&world.files, &format!("{oldest}.gz"), "compressed\n");
        if !killed {
            world.files.remove(oldest.as_ref()).unwrap();
        }
        for _ in 0..600 {
            tokio::time::advance(Duration::from_secs(1)).await;
            steps(&mut shipper);
        }
        assert_eq!(shipper.files.len(), ROTATIONS + 1, "killed: {killed}");
        if killed {
            drop(shipper);
            shipper = world.shipper(config("logs", "beginning"));
            shipper.start().unwrap();
        }
        topic_found(&mut shipper, "logs");
        age(&mut shipper).await;
        assert_eq!(shipper.metrics.records_acked.get(), ROTATIONS as u64 + 1, "killed: {killed}");
        assert_eq!(shipper.metrics.bytes_lost.get(), 0, "killed: {killed}");
        // The removed one is let go, and with it its place on the disk.
        let left = ROTATIONS + usize::from(killed);
        assert_eq!((shipper.files.len(), shipper.opened.len()), (left, 0), "killed: {killed}");
    }
}

/// Two files start with the same 3 KiB; each goes on from where it was left, also when they have
/// changed their names.
#[tokio::test(start_paused = true)]
async fn files_that_start_alike_are_told_apart() {
    let alike = "the same line\n".repeat(220);
    let b = "/logs/b.log";
    let world = World::new();
    world.append(A, &alike);
    let mut shipper = world.begun();
    age(&mut shipper).await;
    world.append(b, &format!("{alike}{alike}"));
    age(&mut shipper).await;
    let len = alike.len() as u64;
    assert_eq!(followed(&shipper), [at(A, len), at(b, 2 * len)]);
    drop(shipper);
    rename(&world.files, A, "/logs/c.log");
    rename(&world.files, b, A);
    rename(&world.files, "/logs/c.log", b);
    world.append(b, "x\n");
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    assert_eq!(followed(&shipper), [at(A, 2 * len), at(b, len + 2)]);
    assert_eq!(shipper.metrics.bytes.get(), 2, "only what is new was read");
}

/// A line of 12 MiB comes in pieces of `line_size`, which leave no byte out, and what follows it is read.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_far_too_long_comes_in_pieces() {
    const LINE: usize = 12 << 20;
    let world = World::new();
    let line = "0123456789abcdef".repeat(LINE / 16) + "\nnext\n";
    world.append(A, &line);
    let mut shipper = world.begun();
    for _ in 0..20 {
        age(&mut shipper).await;
    }
    let pieces = LINE / shipper.config.inputs[0].line_bytes_max;
    assert_eq!(followed(&shipper), [at(A, line.len() as u64)]);
    assert_eq!(shipper.metrics.records_acked.get(), pieces as u64 + 1);
    assert_eq!(shipper.metrics.lines_cut.get(), pieces as u64 - 1);
}

/// Files to which nobody writes cost no descriptor and, between two full scans, no question.
#[tokio::test(start_paused = true)]
async fn idle_files_cost_nothing() {
    const FILES: usize = 20_000;
    let world = World::new();
    for n in 0..FILES {
        world.append(&format!("/logs/{n}.log"), "1\n");
    }
    let mut idle = config("logs", "end");
    idle.rescan_interval = Duration::from_hours(1);
    let mut shipper = world.shipper(idle);
    shipper.start().unwrap();
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    assert_eq!((shipper.files.len(), shipper.opened.len(), shipper.timers.len()), (FILES, 0, 0));
    world.files.record();
    age(&mut shipper).await;
    assert_eq!(world.files.recorded(), Vec::<String>::new());
    world.append("/logs/7.log", "2\n");
    age(&mut shipper).await;
    assert_eq!(shipper.metrics.lines.get(), 1, "and is read when somebody does");
}

/// The wall clock is set ten years back and forth: no file is forgotten, and none read anew.
#[tokio::test(start_paused = true)]
async fn a_step_of_the_clock_changes_nothing() {
    const YEARS: i64 = 10 * 365 * 86_400_000;
    let world = read_before("1\n2\n");
    let now = world.context.clock.wall().0;
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    topic_found(&mut shipper, "logs");
    for (step, wall) in [now + YEARS, now - YEARS, now + YEARS].into_iter().enumerate() {
        world.context.clock.set_wall(WallMs(wall));
        world.append(A, "3\n");
        age(&mut shipper).await;
        let acked = 4 + 2 * (step as u64 + 1);
        assert_eq!(followed(&shipper), [at(A, acked)], "step {step}");
    }
    drop(shipper);
    world.context.clock.set_wall(WallMs(now + 3 * YEARS));
    let mut shipper = world.shipper(config("logs", "beginning"));
    shipper.start().unwrap();
    topic_found(&mut shipper, "logs");
    age(&mut shipper).await;
    assert_eq!((followed(&shipper), shipper.metrics.bytes.get()), (vec![at(A, 10)], 0));
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
    rename(&world.files, A, "/logs/old");
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
    rename(&world.files, A, "/logs/a.log.1");
    age(&mut shipper).await;
    assert_eq!((followed(&shipper), shipper.opened.len()), (vec![at("/logs/a.log.1", 4)], 0));
    world.append("/logs/a.log.1", "3\n");
    world.files.overflow();
    age(&mut shipper).await;
    assert_eq!(followed(&shipper), [at("/logs/a.log.1", 6)]);
}
