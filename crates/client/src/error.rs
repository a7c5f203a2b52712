//! What can go wrong between us and a cluster: always which broker, why, and what to try next.

use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::ids::TopicPartition;
use tailway_net::{DialError, HostPort, RpcError};
use tailway_wire::error_code::ErrorCode;

/// Why a request has no good answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No broker of the bootstrap list could be reached; one line per broker.
    #[error("no broker could be reached:\n  {}", .attempts.join("\n  "))]
    NoBroker { attempts: Vec<String> },
    #[error("{0}")]
    Dial(Arc<DialError>),
    #[error("{0}")]
    Rpc(#[from] RpcError),
    /// The address a broker advertises does not work from here.
    #[error(
        "broker {broker_id} advertises itself as {address} (says {told_by}), which does not work from here: {cause}"
    )]
    Advertised { broker_id: i32, address: HostPort, told_by: String, cause: Box<ClientError> },
    /// The time was over before anything else was known.
    #[error("no answer in time")]
    NoTime,
    /// The broker does not speak any version of an API that we do.
    #[error("{broker} serves {api} {theirs}, this client needs {ours}: {hint}")]
    Version {
        broker: Arc<str>,
        api: &'static str,
        theirs: String,
        ours: String,
        hint: &'static str,
    },
    /// The broker answered a request with an error.
    #[error("{broker} refused {api}{}: {code}{}{}", on(subject), tail(message.as_deref()), try_next(*code, subject))]
    Refused {
        broker: Arc<str>,
        api: &'static str,
        /// The topic, partition or group that it is about; may be empty.
        subject: String,
        code: ErrorCode,
        message: Option<String>,
    },
    #[error(
        "topic `{topic}` does not exist on {broker}; try: tailway topic create {topic}, or tailway topic list"
    )]
    UnknownTopic { topic: String, broker: Arc<str> },
    #[error("topic `{topic}` has no partition {partition} (it has {partitions})")]
    UnknownPartition { topic: String, partition: i32, partitions: usize },
    #[error("{partition} has no leader: {detail}; try: tailway topic describe {}", partition.topic)]
    NoLeader { partition: TopicPartition, detail: String },
    /// Attempts went on until the time was over.
    #[error("gave up after {after:?}: {last}")]
    TimedOut { after: Duration, last: Box<ClientError> },
    /// The answer is complete but makes no sense.
    #[error("the answer of {broker} to {api} makes no sense: {detail}")]
    Nonsense { broker: Arc<str>, api: &'static str, detail: String },
    /// Records that cannot be read.
    #[error(
        "{partition} at offset {offset} cannot be read: {cause}; try: kafka-dump-log on that segment"
    )]
    BadRecords { partition: TopicPartition, offset: i64, cause: String },
    #[error("{0}")]
    Usage(String),
    #[error("the {0} has been closed")]
    Stopped(&'static str),
}

fn on(subject: &str) -> String {
    if subject.is_empty() { String::new() } else { format!(" for {subject}") }
}

fn tail(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(" ({message})"))
}

fn try_next(code: ErrorCode, subject: &str) -> String {
    let next = match code {
        ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::GROUP_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            "give this client's principal the right to do it".to_owned()
        }
        ErrorCode::TOPIC_ALREADY_EXISTS => format!("tailway topic describe {subject}"),
        ErrorCode::INVALID_REPLICATION_FACTOR => {
            "use a replication factor no larger than the number of brokers".to_owned()
        }
        ErrorCode::MESSAGE_TOO_LARGE => {
            "send smaller batches, or raise the topic's max.message.bytes".to_owned()
        }
        ErrorCode::UNSUPPORTED_VERSION => "upgrade the broker or this client".to_owned(),
        _ => return String::new(),
    };
    format!("; try: {next}")
}

impl ClientError {
    /// Whether trying again, perhaps at another broker or after fresh metadata, can help.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NoBroker { .. }
            | Self::NoLeader { .. }
            | Self::NoTime
            // Auto-creation and deletion both pass through it.
            | Self::UnknownTopic { .. } => true,
            Self::Dial(error) => !is_lasting(error),
            Self::Rpc(error) => !matches!(error, RpcError::Encode { .. }),
            Self::Advertised { cause, .. } => cause.is_retriable(),
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Version { .. }
            | Self::UnknownPartition { .. }
            | Self::TimedOut { .. }
            | Self::Nonsense { .. }
            | Self::BadRecords { .. }
            | Self::Usage(_)
            | Self::Stopped(_) => false,
        }
    }

    /// The broker's error code, if that is what this is.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::UnknownTopic { .. } => Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Self::TimedOut { last, .. } => last.code(),
            _ => None,
        }
    }
}

/// A TLS setting does not become right by waiting.
fn is_lasting(error: &DialError) -> bool {
    use tailway_net::dial::DialFailure;
    use tailway_net::explain::TlsFailure;
    match &error.failure {
        DialFailure::Config(_) => true,
        DialFailure::Tls(tls) => !matches!(tls, TlsFailure::Closed | TlsFailure::Other(_)),
        _ => false,
    }
}

/// Why one attempt to produce a batch did not end in an ack.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProduceError {
    /// The leader answered with an error.
    #[error("{broker} refused a batch for {partition}: {code}{}", tail(message.as_deref()))]
    Refused {
        broker: Arc<str>,
        partition: TopicPartition,
        code: ErrorCode,
        message: Option<String>,
    },
    /// It may or may not be stored.
    #[error("whether {partition} has a batch is unknown: {cause}")]
    Unknown { partition: TopicPartition, cause: ClientError },
    /// It was certainly not sent.
    #[error("a batch for {partition} was not sent: {cause}")]
    NotSent { partition: TopicPartition, cause: ClientError },
}
