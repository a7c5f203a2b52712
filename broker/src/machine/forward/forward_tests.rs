//! The cursor, event by event.

use std::time::Duration;

use super::*;

const OFFSET: i64 = 10;

fn options() -> Options {
    Options {
        window: 1_000,
        buffer_bytes: 1_000,
        batch_bytes: 100,
        batch_records: 3,
        in_flight_max: 2,
        is_ordered: false,
        looks_up: true,
        rejects_in_a_row_max: 4,
        commit_interval: Duration::from_secs(1),
        backoff_first: Duration::from_millis(100),
        backoff_cap: Duration::from_secs(10),
    }
}

struct Bench {
    cursor: Cursor,
    now: Mono,
}

impl Bench {
    fn new(options: Options, doubtful_below: i64) -> Self {
        Self { cursor: Cursor::new(options, OFFSET, doubtful_below, 7), now: Mono::from_millis(5) }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.cursor.on_event(event, self.now, &mut out);
        self.cursor.check();
        out
    }

    /// Reads `count` records of 10 bytes from where it stands.
    fn read(&mut self, count: i64) -> Vec<Action> {
        let from = self.cursor.next;
        let records = (from..from + count).map(|offset| Taken { offset, bytes: 10 }).collect();
        self.tell(Event::Read { records, next: from + count })
    }

    fn sent(&mut self, batch: u64, items: Vec<Item>) -> Vec<Action> {
        self.tell(Event::Sent { batch: BatchId(batch), outcome: Ok(items) })
    }

    fn failed(&mut self, batch: u64, failure: Failure) -> Vec<Action> {
        self.tell(Event::Sent { batch: BatchId(batch), outcome: Err(failure) })
    }

    fn wait(&mut self) -> Vec<Action> {
        self.now = self.cursor.deadline().expect("something to wait for").max(self.now);
        self.tell(Event::Tick)
    }
}

fn send(batch: u64, offsets: impl IntoIterator<Item = i64>) -> Action {
    Action::Send { batch: BatchId(batch), offsets: offsets.into_iter().collect() }
}

fn look_up(batch: u64, offsets: impl IntoIterator<Item = i64>) -> Action {
    Action::LookUp { batch: BatchId(batch), offsets: offsets.into_iter().collect() }
}

fn read(from: i64) -> Action {
    Action::Read { from }
}

fn rejected() -> Item {
    Item::Rejected(rejection())
}

fn rejection() -> Arc<Rejection> {
    Arc::new(Rejection { status: 400, kind: "mapper".into(), reason: "no number".into() })
}

fn pause(kind: PauseKind) -> Pause {
    Pause { kind, cause: "said so".into() }
}

#[test]
fn an_offset_is_committed_when_everything_below_is_delivered() {
    let mut bench = Bench::new(options(), 0);
    assert_eq!(bench.tell(Event::Tick), [read(10)]);
    assert_eq!(bench.read(6), [send(0, 10..13), send(1, 13..16), read(16)]);
    // The second request is answered first: nothing below it is done.
    assert_eq!(bench.sent(1, vec![Item::Done; 3]), []);
    assert_eq!(bench.cursor.deadline(), None);
    assert_eq!(
        bench.sent(0, vec![Item::Done; 3]),
        [Action::Forget { below: 16 }, Action::Commit { offset: 16 }]
    );
    assert_eq!(bench.tell(Event::Committed { durable: false }), []);
    assert_eq!(bench.cursor.committed(), 10);
    assert_eq!(bench.wait(), [Action::Commit { offset: 16 }], "again, a second later");
    assert_eq!(bench.tell(Event::Committed { durable: true }), []);
    assert_eq!((bench.cursor.committed(), bench.cursor.is_settled()), (16, true));
    let tally = Tally { delivered: 6, ..Tally::default() };
    assert_eq!(bench.cursor.tally(), tally);
}

#[test]
fn what_the_sink_had_no_room_for_is_sent_again_and_nothing_else_is() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    let items = vec![Item::Done, Item::Again { doubtful: false }, Item::Done];
    assert_eq!(bench.sent(0, items), [Action::Forget { below: 11 }, Action::Commit { offset: 11 }]);
    assert_eq!(bench.wait(), [send(1, [11])]);
    let wait = bench.now.since(Mono::from_millis(5));
    assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_millis(100), "{wait:?}");
    assert_eq!(bench.sent(1, vec![Item::Done]), [Action::Forget { below: 13 }]);
    assert_eq!(bench.cursor.tally(), Tally { delivered: 3, retried: 1, ..Tally::default() });
}

#[test]
fn pauses_grow_and_are_never_shorter_than_the_sink_asks() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    let mut waits = Vec::new();
    for batch in 0..12 {
        let before = bench.now;
        let retry_after = (batch == 3).then_some(Duration::from_mins(1));
        let busy = Failure::Busy { cause: "429".into(), retry_after };
        assert_eq!(bench.failed(batch, busy), []);
        assert_eq!(bench.wait(), [send(batch + 1, 10..13)]);
        waits.push(bench.now.since(before));
    }
    assert_eq!(waits[3], Duration::from_mins(1));
    assert!(waits[0] <= Duration::from_millis(100), "{waits:?}");
    assert!(waits[11] >= Duration::from_secs(5) && waits[11] <= Duration::from_secs(10));
}

#[test]
fn what_may_have_arrived_is_looked_up_and_only_what_is_missing_is_sent() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    assert_eq!(bench.failed(0, Failure::doubtful("reset")), []);
    assert_eq!(bench.wait(), [look_up(1, 10..13)]);
    // The lookup fails: it is as doubtful as before.
    let outcome = Err(Failure::Unsent { cause: "refused".into() });
    assert_eq!(bench.tell(Event::LookedUp { batch: BatchId(1), outcome }), []);
    assert_eq!(bench.wait(), [look_up(2, 10..13)]);
    let outcome = Ok(vec![true, false, true]);
    assert_eq!(
        bench.tell(Event::LookedUp { batch: BatchId(2), outcome }),
        [send(3, [11]), Action::Forget { below: 11 }, Action::Commit { offset: 11 }]
    );
    // Only what was sent again is doubtful again.
    bench.failed(3, Failure::doubtful("hung"));
    assert_eq!(bench.wait(), [look_up(4, [11])]);
    assert_eq!(
        bench.cursor.tally(),
        Tally { delivered: 2, retried: 1, found: 2, ..Tally::default() }
    );
}

#[test]
fn what_an_earlier_run_may_have_sent_is_looked_up_first() {
    let mut bench = Bench::new(options(), 12);
    bench.tell(Event::Tick);
    assert_eq!(bench.read(4), [look_up(0, 10..12), send(1, 12..14), read(14)]);
    let mut blind = Bench::new(Options { looks_up: false, ..options() }, 12);
    blind.tell(Event::Tick);
    assert_eq!(blind.read(4), [send(0, 10..12), send(1, 12..14), read(14)]);
    let far = Cursor::new(options(), OFFSET, i64::MAX, 7);
    assert_eq!(far.doubtful_below, OFFSET + 1_000, "no run sends beyond its window");
}

#[test]
fn a_refused_record_is_done_when_its_dead_letter_is_durable() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    let letter = || Action::DeadLetter { records: vec![(10, rejection())] };
    assert_eq!(bench.sent(0, vec![rejected(), Item::Done, Item::Done]), [letter()]);
    assert_eq!(bench.tell(Event::DeadLettered { durable: false }), []);
    assert_eq!(bench.cursor.done_below(), 10);
    assert_eq!(bench.wait(), [letter()]);
    assert_eq!(
        bench.tell(Event::DeadLettered { durable: true }),
        [Action::Forget { below: 13 }, Action::Commit { offset: 13 }]
    );
    assert_eq!(bench.cursor.tally(), Tally { delivered: 2, dead: 1, ..Tally::default() });
}

#[test]
fn where_the_order_is_kept_nothing_overtakes_a_record_that_is_not_done() {
    let ordered = Options { is_ordered: true, in_flight_max: 4, ..options() };
    let mut bench = Bench::new(ordered, 0);
    bench.tell(Event::Tick);
    assert_eq!(bench.read(7), [send(0, 10..13), read(17)], "one at a time");
    // The second record is given up: what is behind it waits until that is durable.
    let letter = Action::DeadLetter { records: vec![(11, rejection())] };
    assert_eq!(
        bench.sent(0, vec![Item::Done, rejected(), Item::Done]),
        [Action::Forget { below: 11 }, letter, Action::Commit { offset: 11 }]
    );
    let done = [Action::Forget { below: 13 }, send(1, 13..16)];
    assert_eq!(bench.tell(Event::DeadLettered { durable: true }), done);
}

/// The broker was killed with a large batch on its way. Its successor read half of it, looked that half up, and could not
/// send the batch again as it was.
#[test]
fn where_the_order_is_kept_all_that_is_in_doubt_is_read_before_it_is_looked_up() {
    let ordered = Options { is_ordered: true, ..options() };
    let mut bench = Bench::new(ordered, 13);
    bench.tell(Event::Tick);
    assert_eq!(bench.read(2), [read(12)]);
    assert_eq!(bench.read(4), [look_up(0, 10..13), read(16)]);
    let missing = Event::LookedUp { batch: BatchId(0), outcome: Ok(vec![false; 3]) };
    assert_eq!(bench.tell(missing), [send(1, 10..13)]);
}

#[test]
fn an_unbroken_run_of_refusals_pauses_and_one_success_ends_it() {
    let mut bench = Bench::new(Options { in_flight_max: 1, ..options() }, 0);
    bench.tell(Event::Tick);
    bench.read(16);
    // Three are given up; with the next three the run is longer than four.
    let letters = (10..13).map(|offset| (offset, rejection())).collect();
    assert_eq!(
        bench.sent(0, vec![rejected(); 3]),
        [Action::DeadLetter { records: letters }, send(1, 13..16)]
    );
    let paused = bench.sent(1, vec![rejected(); 3]);
    let cause = "6 records in a row were refused, the last one with 400 mapper: no number";
    assert_eq!(paused, [Action::Paused(Pause { kind: PauseKind::Rejects, cause: cause.into() })]);
    // Attempts go on with other records, and give nothing up while all are refused.
    assert_eq!(bench.wait(), [send(2, 16..19)]);
    assert_eq!(bench.sent(2, vec![rejected(); 3]), []);
    assert_eq!(bench.wait(), [send(3, 19..22)]);
    let letters = vec![(19, rejection()), (20, rejection())];
    bench.tell(Event::DeadLettered { durable: true });
    assert_eq!(
        bench.sent(3, vec![rejected(), rejected(), Item::Done]),
        [Action::Resumed, Action::DeadLetter { records: letters }, send(4, 13..16)]
    );
}

#[test]
fn a_pause_is_said_once_tried_small_and_over_with_a_success() {
    let mut bench = Bench::new(Options { batch_records: 20, batch_bytes: 1_000, ..options() }, 0);
    bench.tell(Event::Tick);
    bench.read(15);
    let denied = pause(PauseKind::Credentials);
    assert_eq!(bench.failed(0, Failure::Pause(denied.clone())), [Action::Paused(denied.clone())]);
    assert_eq!(bench.cursor.trouble(), Some(("said so", Some(PauseKind::Credentials))));
    assert_eq!(bench.wait(), [send(1, 10..20)], "ten records find out");
    assert_eq!(bench.failed(1, Failure::Pause(denied)), [], "it was said");
    bench.wait();
    let blocked = pause(PauseKind::Blocked);
    let items = vec![Item::Stuck(blocked.clone()); 10];
    assert_eq!(bench.sent(2, items), [Action::Paused(blocked)], "another reason is said");
    bench.wait();
    assert_eq!(
        bench.sent(3, vec![Item::Done; 10]),
        [
            Action::Resumed,
            Action::Forget { below: 20 },
            Action::Commit { offset: 20 },
            send(4, 20..25)
        ]
    );
    assert_eq!(bench.cursor.trouble(), None);
}

#[test]
fn what_is_too_large_is_halved_and_a_single_record_is_refused() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    let too_large = || {
        let (status, kind, reason) = (413, "too_large".to_owned(), "413".to_owned());
        Failure::Split { rejection: Arc::new(Rejection { status, kind, reason }) }
    };
    assert_eq!(bench.failed(0, too_large()), [send(1, [10]), send(2, [11])]);
    let rejection = Rejection { status: 413, kind: "too_large".into(), reason: "413".into() };
    assert_eq!(
        bench.failed(1, too_large()),
        [Action::DeadLetter { records: vec![(10, Arc::new(rejection))] }, send(3, [12])]
    );
}

#[test]
fn what_is_read_is_bounded_by_bytes_and_by_the_window() {
    let mut bench = Bench::new(Options { window: 4, ..options() }, 0);
    bench.tell(Event::Tick);
    assert_eq!(bench.read(8), [send(0, 10..13), send(1, [13])]);
    assert_eq!(bench.cursor.next, 14, "what is beyond the window is read later");
    bench.sent(1, vec![Item::Done]);
    // Who waits for the window does not wait for the interval.
    assert_eq!(
        bench.sent(0, vec![Item::Done; 3]),
        [Action::Forget { below: 14 }, Action::Commit { offset: 14 }]
    );
    assert_eq!(bench.tell(Event::Committed { durable: true }), [read(14)]);
    // Records were compacted away for longer than the window.
    let records = vec![Taken { offset: 500, bytes: 10 }];
    assert_eq!(bench.tell(Event::Read { records, next: 501 }), [Action::Commit { offset: 500 }]);
    assert_eq!(bench.tell(Event::Committed { durable: true }), [read(500)]);

    let mut bench = Bench::new(Options { buffer_bytes: 60, ..options() }, 0);
    bench.tell(Event::Tick);
    assert_eq!(bench.read(5), [send(0, 10..13), send(1, 13..15), read(15)]);
    assert_eq!(bench.read(1), [], "60 bytes are held");
}

#[test]
fn records_that_were_deleted_unread_are_passed() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    assert_eq!(
        bench.tell(Event::Trimmed { log_start: 40 }),
        [Action::Commit { offset: 40 }, read(40)]
    );
}

#[test]
fn a_stop_sends_nothing_more_and_commits_what_is_answered() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(9);
    assert_eq!(bench.tell(Event::Stop), []);
    assert!(!bench.cursor.is_stopped());
    assert_eq!(
        bench.sent(0, vec![Item::Done; 3]),
        [Action::Forget { below: 13 }, Action::Commit { offset: 13 }]
    );
    bench.failed(1, Failure::doubtful("cut"));
    assert!(!bench.cursor.is_stopped(), "the commit is under way");
    bench.tell(Event::Committed { durable: true });
    assert!(bench.cursor.is_stopped());
    assert_eq!(bench.cursor.deadline(), None);
}

#[test]
fn a_commit_that_fails_at_once_is_not_tried_again_at_once() {
    let mut bench = Bench::new(Options { window: 4, ..options() }, 0);
    bench.tell(Event::Tick);
    bench.read(8);
    bench.sent(1, vec![Item::Done]);
    let commit = [Action::Forget { below: 14 }, Action::Commit { offset: 14 }];
    assert_eq!(bench.sent(0, vec![Item::Done; 3]), commit);
    // The window waits for it, and so does a stop, which tries once more.
    assert_eq!(bench.tell(Event::Committed { durable: false }), []);
    assert_eq!(bench.wait(), [Action::Commit { offset: 14 }]);
    assert_eq!(bench.tell(Event::Committed { durable: false }), []);
    assert_eq!(bench.tell(Event::Stop), [Action::Commit { offset: 14 }]);
    assert_eq!(bench.tell(Event::Committed { durable: false }), []);
    assert!(bench.cursor.is_stopped());
}

#[test]
fn an_answer_of_another_length_is_doubtful() {
    let mut bench = Bench::new(options(), 0);
    bench.tell(Event::Tick);
    bench.read(3);
    assert_eq!(bench.sent(0, vec![Item::Done]), []);
    assert_eq!(bench.wait(), [look_up(1, 10..13)]);
}
