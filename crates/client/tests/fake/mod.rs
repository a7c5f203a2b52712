//! A cluster in a few hundred lines: real sockets and real frames, one partition log per topic
//! partition in memory, and a place to plant errors. It checks what real brokers check (sequences,
//! leadership, versions), so that a client that gets by here has kept to the protocol.

mod group;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tailway_net::{FrameReader, write_segments};
use tailway_wire::api::{self, ApiKey, Server};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::fetch::{FetchResponse, FetchableTopic, FetchedPartition};
use tailway_wire::frame::{self, RequestHeader};
use tailway_wire::messages::api_versions_response::ApiVersion;
use tailway_wire::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use tailway_wire::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use tailway_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use tailway_wire::messages::{
    ApiVersionsResponse, BrokerId, DescribeProducersRequest, DescribeProducersResponse,
    FetchRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, StrBytes, TopicName,
};
use tailway_wire::produce::{
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use tailway_wire::record::{BatchHeader, patch_base_offset};
use tokio::net::{TcpListener, TcpStream};

/// One stored partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Base offset, next offset, bytes.
    pub(crate) batches: Vec<(i64, i64, Bytes)>,
    pub(crate) start: i64,
    /// Per producer id and epoch: the sequence that must come next, and the last batch.
    producers: BTreeMap<(i64, i16), (i32, i32, i64)>,
}

impl Log {
    pub(crate) fn end(&self) -> i64 {
        self.batches.last().map_or(self.start, |(_, next, _)| *next)
    }

    /// Appends as it is; the test takes care of offsets.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        let header = BatchHeader::parse(&bytes).unwrap();
        self.batches.push((header.base_offset, header.next_offset(), bytes));
    }

    fn append(&mut self, records: &Bytes) -> Result<i64, ErrorCode> {
        let header =
            tailway_wire::record::validate(records).map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        header.check_from_producer().map_err(|_| ErrorCode::INVALID_RECORD)?;
        let session = (header.producer_id, header.producer_epoch);
        if let Some((next, last_base, last_offset)) = self.producers.get(&session) {
            if header.base_sequence == *last_base {
                return Ok(*last_offset);
            }
            if header.base_sequence != *next {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
        }
        let offset = self.end();
        let mut bytes = records.to_vec();
        patch_base_offset(&mut bytes, offset).unwrap();
        self.put(bytes.into());
        if header.has_producer_id() {
            let next = header.last_sequence().wrapping_add(1);
            self.producers.insert(session, (next, header.base_sequence, offset));
        }
        Ok(offset)
    }
}

/// What a test may look at and change while the cluster runs.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) brokers: BTreeMap<i32, (String, u16)>,
    pub(crate) leader: i32,
    pub(crate) topics: BTreeMap<String, Vec<Log>>,
    /// Answers to the next Produce requests; `None`: hang up without an answer, after storing.
    pub(crate) produce_faults: VecDeque<Option<ErrorCode>>,
    /// The versions that the brokers list instead of ours.
    pub(crate) versions: Option<Vec<(ApiKey, i16, i16)>>,
    /// Every request: broker, API, version.
    pub(crate) requests: Vec<(i32, ApiKey, i16)>,
    /// So many ListOffsets requests are refused.
    pub(crate) list_offsets_refused: u32,
    /// Answers to the next DescribeProducers requests.
    pub(crate) describe_producers_refused: VecDeque<ErrorCode>,
    next_producer_id: i64,
    pub(crate) group: group::Group,
}

/// Running brokers; they end with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) state: Arc<Mutex<State>>,
}

impl Cluster {
    /// Brokers 0 to `brokers - 1`, of which 0 leads everything.
    pub(crate) async fn start(brokers: i32) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        for id in 0..brokers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            state.lock().unwrap().brokers.insert(id, ("127.0.0.1".to_owned(), port));
            let state = Arc::clone(&state);
            tailway_runtime::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tailway_runtime::spawn(serve(id, stream, Arc::clone(&state)));
                }
            });
        }
        Self { state }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    pub(crate) fn add_topic(&self, name: &str, partitions: usize) {
        let logs = (0..partitions).map(|_| Log::default()).collect();
        self.with(|state| state.topics.insert(name.to_owned(), logs));
    }

    pub(crate) fn bootstrap(&self) -> Vec<tailway_client::HostPort> {
        self.with(|state| {
            let (host, port) = &state.brokers[&0];
            vec![tailway_client::HostPort::new(host.clone(), *port)]
        })
    }
}

async fn serve(id: i32, stream: TcpStream, state: Arc<Mutex<State>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(reader, 16 << 20);
    while let Ok(Some(frame)) = reader.next().await {
        let Some(answer) = answer(id, frame, &mut state.lock().unwrap()) else { return };
        if write_segments(&mut writer, &answer).await.is_err() {
            return;
        }
    }
}

/// The answer's frame, or nothing: hang up.
fn answer(id: i32, frame: Bytes, state: &mut State) -> Option<Vec<Bytes>> {
    let (header, body) = frame::parse_request_header(frame).ok()?;
    let api = header.api().ok()?;
    state.requests.push((id, api, header.api_version));
    let version = header.api_version;
    match api {
        ApiKey::ApiVersions => Some(vec![api_versions(&header, state)]),
        ApiKey::Metadata => {
            let request: MetadataRequest = frame::decode_request(body, version).unwrap();
            Some(vec![frame::encode_response(&header, &metadata(&request, state)).unwrap()])
        }
        ApiKey::InitProducerId => {
            state.next_producer_id += 1;
            let response = InitProducerIdResponse::default()
                .with_producer_id(state.next_producer_id.into())
                .with_producer_epoch(0);
            Some(vec![frame::encode_response(&header, &response).unwrap()])
        }
        ApiKey::Produce => {
            let request = ProduceRequest::decode(body, version).unwrap();
            let response = produce(id, &request, state)?;
            Some(vec![response.encode(version, header.correlation_id).unwrap()])
        }
        ApiKey::Fetch => {
            let request: FetchRequest = frame::decode_request(body, version).unwrap();
            Some(fetch(id, &request, state).encode(version, header.correlation_id).unwrap())
        }
        ApiKey::DescribeProducers => {
            let request: DescribeProducersRequest = frame::decode_request(body, version).unwrap();
            let response = describe_producers(id, &request, state);
            Some(vec![frame::encode_response(&header, &response).unwrap()])
        }
        ApiKey::ListOffsets => {
            let request: ListOffsetsRequest = frame::decode_request(body, version).unwrap();
            Some(vec![frame::encode_response(&header, &list_offsets(&request, state)).unwrap()])
        }
        _ => Some(vec![group::answer(id, &header, body, &mut state.group)]),
    }
}

fn api_versions(header: &RequestHeader, state: &State) -> Bytes {
    let listed = state.versions.clone().unwrap_or_else(|| {
        api::served(Server::Broker).into_iter().map(|(key, v)| (key, v.min, v.max)).collect()
    });
    let own = listed.iter().find(|(key, ..)| *key == ApiKey::ApiVersions);
    if own.is_some_and(|(_, _, max)| header.api_version > *max) {
        return frame::encode_unsupported_api_versions(header.correlation_id).unwrap();
    }
    let entry = |(key, min, max): &(ApiKey, i16, i16)| {
        ApiVersion::default().with_api_key(key.key()).with_min_version(*min).with_max_version(*max)
    };
    let response = ApiVersionsResponse::default().with_api_keys(listed.iter().map(entry).collect());
    frame::encode_response(header, &response).unwrap()
}

fn metadata(request: &MetadataRequest, state: &State) -> MetadataResponse {
    let broker = |(id, (host, port)): (&i32, &(String, u16))| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(*id))
            .with_host(StrBytes::from_string(host.clone()))
            .with_port(i32::from(*port))
    };
    let wanted: Vec<String> = match &request.topics {
        None => state.topics.keys().cloned().collect(),
        Some(topics) => {
            topics.iter().filter_map(|t| t.name.as_ref()).map(|n| n.to_string()).collect()
        }
    };
    let topic = |name: &String| {
        let answer = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(name.clone()))));
        let Some(logs) = state.topics.get(name) else {
            return answer.with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code());
        };
        let partition = |index: usize| {
            MetadataResponsePartition::default()
                .with_partition_index(i32::try_from(index).unwrap())
                .with_leader_id(BrokerId(state.leader))
                .with_leader_epoch(state.leader)
        };
        answer.with_partitions((0..logs.len()).map(partition).collect())
    };
    MetadataResponse::default()
        .with_brokers(state.brokers.iter().map(broker).collect())
        .with_cluster_id(Some(StrBytes::from_static_str("fake")))
        .with_controller_id(BrokerId(0))
        .with_topics(wanted.iter().map(topic).collect())
}

fn produce(id: i32, request: &ProduceRequest, state: &mut State) -> Option<ProduceResponse> {
    let leads = state.leader == id;
    let mut hang_up = false;
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let fault = if leads { state.produce_faults.pop_front() } else { None };
            let logs = state.topics.get_mut(topic.name.as_str());
            let index = usize::try_from(partition.index).unwrap();
            let result = match logs.and_then(|logs| logs.get_mut(index)) {
                _ if !leads => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Some(log) => match fault {
                    Some(Some(code)) => Err(code),
                    fault => {
                        hang_up |= fault == Some(None);
                        log.append(partition.records.as_ref().unwrap())
                    }
                },
            };
            partitions.push(match result {
                Ok(offset) => PartitionProduceResponse::stored(partition.index, offset, -1, 0),
                Err(code) => PartitionProduceResponse::refused(partition.index, code, None),
            });
        }
        topics.push(TopicProduceResponse { name: topic.name.clone(), partitions });
    }
    (!hang_up).then_some(ProduceResponse { topics, throttle_time_ms: 0 })
}

fn fetch(id: i32, request: &FetchRequest, state: &State) -> FetchResponse {
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for wanted in &topic.partitions {
            let index = usize::try_from(wanted.partition).unwrap();
            let log = state.topics.get(topic.topic.as_str()).and_then(|logs| logs.get(index));
            partitions.push(match log {
                _ if id != state.leader => {
                    FetchedPartition::failed(wanted.partition, ErrorCode::NOT_LEADER_OR_FOLLOWER)
                }
                None => FetchedPartition::failed(
                    wanted.partition,
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                ),
                Some(log) if !(log.start..=log.end()).contains(&wanted.fetch_offset) => {
                    FetchedPartition::failed(wanted.partition, ErrorCode::OFFSET_OUT_OF_RANGE)
                }
                Some(log) => FetchedPartition::read(
                    wanted.partition,
                    log.end(),
                    log.start,
                    cut(log, wanted.fetch_offset),
                ),
            });
        }
        topics.push(FetchableTopic { name: topic.topic.clone(), partitions });
    }
    FetchResponse { topics, ..FetchResponse::default() }
}

/// Two batches from `offset` on, the second one cut in its middle, as Kafka sends them.
fn cut(log: &Log, offset: i64) -> Vec<Bytes> {
    let mut batches = log.batches.iter().filter(|(_, next, _)| *next > offset);
    let first = batches.next().map(|(_, _, bytes)| bytes.clone());
    let second = batches.next().map(|(_, _, bytes)| bytes.slice(..bytes.len() / 2));
    first.into_iter().chain(second).collect()
}

fn describe_producers(
    id: i32,
    request: &DescribeProducersRequest,
    state: &mut State,
) -> DescribeProducersResponse {
    let topic = &request.topics[0];
    let index = topic.partition_indexes[0];
    let answer = PartitionResponse::default().with_partition_index(index);
    let log = &state.topics[topic.name.as_str()][usize::try_from(index).unwrap()];
    let refused = state.describe_producers_refused.pop_front();
    let answer = if let Some(code) = refused {
        answer.with_error_code(code.code())
    } else if id == state.leader {
        let producer = |(&(id, epoch), (next, ..)): (&(i64, i16), &(i32, i32, i64))| {
            ProducerState::default()
                .with_producer_id(id.into())
                .with_producer_epoch(epoch.into())
                .with_last_sequence(next - 1)
        };
        answer.with_active_producers(log.producers.iter().map(producer).collect())
    } else {
        answer.with_error_code(ErrorCode::NOT_LEADER_OR_FOLLOWER.code())
    };
    let topic =
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(vec![answer]);
    DescribeProducersResponse::default().with_topics(vec![topic])
}

fn list_offsets(request: &ListOffsetsRequest, state: &mut State) -> ListOffsetsResponse {
    let refused = state.list_offsets_refused > 0;
    state.list_offsets_refused = state.list_offsets_refused.saturating_sub(1);
    let error = if refused { ErrorCode::TOPIC_AUTHORIZATION_FAILED.code() } else { 0 };
    let topic = |topic: &tailway_wire::messages::list_offsets_request::ListOffsetsTopic| {
        let partition = |p: &tailway_wire::messages::list_offsets_request::ListOffsetsPartition| {
            let log =
                &state.topics[topic.name.as_str()][usize::try_from(p.partition_index).unwrap()];
            let offset = match p.timestamp {
                -2 => log.start,
                -1 => log.end(),
                // No record has a time.
                _ => -1,
            };
            ListOffsetsPartitionResponse::default()
                .with_partition_index(p.partition_index)
                .with_error_code(error)
                .with_offset(offset)
        };
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    ListOffsetsResponse::default().with_topics(request.topics.iter().map(topic).collect())
}
