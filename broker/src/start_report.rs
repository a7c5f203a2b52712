//! What a start found in the data directory, in one place: for the log once, for `/status` as long as the broker runs.
//!
//! Logs are recovered when the image names them, so that the report grows with the topics that are opened later.
//! Invariant: a log that was trimmed, rebuilt or quarantined is never counted as clean.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::partition::PartitionReport;

/// Quarantined logs named in the log line; `/status` names all.
const NAMED_MAX: usize = 5;

/// Counts of logs, bytes and index files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StartReport {
    pub(crate) logs: usize,
    /// Nothing had to be changed.
    pub(crate) clean: usize,
    pub(crate) trimmed: usize,
    pub(crate) trimmed_bytes: u64,
    /// Logs of which at least one index file was made anew.
    pub(crate) rebuilt: usize,
    pub(crate) rebuilt_indexes: u32,
    /// Read again, with every CRC, because the last stop was not clean.
    pub(crate) checked_bytes: u64,
    pub(crate) quarantined: Vec<Quarantined>,
}

/// A log that is not served and of which nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Quarantined {
    pub(crate) partition: String,
    /// Which file, where in it and what is wrong.
    pub(crate) why: String,
    pub(crate) next: String,
}

impl StartReport {
    pub(crate) fn of(reports: &[PartitionReport], data_dir: &Path) -> Self {
        let mut total = Self { logs: reports.len(), ..Self::default() };
        for report in reports {
            let tp = report.topic_partition.to_string();
            total.trimmed_bytes += report.trimmed_bytes;
            total.rebuilt_indexes += report.rebuilt_indexes;
            total.checked_bytes += report.checked_bytes;
            if let Some(why) = &report.quarantined {
                let next = next(&tp, data_dir);
                total.quarantined.push(Quarantined { partition: tp, why: why.to_string(), next });
                continue;
            }
            let (trimmed, rebuilt) = (report.trimmed_bytes > 0, report.rebuilt_indexes > 0);
            total.trimmed += usize::from(trimmed);
            total.rebuilt += usize::from(rebuilt);
            total.clean += usize::from(!trimmed && !rebuilt);
        }
        total
    }

    /// Says it in the log.
    pub(crate) fn say(&self) {
        for log in self.quarantined.iter().take(NAMED_MAX) {
            let Quarantined { partition, why, next } = log;
            tracing::error!(%partition, %why, %next, "this log is quarantined: it is not served, and nothing of it is cut");
        }
        if self.quarantined.is_empty() {
            tracing::info!("{self}");
        } else {
            tracing::error!("{self}; /status names each under `start`");
        }
    }
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { logs, clean, trimmed, trimmed_bytes, rebuilt, rebuilt_indexes, .. } = self;
        write!(
            f,
            "opened {logs} logs: {clean} as they were, {trimmed} with an unfinished tail trimmed ({trimmed_bytes} bytes, none \
             of them acknowledged with acks=all), {rebuilt} with indexes rebuilt ({rebuilt_indexes} files), {} quarantined; {} \
             bytes were checked again",
            self.quarantined.len(),
            self.checked_bytes
        )
    }
}

fn next(partition: &str, data_dir: &Path) -> String {
    let dir = data_dir.join(partition);
    let dir = dir.display();
    format!(
        "stop the broker and keep a copy: cp -a {dir} {partition}.bak; then restore {dir} from a backup, or give up what is \
         in it with: mv {dir} {dir}.lost; then start the broker again"
    )
}

#[cfg(test)]
mod tests {
    use tailway_metadata::TopicPartition;

    use super::*;

    fn report(partition: i32) -> PartitionReport {
        PartitionReport {
            topic_partition: TopicPartition::new("logs", partition),
            log_start_offset: 0,
            log_end_offset: 10,
            trimmed_bytes: 0,
            rebuilt_indexes: 0,
            checked_bytes: 7,
            quarantined: None,
        }
    }

    #[test]
    fn each_log_is_counted_for_what_became_of_it() {
        let reports = [
            report(0),
            PartitionReport { trimmed_bytes: 100, ..report(1) },
            PartitionReport { rebuilt_indexes: 2, ..report(2) },
            PartitionReport { trimmed_bytes: 11, rebuilt_indexes: 4, ..report(3) },
            PartitionReport { quarantined: Some("x.log is corrupt at 5".into()), ..report(4) },
        ];
        let total = StartReport::of(&reports, Path::new("/data"));
        let next = "stop the broker and keep a copy: cp -a /data/logs-4 logs-4.bak; then restore /data/logs-4 from a \
                    backup, or give up what is in it with: mv /data/logs-4 /data/logs-4.lost; then start the broker again";
        let quarantined = Quarantined {
            partition: "logs-4".to_owned(),
            why: "x.log is corrupt at 5".to_owned(),
            next: next.to_owned(),
        };
        let expected = StartReport {
            logs: 5,
            clean: 1,
            trimmed: 2,
            trimmed_bytes: 111,
            rebuilt: 2,
            rebuilt_indexes: 6,
            checked_bytes: 35,
            quarantined: vec![quarantined],
        };
        assert_eq!(total, expected);
        assert_eq!(
            total.to_string(),
            "opened 5 logs: 1 as they were, 2 with an unfinished tail trimmed (111 bytes, none of them acknowledged with \
             acks=all), 2 with indexes rebuilt (6 files), 1 quarantined; 35 bytes were checked again"
        );
        assert_eq!(StartReport::of(&[], Path::new("/data")), StartReport::default());
    }
}
