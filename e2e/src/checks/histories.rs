//! Histories of confluent-kafka, kafka-python and the Java client while the broker is stopped and killed under them, judged
//! by `tailway-history`; and the same histories with one event changed, which must not pass.
//!
//! Each client produces (acks=all, idempotent, retrying for 20 s) and is a member of one group of all three, into which one
//! more comes and which one leaves between the faults; the Python clients also read by `assign`. The final drain is confluent-kafka's. Every event is what a client saw: nothing of ours
//! writes them but the faults.

#![allow(clippy::print_stdout, reason = "says what was seen")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, text};
use crate::group::{Check, need};
use crate::histories::{self, History};
use crate::kafka::{Kafka, NEWEST, client_properties};
use crate::kcat::Transport;
use crate::process::{Process, Signal, finish, run, wait_until};
use crate::programs::Programs;
use crate::python;

pub const CHECKS: &[Check] = &[(
    "three clients while the broker is stopped and killed: their histories are clean, and with one event changed they are not",
    clean_and_mutated,
)];

const TOPIC: &str = "history";
const PARTITIONS: &str = "4";
const GROUP: &str = "team";
/// Sends per second of each client.
const RATE: &str = "300";
/// Acknowledged sends of each client below which the run shows too little.
const ACKED_MIN: usize = 1_500;
/// No worker runs longer, whatever happens.
const SECONDS: &str = "90";
const PATIENCE: Duration = Duration::from_secs(40);
/// The broker's ends in turn, and how long it runs before each.
const FAULTS: [(&str, Duration); 5] = [
    ("stop", Duration::from_millis(300)),
    ("kill", Duration::from_millis(2_300)),
    ("stop", Duration::from_millis(1_700)),
    ("kill", Duration::from_millis(1_100)),
    ("kill", Duration::from_millis(1_900)),
];

/// A foreign client at work.
struct Worker {
    name: &'static str,
    process: Process,
    history: PathBuf,
    /// What the Java tools print, to be converted: kind and client or group.
    printed: Option<(PathBuf, &'static str, &'static str)>,
}

fn clean_and_mutated() -> Result<()> {
    need("python3", "python3 python3-venv")?;
    need("java", "default-jre-headless")?;
    need("mvn", "maven")?;
    let mut bench = Bench::broker()?;
    bench.create_topic(TOPIC, 4, &[])?;
    let mut producers = vec![
        python_worker(&bench, "confluent-producer", &["produce", "1", RATE])?,
        python_worker(&bench, "kafka-python-producer", &["produce", "2", RATE])?,
        java_worker(&bench, "java-producer")?,
    ];
    let mut consumers = vec![
        python_worker(&bench, "confluent-reader", &["assign"])?,
        python_worker(&bench, "kafka-python-reader", &["assign"])?,
        python_worker(&bench, "confluent-member", &["subscribe", GROUP])?,
        python_worker(&bench, "kafka-python-member", &["subscribe", GROUP])?,
        java_worker(&bench, "java-member")?,
    ];
    for worker in producers.iter_mut().chain(&mut consumers) {
        worker.at_work()?;
    }
    let mut faults = Vec::new();
    hurt(&mut bench, &FAULTS[..2], &mut faults)?;
    let mut latecomer = python_worker(&bench, "confluent-latecomer", &["subscribe", GROUP])?;
    latecomer.at_work()?;
    hurt(&mut bench, &FAULTS[2..4], &mut faults)?;
    consumers.push(latecomer);
    end(consumers.extract_if(.., |worker| worker.name == "confluent-member").collect())?;
    hurt(&mut bench, &FAULTS[4..], &mut faults)?;
    sleep(Duration::from_secs(2));
    end(producers)?;
    end(consumers)?;
    let out = bench.dir.path().join("drain.jsonl");
    let args = ["drain", text(&out)?, "drain", TOPIC, PARTITIONS, "60"];
    python::script("confluent_history.py", &bench.deployment.dev, Transport::Plaintext, &args)?;
    bench.deployment.stop()?;
    fs::write(bench.dir.path().join("nemesis.jsonl"), histories::lines(&faults))?;
    judge(bench.dir.path())
}

/// SIGTERM to all, then waits for each.
fn end(workers: Vec<Worker>) -> Result<()> {
    for worker in &workers {
        worker.process.signal(Signal::TERM)?;
    }
    workers.into_iter().try_for_each(Worker::end)
}

/// Ends the broker in each way and starts it again, and notes it.
fn hurt(bench: &mut Bench, faults: &[(&str, Duration)], noted: &mut Vec<Value>) -> Result<()> {
    for (how, pause) in faults {
        sleep(*pause);
        let t0 = micros()?;
        match *how {
            "stop" => bench.deployment.stop_daemon("broker")?,
            _ => bench.deployment.kill_daemon("broker")?,
        }
        bench.deployment.start_daemon("broker")?;
        let (t1, note) = (micros()?, format!("{how} {}", noted.len() + 1));
        let event = json!({"proc": "nemesis", "f": "fault", "type": "ok", "t0": t0, "t1": t1, "note": note});
        noted.push(event);
    }
    Ok(())
}

/// Microseconds of the clock that the workers stamp with.
fn micros() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

fn judge(dir: &Path) -> Result<()> {
    let histories = histories::read_all(dir)?;
    let (code, said) = checker(&histories, dir)?;
    ensure!(
        code == Some(0),
        "the histories of {} are not clean (exit {code:?}):\n{said}",
        kept(dir)
    );
    println!("{said}");
    seen_enough(&histories)?;
    for mutation in histories::mutations(&histories)? {
        let (what, check) = (&mutation.what, mutation.check);
        let (code, said) = checker(&mutation.apply(&histories), dir)?;
        ensure!(
            code == Some(1) && said.lines().any(|line| line.starts_with(&format!("{check} "))),
            "{what}: not flagged by {check} (exit {code:?}):\n{said}"
        );
        println!("       flagged by {check}: {what}");
    }
    Ok(())
}

/// Keeps the histories of a run that failed, for whoever looks for the cause.
fn kept(dir: &Path) -> String {
    let to = std::env::temp_dir().join(format!("histories-{}", std::process::id()));
    let copied = fs::create_dir_all(&to).and_then(|()| {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                fs::copy(&path, to.join(name))?;
            }
        }
        Ok(())
    });
    copied.map_or_else(|error| format!("(not kept: {error})"), |()| to.display().to_string())
}

/// Exit code and words of the checker on these histories.
fn checker(histories: &[History], dir: &Path) -> Result<(Option<i32>, String)> {
    let judged = dir.join("judged");
    drop(fs::remove_dir_all(&judged));
    fs::create_dir(&judged)?;
    let mut command = Command::new(Programs::built()?.path("tailway-history")?);
    for history in histories {
        let path = judged.join(&history.name);
        fs::write(&path, histories::lines(&history.events))?;
        command.arg(path);
    }
    let output = finish(&mut command, PATIENCE)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), said))
}

/// Enough acknowledged sends of each client, and one of each that was outstanding when the broker was killed: begun, by the
/// record's own time stamp, before the kill, and acknowledged after it.
fn seen_enough(histories: &[History]) -> Result<()> {
    let events = || histories.iter().flat_map(|history| &history.events);
    let is = |event: &Value, f: &str| event["f"] == f;
    let kills: Vec<u64> = events()
        .filter(|e| {
            is(e, "fault") && e["note"].as_str().is_some_and(|note| note.starts_with("kill"))
        })
        .filter_map(|event| event["t0"].as_u64())
        .collect();
    let stamped: BTreeMap<u64, u64> = events()
        .filter(|event| is(event, "poll") && event["proc"] == "drain")
        .filter_map(|event| Some((event["val"].as_u64()?, event["ts"].as_u64()? * 1_000)))
        .collect();
    for client in ["confluent-producer", "kafka-python-producer", "java-producer"] {
        let sends = || events().filter(|event| is(event, "send") && event["proc"] == client);
        let of = |outcome: &str| sends().filter(|event| event["type"] == outcome).count();
        let outstanding = |kill: u64| {
            let over = |event: &&Value| {
                let begun = event["val"].as_u64().and_then(|val| stamped.get(&val));
                event["type"] == "ok"
                    && begun.is_some_and(|begun| begun + 1_000 < kill)
                    && event["t1"].as_u64().is_some_and(|t1| t1 > kill)
            };
            sends().filter(over).count()
        };
        let over: Vec<usize> = kills.iter().map(|kill| outstanding(*kill)).collect();
        println!(
            "       {client}: {} acknowledged, {} of unknown end, {} failed; outstanding over the kills: {over:?}",
            of("ok"),
            of("info"),
            of("fail")
        );
        ensure!(of("ok") >= ACKED_MIN, "{client}: only {} acknowledged sends", of("ok"));
        ensure!(over.iter().sum::<usize>() > 0, "{client}: nothing was outstanding at any kill");
    }
    let resumed: usize = histories.iter().map(|history| resumes(&history.events)).sum();
    println!("       members went on from a committed offset {resumed} times");
    ensure!(resumed >= 4, "members went on from a committed offset only {resumed} times");
    Ok(())
}

/// How often a member was assigned a partition and first read it above 0.
fn resumes(events: &[Value]) -> usize {
    let mut fresh = BTreeSet::new();
    let mut count = 0;
    for event in events {
        let tp = event["tp"].as_str().unwrap_or_default();
        if event["f"] == "assign" && event["group"].is_string() {
            fresh.insert(tp);
        } else if event["f"] == "poll" && fresh.remove(tp) && event["off"].as_u64() > Some(0) {
            count += 1;
        }
    }
    count
}

fn python_worker(bench: &Bench, name: &'static str, args: &[&str]) -> Result<Worker> {
    let script = if name.starts_with("confluent") {
        "confluent_history.py"
    } else {
        "kafka_python_history.py"
    };
    let history = bench.dir.path().join(format!("{name}.jsonl"));
    let mut command = python::command(script, &bench.deployment.dev, Transport::Plaintext)?;
    let (mode, rest) = args.split_first().context("a mode")?;
    command.args([mode, text(&history)?, name, TOPIC, PARTITIONS, SECONDS]).args(rest);
    let output = bench.dir.path().join(format!("{name}.log"));
    let process = Process::start(name, &mut command, &output)?;
    Ok(Worker { name, process, history, printed: None })
}

/// Kafka's own verifiable producer (client 3) or consumer. Their settings come by file, which overrides the tools' own: the
/// producer's is to never retry.
fn java_worker(bench: &Bench, name: &'static str) -> Result<Worker> {
    let dir = bench.dir.path();
    let (config, address) = client_properties(&bench.deployment.dev, Transport::Plaintext, dir)?;
    let (tool, printed, more, own) = match name {
        "java-producer" => (
            ["kafka-verifiable-producer", "--throughput", RATE, "--value-prefix", "3"],
            (dir.join("java-producer.out"), "producer", "3"),
            vec!["--acks", "-1"],
            "retries=2147483647\nenable.idempotence=true\ndelivery.timeout.ms=20000\nrequest.timeout.ms=5000\n\
             max.in.flight.requests.per.connection=5\nlinger.ms=20\nreconnect.backoff.max.ms=500\n",
        ),
        _ => (
            ["kafka-verifiable-consumer", "--group-id", GROUP, "--session-timeout", "10000"],
            (dir.join("java-member.out"), "consumer", GROUP),
            vec!["--verbose"],
            "reconnect.backoff.max.ms=500\nfetch.max.wait.ms=100\n",
        ),
    };
    let settings = dir.join(format!("{name}.properties"));
    fs::write(&settings, fs::read_to_string(config)? + own)?;
    let kafka = Kafka::version(NEWEST).command(&[]);
    // The tool's events apart from its warnings.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >\"$OUT\""]).arg(kafka.get_program()).args(tool);
    command.args(["--bootstrap-server", &address, "--topic", TOPIC]).args(more);
    command.args(["--command-config", text(&settings)?]).env("OUT", &printed.0);
    command.env("KAFKA_VERSION", NEWEST).env("KAFKA_HEAP", "-Xmx128m");
    let process = Process::start(name, &mut command, &dir.join(format!("{name}.log")))?;
    Ok(Worker { name, process, history: dir.join(format!("{name}.jsonl")), printed: Some(printed) })
}

impl Worker {
    /// Waits until it has sent or read something.
    fn at_work(&mut self) -> Result<()> {
        let wrote = self.printed.as_ref().map_or(&self.history, |(path, ..)| path).clone();
        wait_until(PATIENCE, || {
            ensure!(!self.process.has_exited()?, "{} ended:\n{}", self.name, self.process.tail());
            let text = fs::read_to_string(&wrote).unwrap_or_default();
            Ok(["\"send\"", "\"poll\"", "producer_send_success", "record_data"]
                .iter()
                .any(|word| text.contains(word)))
        })
        .with_context(|| format!("{} does nothing:\n{}", self.name, self.process.tail()))
    }

    /// Waits for its end after SIGTERM; its history is complete then.
    fn end(self) -> Result<()> {
        let tail = self.process.tail();
        let status = self.process.wait(PATIENCE)?;
        let Some((printed, kind, of)) = self.printed else {
            ensure!(status.success(), "{} ended with {status}:\n{tail}", self.name);
            return Ok(());
        };
        // A JVM that ends by SIGTERM says 143, however orderly its end was; the converter knows.
        let mut command =
            Command::new(crate::programs::repository().join("e2e/anchors/clients.sh"));
        command
            .arg("python")
            .arg(crate::programs::repository().join("e2e/clients/verifiable_history.py"));
        command.args([kind, text(&printed)?, text(&self.history)?, self.name, TOPIC, of]);
        run(&mut command, PATIENCE).map(drop)
    }
}
