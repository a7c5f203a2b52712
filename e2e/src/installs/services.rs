//! All three daemons on one host, run by systemd as an install has them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::{Booted, PATIENCE, Root};
use super::package::{DAEMONS, install, put};
use crate::hosts::Network;
use crate::process::{finish, wait_until};
use crate::programs::{Programs, repository};

const HOST: &str = "appliance.example.com";
/// Its names as a coordinator and as a broker.
pub(super) const NAMES: [&str; 2] = ["coordinator.example.com", "broker.example.com"];
/// A restart after `RestartSec=`, and the start of everything behind it.
const RESTART: Duration = Duration::from_mins(1);
/// The longest `WatchdogSec=`, what systemd waits for a core dump, and the restart.
const WATCHDOG: Duration = Duration::from_mins(2);

/// One host with everything on it, its agent following `/var/log/app.log`.
pub(super) struct Appliance {
    pub(super) host: Booted,
    _network: Network,
    _dir: tempfile::TempDir,
}

impl Appliance {
    pub(super) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("installs-").tempdir()?;
        let network = Network::of(dir.path(), &[HOST], &NAMES)?;
        let root = Root::fresh(&dir.path().join("root"))?;
        install(&root, &DAEMONS)?;
        let host = Booted::boot(root, network.host(HOST)?)?;
        fs::write(host.file("var/log/app.log"), "first line\n")?;
        host.shell(&format!("tailway coordinator init --name {}", NAMES[0]))?;
        host.shell("systemctl enable --now tailway-coordinator")?;
        host.shell(&format!(
            "tailway token create --role broker | tailway enroll localhost:9191 - --id 1 --name {}",
            NAMES[1]
        ))?;
        host.shell("systemctl enable --now tailway-broker")?;
        host.shell("tailway token create --role agent | tailway enroll localhost:9191 - --input /var/log/app.log")?;
        host.shell("systemctl enable --now tailway-agent")?;
        host.make_witness()?;
        let appliance = Self { host, _network: network, _dir: dir };
        appliance.await_line("first line")?;
        Ok(appliance)
    }

    /// Until kcat has seen a line.
    pub(super) fn await_line(&self, line: &str) -> Result<()> {
        self.await_in("logs", &format!("\"{line}\""))
    }

    /// Until kcat has seen a text in a topic.
    fn await_in(&self, topic: &str, text: &str) -> Result<()> {
        let mut seen = String::new();
        let there = wait_until(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(200));
            // The topic comes with the first line.
            seen = self.host.consume(NAMES[1], topic)?;
            Ok(seen.contains(text))
        });
        there.with_context(|| {
            let said = DAEMONS.map(|daemon| self.host.journal(&unit(daemon)).unwrap_or_default());
            format!("kcat does not see {text} in {topic}, but {seen}\n{}", said.join("\n"))
        })
    }

    /// Writes a line and waits until kcat sees it.
    fn carries(&self, line: &str) -> Result<()> {
        self.host.shell(&format!("echo {line} >>/var/log/app.log"))?;
        self.await_line(line)
    }

    /// Waits until a daemon runs as another process than `before`.
    fn await_another(&self, daemon: &str, before: &str, deadline: Duration) -> Result<()> {
        let unit = unit(daemon);
        let restarted = wait_until(deadline, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.host.property(&unit, "MainPID")?;
            let is_up = self.host.property(&unit, "ActiveState")? == "active";
            Ok(is_up && now != before && now != "0")
        });
        restarted.with_context(|| {
            format!(
                "{unit} is not another process than {before}:\n{}",
                self.host.journal(&unit).unwrap_or_default()
            )
        })
    }
}

fn unit(daemon: &str) -> String {
    format!("tailway-{daemon}.service")
}

/// kill -9 of each is followed by a restart and the next line; a wrong configuration stays down and says why.
pub(super) fn are_restarted_unless_misconfigured() -> Result<()> {
    let appliance = Appliance::start()?;
    let host = &appliance.host;
    for daemon in DAEMONS {
        let before = host.property(&unit(daemon), "MainPID")?;
        host.shell(&format!("systemctl kill --signal=KILL {}", unit(daemon)))?;
        appliance.await_another(daemon, &before, RESTART)?;
        appliance.carries(&format!("after kill -9 of {daemon}"))?;
    }
    let config = host.file("etc/tailway/agent.yaml");
    let good = fs::read_to_string(&config)?;
    fs::write(&config, format!("{good}\nmisspelt: 1\n"))?;
    finish(&mut host.command("systemctl", &["restart", "tailway-agent"]), PATIENCE)?;
    host.await_property("tailway-agent", "ActiveState", "failed", PATIENCE)?;
    ensure!(host.property("tailway-agent", "ExecMainStatus")? == "78", "the exit code is not 78");
    let restarts = host.property("tailway-agent", "NRestarts")?;
    // Longer than RestartSec=.
    std::thread::sleep(Duration::from_secs(5));
    ensure!(
        host.property("tailway-agent", "ActiveState")? == "failed"
            && host.property("tailway-agent", "NRestarts")? == restarts,
        "a wrong configuration is started again:\n{}",
        host.journal("tailway-agent")?
    );
    let said = host.journal("tailway-agent")?;
    ensure!(said.contains("agent.yaml:") && said.contains("misspelt"), "what is wrong: {said}");
    fs::write(&config, good)?;
    host.shell("systemctl reset-failed tailway-agent && systemctl start tailway-agent")?;
    appliance.carries("after a wrong configuration")
}

/// A stopped process of each daemon, and an agent of which one loop alone hangs, are replaced by the watchdog.
pub(super) fn are_replaced_when_they_hang() -> Result<()> {
    let appliance = Appliance::start()?;
    let host = &appliance.host;
    let pids: Vec<String> = DAEMONS
        .iter()
        .map(|daemon| host.property(&unit(daemon), "MainPID"))
        .collect::<Result<_>>()?;
    for daemon in DAEMONS {
        host.shell(&format!("systemctl kill --signal=STOP {}", unit(daemon)))?;
    }
    for (daemon, before) in DAEMONS.iter().zip(&pids) {
        appliance.await_another(daemon, before, WATCHDOG)?;
        let said = host.journal(&unit(daemon))?;
        ensure!(
            said.contains("Watchdog timeout"),
            "{daemon} was not ended by its watchdog: {said}"
        );
    }
    appliance.carries("after the watchdog")?;
    hang_the_shipper(&appliance)
}

/// With a build that has fault points, the unit unaltered: after its first plan the shipper's thread stands still, the rest of
/// the process does not.
fn hang_the_shipper(appliance: &Appliance) -> Result<()> {
    let host = &appliance.host;
    host.shell("systemctl stop tailway-agent")?;
    put(host.root(), Programs::armed()?.path("tailway-agent")?)?;
    host.shell("systemctl set-environment TAILWAY_FAULTS=agent.plan.after:1:stall")?;
    host.shell("systemctl start tailway-agent && systemctl unset-environment TAILWAY_FAULTS")?;
    let before = host.property("tailway-agent", "MainPID")?;
    host.shell("echo a line that stays in the agent >>/var/log/app.log")?;
    appliance.await_another("agent", &before, WATCHDOG)?;
    let said = host.journal("tailway-agent")?;
    for expected in
        ["stall at the armed point agent.plan.after", "main loops do not answer", "shipper"]
    {
        ensure!(said.contains(expected), "no word of `{expected}`: {said}");
    }
    appliance.carries("after a loop that hung")
}

/// Power off: the agent has stopped before the broker begins to, and the broker before the coordinator.
pub(super) fn stop_in_order_with_their_host() -> Result<()> {
    let appliance = Appliance::start()?;
    let Appliance { host, _network, _dir } = appliance;
    let units = DAEMONS.map(unit);
    let root = host.power_off(2 * PATIENCE)?;
    let journal = root.journal(&units.each_ref().map(String::as_str))?;
    let at = |what: &str, daemon: &str| {
        let found =
            journal.lines().position(|line| line.contains(what) && line.contains(&unit(daemon)));
        found.with_context(|| format!("{what} {daemon} is not in the journal:\n{journal}"))
    };
    for (first, then) in [("agent", "broker"), ("broker", "coordinator")] {
        ensure!(
            at("Stopped", first)? < at("Stopping", then)?,
            "{first} does not end before {then} begins to:\n{journal}"
        );
    }
    // Each by itself and in time: no SIGKILL, no exit that is a failure.
    for bad in ["timed out", "Killing", "Failed with result"] {
        ensure!(!journal.contains(bad), "`{bad}` at the shutdown:\n{journal}");
    }
    Ok(())
}

/// An event of every metric set that the agent knows reaches kcat from within the sandbox, and the agent complains of none.
pub(super) fn let_the_agent_read_its_host() -> Result<()> {
    let appliance = Appliance::start()?;
    let host = &appliance.host;
    let config = host.file("etc/tailway/agent.yaml");
    let written = fs::read_to_string(&config)?;
    ensure!(written.contains("interval: 10s"), "no interval of metrics in {written}");
    fs::write(&config, written.replace("interval: 10s", "interval: 1s"))?;
    host.shell("systemctl restart tailway-agent")?;
    for set in metric_sets()? {
        appliance.await_in("metrics", &format!("\"dataset\":\"system.{set}\""))?;
    }
    // It was a sandbox: what the agent sees of the host is read-only, root or not, and it is neither.
    let pid = host.property("tailway-agent", "MainPID")?;
    let inside = format!("nsenter --target {pid} --mount touch /etc/written-from-the-sandbox");
    let written = host.output("bash", &["-c", &inside])?;
    let refusal = String::from_utf8_lossy(&written.stderr).into_owned();
    ensure!(refusal.contains("Read-only file system"), "there is no sandbox: {refusal:?}");
    let user = host.shell(&format!("stat --format=%U /proc/{pid}"))?;
    ensure!(user.trim() == "tailway-agent", "the agent runs as {user}");
    let said = host.journal("tailway-agent")?;
    ensure!(!said.contains(" WARN ") && !said.contains("ERROR"), "the agent complains:\n{said}");
    Ok(())
}

/// All that there are, from the commented configuration: a new one is looked for without being named here.
fn metric_sets() -> Result<Vec<String>> {
    let path = repository().join("configs/agent.yaml");
    let config = fs::read_to_string(&path)?;
    let list = config.lines().find_map(|line| line.trim().strip_prefix("metricsets: ["));
    let list = list.with_context(|| format!("no metricsets in {}", path.display()))?;
    Ok(list.trim_end_matches(']').split(',').map(|set| set.trim().to_owned()).collect())
}
