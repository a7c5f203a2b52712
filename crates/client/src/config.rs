//! Settings of a client.

use std::time::Duration;

use tailway_net::{ClientTls, HostPort};

/// How a client finds and talks to a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Any brokers of the cluster; the others are found through them.
    pub bootstrap: Vec<HostPort>,
    /// TLS for every connection; `None`: plaintext.
    pub tls: Option<ClientTls>,
    /// What the cluster's logs call us.
    pub client_id: String,
    /// For one request and its answer.
    pub request_timeout: Duration,
    /// For name resolution, TCP and TLS handshake of one connection.
    pub connect_timeout: Duration,
    /// Metadata older than this is fetched again before it is used.
    pub metadata_max_age: Duration,
}

impl ClientConfig {
    /// Kafka's usual timeouts, plaintext.
    pub fn new(bootstrap: Vec<HostPort>, client_id: impl Into<String>) -> Self {
        Self {
            bootstrap,
            tls: None,
            client_id: client_id.into(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            metadata_max_age: Duration::from_mins(5),
        }
    }

    #[must_use]
    pub fn with_tls(mut self, tls: Option<ClientTls>) -> Self {
        self.tls = tls;
        self
    }

    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self.connect_timeout = self.connect_timeout.min(timeout);
        self
    }

    /// The bootstrap list as people write it.
    pub fn bootstrap_text(&self) -> String {
        self.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}
