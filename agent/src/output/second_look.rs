//! What is looked for once more, after the first acknowledgement: batches that were not there, or not
//! known to be committed, at the first look.
//!
//! A request that was on its way meanwhile, or a broker that forgot the producer before the batch
//! was sent again, leaves a batch there more often than it may be. That is found here, and told.

use tailway_client::machine::pipeline::Ack;
use tailway_client::resolve::{Doubt, How, Resolved, Scanned, Standing};

/// Most batches that are looked for a second time; of more, the oldest are left.
const MISSING_MAX: usize = 64;

/// Doubtful batches that were not there at the first look, which ended at `looked_to`, and how
/// often each may be there later.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) doubts: Vec<(Doubt, u32)>,
    looked_to: i64,
    /// Where the second look begins: what the leader has may lie below `looked_to`.
    pub(super) from: i64,
}

impl Missing {
    pub(super) fn of(doubts: &[Doubt], resolved: &Resolved) -> Self {
        if matches!(resolved.how, How::Blind(_)) {
            // A second look is as impossible as the first.
            return Self::default();
        }
        let looked_to = resolved.looked_to;
        let missing =
            doubts.iter().zip(&resolved.found).filter(|(_, found)| found.offset().is_none());
        let doubts = missing.map(|(doubt, _)| (doubt.clone(), 0)).collect();
        let has_appended = resolved.found.contains(&Standing::Appended);
        let from = if has_appended { resolved.scan_from } else { looked_to };
        Self { doubts, looked_to, from }
    }

    /// An answer to a batch that was sent again names an offset below `looked_to`: the leader knew
    /// it, so it is there once.
    pub(super) fn settle(&mut self, ack: &Ack) {
        if end_of(ack).is_some_and(|end| end <= self.looked_to) {
            self.doubts.retain(|(doubt, _)| doubt.first_sequence != ack.base_sequence);
        }
    }

    /// Adds those of a later look.
    pub(super) fn join(&mut self, later: Missing) {
        if self.doubts.is_empty() {
            *self = later;
            return;
        }
        self.looked_to = self.looked_to.min(later.looked_to);
        self.from = self.from.min(later.from);
        for (doubt, allowed) in later.doubts {
            self.doubts.retain(|(known, _)| *known != doubt);
            self.doubts.push((doubt, allowed));
        }
        self.doubts.drain(..self.doubts.len().saturating_sub(MISSING_MAX));
    }

    /// What to look for between `looked_to` and `end`, where an acknowledged batch ends (`None`:
    /// it does not say), if anything. It is asked for once.
    pub(super) fn take_before(&mut self, end: Option<i64>) -> Vec<(Doubt, u32)> {
        let Some(end) = end else { return Vec::new() };
        let doubts = std::mem::take(&mut self.doubts);
        if end > self.looked_to { doubts } else { Vec::new() }
    }
}

/// Where the acknowledged batch ends, if it says.
pub(super) fn end_of(ack: &Ack) -> Option<i64> {
    (ack.base_offset >= 0).then(|| ack.base_offset + i64::from(ack.record_count))
}

/// Records that are stored more often than they may be.
pub(super) fn records_repeated(doubts: &[(Doubt, u32)], scanned: &Scanned) -> i64 {
    let of = |((doubt, allowed), copies): (&(Doubt, u32), &u32)| {
        i64::from(copies.saturating_sub(*allowed)) * i64::from(doubt.record_count())
    };
    doubts.iter().zip(&scanned.copies).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(sequences: std::ops::Range<i32>, looked_to: i64) -> Missing {
        let doubt = |n| {
            let (producer_id, producer_epoch) = (1, 0);
            let origin = String::new();
            let (first_sequence, last_sequence, foreign) = (n, n, false);
            let doubt = Doubt {
                producer_id,
                producer_epoch,
                first_sequence,
                last_sequence,
                header: "origin",
                origin,
                foreign,
            };
            (doubt, 0)
        };
        Missing { doubts: sequences.map(doubt).collect(), looked_to, from: looked_to }
    }

    fn ack(base_offset: i64) -> Ack {
        let (base_sequence, record_count) = (0, 1);
        Ack { base_sequence, record_count, base_offset, log_append_time: -1, leader_epoch: 0 }
    }

    #[test]
    fn the_second_look_is_at_the_first_acknowledgement_that_says_where() {
        // Offsets of acknowledgements as they come, and how many batches are looked for at each.
        let cases: [(&[i64], &[usize]); 5] = [
            (&[101, 102], &[3, 0]),
            (&[-1, 105, 106], &[0, 3, 0]),
            (&[-1, -1, 101], &[0, 0, 3]),
            // Where nothing is that was not looked at; below it, the topic is another one.
            (&[99, 101], &[0, 0]),
            (&[7, 101], &[0, 0]),
        ];
        for (acked, expected) in cases {
            let mut missing = missing(0..3, 100);
            let looked: Vec<usize> =
                acked.iter().map(|at| missing.take_before(end_of(&ack(*at))).len()).collect();
            assert_eq!(looked, expected, "{acked:?}");
        }
    }

    #[test]
    fn a_pipeline_that_stopped_hands_on_what_it_did_not_look_for() {
        let mut all = Missing::default();
        all.join(missing(0..2, 100));
        assert_eq!(all, missing(0..2, 100));
        all.join(missing(2..3, 120));
        assert_eq!(all, missing(0..3, 100), "from where the first look ended");
        all.join(missing(3..200, 130));
        assert_eq!(all, missing(200 - 64..200, 100), "a bound");
        assert_eq!(all.take_before(Some(131)).len(), 64);
        all.join(missing(0..0, 150));
        assert_eq!(all, missing(0..0, 150));
    }

    #[test]
    fn an_answer_with_an_old_offset_settles_what_was_sent_again() {
        let sequenced = |base_sequence, base_offset| Ack { base_sequence, ..ack(base_offset) };
        let mut again = missing(0..3, 100);
        again.settle(&sequenced(0, 99));
        assert_eq!(again, missing(1..3, 100), "it was known");
        again.settle(&sequenced(1, 100));
        again.settle(&sequenced(2, -1));
        assert_eq!(again, missing(1..3, 100), "it is new, or nobody knows");
    }

    #[test]
    fn what_is_there_more_often_than_it_may_be_is_counted() {
        let of = |allowed: u32, copies: u32| {
            let mut doubts = missing(0..1, 0).doubts;
            doubts[0].0.last_sequence = 9;
            doubts[0].1 = allowed;
            let scanned = Scanned {
                found: vec![None],
                copies: vec![copies],
                deleted_from: None,
                end: 0,
                usurped: false,
            };
            records_repeated(&doubts, &scanned)
        };
        let cases = [(0, 0, 0), (0, 1, 10), (1, 0, 0), (1, 1, 0), (1, 2, 10), (0, 2, 20)];
        for (allowed, copies, records) in cases {
            assert_eq!(of(allowed, copies), records, "{copies} of {allowed}");
        }
    }
}
