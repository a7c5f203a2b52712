//! The whole agent in a simulated run: its task instead of its thread, files and disk in memory.
//!
//! There is no broker, so files are found, nothing is planned, and a stop ends. The same seed must
//! ask the same of the files.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tailway_agent::Agent;
use tailway_agent::config::{Config, RawConfig};
use tailway_agent::tail::memory::{MemoryFiles, Watching};
use tailway_daemon::{Clock, Context, Daemon, Deadline};
use tailway_metadata::time::WallMs;
use tailway_runtime::sim::{self, HostId};
use tailway_storage::SimDisk;
use tokio::sync::watch;

const HOST: HostId = HostId(1);

fn config(data_dir: &Path) -> Config {
    let yaml = format!(
        "agent: {{ data_dir: {}, name: web-01 }}\n\
         output: {{ brokers: [\"127.0.0.1:1\"], insecure: true }}\n\
         inputs: [ {{ id: test, paths: [ \"/logs/**/*.log\" ] }} ]\n\
         metrics: {{ enabled: false }}\n",
        data_dir.display()
    );
    let (raw, problems) =
        tailway_daemon::config::load_text::<RawConfig>(Path::new("agent.yaml"), &yaml).unwrap();
    let mut config = Config::check(raw, problems).unwrap();
    // Nobody to ask: no connection is tried.
    config.output.brokers.clear();
    config
}

/// A machine with an agent: what is left when its process dies, and a way to stop it.
struct Machine {
    files: MemoryFiles,
    clock: Clock,
    disk: SimDisk,
    config: Config,
}

/// One process.
struct Process {
    context: Context,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<Option<Result<(), String>>>,
}

impl Machine {
    fn start(&self) -> Process {
        let context = Context::new(self.clock.clone());
        let (stop, mut told) = watch::channel(false);
        let (end, stopped) = watch::channel(None);
        let (config, inner) = (self.config.clone(), context.clone());
        let (disk, files) = (Arc::new(self.disk.clone()), Arc::new(self.files.clone()));
        sim::spawn_on(HOST, async move {
            let agent = Agent::start_on(disk, files, config, inner).await.unwrap();
            told.wait_for(|told| *told).await.unwrap();
            let stopped = agent.stop(Deadline::after(Duration::from_secs(10))).await;
            end.send_replace(Some(stopped.map_err(|late| late.to_string())));
        });
        Process { context, stop, stopped }
    }

    /// Appends a line and lets time pass, on all clocks.
    async fn write(&self, name: &str, pause: Duration) {
        self.files.append(&Path::new("/logs").join(name), b"a line\n").unwrap();
        self.pass(pause).await;
    }

    async fn pass(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
        let passed = i64::try_from(pause.as_millis()).unwrap();
        self.clock.set_wall(WallMs(self.clock.wall().0 + passed));
    }
}

impl Process {
    fn report(&self) -> Value {
        self.context.status.json()["shipper"].clone()
    }

    /// Path, generation and size of each file.
    fn files(&self) -> Vec<(String, String, u64)> {
        let report = self.report();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let files = report["files"].as_array().unwrap().iter();
        let mut files: Vec<_> = files
            .map(|f| (text(&f["path"]), text(&f["generation"]), f["size"].as_u64().unwrap()))
            .collect();
        files.sort();
        files
    }

    async fn stop(mut self) -> Result<(), String> {
        self.stop.send_replace(true);
        self.stopped.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

/// A writer that rotates, over a kill of the agent and a second life. What the files were asked.
async fn two_lives(watching: Watching) -> Vec<String> {
    sim::add_host(HOST);
    let data_dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(WallMs(1_700_000_000_000));
    let files = MemoryFiles::new(clock.clone());
    files.create_dir_all(Path::new("/logs/app")).unwrap();
    files.set_watching(watching);
    files.record();
    let config = config(data_dir.path());
    let machine = Machine { files: files.clone(), clock, disk: SimDisk::new(), config };
    machine.write("a.log", Duration::ZERO).await;

    let first = machine.start();
    first.context.ready.wait().await;
    for _ in 0..30 {
        let pause = Duration::from_millis(tailway_runtime::seed() % 400);
        machine.write("app/b.log", pause).await;
    }
    let (from, to) = (Path::new("/logs/app/b.log"), Path::new("/logs/app/b.log.1"));
    files.rename(from, to).unwrap();
    machine.write("app/b.log", Duration::from_secs(10)).await;
    let found = first.files();
    let names: Vec<_> = found.iter().map(|(path, _, size)| (&path[..], *size)).collect();
    let expected = [("/logs/a.log", 7), ("/logs/app/b.log", 7), ("/logs/app/b.log.1", 210)];
    assert_eq!(names, expected, "{watching:?}");
    assert_eq!(first.report()["plans_open"], 0);

    sim::kill(HOST);
    sim::revive(HOST);
    drop(first);
    let second = machine.start();
    second.context.ready.wait().await;
    machine.pass(Duration::from_secs(1)).await;
    assert_eq!(second.files(), found, "{watching:?}: not the same files to the next process");
    let begun = tokio::time::Instant::now();
    assert_eq!(second.stop().await, Ok(()), "{watching:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{watching:?}: {:?}", begun.elapsed());
    let dir = data_dir.path().display().to_string();
    files.recorded().iter().map(|asked| asked.replace(&dir, "DATA_DIR")).collect()
}

#[test]
fn the_same_seed_asks_the_same_of_the_files() {
    for watching in [Watching::Told, Watching::Refused, Watching::Foreign] {
        let runs: Vec<_> =
            [1, 1, 2].map(|seed| sim::run(seed, two_lives(watching))).into_iter().collect();
        assert_eq!(runs[0], runs[1], "{watching:?}");
        assert_ne!(runs[0], runs[2], "{watching:?}: another seed did the same");
        assert!(runs[0].len() > 100, "{watching:?}: {:#?}", runs[0]);
    }
}
