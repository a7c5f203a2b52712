//! K12: how long no send was acknowledged, over the history and around each fault.

use std::fmt;

/// A time without an acknowledged send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// What it lies around: a fault's note, or nothing for the whole history.
    pub note: String,
    /// In microseconds.
    pub longest_us: u64,
}

/// The longest gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    pub overall: Option<Gap>,
    /// One per fault, in the order of their begins.
    pub faults: Vec<Gap>,
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |gap: &Gap| gap.longest_us / 1_000;
        if let Some(gap) = &self.overall {
            writeln!(f, "K12: longest time without an acknowledged send: {} ms", ms(gap))?;
        }
        for gap in &self.faults {
            writeln!(f, "K12: around {}: {} ms", gap.note, ms(gap))?;
        }
        Ok(())
    }
}

/// Collects acknowledgements and faults.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    times: Vec<u64>,
    faults: Vec<(u64, u64, String)>,
}

impl Acks {
    pub(crate) fn acked(&mut self, t1: u64) {
        self.times.push(t1);
    }

    pub(crate) fn fault(&mut self, t0: u64, t1: u64, note: &str) {
        self.faults.push((t0, t1, note.to_owned()));
    }

    pub(crate) fn finish(mut self) -> Availability {
        self.times.sort_unstable();
        self.faults.sort();
        let gaps = || self.times.windows(2).map(|pair| (pair[0], pair[1]));
        let longest = |gaps: &mut dyn Iterator<Item = (u64, u64)>| gaps.map(|(a, b)| b - a).max();
        let overall =
            longest(&mut gaps()).map(|longest_us| Gap { note: String::new(), longest_us });
        let mut faults = Vec::new();
        for (t0, t1, note) in &self.faults {
            // Gaps that touch the fault: from the one in which it begins to the one in which it ends.
            let first = self.times.partition_point(|time| time < t0).saturating_sub(1);
            let last = self.times.partition_point(|time| time <= t1);
            let around = self.times.get(first..=last.min(self.times.len().saturating_sub(1)));
            let pairs = around.unwrap_or_default().windows(2);
            let longest_us = pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            faults.push(Gap { note: note.clone(), longest_us });
        }
        Availability { overall, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_overall_and_around_each_fault() {
        let mut acks = Acks::default();
        for time in [100, 110, 400, 405, 450, 455] {
            acks.acked(time);
        }
        acks.fault(410, 420, "stop");
        acks.fault(105, 107, "kill");
        acks.fault(200, 420, "both");
        let gap = |note: &str, longest_us| Gap { note: note.into(), longest_us };
        assert_eq!(
            acks.finish(),
            Availability {
                overall: Some(gap("", 290)),
                faults: vec![gap("kill", 10), gap("both", 290), gap("stop", 45)],
            }
        );
        assert_eq!(Acks::default().finish(), Availability::default());
    }
}
