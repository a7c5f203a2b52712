//! K11: the documents are the lines of each file, each exactly once and in order.
//!
//! Equal lines have equal values: the k-th document of a value stands for the k-th line of it.

use std::collections::BTreeMap;

use crate::finding::{Finding, Findings, Witness};
use crate::report::Check;

#[derive(Debug, Default)]
struct File {
    lines: BTreeMap<u64, Vec<(u64, Witness)>>,
    count: u64,
    docs: Vec<(u64, Witness)>,
}

#[derive(Debug, Default)]
pub(crate) struct Lines(BTreeMap<u32, File>);

impl Lines {
    pub(crate) fn line(&mut self, file: u32, val: u64, witness: Witness) {
        let file = self.0.entry(file).or_default();
        file.lines.entry(val).or_default().push((file.count, witness));
        file.count += 1;
    }

    pub(crate) fn doc(&mut self, file: u32, val: u64, witness: Witness) {
        self.0.entry(file).or_default().docs.push((val, witness));
    }

    pub(crate) fn finish(&self, findings: &mut Findings) {
        for (tp, file) in &self.0 {
            file.compare(*tp, findings);
        }
    }
}

impl File {
    fn compare(&self, tp: u32, findings: &mut Findings) {
        let mut say = |off, val, witnesses, meaning: &str| {
            let (check, vals, meaning) = (Check::K11, vec![val], meaning.to_owned());
            findings.add(Finding { check, tp, off, vals, witnesses, meaning });
        };
        let mut used: BTreeMap<u64, usize> = BTreeMap::new();
        let mut last: Option<(u64, Witness)> = None;
        for (val, witness) in &self.docs {
            let used = used.entry(*val).or_default();
            let lines = self.lines.get(val).map(Vec::as_slice).unwrap_or_default();
            let Some((number, _)) = lines.get(*used) else {
                let meaning = if lines.is_empty() {
                    "a document of a line that is not in the file"
                } else {
                    "more documents than lines of this value: delivered again"
                };
                say(None, *val, vec![*witness], meaning);
                continue;
            };
            *used += 1;
            if let Some((before, seen)) = last.filter(|(before, _)| before > number) {
                let _ = before;
                say(
                    Some(*number),
                    *val,
                    vec![seen, *witness],
                    "a line came after one that follows it in the file",
                );
            }
            last = Some((*number, *witness));
        }
        for (val, lines) in &self.lines {
            let delivered = used.get(val).copied().unwrap_or(0);
            for (number, witness) in lines.iter().skip(delivered) {
                say(Some(*number), *val, vec![*witness], "a line without a document: lost");
            }
        }
    }
}
