//! `tailway bench connections`: what connections that do nothing cost the broker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tailway_daemon::exit::Exit;

use super::args::ConnectionsArgs;
use super::frame::{self, Findings, heading, mib};
use super::servers::Servers;
use crate::output::{Output, complain};

/// Of this process, beside its connections.
const OTHER_DESCRIPTORS: u64 = 100;
const SETTLE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Connected {
    connections: u32,
    rss_bytes_before: u64,
    rss_bytes_after: u64,
    bytes_per_connection: u64,
    /// Of one core, while they are idle.
    idle_cpu_percent: f64,
}

impl Findings for Connected {
    fn method(&self) -> String {
        "each connection: handshake, ApiVersions, one Metadata, then nothing".to_owned()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let names = ["connections", "RSS MiB before", "RSS MiB after", "bytes each", "idle CPU %"];
        let row = vec![
            self.connections.to_string(),
            mib(self.rss_bytes_before),
            mib(self.rss_bytes_after),
            self.bytes_per_connection.to_string(),
            format!("{:.2}", self.idle_cpu_percent),
        ];
        vec![heading(names), row]
    }
}

pub(super) fn run(args: &ConnectionsArgs, output: Output) -> Result<Exit> {
    let count = args.count;
    allow_descriptors(u64::from(count) + OTHER_DESCRIPTORS)?;
    frame::run(&args.common, output, async |place| {
        let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
        // The first makes what all share.
        let first = servers.client()?;
        first.describe_cluster().await?;
        tokio::time::sleep(SETTLE).await;
        let before = servers.broker()?.usage()?;
        complain(&format!("{count} connections ..."));
        let mut clients = Vec::new();
        for n in 0..count {
            let client = servers.client()?;
            let connected = client.describe_cluster().await;
            connected.with_context(|| format!("cannot make connection {}", n + 1))?;
            clients.push(client);
        }
        tokio::time::sleep(SETTLE).await;
        let after = servers.broker()?.usage()?;
        let made = after.descriptors.saturating_sub(before.descriptors);
        ensure!(made >= count as usize, "the broker has {made} of {count} connections");
        tokio::time::sleep(IDLE).await;
        let idle = servers.broker()?.usage()?.cpu_seconds - after.cpu_seconds;
        for client in clients {
            client.close().await;
        }
        servers.stop().await?;
        let grown = after.rss_bytes.saturating_sub(before.rss_bytes);
        Ok(Connected {
            connections: count,
            rss_bytes_before: before.rss_bytes,
            rss_bytes_after: after.rss_bytes,
            bytes_per_connection: grown / u64::from(count),
            idle_cpu_percent: 100.0 * idle / IDLE.as_secs_f64(),
        })
    })
}

/// For this process and the broker that it starts.
fn allow_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "{wanted} descriptors are needed and {} allowed\n  next: ulimit -n {wanted}",
        limit.maximum.unwrap_or_default()
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    Ok(())
}
