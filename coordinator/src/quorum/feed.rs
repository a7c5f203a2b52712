//! The newest part of the record stream, in memory, for those who follow it.
//!
//! Whole batches only: whoever applies an answer of the feed has a consistent image. What is older than the feed is told
//! by a snapshot of the image. Bounded by records; publishing an image and its records is one step for readers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tailway_metadata::{ClusterImage, MetadataLogId, MetadataRecord, Offset};
use tokio::sync::watch;

/// Records kept for followers that are a little behind.
const RECORDS_KEPT: usize = 5_000;
/// Records in one answer, unless a single batch has more.
const RECORDS_PER_READ: usize = 2_000;

/// The committed image and the records that led to it. Clones share both.
#[derive(Clone, Debug)]
pub struct Feed {
    image: Arc<watch::Sender<Arc<ClusterImage>>>,
    tail: Arc<Mutex<Tail>>,
}

#[derive(Debug, Default)]
struct Tail {
    start: i64,
    records: usize,
    batches: VecDeque<Arc<[MetadataRecord]>>,
}

/// What a follower gets.
#[derive(Debug)]
pub enum Read {
    /// Records from the offset that was asked for; none if there is nothing new.
    Records { records: Vec<MetadataRecord>, end_offset: Offset },
    /// The offset is not in the feed, or belongs to another stream: start from here.
    Snapshot(Arc<ClusterImage>),
}

impl Default for Feed {
    fn default() -> Feed {
        Feed::new()
    }
}

impl Feed {
    pub fn new() -> Feed {
        Feed { image: Arc::new(watch::Sender::new(Arc::default())), tail: Arc::default() }
    }

    /// The committed image.
    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.image.borrow())
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.image.subscribe()
    }

    /// Starts over from this image: nothing before it is known.
    pub fn reset(&self, image: Arc<ClusterImage>) {
        let mut tail = self.lock();
        *tail = Tail { start: image.offset.0, ..Tail::default() };
        self.image.send_replace(image);
    }

    /// Adds a batch and the image after it.
    pub fn publish(&self, records: &Arc<[MetadataRecord]>, image: Arc<ClusterImage>) {
        if records.is_empty() {
            return;
        }
        let mut tail = self.lock();
        tail.records += records.len();
        tail.batches.push_back(Arc::clone(records));
        while tail.records > RECORDS_KEPT && tail.batches.len() > 1 {
            let oldest = tail.batches.pop_front().map_or(0, |batch| batch.len());
            tail.records -= oldest;
            tail.start += i64::try_from(oldest).unwrap_or(i64::MAX);
        }
        self.image.send_replace(image);
    }

    /// The records from `from` on, as far as one answer goes.
    pub fn read(&self, log_id: MetadataLogId, from: Offset) -> Read {
        let tail = self.lock();
        let image = self.image();
        let known = from >= Offset(tail.start) && from <= image.offset;
        // A stream without its first record has no name yet: then there is nothing to compare and nothing to send.
        let same_stream = log_id == image.log_id || (log_id.is_nil() && from == Offset(0));
        if !known || !same_stream {
            return Read::Snapshot(image);
        }
        let mut at = tail.start;
        let mut records = Vec::new();
        for batch in &tail.batches {
            if at >= from.0 {
                if !records.is_empty() && records.len() + batch.len() > RECORDS_PER_READ {
                    break;
                }
                records.extend(batch.iter().cloned());
            } else if at + i64::try_from(batch.len()).unwrap_or(i64::MAX) > from.0 {
                // An offset inside a batch was never given out.
                return Read::Snapshot(image);
            }
            at += i64::try_from(batch.len()).unwrap_or(i64::MAX);
        }
        Read::Records { records, end_offset: image.offset }
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        // Nothing inside the lock can panic half way: the counters are updated with their batch.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::record::{ClusterRecord, ProducerIdsRecord};
    use tailway_metadata::{BrokerEpoch, BrokerId, ClusterId, ProducerId};
    use uuid::Uuid;

    use super::*;

    const LOG: MetadataLogId = MetadataLogId(Uuid::from_u128(1));

    fn ids(next: i64) -> MetadataRecord {
        MetadataRecord::ProducerIds(ProducerIdsRecord {
            broker_id: BrokerId(0),
            broker_epoch: BrokerEpoch(0),
            next_producer_id: ProducerId(next),
        })
    }

    fn publish(feed: &Feed, records: Vec<MetadataRecord>) {
        let mut image = (*feed.image()).clone();
        for record in &records {
            image.apply(record).unwrap();
        }
        feed.publish(&records.into(), Arc::new(image));
    }

    fn named() -> Feed {
        let feed = Feed::new();
        let cluster = ClusterRecord { cluster_id: ClusterId("c".into()), log_id: LOG };
        publish(&feed, vec![MetadataRecord::Cluster(cluster)]);
        feed
    }

    fn lens(feed: &Feed, log_id: MetadataLogId, from: i64) -> Result<(usize, i64), i64> {
        match feed.read(log_id, Offset(from)) {
            Read::Records { records, end_offset } => Ok((records.len(), end_offset.0)),
            Read::Snapshot(image) => Err(image.offset.0),
        }
    }

    #[test]
    fn answers_are_whole_batches_or_a_snapshot() {
        let feed = named();
        publish(&feed, vec![ids(1), ids(2)]);
        publish(&feed, vec![ids(3)]);
        let other = MetadataLogId(Uuid::from_u128(2));
        let cases = [
            (MetadataLogId::NIL, 0, Ok((4, 4))),
            (LOG, 0, Ok((4, 4))),
            (LOG, 1, Ok((3, 4))),
            (LOG, 2, Err(4)),
            (LOG, 3, Ok((1, 4))),
            (LOG, 4, Ok((0, 4))),
            (LOG, 5, Err(4)),
            (LOG, -1, Err(4)),
            (other, 1, Err(4)),
            (MetadataLogId::NIL, 1, Err(4)),
        ];
        for (log_id, from, expected) in cases {
            assert_eq!(lens(&feed, log_id, from), expected, "{log_id} {from}");
        }
    }

    #[test]
    fn the_feed_is_bounded_and_answers_are() {
        let feed = named();
        for next in 0..6_000 {
            publish(&feed, vec![ids(next)]);
        }
        assert_eq!(lens(&feed, LOG, 1_000), Err(6_001), "dropped");
        assert_eq!(lens(&feed, LOG, 1_001), Ok((RECORDS_PER_READ, 6_001)));
        assert_eq!(lens(&feed, LOG, 6_000), Ok((1, 6_001)));
        feed.reset(feed.image());
        assert_eq!(lens(&feed, LOG, 6_000), Err(6_001));
        assert_eq!(lens(&feed, LOG, 6_001), Ok((0, 6_001)));
    }
}
