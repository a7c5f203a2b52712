//! What was seen, and what is said of it: a table without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tailway_client::{BrokerInfo, HostPort, PartitionInfo, TopicInfo};
use tailway_metadata::TopicId;
use tailway_net::own::ByOurClock;

use super::*;

const NOW: WallMs = WallMs(1_790_000_000_000);
const DAY: i64 = 86_400_000;

fn probed(end: End) -> Probed {
    Probed {
        address: HostPort::new("b1.example", 9093),
        over_tls: true,
        connected: Some(([10, 0, 0, 1], 9093).into()),
        certificate: Some(ServerCertificate {
            identity: None,
            not_before: WallMs(NOW.0 - 100 * DAY),
            not_after: WallMs(NOW.0 + 200 * DAY),
        }),
        end,
    }
}

fn dial(failure: DialFailure) -> End {
    End::Dial(DialError {
        address: HostPort::new("b1.example", 9093),
        over_tls: true,
        tried: vec![([10, 0, 0, 1], 9093).into()],
        failure,
        ca: Some("ca.pem".into()),
        has_certificate: true,
    })
}

fn closed(tls: Option<TlsFailure>) -> End {
    let cause = "it closed the connection".into();
    End::Greeting(ClientError::Rpc(RpcError::Closed { peer: "b".into(), cause, tls }))
}

fn cluster(leaders: &[i32]) -> ClusterMetadata {
    let partition = |(index, leader): (usize, &i32)| {
        let index = i32::try_from(index).unwrap();
        let partition = PartitionInfo {
            index,
            leader: *leader,
            leader_epoch: 0,
            replicas: vec![1, 2],
            isr: vec![1],
            offline: Vec::new(),
            error: ErrorCode::NONE,
        };
        (index, partition)
    };
    let topic = TopicInfo {
        name: "logs".into(),
        topic_id: TopicId::NIL,
        internal: false,
        partitions: leaders.iter().enumerate().map(partition).collect(),
        error: ErrorCode::NONE,
    };
    let broker = BrokerInfo { id: 1, address: HostPort::new("b1", 9093), rack: None };
    ClusterMetadata {
        cluster_id: Some("c-1".into()),
        controller: 1,
        brokers: BTreeMap::from([(1, broker)]),
        topics: BTreeMap::from([(Arc::clone(&topic.name), Arc::new(topic))]),
    }
}

fn described(writable: Option<bool>, leaders: &[i32]) -> Described {
    let writable = writable.map(|may| ("logs".to_owned(), may)).into_iter().collect();
    Described { cluster: cluster(leaders), writable }
}

/// The step that failed with its cause and next command; the steps that were skipped.
fn told(probed: &Probed, origin: Origin) -> (String, String, String, Vec<&'static str>) {
    let findings = judge(probed, origin, NOW);
    let failed: Vec<&Finding> = findings.iter().filter(|f| f.state == State::Failed).collect();
    let [failed] = failed.as_slice() else { panic!("{findings:?}") };
    let skipped = findings.iter().filter(|f| f.state == State::Skipped).map(|f| f.step).collect();
    let next = failed.next.clone().unwrap();
    (failed.step.to_owned(), failed.detail.clone(), next, skipped)
}

#[test]
fn each_failure_is_laid_to_its_step_with_cause_and_next_command() {
    let after = Duration::from_secs(5);
    let name = |presented: &str| TlsFailure::NameMismatch {
        expected: "b1.example".into(),
        presented: vec![presented.into()],
    };
    let clocks = || "it is valid from A, this host's clock says B".to_owned();
    let ours = |ours| TlsFailure::OurCertificateNotNow { ours, clocks: clocks() };
    let tls = |failure| dial(DialFailure::Tls(failure));
    let refused = || TlsFailure::CertificateRefused { alert: "CertificateRevoked".into() };
    let unresolved = DialFailure::NameNotFound { detail: "no such host".into() };
    let version = ClientError::Nonsense {
        broker: "b".into(),
        api: "ApiVersions",
        detail: "it is empty".into(),
    };
    let metadata = || ClientError::NoTime;
    let cases = [
        (dial(unresolved), DNS, "does not resolve", "getent hosts b1.example"),
        (dial(DialFailure::Refused), TCP, "nothing listens", "ss -ltn"),
        (dial(DialFailure::TimedOut { after }), TCP, "firewall", "nc -vz b1.example 9093"),
        (dial(DialFailure::HandshakeTimedOut { after }), TLS, "may be plaintext", "without TLS"),
        (tls(TlsFailure::NotTls), TLS, "does not speak TLS", "without TLS"),
        (tls(TlsFailure::UnknownIssuer), TLS, "not signed by", "is ca.pem the CA"),
        (tls(name("`b2`")), TLS, "is for `b2`, not for `b1.example`", "one of these names: `b2`"),
        (tls(TlsFailure::Expired { clocks: clocks() }), TLS, "clock says B", "renew the server's"),
        (tls(TlsFailure::NotValidYet { clocks: clocks() }), TLS, "valid from A", "timedatectl"),
        (tls(TlsFailure::Revoked), TLS, "revoked", "tailway cert list"),
        (closed(Some(refused())), TLS, "CertificateRevoked", "tailway enroll"),
        (closed(Some(TlsFailure::CertificateRequired)), TLS, "requires a certificate", "tls.cert"),
        (closed(Some(TlsFailure::OurIssuerUnknown)), TLS, "does not trust the CA", "listeners[]"),
        (closed(Some(ours(ByOurClock::Over))), TLS, "clock says B", "tailway enroll"),
        (closed(Some(ours(ByOurClock::Early))), TLS, "valid from A", "timedatectl"),
        (closed(None), API_VERSIONS, "closed the connection", "the server's log"),
        (End::Greeting(version), API_VERSIONS, "makes no sense", "is it a Kafka broker"),
        (
            End::Serves { apis: 9, metadata: Some(Err(metadata())) },
            METADATA,
            "no answer",
            "/readyz",
        ),
    ];
    let order = [DNS, TCP, TLS, API_VERSIONS, METADATA];
    for (end, step, cause, next) in cases {
        let got = told(&probed(end), Origin::Configured);
        assert_eq!(got.0, step, "{got:?}");
        assert!(got.1.contains(cause) && got.2.contains(next), "{step}: {got:?}");
        let at = order.iter().position(|known| *known == step).unwrap();
        assert_eq!(got.3, order[at + 1..], "{step}");
    }
    let (_, _, next, skipped) = told(&probed(dial(DialFailure::Refused)), Origin::Advertised(7));
    assert!(next.contains("what broker 7 advertises"), "{next}");
    assert_eq!(skipped, [TLS, API_VERSIONS], "of it no Metadata is asked");
    let plain = Probed { over_tls: false, ..probed(closed(None)) };
    let (step, _, next, _) = told(&plain, Origin::Configured);
    assert!(step == API_VERSIONS && next.contains("if this is a TLS port"), "{step} {next}");
}

#[test]
fn what_works_says_how_long() {
    let whole = Some(Ok(described(None, &[1])));
    let mut seen = probed(End::Serves { apis: 12, metadata: whole });
    let said = |seen: &Probed| -> Vec<(State, String)> {
        judge(seen, Origin::Configured, NOW).into_iter().map(|f| (f.state, f.detail)).collect()
    };
    let ok = |text: &str| (State::Ok, text.to_owned());
    let expected = [
        ok("10.0.0.1"),
        ok("connected"),
        ok("a server; its certificate ends in 200 days"),
        ok("it serves 12 APIs"),
        ok("cluster c-1, 1 broker"),
    ];
    assert_eq!(said(&seen), expected);
    seen.certificate.as_mut().unwrap().not_after = WallMs(NOW.0 + 5 * DAY);
    assert_eq!(said(&seen)[2].0, State::Warning);
    assert!(!ends_soon(NOW, WallMs(NOW.0 + 20_000), WallMs(NOW.0 + 10_000)), "half of its life");
    assert!(ends_soon(NOW, WallMs(NOW.0 + 20_000), WallMs(NOW.0 + 16_000)));
}

#[test]
fn a_topic_is_judged_by_rights_existence_and_leaders() {
    let judged = |name: &str, described: &Described| {
        let finding = judge_topic(name, described, "--bootstrap b:9093");
        (finding.state, finding.detail, finding.next.unwrap_or_default())
    };
    for (name, seen, state, detail, next) in [
        ("logs", described(Some(true), &[1, 1]), State::Ok, "2 partitions; this identity may", ""),
        ("logs", described(None, &[1]), State::Ok, "does not tell", ""),
        ("logs", described(Some(false), &[1]), State::Failed, "may not write", "kafka-acls"),
        ("logs", described(Some(true), &[1, -1]), State::Failed, "1 of its 2", "tailway status"),
        (
            "audit",
            described(None, &[1]),
            State::Warning,
            "not exist",
            "tailway topic create audit --bootstrap b:9093",
        ),
    ] {
        let got = judged(name, &seen);
        assert!(got.0 == state && got.1.contains(detail) && got.2.contains(next), "{got:?}");
    }
    let untold = ClientError::Refused {
        broker: "b".into(),
        api: "DescribeProducers",
        subject: "logs-0".into(),
        code: ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        message: None,
    };
    let asked = [Ok(()), Err(untold), Err(ClientError::NoTime)];
    let states = asked.map(|asked| judge_producers("logs", asked).state);
    assert_eq!(states, [State::Ok, State::Warning, State::Failed]);
}

#[test]
fn partitions_without_a_leader_are_named() {
    let findings = judge_partitions(&cluster(&[1, -1, 1]));
    let said: Vec<_> = findings.iter().map(|f| (f.state, f.detail.as_str())).collect();
    let behind = "3 of 3 have replicas that are not in sync: logs-0, logs-1, logs-2";
    let expected = [(State::Failed, "1 of 3 have no leader: logs-1"), (State::Warning, behind)];
    assert_eq!(said, expected);
    let many = judge_partitions(&cluster(&[-1; 12]));
    assert!(many[0].detail.ends_with("logs-9, ..."), "{}", many[0].detail);
}
