//! A seeded random walk: brokers come, die, restart, lose directories, topics come and go, commits are slow or fail, and
//! after every step the invariants hold and every request is answered at most once, in the end exactly once.

use std::collections::BTreeSet;

use tailway_metadata::time::Mono;
use uuid::Uuid;

use super::bench::{registration, settings, topic};
use super::controller::Controller;

use super::*;

const STEPS: usize = 3_000;
const SEEDS: u64 = 20;

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

    fn small(&mut self, sides: i32) -> i32 {
        i32::try_from(self.roll(u64::try_from(sides).unwrap())).unwrap()
    }
}

struct Walk {
    dice: Dice,
    controller: Controller,
    now: Mono,
    next_id: u64,
    open: BTreeSet<RequestId>,
    proposed: Option<Vec<MetadataRecord>>,
    /// What Raft has: applied record by record, as a follower does.
    log: ClusterImage,
    given_producer_ids: i64,
    fenced: u32,
    leaderless: u32,
}

impl Walk {
    fn on(&mut self, event: Event) {
        let mut out = Vec::new();
        self.controller.on_event(event, self.now, &mut out);
        self.controller.check();
        for action in out {
            match action {
                Action::Propose(records) => {
                    assert!(self.proposed.is_none(), "two proposals under way");
                    self.proposed = Some(records);
                }
                Action::Reply { id, reply } => {
                    assert!(self.open.remove(&id), "answered twice: {id:?}");
                    if let Reply::ProducerIds { start, len } = reply {
                        assert!(start.0 >= self.given_producer_ids, "{start} was given already");
                        self.given_producer_ids = start.0 + i64::from(len);
                    }
                }
            }
        }
    }

    fn commit(&mut self) {
        let Some(records) = self.proposed.take() else { return };
        for record in &records {
            self.log.apply(record).unwrap();
            if let MetadataRecord::BrokerRegistrationChange(change) = record {
                self.fenced += u32::from(change.fenced);
            }
            if let MetadataRecord::PartitionChange(change) = record {
                self.leaderless += u32::from(change.leader.is_none());
            }
        }
        self.log.check();
        self.on(Event::Committed);
        if !self.controller.image().brokers.is_empty() {
            assert_eq!(**self.controller.image(), self.log);
        }
    }

    fn lead(&mut self) {
        let fresh_log_id = MetadataLogId(Uuid::from_u128(1));
        self.on(Event::Leads { image: Arc::new(self.log.clone()), fresh_log_id });
    }

    fn lose(&mut self) {
        // A proposal whose outcome is not known may have been committed.
        if let Some(records) = self.proposed.take()
            && self.dice.roll(2) == 0
        {
            for record in &records {
                self.log.apply(record).unwrap();
            }
        }
        let why = "lost".to_owned();
        if self.dice.roll(2) == 0 {
            self.on(Event::ProposalFailed { why });
        } else {
            self.on(Event::LeadsNoMore { why });
        }
        assert!(self.open.is_empty(), "everybody is told: {:?}", self.open);
    }

    fn request(&mut self) -> Request {
        let broker = self.dice.small(4);
        let known = self.log.brokers.get(&BrokerId(broker));
        let epoch = known.map_or(BrokerEpoch(1), |known| known.epoch);
        let name = format!("t{}", self.dice.roll(6));
        match self.dice.roll(12) {
            0 => {
                let incarnation = u128::from(1 + self.dice.roll(1_000));
                let mut request = registration(broker, incarnation);
                if self.dice.roll(10) == 0 {
                    request.directory = DirectoryId(Uuid::from_u128(5));
                }
                Request::RegisterBroker(request)
            }
            1 => {
                let mut new =
                    topic(&name, u128::from(self.dice.roll(u64::MAX)) + 10, 1 + self.dice.small(4));
                if self.dice.roll(8) == 0 {
                    new.configs = vec![("retention.ms".into(), Some("1".into()))];
                }
                let validate_only = self.dice.roll(4) == 0;
                Request::CreateTopics(CreateTopics { topics: vec![new], validate_only })
            }
            2 => Request::DeleteTopics(vec![TopicRef::Name(name)]),
            3 => Request::AllocateProducerIds { broker_id: BrokerId(broker), broker_epoch: epoch },
            _ => Request::Heartbeat(Heartbeat {
                broker_id: BrokerId(broker),
                broker_epoch: if self.dice.roll(10) == 0 {
                    BrokerEpoch(epoch.0 - 1)
                } else {
                    epoch
                },
                metadata_offset: if self.dice.roll(4) == 0 { Offset(0) } else { self.log.offset },
                want_fence: self.dice.roll(20) == 0,
                want_shut_down: self.dice.roll(20) == 0,
            }),
        }
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0 => {
                self.lose();
                self.lead();
            }
            1..=30 => self.commit(),
            31..=45 => {
                self.now = self.now + Duration::from_millis(self.dice.roll(4_000));
                if self.controller.deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.on(Event::Tick);
                }
            }
            _ => {
                let id = RequestId(self.next_id);
                self.next_id += 1;
                self.open.insert(id);
                let request = self.request();
                self.on(Event::Request { id, request });
            }
        }
    }
}

#[test]
fn invariants_hold_on_random_walks() {
    let (mut fenced, mut leaderless, mut topics) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut walk = Walk {
            dice: Dice(seed),
            controller: Controller::new(settings()),
            now: Mono::ZERO,
            next_id: 0,
            open: BTreeSet::new(),
            proposed: None,
            log: ClusterImage::default(),
            given_producer_ids: 0,
            fenced: 0,
            leaderless: 0,
        };
        walk.lead();
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step()));
            assert!(outcome.is_ok(), "seed {seed}, step {step}");
        }
        while walk.proposed.is_some() {
            walk.commit();
        }
        assert!(walk.open.is_empty(), "seed {seed}: not answered: {:?}", walk.open);
        fenced += walk.fenced;
        leaderless += walk.leaderless;
        topics += walk.log.topics().len();
    }
    assert!(fenced > 100 && leaderless > 100 && topics > 20, "{fenced} {leaderless} {topics}");
}
