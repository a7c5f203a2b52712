//! What became of batches that were sent but never acknowledged to us: they are looked for.
//!
//! No two processes or pipelines begin anew under the same producer id and epoch, so a batch with
//! that id, epoch and sequences is the planned one and nothing else. The partition is scanned,
//! headers only, from the offset behind the last acknowledged batch to the high watermark. What
//! retention has deleted of it proves nothing, and that is told; a partition that ends before the
//! place to look from is another one than it was, and is looked at from its start.

use std::time::Duration;

use tailway_client::{Client, ClientError, FetchFrom, FetchLimits, OffsetSpec, TopicPartition};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{BatchHeader, BatchIter};

use crate::machine::ledger::record_count;

const FETCH_BYTES: i32 = 1 << 20;

/// A batch that may or may not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
}

impl Doubt {
    pub fn record_count(&self) -> i32 {
        record_count(self.first_sequence, self.last_sequence)
    }

    fn is(&self, batch: &BatchHeader) -> bool {
        self.producer_id == batch.producer_id
            && self.producer_epoch == batch.producer_epoch
            && self.first_sequence == batch.base_sequence
            && self.last_sequence == batch.last_sequence()
    }
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
}

impl Scanned {
    fn note(&mut self, header: &BatchHeader, doubts: &[Doubt]) {
        for ((found, copies), doubt) in self.found.iter_mut().zip(&mut self.copies).zip(doubts) {
            if doubt.is(header) {
                found.get_or_insert(header.base_offset);
                *copies += 1;
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
            let header = batch.header;
            // A fetch may bring more than was asked for.
            if header.base_offset >= end {
                offset = end;
                break;
            }
            scanned.note(&header, doubts);
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
