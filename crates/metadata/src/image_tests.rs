//! The image: what applying records gives, which records it refuses, and that a follower ends where the leader is.

use uuid::Uuid;

use super::*;
use crate::broker::{Endpoint, SecurityProtocol};
use crate::control::{FollowError, FollowMetadataResponse};
use crate::ids::{BrokerEpoch, DirectoryId, IncarnationId};
use crate::record::{ClusterRecord, ConfigRecord, ProducerIdsRecord, RemoveTopicRecord};

fn id(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

fn cluster() -> MetadataRecord {
    MetadataRecord::Cluster(ClusterRecord {
        cluster_id: ClusterId("c".into()),
        log_id: MetadataLogId(Uuid::from_u128(1)),
    })
}

fn broker(n: i32, epoch: i64, fenced: bool) -> MetadataRecord {
    MetadataRecord::RegisterBroker(Broker {
        id: BrokerId(n),
        incarnation: IncarnationId(Uuid::from_u128(2)),
        directory: DirectoryId(Uuid::from_u128(3)),
        epoch: BrokerEpoch(epoch),
        endpoints: vec![Endpoint {
            name: "tls".into(),
            host: "h".into(),
            port: 1,
            protocol: SecurityProtocol::Tls,
        }],
        rack: None,
        fenced,
    })
}

fn fence(n: i32, epoch: i64, fenced: bool) -> MetadataRecord {
    MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
        broker_id: BrokerId(n),
        broker_epoch: BrokerEpoch(epoch),
        fenced,
    })
}

fn topic(name: &str, n: u128) -> MetadataRecord {
    MetadataRecord::Topic(TopicRecord { name: name.into(), topic_id: id(n) })
}

fn config(n: u128, key: &str, value: Option<&str>) -> MetadataRecord {
    let value = value.map(str::to_owned);
    MetadataRecord::Config(ConfigRecord { topic_id: id(n), key: key.into(), value })
}

fn partition(n: u128, index: i32, leader: Option<i32>) -> MetadataRecord {
    MetadataRecord::Partition(PartitionRecord {
        topic_id: id(n),
        partition: PartitionIndex(index),
        replicas: vec![BrokerId(0)],
        isr: vec![BrokerId(0)],
        leader: leader.map(BrokerId),
        leader_epoch: LeaderEpoch(5),
    })
}

fn change(n: u128, index: i32, leader: Option<i32>, epoch: i32) -> MetadataRecord {
    MetadataRecord::PartitionChange(PartitionChangeRecord {
        topic_id: id(n),
        partition: PartitionIndex(index),
        isr: vec![BrokerId(0)],
        leader: leader.map(BrokerId),
        leader_epoch: LeaderEpoch(epoch),
    })
}

fn producer_ids(next: i64) -> MetadataRecord {
    MetadataRecord::ProducerIds(ProducerIdsRecord {
        broker_id: BrokerId(0),
        broker_epoch: BrokerEpoch(1),
        next_producer_id: ProducerId(next),
    })
}

fn story() -> Vec<MetadataRecord> {
    vec![
        cluster(),
        broker(0, 1, true),
        fence(0, 1, false),
        topic("logs", 7),
        config(7, "retention.ms", Some("1")),
        config(7, "segment.ms", Some("2")),
        config(7, "segment.ms", None),
        partition(7, 0, Some(0)),
        partition(7, 1, None),
        change(7, 1, Some(0), 6),
        topic("gone", 8),
        MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: id(8) }),
        producer_ids(1_000),
    ]
}

fn image_of(records: &[MetadataRecord]) -> ClusterImage {
    let mut image = ClusterImage::default();
    for record in records {
        image.apply(record).unwrap();
    }
    image
}

#[test]
fn records_add_up() {
    let image = image_of(&story());
    image.check();
    assert_eq!(image.cluster_id, ClusterId("c".into()));
    assert_eq!((image.offset, image.next_producer_id), (Offset(13), ProducerId(1_000)));
    assert!(image.is_live(BrokerId(0)) && !image.is_live(BrokerId(1)));
    let logs = image.topic("logs").unwrap();
    assert_eq!(image.topic_by_id(id(7)), Some(logs));
    assert_eq!(logs.configs, BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]));
    let leaders: Vec<_> = logs.partitions.iter().map(|p| (p.leader, p.leader_epoch.0)).collect();
    assert_eq!(leaders, [(Some(BrokerId(0)), 5), (Some(BrokerId(0)), 6)]);
    assert_eq!(image.partition("logs", PartitionIndex(1)), logs.partitions.get(1));
    assert_eq!(image.partition("logs", PartitionIndex(-1)), None);
    assert_eq!((image.topic("gone"), image.topic_by_id(id(8))), (None, None));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let cases = [
        (cluster(), "only the first record of a stream names the cluster"),
        (broker(0, 1, true), "broker 0 registered with epoch 1 already"),
        (fence(1, 1, true), "broker 1 is not registered"),
        (fence(0, 2, true), "broker 0 has epoch 1, not 2"),
        (topic("logs", 9), "topic logs exists already"),
        (topic("other", 7), "topic id 00000000-0000-0000-0000-000000000007 exists already"),
        (config(9, "a", None), "topic id 00000000-0000-0000-0000-000000000009 is not known"),
        (partition(7, 1, None), "topic logs has 2 partitions, the next is not 1"),
        (partition(7, 3, None), "topic logs has 2 partitions, the next is not 3"),
        (change(7, 2, None, 7), "topic logs has no partition 2"),
        (change(7, -1, None, 7), "topic logs has no partition -1"),
        (change(7, 1, None, 5), "logs-1 has leader epoch 6, not below 5"),
        (producer_ids(999), "producer ids below 1000 are given away already"),
        (
            MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: id(8) }),
            "topic id 00000000-0000-0000-0000-000000000008 is not known",
        ),
    ];
    let image = image_of(&story());
    for (record, reason) in cases {
        let mut tried = image.clone();
        let error = tried.apply(&record).unwrap_err();
        assert_eq!((error.offset, error.reason.as_str()), (Offset(13), reason));
        assert_eq!(tried, image, "{reason}");
    }
}

#[test]
fn inconsistencies_are_found() {
    let broken = |records: &[MetadataRecord]| {
        let all = [story(), records.to_vec()].concat();
        image_of(&all).inconsistency()
    };
    let mut stray = partition(7, 2, None);
    if let MetadataRecord::Partition(record) = &mut stray {
        record.isr = vec![BrokerId(4)];
    }
    let mut outside = partition(7, 2, Some(0));
    if let MetadataRecord::Partition(record) = &mut outside {
        record.isr.clear();
    }
    assert_eq!(broken(&[]), None);
    let fenced = "logs-0: leader 0 is not registered or is fenced";
    assert_eq!(broken(&[fence(0, 1, true)]).unwrap(), fenced);
    assert_eq!(broken(&[stray]).unwrap(), "logs-2: broker 4 is in the ISR but no replica");
    assert_eq!(broken(&[outside]).unwrap(), "logs-2: leader 0 is not in the ISR");
}

#[test]
fn snapshots_round_trip_at_every_offset() {
    let records = story();
    for end in 0..=records.len() {
        let image = image_of(&records[..end]);
        let bytes = image.encode_snapshot();
        let read = ClusterImage::decode_snapshot(&bytes).unwrap();
        assert_eq!(read, image);
        assert_eq!(read.encode_snapshot(), bytes);
    }
}

#[test]
fn snapshots_that_are_refused() {
    let text = String::from_utf8(image_of(&story()).encode_snapshot()).unwrap();
    let cases = [
        ("\"version\":0", "\"version\":9", "the cluster snapshot has version 9"),
        (
            "\"offset\":13",
            "\"offset\":13,\"more\":1",
            "the cluster snapshot is not valid: unknown field",
        ),
        (
            "\"fenced\":false",
            "\"fenced\":true",
            "the cluster snapshot contradicts itself: logs-0: leader 0",
        ),
        (
            "\"index\":1",
            "\"index\":2",
            "the cluster snapshot contradicts itself: logs-2: stands at",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        let error = ClusterImage::decode_snapshot(changed.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    for end in 0..text.len() {
        assert!(ClusterImage::decode_snapshot(&text.as_bytes()[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_follower_applies_answers_or_says_why_not() {
    let records = story();
    let whole = image_of(&records);
    let base = image_of(&records[..3]);
    let answer = |snapshot: Option<&ClusterImage>, base_offset: i64, records: &[MetadataRecord]| {
        let snapshot = snapshot.map(|image| {
            let text = String::from_utf8(image.encode_snapshot()).unwrap();
            serde_json::value::RawValue::from_string(text).unwrap()
        });
        let response = FollowMetadataResponse {
            error_code: 0,
            error_message: None,
            snapshot,
            base_offset: Offset(base_offset),
            records: records.to_vec(),
            end_offset: whole.offset,
        };
        FollowMetadataResponse::decode(&response.encode()).unwrap()
    };
    assert_eq!(answer(None, 3, &records[3..]).apply_to(&base).unwrap(), whole);
    assert_eq!(answer(Some(&base), 3, &records[3..]).apply_to(&whole).unwrap(), whole);
    assert_eq!(answer(None, 3, &[]).apply_to(&base).unwrap(), base);
    let gap = answer(None, 4, &records[4..]).apply_to(&base).unwrap_err();
    assert_eq!(gap.to_string(), "the coordinator sent records from offset 4, wanted 3");
    let misfit = answer(None, 3, &records[4..]).apply_to(&base).unwrap_err();
    assert!(matches!(misfit, FollowError::Apply(_)), "{misfit}");
    let refused = FollowMetadataResponse::error(41, "not leading").apply_to(&base).unwrap_err();
    assert_eq!(refused.to_string(), "the coordinator answered error 41: not leading");
}

#[test]
fn a_second_ca_is_in_the_snapshot_and_makes_it_one_that_older_versions_refuse() {
    use crate::authority::{AuthorityId, AuthorityState, CertificateAuthority};
    use crate::record::TrustRecord;
    use crate::security::{Role, Serial, Sha256};
    use crate::time::WallMs;
    let issued = IssuedCertificate {
        serial: Serial("07".into()),
        role: Role::Agent,
        id: "a".into(),
        names: Vec::new(),
        not_before: WallMs(0),
        not_after: WallMs(9),
        issued_by: "init".into(),
        revoked: None,
        signed_by: AuthorityId::FIRST,
        knows: AuthorityId::FIRST,
    };
    let ca = |id, state| CertificateAuthority {
        id: AuthorityId(id),
        sha256: Sha256([3; 32]),
        pem: "x".into(),
        not_after: WallMs(9),
        state,
    };
    let mut image = ClusterImage::default();
    image.apply(&MetadataRecord::Certificate(issued.clone())).unwrap();
    let version = |image: &ClusterImage| {
        let bytes = image.encode_snapshot();
        assert_eq!(ClusterImage::decode_snapshot(&bytes).unwrap(), *image);
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["version"].clone()
    };
    assert_eq!(version(&image), 1);
    let knows = AuthorityId(2);
    for record in [
        MetadataRecord::Authority(ca(1, AuthorityState::Active)),
        MetadataRecord::Authority(ca(2, AuthorityState::Trusted)),
        MetadataRecord::Trust(TrustRecord { serial: issued.serial.clone(), knows }),
    ] {
        image.apply(&record).unwrap();
    }
    assert_eq!(version(&image), 2);
    assert_eq!(image.security.certificates[&issued.serial].knows, knows);
    let unknown = TrustRecord { serial: Serial("08".into()), knows };
    assert!(image.apply(&MetadataRecord::Trust(unknown)).is_err());
}
