//! Samples the host at its interval and sends what it finds, as Metricbeat would.
//!
//! A sample that no broker takes waits in a bounded queue; when that is full the oldest goes, and
//! is counted. Samples are worth little when they are late, so they are in no journal.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tailway_client::produce::ProducerRecord;
use tailway_client::{Client, Producer, ProducerOptions};
use tailway_daemon::{Clock, Stop};
use tailway_metadata::time::WallMs;
use tokio::time::MissedTickBehavior;

use super::HostError;
use super::cpu::Cpu;
use super::load::Load;
use super::memory::Memory;
use crate::config::{MetricsConfig, Metricset};
use crate::event::{Sender, push_rfc3339_ms};
use crate::metrics::AgentMetrics;

/// Samples that wait for a broker: 20 minutes of three sets at 10 s.
const WAITING_MAX: usize = 360;
/// For one attempt to hand samples to a broker.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The readers, and how their samples become events.
#[derive(Debug)]
pub struct Sampler {
    config: MetricsConfig,
    sender: Sender,
    cpu: Cpu,
    load: Load,
    memory: Memory,
}

impl Sampler {
    pub fn new(config: MetricsConfig, sender: Sender) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let load = Load::new(u32::try_from(cores).unwrap_or(1));
        Self { config, sender, cpu: Cpu::default(), load, memory: Memory::default() }
    }

    /// One event per metricset; what cannot be read is an error in its place.
    pub fn sample(&mut self, at: WallMs) -> Vec<Result<String, HostError>> {
        let mut events = Vec::new();
        for metricset in self.config.metricsets.clone() {
            let (name, sample) = match metricset {
                Metricset::Cpu => ("cpu", self.cpu.sample()),
                Metricset::Load => ("load", self.load.sample().map(Some)),
                Metricset::Memory => ("memory", self.memory.sample().map(Some)),
            };
            match sample {
                Ok(Some(sample)) => events.push(Ok(self.event(name, &sample, at))),
                Ok(None) => {}
                Err(error) => events.push(Err(error)),
            }
        }
        events
    }

    /// An event with its first two keys where Metricbeat has them.
    fn event(&self, name: &str, sample: &Value, at: WallMs) -> String {
        let mut time = Vec::new();
        push_rfc3339_ms(&mut time, at);
        let mut host = json!({"name": self.sender.name});
        if let Some(usage) = sample.pointer("/total/norm/pct").filter(|_| name == "cpu") {
            host["cpu"] = json!({"usage": usage});
        }
        let period = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        format!(
            "{{\"@timestamp\":\"{}\",\"@metadata\":{},\"agent\":{},\"metricset\":{},\
             \"event\":{},\"service\":{},\"system\":{},\"host\":{host},\"ecs\":{}}}",
            String::from_utf8_lossy(&time),
            self.sender.metadata_object("metricbeat"),
            self.sender.agent_object("metricbeat"),
            json!({"name": name, "period": period}),
            json!({"dataset": format!("system.{name}"), "module": "system"}),
            json!({"type": "system"}),
            json!({name: sample}),
            json!({"version": "8.0.0"}),
        )
    }
}

/// Samples and sends until the program stops.
pub async fn run(
    mut sampler: Sampler,
    client: Client,
    clock: Clock,
    metrics: AgentMetrics,
    mut stop: Stop,
) {
    let options = ProducerOptions {
        delivery_timeout: DELIVERY_TIMEOUT,
        buffer_bytes: 1 << 20,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let mut ticks = tokio::time::interval(sampler.config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: VecDeque<(WallMs, String)> = VecDeque::new();
    let mut trouble = String::new();
    while stop.unless(ticks.tick()).await.is_some() {
        let at = clock.wall();
        for event in sampler.sample(at) {
            match event {
                Ok(event) => waiting.push_back((at, event)),
                Err(error) => note(&mut trouble, error.to_string()),
            }
        }
        while waiting.len() > WAITING_MAX {
            waiting.pop_front();
            metrics.samples_dropped.inc();
        }
        let sent = send(&producer, &sampler.config.topic, &mut waiting, &metrics);
        match stop.unless(sent).await {
            None => break,
            Some(Ok(())) => trouble.clear(),
            Some(Err(cause)) => note(&mut trouble, cause),
        }
    }
    metrics.samples_dropped.inc_by(waiting.len() as u64);
}

/// Sends what waits, oldest first; what could not be sent goes on waiting.
async fn send(
    producer: &Producer,
    topic: &str,
    waiting: &mut VecDeque<(WallMs, String)>,
    metrics: &AgentMetrics,
) -> Result<(), String> {
    let mut under_way = Vec::new();
    while let Some((at, event)) = waiting.front() {
        let record = ProducerRecord {
            value: Some(Bytes::from(event.clone())),
            timestamp: at.0,
            ..ProducerRecord::default()
        };
        let taken = producer.send(topic, record).await.map_err(|error| error.to_string())?;
        // From here on it may be stored, so it is not sent a second time.
        waiting.pop_front();
        under_way.push(taken);
    }
    let mut failed = Ok(());
    for delivery in under_way {
        match delivery.wait().await {
            Ok(_) => drop(metrics.samples.inc()),
            Err(error) => {
                metrics.samples_dropped.inc();
                failed = Err(error.to_string());
            }
        }
    }
    failed
}

/// Says what is wrong, once.
fn note(trouble: &mut String, cause: String) {
    if *trouble != cause {
        tracing::warn!(cause, "host metrics are held up; retrying");
        *trouble = cause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_metricbeats_shape() {
        let config = MetricsConfig {
            interval: Duration::from_secs(10),
            topic: "metrics".into(),
            metricsets: vec![Metricset::Cpu, Metricset::Load, Metricset::Memory],
        };
        let sender = Sender {
            name: "web-01".into(),
            id: "id".into(),
            ephemeral_id: "eph".into(),
            beat_version: "8.14.4".into(),
        };
        let mut sampler = Sampler::new(config, sender);
        // The first sample of the CPU only sets the mark.
        assert_eq!(sampler.sample(WallMs(0)).len(), 2);
        let events: Vec<String> =
            sampler.sample(WallMs(0)).into_iter().map(|event| event.unwrap()).collect();
        let start = "{\"@timestamp\":\"1970-01-01T00:00:00.000Z\",\"@metadata\":\
             {\"beat\":\"metricbeat\",\"type\":\"_doc\",\"version\":\"8.14.4\"},\"agent\":{";
        for (event, name) in events.iter().zip(["cpu", "load", "memory"]) {
            assert!(event.starts_with(start), "{event}");
            let value: Value = serde_json::from_str(event).unwrap();
            assert_eq!(value["metricset"], json!({"name": name, "period": 10_000}));
            assert_eq!(value["event"]["dataset"], format!("system.{name}"));
            assert!(value["system"][name].is_object(), "{event}");
            assert_eq!(value["host"]["name"], "web-01");
        }
        let cpu: Value = serde_json::from_str(&events[0]).unwrap();
        assert_eq!(cpu["host"]["cpu"]["usage"], cpu["system"]["cpu"]["total"]["norm"]["pct"]);
    }
}
