//! A seeded random walk over a shard: clients of all versions that behave and misbehave, lost connections, slow and failing
//! appends, deleted topics, time. After every event: `check`, and each call open exactly as long as it is unanswered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ClusterImage;
use tailway_metadata::time::{Mono, WallMs};
use tailway_wire::ErrorCode;
use tailway_wire::messages::StrBytes;

use super::bench_tests::{commit, heartbeat, image_with, join, leave, sync, text};
use super::*;
use crate::machine::offsets::schema::{GroupValue, OffsetValue, OffsetsRecord};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A client as it sees itself.
#[derive(Debug, Clone, Default)]
struct Client {
    connection: u64,
    group: StrBytes,
    instance: Option<StrBytes>,
    version: i16,
    member_id: StrBytes,
    generation: i32,
    /// The members it has to assign to, if it leads.
    led: Option<Vec<StrBytes>>,
    waiting: Option<Call>,
}

type Offsets = BTreeMap<(StrBytes, StrBytes, i32), OffsetValue>;

struct Walk {
    random: Random,
    shard: GroupShard,
    now: Mono,
    wall: WallMs,
    clients: Vec<Client>,
    open: BTreeMap<Call, usize>,
    next_call: u64,
    next_connection: u64,
    appends: Vec<(AppendId, Vec<OffsetsRecord>)>,
    /// What is durable, in order.
    log: Vec<OffsetsRecord>,
    /// Groups whose last record could not be made durable.
    unstored: BTreeSet<StrBytes>,
    /// (group, generation) to (leader, protocol) as the dynamic members were told.
    generations: BTreeMap<(StrBytes, i32), (StrBytes, Option<StrBytes>)>,
    answered: u64,
    assigned: u64,
    committed: u64,
}

fn config() -> GroupConfig {
    GroupConfig {
        groups_max: 4,
        members_max: 6,
        offsets_max: 5,
        offsets_retention: Duration::from_secs(400),
        offsets_retention_check_interval: Duration::from_mins(1),
        ..GroupConfig::default()
    }
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random(seed);
        let image = image_with(&[("t", 1), ("u", 2)]);
        let mut shard = GroupShard::new(config(), image);
        let (now, wall) = (Mono::from_millis(1), WallMs(1_000_000));
        shard.on_event(Event::Loaded, now, wall, &mut Vec::new());
        let clients = (0..8)
            .map(|n| Client {
                connection: n,
                group: text(["g", "h"][usize::try_from(n % 2).unwrap()]),
                instance: [None, None, Some(text("i1")), Some(text("i2"))]
                    [usize::try_from(random.below(4)).unwrap()]
                .clone(),
                version: i16::try_from(random.below(10)).unwrap(),
                generation: -1,
                ..Client::default()
            })
            .collect();
        Walk {
            random,
            shard,
            now,
            wall,
            clients,
            open: BTreeMap::new(),
            next_call: 0,
            next_connection: 100,
            appends: Vec::new(),
            log: Vec::new(),
            unstored: BTreeSet::new(),
            generations: BTreeMap::new(),
            answered: 0,
            assigned: 0,
            committed: 0,
        }
    }

    fn step(&mut self) {
        let n = usize::try_from(self.random.below(8)).unwrap();
        match self.random.below(40) {
            16..=19 => self.client_commits(n),
            20..=27 => self.append_completes(),
            28..=32 => self.time_passes(),
            33 => self.client_lies(n),
            34 => self.connection_closes(n),
            35 if self.random.one_in(3) => self.client_leaves(n),
            36 if self.random.one_in(10) => self.topic_is_recreated(),
            37 if self.random.one_in(10) => self.admin_deletes(),
            38 if self.random.one_in(4) => self.compare_with_a_replay(),
            _ => self.client_goes_on(n),
        }
    }

    /// What a correct client does next.
    fn client_goes_on(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.waiting.is_some() {
            return;
        }
        let request = if client.generation < 0 {
            let names: &[&str] = if self.random.one_in(5) { &["b"] } else { &["a", "b"] };
            join(&client.group, &client.member_id, client.instance.as_ref(), names)
        } else if let Some(members) = &client.led {
            let given: Vec<(StrBytes, Bytes)> = members
                .iter()
                .map(|id| (id.clone(), format!("{}:{}", client.generation, &**id).into()))
                .collect();
            self.clients[n].led = None;
            sync(
                &client.group,
                &client.member_id,
                client.instance.as_ref(),
                client.generation,
                &given,
            )
        } else if self.random.one_in(2) {
            sync(&client.group, &client.member_id, client.instance.as_ref(), client.generation, &[])
        } else {
            heartbeat(&client.group, &client.member_id, client.instance.as_ref(), client.generation)
        };
        self.send(n, request);
    }

    fn client_commits(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.waiting.is_some() {
            return;
        }
        let partition = i32::try_from(self.random.below(3)).unwrap();
        let topic = ["t", "u"][usize::try_from(self.random.below(2)).unwrap()];
        let offset = i64::try_from(self.random.below(1000)).unwrap();
        let mut request =
            commit(&client.group, &client.member_id, client.generation, topic, partition, offset);
        if let Request::Commit(request) = &mut request {
            request.group_instance_id.clone_from(&client.instance);
            if self.random.one_in(6) {
                request.retention_time_ms = i64::try_from(self.random.below(200_000)).unwrap();
            }
        }
        self.send(n, request);
    }

    /// Stale generations, other members' ids, second requests while one waits.
    fn client_lies(&mut self, n: usize) {
        let other = usize::try_from(self.random.below(8)).unwrap();
        let (mut client, liar) = (self.clients[n].clone(), self.clients[other].clone());
        client.member_id = liar.member_id;
        client.generation += i32::try_from(self.random.below(3)).unwrap() - 1;
        let request = match self.random.below(4) {
            0 => join(&client.group, &client.member_id, client.instance.as_ref(), &["a"]),
            1 => sync(&client.group, &client.member_id, None, client.generation, &[]),
            2 => heartbeat(
                &client.group,
                &client.member_id,
                client.instance.as_ref(),
                client.generation,
            ),
            _ => commit(&client.group, &client.member_id, client.generation, "t", 0, 1),
        };
        // Its answer is nobody's: the liar does not listen.
        self.send_as(n, usize::MAX, request);
    }

    fn client_leaves(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.waiting.is_none() {
            let request =
                leave(&client.group, &client.member_id, client.instance.as_ref(), client.version);
            self.send(n, request);
            self.clients[n].generation = -1;
            self.clients[n].member_id = StrBytes::new();
        }
    }

    fn connection_closes(&mut self, n: usize) {
        let connection = self.clients[n].connection;
        self.clients[n].waiting = None;
        self.clients[n].connection = self.next_connection;
        self.next_connection += 1;
        self.event(Event::ConnectionClosed(connection));
        if self.random.one_in(2) {
            // The process is gone; another takes its place.
            self.clients[n].member_id = StrBytes::new();
            self.clients[n].generation = -1;
            self.clients[n].led = None;
        }
    }

    fn topic_is_recreated(&mut self) {
        let id = u128::from(self.random.below(1_000_000)) + 10;
        self.event(Event::Image(image_with(&[("t", 1), ("u", id)])));
    }

    fn admin_deletes(&mut self) {
        let group = self.clients[usize::try_from(self.random.below(2)).unwrap()].group.clone();
        self.send_as(0, usize::MAX, Request::Delete(group));
    }

    fn append_completes(&mut self) {
        if self.appends.is_empty() {
            return;
        }
        let (append, records) = self.appends.remove(0);
        let fails = self.random.one_in(25);
        for record in &records {
            if let OffsetsRecord::Group(group, _) = record {
                if fails {
                    self.unstored.insert(group.clone());
                } else {
                    self.unstored.remove(group);
                }
            }
        }
        let outcome = if fails {
            Err(ErrorCode::NOT_COORDINATOR)
        } else {
            self.log.extend(records);
            Ok(())
        };
        self.event(Event::Appended { append, outcome });
    }

    fn time_passes(&mut self) {
        let span = match self.random.below(6) {
            0 => Duration::from_millis(self.random.below(300)),
            1 => Duration::from_secs(self.random.below(20)),
            2 if self.random.one_in(4) => Duration::from_secs(self.random.below(600)),
            _ => match self.shard.deadline() {
                Some(deadline) => deadline.since(self.now),
                None => Duration::ZERO,
            },
        };
        self.now = self.now + span;
        self.wall = WallMs(self.wall.0 + i64::try_from(span.as_millis()).unwrap());
        self.event(Event::Tick);
    }

    fn caller(&self, n: usize) -> Caller {
        let client = &self.clients[n];
        Caller {
            connection: client.connection,
            api_version: client.version,
            client_id: text("client"),
            client_host: text("/127.0.0.1"),
        }
    }

    fn send(&mut self, n: usize, request: Request) {
        self.clients[n].waiting = Some(Call(self.next_call + 1));
        self.send_as(n, n, request);
    }

    /// Sends on client `n`'s connection; `listener` hears the answer.
    fn send_as(&mut self, n: usize, listener: usize, mut request: Request) {
        self.next_call += 1;
        let call = Call(self.next_call);
        if let Request::Join { unique, request } = &mut request {
            *unique = StrBytes::from_string(call.0.to_string());
            if self.random.one_in(10) {
                request.rebalance_timeout_ms = 0;
            }
        }
        self.open.insert(call, listener);
        let caller = self.caller(n);
        self.event(Event::Request { call, caller, request });
    }

    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.shard.on_event(event, self.now, self.wall, &mut actions);
        for action in actions {
            match action {
                Action::Reply { call, response } => {
                    let n = self.open.remove(&call).expect("an open call is answered, and once");
                    self.answered += 1;
                    if let Some(client) = self.clients.get_mut(n)
                        && client.waiting == Some(call)
                    {
                        client.waiting = None;
                        self.on_response(n, &response);
                    }
                }
                Action::Drop(call) => {
                    self.open.remove(&call).expect("an open call is dropped");
                }
                Action::Append { append, records } => self.appends.push((append, records)),
                Action::Notice(_) => {}
            }
        }
        self.shard.check();
        // A group that was forgotten begins at generation 0 again.
        self.generations.retain(|(group, _), _| self.shard.has_group(group));
        let open: BTreeSet<Call> = self.open.keys().copied().collect();
        assert_eq!(
            open,
            self.shard.open_calls(),
            "what is unanswered is what the shard will answer"
        );
    }

    fn on_response(&mut self, n: usize, response: &Response) {
        let client = &mut self.clients[n];
        match response {
            Response::Join(response) => {
                let code = response.error_code;
                if code == ErrorCode::MEMBER_ID_REQUIRED.code() {
                    client.member_id = response.member_id.clone();
                } else if code == 0 {
                    client.member_id = response.member_id.clone();
                    client.generation = response.generation_id;
                    let leads = !response.members.is_empty() && !response.skip_assignment;
                    let ids = response.members.iter().map(|member| member.member_id.clone());
                    client.led = leads.then(|| ids.collect());
                    let key = (client.group.clone(), response.generation_id);
                    if client.instance.is_none() {
                        let told = (response.leader.clone(), response.protocol_name.clone());
                        let known = self.generations.entry(key).or_insert_with(|| told.clone());
                        assert_eq!(known.1, told.1, "one protocol in a generation");
                    }
                } else if code != ErrorCode::REBALANCE_IN_PROGRESS.code() {
                    client.member_id = StrBytes::new();
                }
            }
            Response::Sync(response) if response.error_code == 0 => {
                let given = &response.assignment;
                if !given.is_empty() {
                    let prefix = format!("{}:", client.generation);
                    assert!(
                        given.starts_with(prefix.as_bytes()),
                        "{given:?} in generation {prefix}"
                    );
                    let is_stored = self.log.iter().any(|record| {
                        matches!(record, OffsetsRecord::Group(group, Some(value))
                            if *group == client.group && value.generation == client.generation)
                    });
                    assert!(is_stored, "generation {prefix} is used before it is durable");
                    self.assigned += 1;
                }
            }
            Response::Sync(response) => Walk::on_error(client, response.error_code),
            Response::Heartbeat(response) => Walk::on_error(client, response.error_code),
            Response::Commit(response) => {
                let is_stored = response.topics[0].partitions[0].error_code == 0;
                self.committed += u64::from(is_stored);
            }
            _ => {}
        }
    }

    fn on_error(client: &mut Client, code: i16) {
        if code == 0 {
            return;
        }
        client.generation = -1;
        client.led = None;
        if code != ErrorCode::REBALANCE_IN_PROGRESS.code() {
            client.member_id = StrBytes::new();
        }
    }

    /// The offsets that a fetch sees.
    fn visible(shard: &mut GroupShard, now: Mono) -> Offsets {
        let mut offsets = Offsets::new();
        for group in ["g", "h"] {
            let request =
                Request::FetchOffsets(FetchOffsets { group_id: text(group), topics: None });
            let caller = Caller {
                connection: 0,
                api_version: 8,
                client_id: StrBytes::new(),
                client_host: StrBytes::new(),
            };
            let mut actions = Vec::new();
            let event = Event::Request { call: Call(0), caller, request };
            shard.on_event(event, now, WallMs(0), &mut actions);
            let [Action::Reply { response: Response::FetchOffsets(fetched), .. }] = &actions[..]
            else {
                panic!("{actions:?}");
            };
            for (topic, partitions) in &fetched.topics {
                for (partition, value) in partitions {
                    let key = (text(group), topic.clone(), *partition);
                    offsets.insert(key, value.clone().unwrap());
                }
            }
        }
        offsets
    }

    /// A broker that starts now from what is durable sees the same offsets, and the same settled groups.
    fn compare_with_a_replay(&mut self) {
        let image = Arc::new(ClusterImage::default());
        let mut replayed = GroupShard::new(config(), image);
        for record in &self.log {
            let (key, value) = record.encode().unwrap();
            let record = OffsetsRecord::decode(&key, value.as_deref()).unwrap();
            replayed.on_event(Event::Replayed(record), self.now, self.wall, &mut Vec::new());
        }
        replayed.on_event(Event::Loaded, self.now, self.wall, &mut Vec::new());
        replayed.check();
        assert_eq!(
            Walk::visible(&mut self.shard, self.now),
            Walk::visible(&mut replayed, self.now)
        );
        for group in ["g", "h"].map(text) {
            let settled = |shard: &GroupShard| -> Option<GroupValue> { shard.settled(&group) };
            if let Some(value) = settled(&self.shard)
                && self.appends.is_empty()
                && !self.unstored.contains(&group)
            {
                let same = settled(&replayed).map(|mut replayed| {
                    replayed.state_timestamp = value.state_timestamp;
                    replayed
                });
                assert_eq!(same, Some(value));
            }
        }
    }

    /// Everything under way comes to an end when appends go through and time passes.
    fn quiesce(&mut self) {
        for _ in 0..2000 {
            self.append_completes();
            self.now = self.now + Duration::from_secs(1);
            self.event(Event::Tick);
            if self.open.is_empty() && self.appends.is_empty() {
                return;
            }
        }
        panic!("calls are never answered: {:?}", self.open);
    }
}

#[test]
fn any_walk_keeps_the_invariants_and_answers_everything_once() {
    let (mut answered, mut assigned, mut committed) = (0, 0, 0);
    for seed in 0..24 {
        // Printed by the test harness if the walk fails.
        println!("seed {seed}");
        let mut walk = Walk::new(seed);
        for _ in 0..1000 {
            walk.step();
        }
        walk.quiesce();
        walk.compare_with_a_replay();
        walk.event(Event::Resigned);
        assert!(walk.open.is_empty());
        answered += walk.answered;
        assigned += walk.assigned;
        committed += walk.committed;
    }
    // The walk must get somewhere, or it proves nothing.
    assert!(
        assigned > 400 && committed > 200,
        "{answered} answers, {assigned} assignments, {committed} commits"
    );
}

/// Giving up the partition at any moment answers whatever is open.
#[test]
fn resigning_at_any_moment_answers_everything() {
    for seed in 100..125 {
        println!("seed {seed}");
        let mut walk = Walk::new(seed);
        for _ in 0..seed * 3 {
            walk.step();
        }
        walk.event(Event::Resigned);
        assert!(walk.open.is_empty(), "seed {seed}: {:?}", walk.open);
        // Appends that end afterwards concern nobody.
        let appends = std::mem::take(&mut walk.appends);
        for (append, _) in appends {
            walk.event(Event::Appended { append, outcome: Ok(()) });
        }
    }
}
