//! All metrics of the agent.

use tailway_daemon::metrics::{Counter, Gauge, Metrics};

/// What `/metrics` shows.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    pub lines: Counter,
    pub bytes: Counter,
    pub lines_cut: Counter,
    pub records_acked: Counter,
    pub batches_sent: Counter,
    pub batch_bytes_sent: Counter,
    pub records_resent: Counter,
    pub plans_found: Counter,
    pub plans_resent: Counter,
    pub plans_sent_anew: Counter,
    pub records_repeated: Counter,
    pub records_unproven: Counter,
    pub retries: Counter,
    pub generations: Counter,
    pub bytes_lost: Counter,
    pub scans: Counter,
    pub files: Gauge,
    pub files_open: Gauge,
    pub directories_watched: Gauge,
    pub spool_bytes: Gauge,
    pub journal_bytes: Gauge,
    pub plans_open: Gauge,
    pub samples: Counter,
    pub samples_dropped: Counter,
}

impl AgentMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        let gauge = |name: &str, help: &str| metrics.gauge(name, help);
        Self {
            lines: counter("tailway_agent_lines", "Lines read"),
            bytes: counter("tailway_agent_bytes", "Bytes of files read and turned into events"),
            lines_cut: counter(
                "tailway_agent_lines_cut",
                "Pieces that over-long lines were cut off",
            ),
            records_acked: counter(
                "tailway_agent_records_acked",
                "Events that brokers acknowledged",
            ),
            batches_sent: counter("tailway_agent_batches_sent", "Batches planned and sent"),
            batch_bytes_sent: counter("tailway_agent_batch_bytes_sent", "Bytes of batches sent"),
            records_resent: counter(
                "tailway_agent_records_resent",
                "Events sent again because their batch was looked for and not found",
            ),
            plans_found: counter(
                "tailway_agent_plans_found",
                "Batches that were in doubt and are stored",
            ),
            plans_resent: counter(
                "tailway_agent_plans_resent",
                "Batches that were in doubt and are sent again as they were",
            ),
            plans_sent_anew: counter(
                "tailway_agent_plans_sent_anew",
                "Batches that were in doubt, are not stored, and whose lines are sent anew",
            ),
            records_repeated: counter(
                "tailway_agent_records_repeated",
                "Events that are known to be stored twice",
            ),
            records_unproven: counter(
                "tailway_agent_records_unproven",
                "Events sent again although nothing proves that they were not stored",
            ),
            retries: counter(
                "tailway_agent_retries",
                "Attempts of any kind that were not a success",
            ),
            generations: counter(
                "tailway_agent_generations",
                "Files that started anew because they were truncated or rewritten",
            ),
            bytes_lost: counter(
                "tailway_agent_bytes_lost",
                "Bytes that vanished before they could be read: truncated, or moved out of sight",
            ),
            scans: counter("tailway_agent_scans", "Full scans of all directories"),
            files: gauge("tailway_agent_files", "Files that are followed"),
            files_open: gauge("tailway_agent_files_open", "Files that are open"),
            directories_watched: gauge("tailway_agent_watches", "Watches on directories"),
            spool_bytes: gauge("tailway_agent_spool_bytes", "Bytes of events not acknowledged yet"),
            journal_bytes: gauge("tailway_agent_journal_bytes", "Size of the journal"),
            plans_open: gauge("tailway_agent_plans_open", "Batches sent and not acknowledged yet"),
            samples: counter("tailway_agent_samples", "Samples of host metrics handed over"),
            samples_dropped: counter(
                "tailway_agent_samples_dropped",
                "Samples of host metrics given up, because no broker took them in time",
            ),
        }
    }
}
