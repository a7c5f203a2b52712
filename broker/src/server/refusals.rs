//! What was turned away, said once per client.
//!
//! A client that is refused tries again for ever; its first refusal is a log line with its name and version, the rest are
//! a number in a metric. Both the memory of who was told and the metric's client label are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailway_daemon::Clock;
use tailway_metadata::time::Mono;

use super::context::Peer;
use crate::metrics::{BrokerMetrics, RefusalLabel};

/// Clients remembered as told; beyond that all are forgotten, and may be told again.
const TOLD_MAX: usize = 4_096;
/// A client that is still at it after this is worth another line.
const TOLD_FOR: Duration = Duration::from_hours(24);
/// Connections turned away by a cap: one line a minute.
const CAP_TOLD_FOR: Duration = Duration::from_mins(1);
/// Lines a minute, whoever is refused: a peer that changes its name each time must not fill the disk.
const LINES_A_MINUTE_MAX: u32 = 60;
/// What of a text tells one refusal from another.
const DETAIL_CHARS_MAX: usize = 60;
/// Client names that get a label of their own.
const CLIENT_LABELS_MAX: usize = 64;
const CLIENT_LABEL_CHARS_MAX: usize = 40;

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    UnknownApi,
    UnsupportedVersion,
    OldMessageFormat,
    Malformed,
    TooLarge,
    TlsOnPlaintext,
    NotKafka,
    Handshake,
    /// It went away during the TLS handshake and did not say why.
    HandshakeBrokenOff,
    TooManyConnections,
    Transactions,
    NotAllowed,
    Revoked,
}

impl Reason {
    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::UnknownApi => "unknown_api",
            Reason::UnsupportedVersion => "unsupported_version",
            Reason::OldMessageFormat => "old_message_format",
            Reason::Malformed => "malformed",
            Reason::TooLarge => "too_large",
            Reason::TlsOnPlaintext => "tls_on_plaintext",
            Reason::NotKafka => "not_kafka",
            Reason::Handshake => "handshake",
            Reason::HandshakeBrokenOff => "handshake_broken_off",
            Reason::TooManyConnections => "too_many_connections",
            Reason::Transactions => "transactions",
            Reason::NotAllowed => "not_allowed",
            Reason::Revoked => "revoked",
        }
    }
}

/// Who was refused what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    reason: Reason,
    host: Option<IpAddr>,
    client: String,
    detail: String,
}

/// The refusals of one broker. Clones share them.
#[derive(Clone)]
pub struct Refusals {
    shared: Arc<Mutex<Memory>>,
    metrics: BrokerMetrics,
    clock: Clock,
}

#[derive(Default)]
struct Memory {
    told: BTreeMap<Told, Mono>,
    labels: BTreeSet<String>,
    /// The minute that lines are counted in, and how many it has had.
    minute: (u64, u32),
}

impl Refusals {
    pub fn new(metrics: BrokerMetrics, clock: Clock) -> Self {
        Self { shared: Arc::default(), metrics, clock }
    }

    /// A request of a client that has spoken. `detail` tells refusals of the same client apart (API and version).
    pub fn request(&self, reason: Reason, peer: &Peer, client_id: Option<&str>, detail: &str) {
        let software = peer.software();
        let name = software.map(|software| software.name.as_str()).or(client_id).unwrap_or("");
        let told = Told {
            reason,
            host: Some(peer.address.ip()),
            client: format!("{name} {}", client_id.unwrap_or("")),
            detail: cut(detail),
        };
        if !self.note(told, name, TOLD_FOR) {
            return;
        }
        tracing::warn!(
            reason = reason.label(),
            peer = %peer.address,
            listener = %peer.listener,
            client_id = client_id.unwrap_or(""),
            client_software = software.map_or("", |software| software.name.as_str()),
            client_version = software.map_or("", |software| software.version.as_str()),
            "refused: {detail}; said once per client"
        );
    }

    /// A connection that never spoke Kafka.
    pub fn connection(&self, reason: Reason, host: IpAddr, listener: &str, detail: &str) {
        let (told_for, host) = match reason {
            // Who comes when the house is full does not matter.
            Reason::TooManyConnections => (CAP_TOLD_FOR, None),
            _ => (TOLD_FOR, Some(host)),
        };
        let detail_told = host.map_or_else(String::new, |_| cut(detail));
        let told = Told { reason, host, client: listener.to_owned(), detail: detail_told };
        if !self.note(told, "", told_for) {
            return;
        }
        let peer = host.map(|host| host.to_string()).unwrap_or_default();
        let reason_label = reason.label();
        if reason == Reason::HandshakeBrokenOff {
            // So does every client that is stopped while it connects.
            tracing::info!(
                reason = reason_label,
                peer,
                listener,
                "{detail}: it was stopped, or it does not trust this listener's certificate; said once per client"
            );
        } else {
            tracing::warn!(
                reason = reason_label,
                peer,
                listener,
                "refused: {detail}; said once per client"
            );
        }
    }

    /// Counts it; whether it is to be said.
    fn note(&self, told: Told, client: &str, told_for: Duration) -> bool {
        let now = self.clock.mono();
        let mut memory = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let label = memory.label(client);
        self.metrics
            .refused
            .get_or_create(&RefusalLabel { reason: told.reason.label(), client: label })
            .inc();
        if memory.told.get(&told).is_some_and(|at| now.since(*at) < told_for) {
            return false;
        }
        if memory.told.len() >= TOLD_MAX {
            memory.told.clear();
        }
        memory.told.insert(told, now);
        memory.has_a_line_left(now)
    }
}

fn cut(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS_MAX).collect()
}

impl Memory {
    fn has_a_line_left(&mut self, now: Mono) -> bool {
        let minute = now.as_millis() / 60_000;
        if self.minute.0 != minute {
            self.minute = (minute, 0);
        }
        self.minute.1 += 1;
        self.minute.1 <= LINES_A_MINUTE_MAX
    }

    fn label(&mut self, client: &str) -> String {
        let printable = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        let label: String =
            client.chars().filter(|c| printable(*c)).take(CLIENT_LABEL_CHARS_MAX).collect();
        if label.is_empty() {
            return "unnamed".to_owned();
        }
        if self.labels.contains(&label) {
            return label;
        }
        if self.labels.len() >= CLIENT_LABELS_MAX {
            return "other".to_owned();
        }
        self.labels.insert(label.clone());
        label
    }
}

#[cfg(test)]
mod tests {
    use tailway_daemon::metrics::Metrics;
    use tailway_metadata::time::WallMs;

    use super::*;
    use crate::server::context::Software;

    fn refusals() -> (Refusals, Metrics) {
        let metrics = Metrics::new();
        let broker = BrokerMetrics::register(&metrics);
        (Refusals::new(broker, Clock::manual(WallMs(0))), metrics)
    }

    fn told(client: &str, detail: &str) -> Told {
        Told {
            reason: Reason::UnknownApi,
            host: None,
            client: client.to_owned(),
            detail: detail.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_is_told_once_a_day_and_counted_always() {
        let (refusals, metrics) = refusals();
        assert!(refusals.note(told("sarama", "key 99"), "sarama", TOLD_FOR));
        assert!(!refusals.note(told("sarama", "key 99"), "sarama", TOLD_FOR));
        assert!(refusals.note(told("sarama", "key 98"), "sarama", TOLD_FOR), "another request");
        assert!(refusals.note(told("other", "key 99"), "b\"a\nd", TOLD_FOR), "another client");
        tokio::time::advance(TOLD_FOR).await;
        assert!(refusals.note(told("sarama", "key 99"), "sarama", TOLD_FOR));
        let text = metrics.encode();
        let sarama = "tailway_broker_refused_total{reason=\"unknown_api\",client=\"sarama\"} 4\n";
        assert!(text.contains(sarama), "{text}");
        assert!(text.contains("client=\"bad\"} 1\n"), "{text}");
    }

    #[tokio::test]
    async fn memory_and_labels_are_bounded() {
        let (refusals, metrics) = refusals();
        for i in 0..2 * TOLD_MAX {
            refusals.note(told(&format!("c{i}"), ""), &format!("c{i}"), TOLD_FOR);
        }
        let memory = refusals.shared.lock().unwrap();
        assert!(memory.told.len() <= TOLD_MAX);
        assert_eq!(memory.labels.len(), CLIENT_LABELS_MAX);
        let series = metrics.encode().matches("tailway_broker_refused_total{").count();
        assert_eq!(series, CLIENT_LABELS_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_of_many_names_does_not_fill_the_log() {
        let (refusals, _) = refusals();
        let said =
            |n| (0..n).filter(|i| refusals.note(told(&format!("c{i}"), ""), "", TOLD_FOR)).count();
        assert_eq!(said(1_000), 60);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(said(1_010), 10, "those of the first minute were counted as told");
    }

    #[tokio::test]
    async fn a_named_client_is_labelled_by_its_library() {
        let (refusals, metrics) = refusals();
        let peer = Peer::for_tests();
        peer.set_software(Software { name: "librdkafka".into(), version: "2.0.2".into() });
        refusals.request(Reason::UnsupportedVersion, &peer, Some("rdkafka"), "Produce v2");
        assert!(metrics.encode().contains("client=\"librdkafka\""), "{}", metrics.encode());
    }
}
