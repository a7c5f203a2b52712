//! What became of batches that were sent but never acknowledged to us: they are asked for, or looked for. The agent and
//! the broker's Kafka sinks ask in this one way.
//!
//! No two processes or pipelines begin anew under the same producer id and epoch, so a batch with
//! that id, epoch and sequences is the planned one and nothing else; in another cluster the id may
//! be somebody else's, so the origin header must be the plan's as well. The leader tells what it
//! remembers of a producer (`judge`): its sequences are appended or not, at once, however much
//! others wrote meanwhile. Appended is not committed, so that is no proof yet. Where it remembers
//! nothing, or does not tell, the partition is scanned, headers only, from the offset behind the
//! last acknowledged batch to the high watermark. What retention has deleted of it proves nothing,
//! and that is told; a partition that ends before the place to look from is another one than it
//! was, and is looked at from its start.

use std::time::Duration;

use tailway_metadata::ids::TopicPartition;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{Batch, BatchIter};

use crate::client::{Client, FetchFrom, FetchLimits, OffsetSpec};
use crate::error::ClientError;
use crate::producers::ActiveProducer;

const FETCH_BYTES: i32 = 1 << 20;
/// A batch is decompressed only to read the header of its first record, and was made by one of ours.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// A batch that may or may not be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
    /// The header of its first record that says where it is from, and what that says.
    pub header: &'static str,
    pub origin: String,
    /// Its producer id may be somebody else's too: it was made in another cluster, or in a journal
    /// that was copied.
    pub foreign: bool,
}

impl Doubt {
    pub fn record_count(&self) -> i32 {
        // Sequences go on at 0 after `i32::MAX`.
        (self.last_sequence.wrapping_sub(self.first_sequence) & i32::MAX).wrapping_add(1)
    }

    /// Whether the batch has its producer and sequences, and if so, whether it is this one.
    fn matches(&self, batch: &Batch) -> Option<bool> {
        let header = &batch.header;
        let has_sequences = self.producer_id == header.producer_id
            && self.producer_epoch == header.producer_epoch
            && self.first_sequence == header.base_sequence
            && self.last_sequence == header.last_sequence();
        has_sequences.then(|| match origin_of(batch, self.header) {
            Some(origin) => origin == self.origin.as_bytes(),
            None => !self.foreign,
        })
    }
}

fn origin_of(batch: &Batch, header: &str) -> Option<Vec<u8>> {
    let first = batch.records(BATCH_BYTES_MAX).ok()?.next()?.ok()?;
    first.headers.get(header).map(|origin| origin.to_vec())
}

/// What is to be known of a doubtful batch that the leader has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// That it has it: whoever sends it again learns the rest from the answer.
    Appended,
    /// That it is committed. It is waited for.
    Committed,
}

/// What is known of a doubtful batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is in the partition, at this offset, and committed.
    Stored(i64),
    /// The leader has it. Whether it is committed, an acknowledgement tells that is asked for by
    /// sending it again, or a scan that finds it.
    Appended,
    Missing,
}

impl Standing {
    /// Its offset, if it is certain that it is there to stay.
    pub fn offset(self) -> Option<i64> {
        match self {
            Self::Stored(offset) => Some(offset),
            Self::Appended | Self::Missing => None,
        }
    }
}

/// What the leader's memory of its producers says of a doubtful batch; `None`: nothing.
pub fn judge(doubt: &Doubt, producers: &[ActiveProducer]) -> Option<Standing> {
    let is_it = |known: &&ActiveProducer| known.producer_id == doubt.producer_id;
    let known = producers.iter().find(is_it).filter(|_| !doubt.foreign)?;
    let epoch = i32::from(doubt.producer_epoch);
    if known.producer_epoch < epoch {
        // Nothing came of this epoch.
        return Some(Standing::Missing);
    }
    if known.producer_epoch > epoch {
        return None;
    }
    if known.last_sequence < 0 || is_before(known.last_sequence, doubt.first_sequence) {
        return Some(Standing::Missing);
    }
    // Between the two: brokers take a batch whole, so this one was another batch.
    let is_whole = !is_before(known.last_sequence, doubt.last_sequence);
    is_whole.then_some(Standing::Appended)
}

/// What the leader told of all doubts, if that is enough; else they are to be scanned for. A producer
/// that it does not remember may have expired: then it takes what it has stored for new.
pub fn decide(told: &[Option<Standing>], proof: Proof) -> Option<Vec<Standing>> {
    let of = |told: &Option<Standing>| match *told {
        Some(Standing::Appended) if proof == Proof::Committed => None,
        None if tailway_faults::is_planted("agent.expired_producer_resent") => {
            Some(Standing::Missing)
        }
        told => told,
    };
    told.iter().map(of).collect()
}

/// Sequences wrap around after `i32::MAX`; those that are compared are never far apart.
fn is_before(one: i32, other: i32) -> bool {
    let ahead = other.wrapping_sub(one) & i32::MAX;
    ahead != 0 && ahead <= i32::MAX / 2
}

/// Where to look from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookFrom {
    /// Nothing was ever sent to this partition: whatever comes is behind its end.
    End,
    Offset(i64),
    /// Behind records of this time, in milliseconds.
    Time(i64),
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Base offset of each doubtful batch, if it is there; in the order of the doubts.
    pub found: Vec<Option<i64>>,
    /// How often each is there.
    pub copies: Vec<u32>,
    /// The first of what was deleted although it was to be looked at; `None`: nothing was.
    pub deleted_from: Option<i64>,
    /// Everything below it was looked at.
    pub end: i64,
    /// A batch of other lines has the producer and sequences of a doubtful one.
    pub usurped: bool,
}

impl Scanned {
    fn note(&mut self, batch: &Batch, doubts: &[Doubt]) {
        for ((found, copies), doubt) in self.found.iter_mut().zip(&mut self.copies).zip(doubts) {
            match doubt.matches(batch) {
                Some(true) => {
                    found.get_or_insert(batch.header.base_offset);
                    *copies += 1;
                }
                Some(false) => self.usurped |= !doubt.foreign,
                None => {}
            }
        }
    }
}

/// The offset to look from.
pub async fn offset_of(
    client: &Client,
    partition: &TopicPartition,
    from: LookFrom,
) -> Result<i64, ClientError> {
    let listed = async |spec| {
        let listed = client.list_offsets(&[(partition.clone(), spec)]).await?;
        Ok::<i64, ClientError>(listed.first().map_or(-1, |listed| listed.offset))
    };
    match from {
        LookFrom::Offset(offset) => return Ok(offset),
        LookFrom::Time(at) => {
            let offset = listed(OffsetSpec::Timestamp(at)).await?;
            if offset >= 0 {
                return Ok(offset);
            }
            // Nothing is that new.
        }
        LookFrom::End => {}
    }
    Ok(listed(OffsetSpec::Latest).await?.max(0))
}

/// Where the committed part of the partition ends now.
pub async fn end_offset(client: &Client, partition: &TopicPartition) -> Result<i64, ClientError> {
    offset_of(client, partition, LookFrom::End).await
}

/// Looks for batches from `from` on, up to `to` (by default what is committed now).
pub async fn scan(
    client: &Client,
    partition: &TopicPartition,
    from: i64,
    to: Option<i64>,
    doubts: &[Doubt],
) -> Result<Scanned, ClientError> {
    let specs =
        [(partition.clone(), OffsetSpec::Earliest), (partition.clone(), OffsetSpec::Latest)];
    let mut bounds = [0, 0];
    for (bound, spec) in bounds.iter_mut().zip(&specs) {
        let listed = client.list_offsets(std::slice::from_ref(spec)).await?;
        *bound = listed.first().map_or(0, |listed| listed.offset);
    }
    let [earliest, latest] = bounds;
    let end = to.unwrap_or(latest).min(latest);
    let mut scanned = Scanned {
        found: vec![None; doubts.len()],
        copies: vec![0; doubts.len()],
        deleted_from: (from < earliest).then_some(from),
        end,
        usurped: false,
    };
    let mut offset = if from > latest { earliest } else { from.max(earliest) };
    // Of a first look it is enough to know that something is there.
    while offset < end && (to.is_some() || scanned.found.iter().any(Option::is_none)) {
        let records = fetch(client, partition, offset).await?;
        let before = offset;
        for batch in BatchIter::new(records) {
            let batch = batch.map_err(|cause| ClientError::BadRecords {
                partition: partition.clone(),
                offset,
                cause: cause.to_string(),
            })?;
            let header = &batch.header;
            // A fetch may bring more than was asked for.
            if header.base_offset >= end {
                offset = end;
                break;
            }
            scanned.note(&batch, doubts);
            offset = offset.max(header.next_offset());
        }
        if offset == before {
            return Err(ClientError::BadRecords {
                partition: partition.clone(),
                offset,
                cause: format!("the partition reaches to {end}, but nothing is there"),
            });
        }
    }
    Ok(scanned)
}

async fn fetch(
    client: &Client,
    partition: &TopicPartition,
    offset: i64,
) -> Result<bytes::Bytes, ClientError> {
    let route = client.route(partition).await?;
    let from = FetchFrom {
        partition: partition.clone(),
        offset,
        leader_epoch: -1,
        bytes_max: FETCH_BYTES,
    };
    let limits =
        FetchLimits { wait_max: Duration::from_millis(500), bytes_min: 1, bytes_max: FETCH_BYTES };
    let fetched = client.fetch(route.leader, &[from], limits).await?;
    let Some(fetched) = fetched.into_iter().next() else { return Ok(bytes::Bytes::new()) };
    if fetched.error != ErrorCode::NONE {
        client.invalidate(&partition.topic);
        return Err(ClientError::Refused {
            broker: format!("broker {}", route.leader).into(),
            api: "Fetch",
            subject: partition.to_string(),
            code: fetched.error,
            message: None,
        });
    }
    Ok(fetched.records)
}

/// How it became known what became of the doubts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// There was nothing to find out.
    Nothing,
    /// The leader told of its producers.
    Described,
    /// The partition was scanned; the reason, if the leader does not tell.
    Scanned(Option<String>),
    /// Not at all: nothing of it is allowed, for this reason.
    Blind(String),
}

/// What became of the doubts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What is looked for later lies behind this offset.
    pub scan_from: i64,
    /// What is known of each doubtful batch.
    pub found: Vec<Standing>,
    pub how: How,
    /// Somebody else sends under the producer of a doubtful batch.
    pub usurped: bool,
    /// The first of the offsets that were deleted before they could be looked at, if any were.
    pub deleted_from: Option<i64>,
    /// Everything below it was looked at.
    pub looked_to: i64,
}

/// Finds out what became of `doubts`.
pub async fn look(
    client: &Client,
    partition: &TopicPartition,
    doubts: &[Doubt],
    from: LookFrom,
    proof: Proof,
) -> Result<Resolved, ClientError> {
    let scan_from = offset_of(client, partition, from).await?;
    let mut resolved = Resolved {
        scan_from,
        found: Vec::new(),
        how: How::Nothing,
        usurped: false,
        deleted_from: None,
        looked_to: scan_from,
    };
    if doubts.is_empty() {
        return Ok(resolved);
    }
    // Whatever is appended after the question lies behind this.
    let end = end_offset(client, partition).await?;
    let (told, untold) = match client.describe_producers(partition).await {
        Ok(producers) => (doubts.iter().map(|doubt| judge(doubt, &producers)).collect(), None),
        Err(error) if error.cannot_describe_producers() => {
            (vec![None; doubts.len()], Some(error.to_string()))
        }
        Err(error) => return Err(error),
    };
    if let Some(found) = decide(&told, proof) {
        resolved.found = found;
        resolved.how = How::Described;
        resolved.looked_to = end;
        return Ok(resolved);
    }
    let scanned = match scan(client, partition, scan_from, None, doubts).await {
        Ok(scanned) => scanned,
        Err(error) if error.is_no_permission() => {
            resolved.found = vec![Standing::Missing; doubts.len()];
            resolved.how = How::Blind(error.to_string());
            return Ok(resolved);
        }
        Err(error) => return Err(error),
    };
    resolved.found = committed(partition, &told, &scanned)?;
    resolved.how = How::Scanned(untold);
    resolved.usurped = scanned.usurped;
    resolved.deleted_from = scanned.deleted_from;
    resolved.looked_to = scanned.end;
    Ok(resolved)
}

/// What a scan and the leader's memory say together. What the leader has and the scan did not
/// find is above the high watermark: a failover may still take it, so it is looked for again.
fn committed(
    partition: &TopicPartition,
    told: &[Option<Standing>],
    scanned: &Scanned,
) -> Result<Vec<Standing>, ClientError> {
    let each = told.iter().zip(&scanned.found);
    each.map(|(told, offset)| match (offset, told) {
        (Some(offset), _) => Ok(Standing::Stored(*offset)),
        // Retention deleted it: only what is committed is deleted.
        (None, Some(Standing::Appended)) if scanned.deleted_from.is_some() => {
            Ok(Standing::Stored(-1))
        }
        (None, Some(Standing::Appended)) => Err(ClientError::Usage(format!(
            "{partition} has a batch in doubt that its replicas do not have yet; waiting for them"
        ))),
        (None, _) => Ok(Standing::Missing),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_knows_what_it_has_appended() {
        use Standing::{Appended, Missing};
        let doubt = |epoch: i16, first_sequence: i32, last_sequence: i32| Doubt {
            producer_id: 7,
            producer_epoch: epoch,
            first_sequence,
            last_sequence,
            header: "origin",
            origin: String::new(),
            foreign: false,
        };
        let max = i32::MAX;
        // Epoch and last sequence that the leader knows, and the doubt.
        for (known, of, expected) in [
            ((0, 9), doubt(0, 10, 19), Some(Missing)),
            ((0, 19), doubt(0, 10, 19), Some(Appended)),
            ((0, 40), doubt(0, 10, 19), Some(Appended)),
            ((0, -1), doubt(0, 0, 9), Some(Missing)),
            // No batch of ours ended there.
            ((0, 15), doubt(0, 10, 19), None),
            // Of a newer epoch it does not say what came before.
            ((2, 3), doubt(1, 10, 19), None),
            ((1, 40), doubt(2, 0, 9), Some(Missing)),
            // Around the end of the numbers.
            ((0, max - 1), doubt(0, max, 9), Some(Missing)),
            ((0, 9), doubt(0, max, 9), Some(Appended)),
            ((0, max), doubt(0, max, 9), None),
            ((0, 2), doubt(0, max - 9, max), Some(Appended)),
        ] {
            let (producer_epoch, last_sequence) = known;
            let known = ActiveProducer { producer_id: 7, producer_epoch, last_sequence };
            let other = ActiveProducer { producer_id: 8, ..known };
            assert_eq!(judge(&of, &[other, known]), expected, "{known:?}, {of:?}");
            assert_eq!(judge(&of, &[other]), None, "it is not remembered: {of:?}");
            let foreign = Doubt { foreign: true, ..of.clone() };
            assert_eq!(judge(&foreign, &[known]), None, "somebody else's: {of:?}");
        }
    }

    #[test]
    fn what_the_leader_does_not_remember_is_scanned_for() {
        use Standing::{Appended, Missing};
        for (told, proof, expected) in [
            (vec![Some(Missing)], Proof::Committed, Some(vec![Missing])),
            (vec![Some(Appended), Some(Missing)], Proof::Appended, Some(vec![Appended, Missing])),
            (vec![Some(Appended), Some(Missing)], Proof::Committed, None),
            (vec![Some(Missing), None], Proof::Appended, None),
            (vec![None], Proof::Appended, None),
        ] {
            assert_eq!(decide(&told, proof), expected, "{told:?}, {proof:?}");
        }
    }
}
