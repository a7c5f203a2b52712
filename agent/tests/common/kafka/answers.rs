//! What the Kafka in memory answers to each request.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use tailway_wire::api::{ApiKey, Server, served};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::fetch::{FetchResponse, FetchableTopic, FetchedPartition};
use tailway_wire::frame::{RequestHeader, decode_request, encode_response, parse_request_header};
use tailway_wire::messages::api_versions_response::ApiVersion;
use tailway_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
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
    ApiVersionsResponse, DescribeConfigsResponse, DescribeProducersRequest,
    DescribeProducersResponse, FetchRequest, InitProducerIdResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataRequest, MetadataResponse, StrBytes, TopicName,
};
use tailway_wire::produce::{
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};

use super::{Fault, Kafka, Tells};

impl Kafka {
    pub(super) fn serve(&self, mut stream: TcpStream) {
        let mut length = [0; 4];
        while stream.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            if stream.read_exact(&mut frame).is_err() {
                return;
            }
            let (header, body) = parse_request_header(Bytes::from(frame)).unwrap();
            for segment in self.answer(&header, body) {
                if stream.write_all(&segment).is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, header: &RequestHeader, body: Bytes) -> Vec<Bytes> {
        let version = header.api_version;
        let one = |bytes: Bytes| vec![bytes];
        match header.api().unwrap() {
            ApiKey::ApiVersions => one(encode_response(header, &self.api_versions()).unwrap()),
            ApiKey::DescribeProducers => {
                let request = decode_request(body, version).unwrap();
                one(encode_response(header, &self.describe_producers(&request)).unwrap())
            }
            ApiKey::DescribeConfigs => {
                one(encode_response(header, &self.describe_configs()).unwrap())
            }
            ApiKey::Metadata => {
                let request = decode_request(body, version).unwrap();
                one(encode_response(header, &self.metadata(request)).unwrap())
            }
            ApiKey::InitProducerId => {
                let mut state = self.state.0.lock().unwrap();
                state.producer_next += 1;
                let id = state.producer_next;
                let response = InitProducerIdResponse::default().with_producer_id(id.into());
                one(encode_response(header, &response).unwrap())
            }
            ApiKey::ListOffsets => {
                let request = decode_request(body, version).unwrap();
                one(encode_response(header, &self.list_offsets(request)).unwrap())
            }
            ApiKey::Produce => {
                let request = ProduceRequest::decode(body, version).unwrap();
                match self.produce(request) {
                    Some(response) => one(response.encode(version, header.correlation_id).unwrap()),
                    None => Vec::new(),
                }
            }
            ApiKey::Fetch => {
                let request = decode_request(body, version).unwrap();
                self.fetch(request).encode(version, header.correlation_id).unwrap()
            }
            other => panic!("the agent sent {other:?}"),
        }
    }

    fn api_versions(&self) -> ApiVersionsResponse {
        let tells = self.state.0.lock().unwrap().tells;
        let mut apis: BTreeMap<_, _> = served(Server::Broker).into_iter().collect();
        apis.remove(&ApiKey::DescribeProducers);
        if tells != Tells::TooOld {
            apis.insert(ApiKey::DescribeProducers, ApiKey::DescribeProducers.listed_versions());
        }
        let listed = apis.into_iter().map(|(api, versions)| {
            ApiVersion::default()
                .with_api_key(api.key())
                .with_min_version(versions.min)
                .with_max_version(versions.max)
        });
        ApiVersionsResponse::default().with_api_keys(listed.collect())
    }

    fn describe_producers(&self, request: &DescribeProducersRequest) -> DescribeProducersResponse {
        let state = self.state.0.lock().unwrap();
        let producers = state.producers.iter().map(|(id, producer)| {
            ProducerState::default()
                .with_producer_id((*id).into())
                .with_producer_epoch(i32::from(producer.epoch))
                .with_last_sequence(producer.next - 1)
        });
        let partition = match state.tells {
            Tells::NoPermission => PartitionResponse::default()
                .with_error_code(ErrorCode::TOPIC_AUTHORIZATION_FAILED.code()),
            _ => PartitionResponse::default().with_active_producers(producers.collect()),
        };
        let topic = TopicResponse::default()
            .with_name(request.topics[0].name.clone())
            .with_partitions(vec![partition]);
        DescribeProducersResponse::default().with_topics(vec![topic])
    }

    fn describe_configs(&self) -> DescribeConfigsResponse {
        let entry = |ms: u64| {
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str("producer.id.expiration.ms"))
                .with_value(Some(StrBytes::from_string(ms.to_string())))
        };
        let known = self.state.0.lock().unwrap().producer_expiration.map(entry);
        let result = DescribeConfigsResult::default().with_configs(known.into_iter().collect());
        DescribeConfigsResponse::default().with_results(vec![result])
    }

    fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(0.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(i32::from(self.address.port()));
        let partition = MetadataResponsePartition::default()
            .with_partition_index(0)
            .with_leader_id(0.into())
            .with_replica_nodes(vec![0.into()])
            .with_isr_nodes(vec![0.into()]);
        let (cluster, topic_id) = {
            let state = self.state.0.lock().unwrap();
            (state.cluster, state.topic_id)
        };
        let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
            MetadataResponseTopic::default()
                .with_name(topic.name)
                .with_topic_id(topic_id.0)
                .with_partitions(vec![partition.clone()])
        });
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str(cluster)))
            .with_topics(topics.collect())
    }

    fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let (start, end) = {
            let state = self.state.0.lock().unwrap();
            (state.start, state.committed.unwrap_or(state.end))
        };
        let topic = request.topics.into_iter().next().unwrap();
        let offset = match topic.partitions[0].timestamp {
            -1 => end,
            -2 => start,
            // All records are that new, if there are any.
            _ if end > start => start,
            _ => -1,
        };
        let partition = ListOffsetsPartitionResponse::default().with_offset(offset);
        let topic = ListOffsetsTopicResponse::default()
            .with_name(topic.name)
            .with_partitions(vec![partition]);
        ListOffsetsResponse::default().with_topics(vec![topic])
    }

    fn produce(&self, request: ProduceRequest) -> Option<ProduceResponse> {
        let mut state = self.state.0.lock().unwrap();
        state.produces += 1;
        let name = request.topics[0].name.clone();
        let bytes = request.topics[0].partitions[0].records.clone().unwrap();
        let outcome = match state.fault {
            Fault::Deaf => None,
            Fault::SizeMax(max) if bytes.len() > max => Some(Err(ErrorCode::MESSAGE_TOO_LARGE)),
            Fault::NoAnswer => state.append(bytes).err().map(Err),
            Fault::Hold => {
                state.held.push(bytes);
                None
            }
            Fault::ReleaseBefore => {
                state.release();
                state.fault = Fault::None;
                Some(state.append(bytes))
            }
            Fault::ReleaseAndForget => {
                state.release();
                state.producers.clear();
                state.fault = Fault::None;
                Some(state.append(bytes))
            }
            Fault::ReleaseAfter => {
                let appended = state.append(bytes);
                state.release();
                state.fault = Fault::None;
                Some(appended)
            }
            Fault::StoreAndRefuse(code) => {
                state.append(bytes).unwrap();
                Some(Err(code))
            }
            Fault::Refuse(code) => Some(Err(code)),
            // Answered when it is committed.
            _ if state.committed.is_some() => state.append(bytes).err().map(Err),
            Fault::None | Fault::SizeMax(_) => Some(state.append(bytes)),
        };
        self.state.1.notify_all();
        let partition = match outcome? {
            Ok(offset) => PartitionProduceResponse::stored(0, offset, -1, 0),
            Err(code) => PartitionProduceResponse::refused(0, code, None),
        };
        let topic = TopicProduceResponse { name, partitions: vec![partition] };
        Some(ProduceResponse { topics: vec![topic], throttle_time_ms: 0 })
    }

    fn fetch(&self, request: FetchRequest) -> FetchResponse {
        let mut state = self.state.0.lock().unwrap();
        let from = request.topics[0].partitions[0].fetch_offset;
        state.fetches += 1;
        let end = state.committed.unwrap_or(state.end);
        let partition = if state.tells == Tells::NoPermission {
            FetchedPartition::failed(0, ErrorCode::TOPIC_AUTHORIZATION_FAILED)
        } else if state.fetches_refused > 0 {
            state.fetches_refused -= 1;
            FetchedPartition::failed(0, ErrorCode::KAFKA_STORAGE_ERROR)
        } else {
            let records = state.log.iter().filter(|(base, _)| *base >= from && *base < end);
            let records = records.map(|(_, bytes)| bytes.clone());
            FetchedPartition::read(0, end, state.start, records.collect())
        };
        let name: TopicName = request.topics[0].topic.clone();
        let topics = vec![FetchableTopic { name, partitions: vec![partition] }];
        FetchResponse { throttle_time_ms: 0, error_code: ErrorCode::NONE, session_id: 0, topics }
    }
}
