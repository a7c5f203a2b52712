//! The agent's configuration, checked: what was typed and what it means.
//!
//! `RawConfig` is the file; `Config` has no hidden defaults and no strings that still need reading,
//! and its TLS material is loaded. All problems of a file come at once, each with its position and
//! what to write instead.
//! Invariant: without TLS there is no output, unless `insecure: true` says so.

mod raw;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tailway_daemon::config::common::{AdminConfig, LoggingConfig, OwnTls};
use tailway_daemon::{MetricsListener, Problems};
use tailway_metadata::topic;
use tailway_net::{ClientTls, ClientTlsFiles, HostPort};

use crate::event::Format;
use crate::tail::glob::{Pattern, PatternError};

pub use raw::{
    ADMIN_PORT, Codec, InputType, Metricset, RawAgent, RawConfig, RawInput, RawMetrics, RawOutput,
    RawTls, Start,
};

const MIB: u64 = 1 << 20;

/// An agent's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// `None`: the host's name.
    pub name: Option<String>,
    pub beat_version: String,
    /// Most bytes of batches that are made but not acknowledged.
    pub spool_bytes: usize,
    pub rescan_interval: Duration,
    /// Files that were not seen for this long are forgotten.
    pub forget_after: Duration,
    pub output: OutputConfig,
    pub inputs: Vec<InputConfig>,
    pub metrics: Option<MetricsConfig>,
    pub admin: AdminConfig,
    pub metrics_listener: Option<MetricsListener>,
    pub logging: LoggingConfig,
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct OutputConfig {
    pub brokers: Vec<HostPort>,
    pub compression: Codec,
    pub batch_bytes: usize,
    pub linger: Duration,
    pub request_timeout: Duration,
    /// A batch without an acknowledgement for this long is looked for instead of sent again.
    pub delivery_timeout: Duration,
    /// `None`: plaintext, asked for by `insecure: true`.
    pub tls: Option<ClientTls>,
}

/// Well below the day after which brokers forget a producer (`producer.id.expiration.ms`), and with
/// it that they have its batches.
const DELIVERY_TIMEOUT: Duration = Duration::from_hours(1);

/// One input.
#[derive(Clone, Debug)]
pub struct InputConfig {
    pub id: String,
    pub patterns: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    pub start: Start,
    pub format: Format,
    pub topic: String,
    pub line_bytes_max: usize,
}

/// The host's own metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    pub interval: Duration,
    pub topic: String,
    pub metricsets: Vec<Metricset>,
}

impl InputConfig {
    /// Whether the input follows a file of that name.
    pub fn takes(&self, path: &Path) -> bool {
        self.patterns.iter().any(|pattern| pattern.fits(path))
            && !self.exclude.iter().any(|pattern| pattern.fits(path))
    }
}

impl Config {
    /// Reads and checks a file; all problems at once.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let (raw, problems) = tailway_daemon::config::load::<RawConfig>(path)?;
        Config::check(raw, problems)
    }

    /// Turns what was typed into what it means, or says everything that is wrong with it.
    pub fn check(raw: RawConfig, mut problems: Problems) -> Result<Config, Problems> {
        let found = &mut problems;
        raw.admin.check(found);
        raw.logging.check(found);
        check_agent(&raw.agent, &raw.output, found);
        let inputs = check_inputs(&raw.inputs, &raw.output, found);
        let metrics = check_metrics(&raw.metrics, found);
        if raw.inputs.is_empty() && metrics.is_none() {
            found.at("inputs", "nothing is to be read and metrics are off; name files to follow");
        }
        let cert = raw.output.tls.as_ref().and_then(|tls| tls.cert.as_deref());
        let own = OwnTls { server: None, cluster: OwnTls::cluster_in(cert) };
        let metrics_listener = raw.admin.metrics.check(own, found);
        let output = check_output(&raw.output, found);
        problems.finish(Config {
            data_dir: raw.agent.data_dir,
            name: Some(raw.agent.name).filter(|name| !name.is_empty()),
            beat_version: raw.agent.beat_version,
            spool_bytes: raw.agent.spool.as_usize(),
            rescan_interval: raw.agent.rescan_interval.duration(),
            forget_after: raw.agent.forget_after.duration(),
            output,
            inputs,
            metrics,
            admin: raw.admin,
            metrics_listener,
            logging: raw.logging,
        })
    }
}

fn check_agent(raw: &RawAgent, output: &RawOutput, problems: &mut Problems) {
    if raw.data_dir.as_os_str().is_empty() {
        let text = "it is empty; write a directory, as /var/lib/tailway/agent";
        problems.at("agent.data_dir", text);
    }
    if raw.beat_version.is_empty() {
        problems.at("agent.beat_version", "it is empty; write a Filebeat version, as 8.14.4");
    }
    let spool_min = output.batch_size.0.saturating_mul(2).max(MIB);
    if raw.spool.0 < spool_min {
        let text = format!("{} cannot hold two batches; write at least {spool_min}B", raw.spool);
        problems.at("agent.spool", text);
    }
    if raw.rescan_interval.as_millis() < 100 {
        problems.at("agent.rescan_interval", "it is below 100ms; write 30s");
    }
    if raw.forget_after.as_millis() < 60_000 {
        let text = "below 1m a file that is gone for a moment would be sent again; write 7d";
        problems.at("agent.forget_after", text);
    }
}

fn check_output(raw: &RawOutput, problems: &mut Problems) -> OutputConfig {
    let mut brokers = Vec::new();
    for (i, text) in raw.brokers.iter().enumerate() {
        match text.parse::<HostPort>() {
            Ok(address) => brokers.push(address),
            Err(error) => problems.at(&format!("output.brokers[{i}]"), error),
        }
    }
    if raw.brokers.is_empty() {
        problems.at("output.brokers", "it is empty; write [\"127.0.0.1:9093\"]");
    }
    check_topic("output.topic", &raw.topic, problems);
    if !(1024..=32 * MIB).contains(&raw.batch_size.0) {
        problems.at("output.batch_size", format!("{} is not 1KiB to 32MiB", raw.batch_size));
    }
    if raw.linger.as_millis() > 60_000 {
        problems.at("output.linger", "events would wait for more than a minute; write 5ms");
    }
    if raw.request_timeout.as_millis() < 100 {
        problems.at("output.request_timeout", "below 100ms no broker can answer; write 30s");
    }
    OutputConfig {
        brokers,
        compression: raw.compression,
        batch_bytes: raw.batch_size.as_usize(),
        linger: raw.linger.duration(),
        request_timeout: raw.request_timeout.duration(),
        delivery_timeout: DELIVERY_TIMEOUT,
        tls: check_tls(raw, problems),
    }
}

fn check_tls(raw: &RawOutput, problems: &mut Problems) -> Option<ClientTls> {
    match (&raw.tls, raw.insecure) {
        (None, true) => None,
        (Some(_), true) => {
            let text = "it asks for plaintext while tls is configured; remove one of the two";
            problems.at("output.insecure", text);
            None
        }
        (None, false) => {
            let text = "tls is missing; write tls: {ca: FILE}, or insecure: true for plaintext";
            problems.at("output", text);
            None
        }
        (Some(tls), false) => {
            let files = ClientTlsFiles {
                ca: tls.ca.clone(),
                cert: tls.cert.clone(),
                key: tls.key.clone(),
                server_name: tls.server_name.clone(),
            };
            match ClientTls::load(&files) {
                Ok(tls) => Some(tls),
                Err(error) => {
                    problems.at(&format!("output.tls{}", error.config_key()), error);
                    None
                }
            }
        }
    }
}

fn check_inputs(raw: &[RawInput], output: &RawOutput, problems: &mut Problems) -> Vec<InputConfig> {
    let mut ids = BTreeSet::new();
    let mut inputs = Vec::new();
    for (i, input) in raw.iter().enumerate() {
        let at = |key: &str| format!("inputs[{i}].{key}");
        if input.id.is_empty() {
            let text = "every input needs an id that stays when its paths change; write id: NAME";
            problems.at(&at("id"), text);
        } else if !ids.insert(&input.id) {
            problems.at(&at("id"), format!("`{}` is the id of another input", input.id));
        }
        if input.paths.is_empty() {
            problems.at(&at("paths"), "it is empty; write [\"/var/log/*.log\"]");
        }
        if !(64..=16 * MIB).contains(&input.line_size.0) {
            problems.at(&at("line_size"), format!("{} is not 64B to 16MiB", input.line_size));
        }
        if let Some(topic) = &input.topic {
            check_topic(&at("topic"), topic, problems);
        }
        inputs.push(InputConfig {
            id: input.id.clone(),
            patterns: check_patterns(&at("paths"), &input.paths, Pattern::new, problems),
            exclude: check_patterns(&at("exclude"), &input.exclude, Pattern::excluding, problems),
            start: input.start,
            format: input.format,
            topic: input.topic.clone().unwrap_or_else(|| output.topic.clone()),
            line_bytes_max: input.line_size.as_usize(),
        });
    }
    inputs
}

fn check_patterns(
    path: &str,
    raw: &[String],
    compile: fn(&str) -> Result<Pattern, PatternError>,
    problems: &mut Problems,
) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (i, text) in raw.iter().enumerate() {
        match compile(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => problems.at(&format!("{path}[{i}]"), error),
        }
    }
    patterns
}

fn check_metrics(raw: &RawMetrics, problems: &mut Problems) -> Option<MetricsConfig> {
    if raw.interval.as_millis() < 1_000 {
        problems.at("metrics.interval", "it is below 1s; write 10s");
    }
    check_topic("metrics.topic", &raw.topic, problems);
    (raw.enabled && !raw.metricsets.is_empty()).then(|| MetricsConfig {
        interval: raw.interval.duration(),
        topic: raw.topic.clone(),
        metricsets: raw.metricsets.clone(),
    })
}

fn check_topic(path: &str, name: &str, problems: &mut Problems) {
    if let Err(error) = topic::validate_name(name) {
        problems.at(path, error);
    }
}
