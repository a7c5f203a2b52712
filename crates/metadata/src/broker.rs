//! A broker as the cluster knows it: who it is, where it is reached, whether it is fenced.

use serde::{Deserialize, Serialize};

use crate::ids::{BrokerEpoch, BrokerId, DirectoryId, IncarnationId};

/// What speaks on an endpoint. The numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityProtocol {
    Plaintext,
    Tls,
}

impl SecurityProtocol {
    /// Kafka's number for it (PLAINTEXT 0, SSL 1).
    pub const fn code(self) -> i16 {
        match self {
            SecurityProtocol::Plaintext => 0,
            SecurityProtocol::Tls => 1,
        }
    }

    pub const fn from_code(code: i16) -> Option<SecurityProtocol> {
        match code {
            0 => Some(SecurityProtocol::Plaintext),
            1 => Some(SecurityProtocol::Tls),
            _ => None,
        }
    }
}

/// One address that a broker advertises, under the name of the listener it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub protocol: SecurityProtocol,
}

/// One broker's registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    pub id: BrokerId,
    /// The process that registered.
    pub incarnation: IncarnationId,
    /// The data directory that this broker id belongs to.
    pub directory: DirectoryId,
    pub epoch: BrokerEpoch,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    /// A fenced broker leads nothing and is not shown to clients.
    pub fenced: bool,
}

impl Broker {
    /// The address advertised by the listener of this name.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == listener)
    }
}
