//! What a check found, in words, and how much there was to find it in.

use std::collections::BTreeMap;
use std::fmt;

use crate::SEND_BITS;
use crate::availability::Availability;

/// The checks that give a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// One offset holds one value, whoever looks.
    K1,
    /// One value stands at one offset, when idempotence is on.
    K2,
    /// What was acknowledged or read is in the final drain.
    K3,
    /// What was read was sent, to that partition, and its send did not fail.
    K4,
    /// The sends of one client stand in a partition in the order in which they were sent.
    K5,
    /// A consumer reads a partition without gap and without step back.
    K6,
    /// Nothing is read at or above the high watermark, which does not fall.
    K7,
    /// One node acknowledges per leader epoch, and none after it was fenced.
    K8,
    /// Committed offsets do not fall, and members go on where the last one committed.
    K9,
    /// Replicas hold the same below the high watermark, with valid CRCs.
    K10,
    /// The documents are the lines, in order.
    K11,
}

impl Check {
    /// All of them.
    pub const ALL: [Check; 11] = [
        Check::K1,
        Check::K2,
        Check::K3,
        Check::K4,
        Check::K5,
        Check::K6,
        Check::K7,
        Check::K8,
        Check::K9,
        Check::K10,
        Check::K11,
    ];
}

/// A line of a source, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which source, in the order in which they were given.
    pub source: u32,
    pub line: u32,
}

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub check: Check,
    /// Partition, topic or file.
    pub tp: String,
    pub off: Option<u64>,
    pub vals: Vec<u64>,
    pub procs: Vec<String>,
    /// The events concerned, as `source:line`.
    pub lines: Vec<String>,
    /// One sentence: what this means.
    pub meaning: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.check, self.tp)?;
        if let Some(off) = self.off {
            write!(f, " offset {off}")?;
        }
        for val in &self.vals {
            write!(f, " value {val} ({}.{})", val >> SEND_BITS, val & ((1 << SEND_BITS) - 1))?;
        }
        write!(f, ": {}", self.meaning)?;
        for (proc, line) in self.procs.iter().zip(&self.lines) {
            write!(f, "\n    {proc} at {line}")?;
        }
        Ok(())
    }
}

/// The verdict on a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By check, then in the order of partitions and offsets.
    pub violations: Vec<Violation>,
    /// How many events there were, by kind and outcome, e.g. `send ok`.
    pub counts: BTreeMap<String, u64>,
    /// K12: how long nothing was acknowledged. A number, no verdict.
    pub availability: Availability,
}

/// How many violations of one check are printed in full.
const SHOWN: usize = 20;

impl Report {
    /// Why this history could not have shown anything, if so.
    pub fn vacuous(&self) -> Option<&'static str> {
        let count = |key: &str| self.counts.get(key).copied().unwrap_or(0);
        if self.counts.is_empty() {
            Some("the history is empty: it proves nothing")
        } else if count("send ok") + count("line ok") == 0 {
            Some("the history holds no acknowledged send and no line: it proves nothing")
        } else {
            None
        }
    }

    /// True if one of the violations is of this check.
    pub fn has(&self, check: Check) -> bool {
        self.violations.iter().any(|violation| violation.check == check)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut of_check: BTreeMap<Check, usize> = BTreeMap::new();
        for violation in &self.violations {
            let count = of_check.entry(violation.check).or_default();
            *count += 1;
            if *count <= SHOWN {
                writeln!(f, "{violation}")?;
            }
        }
        for (check, count) in of_check.iter().filter(|(_, count)| **count > SHOWN) {
            writeln!(f, "{check:?}: and {} more", count - SHOWN)?;
        }
        let counts: Vec<String> =
            self.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(f, "events: {}", counts.join(", "))?;
        write!(f, "{}", self.availability)?;
        write!(f, "{} violation(s)", self.violations.len())
    }
}
