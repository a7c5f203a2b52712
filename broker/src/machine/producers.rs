//! The idempotence window of one partition: what each producer wrote last.
//!
//! Kafka's rules: the last five batches of a producer are remembered and answered with their old offsets when they come
//! again; the next batch must follow the last sequence; a newer epoch starts at sequence 0; an older epoch is refused. A
//! producer that is not known may start anywhere (as Kafka to 4.4).
//! Invariants: sequences wrap from `i32::MAX` to 0; the number of producers is bounded, the longest unheard goes first.

use std::collections::BTreeMap;

use tailway_metadata::time::WallMs;

use crate::partition::ProducerReport;

/// Batches remembered per producer: Kafka's clients have at most five in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// Producers remembered per partition. About 200 bytes each.
pub const PRODUCERS_MAX: usize = 16_384;

/// What of an incoming batch concerns idempotence. Only for batches with a producer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
}

impl ProducerBatch {
    /// The sequence of the last record.
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// It is in the log already.
    Duplicate {
        base_offset: i64,
        last_offset: i64,
    },
    OutOfOrder {
        expected: i32,
    },
    StaleEpoch {
        current: i16,
    },
}

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedBatch {
    pub last_sequence: i32,
    pub last_offset: i64,
    pub last_offset_delta: i32,
}

impl RememberedBatch {
    fn base_offset(&self) -> i64 {
        self.last_offset - i64::from(self.last_offset_delta)
    }

    fn base_sequence(&self) -> i32 {
        sub_sequence(self.last_sequence, self.last_offset_delta)
    }
}

/// One producer's state. `batches` is oldest first and never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    pub producer_epoch: i16,
    pub batches: Vec<RememberedBatch>,
    /// When the broker last heard of it.
    pub last_heard: WallMs,
}

/// What `remember` changed, to take it back if the batch could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    producer_id: i64,
    /// Of the batch.
    pub base_offset: i64,
    before: Before,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Before {
    Unknown,
    /// It had room for one more, or lost this one.
    SameEpoch {
        dropped: Option<RememberedBatch>,
        last_heard: WallMs,
    },
    OtherEpoch(ProducerEntry),
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    entries: BTreeMap<i64, ProducerEntry>,
}

impl Producers {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// Decides on a batch without changing anything.
    pub fn judge(&self, batch: &ProducerBatch) -> Verdict {
        let Some(entry) = self.entries.get(&batch.producer_id) else {
            return Verdict::Append;
        };
        if batch.producer_epoch < entry.producer_epoch {
            return Verdict::StaleEpoch { current: entry.producer_epoch };
        }
        if batch.producer_epoch > entry.producer_epoch {
            return in_order(batch.base_sequence, 0);
        }
        let (first, last) = (batch.base_sequence, batch.last_sequence());
        let same =
            entry.batches.iter().find(|b| b.last_sequence == last && b.base_sequence() == first);
        if let Some(old) = same {
            return Verdict::Duplicate {
                base_offset: old.base_offset(),
                last_offset: old.last_offset,
            };
        }
        match entry.batches.last() {
            Some(newest) => in_order(first, add_sequence(newest.last_sequence, 1)),
            None => Verdict::Append,
        }
    }

    /// Remembers a batch that got `base_offset`. Also what replay of the log does, so nothing is judged here.
    pub fn remember(&mut self, batch: &ProducerBatch, base_offset: i64, now: WallMs) -> Undo {
        let producer_id = batch.producer_id;
        let remembered = RememberedBatch {
            last_sequence: batch.last_sequence(),
            last_offset: base_offset + i64::from(batch.last_offset_delta),
            last_offset_delta: batch.last_offset_delta,
        };
        let begun = || ProducerEntry {
            producer_epoch: batch.producer_epoch,
            batches: vec![remembered],
            last_heard: now,
        };
        let before = match self.entries.get_mut(&producer_id) {
            None => {
                if self.entries.len() >= PRODUCERS_MAX {
                    self.forget_longest_unheard();
                }
                self.entries.insert(producer_id, begun());
                Before::Unknown
            }
            Some(entry) if entry.producer_epoch != batch.producer_epoch => {
                Before::OtherEpoch(std::mem::replace(entry, begun()))
            }
            Some(entry) => {
                let is_full = entry.batches.len() == BATCHES_PER_PRODUCER;
                let dropped = is_full.then(|| entry.batches.remove(0));
                entry.batches.push(remembered);
                let last_heard = std::mem::replace(&mut entry.last_heard, now);
                Before::SameEpoch { dropped, last_heard }
            }
        };
        Undo { producer_id, base_offset, before }
    }

    /// Takes a batch back. The newest first: nothing may have been remembered of its producer since. What was forgotten for
    /// want of room stays forgotten.
    pub fn undo(&mut self, undo: Undo) {
        match undo.before {
            Before::Unknown => {
                self.entries.remove(&undo.producer_id);
            }
            Before::OtherEpoch(entry) => {
                self.entries.insert(undo.producer_id, entry);
            }
            Before::SameEpoch { dropped, last_heard } => {
                let Some(entry) = self.entries.get_mut(&undo.producer_id) else { return };
                entry.batches.pop();
                if let Some(dropped) = dropped {
                    entry.batches.insert(0, dropped);
                }
                entry.last_heard = last_heard;
            }
        }
    }

    /// Puts back an entry of a snapshot: one remembered batch. Entries of one producer come oldest first.
    pub fn restore(&mut self, producer_id: i64, epoch: i16, batch: RememberedBatch, heard: WallMs) {
        let as_batch = ProducerBatch {
            producer_id,
            producer_epoch: epoch,
            base_sequence: batch.base_sequence(),
            last_offset_delta: batch.last_offset_delta,
        };
        self.remember(&as_batch, batch.base_offset(), heard);
    }

    /// Forgets producers unheard of for longer than `ttl_ms`. A clock that jumped back forgets nobody.
    pub fn expire(&mut self, now: WallMs, ttl_ms: i64) {
        self.entries.retain(|_, entry| now.0.saturating_sub(entry.last_heard.0) <= ttl_ms);
    }

    /// The last offsets of all remembered producers: compaction keeps their batches.
    pub fn last_offsets(&self) -> Vec<i64> {
        let mut offsets: Vec<i64> = self
            .entries
            .values()
            .filter_map(|entry| entry.batches.last())
            .map(|batch| batch.last_offset)
            .collect();
        offsets.sort_unstable();
        offsets
    }

    /// All of them, by producer id.
    pub fn reports(&self) -> Vec<ProducerReport> {
        let report = |(id, entry): (&i64, &ProducerEntry)| {
            let last_sequence = entry.batches.last()?.last_sequence;
            let ProducerEntry { producer_epoch, last_heard, .. } = *entry;
            Some(ProducerReport { producer_id: *id, producer_epoch, last_sequence, last_heard })
        };
        self.entries.iter().filter_map(report).collect()
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.entries.len() <= PRODUCERS_MAX, "too many producers");
        for (id, entry) in &self.entries {
            assert!(!entry.batches.is_empty(), "producer {id} without a batch");
            assert!(entry.batches.len() <= BATCHES_PER_PRODUCER, "producer {id}: too many batches");
            for pair in entry.batches.windows(2) {
                assert!(pair[0].last_offset < pair[1].base_offset(), "producer {id}: {pair:?}");
            }
        }
    }

    /// A sixteenth at once, so that a flood of new producers does not scan all of them each time.
    fn forget_longest_unheard(&mut self) {
        let mut heard: Vec<(WallMs, i64)> =
            self.entries.iter().map(|(id, entry)| (entry.last_heard, *id)).collect();
        heard.sort_unstable();
        for (_, id) in heard.into_iter().take(PRODUCERS_MAX / 16) {
            self.entries.remove(&id);
        }
    }
}

fn in_order(first: i32, expected: i32) -> Verdict {
    if first == expected { Verdict::Append } else { Verdict::OutOfOrder { expected } }
}

/// Sequences count from 0 to `i32::MAX` and begin again at 0.
fn add_sequence(sequence: i32, delta: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(delta);
    let wrapped = if sum > i64::from(i32::MAX) { sum - i64::from(i32::MAX) - 1 } else { sum };
    i32::try_from(wrapped).unwrap_or(i32::MAX)
}

fn sub_sequence(sequence: i32, delta: i32) -> i32 {
    let difference = i64::from(sequence) - i64::from(delta);
    let wrapped = if difference < 0 { difference + i64::from(i32::MAX) + 1 } else { difference };
    i32::try_from(wrapped).unwrap_or(0)
}

#[cfg(test)]
#[path = "producers_tests.rs"]
mod tests;
