//! What is said of forwarding: metrics, and the section `sinks` of `/status`.
//!
//! The lag is one snapshot: committed offset, high watermark and the time of the oldest open record are looked at together,
//! so that it is never negative; of a partition whose position is not known yet there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use serde::Serialize;
use tailway_daemon::metrics::{Counter, Family, Gauge, Metrics};

use super::sink::Place;
use crate::machine::forward::Tally;

/// Label: the sink by its configured name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SinkLabel {
    pub(crate) sink: String,
}

/// Labels of a partition on its way into a sink.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LaneLabel {
    pub(crate) sink: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

/// The metrics of all sinks. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ForwardMetrics {
    pub(crate) delivered: Family<SinkLabel, Counter>,
    pub(crate) retried: Family<SinkLabel, Counter>,
    pub(crate) dead: Family<SinkLabel, Counter>,
    pub(crate) found: Family<SinkLabel, Counter>,
    pub(crate) bytes: Family<SinkLabel, Counter>,
    pub(crate) unread: Family<SinkLabel, Counter>,
    pub(crate) lag_records: Family<LaneLabel, Gauge>,
    pub(crate) lag_seconds: Family<LaneLabel, Gauge>,
    pub(crate) paused: Family<LaneLabel, Gauge>,
}

impl ForwardMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        fn family<L, M>(metrics: &Metrics, name: &str, help: &str) -> Family<L, M>
        where
            L: Clone
                + std::hash::Hash
                + Eq
                + EncodeLabelSet
                + std::fmt::Debug
                + Send
                + Sync
                + 'static,
            M: Default + Clone + std::fmt::Debug + Send + Sync + 'static,
            Family<L, M>: prometheus_client::registry::Metric,
        {
            metrics.register(&format!("tailway_broker_sink_{name}"), help, Family::default())
        }
        Self {
            delivered: family(metrics, "delivered_records", "Records that the sink has"),
            retried: family(metrics, "retried_records", "Records that were sent again"),
            dead: family(
                metrics,
                "dead_records",
                "Records refused for good, in dead letter topics",
            ),
            found: family(
                metrics,
                "found_records",
                "Records in doubt that a lookup found at the sink",
            ),
            bytes: family(
                metrics,
                "delivered_bytes",
                "Bytes of keys and values of delivered records",
            ),
            unread: family(
                metrics,
                "deleted_unread_offsets",
                "Offsets that retention deleted before the sink had them",
            ),
            lag_records: family(
                metrics,
                "lag_records",
                "Offsets between what is committed for the sink and the high watermark",
            ),
            lag_seconds: family(
                metrics,
                "lag_seconds",
                "Age of the oldest record that the sink does not have, 0 if it has all",
            ),
            paused: family(metrics, "paused", "1 while somebody has to mend something, else 0"),
        }
    }
}

/// One partition's state, for `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LaneReport {
    /// `None` until the position is known.
    pub(crate) committed: Option<i64>,
    pub(crate) high_watermark: i64,
    pub(crate) lag_records: Option<i64>,
    pub(crate) lag_seconds: Option<i64>,
    /// `flowing`, `retrying`, `paused` or `starting`.
    pub(crate) state: &'static str,
    /// Why it pauses, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pause: Option<String>,
    /// What is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    pub(crate) delivered: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
    pub(crate) found: u64,
}

type Lanes = BTreeMap<(Arc<str>, Arc<str>, i32), LaneReport>;

/// What all partitions report. Clones share it.
#[derive(Clone)]
pub(crate) struct Reports {
    lanes: Arc<Mutex<Lanes>>,
    metrics: ForwardMetrics,
}

/// The report of one partition; gone with it.
pub(crate) struct Reporter {
    reports: Reports,
    key: (Arc<str>, Arc<str>, i32),
    tally: Tally,
}

impl Reports {
    pub(crate) fn new(metrics: ForwardMetrics) -> Self {
        Self { lanes: Arc::default(), metrics }
    }

    /// `log_topic`: where its records are read, which for dead letters is not where they belong.
    pub(crate) fn reporter(&self, place: &Place, log_topic: &Arc<str>) -> Reporter {
        let key = (Arc::clone(&place.sink), Arc::clone(log_topic), place.partition);
        let report = LaneReport { state: "starting", ..LaneReport::default() };
        self.lanes().insert(key.clone(), report);
        Reporter { reports: self.clone(), key, tally: Tally::default() }
    }

    /// The partitions of one sink, by topic and partition.
    pub(crate) fn of_sink(&self, sink: &str) -> Vec<(Arc<str>, i32, LaneReport)> {
        self.lanes()
            .iter()
            .filter(|((name, ..), _)| **name == *sink)
            .map(|((_, topic, partition), report)| (Arc::clone(topic), *partition, report.clone()))
            .collect()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Entries are replaced as a whole.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    fn label(&self) -> LaneLabel {
        let (sink, topic, partition) = &self.key;
        LaneLabel { sink: sink.to_string(), topic: topic.to_string(), partition: *partition }
    }

    fn sink_label(&self) -> SinkLabel {
        SinkLabel { sink: self.key.0.to_string() }
    }

    /// Takes note of where it stands.
    pub(crate) fn set(&mut self, report: LaneReport, tally: Tally) {
        let (sink, label, metrics) = (self.sink_label(), self.label(), &self.reports.metrics);
        for (family, now, before) in [
            (&metrics.delivered, tally.delivered, self.tally.delivered),
            (&metrics.retried, tally.retried, self.tally.retried),
            (&metrics.dead, tally.dead, self.tally.dead),
            (&metrics.found, tally.found, self.tally.found),
        ] {
            family.get_or_create(&sink).inc_by(now.saturating_sub(before));
        }
        if let (Some(records), Some(seconds)) = (report.lag_records, report.lag_seconds) {
            metrics.lag_records.get_or_create(&label).set(records);
            metrics.lag_seconds.get_or_create(&label).set(seconds);
        }
        metrics.paused.get_or_create(&label).set(i64::from(report.state == "paused"));
        self.tally = tally;
        let report = LaneReport {
            delivered: tally.delivered,
            retried: tally.retried,
            dead: tally.dead,
            found: tally.found,
            ..report
        };
        self.reports.lanes().insert(self.key.clone(), report);
    }

    pub(crate) fn delivered_bytes(&self, bytes: u64) {
        self.reports.metrics.bytes.get_or_create(&self.sink_label()).inc_by(bytes);
    }

    pub(crate) fn deleted_unread(&self, offsets: u64) {
        self.reports.metrics.unread.get_or_create(&self.sink_label()).inc_by(offsets);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.reports.lanes().remove(&self.key);
        let (label, metrics) = (self.label(), &self.reports.metrics);
        metrics.lag_records.remove(&label);
        metrics.lag_seconds.remove(&label);
        metrics.paused.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::TopicId;

    use super::*;

    #[test]
    fn the_lag_is_there_once_a_position_is_known_and_goes_with_the_partition() {
        let metrics = Metrics::new();
        let reports = Reports::new(ForwardMetrics::register(&metrics));
        let topic: Arc<str> = "t".into();
        let (sink, topic_id, partition) = ("es".into(), TopicId::default(), 2);
        let place = Place { sink, topic: Arc::clone(&topic), topic_id, partition };
        let mut reporter = reports.reporter(&place, &topic);
        let lag = |what: &str| {
            let name = format!("tailway_broker_sink_lag_{what}{{");
            let text = metrics.encode();
            text.lines().find(|line| line.starts_with(&name)).map(str::to_owned)
        };
        // It waits for the sink, and for the position.
        let waits = LaneReport { state: "paused", ..LaneReport::default() };
        reporter.set(waits, Tally::default());
        assert_eq!((lag("records"), lag("seconds")), (None, None));
        let knows = LaneReport {
            committed: Some(10),
            high_watermark: 17,
            lag_records: Some(7),
            lag_seconds: Some(3),
            state: "flowing",
            ..LaneReport::default()
        };
        let tally = Tally { delivered: 10, retried: 4, dead: 1, found: 2 };
        reporter.set(knows.clone(), tally);
        reporter.set(knows, tally);
        reporter.delivered_bytes(99);
        let labels = "{sink=\"es\",topic=\"t\",partition=\"2\"}";
        let of = |what: &str, value: u32| {
            Some(format!("tailway_broker_sink_lag_{what}{labels} {value}"))
        };
        assert_eq!((lag("records"), lag("seconds")), (of("records", 7), of("seconds", 3)));
        let text = metrics.encode();
        for (name, value) in [
            ("delivered_records", 10),
            ("retried_records", 4),
            ("dead_records", 1),
            ("found_records", 2),
            ("delivered_bytes", 99),
        ] {
            let line = format!("tailway_broker_sink_{name}_total{{sink=\"es\"}} {value}");
            assert!(text.lines().any(|have| have == line), "no {line} in:\n{text}");
        }
        drop(reporter);
        assert_eq!((lag("records"), lag("seconds")), (None, None), "it is another broker's now");
        assert!(metrics.encode().contains("delivered_records_total{sink=\"es\"} 10"));
    }
}
