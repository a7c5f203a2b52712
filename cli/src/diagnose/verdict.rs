//! What was seen of an address, as findings. Pure: no socket, no clock; the words for a cause are those that every error of
//! Tailway has (`tailway_net::dial`, `tailway_client::ClientError`).

use tailway_client::probe::{Described, End, Probed, ServerCertificate};
use tailway_client::{ClientError, ClusterMetadata};
use tailway_metadata::time::WallMs;
use tailway_net::dial::DialFailure;
use tailway_net::explain::{Side, TlsFailure};
use tailway_net::own::ByOurClock;
use tailway_net::{DialError, RpcError};
use tailway_wire::ErrorCode;

use super::{Finding, State};
use crate::output::{count, span};

const DNS: &str = "dns";
const TCP: &str = "tcp";
const TLS: &str = "tls";
const API_VERSIONS: &str = "api versions";
const METADATA: &str = "metadata";
/// A certificate that ends sooner is warned of, whatever its life.
const SOON_MS: i64 = 7 * 24 * 3_600_000;

/// How an address came to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody wrote it.
    Configured,
    /// A broker says that it is reached there.
    Advertised(i32),
    Coordinator,
}

/// The findings about one address, as of `now`.
pub(crate) fn judge(probed: &Probed, origin: Origin, now: WallMs) -> Vec<Finding> {
    let target = match origin {
        Origin::Configured => probed.address.to_string(),
        Origin::Advertised(id) => format!("broker {id} at {}", probed.address),
        Origin::Coordinator => format!("coordinator at {}", probed.address),
    };
    let mut steps = vec![DNS, TCP];
    steps.extend(probed.over_tls.then_some(TLS));
    steps.push(API_VERSIONS);
    let greeted_only = matches!(probed.end, End::Serves { metadata: None, .. });
    steps.extend((origin == Origin::Configured && !greeted_only).then_some(METADATA));
    let failure =
        failure(probed).map(|(step, cause, next)| (step, cause, advertised(origin, next)));
    let mut findings = Vec::new();
    let mut broken = false;
    for step in steps {
        let finding = match &failure {
            _ if broken => {
                let skipped = Finding::ok(&target, step, "a step before it failed");
                Finding { state: State::Skipped, ..skipped }
            }
            Some((at, cause, next)) if *at == step => {
                broken = true;
                Finding::failed(&target, step, cause, next)
            }
            _ => worked(&target, step, probed, now),
        };
        findings.push(finding);
    }
    findings
}

/// For an address that was told, not written: who has to correct it.
fn advertised(origin: Origin, next: String) -> String {
    match origin {
        Origin::Configured | Origin::Coordinator => next,
        Origin::Advertised(id) => format!(
            "{next}; if that address is wrong, correct what broker {id} advertises (listeners[].advertise, in Kafka advertised.listeners)"
        ),
    }
}

/// The step that failed, why, and what to do next.
fn failure(probed: &Probed) -> Option<(&'static str, String, String)> {
    match &probed.end {
        End::Dial(error) => Some((step_of(error), error.cause(), error.next_step())),
        End::Greeting(error) => Some(greeting(probed, error)),
        End::Serves { metadata: Some(Err(error)), .. } => {
            let next = "the broker's own log and its /readyz say more";
            Some((METADATA, error.to_string(), next.to_owned()))
        }
        End::Serves { .. } => None,
    }
}

fn step_of(error: &DialError) -> &'static str {
    match &error.failure {
        // The second: what was written as the host can be no name.
        DialFailure::NameNotFound { .. } | DialFailure::Config(_) => DNS,
        DialFailure::Refused
        | DialFailure::TimedOut { .. }
        | DialFailure::Unreachable { .. }
        | DialFailure::Io(_) => TCP,
        DialFailure::HandshakeTimedOut { .. } | DialFailure::Tls(_) => TLS,
    }
}

/// In TLS 1.3 a server refuses a client's certificate only after the handshake: by the time of the first answer.
fn greeting(probed: &Probed, error: &ClientError) -> (&'static str, String, String) {
    let ClientError::Rpc(RpcError::Closed { tls: Some(failure), .. }) = error else {
        let next = match (error, probed.over_tls) {
            (ClientError::Rpc(RpcError::Closed { .. }), false) => format!(
                "if this is a TLS port, configure tls instead of plaintext; `openssl s_client -connect {}` shows it",
                probed.address
            ),
            (ClientError::Rpc(RpcError::Closed { .. }), true) => {
                "the server's log says why it closed the connection".to_owned()
            }
            _ => "is it a Kafka broker that answers there, and not overloaded?".to_owned(),
        };
        return (API_VERSIONS, error.to_string(), next);
    };
    let next = match failure {
        TlsFailure::CertificateRequired => {
            "configure a client certificate (tls.cert and tls.key; tailway enroll, or tailway cert issue)"
        }
        TlsFailure::CertificateRefused { .. } => {
            "its log names the check; a certificate that was revoked or is for another use is replaced with a new token (tailway token create) and `tailway enroll`"
        }
        TlsFailure::OurIssuerUnknown => {
            "use a client certificate of a CA that the server trusts (its listeners[].tls.ca)"
        }
        TlsFailure::OurCertificateNotNow { ours: ByOurClock::Over, .. } => super::own::ENROL_ANEW,
        TlsFailure::OurCertificateNotNow { .. } => {
            "compare the clocks of this host and of the server (timedatectl on both)"
        }
        _ => "the server's log names the check that failed",
    };
    (TLS, failure.cause(Side::Client), next.to_owned())
}

fn worked(target: &str, step: &'static str, probed: &Probed, now: WallMs) -> Finding {
    match (step, &probed.end) {
        (DNS, _) if probed.address.ip().is_some() => {
            Finding::ok(target, step, "an address, no name")
        }
        (DNS, _) => {
            let found = probed.connected.map(|address| address.ip().to_string());
            Finding::ok(target, step, found.unwrap_or_else(|| "it resolves".to_owned()))
        }
        (TCP, _) => Finding::ok(target, step, "connected"),
        (TLS, _) => match &probed.certificate {
            Some(certificate) => server_certificate(target, certificate, now),
            None => Finding::ok(target, step, "chain and name are good"),
        },
        (API_VERSIONS, End::Serves { apis, .. }) => {
            Finding::ok(target, step, format!("it serves {}", count(*apis as u64, "API")))
        }
        (_, End::Serves { metadata: Some(Ok(described)), .. }) => {
            let cluster = &described.cluster;
            let name = cluster.cluster_id.as_deref().unwrap_or("without an id");
            let brokers = count(cluster.brokers.len() as u64, "broker");
            Finding::ok(target, step, format!("cluster {name}, {brokers}"))
        }
        _ => Finding::ok(target, step, ""),
    }
}

fn server_certificate(target: &str, certificate: &ServerCertificate, now: WallMs) -> Finding {
    let ServerCertificate { identity, not_before, not_after } = certificate;
    let who = identity.as_ref().map_or_else(|| "a server".to_owned(), ToString::to_string);
    let detail = format!("{who}; its certificate ends in {}", span(now, *not_after));
    if ends_soon(*not_before, *not_after, now) {
        let next =
            "renew it there; of a Tailway daemon /status (certificate) says why it is not renewed";
        return Finding::warning(target, TLS, detail, next);
    }
    Finding::ok(target, TLS, detail)
}

/// Within a week and in the last quarter of its life, when whatever renews certificates should have done it.
pub(crate) fn ends_soon(not_before: WallMs, not_after: WallMs, now: WallMs) -> bool {
    let (life, left) =
        (not_after.0.saturating_sub(not_before.0), not_after.0.saturating_sub(now.0));
    left < SOON_MS && left < life / 4
}

/// Whether this identity may write to the topics that it is configured for.
pub(crate) fn judge_topics(names: &[String], described: &Described, way_in: &str) -> Vec<Finding> {
    names.iter().map(|name| judge_topic(name, described, way_in)).collect()
}

/// `way_in`: the options by which an admin's command reaches the same cluster.
fn judge_topic(name: &str, described: &Described, way_in: &str) -> Finding {
    const STEP: &str = "write";
    let target = format!("topic {name}");
    let missing = || {
        Finding::warning(
            &target,
            STEP,
            "it does not exist yet: it is made with the first line, if the cluster makes topics by itself (topics.auto_create, in Kafka auto.create.topics.enable)",
            format!("tailway topic create {name} {way_in}"),
        )
    };
    let Some(topic) = described.cluster.topic(name) else { return missing() };
    let leaderless = topic.partitions.values().filter(|partition| partition.leader < 0).count();
    match (topic.error, described.writable.get(name)) {
        (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, _) => missing(),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, _) | (ErrorCode::NONE, Some(false)) => {
            Finding::failed(
                &target,
                STEP,
                "this identity may not write to it",
                "at Tailway the certificate's role decides: agent, client and admin may write; at Kafka: kafka-acls --add --producer --topic TOPIC --allow-principal User:...",
            )
        }
        (code, _) if code.is_error() && topic.partitions.is_empty() => Finding::failed(
            &target,
            STEP,
            code.to_string(),
            format!("tailway topic describe {name} {way_in}"),
        ),
        _ if leaderless > 0 => Finding::failed(
            &target,
            STEP,
            format!(
                "{leaderless} of its {} have no leader",
                count(topic.partitions.len() as u64, "partition")
            ),
            "tailway status shows which brokers are not there",
        ),
        (_, told) => {
            let partitions = count(topic.partitions.len() as u64, "partition");
            let may = match told {
                Some(_) => "this identity may write",
                None => {
                    "the broker does not tell whether this identity may write; the first line will show"
                }
            };
            Finding::ok(&target, STEP, format!("{partitions}; {may}"))
        }
    }
}

/// How batches without an answer will be looked for in this topic, in the agent's own words.
pub(crate) fn judge_producers(name: &str, asked: Result<(), ClientError>) -> Finding {
    const STEP: &str = "describe producers";
    let target = format!("topic {name}");
    match asked {
        Ok(()) => Finding::ok(&target, STEP, "the leader tells (DescribeProducers)"),
        Err(error) if error.cannot_describe_producers() => Finding::warning(
            &target,
            STEP,
            format!(
                "after a kill batches without an answer are looked for by reading the partition: {error}"
            ),
            "Kafka 2.8 or newer, and the right to read the topic (kafka-acls --operation Read), make that quick and certain",
        ),
        Err(error) => Finding::failed(
            &target,
            STEP,
            error.to_string(),
            format!("tailway topic describe {name}"),
        ),
    }
}

/// Partitions without a leader, and with fewer replicas in sync than they have.
pub(crate) fn judge_partitions(cluster: &ClusterMetadata) -> Vec<Finding> {
    const SHOWN: usize = 10;
    let all = || {
        let topics = cluster.topics.values();
        topics.flat_map(|topic| topic.partitions.values().map(move |p| (&topic.name, p)))
    };
    let named = |wrong: &dyn Fn(&tailway_client::PartitionInfo) -> bool| -> (usize, String) {
        let found: Vec<String> = all()
            .filter(|(_, partition)| wrong(partition))
            .map(|(name, partition)| format!("{name}-{}", partition.index))
            .collect();
        let more = if found.len() > SHOWN { ", ..." } else { "" };
        (
            found.len(),
            format!("{}{more}", found.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ")),
        )
    };
    let total = all().count() as u64;
    let (leaderless, which) = named(&|partition| partition.leader < 0);
    let leaders = if leaderless == 0 {
        Finding::ok("partitions", "leaders", format!("{} with a leader", count(total, "partition")))
    } else {
        Finding::failed(
            "partitions",
            "leaders",
            format!("{leaderless} of {total} have no leader: {which}"),
            "start the brokers that hold them; tailway topic describe TOPIC names those",
        )
    };
    let (behind, which) = named(&|partition| partition.isr.len() < partition.replicas.len());
    let replicas = if behind == 0 {
        Finding::ok("partitions", "replicas", "all in sync")
    } else {
        Finding::warning(
            "partitions",
            "replicas",
            format!("{behind} of {total} have replicas that are not in sync: {which}"),
            "tailway topic describe TOPIC names the brokers that are behind",
        )
    };
    vec![leaders, replicas]
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
