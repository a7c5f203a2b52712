//! Two hosts from one image: the same files under the same inodes, the same ledger, another machine id. Needs root.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::exact::{FILES, ensure_exact, judge, judge_from, needs, plan, sink};
use super::node::{Node, Proxy};
use super::stage::Stage;
use crate::checks::mounts::Mount;
use crate::checks::text;
use crate::group::{Check, need};
use crate::lines::{line, write};
use crate::process::{Process, run, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] =
    &[("OpenSearch: of two hosts from one image with the same files, both are there", cloned)];

const LINES: usize = 4_000;
const PATIENCE: Duration = Duration::from_mins(1);
/// Gives a process another image at the place of the first, and another `/etc`.
const OTHER_HOST: &str =
    "mount --bind \"$1\" \"$2\" && mount --bind \"$3\" /etc && shift 3 && exec \"$@\"";

fn cloned() -> Result<()> {
    needs()?;
    need("unshare", "util-linux")?;
    let dir = tempfile::tempdir()?;
    let image = Mount::image("ext4", dir.path(), "64M")?;
    fs::create_dir(image.at.join("logs"))?;
    let node = Node::start(&dir.path().join("node"), &[])?;
    let proxy = Proxy::start(&node, &dir.path().join("proxy.out"), &[])?;
    let mut stage = Stage::start(Programs::built()?, dir.path(), &sink(&proxy, 500, "30s"))?;
    stage.sink(&["setup", "es", "--config", &stage.config()])?;
    // The image is made of a host whose agent has sent the first half.
    let (logs, on_image) = (stage.logs(), image.at.join("logs"));
    stage.deployment.configure("agent", &[(text(&logs)?, text(&on_image)?)])?;
    stage.deployment.configure("agent", &[("name: ''", "name: first")])?;
    stage.deployment.move_data("agent", &image.at.join("agent"))?;
    write(&on_image, plan(LINES / 2, Duration::ZERO, usize::MAX))?;
    stage.deployment.start_daemon("agent")?;
    stage.settle(LINES / 2)?;
    ensure_exact(&judge(&node, LINES / 2, usize::MAX, &["first"])?)?;
    stage.deployment.stop_daemon("agent")?;

    let copy = image.copied(&dir.path().join("copy"))?;
    let etc = dir.path().join("etc");
    run(Command::new("cp").args(["-a", "/etc", text(&etc)?]), PATIENCE)?;
    fs::write(etc.join("machine-id"), "00112233445566778899aabbccddeeff\n")?;
    for host in [&image, &copy] {
        append(host)?;
    }
    stage.deployment.start_daemon("agent")?;
    let config = fs::read_to_string(stage.deployment.dir.join("agent.yaml"))?;
    let admin = format!("127.0.0.1:{}", super::node::free_port()?);
    let config = config.replace("name: first", "name: second");
    let config = config.replace(stage.deployment.admin("agent"), &admin);
    let second = stage.deployment.dir.join("second.yaml");
    fs::write(&second, config)?;
    let agent = stage.deployment.command("agent")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", OTHER_HOST, "host"]);
    command.args([&copy.at, &image.at, &etc]).arg(agent.get_program());
    command.arg("--config").arg(&second);
    let log = dir.path().join("second.out");
    let second = Process::start("the agent of the second host", &mut command, &log)?;
    let all = || Ok(node.count(super::stage::STREAM)? >= LINES / 2 * 3);
    wait_until(PATIENCE, all).with_context(|| second.tail())?;
    ensure!(second.printed().contains("the journal is a copy"), "{}", second.printed());
    stage.settle(LINES / 2 * 3)?;
    ensure_exact(&judge_from(&node, LINES / 2, LINES, usize::MAX, &["first", "second"])?)?;
    second.stop(PATIENCE)?;
    stage.deployment.stop()
}

/// The second half, on one host.
fn append(host: &Mount) -> Result<()> {
    for file in 0..FILES {
        let path = host.at.join(format!("logs/app-{file}.log"));
        let mut log = File::options().append(true).open(&path)?;
        for number in LINES / 2 / FILES..LINES / FILES {
            writeln!(log, "{}", line(file, 0, number))?;
        }
    }
    Ok(())
}
