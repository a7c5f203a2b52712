//! The registry behind `/metrics`: a shared wrapper over prometheus-client.
//!
//! A program declares all its metrics in one `metrics.rs` through this wrapper; what it gets back are prometheus-client's
//! own types, which are atomics and cost no lock. Names are `tailway_<program>_<noun>_<unit>`.
//! Invariant: `describe` lists exactly what `/metrics` can show, so that documentation can be compared with it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// The content type of `encode`'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One program's metrics. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    inner: Arc<Mutex<Inner>>,
}

/// The registry tells only of metrics that have a value already, so what was declared is noted beside it.
#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    declared: Vec<MetricDescription>,
}

impl Metrics {
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Registers any metric of prometheus-client and hands it back. A counter's `_total` is added by the encoder.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut inner = self.lock();
        inner.declared.push(MetricDescription {
            name: name.to_owned(),
            kind: metric.metric_type().as_str().to_owned(),
            help: help.to_owned(),
        });
        inner.registry.register(name, help, metric.clone());
        metric
    }

    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: impl IntoIterator<Item = f64>,
    ) -> Histogram {
        self.register(name, help, Histogram::new(buckets))
    }

    /// Everything, in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail; if it ever did, what was written so far is still of use.
        let _written = encode(&mut text, &self.lock().registry);
        text
    }

    /// What is registered, sorted by name: also what has no value yet, as a label that was not seen.
    pub fn describe(&self) -> Vec<MetricDescription> {
        let mut found = self.lock().declared.clone();
        found.sort();
        found
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Registration happens at start and encoding only reads: a panic in between leaves the registry whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of `Metrics::describe`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricDescription {
    /// Without the `_total` that `/metrics` adds to a counter's.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub help: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_encoded_and_described() {
        let metrics = Metrics::new();
        let appended = metrics.counter("tailway_broker_appended_bytes", "Bytes appended");
        let open = metrics.clone().gauge("tailway_broker_connections", "Open connections");
        appended.inc_by(3);
        open.set(2);
        let text = metrics.encode();
        assert!(text.contains("tailway_broker_appended_bytes_total 3\n"), "{text}");
        assert!(text.contains("tailway_broker_connections 2\n"), "{text}");
        let by_label: Family<Vec<(String, String)>, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.1, 2.0, 3)));
        metrics.register("tailway_broker_seconds", "No value yet", by_label);
        let described = metrics.describe();
        let found: Vec<(&str, &str, &str)> =
            described.iter().map(|m| (&*m.name, &*m.kind, &*m.help)).collect();
        let expected = [
            ("tailway_broker_appended_bytes", "counter", "Bytes appended"),
            ("tailway_broker_connections", "gauge", "Open connections"),
            ("tailway_broker_seconds", "histogram", "No value yet"),
        ];
        assert_eq!(found, expected);
        assert!(!metrics.encode().contains("tailway_broker_seconds"));
    }
}
