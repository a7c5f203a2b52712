//! The cursor against a sink, a log and a group that fail by chance: whatever happens, and wherever it is killed, each
//! record ends up at the sink or among the dead letters, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What outlives the cursor: the log, the sink, the dead letters and the committed offset.
struct World {
    dice: Dice,
    log: Vec<Taken>,
    end: i64,
    /// The sink's copies of each record; an index of the same generation refuses a second one.
    sink: BTreeMap<i64, BTreeSet<u32>>,
    generation: u32,
    dead: BTreeMap<i64, u32>,
    committed: i64,
    commits: u32,
    /// From here on nothing fails.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut log = Vec::new();
        let mut offset = 0;
        for _ in 0..200 {
            // Some were compacted away, once a stretch longer than the window.
            offset += 1 + if dice.one_in(30) { 60 } else { i64::from(dice.one_in(5)) };
            let bytes = usize::try_from(1 + dice.roll(40)).expect("small");
            log.push(Taken { offset, bytes });
        }
        let end = offset + 1;
        Self {
            dice,
            log,
            end,
            sink: BTreeMap::new(),
            generation: 0,
            dead: BTreeMap::new(),
            committed: 0,
            commits: 0,
            calm: false,
        }
    }

    fn is_bad(offset: i64) -> bool {
        offset % 17 == 3
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        Some(match action {
            Action::Read { from } => {
                if from >= self.end {
                    return None;
                }
                let count = usize::try_from(1 + self.dice.roll(20)).expect("small");
                let records: Vec<Taken> =
                    self.log.iter().filter(|r| r.offset >= from).take(count).copied().collect();
                let next = records.last().map_or(self.end, |last| last.offset + 1);
                Event::Read { records, next }
            }
            Action::Send { batch, offsets } => Event::Sent { batch, outcome: self.write(&offsets) },
            Action::LookUp { batch, offsets } => {
                let has = |offset: &i64| self.sink.get(offset).is_some_and(|g| !g.is_empty());
                let outcome = Ok(offsets.iter().map(has).collect());
                if !self.calm && self.dice.one_in(4) {
                    let outcome = Err(Failure::doubtful("lookup lost"));
                    return Some(Event::LookedUp { batch, outcome });
                }
                Event::LookedUp { batch, outcome }
            }
            Action::DeadLetter { records } => {
                let durable = self.calm || !self.dice.one_in(3);
                if durable {
                    for (offset, _) in records {
                        *self.dead.entry(offset).or_default() += 1;
                    }
                }
                Event::DeadLettered { durable }
            }
            Action::Commit { offset } => {
                assert!(offset > self.committed, "commits go forward");
                for record in self.log.iter().take_while(|record| record.offset < offset) {
                    let at = record.offset;
                    let safe = self.sink.contains_key(&at) || self.dead.contains_key(&at);
                    assert!(safe, "{at} is below the commit {offset} and nowhere");
                }
                let durable = self.calm || !self.dice.one_in(4);
                if durable {
                    self.committed = offset;
                    self.commits += 1;
                }
                Event::Committed { durable }
            }
            Action::Forget { .. } | Action::Paused(_) | Action::Resumed => return None,
        })
    }

    fn write(&mut self, offsets: &[i64]) -> Result<Vec<Item>, Failure> {
        if !self.calm && self.dice.one_in(10) {
            self.generation += 1;
        }
        let luck = if self.calm { 99 } else { self.dice.roll(12) };
        let cause: Arc<str> = "by chance".into();
        match luck {
            0 => return Err(Failure::Unsent { cause }),
            1 => return Err(Failure::Busy { cause, retry_after: None }),
            2 if offsets.len() > 1 => return Err(too_large(&cause)),
            3 => return Err(Failure::Pause(Pause { kind: PauseKind::Target, cause })),
            _ => {}
        }
        let items = offsets.iter().map(|offset| self.item(*offset)).collect();
        // The answer is lost, or cut.
        if luck == 4 { Err(Failure::doubtful(cause)) } else { Ok(items) }
    }

    fn item(&mut self, offset: i64) -> Item {
        if !self.calm && self.dice.one_in(8) {
            return Item::Again { doubtful: false };
        }
        if Self::is_bad(offset) {
            let rejection = Rejection { status: 400, kind: "bad".into(), reason: "bad".into() };
            return Item::Rejected(Arc::new(rejection));
        }
        if !self.calm && self.dice.one_in(20) {
            return Item::Stuck(Pause { kind: PauseKind::Blocked, cause: "blocked".into() });
        }
        self.sink.entry(offset).or_default().insert(self.generation);
        Item::Done
    }
}

fn too_large(cause: &str) -> Failure {
    let (kind, reason) = ("too_large".to_owned(), cause.to_owned());
    Failure::Split { rejection: Arc::new(Rejection { status: 413, kind, reason }) }
}

fn options(dice: &mut Dice, looks_up: bool) -> Options {
    Options {
        window: 40,
        buffer_bytes: 300,
        batch_bytes: 100,
        batch_records: usize::try_from(1 + dice.roll(20)).expect("small"),
        in_flight_max: usize::try_from(1 + dice.roll(4)).expect("small"),
        is_ordered: dice.one_in(3),
        looks_up,
        rejects_in_a_row_max: 5,
        commit_interval: Duration::from_millis(50),
        backoff_first: Duration::from_millis(1),
        backoff_cap: Duration::from_millis(100),
    }
}

/// One life of a cursor, killed after `steps`; true if it came to the end of the log.
fn live(world: &mut World, steps: u32, looks_up: bool) -> bool {
    let options = options(&mut world.dice, looks_up);
    let seed = world.dice.roll(u64::MAX);
    let mut cursor = Cursor::new(options, world.committed, world.end, seed);
    let mut now = Mono::ZERO;
    let (mut out, mut pending): (Vec<Action>, Vec<Action>) = (Vec::new(), Vec::new());
    cursor.on_event(Event::Tick, now, &mut out);
    for _ in 0..steps {
        cursor.check();
        pending.append(&mut out);
        if world.committed == world.end {
            return true;
        }
        now = now + Duration::from_millis(world.dice.roll(5));
        // Any answer may come first.
        let event = if pending.is_empty() || world.dice.one_in(6) {
            let quiet = pending.is_empty();
            now = cursor.deadline().filter(|_| quiet).map_or(now, |at| at.max(now));
            Some(Event::Tick)
        } else {
            let at = world.dice.roll(pending.len() as u64);
            let action = pending.swap_remove(usize::try_from(at).expect("an index"));
            world.perform(action)
        };
        if let Some(event) = event {
            cursor.on_event(event, now, &mut out);
        }
    }
    false
}

fn run(seed: u64, looks_up: bool) -> World {
    let mut world = World::new(seed);
    for _ in 0..4 {
        let steps = 50 + u32::try_from(world.dice.roll(400)).expect("small");
        live(&mut world, steps, looks_up);
    }
    world.calm = true;
    assert!(live(&mut world, 20_000, looks_up), "seed {seed}: stuck at {}", world.committed);
    world
}

#[test]
fn each_record_arrives_once_or_is_a_dead_letter() {
    for seed in 0..400 {
        let world = run(seed, true);
        let mut repeated_letters = 0;
        for Taken { offset, .. } in &world.log {
            let copies = world.sink.get(offset).map_or(0, BTreeSet::len);
            let letters = world.dead.get(offset).copied().unwrap_or(0);
            let expected = usize::from(!World::is_bad(*offset));
            assert_eq!(copies, expected, "seed {seed}: copies of {offset}");
            assert_eq!(letters > 0, World::is_bad(*offset), "seed {seed}: letters of {offset}");
            repeated_letters += letters.saturating_sub(1);
        }
        // A letter may be written again by the run that comes after a kill, never more often than there were runs.
        assert!(repeated_letters < 5 * 40, "seed {seed}: {repeated_letters}");
        assert!(world.commits > 0, "seed {seed}");
    }
}

#[test]
fn without_the_lookup_there_would_be_duplicates() {
    let duplicates = |seed| {
        let world = run(seed, false);
        world.sink.values().filter(|generations| generations.len() > 1).count()
    };
    let total: usize = (0..50).map(duplicates).sum();
    assert!(total > 0, "the model must be able to show them");
}
