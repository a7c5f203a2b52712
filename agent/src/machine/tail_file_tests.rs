//! The life of a file, as tables and as random lives checked against a model.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

fn look(size: u64, links: u64) -> Look {
    Look { size, links, written_ns: 0 }
}

fn file() -> TailFile {
    TailFile::new(0, 64, PollPolicy::default(), at(0))
}

fn step(file: &mut TailFile, event: Event, now: Mono) -> Vec<Action> {
    let mut out = Vec::new();
    file.on_event(event, now, &mut out);
    file.check();
    out
}

fn take(file: &mut TailFile, bytes: &[u8]) {
    let from = file.lines.line_start();
    file.lines.take(from, bytes, || true, |_| ());
}

/// A file of which `bytes` were read and acknowledged, open.
fn read_file(bytes: &[u8]) -> TailFile {
    let mut file = file();
    let size = bytes.len() as u64;
    assert_eq!(step(&mut file, Event::Tick, at(0)), [Action::Observe]);
    assert_eq!(step(&mut file, Event::Observed(look(size, 1)), at(0)), [Action::Open]);
    assert_eq!(step(&mut file, Event::Opened(look(size, 1)), at(0)), [Action::Read]);
    take(&mut file, bytes);
    assert_eq!(step(&mut file, Event::Read { bytes: size }, at(0)), []);
    let to = file.read();
    assert_eq!(step(&mut file, Event::Acked { to }, at(0)), []);
    file
}

#[test]
fn an_empty_file_is_not_even_opened() {
    let mut file = file();
    assert_eq!(step(&mut file, Event::Observed(look(0, 1)), at(0)), []);
    assert!(file.is_idle());
    assert_eq!(file.state(), State::Idle);
}

#[test]
fn looks_get_rarer_with_quiet_and_stop_under_a_watch() {
    let mut file = read_file(b"a\n");
    assert_eq!(file.deadline(), Some(at(5)));
    step(&mut file, Event::Observed(look(2, 1)), at(800));
    assert_eq!(file.deadline(), Some(at(900)));
    step(&mut file, Event::Observed(look(2, 1)), at(8_000));
    assert_eq!(step(&mut file, Event::Tick, at(9_000)), [Action::Observe]);
    step(&mut file, Event::Observed(look(2, 1)), at(9_000));
    assert_eq!(step(&mut file, Event::Tick, at(10_200)), [Action::Close]);
    assert!(file.is_idle() && file.deadline().is_some());
    assert_eq!(step(&mut file, Event::Covered(true), at(10_200)), []);
    assert_eq!(file.deadline(), None);
    // The watch fires: the file is looked at, found longer, opened and read.
    assert_eq!(step(&mut file, Event::Nudged, at(99_000)), [Action::Observe]);
    assert_eq!(step(&mut file, Event::Covered(false), at(99_000)), []);
    assert_eq!(step(&mut file, Event::Observed(look(4, 1)), at(99_000)), [Action::Open]);
}

#[test]
fn a_shorter_file_starts_a_new_generation_at_zero() {
    let mut file = read_file(b"one\ntwo\n");
    let out = step(&mut file, Event::Observed(look(4, 1)), at(10));
    let why = Restart::Truncated { size: 4, read: 8, unread: 0 };
    assert_eq!(out, [Action::StartGeneration(why), Action::Read]);
    assert_eq!((file.read(), file.acked()), (0, 0));
}

#[test]
fn other_bytes_before_the_offset_start_a_new_generation() {
    let mut file = read_file(b"one\n");
    assert_eq!(step(&mut file, Event::Observed(look(9, 1)), at(10)), [Action::Read]);
    let out = step(&mut file, Event::Rewritten, at(10));
    let why = Restart::Rewritten { read: 4, unread: 0 };
    assert_eq!(out, [Action::StartGeneration(why), Action::Observe]);
    assert_eq!(step(&mut file, Event::Observed(look(9, 1)), at(10)), [Action::Read]);
}

/// What was seen of a file and not read before it was truncated is said, and nothing that was not seen.
#[test]
fn what_was_not_read_before_a_truncation_is_counted() {
    let ended =
        |size: u64| [Action::StartGeneration(Restart::Truncated { size, read: 4, unread: 6 })];
    // Of ten bytes four were read: the output had no room.
    let blocked = || {
        let mut file = read_file(b"one\n");
        assert_eq!(step(&mut file, Event::Observed(look(10, 1)), at(10)), [Action::Read]);
        step(&mut file, Event::Blocked(true), at(10));
        file
    };
    let mut file = blocked();
    assert_eq!(step(&mut file, Event::Observed(look(0, 1)), at(20)), ended(0), "emptied");
    let mut file = blocked();
    assert_eq!(step(&mut file, Event::Observed(look(3, 1)), at(20)), ended(3), "and written to");
    let mut file = blocked();
    let out = step(&mut file, Event::Observed(look(7, 1)), at(20));
    assert_eq!(out, [Action::CutShort { unread: 3 }], "its end was cut off");
    step(&mut file, Event::Observed(look(30, 1)), at(30));
    assert_eq!(step(&mut file, Event::Blocked(false), at(30)), [Action::Read]);
    // The six bytes were never proven to follow what was read, so only the three are sure.
    let why = Restart::Rewritten { read: 4, unread: 0 };
    let out = step(&mut file, Event::Rewritten, at(30));
    assert_eq!(out, [Action::StartGeneration(why), Action::Observe], "refilled past the offset");
}

/// A file that was cut inside of a line between a look and a read: what is read of it is known already.
#[test]
fn a_line_that_lost_its_end_is_not_read_again_and_again() {
    let mut file = read_file(b"one\ntw");
    assert_eq!(step(&mut file, Event::Observed(look(20, 1)), at(10)), [Action::Read]);
    assert_eq!(step(&mut file, Event::Read { bytes: 0 }, at(10)), [Action::Observe]);
    let out = step(&mut file, Event::Observed(look(6, 1)), at(10));
    assert_eq!(out, [Action::CutShort { unread: 14 }, Action::Verify]);
    assert!(file.deadline().is_some(), "{file:?}");
}

#[test]
fn a_file_that_was_written_to_without_getting_longer_is_compared() {
    let mut file = read_file(b"one\n");
    let written = Look { written_ns: 5, ..look(4, 1) };
    assert_eq!(step(&mut file, Event::Observed(written), at(10)), [Action::Verify]);
    assert_eq!(step(&mut file, Event::Observed(written), at(20)), []);
    // Also when its descriptor is closed.
    step(&mut file, Event::Observed(written), at(19_000));
    assert_eq!(step(&mut file, Event::Tick, at(30_000)), [Action::Close]);
    let written = Look { written_ns: 6, ..look(4, 1) };
    assert_eq!(step(&mut file, Event::Observed(written), at(40_000)), [Action::Open]);
    assert_eq!(step(&mut file, Event::Opened(written), at(40_000)), [Action::Verify]);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_its_acks_before_it_is_let_go() {
    let mut file = read_file(b"one\n");
    assert_eq!(step(&mut file, Event::NameLost, at(10)), [Action::Observe]);
    assert_eq!(step(&mut file, Event::Observed(look(11, 0)), at(10)), [Action::Read]);
    assert_eq!(file.state(), State::Deleted);
    take(&mut file, b"two\nend");
    assert_eq!(step(&mut file, Event::Read { bytes: 7 }, at(10)), []);
    // Quiet for long enough: what has no line end is the last line.
    assert_eq!(step(&mut file, Event::Observed(look(11, 0)), at(30_009)), []);
    assert_eq!(step(&mut file, Event::Tick, at(40_000)), [Action::Observe]);
    let seen = Event::Observed(look(11, 0));
    assert_eq!(step(&mut file, seen.clone(), at(40_000)), [Action::TakeRest]);
    assert_eq!(file.lines.take_rest(b"end").unwrap().text, b"end");
    assert_eq!(step(&mut file, Event::Acked { to: 8 }, at(50_000)), [Action::Observe]);
    assert_eq!(step(&mut file, seen.clone(), at(50_000)), []);
    assert_eq!(step(&mut file, Event::Acked { to: 11 }, at(60_000)), [Action::Observe]);
    let out = step(&mut file, seen, at(60_000));
    assert_eq!(out, [Action::Close, Action::Forget { gone: true }]);
}

#[test]
fn without_room_nothing_is_read_and_with_room_it_goes_on() {
    let mut file = read_file(b"one\n");
    assert_eq!(step(&mut file, Event::Observed(look(8, 1)), at(10)), [Action::Read]);
    assert_eq!(step(&mut file, Event::Blocked(true), at(10)), []);
    assert_eq!(file.state(), State::Blocked);
    assert_eq!(step(&mut file, Event::Observed(look(12, 1)), at(300)), []);
    assert_eq!(file.deadline(), Some(at(550)));
    assert_eq!(step(&mut file, Event::Blocked(false), at(400)), [Action::Read]);
}

#[test]
fn a_descriptor_is_given_up_only_when_nothing_is_to_be_read() {
    let mut file = read_file(b"one\n");
    assert_eq!(step(&mut file, Event::Observed(look(8, 1)), at(10)), [Action::Read]);
    assert_eq!(step(&mut file, Event::Evicted, at(10)), []);
    take(&mut file, b"two\n");
    assert_eq!(step(&mut file, Event::Read { bytes: 4 }, at(10)), []);
    assert_eq!(step(&mut file, Event::Evicted, at(10)), [Action::Close]);
    assert!(file.is_idle() && file.deadline().is_some());
}

#[test]
fn a_file_that_cannot_be_opened_is_tried_again() {
    let mut file = file();
    assert_eq!(step(&mut file, Event::Observed(look(8, 1)), at(0)), [Action::Open]);
    assert_eq!(step(&mut file, Event::Unreadable, at(0)), []);
    assert_eq!((file.state(), file.deadline()), (State::Unreadable, Some(at(5_000))));
    assert_eq!(step(&mut file, Event::Tick, at(5_000)), [Action::Observe]);
    assert_eq!(step(&mut file, Event::Observed(look(8, 1)), at(5_000)), [Action::Open]);
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// The world as the driver sees it: an inode, its names, an output that acknowledges some day.
struct World {
    random: Random,
    now: Mono,
    bytes: Vec<u8>,
    changes: i64,
    named: bool,
    links: u64,
    file: TailFile,
    queue: Vec<Action>,
    open: bool,
    room: bool,
    written: u64,
    current: Vec<u8>,
    generations: u64,
    to_ack: Vec<u64>,
    forgotten: Option<bool>,
    /// Bytes that went away unread, and what the machine says of them.
    lost: u64,
    counted: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            now: at(0),
            bytes: Vec::new(),
            changes: 0,
            named: true,
            links: 1,
            file: TailFile::new(0, 24, PollPolicy::default(), at(0)),
            queue: Vec::new(),
            open: false,
            room: true,
            written: 0,
            current: Vec::new(),
            generations: 0,
            to_ack: Vec::new(),
            forgotten: None,
            lost: 0,
            counted: 0,
        }
    }

    fn look(&self) -> Look {
        Look { size: self.bytes.len() as u64, links: self.links, written_ns: self.changes }
    }

    fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.file.on_event(event, self.now, &mut out);
        self.file.check();
        self.queue.extend(out);
    }

    fn write(&mut self) {
        for _ in 0..self.random.below(6) {
            self.written += 1;
            self.changes += 1;
            let long = self.random.below(30);
            let line = format!("{}{}", self.written, "x".repeat(usize::try_from(long).unwrap()));
            self.bytes.extend(line.as_bytes());
            if self.random.below(4) > 0 {
                self.bytes.push(b'\n');
            }
        }
    }

    /// To nothing, or to half of what was there.
    fn truncate(&mut self) {
        let left = if self.random.below(2) == 0 { 0 } else { self.bytes.len() / 2 };
        let read = if self.bytes.starts_with(&self.current) { self.current.len() } else { 0 };
        self.lost += self.bytes.len().saturating_sub(read.max(left)) as u64;
        self.bytes.truncate(left);
        self.changes += 1;
    }

    /// Performs every action the machine asked for.
    fn perform(&mut self) {
        let mut performed = 0;
        while !self.queue.is_empty() {
            let action = self.queue.remove(0);
            performed += 1;
            assert!(performed < 10_000, "it never rests: {action:?}: {:?}", self.file);
            match action {
                Action::Open if self.named => {
                    self.open = true;
                    self.tell(Event::Opened(self.look()));
                }
                Action::Open => self.tell(Event::OpenMissed),
                Action::Close => self.open = false,
                Action::Observe if self.open || self.named => {
                    self.tell(Event::Observed(self.look()));
                }
                Action::Observe => self.tell(Event::NameLost),
                Action::Read | Action::TakeRest if !self.room => {
                    self.tell(Event::Blocked(true));
                }
                Action::Read => self.read(),
                Action::Verify if !self.bytes.starts_with(&self.current) => {
                    self.tell(Event::Rewritten);
                }
                Action::Verify => {}
                Action::TakeRest => {
                    let from = usize::try_from(self.file.lines.line_start()).unwrap();
                    let bytes = self.bytes[from..].to_vec();
                    let line = self.file.lines.take_rest(&bytes).unwrap();
                    self.current.extend(line.text);
                    self.to_ack.push(line.end);
                }
                Action::CutShort { unread } => self.counted += unread,
                Action::StartGeneration(why) => {
                    let (Restart::Truncated { unread, .. } | Restart::Rewritten { unread, .. }) =
                        why;
                    self.counted += unread;
                    self.current.clear();
                    self.generations += 1;
                    self.to_ack.clear();
                }
                Action::Forget { gone } => self.forgotten = Some(gone),
            }
        }
    }

    fn read(&mut self) {
        assert!(self.open, "a read without a descriptor");
        if !self.bytes.starts_with(&self.current) {
            return self.tell(Event::Rewritten);
        }
        let want = self.file.lines.next_read(16);
        let from = usize::try_from(want.offset).unwrap();
        let end = (from + want.len).min(self.bytes.len());
        let bytes = self.bytes.get(from..end).unwrap_or_default().to_vec();
        let mut lines = Vec::new();
        let news = (end as u64).saturating_sub(self.file.lines.scanned());
        self.file.lines.take(want.offset, &bytes, || true, |line| lines.push(line.end));
        if let Some(end) = lines.last() {
            let from = self.current.len();
            let end = usize::try_from(*end).unwrap();
            self.current.extend(&self.bytes[from..end]);
            self.to_ack.push(end as u64);
        }
        self.tell(Event::Read { bytes: news });
    }

    fn act(&mut self) {
        match self.random.below(13) {
            0..=4 if self.forgotten.is_none() => self.write(),
            5 if self.named && self.random.below(4) == 0 => {
                self.truncate();
            }
            6 if self.random.below(10) == 0 => {
                self.named = false;
                self.links = self.random.below(2);
                self.tell(Event::NameLost);
            }
            7 => {
                self.room = !self.room;
                if self.room {
                    self.tell(Event::Blocked(false));
                }
            }
            8 => {
                for to in std::mem::take(&mut self.to_ack) {
                    self.tell(Event::Acked { to });
                }
            }
            9 => self.tell(Event::Nudged),
            10 => self.tell(Event::Evicted),
            _ => {}
        }
        self.perform();
        self.now = match self.file.deadline() {
            Some(deadline) if self.random.below(3) > 0 => deadline.max(self.now),
            _ => self.now + SECOND * u32::try_from(self.random.below(3)).unwrap(),
        };
        self.tell(Event::Tick);
        self.perform();
    }
}

/// Whatever happens to a file, what is emitted of its last generation is what stands in it, up to
/// the last line end; and a file that lost its name is forgotten in the end.
#[test]
fn random_lives_emit_each_byte_once_and_end() {
    let (mut forgotten, mut truncated, mut lost, mut counted) = (0, 0_u64, 0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.act();
        }
        // Let everything settle: room, acks, time.
        world.room = true;
        world.tell(Event::Blocked(false));
        for _ in 0..200 {
            world.perform();
            for to in std::mem::take(&mut world.to_ack) {
                world.tell(Event::Acked { to });
            }
            world.perform();
            world.now = world.now + SECOND;
            world.tell(Event::Tick);
        }
        truncated += world.generations;
        assert!(world.counted <= world.lost, "seed {seed}: {} of {}", world.counted, world.lost);
        (lost, counted) = (lost + world.lost, counted + world.counted);
        let emitted = &world.current;
        assert!(world.bytes.starts_with(emitted), "seed {seed}: other bytes");
        let rest = &world.bytes[emitted.len()..];
        if world.named {
            assert!(!rest.contains(&b'\n'), "seed {seed}: a line was left behind");
            assert_eq!(world.forgotten, None, "seed {seed}: forgotten with a name");
        } else {
            forgotten += 1;
            assert!(world.forgotten.is_some(), "seed {seed}: never let go: {:?}", world.file);
            if world.links == 0 && world.forgotten == Some(true) {
                assert!(rest.is_empty(), "seed {seed}: deleted before its end was read");
            }
        }
    }
    assert!(forgotten > 50 && truncated > 50, "{forgotten} forgotten, {truncated} truncated");
    assert!(counted * 4 > lost, "{counted} of {lost} bytes that went away unread were counted");
}
