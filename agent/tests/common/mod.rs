//! The agent's binary against a Kafka of one topic and one partition, which fails as it is told.

pub(crate) mod kafka;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use kafka::Kafka;

/// Nothing here takes long; only a failure waits for this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An agent's files and process.
pub(crate) struct Agent {
    dir: tempfile::TempDir,
    config: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Not started yet. `input` is YAML that is added to the input's.
    pub(crate) fn new(kafka: &Kafka, input: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let config = dir.path().join("agent.yaml");
        let at = dir.path().display();
        let text = format!(
            "agent: {{ data_dir: {at}/data, name: web-01 }}\n\
             output: {{ brokers: [\"{}\"], insecure: true, request_timeout: 2s }}\n\
             inputs: [ {{ id: test, paths: [ \"{at}/logs/*.log\" ] {input} }} ]\n\
             metrics: {{ enabled: false }}\n\
             admin: {{ address: 127.0.0.1:0 }}\n",
            kafka.address(),
        );
        std::fs::write(&config, text).unwrap();
        Self { dir, config, child: None }
    }

    /// Changes the configuration of the next start.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "`{from}` is not in the configuration");
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Waits until the agent has said it.
    pub(crate) fn wait_for_log(&self, said: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(said) {
            assert!(Instant::now() < until, "`{said}` was waited for\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn start(&mut self) {
        let log = self.dir.path().join("agent.out");
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tailway-agent"))
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// SIGTERM; the exit must be clean.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "the agent ended with {status}\n{}", self.log());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    /// Appends to a log file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Puts a copy of the agent's data in the place of the data.
    pub(crate) fn copy_data(&self) {
        let (data, was) = (self.dir.path().join("data"), self.dir.path().join("was"));
        std::fs::rename(&data, &was).unwrap();
        std::fs::create_dir(&data).unwrap();
        for entry in std::fs::read_dir(&was).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), data.join(entry.file_name())).unwrap();
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// What the agent said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.out")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A test that failed; nobody else ends it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Runs each case with an agent and a Kafka of its own, all at once: they wait for time to pass.
pub(crate) fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || run(case));
        }
    });
}

/// `n..m` as lines.
pub(crate) fn numbers(range: std::ops::Range<u32>) -> String {
    range.fold(String::new(), |text, n| text + &n.to_string() + "\n")
}
