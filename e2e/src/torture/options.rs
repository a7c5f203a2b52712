//! What `cargo x torture` takes.

use std::path::PathBuf;
use std::time::Duration;

/// The bug that `--no-resolution` plants.
const NO_RESOLUTION: &str = "agent.doubts_sent_anew";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BrokerKind {
    Tailway,
    Kafka,
}

/// One run.
#[derive(Clone, Debug, clap::Args)]
pub struct TortureArgs {
    /// Of the writer and of the kills.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long the writer writes; kills are spread over it.
    #[arg(long, default_value_t = 1.0)]
    pub minutes: f64,
    /// How often something is killed.
    #[arg(long, default_value_t = 12)]
    pub kills: usize,
    /// Lines to write in all.
    #[arg(long, default_value_t = 100_000)]
    pub lines: usize,
    /// What takes the lines: Tailway, or a real Kafka (needs java, mvn).
    #[arg(long, value_enum, default_value_t = BrokerKind::Tailway)]
    pub broker: BrokerKind,
    /// Kafka forgets producers after 5 s, and after each of its kills the agent stays down until it has.
    #[arg(long)]
    pub expire_producers: bool,
    /// Between kill and start, the agent's output gets another codec, batch size or field.
    #[arg(long)]
    pub change_config: bool,
    /// Batches in doubt are sent again unlooked for: the run must fail.
    #[arg(long, conflicts_with = "plant")]
    pub no_resolution: bool,
    /// Daemons with faults, and this bug planted (crates/faults): the run must fail.
    #[arg(long)]
    pub plant: Option<String>,
    /// A file to which a run without a complaint adds its report.
    #[arg(long)]
    pub evidence: Option<PathBuf>,
}

impl TortureArgs {
    pub(super) fn plant(&self) -> Option<&str> {
        if self.no_resolution { Some(NO_RESOLUTION) } else { self.plant.as_deref() }
    }

    pub(super) fn span(&self) -> Duration {
        Duration::from_secs_f64(self.minutes.clamp(0.0, 10_000.0) * 60.0)
    }

    pub(super) fn is_kafka(&self) -> bool {
        self.broker == BrokerKind::Kafka
    }

    pub(super) fn kafka_properties(&self) -> Vec<&'static str> {
        if self.expire_producers {
            vec!["producer.id.expiration.ms=5000", "producer.id.expiration.check.interval.ms=1000"]
        } else {
            Vec::new()
        }
    }

    /// The broker and what else is special, in words.
    pub(super) fn describe(&self) -> String {
        let mut words = match self.broker {
            BrokerKind::Tailway => "Tailway".to_owned(),
            BrokerKind::Kafka => format!("Apache Kafka {}", crate::kafka::NEWEST),
        };
        if self.expire_producers {
            words += ", producers expire after 5 s and the agent waits for it";
        }
        if self.change_config {
            words += ", another configuration after each kill of the agent";
        }
        words
    }
}
