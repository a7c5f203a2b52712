//! The doors to a partition and to a group: where a request goes from here, on this broker or elsewhere.
//!
//! Today every door opens on this broker; a relay adds a second kind here and nothing changes in the handlers.

use bytes::Bytes;
use tailway_wire::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use tokio::sync::watch;

use crate::group::{Caller, Groups};
use crate::partition::{
    AppendOptions, ListOffset, ListedOffset, PartitionError, PartitionHandle, PendingAppend,
    ProducerReport, ReadSlice, Watermarks,
};

/// A partition as an async service.
#[derive(Clone)]
pub enum PartitionDoor {
    /// Led by this broker.
    Local(PartitionHandle),
}

impl PartitionDoor {
    /// See [`PartitionHandle::submit`]: the place in the order is fixed once this returns.
    pub async fn submit(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> Result<PendingAppend, PartitionError> {
        match self {
            Self::Local(handle) => handle.submit(batches, options).await,
        }
    }

    pub async fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<ReadSlice, PartitionError> {
        match self {
            Self::Local(handle) => handle.read(offset, max_bytes, min_one_batch).await,
        }
    }

    pub async fn list_offset(&self, which: ListOffset) -> Result<ListedOffset, PartitionError> {
        match self {
            Self::Local(handle) => handle.list_offset(which).await,
        }
    }

    /// See [`PartitionHandle::end_offset_for_epoch`].
    pub async fn end_offset_for_epoch(&self, epoch: i32) -> Result<(i32, i64), PartitionError> {
        match self {
            Self::Local(handle) => handle.end_offset_for_epoch(epoch).await,
        }
    }

    /// See [`PartitionHandle::producers`].
    pub async fn producers(&self) -> Result<Vec<ProducerReport>, PartitionError> {
        match self {
            Self::Local(handle) => handle.producers().await,
        }
    }

    pub fn watermarks(&self) -> watch::Receiver<Watermarks> {
        match self {
            Self::Local(handle) => handle.watermarks(),
        }
    }
}

/// The group coordinator as an async service. It answers NOT_COORDINATOR itself for groups that it does not have.
#[derive(Clone)]
pub enum GroupDoor {
    /// On this broker.
    Local(Groups),
}

impl GroupDoor {
    pub async fn join(&self, caller: &Caller, request: JoinGroupRequest) -> JoinGroupResponse {
        match self {
            Self::Local(groups) => groups.join(caller, request).await,
        }
    }

    pub async fn sync(&self, caller: &Caller, request: SyncGroupRequest) -> SyncGroupResponse {
        match self {
            Self::Local(groups) => groups.sync(caller, request).await,
        }
    }

    pub async fn heartbeat(&self, caller: &Caller, request: HeartbeatRequest) -> HeartbeatResponse {
        match self {
            Self::Local(groups) => groups.heartbeat(caller, request).await,
        }
    }

    pub async fn leave(&self, caller: &Caller, request: LeaveGroupRequest) -> LeaveGroupResponse {
        match self {
            Self::Local(groups) => groups.leave(caller, request).await,
        }
    }

    pub async fn commit(
        &self,
        caller: &Caller,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        match self {
            Self::Local(groups) => groups.commit(caller, request).await,
        }
    }

    pub async fn fetch_offsets(
        &self,
        caller: &Caller,
        request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        match self {
            Self::Local(groups) => groups.fetch_offsets(caller, request).await,
        }
    }

    pub async fn describe(
        &self,
        caller: &Caller,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        match self {
            Self::Local(groups) => groups.describe(caller, request).await,
        }
    }

    pub async fn list(&self, caller: &Caller, request: ListGroupsRequest) -> ListGroupsResponse {
        match self {
            Self::Local(groups) => groups.list(caller, request).await,
        }
    }

    pub async fn delete_groups(
        &self,
        caller: &Caller,
        request: DeleteGroupsRequest,
    ) -> DeleteGroupsResponse {
        match self {
            Self::Local(groups) => groups.delete_groups(caller, request).await,
        }
    }

    pub async fn delete_offsets(
        &self,
        caller: &Caller,
        request: OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        match self {
            Self::Local(groups) => groups.delete_offsets(caller, request).await,
        }
    }

    /// A connection has ended: what hangs on it ends too.
    pub async fn connection_closed(&self, connection: u64) {
        match self {
            Self::Local(groups) => groups.connection_closed(connection).await,
        }
    }
}
