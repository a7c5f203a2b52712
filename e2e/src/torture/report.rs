//! The report of a run: printed, judged, and added to a file as evidence.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::agent_log::Resolved;
use super::verdict::is_exact;
use super::writer::Written;
use crate::lines::Verdict;

/// Kills of the agent below which their share says nothing.
const AGENT_KILLS_MIN: usize = 30;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name, version and commit of the agent.
    pub program: String,
    pub seed: u64,
    pub broker: String,
    pub plant: Option<String>,
    pub kills_asked: usize,
    /// Moments at which something was killed.
    pub kills_made: usize,
    /// Processes that were killed.
    pub killed: BTreeMap<&'static str, usize>,
    pub resolved: Resolved,
    pub written: Written,
    pub verdict: Verdict,
    /// Lines that did not come once.
    pub odd: Vec<String>,
    pub seconds: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resolved { kills_with_open_plans, open, .. } = self.resolved;
        let Resolved { asked_leader, read_partition, not_looked, .. } = self.resolved;
        let Resolved { found_stored, sent_again_as_it_was, sent_anew, .. } = self.resolved;
        let killed: Vec<String> =
            self.killed.iter().map(|(part, count)| format!("{part} {count}")).collect();
        let Verdict { read, lost, repeated, foreign, disordered } = self.verdict;
        let Written { lines, renamed, recreated, removed } = self.written;
        writeln!(f, "{}", self.program)?;
        writeln!(f, "seed {}, broker {}, {} s", self.seed, self.broker, self.seconds)?;
        if let Some(plant) = &self.plant {
            writeln!(f, "planted: {plant}")?;
        }
        let (made, asked) = (self.kills_made, self.kills_asked);
        writeln!(f, "kills: {made} of {asked}; processes: {}", killed.join(", "))?;
        writeln!(
            f,
            "kills of the agent that hit open plans: {kills_with_open_plans} of {}",
            self.agent_kills()
        )?;
        writeln!(
            f,
            "partitions with batches in doubt: {asked_leader} resolved by DescribeProducers, {read_partition} by reading, {not_looked} not at all"
        )?;
        writeln!(
            f,
            "batches in doubt: {open}; found stored {found_stored}, sent again as it was {sent_again_as_it_was}, sent anew {sent_anew}"
        )?;
        writeln!(
            f,
            "written: {lines} lines, {renamed} rotations by rename, {recreated} files deleted and made anew, {removed} rotated files deleted"
        )?;
        write!(
            f,
            "kcat read {read}: {lost} lost, {repeated} repeated, {foreign} foreign, {disordered} out of order"
        )?;
        if !self.odd.is_empty() {
            write!(f, "\nfirst of them (file/line xTIMES): {}", self.odd.join(" "))?;
        }
        Ok(())
    }
}

impl Report {
    fn agent_kills(&self) -> usize {
        self.killed.get("agent").copied().unwrap_or_default()
    }

    /// Fails with everything that is not as it should be.
    pub fn judge(&self, lines: usize, open_percent_min: usize) -> Result<()> {
        ensure!(
            self.written.lines == lines,
            "{} of {lines} lines were written",
            self.written.lines
        );
        ensure!(is_exact(&self.verdict, lines), "not exactly once: {:?}", self.verdict);
        ensure!(self.kills_made >= self.kills_asked, "fewer kills than asked");
        let kills = self.agent_kills();
        let hits = self.resolved.kills_with_open_plans;
        ensure!(
            kills < AGENT_KILLS_MIN || hits * 100 >= kills * open_percent_min,
            "only {hits} of {kills} kills of the agent hit open plans: the run shows too little"
        );
        let Written { renamed, recreated, .. } = self.written;
        ensure!(
            renamed > 0 && recreated > 0,
            "the writer did not rotate and delete: {:?}",
            self.written
        );
        Ok(())
    }

    /// Adds itself as a section.
    pub fn append_to(&self, path: &Path) -> Result<()> {
        let mut file = File::options().append(true).create(true).open(path)?;
        let variant = &self.broker;
        writeln!(file, "\n## {variant}, seed {}\n\n```\n{self}\n```", self.seed)?;
        Ok(())
    }
}
