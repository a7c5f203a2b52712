//! From nothing to a cluster on four hosts, by tokens alone; foreign clients reach it by what `client-config` prints, unaltered.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::text;
use crate::cluster::{AGENTS, BOOTSTRAP, BROKER, CLIENT, COORDINATOR, Cluster, Identity, TOPIC};
use crate::group::{Check, need};
use crate::kafka::NEWEST;
use crate::lines::{self, Verdict, judge, messages};
use crate::process::{Process, run, wait_until};
use crate::programs::{Programs, repository};

pub const CHECKS: &[Check] = &[(
    "four hosts become a cluster by tokens alone; kcat, Java and confluent-kafka read its lines by client-config as printed",
    by_tokens,
)];

/// For the group of Filebeat, which is fetched there.
pub const FILEBEAT: &[Check] = &[(
    "client-config filebeat: Filebeat delivers by the snippet as printed, to a cluster made by tokens",
    filebeat,
)];

const LINES: usize = 3_000;
const PATIENCE: Duration = Duration::from_mins(2);

fn by_tokens() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let cluster = Cluster::whole(Programs::built()?, &[], &[])?;
    for (file, agent) in AGENTS.iter().enumerate() {
        write(&cluster.logs(agent)?, file)?;
    }
    let reports = cluster.identity("reports")?;
    // As printed, to the letter.
    let listed = cluster.shell(&cluster.client_config("kcat", &reports)?)?;
    ensure!(listed.contains(&format!("broker 1 at {BOOTSTRAP}")), "kcat -L says:\n{listed}");
    arrived(&cluster, &reports)?;
    let kcat = cluster.consume(&reports, TOPIC)?;
    for (client, read) in
        [("Java", java(&cluster, &reports)?), ("confluent-kafka", confluent(&cluster, &reports)?)]
    {
        ensure!(sorted(&read) == sorted(&kcat), "{client} and kcat read different messages");
    }
    for host in [COORDINATOR, BROKER, AGENTS[0], AGENTS[1]] {
        cluster.ensure_quiet(host, &[])?;
    }
    cluster.stop_all()
}

/// Every line of both agents, once and in order.
fn arrived(cluster: &Cluster, identity: &Identity) -> Result<()> {
    let mut verdict = Verdict::default();
    let settled = wait_until(Duration::from_mins(1), || {
        let read = messages(&cluster.consume(identity, TOPIC)?)?;
        verdict = judge(read.iter().map(String::as_str), AGENTS.len(), LINES);
        Ok(verdict.read >= LINES)
    });
    ensure!(
        verdict == Verdict { read: LINES, ..Verdict::default() },
        "{LINES} lines were written on two hosts; {verdict:?}"
    );
    settled
}

/// One host's half of the lines.
fn write(logs: &Path, file: usize) -> Result<()> {
    let numbers = 0..LINES / AGENTS.len();
    let content: String = numbers.map(|number| lines::line(file, 0, number) + "\n").collect();
    fs::write(logs.join("app.log"), content)?;
    Ok(())
}

fn sorted(printed: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    lines
}

/// Puts down what `client-config` prints for some software.
fn settings(cluster: &Cluster, identity: &Identity, software: &str) -> Result<std::path::PathBuf> {
    let path = identity.dir.with_extension(software);
    fs::write(&path, cluster.client_config(software, identity)?)?;
    Ok(path)
}

fn java(cluster: &Cluster, identity: &Identity) -> Result<String> {
    let config = settings(cluster, identity, "java")?;
    let client = cluster.network.host(CLIENT)?;
    let mut consumer = client.foreign(&repository().join("e2e/anchors/kafka"))?;
    consumer.env("KAFKA_VERSION", NEWEST).arg("kafka-console-consumer");
    consumer.args(["--bootstrap-server", BOOTSTRAP, "--command-config", text(&config)?]);
    consumer.args(["--topic", TOPIC, "--from-beginning", "--timeout-ms", "30000"]);
    consumer.args(["--max-messages", &LINES.to_string()]);
    run(&mut consumer, PATIENCE)
}

fn confluent(cluster: &Cluster, identity: &Identity) -> Result<String> {
    let config = settings(cluster, identity, "librdkafka")?;
    let client = cluster.network.host(CLIENT)?;
    let mut python = client.foreign(&repository().join("e2e/anchors/clients.sh"))?;
    python.arg("python").arg(repository().join("e2e/clients/properties_trip.py"));
    run(python.arg(config).arg(TOPIC), PATIENCE)
}

fn filebeat() -> Result<()> {
    need("kcat", "kcat")?;
    let anchor = repository().join("e2e/anchors/filebeat");
    run(Command::new(&anchor).arg("fetch"), Duration::from_mins(15))?;
    let mut cluster = Cluster::coordinator(Programs::built()?, &[], &[])?;
    cluster.add_broker()?;
    let identity = cluster.identity("beats")?;
    let client = cluster.network.host(CLIENT)?;
    let logs = client.dir().join("logs");
    fs::create_dir(&logs)?;
    write(&logs, 0)?;
    let inputs = format!(
        "filebeat.inputs:\n- type: filestream\n  id: e2e\n  paths: [\"{}\"]\n",
        logs.join("*.log").display()
    );
    let config = client.dir().join("filebeat.yml");
    fs::write(&config, inputs + &cluster.client_config("filebeat", &identity)?)?;
    let mut command = client.foreign(&anchor)?;
    command.args(["run", "-e", "--strict.perms=false", "-c"]).arg(config);
    command.args(["--path.home", ".", "--path.data", "registry"]);
    let process = Process::start("filebeat", &mut command, &client.dir().join("filebeat.out"))?;
    let wanted = LINES / AGENTS.len();
    // The topic is not there before its first record.
    wait_until(Duration::from_mins(1), || {
        Ok(cluster.consume(&identity, "filebeat").is_ok_and(|all| all.lines().count() >= wanted))
    })
    .with_context(|| format!("not all lines came; Filebeat says:\n{}", process.tail()))?;
    process.stop(Duration::from_secs(20))?;
    let read = messages(&cluster.consume(&identity, "filebeat")?)?;
    lines::ensure_exact(&read, 1, wanted)?;
    cluster.stop_all()
}
