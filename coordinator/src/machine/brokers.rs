//! Registration, fencing and producer ids: what a broker asks for itself.
//!
//! A broker id belongs to one data directory for life. A new process with that directory replaces the old one at once (the
//! directory's lock proves that it is gone); a process that was replaced while it lives is told so. Registered brokers are
//! fenced until their first heartbeat shows that their image has the registration.

use tailway_metadata::broker::{Broker, Endpoint};
use tailway_metadata::record::{BrokerRegistrationChangeRecord, ProducerIdsRecord};
use tailway_metadata::{BrokerEpoch, BrokerId, MetadataRecord, ProducerId};
use tailway_wire::ErrorCode;

use super::draft::Draft;
use super::election;
use super::{Heartbeat, HeartbeatReply, Refusal, RegisterBroker, Reply, Settings};

/// Producer ids in a block.
pub const PRODUCER_ID_BLOCK: i32 = 1_000;
/// Endpoints of one broker.
const ENDPOINTS_MAX: usize = 32;
/// Brokers that may be registered.
const BROKERS_MAX: usize = 1_000;

pub fn register(
    draft: &mut Draft<'_>,
    request: &RegisterBroker,
    settings: &Settings,
) -> Result<Reply, Refusal> {
    check_registration(request, settings)?;
    let id = request.broker_id;
    let known = draft.image().brokers.get(&id);
    if let Some(known) = known {
        if known.directory != request.directory {
            return Err(other_directory(known, request));
        }
        let replaced = known.incarnation != request.incarnation
            && request.previous_epoch >= BrokerEpoch(0)
            && known.epoch > request.previous_epoch;
        if replaced {
            return Err(Refusal::new(
                ErrorCode::DUPLICATE_BROKER_REGISTRATION,
                format!(
                    "another process registered as broker {id} with the same data directory id after this one did: the data directory was copied; stop one of them"
                ),
            ));
        }
        if is_same(known, request) {
            return Ok(Reply::Registered { broker_epoch: known.epoch });
        }
    } else if draft.image().brokers.len() >= BROKERS_MAX {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!("{BROKERS_MAX} brokers are registered, which is the limit"),
        ));
    }
    election::elect_all(draft, Some(id));
    let broker_epoch = BrokerEpoch(draft.next_offset().0);
    draft.push(MetadataRecord::RegisterBroker(Broker {
        id,
        incarnation: request.incarnation,
        directory: request.directory,
        epoch: broker_epoch,
        endpoints: request.endpoints.clone(),
        rack: request.rack.clone(),
        fenced: true,
    }));
    Ok(Reply::Registered { broker_epoch })
}

fn is_same(known: &Broker, request: &RegisterBroker) -> bool {
    known.incarnation == request.incarnation
        && known.endpoints == request.endpoints
        && known.rack == request.rack
}

fn other_directory(known: &Broker, request: &RegisterBroker) -> Refusal {
    let id = known.id;
    Refusal::new(
        ErrorCode::INVALID_REGISTRATION,
        format!(
            "broker {id} is registered with data directory {}, but this process has data directory {}: its data directory is new, empty or another broker's; mount the directory that broker {id} had, or give this broker an id that was never used",
            known.directory, request.directory
        ),
    )
}

fn check_registration(request: &RegisterBroker, settings: &Settings) -> Result<(), Refusal> {
    if request.cluster_id != settings.cluster_id {
        return Err(Refusal::new(
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!(
                "this coordinator belongs to cluster {}, the broker to cluster {}",
                settings.cluster_id, request.cluster_id
            ),
        ));
    }
    let invalid = |text: String| Err(Refusal::new(ErrorCode::INVALID_REGISTRATION, text));
    if request.broker_id < BrokerId(0) {
        return invalid(format!("broker id {} is negative", request.broker_id));
    }
    if request.directory.is_nil() {
        return invalid("a registration names exactly one data directory id in log_dirs".into());
    }
    if request.incarnation.is_nil() {
        return invalid("a registration names an incarnation id".into());
    }
    if !(1..=ENDPOINTS_MAX).contains(&request.endpoints.len()) {
        return invalid(format!(
            "a broker advertises 1 to {ENDPOINTS_MAX} endpoints, not {}",
            request.endpoints.len()
        ));
    }
    for (position, endpoint) in request.endpoints.iter().enumerate() {
        check_endpoint(endpoint)?;
        if request.endpoints[..position].iter().any(|other| other.name == endpoint.name) {
            return invalid(format!("two endpoints are named {}", endpoint.name));
        }
    }
    Ok(())
}

fn check_endpoint(endpoint: &Endpoint) -> Result<(), Refusal> {
    let nobody_can_connect =
        matches!(endpoint.host.as_str(), "" | "0.0.0.0" | "::" | "[::]") || endpoint.port == 0;
    if endpoint.name.is_empty() || nobody_can_connect {
        return Err(Refusal::new(
            ErrorCode::INVALID_REGISTRATION,
            format!(
                "endpoint {:?} advertises {}:{}, to which no client can connect; advertise a name or address of this host",
                endpoint.name, endpoint.host, endpoint.port
            ),
        ));
    }
    Ok(())
}

pub fn heartbeat(draft: &mut Draft<'_>, beat: &Heartbeat) -> Result<Reply, Refusal> {
    let broker = registered(draft, beat.broker_id, beat.broker_epoch)?;
    let was_fenced = broker.fenced;
    let caught_up = beat.metadata_offset.0 > broker.epoch.0;
    let fence = beat.want_fence || beat.want_shut_down || (was_fenced && !caught_up);
    if fence && !was_fenced {
        self::fence(draft, beat.broker_id);
    } else if !fence && was_fenced {
        draft.push(change(beat.broker_id, beat.broker_epoch, false));
        election::elect_all(draft, None);
    }
    Ok(Reply::Heartbeat(HeartbeatReply {
        caught_up,
        fenced: fence,
        should_shut_down: beat.want_shut_down,
    }))
}

/// Fences a broker: it gives up its leaderships in the same batch.
pub fn fence(draft: &mut Draft<'_>, broker_id: BrokerId) {
    let Some(broker) = draft.image().brokers.get(&broker_id) else { return };
    let record = change(broker_id, broker.epoch, true);
    draft.push(record);
    election::elect_all(draft, None);
}

pub fn allocate_producer_ids(
    draft: &mut Draft<'_>,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<Reply, Refusal> {
    registered(draft, broker_id, broker_epoch)?;
    let start = draft.image().next_producer_id;
    let Some(end) = start.0.checked_add(i64::from(PRODUCER_ID_BLOCK)) else {
        return Err(Refusal::new(
            ErrorCode::UNKNOWN_SERVER_ERROR,
            "all producer ids are given away",
        ));
    };
    draft.push(MetadataRecord::ProducerIds(ProducerIdsRecord {
        broker_id,
        broker_epoch,
        next_producer_id: ProducerId(end),
    }));
    Ok(Reply::ProducerIds { start, len: PRODUCER_ID_BLOCK })
}

/// The broker, if it is registered with this epoch.
fn registered<'d>(
    draft: &'d Draft<'_>,
    id: BrokerId,
    epoch: BrokerEpoch,
) -> Result<&'d Broker, Refusal> {
    let broker = draft.image().brokers.get(&id).ok_or_else(|| {
        Refusal::new(
            ErrorCode::BROKER_ID_NOT_REGISTERED,
            format!("broker {id} is not registered with this coordinator"),
        )
    })?;
    if broker.epoch == epoch {
        return Ok(broker);
    }
    Err(Refusal::new(
        ErrorCode::STALE_BROKER_EPOCH,
        format!(
            "broker {id} is registered with epoch {}, not {epoch}: it has to register again",
            broker.epoch
        ),
    ))
}

fn change(broker_id: BrokerId, broker_epoch: BrokerEpoch, fenced: bool) -> MetadataRecord {
    MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
        broker_id,
        broker_epoch,
        fenced,
    })
}
