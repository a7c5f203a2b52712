//! What `/status` says of a broker.
//!
//! Each section is read when it is asked for, from what is there anyway; nothing here waits for a disk or a peer.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tailway_daemon::ready::Status;
use tailway_metadata::{IncarnationId, PartitionIndex};

use crate::cluster::link::LinkState;
use crate::config::Config;
use crate::metrics::ListenerLabel;
use crate::partition::{PartitionHandle, StorageReport};
use crate::server::{AdvertisedListener, Services};
use crate::start_report::StartReport;

/// Adds the broker's sections.
pub(crate) fn publish(
    status: &Status,
    services: &Arc<Services>,
    listeners: &[AdvertisedListener],
    config: &Config,
    incarnation: IncarnationId,
) {
    let (id, data_dir) = (config.broker_id.0, config.data_dir.display().to_string());
    section(status, services, "broker", move |services| {
        json!({
            "id": id,
            "incarnation": incarnation.to_string(),
            "cluster_id": services.view.image().cluster_id.as_str(),
            "data_dir": data_dir,
            "version": tailway_daemon::VERSION,
        })
    });
    let listeners = listeners.to_vec();
    section(status, services, "listeners", move |services| {
        listeners.iter().map(|listener| describe_listener(listener, services)).collect()
    });
    section(status, services, "coordinator", |services| match services.controller.state() {
        LinkState::Up(link) => json!({
            "state": "up",
            "address": link.address.to_string(),
            "broker_epoch": link.broker_epoch.0,
        }),
        LinkState::Away { cause } => json!({ "state": "away", "cause": &*cause }),
    });
    section(status, services, "metadata", |services| {
        let image = services.view.image();
        json!({
            "offset": image.offset.0,
            "topics": image.topics().len(),
            "brokers": image.brokers.len(),
        })
    });
    section(status, services, "partitions", |services| {
        let partitions = services.routes.partitions().all();
        partitions.iter().map(|partition| describe_partition(partition, services)).collect()
    });
    section(status, services, "failed_partitions", |services| {
        let failed = services.routes.failed_partitions();
        failed
            .iter()
            .map(|(tp, error)| json!({ "partition": tp.to_string(), "error": error.to_string() }))
            .collect()
    });
    publish_storage(status, services, config.data_dir.clone());
}

/// What is on the disk, and what the start found there.
fn publish_storage(status: &Status, services: &Arc<Services>, data_dir: PathBuf) {
    section(status, services, "start", move |services| {
        let reports = services.routes.partitions().reports();
        json!(StartReport::of(&reports, &data_dir))
    });
    section(status, services, "storage", |services| {
        let StorageReport { disk, syncfs_from_files } = services.routes.partitions().storage();
        json!({
            "free_bytes": disk.free_bytes,
            "refused_below_bytes": disk.limit_bytes,
            "reserve_bytes": disk.reserve_bytes,
            "refusing": disk.refusing,
            "syncfs_from_files": syncfs_from_files,
        })
    });
    section(status, services, "recovery", |services| {
        let reports = services.routes.partitions().reports();
        reports
            .iter()
            .map(|report| {
                json!({
                    "partition": report.topic_partition.to_string(),
                    "log_start_offset": report.log_start_offset,
                    "log_end_offset": report.log_end_offset,
                    "trimmed_bytes": report.trimmed_bytes,
                    "rebuilt_indexes": report.rebuilt_indexes,
                    "checked_bytes": report.checked_bytes,
                    "quarantined": report.quarantined.as_deref(),
                })
            })
            .collect()
    });
}

fn section(
    status: &Status,
    services: &Arc<Services>,
    name: &'static str,
    read: impl Fn(&Services) -> Value + Send + Sync + 'static,
) {
    let services = Arc::clone(services);
    status.section(name, move || read(&services));
}

fn describe_listener(listener: &AdvertisedListener, services: &Services) -> Value {
    let label = ListenerLabel { listener: listener.name.to_string() };
    json!({
        "name": &*listener.name,
        "protocol": listener.endpoint.protocol,
        "bound": listener.bound.to_string(),
        "advertised": listener.advertised().to_string(),
        "advertised_from": listener.origin,
        "connections": services.metrics.connections.get_or_create(&label).get(),
    })
}

fn describe_partition(partition: &PartitionHandle, services: &Services) -> Value {
    let tp = partition.topic_partition();
    let watermarks = partition.current();
    let image = services.view.image();
    let leads = image
        .partition(&tp.topic, PartitionIndex(tp.partition))
        .is_some_and(|known| known.leader == Some(services.view.me()));
    json!({
        "topic": &*tp.topic,
        "partition": tp.partition,
        "topic_id": partition.topic_id().to_string(),
        "leads": leads,
        "leader_epoch": partition.leader_epoch(),
        "log_start_offset": watermarks.log_start,
        "high_watermark": watermarks.high_watermark,
        "log_end_offset": watermarks.log_end,
        "size_bytes": partition.size_bytes(),
        "failure": partition.failure().map(|error| error.to_string()),
    })
}
