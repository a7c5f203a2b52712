//! What the agent's own log says of batches in doubt: how many there were after each kill, and what became of them.
//!
//! The log is the witness because it outlives the process: a counter in memory does not survive the kill that it counts.

use anyhow::{Context, Result};
use serde::Serialize;

/// At a start: a partition has batches that an earlier process sent.
const IN_DOUBT: &str = "finding out what became of batches that were sent before";
const STORED: &str = "a batch in doubt is stored";
const NOT_STORED: &str = "a batch in doubt is not stored";
const APPENDED: &str = "a batch in doubt is appended, not yet committed";
/// How a partition was asked: by DescribeProducers, by reading it, or not.
const BY_LEADER: &str = "the leader told (DescribeProducers)";
const BY_READING: &str = "the partition was read";
const NOT_AT_ALL: &str = "not at all: ";
const AS_IT_WAS: &str = "sending a batch again as it was";

/// How batches in doubt were resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The agent's kills after which a start found open plans.
    pub kills_with_open_plans: usize,
    /// Plans that starts found open.
    pub open: usize,
    /// Partitions whose leader told what became of its batches, which were read for it, and which could not be looked into.
    pub asked_leader: usize,
    pub read_partition: usize,
    pub not_looked: usize,
    pub found_stored: usize,
    pub sent_again_as_it_was: usize,
    pub sent_anew: usize,
}

/// Reads the log, of which each start after a kill begins at one of `kills` (byte positions).
pub fn read(log: &str, kills: &[usize]) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    let mut not_stored = 0;
    let (mut begin, mut after_kill) = (0, false);
    for end in kills.iter().copied().chain([log.len()]) {
        let life = log.get(begin..end).context("the log is shorter than it was at a kill")?;
        let mut open = 0;
        for line in life.lines() {
            if line.contains(IN_DOUBT) {
                let (_, rest) = line.split_once("batches=").with_context(|| line.to_owned())?;
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                open += digits.parse::<usize>().with_context(|| line.to_owned())?;
            }
            resolved.found_stored += usize::from(line.contains(STORED));
            not_stored += usize::from(line.contains(NOT_STORED) || line.contains(APPENDED));
            resolved.asked_leader += usize::from(line.contains(BY_LEADER));
            resolved.read_partition += usize::from(line.contains(BY_READING));
            resolved.not_looked += usize::from(line.contains(NOT_AT_ALL));
            resolved.sent_again_as_it_was += usize::from(line.contains(AS_IT_WAS));
        }
        resolved.open += open;
        resolved.kills_with_open_plans += usize::from(after_kill && open > 0);
        (begin, after_kill) = (end, true);
    }
    resolved.sent_anew = not_stored.saturating_sub(resolved.sent_again_as_it_was);
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_between_kills_are_told_apart() {
        let lives = [
            "INFO up\n".to_owned(),
            format!(
                "INFO {IN_DOUBT} topic=logs batches=2\nINFO how=\"{BY_LEADER}\"\nINFO {STORED} plan=1\nINFO {NOT_STORED} plan=2\nINFO {AS_IT_WAS} plan=2\n"
            ),
            "INFO up\n".to_owned(),
            format!(
                "INFO {IN_DOUBT} topic=logs batches=1\nINFO {IN_DOUBT} topic=logs batches=3 x\nINFO how=\"{BY_READING}: y\"\nINFO {NOT_STORED} plan=1\n"
            ),
        ];
        let mut kills = Vec::new();
        for life in &lives[..3] {
            kills.push(kills.last().unwrap_or(&0) + life.len());
        }
        let expected = Resolved {
            kills_with_open_plans: 2,
            open: 6,
            asked_leader: 1,
            read_partition: 1,
            not_looked: 0,
            found_stored: 1,
            sent_again_as_it_was: 1,
            sent_anew: 1,
        };
        assert_eq!(read(&lives.concat(), &kills).unwrap(), expected);
        assert!(read("", &[3]).is_err());
    }
}
