//! A Kafka of one topic and one partition in memory, with a producer's sequences checked as Kafka
//! checks them, and with faults on demand. It speaks through the same codec as the client, so it
//! is no witness for the protocol; it is one for what the agent does when things go wrong.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use tailway_metadata::ids::TopicId;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{
    Batch, BatchBuilder, BatchIter, Compression, patch_base_offset, stamp_producer,
};

use super::PATIENCE;

/// What Produce does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Stores batches and does not answer.
    NoAnswer,
    /// Neither stores nor answers.
    Deaf,
    /// Refuses batches above this size.
    SizeMax(usize),
    /// Keeps batches back and does not answer: requests that are slow on their way.
    Hold,
    /// Stores what was held back just before the next batch, once.
    ReleaseBefore,
    /// Stores what was held back just after the next batch, once.
    ReleaseAfter,
    /// Stores what was held back just before the next batch, and then forgets all producers; once.
    ReleaseAndForget,
    /// Stores batches and refuses them all the same.
    StoreAndRefuse(ErrorCode),
    /// Refuses batches without a look at them.
    Refuse(ErrorCode),
}

/// What it tells of its producers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tells {
    /// It does not serve DescribeProducers, as before Kafka 2.8.
    TooOld,
    All,
    /// The agent may not read the topic: neither DescribeProducers nor Fetch.
    NoPermission,
}

/// What a broker remembers of a producer.
#[derive(Debug)]
struct Producer {
    epoch: i16,
    next: i32,
    /// Offsets of the batches that it knows again, by first and last sequence; oldest first.
    known: VecDeque<((i32, i32), i64)>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// A producer that it does not know must begin with sequence 0, as from Kafka 4.5 on.
    strict: bool,
    /// Answers a batch that it knows again without its offset.
    untold: bool,
    /// Fetch requests that are still to be refused.
    fetches_refused: usize,
    fetches: usize,
    tells: Tells,
    /// Milliseconds.
    producer_expiration: Option<u64>,
    /// The end of what is committed, where that is not all.
    committed: Option<i64>,
    held: Vec<Bytes>,
    /// What became of the batches that were held back.
    late: Vec<Result<i64, ErrorCode>>,
    log: Vec<(i64, Bytes)>,
    start: i64,
    end: i64,
    cluster: &'static str,
    topic_id: TopicId,
    producers: BTreeMap<i64, Producer>,
    producer_next: i64,
    produces: usize,
}

/// The broker; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Kafka {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Kafka {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            fault: Fault::None,
            strict: false,
            untold: false,
            fetches_refused: 0,
            fetches: 0,
            tells: Tells::All,
            producer_expiration: None,
            committed: None,
            held: Vec::new(),
            late: Vec::new(),
            log: Vec::new(),
            start: 0,
            end: 0,
            cluster: "test",
            topic_id: TopicId(tailway_runtime::uuid()),
            producers: BTreeMap::new(),
            producer_next: 1_000,
            produces: 0,
        };
        let kafka = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new((Mutex::new(state), Condvar::new())),
        };
        let serving = kafka.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kafka = serving.clone();
                std::thread::spawn(move || kafka.serve(stream));
            }
        });
        kafka
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.state.0.lock().unwrap().fault = fault;
    }

    /// From now on a producer that it does not know must begin with sequence 0.
    pub(crate) fn be_strict(&self) {
        self.state.0.lock().unwrap().strict = true;
    }

    /// From now on a batch that it knows again is answered without its offset.
    pub(crate) fn tell_no_old_offsets(&self) {
        self.state.0.lock().unwrap().untold = true;
    }

    /// Refuses so many Fetch requests, for a reason that passes.
    pub(crate) fn refuse_fetches(&self, n: usize) {
        self.state.0.lock().unwrap().fetches_refused = n;
    }

    /// What it tells of its producers from now on; at first all.
    pub(crate) fn tell(&self, tells: Tells) {
        self.state.0.lock().unwrap().tells = tells;
    }

    /// Its `producer.id.expiration.ms`.
    pub(crate) fn expire_producers_after(&self, ms: u64) {
        self.state.0.lock().unwrap().producer_expiration = Some(ms);
    }

    /// What is in the log by now is committed, and what comes is not until `commit_all`.
    pub(crate) fn commit_no_more(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.committed = Some(state.end);
    }

    pub(crate) fn commit_all(&self) {
        self.state.0.lock().unwrap().committed = None;
    }

    /// Another broker leads: what was not committed is gone.
    pub(crate) fn fail_over(&self) {
        let mut state = self.state.0.lock().unwrap();
        let committed = state.committed.take().unwrap();
        state.log.retain(|(offset, _)| *offset < committed);
        state.end = committed;
        for producer in state.producers.values_mut() {
            producer.known.retain(|(_, offset)| *offset < committed);
            producer.next = producer.known.back().map_or(0, |((_, last), _)| last + 1);
        }
    }

    /// Fetch requests so far.
    pub(crate) fn fetches(&self) -> usize {
        self.state.0.lock().unwrap().fetches
    }

    /// Forgets all producers, as after `producer.id.expiration.ms`.
    pub(crate) fn forget_producers(&self) {
        self.state.0.lock().unwrap().producers.clear();
    }

    /// Remembers of each producer its last batch only, as a restarted broker does.
    pub(crate) fn restart(&self) {
        for producer in self.state.0.lock().unwrap().producers.values_mut() {
            let before_last = producer.known.len().saturating_sub(1);
            producer.known.drain(..before_last);
        }
    }

    /// Carries out what was held back; how each ended.
    pub(crate) fn release(&self) -> Vec<Result<i64, ErrorCode>> {
        let mut state = self.state.0.lock().unwrap();
        state.late.clear();
        state.release();
        self.state.1.notify_all();
        state.late.clone()
    }

    /// Carries out the first `n` of what was held back.
    pub(crate) fn release_first(&self, n: usize) {
        let mut state = self.state.0.lock().unwrap();
        let rest = state.held.split_off(n);
        state.release();
        state.held = rest;
    }

    /// How what was held back ended.
    pub(crate) fn late(&self) -> Vec<Result<i64, ErrorCode>> {
        self.state.0.lock().unwrap().late.clone()
    }

    /// Batches that are held back.
    pub(crate) fn held(&self) -> usize {
        self.state.0.lock().unwrap().held.len()
    }

    /// Deletes all below the end of the log, as retention does.
    pub(crate) fn delete_all(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.log.clear();
        state.start = state.end;
    }

    /// Stores a batch that is not the agent's.
    pub(crate) fn store_foreign(&self) {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(0, None, Some(b"{\"message\":\"foreign\"}"), &[]).unwrap();
        self.state.0.lock().unwrap().append(builder.finish().unwrap()).unwrap();
    }

    /// Drops what is held back, and stores another batch under its producer and sequences.
    pub(crate) fn usurp(&self) {
        let mut state = self.state.0.lock().unwrap();
        let held = state.held.pop().unwrap();
        let header = Batch::parse(&held).unwrap().header;
        let mut builder = BatchBuilder::new(Compression::None);
        let mut headers: &[(&str, Option<&[u8]>)] = &[("tailway.origin", Some(b"other:0-9"))];
        for _ in 0..header.records_count {
            builder.append(0, None, Some(b"{\"message\":\"theirs\"}"), headers).unwrap();
            headers = &[];
        }
        let (id, epoch, first) = (header.producer_id, header.producer_epoch, header.base_sequence);
        let batch = stamp_producer(builder.finish().unwrap(), id, epoch, first).unwrap();
        state.append(batch).unwrap();
    }

    /// Another cluster has its address now, with a topic of the same name and a producer that has
    /// the id of the one that was here.
    pub(crate) fn become_another_cluster(&self) {
        self.recreate_topic();
        let mut state = self.state.0.lock().unwrap();
        state.cluster = "other";
        let namesake = state.producer_next;
        // It has sent what a blind resend would be taken for.
        let known = (0..30).map(|first| ((first, first + 9), 0)).collect();
        state.producers.insert(namesake, Producer { epoch: 0, next: 40, known });
        state.producer_next += 1_000;
    }

    /// Producers that it remembers.
    pub(crate) fn producers(&self) -> usize {
        self.state.0.lock().unwrap().producers.len()
    }

    /// Deletes the topic and makes another one of that name.
    pub(crate) fn recreate_topic(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.log.clear();
        state.producers.clear();
        (state.start, state.end) = (0, 0);
        state.topic_id = TopicId(tailway_runtime::uuid());
    }

    /// The messages of all events, in order.
    pub(crate) fn messages(&self) -> Vec<String> {
        messages(&self.state.0.lock().unwrap())
    }

    /// Waits until `n` events are stored.
    pub(crate) fn wait_for(&self, n: usize) -> Vec<String> {
        let guard = self.state.0.lock().unwrap();
        let short = |state: &mut State| messages(state).len() < n;
        let (state, waited) = self.state.1.wait_timeout_while(guard, PATIENCE, short).unwrap();
        assert!(
            !waited.timed_out(),
            "{n} events were waited for, there are {:?}",
            messages(&state)
        );
        messages(&state)
    }

    /// Waits until the log has `n` records, without a look at them: for many.
    pub(crate) fn wait_for_end(&self, n: i64) {
        let guard = self.state.0.lock().unwrap();
        let short = |state: &mut State| state.end < n;
        let (state, waited) = self.state.1.wait_timeout_while(guard, PATIENCE, short).unwrap();
        assert!(!waited.timed_out(), "{n} records were waited for, there are {}", state.end);
    }

    /// Produce requests so far, and batches that they left.
    pub(crate) fn produced(&self) -> (usize, usize) {
        let state = self.state.0.lock().unwrap();
        (state.produces, state.log.len())
    }

    /// Waits for that many Produce requests in all.
    pub(crate) fn wait_for_produces(&self, n: usize) {
        let guard = self.state.0.lock().unwrap();
        let few = |state: &mut State| state.produces < n;
        let (state, waited) = self.state.1.wait_timeout_while(guard, PATIENCE, few).unwrap();
        assert!(!waited.timed_out(), "{n} requests were waited for, {} came", state.produces);
    }

    /// A header of the first record of each batch.
    pub(crate) fn batch_headers(&self, key: &str) -> Vec<String> {
        let state = self.state.0.lock().unwrap();
        let first = |(_, bytes): &(i64, Bytes)| {
            let records = Batch::parse(bytes).unwrap().records(1 << 24).unwrap();
            let record = records.map(Result::unwrap).next().unwrap();
            String::from_utf8(record.headers.get(key).unwrap().to_vec()).unwrap()
        };
        state.log.iter().map(first).collect()
    }
}

impl State {
    /// Stores a batch, or recognises it, or refuses a gap, as Kafka does.
    fn append(&mut self, bytes: Bytes) -> Result<i64, ErrorCode> {
        let batch = Batch::parse(&bytes).unwrap();
        batch.validate().unwrap();
        let header = batch.header;
        if header.producer_id < 0 {
            return Ok(self.store(&bytes, header.records_count));
        }
        let (epoch, first) = (header.producer_epoch, header.base_sequence);
        let sequences = (first, header.last_sequence());
        let fresh = Producer { epoch, next: 0, known: VecDeque::new() };
        match self.producers.get(&header.producer_id) {
            None if self.strict && first != 0 => {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            None => drop(self.producers.insert(header.producer_id, fresh)),
            Some(producer) if epoch < producer.epoch => {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            Some(producer) if epoch > producer.epoch => {
                if first != 0 {
                    return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
                }
                self.producers.insert(header.producer_id, fresh);
            }
            Some(producer) => {
                let old = producer.known.iter().find(|(known, _)| *known == sequences);
                if let Some((_, offset)) = old {
                    return Ok(if self.untold { -1 } else { *offset });
                }
                if producer.next != first {
                    return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
                }
            }
        }
        let offset = self.end;
        let producer = self.producers.get_mut(&header.producer_id).unwrap();
        producer.next = first + header.records_count;
        producer.known.push_back((sequences, offset));
        if producer.known.len() > 5 {
            producer.known.pop_front();
        }
        Ok(self.store(&bytes, header.records_count))
    }

    fn store(&mut self, bytes: &Bytes, records: i32) -> i64 {
        let offset = self.end;
        self.end += i64::from(records);
        let mut stored = bytes.to_vec();
        patch_base_offset(&mut stored, offset).unwrap();
        self.log.push((offset, Bytes::from(stored)));
        offset
    }

    fn release(&mut self) {
        for bytes in std::mem::take(&mut self.held) {
            let ended = self.append(bytes);
            self.late.push(ended);
        }
    }
}

fn messages(state: &State) -> Vec<String> {
    let mut messages = Vec::new();
    for (_, bytes) in &state.log {
        for batch in BatchIter::new(bytes.clone()) {
            for record in batch.unwrap().records(1 << 24).unwrap() {
                let value = record.unwrap().value.unwrap();
                let event: serde_json::Value = serde_json::from_slice(&value).unwrap();
                messages.push(event["message"].as_str().unwrap().to_owned());
            }
        }
    }
    messages
}
