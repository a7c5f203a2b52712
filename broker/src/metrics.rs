//! Every metric of the broker, declared once.
//!
//! Names are `tailway_broker_<noun>_<unit>`; every label has a bounded set of values. What a bound turned away is counted
//! here too, so that no limit acts unseen.

use prometheus_client::encoding::EncodeLabelSet;
use tailway_daemon::metrics::{Counter, Family, Gauge, Histogram, Metrics, exponential_buckets};

/// Label: the API by its Kafka name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabel {
    pub api: &'static str,
}

/// Label: the API and the error it was answered with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabel {
    pub api: &'static str,
    pub error: &'static str,
}

/// Label: the listener by its configured name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    pub listener: String,
}

/// Labels of what was refused: why, and which client (its library's name; at most 64 different ones, then `other`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    pub reason: &'static str,
    pub client: String,
}

/// The broker's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct BrokerMetrics {
    pub connections: Family<ListenerLabel, Gauge>,
    pub connections_accepted: Family<ListenerLabel, Counter>,
    pub requests: Family<ApiLabel, Counter>,
    pub request_seconds: Family<ApiLabel, Histogram>,
    pub errors: Family<ErrorLabel, Counter>,
    pub refused: Family<RefusalLabel, Counter>,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub request_memory: Gauge,
    pub response_memory: Gauge,
    pub request_memory_waits: Counter,
    pub response_memory_waits: Counter,
    pub partitions: Gauge,
    pub partitions_failed: Gauge,
    pub coordinator_connected: Gauge,
    pub metadata_offset: Gauge,
    pub producer_ids_left: Gauge,
}

impl BrokerMetrics {
    #[allow(clippy::too_many_lines, reason = "one entry per metric, nothing else")]
    /// Declares them all in `metrics`.
    pub fn register(metrics: &Metrics) -> Self {
        let request_seconds = Family::<ApiLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_1, 4.0, 10))
        });
        Self {
            connections: metrics.register(
                "tailway_broker_connections",
                "Open client connections",
                Family::default(),
            ),
            connections_accepted: metrics.register(
                "tailway_broker_accepted_connections",
                "Client connections accepted, handshake included",
                Family::default(),
            ),
            requests: metrics.register(
                "tailway_broker_requests",
                "Requests answered",
                Family::default(),
            ),
            request_seconds: metrics.register(
                "tailway_broker_request_seconds",
                "Time from a request's arrival to its answer being ready, long polls included",
                request_seconds,
            ),
            errors: metrics.register(
                "tailway_broker_errors",
                "Error codes sent to clients",
                Family::default(),
            ),
            refused: metrics.register(
                "tailway_broker_refused",
                "Connections and requests refused, by reason and client library",
                Family::default(),
            ),
            bytes_in: metrics.counter("tailway_broker_received_bytes", "Request bytes received"),
            bytes_out: metrics.counter("tailway_broker_sent_bytes", "Response bytes sent"),
            request_memory: metrics.gauge(
                "tailway_broker_request_memory_bytes",
                "Bytes of large requests in memory; the bound is limits.request_memory",
            ),
            response_memory: metrics.gauge(
                "tailway_broker_response_memory_bytes",
                "Bytes of fetched records on their way out; the bound is limits.response_memory",
            ),
            request_memory_waits: metrics.counter(
                "tailway_broker_request_memory_waits",
                "Requests that waited for request memory",
            ),
            response_memory_waits: metrics.counter(
                "tailway_broker_response_memory_waits",
                "Fetches that waited for response memory",
            ),
            partitions: metrics
                .gauge("tailway_broker_partitions", "Partitions open on this broker"),
            partitions_failed: metrics.gauge(
                "tailway_broker_failed_partitions",
                "Partitions of this broker that cannot be served; /status says why",
            ),
            coordinator_connected: metrics.gauge(
                "tailway_broker_coordinator_connected",
                "1 while the coordinator answers this broker, else 0",
            ),
            metadata_offset: metrics.gauge(
                "tailway_broker_metadata_offset",
                "Offset of the cluster image that this broker serves by",
            ),
            producer_ids_left: metrics.gauge(
                "tailway_broker_producer_ids_left",
                "Producer ids that can be handed out without the coordinator",
            ),
        }
    }

    /// Counts one error code in an answer.
    pub fn count_error(&self, api: &'static str, error: &'static str) {
        self.errors.get_or_create(&ErrorLabel { api, error }).inc();
    }
}
