//! Leader epochs of one log: at which offset each began (`leader-epoch-checkpoint`).
//!
//! Invariants: epochs rise, their start offsets do not fall. The file is written again with every new epoch; what it lacks
//! after a crash is found in the batches themselves.

use std::path::Path;
use std::sync::Arc;

use tailway_storage::{Disk, OpenMode, StorageError};

use super::checkpoint;
use super::segment::Segment;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    /// (epoch, start offset)
    entries: Vec<(i32, i64)>,
}

impl LeaderEpochs {
    /// Reads the checkpoint and completes it from the last segment, or from all if it is missing or bad.
    pub fn load(
        disk: &dyn Disk,
        dir: &Path,
        segments: &[Arc<Segment>],
        log_start: i64,
        log_end: i64,
    ) -> Result<Self, StorageError> {
        let stored = read_small(disk, &dir.join(checkpoint::LEADER_EPOCHS))?;
        let stored = stored.and_then(|bytes| checkpoint::decode_epochs(&bytes).ok());
        let mut epochs = Self { entries: stored.unwrap_or_default() };
        epochs.entries.retain(|(_, start)| *start < log_end);
        for segment in segments.iter().rev() {
            // Epochs rise, so if the last batch has a known one, all before it have.
            let mut newest = -1;
            segment.visit_headers(segment.next_offset() - 1, |_, header| {
                newest = newest.max(header.partition_leader_epoch);
                true
            })?;
            if epochs.entries.iter().any(|(epoch, _)| *epoch == newest) {
                break;
            }
            let mut found = Self::default();
            segment.visit_headers(segment.base_offset(), |_, header| {
                found.assign(header.partition_leader_epoch, header.base_offset);
                true
            })?;
            epochs.merge(found);
        }
        epochs.truncate_start(log_start);
        Ok(epochs)
    }

    /// Adds epochs found in a segment, which is behind or before what is known.
    fn merge(&mut self, found: Self) {
        for (epoch, start) in found.entries {
            let at = self.entries.partition_point(|(known, _)| *known < epoch);
            match self.entries.get_mut(at) {
                Some((known, known_start)) if *known == epoch => {
                    *known_start = start.min(*known_start);
                }
                _ => self.entries.insert(at, (epoch, start)),
            }
        }
    }

    /// Notes the epoch of a batch at `offset`. True if it is a new one.
    pub fn assign(&mut self, epoch: i32, offset: i64) -> bool {
        let newer = epoch >= 0 && self.entries.last().is_none_or(|last| epoch > last.0);
        if newer {
            self.entries.push((epoch, offset));
        }
        newer
    }

    /// Forgets what ended below the log start.
    pub fn truncate_start(&mut self, log_start: i64) {
        let ended = self.entries.partition_point(|(_, start)| *start <= log_start);
        if ended > 0 {
            self.entries.drain(..ended - 1);
            if let Some(first) = self.entries.first_mut() {
                first.1 = log_start;
            }
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        checkpoint::encode_epochs(&self.entries)
    }

    pub fn latest(&self) -> Option<i32> {
        self.entries.last().map(|last| last.0)
    }

    /// The epoch that `offset` belongs to, -1 if there is none.
    pub fn at(&self, offset: i64) -> i32 {
        let after = self.entries.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(-1, |entry| entry.0)
    }

    /// OffsetForLeaderEpoch: the largest epoch that is at most `epoch`, and where it ends. (-1, -1) if there is none.
    pub fn end_of(&self, epoch: i32, log_end: i64) -> (i32, i64) {
        let after = self.entries.partition_point(|(known, _)| *known <= epoch);
        match after.checked_sub(1).and_then(|at| self.entries.get(at)) {
            None => (-1, -1),
            Some((known, _)) => {
                (*known, self.entries.get(after).map_or(log_end, |(_, start)| *start))
            }
        }
    }
}

/// The whole of a small file; `None` if there is none.
pub fn read_small(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    const BYTES_MAX: u64 = 64 * 1024 * 1024;
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?.min(BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> LeaderEpochs {
        LeaderEpochs { entries: vec![(1, 0), (3, 100), (4, 100), (7, 250)] }
    }

    #[test]
    fn ends_as_kafka_answers() {
        let table = [
            (0, (-1, -1)),
            (1, (1, 100)),
            (2, (1, 100)),
            (3, (3, 100)),
            (4, (4, 250)),
            (6, (4, 250)),
            (7, (7, 300)),
            (8, (7, 300)),
        ];
        for (epoch, expected) in table {
            assert_eq!(epochs().end_of(epoch, 300), expected, "{epoch}");
        }
    }

    #[test]
    fn only_newer_epochs_are_assigned() {
        let mut epochs = epochs();
        for (epoch, offset, new) in
            [(7, 260, false), (-1, 260, false), (3, 260, false), (8, 260, true)]
        {
            assert_eq!(epochs.assign(epoch, offset), new, "{epoch}");
        }
        assert_eq!(epochs.latest(), Some(8));
        assert_eq!(epochs.encode(), b"0\n5\n1 0\n3 100\n4 100\n7 250\n8 260\n");
    }

    #[test]
    fn what_segments_have_is_merged() {
        let mut epochs = LeaderEpochs { entries: vec![(3, 100), (7, 250)] };
        epochs.merge(LeaderEpochs { entries: vec![(7, 300), (9, 320)] });
        epochs.merge(LeaderEpochs { entries: vec![(1, 0), (3, 90)] });
        assert_eq!(epochs.entries, [(1, 0), (3, 90), (7, 250), (9, 320)]);
    }

    #[test]
    fn the_start_moves_up() {
        let table = [
            (0, vec![(1, 0), (3, 100), (4, 100), (7, 250)]),
            (50, vec![(1, 50), (3, 100), (4, 100), (7, 250)]),
            (100, vec![(4, 100), (7, 250)]),
            (251, vec![(7, 251)]),
        ];
        for (log_start, entries) in table {
            let mut epochs = epochs();
            epochs.truncate_start(log_start);
            assert_eq!(epochs.entries, entries, "{log_start}");
        }
    }
}
