//! Produce (0), listed 0-9, accepted 3-9. KIP-98 (idempotence), KIP-467 (error texts, version 8).
//!
//! `start` gives every partition's batches their place in the order and returns; `Started::finish` waits for the answers.
//! So a connection's next Produce is appended while this one waits for the disk, and a producer's order is kept.
//! acks=0 has no response: the first refusal ends the connection, as in Kafka, which is all such a client can notice.
//! Differs: `timeout_ms` is at least 1 s, because here it covers an fdatasync; `__consumer_offsets` takes no records from
//! clients; transactional ids are refused (INVALID_TXN_STATE) because there are no transactions yet.

use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Deadline;
use tailway_metadata::{ClusterImage, topic};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::TopicName;
use tailway_wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceResponse,
};

use super::error::partition_error_code;
use crate::cluster::Routes;
use crate::partition::{Acks, AppendOptions, Appended, PartitionError, PendingAppend};

const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A request whose batches are in the partitions' queues.
pub struct Started {
    topics: Vec<(TopicName, Vec<(i32, Place)>)>,
    deadline: Deadline,
    acks: i16,
}

/// Why a partition's records were refused, for the caller's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub text: Option<String>,
}

enum Place {
    Waiting(PendingAppend),
    Refused(Refusal),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, text: None }
    }
}

impl From<PartitionError> for Refusal {
    fn from(error: PartitionError) -> Self {
        Self { code: partition_error_code(&error), text: Some(error.to_string()) }
    }
}

/// Queues everything, in the order of the request.
pub async fn start(request: ProduceRequest, routes: &Routes) -> Started {
    let deadline = Deadline::after(timeout(request.timeout_ms));
    let refused_whole = check_request(&request);
    let image = routes.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let index = partition.index;
            let place = match &refused_whole {
                Some(refusal) => Place::Refused(refusal.clone()),
                None => submit(routes, &image, &topic.name, partition, request.acks, deadline)
                    .await
                    .map_or_else(Place::Refused, Place::Waiting),
            };
            partitions.push((index, place));
        }
        topics.push((topic.name, partitions));
    }
    Started { topics, deadline, acks: request.acks }
}

impl Started {
    /// What was refused at once, before any wait.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.topics.iter().flat_map(|(_, partitions)| partitions).filter_map(|(_, place)| {
            match place {
                Place::Refused(refusal) => Some(refusal),
                Place::Waiting(_) => None,
            }
        })
    }

    /// Whether the client waits for an answer.
    pub fn wants_response(&self) -> bool {
        self.acks != 0
    }

    /// Waits for every partition, but not beyond the request's timeout.
    pub async fn finish(self) -> ProduceResponse {
        let mut topics = Vec::with_capacity(self.topics.len());
        for (name, places) in self.topics {
            let mut partitions = Vec::with_capacity(places.len());
            for (index, place) in places {
                partitions.push(match settle(place, self.deadline).await {
                    Ok(appended) => PartitionProduceResponse::stored(
                        index,
                        appended.base_offset,
                        appended.log_append_time,
                        appended.log_start_offset,
                    ),
                    Err(refusal) => {
                        PartitionProduceResponse::refused(index, refusal.code, refusal.text)
                    }
                });
            }
            topics.push(TopicProduceResponse { name, partitions });
        }
        ProduceResponse { topics, throttle_time_ms: 0 }
    }
}

fn timeout(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).max(TIMEOUT_MIN)
}

fn check_request(request: &ProduceRequest) -> Option<Refusal> {
    if request.transactional_id.is_some() {
        return Some(PartitionError::TransactionsNotServed.into());
    }
    acks(request.acks).is_none().then(|| ErrorCode::INVALID_REQUIRED_ACKS.into())
}

fn acks(acks: i16) -> Option<Acks> {
    match acks {
        -1 => Some(Acks::All),
        0 => Some(Acks::None),
        1 => Some(Acks::Leader),
        _ => None,
    }
}

async fn submit(
    routes: &Routes,
    image: &ClusterImage,
    name: &TopicName,
    partition: PartitionProduceData,
    wanted_acks: i16,
    deadline: Deadline,
) -> Result<PendingAppend, Refusal> {
    if topic::is_internal(name) {
        return Err(Refusal {
            code: ErrorCode::INVALID_TOPIC_EXCEPTION,
            text: Some(format!(
                "{} belongs to the group coordinator; clients cannot write to it",
                name.as_str()
            )),
        });
    }
    let acks = acks(wanted_acks).ok_or(ErrorCode::INVALID_REQUIRED_ACKS)?;
    let door =
        routes.partition(image, name, partition.index, crate::cluster::routes::NO_EPOCH_CHECK)?;
    let records: Bytes = partition.records.unwrap_or_default();
    if records.is_empty() {
        return Err(Refusal {
            code: ErrorCode::INVALID_RECORD,
            text: Some("a partition of a Produce request needs a record batch".into()),
        });
    }
    match deadline.run(door.submit(records, AppendOptions::client(acks))).await {
        Some(submitted) => Ok(submitted?),
        // The queue in front of the partition was full for so long: nothing was appended.
        None => Err(timed_out("the partition's queue was full")),
    }
}

async fn settle(place: Place, deadline: Deadline) -> Result<Appended, Refusal> {
    match place {
        Place::Refused(refusal) => Err(refusal),
        Place::Waiting(pending) => match deadline.run(pending.answer()).await {
            Some(appended) => Ok(appended?),
            None => Err(timed_out("the records are appended, but not durable yet")),
        },
    }
}

fn timed_out(what: &str) -> Refusal {
    let text = Some(format!("{what} when the request's timeout ended; the disk may be slow"));
    Refusal { code: ErrorCode::REQUEST_TIMED_OUT, text }
}
