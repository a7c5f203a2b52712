//! The coordinator's record stream: every change of the cluster is one of these.
//!
//! Names follow Kafka's metadata records. On disk and on the wire a record is JSON with its type and version spelled out
//! (`{"type":"TopicRecord","version":0,"data":{..}}`); a type, version or field that this program does not know is an
//! error that says so, never something skipped: a follower that skipped a record would hold another image than its peers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::authority::{AuthorityId, CertificateAuthority};
use crate::broker::Broker;
use crate::ids::{
    BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, MetadataLogId, PartitionIndex, ProducerId,
    TopicId,
};
use crate::security::{IssuedCertificate, JoinToken, Serial};

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    Cluster(ClusterRecord),
    RegisterBroker(Broker),
    BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    Topic(TopicRecord),
    Config(ConfigRecord),
    Partition(PartitionRecord),
    PartitionChange(PartitionChangeRecord),
    RemoveTopic(RemoveTopicRecord),
    ProducerIds(ProducerIdsRecord),
    Token(JoinToken),
    RemoveToken(RemoveTokenRecord),
    Certificate(IssuedCertificate),
    RemoveCertificate(RemoveCertificateRecord),
    Authority(CertificateAuthority),
    Trust(TrustRecord),
}

/// The first record of a stream: whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecord {
    pub cluster_id: ClusterId,
    pub log_id: MetadataLogId,
}

/// A broker was fenced or unfenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerRegistrationChangeRecord {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub fenced: bool,
}

/// A topic exists from here on; its partitions and configs follow in the same batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRecord {
    pub name: Arc<str>,
    pub topic_id: TopicId,
}

/// A topic config was set, or with `None` went back to its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigRecord {
    pub topic_id: TopicId,
    pub key: String,
    pub value: Option<String>,
}

/// A partition exists from here on. Indexes are dense and ascend from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionRecord {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
}

/// A partition has another leader (or none), leader epoch or ISR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionChangeRecord {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
}

/// A topic, its partitions and configs are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveTopicRecord {
    pub topic_id: TopicId,
}

/// Producer ids below `next_producer_id` are given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducerIdsRecord {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub next_producer_id: ProducerId,
}

/// A token is gone: revoked, or expired and forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveTokenRecord {
    pub id: String,
}

/// A certificate has expired and is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCertificateRecord {
    pub serial: Serial,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a metadata record is not valid JSON: {0}")]
    Malformed(serde_json::Error),
    #[error(
        "metadata record type {kind:?} is not known to this version of Tailway: it was written by a newer one; upgrade this program"
    )]
    UnknownType { kind: String },
    #[error(
        "metadata record {kind} has version {version}, this version of Tailway reads up to {known}: it was written by a newer one; upgrade this program"
    )]
    UnknownVersion { kind: String, version: u32, known: u32 },
    #[error("metadata record {kind} version {version} does not fit its form: {cause}")]
    Misfit { kind: String, version: u32, cause: serde_json::Error },
}

#[derive(Serialize)]
struct EnvelopeOut<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    version: u32,
    data: &'a T,
}

#[derive(Deserialize)]
struct EnvelopeIn<'a> {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// ONE table: variant, type name on disk, version written (all versions up to it are read).
macro_rules! record_table {
    ($($variant:ident, $kind:literal, $version:literal;)*) => {
        impl MetadataRecord {
            /// The name that stands in the encoding.
            pub const fn kind(&self) -> &'static str {
                match self { $(MetadataRecord::$variant(_) => $kind,)* }
            }

            /// The record as JSON text.
            pub fn encode(&self) -> String {
                match self {
                    $(MetadataRecord::$variant(data) => to_json(&EnvelopeOut {
                        kind: $kind,
                        version: $version,
                        data,
                    }),)*
                }
            }

            /// Reads what [`MetadataRecord::encode`] wrote.
            pub fn decode(json: &str) -> Result<MetadataRecord, RecordError> {
                let envelope: EnvelopeIn<'_> =
                    serde_json::from_str(json).map_err(RecordError::Malformed)?;
                match envelope.kind.as_str() {
                    $($kind => {
                        check_version(&envelope, $version)?;
                        serde_json::from_str(envelope.data.get())
                            .map(MetadataRecord::$variant)
                            .map_err(|cause| RecordError::Misfit {
                                kind: $kind.to_owned(),
                                version: envelope.version,
                                cause,
                            })
                    })*
                    _ => Err(RecordError::UnknownType { kind: envelope.kind }),
                }
            }
        }
    };
}

record_table! {
    Cluster, "ClusterRecord", 0;
    RegisterBroker, "RegisterBrokerRecord", 0;
    BrokerRegistrationChange, "BrokerRegistrationChangeRecord", 0;
    Topic, "TopicRecord", 0;
    Config, "ConfigRecord", 0;
    Partition, "PartitionRecord", 0;
    PartitionChange, "PartitionChangeRecord", 0;
    RemoveTopic, "RemoveTopicRecord", 0;
    ProducerIds, "ProducerIdsRecord", 0;
    Token, "TokenRecord", 0;
    RemoveToken, "RemoveTokenRecord", 0;
    Certificate, "CertificateRecord", 0;
    RemoveCertificate, "RemoveCertificateRecord", 0;
    Authority, "AuthorityRecord", 0;
    Trust, "TrustRecord", 0;
}

/// The holder of a certificate trusts the CAs up to this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRecord {
    pub serial: Serial,
    pub knows: AuthorityId,
}

fn check_version(envelope: &EnvelopeIn<'_>, known: u32) -> Result<(), RecordError> {
    if envelope.version <= known {
        return Ok(());
    }
    Err(RecordError::UnknownVersion {
        kind: envelope.kind.clone(),
        version: envelope.version,
        known,
    })
}

fn to_json<T: Serialize>(value: &T) -> String {
    // Records hold strings, integers, lists and options: nothing that JSON cannot carry.
    serde_json::to_string(value).unwrap_or_else(|error| panic!("a record is always JSON: {error}"))
}

/// A record travels inside other JSON as its own encoding.
impl Serialize for MetadataRecord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.encode())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MetadataRecord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        MetadataRecord::decode(raw.get()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::authority::AuthorityState;
    use crate::broker::{Endpoint, SecurityProtocol};
    use crate::ids::{DirectoryId, IncarnationId};
    use crate::security::{Role, Sha256};
    use crate::time::WallMs;

    const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

    /// One of each, with the bytes that stand on disk: a changed encoding fails here, not at a user's restart.
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn samples() -> Vec<(MetadataRecord, &'static str)> {
        vec![
            (
                MetadataRecord::Cluster(ClusterRecord {
                    cluster_id: ClusterId("c1".into()),
                    log_id: MetadataLogId(Uuid::from_u128(1)),
                }),
                r#"{"type":"ClusterRecord","version":0,"data":{"cluster_id":"c1","log_id":"00000000-0000-0000-0000-000000000001"}}"#,
            ),
            (
                MetadataRecord::RegisterBroker(Broker {
                    id: BrokerId(3),
                    incarnation: IncarnationId(Uuid::from_u128(2)),
                    directory: DirectoryId(Uuid::from_u128(3)),
                    epoch: BrokerEpoch(4),
                    endpoints: vec![Endpoint {
                        name: "tls".into(),
                        host: "h".into(),
                        port: 9_093,
                        protocol: SecurityProtocol::Tls,
                    }],
                    rack: None,
                    fenced: true,
                }),
                r#"{"type":"RegisterBrokerRecord","version":0,"data":{"id":3,"incarnation":"00000000-0000-0000-0000-000000000002","directory":"00000000-0000-0000-0000-000000000003","epoch":4,"endpoints":[{"name":"tls","host":"h","port":9093,"protocol":"tls"}],"rack":null,"fenced":true}}"#,
            ),
            (
                MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
                    broker_id: BrokerId(3),
                    broker_epoch: BrokerEpoch(4),
                    fenced: false,
                }),
                r#"{"type":"BrokerRegistrationChangeRecord","version":0,"data":{"broker_id":3,"broker_epoch":4,"fenced":false}}"#,
            ),
            (
                MetadataRecord::Topic(TopicRecord { name: "logs".into(), topic_id: TOPIC }),
                r#"{"type":"TopicRecord","version":0,"data":{"name":"logs","topic_id":"00000000-0000-0000-0000-000000000007"}}"#,
            ),
            (
                MetadataRecord::Config(ConfigRecord {
                    topic_id: TOPIC,
                    key: "retention.ms".into(),
                    value: Some("1".into()),
                }),
                r#"{"type":"ConfigRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000007","key":"retention.ms","value":"1"}}"#,
            ),
            (
                MetadataRecord::Partition(PartitionRecord {
                    topic_id: TOPIC,
                    partition: PartitionIndex(0),
                    replicas: vec![BrokerId(3)],
                    isr: vec![BrokerId(3)],
                    leader: Some(BrokerId(3)),
                    leader_epoch: LeaderEpoch(0),
                }),
                r#"{"type":"PartitionRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000007","partition":0,"replicas":[3],"isr":[3],"leader":3,"leader_epoch":0}}"#,
            ),
            (
                MetadataRecord::PartitionChange(PartitionChangeRecord {
                    topic_id: TOPIC,
                    partition: PartitionIndex(0),
                    isr: vec![BrokerId(3)],
                    leader: None,
                    leader_epoch: LeaderEpoch(1),
                }),
                r#"{"type":"PartitionChangeRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000007","partition":0,"isr":[3],"leader":null,"leader_epoch":1}}"#,
            ),
            (
                MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: TOPIC }),
                r#"{"type":"RemoveTopicRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000007"}}"#,
            ),
            (
                MetadataRecord::ProducerIds(ProducerIdsRecord {
                    broker_id: BrokerId(3),
                    broker_epoch: BrokerEpoch(4),
                    next_producer_id: ProducerId(1_000),
                }),
                r#"{"type":"ProducerIdsRecord","version":0,"data":{"broker_id":3,"broker_epoch":4,"next_producer_id":1000}}"#,
            ),
            (
                MetadataRecord::Token(JoinToken {
                    id: "1a".into(),
                    role: Role::Agent,
                    secret_sha256: Sha256([0xAB; 32]),
                    expires: WallMs(5),
                    uses: 2,
                    used: 1,
                    created_by: "admin root".into(),
                    pins: AuthorityId::FIRST,
                }),
                r#"{"type":"TokenRecord","version":0,"data":{"id":"1a","role":"agent","secret_sha256":"abababababababababababababababababababababababababababababababab","expires":5,"uses":2,"used":1,"created_by":"admin root"}}"#,
            ),
            (
                MetadataRecord::RemoveToken(RemoveTokenRecord { id: "1a".into() }),
                r#"{"type":"RemoveTokenRecord","version":0,"data":{"id":"1a"}}"#,
            ),
            (
                MetadataRecord::Certificate(IssuedCertificate {
                    serial: Serial("01ab".into()),
                    role: Role::Broker,
                    id: "3".into(),
                    names: vec!["b3.example".into()],
                    not_before: WallMs(5),
                    not_after: WallMs(6),
                    issued_by: "token 1a".into(),
                    revoked: Some(WallMs(6)),
                    signed_by: AuthorityId::FIRST,
                    knows: AuthorityId(2),
                }),
                r#"{"type":"CertificateRecord","version":0,"data":{"serial":"01ab","role":"broker","id":"3","names":["b3.example"],"not_before":5,"not_after":6,"issued_by":"token 1a","revoked":6,"knows":2}}"#,
            ),
            (
                MetadataRecord::RemoveCertificate(RemoveCertificateRecord {
                    serial: Serial("01ab".into()),
                }),
                r#"{"type":"RemoveCertificateRecord","version":0,"data":{"serial":"01ab"}}"#,
            ),
            (
                MetadataRecord::Authority(CertificateAuthority {
                    id: AuthorityId(2),
                    sha256: Sha256([0xAB; 32]),
                    pem: "x".into(),
                    not_after: WallMs(6),
                    state: AuthorityState::Trusted,
                }),
                r#"{"type":"AuthorityRecord","version":0,"data":{"id":2,"sha256":"abababababababababababababababababababababababababababababababab","pem":"x","not_after":6,"state":"trusted"}}"#,
            ),
            (
                MetadataRecord::Trust(TrustRecord {
                    serial: Serial("01ab".into()),
                    knows: AuthorityId(2),
                }),
                r#"{"type":"TrustRecord","version":0,"data":{"serial":"01ab","knows":2}}"#,
            ),
        ]
    }

    #[test]
    fn the_encoding_is_fixed() {
        for (record, json) in samples() {
            assert_eq!(record.encode(), json);
            assert_eq!(MetadataRecord::decode(json).unwrap(), record);
            let list = serde_json::to_string(&vec![&record]).unwrap();
            assert_eq!(list, format!("[{json}]"));
            assert_eq!(serde_json::from_str::<Vec<MetadataRecord>>(&list).unwrap(), [record]);
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let cases = [
            (
                r#"{"type":"AclRecord","version":0,"data":{}}"#,
                "metadata record type \"AclRecord\" is not known to this version of Tailway: it was written by a newer one; upgrade this program",
            ),
            (
                r#"{"type":"TopicRecord","version":1,"data":{"anything":1}}"#,
                "metadata record TopicRecord has version 1, this version of Tailway reads up to 0: it was written by a newer one; upgrade this program",
            ),
            (
                r#"{"type":"RemoveTopicRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000007","why":1}}"#,
                "metadata record RemoveTopicRecord version 0 does not fit its form: unknown field `why`, expected `topic_id` at line 1 column 56",
            ),
            ("nonsense", "a metadata record is not valid JSON: expected ident at line 1 column 2"),
        ];
        for (json, expected) in cases {
            assert_eq!(MetadataRecord::decode(json).unwrap_err().to_string(), expected);
        }
    }
}
