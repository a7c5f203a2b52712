//! FollowMetadata: the record stream to those who follow it, by long poll.

use std::time::Duration;

use serde_json::value::RawValue;
use tailway_metadata::control::{
    FOLLOW_MAX_WAIT_MS_LIMIT, FollowMetadataRequest, FollowMetadataResponse,
};
use tailway_metadata::{ClusterImage, Offset};
use tailway_wire::ErrorCode;
use tokio::time::Instant;

use super::service::Service;
use crate::quorum::feed::Read;

pub(super) async fn answer(
    service: &Service,
    request: &FollowMetadataRequest,
) -> FollowMetadataResponse {
    if request.cluster_id != service.cluster_id {
        let text = format!(
            "this coordinator belongs to cluster {}, the request is for {}",
            service.cluster_id, request.cluster_id
        );
        return error(ErrorCode::INCONSISTENT_CLUSTER_ID, text);
    }
    let wait = request.max_wait_ms.min(FOLLOW_MAX_WAIT_MS_LIMIT);
    let deadline = Instant::now() + Duration::from_millis(wait.into());
    let mut images = service.feed.subscribe();
    let mut leadership = service.leadership.clone();
    loop {
        if let Err(why) = &*leadership.borrow_and_update() {
            let text = format!("this coordinator does not lead: {why}");
            return error(ErrorCode::NOT_CONTROLLER, text);
        }
        // Marked as seen before it is read: what comes in between wakes the wait below.
        images.borrow_and_update();
        match service.feed.read(request.log_id, request.from_offset) {
            // A stream without its first record has nothing to follow yet.
            Read::Snapshot(image) if image.offset > Offset(0) => return snapshot(&image),
            Read::Records { records, end_offset } if !records.is_empty() => {
                return FollowMetadataResponse {
                    error_code: 0,
                    error_message: None,
                    snapshot: None,
                    base_offset: request.from_offset,
                    records,
                    end_offset,
                };
            }
            Read::Snapshot(_) | Read::Records { .. } => {}
        }
        let changed = async {
            tokio::select! {
                biased;
                changed = images.changed() => changed.is_ok(),
                changed = leadership.changed() => changed.is_ok(),
            }
        };
        match tokio::time::timeout_at(deadline, changed).await {
            Ok(true) => {}
            Ok(false) => {
                return error(ErrorCode::NOT_CONTROLLER, "this coordinator is stopping".into());
            }
            Err(_) => return nothing_new(service, request.from_offset),
        }
    }
}

pub(super) fn malformed(cause: &serde_json::Error) -> FollowMetadataResponse {
    error(ErrorCode::INVALID_REQUEST, format!("the request's body is not readable: {cause}"))
}

fn error(code: ErrorCode, text: String) -> FollowMetadataResponse {
    FollowMetadataResponse::error(code.into(), text)
}

fn nothing_new(service: &Service, from: Offset) -> FollowMetadataResponse {
    FollowMetadataResponse {
        error_code: 0,
        error_message: None,
        snapshot: None,
        base_offset: from,
        records: Vec::new(),
        end_offset: service.feed.image().offset,
    }
}

fn snapshot(image: &ClusterImage) -> FollowMetadataResponse {
    let json = String::from_utf8(image.encode_snapshot())
        .ok()
        .and_then(|text| RawValue::from_string(text).ok())
        .unwrap_or_else(|| panic!("a snapshot is JSON"));
    FollowMetadataResponse {
        error_code: 0,
        error_message: None,
        snapshot: Some(json),
        base_offset: image.offset,
        records: Vec::new(),
        end_offset: image.offset,
    }
}
