//! What has no peer: starts, many partitions and idle connections, as `tailway bench` measures them, and the size of what is
//! shipped.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Options, progress};
use crate::process::run;
use crate::programs::{Programs, cargo, repository};

const PATIENCE: Duration = Duration::from_mins(10);
/// Link-time optimisation on two cores takes its time.
const BUILD_PATIENCE: Duration = Duration::from_mins(40);

/// One row of `tailway bench start`.
#[derive(Clone, Debug, Deserialize)]
pub struct Start {
    pub found: String,
    pub ready_us: u64,
    pub first_ack_us: u64,
    pub rss_bytes: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Own {
    pub starts: Vec<Start>,
    pub connections: u64,
    pub connection_bytes: u64,
    /// Program and bytes.
    pub sizes: Vec<(&'static str, u64)>,
}

#[derive(Deserialize)]
struct Starts {
    rows: Vec<Start>,
}

#[derive(Deserialize)]
struct Connections {
    connections: u64,
    bytes_per_connection: u64,
}

/// Runs `tailway bench` and builds what is shipped.
pub fn measure(options: &Options, dir: &Path) -> Result<Own> {
    progress("starts, partitions and idle connections");
    let (partitions, size, count) =
        if options.trial { ("50", "20MiB", "100") } else { ("1000", "1GiB", "2000") };
    let starts: Starts = bench(dir, "start", &["--partitions", partitions, "--size", size])?;
    let connected: Connections = bench(dir, "connections", &["--count", count])?;
    let sizes = if options.trial { Vec::new() } else { sizes()? };
    let Connections { connections, bytes_per_connection: connection_bytes } = connected;
    Ok(Own { starts: starts.rows, connections, connection_bytes, sizes })
}

fn bench<T: for<'de> Deserialize<'de>>(dir: &Path, what: &str, args: &[&str]) -> Result<T> {
    let json = dir.join(format!("bench-{what}.json"));
    let mut command = Command::new(Programs::built()?.path("tailway")?);
    command.args(["bench", what]).args(args).arg("--dir").arg(dir).arg("--json").arg(&json);
    run(&mut command, PATIENCE)?;
    let text = std::fs::read_to_string(&json)?;
    serde_json::from_str(&text).with_context(|| format!("{} has another form", json.display()))
}

fn sizes() -> Result<Vec<(&'static str, u64)>> {
    progress("what is shipped, with link-time optimisation");
    let programs = ["tailway-agent", "tailway-broker", "tailway-coordinator"];
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--profile", "dist"]);
    build.args(programs.iter().flat_map(|program| ["-p", program]));
    run(build.env("CARGO_TARGET_DIR", repository().join("target")), BUILD_PATIENCE)?;
    let size = |program| {
        let path = repository().join("target/dist").join(program);
        let data = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
        Ok((program, data.len()))
    };
    programs.into_iter().map(size).collect()
}
