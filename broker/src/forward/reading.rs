//! Reading a partition for a sink: what is committed in its log, and of dead letters what somebody wants delivered again.

use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::TopicId;

use super::dead_letters::SINK_HEADER;
use super::progress::{Progress, replay_group_of};
use super::record::{Decoded, Record, decode};
use crate::cluster::PartitionDoor;
use crate::partition::PartitionError;

/// Bytes of one read.
const READ_BYTES: usize = 512 * 1024;
/// How often it is looked whether a replay is wanted.
const REPLAY_POLL: Duration = Duration::from_secs(2);
/// After a read that failed.
const FAILED_WAIT: Duration = Duration::from_secs(5);

/// The log that a lane reads.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    /// These are dead letters of this sink, read as far as a replay is asked for.
    pub(super) replay_for: Option<Arc<str>>,
}

/// What a read gave.
pub(super) enum Reading {
    Records {
        records: Vec<Record>,
        next: i64,
    },
    /// What was to be read is deleted.
    Trimmed {
        from: i64,
        log_start: i64,
    },
    /// The partition is closed here.
    Gone(String),
}

impl Source {
    pub(super) fn is_replay(&self) -> bool {
        self.replay_for.is_some()
    }

    /// Returns once there is something at `from` or above.
    pub(super) async fn read(
        &self,
        door: &PartitionDoor,
        progress: &Progress,
        from: i64,
    ) -> Reading {
        let mut watermarks = door.watermarks();
        loop {
            watermarks.borrow_and_update();
            let limit = self.limit(progress, from).await;
            match door.read(from, READ_BYTES, true).await {
                Ok(slice) if slice.is_empty() => {
                    if watermarks.changed().await.is_err() {
                        return Reading::Gone("the partition is closed".to_owned());
                    }
                }
                Ok(slice) => {
                    let Decoded { mut records, next } = decode(slice, from, limit);
                    if let Some(sink) = &self.replay_for {
                        records.retain(|record| is_of(record, sink));
                    }
                    return Reading::Records { records, next };
                }
                Err(PartitionError::OffsetOutOfRange { log_start, .. }) if from < log_start => {
                    return Reading::Trimmed { from, log_start };
                }
                Err(error @ PartitionError::Closed) => return Reading::Gone(error.to_string()),
                Err(error) => {
                    let Self { topic, partition, .. } = self;
                    tracing::warn!(%topic, partition, from, %error, "a partition cannot be read for its sinks; it is tried again");
                    tokio::time::sleep(FAILED_WAIT).await;
                }
            }
        }
    }

    /// Below which offset it may be read: waits until that is above `from`.
    async fn limit(&self, progress: &Progress, from: i64) -> i64 {
        let Some(sink) = &self.replay_for else { return i64::MAX };
        let group = replay_group_of(sink);
        loop {
            match progress.fetch(&group, &self.topic, self.partition).await {
                Ok(Some(wanted)) if wanted.offset > from => return wanted.offset,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "whether a replay is wanted is not known"),
            }
            tokio::time::sleep(REPLAY_POLL).await;
        }
    }
}

fn is_of(record: &Record, sink: &str) -> bool {
    record.headers.get(SINK_HEADER).is_some_and(|of| *of == *sink.as_bytes())
}
