//! What `/status` says of files and output, and the gauges.
//!
//! Of each file it says what is guaranteed now, and since when and why that is less, if it is.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::{Value, json};

use super::Shipper;
use super::files::Followed;
use crate::machine::identity::Generation;
use crate::machine::ledger::Plan;
use crate::machine::tail_file::State;

/// Files shown one by one, idle ones last; the others are counted.
const FILES_SHOWN_MAX: usize = 256;

/// Reporting may take one part in this many of the time.
const REPORT_SHARE: u32 = 1_000;

/// What `/status` says is never older than this, however long it takes to say it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long what was reported stands, when saying it took so long: with very many files, or on a busy machine.
pub(super) fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(REPORT_SHARE).min(PAUSE_MAX)
}

impl Shipper {
    /// Puts what is so now where `/status` and `/metrics` read it.
    pub(super) fn publish(&self) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);

        let metrics = &self.metrics;
        metrics.files.set(gauge(self.files.len()));
        metrics.files_open.set(gauge(self.opened.len()));
        metrics.directories_watched.set(gauge(self.watches.watched()));
        metrics.spool_bytes.set(gauge(self.spool_bytes()));
        metrics.journal_bytes.set(i64::try_from(self.registry.bytes()).unwrap_or(i64::MAX));
        metrics.plans_open.set(gauge(self.registry.ledger().plans.len()));
        let report = self.describe();
        // A value is replaced whole: a panic elsewhere cannot leave half of one.
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    fn describe(&self) -> Value {
        let is_idle = |file: &&Followed| file.machine.state() == State::Idle;
        let busy = self.files.values().filter(|file| !is_idle(file));
        let shown = busy.chain(self.files.values().filter(is_idle)).take(FILES_SHOWN_MAX);
        let held = self.held();
        let in_doubt = held.iter().take(FILES_SHOWN_MAX).map(|held| self.describe_held(*held));
        let files = in_doubt.chain(shown.map(|file| self.describe_file(file)));
        let files: Vec<Value> = files.take(FILES_SHOWN_MAX).collect();
        let behind: u64 = self.files.values().map(|file| unread(file).0).sum();
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        let polled = self.dirs.iter().filter(|(_, dir)| dir.is_polled());
        let polled: Vec<_> = polled.map(|(path, _)| path.display().to_string()).collect();
        let troubles: Vec<Value> = self
            .troubles
            .iter()
            .map(|(path, cause)| json!({"path": path.display().to_string(), "cause": cause}))
            .collect();
        json!({
            "files": files,
            "files_total": self.files.len(),
            "behind": behind,
            "directories": self.dirs.len(),
            "directories_polled": polled,
            "troubles": troubles,
            "in_doubt": held,
            "lines": self.metrics.lines.get(),
            "bytes": self.metrics.bytes.get(),
            "bytes_lost": self.metrics.bytes_lost.get(),
            "records_acked": self.metrics.records_acked.get(),
            "spool_bytes": self.spool_bytes(),
            "plans_open": self.registry.ledger().plans.len(),
            "journal_bytes": self.registry.bytes(),
            "journal_trouble": self.registry.trouble(),
            "output": self.describe_output(),
        })
    }

    fn describe_file(&self, file: &Followed) -> Value {
        let (behind, unacked) = unread(file);
        let machine = &file.machine;
        let trouble = file.trouble.as_ref().filter(|_| machine.state() == State::Unreadable);
        let lane = file.lane.and_then(|lane| self.lanes.get(lane));
        let lapse = file
            .repeated
            .as_ref()
            .or_else(|| lane.and_then(|lane| lane.repeated.as_ref()))
            .or(self.repeated.as_ref());
        json!({
            "path": file.path.display().to_string(),
            "input": self.config.inputs[file.input].id,
            "generation": file.generation.to_string(),
            "state": machine.state().name(),
            "size": machine.size(),
            "read": machine.read(),
            "acked": machine.acked(),
            "behind": behind,
            "unacked": unacked,
            "lag": machine.size().saturating_sub(machine.acked()),
            "lost": file.lost,
            "plans_open": self.registry.ledger().plans_with(file.generation).count(),
            "partition": lane.map(|lane| lane.target.partition),
            "guarantee": if lapse.is_none() { "exactly-once" } else { "at-least-once" },
            "guarantee_since": lapse.map(|lapse| lapse.at.0),
            "guarantee_why": lapse.map(|lapse| &lapse.why),
            "trouble": trouble,
        })
    }

    /// A file of which an earlier run left batches in doubt: it is followed once they are resolved.
    fn describe_held(&self, generation: Generation) -> Value {
        let ledger = self.registry.ledger();
        let entry = ledger.files.get(&generation);
        let plans: Vec<&Plan> = ledger.plans_with(generation).collect();
        let ranges = plans.iter().flat_map(|plan| &plan.ranges);
        let ranges = ranges.filter(|range| range.generation == generation);
        let acked = entry.map_or(0, |entry| entry.offset);
        let sent = ranges.map(|range| range.to).max().unwrap_or(acked);
        json!({
            "path": entry.map(|entry| entry.path.display().to_string()),
            "input": entry.map(|entry| &*entry.input),
            "generation": generation.to_string(),
            "state": "in doubt",
            "size": sent,
            "read": sent,
            "acked": acked,
            "behind": 0,
            "unacked": sent.saturating_sub(acked),
            "lag": sent.saturating_sub(acked),
            "lost": 0,
            "plans_open": plans.len(),
            "partition": plans.first().map(|plan| plan.target.partition),
            "guarantee": "exactly-once",
            "guarantee_since": Value::Null,
            "guarantee_why": Value::Null,
            "trouble": "batches of an earlier run are being looked for",
        })
    }

    fn describe_output(&self) -> Value {
        let brokers: Vec<String> =
            self.config.output.brokers.iter().map(ToString::to_string).collect();
        let topics: serde_json::Map<String, Value> = self
            .topics
            .iter()
            .map(|(name, topic)| {
                let partitions = topic.found.as_ref().map(|found| found.partitions);
                (name.clone(), json!({"partitions": partitions, "trouble": topic.trouble}))
            })
            .collect();
        let lanes: Vec<Value> = self
            .lanes
            .iter()
            .map(|lane| {
                json!({
                    "topic": lane.target.topic,
                    "partition": lane.target.partition,
                    "ready": lane.is_flowing(),
                    "buffered_bytes": lane.buffered(),
                    "in_flight_bytes": lane.parcel_bytes(),
                    "trouble": lane.trouble,
                    "doubts_resolved_by": lane.looked,
                })
            })
            .collect();
        let of_topics = self.topics.values().find_map(|topic| topic.trouble.clone());
        let trouble = of_topics.or_else(|| self.lanes.iter().find_map(|lane| lane.trouble.clone()));
        json!({
            "brokers": brokers,
            "tls": self.config.output.tls.is_some(),
            "ok": trouble.is_none(),
            "trouble": trouble,
            "topics": topics,
            "partitions": lanes,
        })
    }
}

/// Bytes that are not read yet, and bytes that are read but not acknowledged.
fn unread(file: &Followed) -> (u64, u64) {
    let machine = &file.machine;
    let read = machine.read();
    (machine.size().saturating_sub(read), read.saturating_sub(machine.acked()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report that once took 200 ms, because others had the processor, stood for more than three minutes.
    #[test]
    fn a_slow_report_does_not_stand_for_minutes() {
        for (took_us, pause_ms) in [(0, 0), (50, 50), (2_000, 2_000), (200_000, 5_000)] {
            let pause = pause_after(Duration::from_micros(took_us));
            assert_eq!(pause, Duration::from_millis(pause_ms), "took {took_us} us");
        }
    }
}
