//! What is measured: coordinator and broker as `tailway dev` starts them, in a directory that is removed again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tailway_client::{Client, ClientTlsFiles, HostPort};
use tailway_daemon::{Clock, Deadline};

use crate::dev::configs;
use crate::dev::dir::DevDir;
use crate::dev::system::System;
use crate::target;

const STOP_DEADLINE: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    Tls,
    Plaintext,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Tls => "TLS",
            Transport::Plaintext => "plaintext",
        }
    }
}

/// A directory of its own below the one that was asked for, removed at the end.
#[derive(Debug)]
pub(super) struct BenchDir {
    pub(super) path: PathBuf,
}

impl BenchDir {
    pub(super) fn make(below: &Path) -> Result<BenchDir> {
        let path = below.join(format!(".tailway-bench-{}", std::process::id()));
        let made = std::fs::create_dir(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(BenchDir { path })
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            crate::output::complain(&format!("cannot remove {path}: {error}; remove it by hand"));
        }
    }
}

/// The running servers.
pub(super) struct Servers {
    dir: DevDir,
    system: System,
    transport: Transport,
}

impl Servers {
    pub(super) async fn start(
        dir: &BenchDir,
        transport: Transport,
        clock: &Clock,
    ) -> Result<Servers> {
        let dir = DevDir::open(&dir.path.join("data"), false, clock)?;
        configs::write_servers(&dir, transport == Transport::Plaintext, &[])?;
        let mut system = System::default();
        if let Err(error) = system.start_servers(&dir, clock).await {
            // Of the two errors the first is the cause.
            system.stop(Deadline::after(STOP_DEADLINE)).await.ok();
            return Err(error);
        }
        Ok(Servers { dir, system, transport })
    }

    /// A client with connections of its own.
    pub(super) fn client(&self) -> Result<Client> {
        let ports = self.dir.identity.ports;
        let (port, files) = match self.transport {
            Transport::Plaintext => (ports.broker_plaintext, None),
            Transport::Tls => {
                let certificates = &self.dir.certificates;
                let files = ClientTlsFiles {
                    ca: certificates.ca(),
                    cert: Some(certificates.cert("admin")),
                    key: Some(certificates.key("admin")),
                    server_name: None,
                };
                (ports.broker_tls, Some(files))
            }
        };
        target::connect(vec![HostPort::new("127.0.0.1", port)], files, REQUEST_TIMEOUT)
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        Ok(self.system.stop(Deadline::after(STOP_DEADLINE)).await?)
    }
}
