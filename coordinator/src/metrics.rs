//! All metrics of the coordinator, declared in one place.

use tailway_daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge, Metrics};
use tailway_metadata::ClusterImage;

use crate::quorum::node::RaftStatus;

/// One request of one API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabels {
    pub api: &'static str,
}

/// The coordinator's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct CoordinatorMetrics {
    pub raft_term: Gauge,
    pub raft_leads: Gauge,
    pub raft_last_log_index: Gauge,
    pub metadata_end_offset: Gauge,
    pub brokers: Gauge,
    pub brokers_fenced: Gauge,
    pub topics: Gauge,
    pub partitions: Gauge,
    pub partitions_leaderless: Gauge,
    pub connections: Gauge,
    pub connections_refused: Counter,
    pub requests: Family<ApiLabels, Counter>,
    pub requests_timed_out: Counter,
    pub enrollments: Counter,
    pub enrollments_refused: Counter,
    pub enrollments_throttled: Counter,
}

impl CoordinatorMetrics {
    pub fn new(metrics: &Metrics) -> CoordinatorMetrics {
        let gauge =
            |name: &str, help: &str| metrics.gauge(&format!("tailway_coordinator_{name}"), help);
        let counter =
            |name: &str, help: &str| metrics.counter(&format!("tailway_coordinator_{name}"), help);
        CoordinatorMetrics {
            raft_term: gauge("raft_term", "Raft term, which is the controller epoch"),
            raft_leads: gauge("raft_leads", "1 while this coordinator leads"),
            raft_last_log_index: gauge("raft_last_log_index", "Index of the last Raft entry"),
            metadata_end_offset: gauge(
                "metadata_end_offset",
                "End of the committed record stream that brokers follow",
            ),
            brokers: gauge("brokers", "Registered brokers"),
            brokers_fenced: gauge("brokers_fenced", "Registered brokers that are fenced"),
            topics: gauge("topics", "Topics"),
            partitions: gauge("partitions", "Partitions"),
            partitions_leaderless: gauge("partitions_leaderless", "Partitions without a leader"),
            connections: gauge("connections", "Open connections"),
            connections_refused: counter(
                "connections_refused",
                "Connections refused: the limit, a failed handshake, or a certificate of another role",
            ),
            requests: metrics.register(
                "tailway_coordinator_requests",
                "Requests by API",
                Family::default(),
            ),
            requests_timed_out: counter(
                "requests_timed_out",
                "Requests that were not answered within their deadline",
            ),
            enrollments: counter("enrollments", "Hosts that became members by a token"),
            enrollments_refused: counter(
                "enrollments_refused",
                "Enrolments refused: a token that is not good, or a request that is not",
            ),
            enrollments_throttled: counter(
                "enrollments_throttled",
                "Enrolments not looked at after too many wrong attempts",
            ),
        }
    }

    pub fn show_image(&self, image: &ClusterImage) {
        self.metadata_end_offset.set(image.offset.0);
        self.brokers.set(count(image.brokers.len()));
        self.brokers_fenced.set(count(image.brokers.values().filter(|b| b.fenced).count()));
        self.topics.set(count(image.topics().len()));
        let partitions = || image.topics().flat_map(|topic| &topic.partitions);
        self.partitions.set(count(partitions().count()));
        self.partitions_leaderless.set(count(partitions().filter(|p| p.leader.is_none()).count()));
    }

    pub fn show_raft(&self, raft: &RaftStatus) {
        self.raft_term.set(i64::try_from(raft.term).unwrap_or(i64::MAX));
        self.raft_leads.set(i64::from(raft.leads));
        let last = raft.last_log_index.unwrap_or(0);
        self.raft_last_log_index.set(i64::try_from(last).unwrap_or(i64::MAX));
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
