//! What the families of checks hand to each other: numbered names, witnesses, and violations before they are put in words.

use crate::names::Names;
use crate::report::{Check, Place, Violation};

/// The process that saw something, and the line that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Witness {
    pub(crate) who: u32,
    pub(crate) place: Place,
}

/// When and by whom an event was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) t0: u64,
    pub(crate) t1: u64,
    pub(crate) witness: Witness,
}

/// A violation with numbers for names.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) tp: u32,
    pub(crate) off: Option<u64>,
    pub(crate) vals: Vec<u64>,
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) meaning: String,
}

/// All that was found, in any order.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    /// In words, by check, then partition, offset and place.
    pub(crate) fn in_words(
        mut self,
        tps: &Names,
        procs: &Names,
        sources: &[String],
    ) -> Vec<Violation> {
        self.0.sort_by(|a, b| {
            let key = |f: &Finding| (f.check, tps.name(f.tp).to_owned(), f.off);
            key(a).cmp(&key(b)).then_with(|| a.witnesses.cmp(&b.witnesses))
        });
        let line = |place: Place| {
            let source = sources.get(place.source as usize).map_or("event", String::as_str);
            format!("{source}:{}", place.line)
        };
        let words = |finding: Finding| Violation {
            check: finding.check,
            tp: tps.name(finding.tp).to_owned(),
            off: finding.off,
            vals: finding.vals,
            procs: finding.witnesses.iter().map(|w| procs.name(w.who).to_owned()).collect(),
            lines: finding.witnesses.iter().map(|w| line(w.place)).collect(),
            meaning: finding.meaning,
        };
        self.0.into_iter().map(words).collect()
    }
}
