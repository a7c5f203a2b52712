//! README.md as a stranger follows it: its blocks are run as printed, in a folder inside this clone that has its own copy of
//! `examples/`, so that neither the shipped log nor somebody's `.tailway-dev` is touched. Only `PORT` and `/tmp/` are filled in.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::text;
use crate::deployment::{DAEMONS, DevJson, PATIENCE, http_status, stop_by_ctrl_c};
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST, OLDER};
use crate::kcat::{Transport, count};
use crate::process::{Process, finish, run, wait_until};
use crate::programs::{Programs, repository};
use crate::readme::Readme;

pub const CHECKS: &[Check] = &[
    ("README: the first five minutes and what dev prints, as printed", five_minutes),
    ("README: the snippets for kcat and Kafka's tools, as printed", snippets),
    ("README: three processes, as printed", three_processes),
];

/// Lines of the log that the repository ships.
const SHIPPED: usize = 300;
/// The first command may have to compile.
const BUILD_MAX: Duration = Duration::from_mins(9);

/// A folder from which cargo finds this workspace.
struct Place {
    dir: tempfile::TempDir,
    readme: Readme,
}

impl Place {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(".readme-").tempdir_in(repository())?;
        std::fs::create_dir(dir.path().join("examples"))?;
        let log = "examples/web.log";
        std::fs::copy(repository().join(log), dir.path().join(log))?;
        // Where a reader's clone has it, whatever CARGO_TARGET_DIR says here.
        let release = Programs::built()?.path("tailway")?.parent().context("a folder")?;
        let target = release.parent().context("a folder")?;
        std::os::unix::fs::symlink(target, dir.path().join("target"))?;
        Ok(Self { dir, readme: Readme::read()? })
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(self.dir.path());
        command
    }

    /// A command line as a process of its own, its output in a file.
    fn start(&self, name: &str, line: &str) -> Result<Process> {
        let output = self.dir.path().join(format!("{name}.out"));
        Process::start(name, &mut self.shell(&format!("exec {}", line.trim())), &output)
    }

    /// README's first command, ready.
    fn dev(&self) -> Result<(Process, DevJson)> {
        let mut dev = self.start("dev", self.readme.block("-- dev examples/web.log")?)?;
        let ready = self.dir.path().join(".tailway-dev/dev.json");
        wait_until(BUILD_MAX, || {
            ensure!(!dev.has_exited()?, "dev exited; it printed:\n{}", dev.tail());
            Ok(ready.exists() && dev.printed().contains("Ctrl-C"))
        })?;
        Ok((dev, DevJson::read(&ready)?))
    }
}

/// What was printed, without what differs from run to run: folders and numbers.
fn pattern(printed: &str, home: &str, program: &str) -> Vec<String> {
    let printed = printed.replace(program, "PROGRAM").replace(home, "HOME");
    let mut out = String::new();
    for char in printed.chars() {
        match char {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            other => out.push(other),
        }
    }
    out.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

fn five_minutes() -> Result<()> {
    need("kcat", "kcat")?;
    need("curl", "curl")?;
    let place = Place::new()?;
    let (dev, published) = place.dev()?;
    let printed = dev.printed();
    // Behind cargo's own words.
    let printed = &printed[printed.find("made a certificate").context("dev's first line")?..];
    let shown = place.readme.block("made a certificate")?;
    let program = Programs::built()?.path("tailway")?;
    let printed = pattern(printed, text(place.dir.path())?, text(program)?);
    let at_home = "/home/you/tailway";
    let shown = pattern(shown, at_home, &format!("{at_home}/target/release/tailway"));
    // Progress follows in the one, not in the other.
    ensure!(printed.starts_with(&shown), "README shows\n{shown:#?}\nbut dev prints\n{printed:#?}");

    pasted_commands(&place, &dev)?;
    let block = place.readme.block("hello from")?;
    let (write, tap) = block.split_once('\n').context("two commands")?;
    run(&mut place.shell(write), PATIENCE)?;
    let tap = place.start("second-tap", tap)?;
    wait_until(PATIENCE, || Ok(tap.printed().contains("\"message\":\"hello from ")))
        .context("the line that was added does not arrive")?;
    tap.kill()?;
    let held = count(&published, Transport::Tls, "logs")?;
    ensure!(held == SHIPPED + 2, "kcat counts {held} records, not the log, hello and hello from");
    stop_by_ctrl_c(dev)?;

    let check = place.readme.block("--expect 100")?.replace("/tmp/", "");
    for _ in 0..2 {
        let output = finish(&mut place.shell(&check), Duration::from_secs(90))?;
        ensure!(output.status.success(), "`{check}` ended with {}: {output:?}", output.status);
    }
    Ok(())
}

/// The four commands that dev printed, one after the other.
fn pasted_commands(place: &Place, dev: &Process) -> Result<()> {
    let printed = dev.printed();
    let behind = printed.find("in another terminal:").context("the line before them")?;
    let lines: Vec<&str> =
        printed[behind..].lines().filter(|line| line.starts_with("  ")).map(str::trim).collect();
    let [tap, produce, kcat, curl] = lines[..] else { anyhow::bail!("not four: {lines:?}") };
    let tap = place.start("tap", tap)?;
    wait_until(PATIENCE, || Ok(tap.printed().lines().count() >= SHIPPED))
        .with_context(|| format!("tap shows no {SHIPPED} records:\n{}", tap.tail()))?;
    run(&mut place.shell(produce), PATIENCE)?;
    wait_until(PATIENCE, || Ok(tap.printed().lines().last() == Some("hello")))
        .context("what was produced does not reach tap")?;
    tap.kill()?;
    let read = run(&mut place.shell(kcat), PATIENCE)?;
    ensure!(read.lines().count() == SHIPPED + 1, "`{kcat}` read {} lines", read.lines().count());
    let status = run(&mut place.shell(curl), PATIENCE)?;
    serde_json::from_str::<serde_json::Value>(&status).with_context(|| status.clone())?;
    Ok(())
}

fn snippets() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    need("mvn", "maven")?;
    let place = Place::new()?;
    let (dev, published) = place.dev()?;
    let port = published.tls().rsplit(':').next().context("a port")?.to_owned();
    let kcat = place.readme.block("# kcat")?.replace("PORT", &port);
    let read = run(&mut place.shell(&format!("{} -e -q", kcat.trim_end())), PATIENCE)?;
    ensure!(read.lines().count() == SHIPPED, "kcat read {} lines:\n{kcat}", read.lines().count());

    let properties = place.readme.block("ssl.keystore.location=keystore.pem")?;
    std::fs::write(place.dir.path().join("client.properties"), properties)?;
    run(&mut place.shell(place.readme.line("cat .tailway-dev/tls")?), PATIENCE)?;
    let consumer = place.readme.line("kafka-console-consumer --command-config")?;
    let consumer = consumer.replace("PORT", &port);
    let limits = ["--max-messages", "300", "--timeout-ms", "30000"];
    for (version, option) in [(NEWEST, "--command-config"), (OLDER, "--consumer.config")] {
        let consumer = consumer.replace("--command-config", option);
        let args: Vec<&str> = consumer.split(' ').chain(limits).collect();
        let mut command = Kafka::version(version).command(&args);
        let read = run(command.current_dir(place.dir.path()), Duration::from_mins(2))?;
        let lines = read.lines().count();
        ensure!(lines == SHIPPED, "Kafka {version}: `{consumer}` read {lines} lines");
    }
    stop_by_ctrl_c(dev)
}

fn three_processes() -> Result<()> {
    need("kcat", "kcat")?;
    let place = Place::new()?;
    let block = place.readme.block("dev export ./run")?;
    let (background, at_once): (Vec<&str>, Vec<&str>) =
        block.lines().partition(|line| line.ends_with(" &"));
    ensure!(background.len() == DAEMONS.len() && at_once.len() == 2, "README shows:\n{block}");
    for line in at_once {
        run(&mut place.shell(line), BUILD_MAX)?;
    }
    let published = DevJson::read(&place.dir.path().join("run/dev.json"))?;
    let mut running = Vec::new();
    for (daemon, line) in DAEMONS.into_iter().zip(background) {
        running.push(place.start(daemon, line.trim_end_matches(" &"))?);
    }
    wait_until(PATIENCE, || {
        Ok(count(&published, Transport::Tls, "logs").is_ok_and(|n| n == SHIPPED))
    })
    .with_context(|| log_ends(&running))?;
    let admin = published.agent.admin.clone();
    ensure!(http_status(&admin, "/readyz")? == 200, "the agent is not ready");
    for process in running.into_iter().rev() {
        process.stop(PATIENCE)?;
    }
    Ok(())
}

fn log_ends(running: &[Process]) -> String {
    running.iter().map(Process::tail).collect::<Vec<_>>().join("\n---\n")
}
