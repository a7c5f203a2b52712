//! Clean histories: a model of a correct log with several producers, readers, group members, brokers, replicas and a file,
//! seen through what real clients tell - sends of unknown end that were written or not, rebalances in mid-read, commits
//! that nobody knows the end of, leaders that change.

use std::collections::BTreeMap;

use tailway_history::{Act, Event, Outcome, value};

/// SplitMix64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

const TPS: [&str; 3] = ["a/0", "a/1", "b/0"];
const NODES: [&str; 3] = ["node-0", "node-1", "node-2"];
const PRODUCERS: u64 = 3;
/// This producer has no idempotence: what it sends may stand in the log twice.
const PLAIN: u64 = 2;

#[derive(Default)]
struct Partition {
    /// Value and leader epoch.
    log: Vec<(u64, u32)>,
    epoch: u32,
    /// Where each reader stands.
    readers: BTreeMap<&'static str, u64>,
    groups: BTreeMap<&'static str, Group>,
}

#[derive(Default)]
struct Group {
    committed: u64,
    owner: Option<&'static str>,
    /// The owner's next offset to read; `None` until its first poll.
    position: Option<u64>,
}

struct World {
    rng: Rng,
    now: u64,
    sent: BTreeMap<u64, u64>,
    partitions: BTreeMap<&'static str, Partition>,
    busy_until: BTreeMap<String, u64>,
    events: Vec<Event>,
}

/// A clean history of about `steps` events, from a seed.
pub(crate) fn clean(seed: u64, steps: u64) -> Vec<Event> {
    let partitions = TPS.iter().map(|tp| (*tp, Partition::default())).collect();
    let mut world = World {
        rng: Rng::new(seed),
        now: 1_000,
        sent: BTreeMap::new(),
        partitions,
        busy_until: BTreeMap::new(),
        events: Vec::new(),
    };
    for _ in 0..steps {
        world.step();
    }
    world.file();
    world.dumps();
    world.drain();
    world.events
}

impl World {
    /// Something that took effect just now, seen by `proc` from a bit before to a bit after.
    fn saw(&mut self, proc: &str, outcome: Outcome, act: Act) {
        self.now += 1 + self.rng.below(5);
        let busy = self.busy_until.get(proc).copied().unwrap_or(0);
        let t0 = self.now.saturating_sub(self.rng.below(4)).max(busy + 1).min(self.now);
        let t1 = self.now + self.rng.below(4);
        // The next thing it sees takes effect after this one was over for it.
        self.busy_until.insert(proc.to_owned(), t1);
        self.events.push(Event { proc: proc.to_owned(), t0, t1, outcome, act });
        self.now = self.now.max(if self.rng.one_in(2) { t1 } else { 0 });
    }

    fn idle(&self, proc: &str) -> bool {
        self.busy_until.get(proc).is_none_or(|until| *until < self.now)
    }

    fn step(&mut self) {
        self.now += 1;
        let tp = TPS[usize::try_from(self.rng.below(3)).unwrap()];
        match self.rng.below(20) {
            0..=6 => self.send(tp),
            7..=10 => self.read(tp),
            11..=15 => self.member(tp),
            16 => self.look(tp),
            17 => self.rebalance(tp),
            18 => self.change_leader(tp),
            _ => self.fault(),
        }
    }

    fn send(&mut self, tp: &'static str) {
        let client = self.rng.below(PRODUCERS);
        let proc = format!("producer-{client}");
        if !self.idle(&proc) {
            return;
        }
        let n = self.sent.entry(client).or_default();
        *n += 1;
        let val = value(client + 1, *n);
        let idempotent = client != PLAIN;
        let end = self.rng.below(20);
        let partition = self.partitions.get_mut(tp).unwrap();
        let off = partition.log.len() as u64;
        let epoch = partition.epoch;
        let topic = tp.split('/').next().unwrap().to_owned();
        let (outcome, to, off, written) = match end {
            0 => (Outcome::Fail, tp.to_owned(), None, false),
            1 => (Outcome::Info, topic, None, false),
            2 => (Outcome::Info, tp.to_owned(), None, false),
            3 => (Outcome::Info, tp.to_owned(), None, true),
            4 => (Outcome::Info, topic, None, true),
            // Acknowledged as a duplicate whose offset the broker no longer knows.
            5 => (Outcome::Ok, tp.to_owned(), None, true),
            _ => (Outcome::Ok, tp.to_owned(), Some(off), true),
        };
        if written {
            partition.log.push((val, epoch));
            if !idempotent && end % 4 == 2 {
                partition.log.push((val, epoch));
            }
        }
        self.saw(&proc, outcome, Act::Send { tp: to, off, val, idempotent });
        if outcome == Outcome::Ok {
            self.saw(NODES[epoch as usize % 3], Outcome::Ok, Act::Ack { tp: tp.to_owned(), epoch });
        }
    }

    fn poll(&mut self, proc: &str, tp: &'static str, off: u64) {
        let log = &self.partitions[tp].log;
        let (val, epoch) = log[usize::try_from(off).unwrap()];
        let hw = log.len() as u64;
        let hw = self.rng.one_in(2).then_some(hw);
        let epoch = self.rng.one_in(2).then_some(epoch);
        let tp = tp.to_owned();
        self.saw(proc, Outcome::Ok, Act::Poll { tp, off, val: Some(val), epoch, hw });
    }

    /// One that assigns itself; now and then it begins anew, elsewhere or where it stands.
    fn read(&mut self, tp: &'static str) {
        let proc = ["reader-0", "reader-1"][usize::try_from(self.rng.below(2)).unwrap()];
        if !self.idle(proc) {
            return;
        }
        let end = self.partitions[tp].log.len() as u64;
        let position = self.partitions[tp].readers.get(proc).copied();
        let next = match position {
            Some(position) if !self.rng.one_in(12) => position,
            Some(position) if self.rng.one_in(2) => self.assign(proc, tp, position),
            _ => {
                let off = self.rng.below(end + 1);
                self.assign(proc, tp, off)
            }
        };
        let reads = u64::from(next < end && self.idle(proc));
        if reads > 0 {
            self.poll(proc, tp, next);
        }
        self.partitions.get_mut(tp).unwrap().readers.insert(proc, next + reads);
    }

    fn assign(&mut self, proc: &str, tp: &str, off: u64) -> u64 {
        let act = Act::Assign { tp: tp.to_owned(), off: Some(off), group: None, drain: false };
        self.saw(proc, Outcome::Ok, act);
        off
    }

    fn group(&mut self, tp: &str) -> (&'static str, [&'static str; 2]) {
        // Two groups on one topic, one on the other.
        match self.rng.below(2) {
            0 if tp != "b/0" => ("g", ["g-0", "g-1"]),
            _ => ("h", ["h-0", "h-1"]),
        }
    }

    fn member(&mut self, tp: &'static str) {
        let (name, _) = self.group(tp);
        let end = self.partitions[tp].log.len() as u64;
        let group = self.partitions.get_mut(tp).unwrap().groups.entry(name).or_default();
        let Some(owner) = group.owner else { return };
        let (position, committed) = (group.position, group.committed);
        if !self.idle(owner) {
            return;
        }
        let next = position.unwrap_or(committed);
        if next < end && (position.is_none() || !self.rng.one_in(3)) {
            self.poll(owner, tp, next);
            self.partitions.get_mut(tp).unwrap().groups.get_mut(name).unwrap().position =
                Some(next + 1);
        } else if let Some(position) = position {
            let (outcome, written) = match self.rng.below(8) {
                0 => (Outcome::Info, true),
                1 => (Outcome::Info, false),
                2 => (Outcome::Fail, false),
                _ => (Outcome::Ok, true),
            };
            let act = Act::Commit { tp: tp.to_owned(), off: position, group: name.to_owned() };
            self.saw(owner, outcome, act);
            if written {
                let groups = &mut self.partitions.get_mut(tp).unwrap().groups;
                groups.get_mut(name).unwrap().committed = position;
            }
        }
    }

    /// The partition goes to the other member, which begins at the committed offset.
    fn rebalance(&mut self, tp: &'static str) {
        let (name, members) = self.group(tp);
        let to = members[usize::try_from(self.rng.below(2)).unwrap()];
        let group = self.partitions.get_mut(tp).unwrap().groups.entry(name).or_default();
        let from = group.owner;
        if !self.idle(to) || from.is_some_and(|from| !self.idle(from)) {
            return;
        }
        let group = self.partitions.get_mut(tp).unwrap().groups.get_mut(name).unwrap();
        (group.owner, group.position) = (Some(to), None);
        let (tp, group) = (tp.to_owned(), Some(name.to_owned()));
        self.saw(to, Outcome::Ok, Act::Assign { tp, off: None, group, drain: false });
    }

    fn look(&mut self, tp: &'static str) {
        let (end, epoch) = (self.partitions[tp].log.len() as u64, self.partitions[tp].epoch);
        // A client is told no epoch; the leader knows its own.
        let (proc, epoch) = match self.rng.below(2) {
            0 => ("watcher", None),
            _ => (NODES[epoch as usize % 3], Some(epoch)),
        };
        if self.idle(proc) {
            let act = Act::HighWatermark { tp: tp.to_owned(), off: end, epoch };
            self.saw(proc, Outcome::Ok, act);
        }
    }

    fn change_leader(&mut self, tp: &'static str) {
        let partition = self.partitions.get_mut(tp).unwrap();
        let old = partition.epoch;
        partition.epoch += 1;
        let act = Act::Fence { tp: tp.to_owned(), epoch: old };
        self.saw(NODES[old as usize % 3], Outcome::Ok, act);
    }

    fn fault(&mut self) {
        if self.idle("nemesis") {
            self.saw("nemesis", Outcome::Ok, Act::Fault { note: "kill".to_owned() });
        }
    }

    /// Lines, some of them equal, and their documents.
    fn file(&mut self) {
        let vals: Vec<u64> = (0..12).map(|_| self.rng.below(8)).collect();
        let file = "/var/log/app.log".to_owned();
        for val in &vals {
            self.saw("host", Outcome::Ok, Act::Line { file: file.clone(), val: *val });
        }
        for val in vals {
            self.saw("sink", Outcome::Ok, Act::Doc { file: file.clone(), val });
        }
    }

    /// Three replicas, one with a torn batch above the high watermark.
    fn dumps(&mut self) {
        for tp in TPS {
            for node in NODES {
                let log = self.partitions[tp].log.clone();
                let held = (0..).zip(log.into_iter().map(|(val, epoch)| (Some(val), epoch)));
                let end = self.partitions[tp].log.len() as u64;
                let torn = (node == NODES[2]).then_some((end, (None, 99)));
                for (off, (val, epoch)) in held.chain(torn) {
                    let crc = val.map(|val| u32::try_from(val % 65_537).unwrap());
                    let outcome = if val.is_some() { Outcome::Ok } else { Outcome::Fail };
                    let (tp, epoch) = (tp.to_owned(), Some(epoch));
                    self.saw(node, outcome, Act::Dump { tp, off, val, epoch, crc });
                }
            }
        }
    }

    fn drain(&mut self) {
        for tp in TPS {
            let act = Act::Assign { tp: tp.to_owned(), off: Some(0), group: None, drain: true };
            self.saw("drain", Outcome::Ok, act);
            let end = self.partitions[tp].log.len() as u64;
            for off in 0..end {
                self.poll("drain", tp, off);
            }
            self.saw("drain", Outcome::Ok, Act::Drain { tp: tp.to_owned(), off: end });
        }
    }
}
