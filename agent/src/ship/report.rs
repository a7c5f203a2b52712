//! What `/status` says of files and output, and the gauges.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::Shipper;
use super::files::Followed;
use crate::machine::tail_file::State;

/// Files shown one by one, idle ones last; the others are counted.
const FILES_SHOWN_MAX: usize = 256;

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
        let files: Vec<Value> = shown.map(|file| self.describe_file(file)).collect();
        let behind: u64 = self.files.values().map(|file| unread(file).0).sum();
        let held: Vec<String> = self.held().iter().map(ToString::to_string).collect();
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
        let trouble = file.trouble.as_ref().filter(|_| file.machine.state() == State::Unreadable);
        let lane = file.lane.and_then(|lane| self.lanes.get(lane));
        let repeated = lane.and_then(|lane| lane.repeated.as_ref());
        let guarantee = match repeated {
            None => "exactly-once".to_owned(),
            Some(why) => format!("at-least-once: {why}"),
        };
        json!({
            "path": file.path.display().to_string(),
            "input": self.config.inputs[file.input].id,
            "generation": file.generation.to_string(),
            "state": file.machine.state().name(),
            "size": file.machine.size(),
            "read": file.machine.read(),
            "acked": file.machine.acked(),
            "behind": behind,
            "unacked": unacked,
            "partition": lane.map(|lane| lane.target.partition),
            "guarantee": guarantee,
            "trouble": trouble,
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
