//! Fetch (1), versions 4-12. KIP-74 (byte limits), KIP-227 (sessions, not kept), KIP-320 (leader epochs), KIP-392 (racks, unused).
//!
//! A long poll: the answer comes with `min_bytes`, at `max_wait_ms`, or with the first error. The first batch goes out
//! whole even if it is larger than every limit, and an offset inside a batch returns that batch; clients skip what they did
//! not ask for. There are no fetch sessions: session id 0 makes clients send full requests, any other is
//! FETCH_SESSION_ID_NOT_FOUND. Differs: one answer holds at most `limits.fetch_size` bytes; `last_fetched_epoch` is not
//! checked (only replicas send it). There are no transactions, so the last stable offset is the high watermark.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Deadline;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::fetch::{FetchResponse, FetchableTopic, FetchedPartition};
use tailway_wire::messages::fetch_request::FetchPartition;
use tailway_wire::messages::{FetchRequest, TopicName};
use tailway_wire::record::BatchIter;
use tokio::sync::watch;

use super::error::partition_error_code;
use crate::cluster::{PartitionDoor, Routes};
use crate::partition::Watermarks;
use crate::server::budget::{Budget, Share};
use crate::server::context::Closing;

const READ_COMMITTED: i8 = 1;
/// Bytes of records that a fetch waits for memory for, however scarce it is.
const LEAST_SHARE: usize = 64 << 10;
/// A longer poll is cut to this: `max_wait_ms` is the client's word.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Session epochs of a client that has no session: to start one, or to do without.
const SESSIONLESS_EPOCHS: [i32; 2] = [0, -1];

/// What bounds an answer besides the request.
pub struct FetchLimits<'a> {
    /// Most bytes of one answer.
    pub fetch_size: usize,
    pub responses: &'a Budget,
    pub closing: Closing,
}

/// An answer and the memory that it holds until it is sent.
pub struct Fetched {
    pub response: FetchResponse,
    pub shares: Vec<Share>,
}

pub async fn handle(request: FetchRequest, routes: &Routes, limits: FetchLimits<'_>) -> Fetched {
    if request.session_id != 0 || !SESSIONLESS_EPOCHS.contains(&request.session_epoch) {
        let error_code = ErrorCode::FETCH_SESSION_ID_NOT_FOUND;
        let response = FetchResponse { error_code, ..FetchResponse::default() };
        return Fetched { response, shares: Vec::new() };
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Deadline::after(wait.min(WAIT_MAX));
    let most = usize::try_from(request.max_bytes).unwrap_or(0).min(limits.fetch_size);
    let least = usize::try_from(request.min_bytes).unwrap_or(0).min(most);
    let isolation_level = request.isolation_level;
    let mut reading =
        Reading { topics: resolve(request, routes), total: 0, most, shares: Vec::new() };
    let mut closing = limits.closing;
    loop {
        reading.read(limits.responses).await;
        let enough = reading.total >= least || deadline.remaining().is_zero();
        let must_go = reading.total > 0 && limits.responses.is_scarce();
        if enough || must_go || reading.is_over() {
            break;
        }
        tokio::select! {
            biased;
            () = closing.closed() => break,
            changed = deadline.run(reading.changed()) => if changed.is_none() { break },
        }
    }
    reading.answer(isolation_level)
}

struct Reading {
    topics: Vec<(TopicName, Vec<Wanted>)>,
    total: usize,
    most: usize,
    shares: Vec<Share>,
}

/// One partition of the request.
struct Wanted {
    index: i32,
    max_bytes: usize,
    state: Result<Cursor, ErrorCode>,
}

/// How far a partition has been read for this answer.
struct Cursor {
    door: PartitionDoor,
    watermarks: watch::Receiver<Watermarks>,
    /// Where the next read begins.
    next: i64,
    got: Vec<Bytes>,
    bytes: usize,
    /// A limit was met: later records belong to the next request.
    full: bool,
    /// Read at least once, so that a bad offset has been noticed.
    checked: bool,
    high_watermark: i64,
    log_start: i64,
}

fn resolve(request: FetchRequest, routes: &Routes) -> Vec<(TopicName, Vec<Wanted>)> {
    let image = routes.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let wanted = topic.partitions.iter().map(|partition| Wanted {
            index: partition.partition,
            max_bytes: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
            state: routes
                .partition(
                    &image,
                    &topic.topic,
                    partition.partition,
                    partition.current_leader_epoch,
                )
                .map(|door| Cursor::new(door, partition)),
        });
        topics.push((topic.topic.clone(), wanted.collect()));
    }
    topics
}

impl Cursor {
    fn new(door: PartitionDoor, partition: &FetchPartition) -> Self {
        Self {
            watermarks: door.watermarks(),
            door,
            next: partition.fetch_offset,
            got: Vec::new(),
            bytes: 0,
            full: false,
            checked: false,
            high_watermark: -1,
            log_start: -1,
        }
    }

    /// Whether a read could give or tell something.
    fn is_worth_a_read(&mut self) -> bool {
        let watermarks = *self.watermarks.borrow_and_update();
        self.high_watermark = watermarks.high_watermark;
        self.log_start = watermarks.log_start;
        !self.checked || (!self.full && self.next < watermarks.high_watermark)
    }

    /// One read. Returns how many bytes it added.
    async fn read(&mut self, most: usize, min_one_batch: bool) -> Result<usize, ErrorCode> {
        let slice = self
            .door
            .read(self.next, most, min_one_batch)
            .await
            .map_err(|error| partition_error_code(&error))?;
        self.checked = true;
        self.high_watermark = slice.high_watermark;
        self.log_start = slice.log_start_offset;
        let added = slice.len();
        match end_of(&slice.records) {
            Some(end) => {
                self.next = end;
                // Anything between here and the watermark did not fit.
                self.full = end < slice.high_watermark;
            }
            // Nothing came although there is something: it did not fit either.
            None => self.full = self.next < slice.high_watermark,
        }
        self.got.extend(slice.records);
        self.bytes += added;
        Ok(added)
    }
}

/// The offset after the last batch.
fn end_of(records: &[Bytes]) -> Option<i64> {
    let last = records.iter().rev().find(|piece| !piece.is_empty())?;
    let batch = BatchIter::new(last.clone()).filter_map(Result::ok).last()?;
    Some(batch.header.last_offset() + 1)
}

impl Reading {
    /// Reads what there is, partition by partition in the order of the request, up to the limits.
    async fn read(&mut self, responses: &Budget) {
        let cursors = self.topics.iter_mut().flat_map(|(_, wanted)| wanted);
        for wanted in cursors {
            let Ok(cursor) = &mut wanted.state else { continue };
            let first = self.total == 0;
            let room = self.most.saturating_sub(self.total);
            let most = room.min(wanted.max_bytes.saturating_sub(cursor.bytes));
            if !cursor.is_worth_a_read() || (most == 0 && !first && cursor.checked) {
                continue;
            }
            let least = most.min(LEAST_SHARE);
            let share = if self.shares.is_empty() {
                Some(responses.take_some(least, most).await)
            } else {
                responses.try_take_some(least, most)
            };
            // No memory: the rest belongs to the next request.
            let Some(mut share) = share else { break };
            match cursor.read(share.bytes(), first).await {
                Ok(added) => {
                    self.total += added;
                    if added > 0 {
                        share.shrink_to(added);
                        self.shares.push(share);
                    }
                }
                Err(code) => wanted.state = Err(code),
            }
        }
    }

    /// Whether waiting cannot make the answer better: an error to tell, or nothing to wait for.
    fn is_over(&self) -> bool {
        let mut waiting = 0;
        for wanted in self.topics.iter().flat_map(|(_, wanted)| wanted) {
            match &wanted.state {
                Err(_) => return true,
                Ok(cursor) if cursor.full => {}
                Ok(_) => waiting += 1,
            }
        }
        waiting == 0
    }

    /// Returns once the watermarks of any partition move (or one closes). Cancel-safe.
    async fn changed(&mut self) {
        let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
        for wanted in self.topics.iter_mut().flat_map(|(_, wanted)| wanted) {
            if let Ok(cursor) = &mut wanted.state
                && !cursor.full
            {
                let watermarks = &mut cursor.watermarks;
                // A closed partition says why at the next read.
                waits.push(Box::pin(async move { drop(watermarks.changed().await) }));
            }
        }
        poll_fn(|cx| {
            let any = waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready());
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn answer(self, isolation_level: i8) -> Fetched {
        let topics = self.topics.into_iter().map(|(name, wanted)| FetchableTopic {
            name,
            partitions: wanted.into_iter().map(|wanted| fetched(wanted, isolation_level)).collect(),
        });
        let response = FetchResponse { topics: topics.collect(), ..FetchResponse::default() };
        Fetched { response, shares: self.shares }
    }
}

fn fetched(wanted: Wanted, isolation_level: i8) -> FetchedPartition {
    match wanted.state {
        Ok(cursor) => FetchedPartition {
            aborted_transactions: (isolation_level == READ_COMMITTED).then(Vec::new),
            ..FetchedPartition::read(
                wanted.index,
                cursor.high_watermark,
                cursor.log_start,
                cursor.got,
            )
        },
        Err(code) => FetchedPartition::failed(wanted.index, code),
    }
}
