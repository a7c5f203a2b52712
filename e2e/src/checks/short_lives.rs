//! Certificates that end while lines are written: renewed without a trace in what arrives, missed in time when nobody renews
//! them, and taken from an agent that is revoked.

#![allow(clippy::print_stdout, reason = "prints what was seen")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::cluster::{AGENTS, BROKER, COORDINATOR, Cluster, TOPIC};
use crate::group::{Check, need};
use crate::lines::{self, Verdict, ensure_exact, judge, messages};
use crate::process::wait_until;
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[
    (
        "certificates of 20 s life are renewed under load: no line lost or repeated, no complaint; without the coordinator service goes on until they end",
        || short_lives(Duration::from_mins(1)),
    ),
    ("an agent that is revoked under load is cut within a minute, and the other goes on", revoked),
];

/// `cargo x short-lives`: for how long.
#[derive(clap::Args, Debug)]
pub struct ShortLivesArgs {
    /// How long lines are written under certificates of 20 s, in seconds.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
}

/// The check of certificates that live shortly, as long as wanted.
pub fn run(args: &ShortLivesArgs) -> Result<()> {
    short_lives(Duration::from_secs(args.seconds))
}

/// In the coordinator's configuration.
const LIFE: &str = "20s";
const LIFE_S: i64 = 20;
/// The latest time of a renewal within a life.
const RENEWED_AFTER_S: u64 = 14;
const TICK: Duration = Duration::from_millis(50);
const LINES_A_TICK: usize = 10;
const PATIENCE: Duration = Duration::from_mins(1);

/// Appends to a file of each agent until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<Result<usize>>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Result<Self> {
        let path = |agent: &str| Ok(cluster.logs(agent)?.join("app.log"));
        let paths = AGENTS.iter().map(|agent| path(agent)).collect::<Result<Vec<PathBuf>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writing = thread::spawn(move || {
            let open = |path: &PathBuf| File::options().create(true).append(true).open(path);
            let mut files = paths.iter().map(open).collect::<Result<Vec<File>, _>>()?;
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                for (index, file) in files.iter_mut().enumerate() {
                    let numbers = number..number + LINES_A_TICK;
                    let text: String =
                        numbers.map(|number| lines::line(index, 0, number) + "\n").collect();
                    file.write_all(text.as_bytes())?;
                }
                number += LINES_A_TICK;
                thread::sleep(TICK);
            }
            Ok(number)
        });
        Ok(Self { stop, writing })
    }

    /// How many lines each file has.
    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.join().map_err(|_| anyhow!("the writer panicked"))?
    }
}

/// A cluster in which every certificate of a daemon lives for 20 s; the admin's, that of the start, for longer.
fn short_lived() -> Result<Cluster> {
    let mut cluster = Cluster::coordinator(Programs::built()?, &[], &[])?;
    // What `coordinator init` made lives for a year. Once another CA signs, it is made anew.
    cluster.tailway(COORDINATOR, &["ca", "add"])?;
    cluster.tailway(COORDINATOR, &["cert", "renew", "/etc/tailway/admin"])?;
    cluster.stop(COORDINATOR)?;
    let life = format!("certificate_lifetime: {LIFE}");
    cluster.configure(COORDINATOR, "coordinator", &[("certificate_lifetime: 365d", &life)])?;
    cluster.start(COORDINATOR, "coordinator")?;
    wait_until(PATIENCE, || Ok(cluster.tailway(COORDINATOR, &["ca", "activate", "2"]).is_ok()))
        .context("the second CA cannot sign")?;
    wait_until(PATIENCE, || Ok(ends_in_s(&cluster, COORDINATOR, "coordinator")? <= LIFE_S))
        .context("the coordinator has no certificate of the second CA")?;
    cluster.add_broker()?;
    for agent in AGENTS {
        cluster.add_agent(agent)?;
    }
    Ok(cluster)
}

const DAEMONS: [(&str, &str); 4] =
    [(COORDINATOR, "coordinator"), (BROKER, "broker"), (AGENTS[0], "agent"), (AGENTS[1], "agent")];

fn certificate(cluster: &Cluster, host: &str, daemon: &str) -> Result<Value> {
    let status: Value = serde_json::from_str(&cluster.admin(host, daemon, "/status")?)?;
    let section = status.get("certificate").or_else(|| status.pointer("/sections/certificate"));
    section.cloned().with_context(|| format!("/status of {daemon} has no certificate: {status}"))
}

fn ends_in_s(cluster: &Cluster, host: &str, daemon: &str) -> Result<i64> {
    let shown = certificate(cluster, host, daemon)?;
    let ends = shown["ends_in_s"].as_i64();
    ends.with_context(|| format!("/status of {daemon} does not say when it ends: {shown}"))
}

fn renewals(cluster: &Cluster, host: &str, daemon: &str) -> Result<u64> {
    let metrics = cluster.admin(host, daemon, "/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tailway_cert_renewals_total "));
    Ok(line.with_context(|| format!("{daemon} does not count renewals"))?.trim().parse()?)
}

fn short_lives(span: Duration) -> Result<()> {
    need("kcat", "kcat")?;
    let mut cluster = short_lived()?;
    let begin = Instant::now();
    let writer = Writer::start(&cluster)?;
    let mut reader = 0;
    let mut is_restarted = false;
    while begin.elapsed() < span {
        thread::sleep(Duration::from_secs(5));
        // A new connection, which sees the broker's certificate of this moment.
        reader += 1;
        let identity = cluster.identity(&format!("reader{reader}"))?;
        let listed = cluster.kcat(&identity, "-L")?;
        ensure!(listed.contains(TOPIC), "kcat sees no topic:\n{listed}");
        if !is_restarted && begin.elapsed() > span / 2 {
            // The certificate that it enrolled with is over; it starts by what it was renewed to.
            cluster.stop(AGENTS[1])?;
            cluster.start(AGENTS[1], "agent")?;
            is_restarted = true;
        }
    }
    let lives = begin.elapsed().as_secs() / RENEWED_AFTER_S;
    println!("       {} s, with {reader} new connections of kcat", begin.elapsed().as_secs());
    for (host, daemon) in DAEMONS {
        // The one that was started anew has counted since then.
        let least = if host == AGENTS[1] { lives / 2 } else { lives };
        let counted = renewals(&cluster, host, daemon)?;
        ensure!(counted + 1 >= least, "{host} has renewed {counted} times, not {least}");
        cluster.ensure_quiet(host, &[])?;
        println!("       {host}: {counted} renewals, no complaint in its log");
    }
    without_coordinator(&mut cluster, writer)?;
    cluster.stop_all()
}

/// Nobody renews any more: what was written until then arrives, and each daemon says how long it can go on.
fn without_coordinator(cluster: &mut Cluster, writer: Writer) -> Result<()> {
    let last = cluster.identity("last")?;
    cluster.stop(COORDINATOR)?;
    let stopped = Instant::now();
    // While every certificate is good for some seconds more, a third of its life at least.
    thread::sleep(Duration::from_secs(3));
    let each = writer.finish()?;
    let lines = each * AGENTS.len();
    let mut read: Vec<String> = Vec::new();
    wait_until(Duration::from_secs(4), || {
        read = messages(&cluster.consume(&last, TOPIC)?)?;
        Ok(read.len() >= lines)
    })
    .with_context(|| {
        let verdict = judge(read.iter().map(String::as_str), AGENTS.len(), lines);
        format!("without the coordinator, of {lines} lines: {verdict:?}")
    })?;
    ensure_exact(&read, AGENTS.len(), lines)?;
    println!("       {lines} lines, the last without the coordinator: each once and in order");
    for (host, daemon) in [(BROKER, "broker"), (AGENTS[0], "agent"), (AGENTS[1], "agent")] {
        wait_until(PATIENCE, || {
            let shown = certificate(cluster, host, daemon)?;
            let left = shown["ends_in_s"].as_i64().unwrap_or(i64::MAX);
            ensure!(left <= LIFE_S, "{host} does not know when its certificate ends: {shown}");
            Ok(shown["failure"].is_string() && shown["is_ending"] == true)
        })
        .with_context(|| format!("/status of {host} does not say why it is not renewed"))?;
        for said in ["the certificate was not renewed", "certificate ends soon", "has ended"] {
            wait_until(PATIENCE, || Ok(cluster.log(host)?.contains(said)))
                .with_context(|| format!("{host} does not say that its certificate {said}"))?;
        }
        let log = cluster.log(host)?;
        ensure!(
            log.contains("ends_in_s="),
            "{host} does not say when its certificate ends:\n{log}"
        );
    }
    // The last of them was renewed right before the coordinator went.
    let most = Duration::from_secs(LIFE_S.unsigned_abs()) + PATIENCE;
    ensure!(stopped.elapsed() < most, "it took {:?} to hear of the end", stopped.elapsed());
    let refused = cluster.kcat(&last, "-L -m 5");
    ensure!(refused.is_err(), "the broker's certificate has ended, and kcat does not mind");
    println!(
        "       broker and agents said when their certificates end; kcat refuses the ended one"
    );
    Ok(())
}

fn revoked() -> Result<()> {
    need("kcat", "kcat")?;
    let cluster = Cluster::whole(Programs::built()?, &[], &[])?;
    let writer = Writer::start(&cluster)?;
    let [victim, other] = AGENTS;
    let identity = cluster.identity("reports")?;
    let of = |file: usize, read: &[String]| {
        read.iter().filter(|line| line.starts_with(&format!("{file} "))).count()
    };
    // While lines are written there is no end to read to.
    wait_until(PATIENCE, || {
        let some = cluster.kcat(&identity, &format!("-C -q -o beginning -c 400 -t {TOPIC}"));
        let some = messages(&some.unwrap_or_default())?;
        Ok(of(0, &some) > 0 && of(1, &some) > 0)
    })
    .context("no lines arrive before anybody is revoked")?;
    cluster.tailway(COORDINATOR, &["cert", "revoke", &format!("agent/{victim}")])?;
    wait_until(Duration::from_mins(1), || Ok(cluster.log(BROKER)?.contains("revoked")))
        .context("the broker does not say within a minute that somebody was revoked")?;
    wait_until(Duration::from_mins(1), || {
        Ok(cluster.log(victim)?.contains("does not accept our certificate"))
    })
    .with_context(|| format!("{victim} does not say why it sends nothing"))?;
    thread::sleep(Duration::from_secs(3));
    let each = writer.finish()?;
    let read = || messages(&cluster.consume(&identity, TOPIC)?);
    let mut rest: Vec<String> = Vec::new();
    wait_until(PATIENCE, || {
        rest = read()?;
        Ok(of(1, &rest) >= each)
    })
    .with_context(|| format!("of {each} lines, {other} has sent {}", of(1, &rest)))?;
    let cut = of(0, &rest);
    // Long enough for another attempt of who was revoked.
    thread::sleep(Duration::from_secs(3));
    rest = read()?;
    ensure!(of(0, &rest) == cut, "{} lines came of who was revoked", of(0, &rest) - cut);
    ensure!(cut < each, "{victim} had sent everything before it was cut");
    // As if the other file had been alone: its number is the only thing that is not.
    let of_other = rest.iter().filter_map(|line| line.strip_prefix("1 ")).map(|l| format!("0 {l}"));
    let of_other: Vec<String> = of_other.collect();
    let verdict = judge(of_other.iter().map(String::as_str), 1, each);
    ensure!(
        verdict == Verdict { read: each, ..Verdict::default() },
        "of {each} lines: {verdict:?}"
    );
    cluster.ensure_quiet(other, &[])?;
    cluster.stop_all()
}
