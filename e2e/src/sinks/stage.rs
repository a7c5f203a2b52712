//! Tailway's three with one sink, and how far that is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::checks::{Bench, text};
use crate::deployment::{Deployment, PATIENCE, http_get};
use crate::process::{Process, run, wait_until};
use crate::programs::Programs;

/// The topic of the lines, and the data stream that it is forwarded to.
pub const TOPIC: &str = "logs";
pub const STREAM: &str = "logs-logs-default";
pub const PARTITIONS: u32 = 3;
/// A sink that moves nothing for this long is stuck.
const STUCK: Duration = Duration::from_mins(2);

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    pub deployment: Deployment,
    pub dir: PathBuf,
    programs: &'static Programs,
}

impl Stage {
    /// Coordinator and broker with this `sinks` entry, its topic made; the agent is not started.
    pub fn start(programs: &'static Programs, dir: &Path, sink: &str) -> Result<Self> {
        Self::start_planted(programs, dir, sink, None)
    }

    /// The same with a bug planted.
    pub fn start_planted(
        programs: &'static Programs,
        dir: &Path,
        sink: &str,
        plant: Option<&str>,
    ) -> Result<Self> {
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        let run_dir = dir.join("run");
        let pattern = logs.join("app-*.log*");
        let mut deployment = Deployment::export_of(programs, &run_dir, &[text(&pattern)?])?;
        if let Some(plant) = plant {
            deployment.set_environment("TAILWAY_PLANT", plant);
        }
        deployment.configure("broker", &[("sinks: []", &format!("sinks:\n{sink}"))])?;
        deployment.start_daemon("coordinator")?;
        deployment.start_daemon("broker")?;
        Bench::create(&deployment, TOPIC, PARTITIONS, &[])?;
        Ok(Self { deployment, dir: dir.into(), programs })
    }

    /// Where the agent looks for lines.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// `tailway sink ARGS...`
    pub fn sink(&self, args: &[&str]) -> Result<String> {
        run(&mut self.sink_command(args)?, PATIENCE)
    }

    /// The same, not run yet.
    pub fn sink_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.programs.path("tailway")?);
        command.arg("sink").args(args);
        Ok(command)
    }

    /// The broker's configuration.
    pub fn config(&self) -> String {
        self.deployment.dir.join("broker.yaml").display().to_string()
    }

    /// What `/status` says of the sink's partitions.
    pub fn lanes(&self) -> Result<Vec<Value>> {
        let (code, body) = http_get(self.deployment.admin("broker"), "/status")?;
        ensure!(code == 200, "/status answers {code}");
        let status: Value = serde_json::from_str(&body)?;
        let lanes = status["sinks"][0]["partitions"].as_array();
        lanes.cloned().context("the broker says nothing of its sinks yet")
    }

    /// Waits until the agent has delivered all of `lines`.
    pub fn stored(&self, lines: usize) -> Result<()> {
        wait_until(STUCK * 5, || {
            let (_, body) = http_get(self.deployment.admin("broker"), "/status")?;
            let status: Value = serde_json::from_str(&body)?;
            let of_topic = status["partitions"].as_array().into_iter().flatten();
            let of_topic = of_topic.filter(|partition| partition["topic"] == TOPIC);
            let stored: u64 = of_topic.filter_map(|p| p["high_watermark"].as_u64()).sum();
            Ok(stored >= lines as u64)
        })
    }

    /// Waits until the agent has delivered all of `lines` and the sink has all that is in the topic.
    pub fn settle(&self, lines: usize) -> Result<()> {
        let (mut before, mut moved) = ((0, 0), Instant::now());
        loop {
            let lanes = self.lanes().unwrap_or_default();
            let lanes = lanes.iter().filter(|lane| lane["topic"] == TOPIC);
            let sum = |key| lanes.clone().filter_map(|lane| lane[key].as_u64()).sum::<u64>();
            let (stored, committed) = (sum("high_watermark"), sum("committed"));
            if stored >= lines as u64 && committed == stored {
                return Ok(());
            }
            if (stored, committed) != before {
                (before, moved) = ((stored, committed), Instant::now());
            }
            if moved.elapsed() >= STUCK {
                let lanes: Vec<String> = lanes.map(ToString::to_string).collect();
                bail!(
                    "{stored} of {lines} lines are in the topic and {committed} at the sink, and that is all since \
                     {STUCK:?}:\n{}\nthe broker printed:\n{}",
                    lanes.join("\n"),
                    self.deployment.process("broker").map(Process::tail).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
