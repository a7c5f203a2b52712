//! Classic consumer groups and their committed offsets: the async door to the group coordinator.
//!
//! Every group belongs to one partition of `__consumer_offsets`; whoever leads that partition coordinates its groups. One
//! owner task per led partition (`shard`) drives `machine::group` over that partition: it loads the state from the
//! partition's start, answers requests, and answers what must be durable only after the append is.
//! While a partition is being loaded its requests wait a little and are then told NOT_COORDINATOR, which every client
//! retries; COORDINATOR_LOAD_IN_PROGRESS is not understood by older ones.
//! Invariants: no commit is acknowledged before its record is durable; each request is answered exactly once; everything a
//! client can grow is bounded by `GroupConfig`.

mod answers;
mod hash;
mod load;
mod records;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_daemon::clock::Clock;
use tailway_daemon::tasks::{Group as TaskGroup, Tasks};
use tailway_metadata::{ClusterImage, PartitionIndex};
use tailway_wire::ErrorCode;
use tailway_wire::messages::list_groups_response::ListedGroup;
use tailway_wire::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, StrBytes, SyncGroupRequest, SyncGroupResponse,
};
use tokio::sync::{oneshot, watch};

use crate::machine::group::{FetchOffsets, FetchedOffsets, ListFilter, Request, Response};
use crate::partition::PartitionHandle;

pub use crate::machine::group::{Caller, GroupConfig};
pub use hash::partition_for_group;
use shard::{Message, ShardDoor, ShardOptions};
/// The topic that holds groups and offsets.
pub use tailway_metadata::topic::OFFSETS_TOPIC;

/// How long a request waits for its partition to be loaded.
const LOAD_WAIT: Duration = Duration::from_secs(2);

/// What the door needs from the broker.
#[derive(Debug, Clone)]
pub struct GroupsOptions {
    pub clock: Clock,
    pub tasks: Tasks,
}

/// The group coordinator of this broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    tasks: TaskGroup,
    config: GroupConfig,
    image: watch::Sender<Arc<ClusterImage>>,
    led: Mutex<Led>,
    /// Connections that joined a group, and in which partitions: who is told when they close.
    joined: Mutex<BTreeMap<u64, BTreeSet<i32>>>,
}

/// The partitions led now.
#[derive(Debug, Default)]
struct Led {
    /// Partitions of the offsets topic; 0: it does not exist.
    count: i32,
    shards: BTreeMap<i32, ShardDoor>,
    /// Shards that were given up and may still have appends under way: whoever leads next waits for them.
    former: BTreeMap<i32, watch::Receiver<bool>>,
}

impl Groups {
    pub fn new(options: GroupsOptions) -> Groups {
        Groups::with_config(options, GroupConfig::default())
    }

    pub fn with_config(options: GroupsOptions, config: GroupConfig) -> Groups {
        let inner = Inner {
            clock: options.clock,
            tasks: options.tasks.group("groups"),
            config,
            image: watch::Sender::new(Arc::default()),
            led: Mutex::default(),
            joined: Mutex::default(),
        };
        Groups { inner: Arc::new(inner) }
    }

    /// Takes note of what the cluster is and which partitions of `__consumer_offsets` this broker leads now: new ones are
    /// loaded, those not in `led` are given up, a changed leader epoch loads anew. Call it after every image, once
    /// the handles are open; it does not wait.
    pub fn reconcile(&self, image: &Arc<ClusterImage>, led: &[PartitionHandle]) {
        self.inner.image.send_replace(Arc::clone(image));
        let topic = image.topic(OFFSETS_TOPIC);
        let count = topic.map_or(0, |topic| i32::try_from(topic.partitions.len()).unwrap_or(0));
        let wanted: BTreeMap<i32, (i32, &PartitionHandle)> = led
            .iter()
            .filter(|handle| &*handle.topic_partition().topic == OFFSETS_TOPIC)
            .map(|handle| {
                let index = handle.topic_partition().partition;
                let leader = image.partition(OFFSETS_TOPIC, PartitionIndex(index));
                let epoch = leader.map_or(handle.leader_epoch(), |leader| leader.leader_epoch.0);
                (index, (epoch, handle))
            })
            .collect();
        let mut led = lock(&self.inner.led);
        led.count = count;
        let given_up: Vec<i32> = led
            .shards
            .iter()
            .filter(|(index, shard)| {
                wanted.get(index).is_none_or(|(epoch, handle)| !shard.is_of(*epoch, handle))
            })
            .map(|(index, _)| *index)
            .collect();
        for index in given_up {
            if let Some(shard) = led.shards.remove(&index) {
                shard.resign();
                led.former.insert(index, shard.ended.clone());
            }
        }
        for (index, (leader_epoch, handle)) in wanted {
            if led.shards.contains_key(&index) {
                continue;
            }
            let former = led.former.remove(&index);
            let options = ShardOptions {
                handle: handle.clone(),
                leader_epoch,
                config: self.inner.config.clone(),
                clock: self.inner.clock.clone(),
                image: self.inner.image.subscribe(),
                former,
            };
            led.shards.insert(index, shard::spawn(&self.inner.tasks, options));
        }
        led.former.retain(|_, ended| !*ended.borrow());
    }

    /// Waits for the rebalance: up to the group's rebalance timeout.
    pub async fn join(&self, caller: &Caller, request: JoinGroupRequest) -> JoinGroupResponse {
        if let Some((index, _)) = self.shard_of(&request.group_id.0) {
            lock(&self.inner.joined).entry(caller.connection).or_default().insert(index);
        }
        let unique = StrBytes::from_string(tailway_runtime::uuid().to_string());
        answers::join(self.ask(caller, Request::Join { request, unique }).await)
    }

    /// Waits for the leader's assignment: up to the group's rebalance timeout.
    pub async fn sync(&self, caller: &Caller, request: SyncGroupRequest) -> SyncGroupResponse {
        answers::sync(self.ask(caller, Request::Sync(request)).await)
    }

    pub async fn heartbeat(&self, caller: &Caller, request: HeartbeatRequest) -> HeartbeatResponse {
        answers::heartbeat(self.ask(caller, Request::Heartbeat(request)).await)
    }

    pub async fn leave(&self, caller: &Caller, request: LeaveGroupRequest) -> LeaveGroupResponse {
        answers::leave(self.ask(caller, Request::Leave(request)).await)
    }

    /// Answered once the offsets are durable. Topics and partitions that the image does not have are refused.
    pub async fn commit(
        &self,
        caller: &Caller,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        answers::commit(self.ask(caller, Request::Commit(request)).await)
    }

    pub async fn fetch_offsets(
        &self,
        caller: &Caller,
        request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        let version = caller.api_version;
        let mut fetched = Vec::new();
        for fetch in answers::fetches(request, version) {
            let group_id = fetch.group_id.clone();
            let response = self.ask(caller, Request::FetchOffsets(fetch)).await;
            fetched.push((group_id, answers::fetched(response)));
        }
        answers::fetch_response(fetched, version)
    }

    pub async fn describe(
        &self,
        caller: &Caller,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let mut groups = Vec::new();
        for group_id in request.groups {
            let response = self.ask(caller, Request::Describe(group_id.0)).await;
            groups.push(answers::described(response));
        }
        DescribeGroupsResponse::default().with_groups(groups)
    }

    pub async fn list(&self, caller: &Caller, request: ListGroupsRequest) -> ListGroupsResponse {
        let filter = ListFilter { states: request.states_filter, types: request.types_filter };
        let shards: Vec<ShardDoor> = lock(&self.inner.led).shards.values().cloned().collect();
        let mut groups: Vec<ListedGroup> = Vec::new();
        let mut error = ErrorCode::NONE;
        for shard in shards {
            match self.ask_shard(&shard, caller, Request::List(filter.clone())).await {
                Some(Response::List(listed)) => groups.extend(listed),
                // Not loaded: an admin client asks again, and an incomplete list would pass for a whole one.
                _ => error = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
            }
        }
        ListGroupsResponse::default().with_error_code(error.code()).with_groups(groups)
    }

    pub async fn delete_groups(
        &self,
        caller: &Caller,
        request: DeleteGroupsRequest,
    ) -> DeleteGroupsResponse {
        let mut results = Vec::new();
        for group_id in request.groups_names {
            let response = self.ask(caller, Request::Delete(group_id.0.clone())).await;
            results.push(answers::deleted(group_id, response));
        }
        DeleteGroupsResponse::default().with_results(results)
    }

    pub async fn delete_offsets(
        &self,
        caller: &Caller,
        request: OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        answers::deleted_offsets(self.ask(caller, Request::DeleteOffsets(request)).await)
    }

    /// Ends what hangs on a connection: pending members, and members that wait in their first join.
    pub async fn connection_closed(&self, connection: u64) {
        let joined = lock(&self.inner.joined).remove(&connection);
        for index in joined.into_iter().flatten() {
            let shard = lock(&self.inner.led).shards.get(&index).cloned();
            if let Some(shard) = shard {
                // A shard that has ended has forgotten its members anyway.
                drop(shard.queue.send(Message::ConnectionClosed(connection)).await);
            }
        }
    }

    /// Whether every partition led by this broker has been loaded.
    pub fn is_loaded(&self) -> bool {
        lock(&self.inner.led).shards.values().all(|shard| *shard.loaded.borrow())
    }

    fn shard_of(&self, group_id: &str) -> Option<(i32, ShardDoor)> {
        let led = lock(&self.inner.led);
        let index = partition_for_group(group_id, led.count);
        led.shards.get(&index).map(|shard| (index, shard.clone()))
    }

    /// Asks the shard of the request's group. Without one: NOT_COORDINATOR, so that the client looks for the right broker.
    async fn ask(&self, caller: &Caller, request: Request) -> Response {
        let refusal = request.refuse(caller.api_version, ErrorCode::NOT_COORDINATOR);
        let group_id = request.group_id().cloned().unwrap_or_default();
        let Some((_, shard)) = self.shard_of(&group_id) else { return refusal };
        self.ask_shard(&shard, caller, request).await.unwrap_or(refusal)
    }

    /// None if the shard is not loaded in time, or has ended.
    async fn ask_shard(
        &self,
        shard: &ShardDoor,
        caller: &Caller,
        request: Request,
    ) -> Option<Response> {
        let mut loaded = shard.loaded.clone();
        let wait = loaded.wait_for(|loaded| *loaded);
        tokio::time::timeout(LOAD_WAIT, wait).await.ok()?.ok()?;
        let (answer, answered) = oneshot::channel();
        let (caller, request) = (caller.clone(), Box::new(request));
        let message = Message::Request { caller, request, answer };
        shard.queue.send(message).await.ok()?;
        answered.await.ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
