//! Which cluster a command talks to: `--bootstrap` and `--tls-*`, or the `tailway dev` that runs in this directory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tailway_client::{Client, ClientConfig, ClientTls, ClientTlsFiles, HostPort};

use crate::args::TargetArgs;
use crate::dev::published::{FILE, Published};

/// Where `tailway dev` keeps its data unless told otherwise.
pub(crate) const DEV_DIR: &str = "./.tailway-dev";

/// Connects lazily: nothing is sent before the first call.
pub(crate) fn client(target: &TargetArgs) -> Result<Client> {
    let (bootstrap, files) = match &target.bootstrap {
        Some(bootstrap) => (HostPort::parse_list(bootstrap)?, tls_files(target)),
        None => from_dev(target.data.as_deref())?,
    };
    connect(bootstrap, files, Duration::from_secs(target.request_timeout))
}

/// What `--tls-*` names.
pub(crate) fn tls_files(target: &TargetArgs) -> Option<ClientTlsFiles> {
    target.tls_ca.as_ref().map(|ca| ClientTlsFiles {
        ca: ca.clone(),
        cert: target.tls_cert.clone(),
        key: target.tls_key.clone(),
        server_name: None,
    })
}

/// A client of this command line.
pub(crate) fn connect(
    bootstrap: Vec<HostPort>,
    files: Option<ClientTlsFiles>,
    timeout: Duration,
) -> Result<Client> {
    let tls = files.map(|files| ClientTls::load(&files)).transpose()?;
    let config =
        ClientConfig::new(bootstrap, "tailway").with_tls(tls).with_request_timeout(timeout);
    Ok(Client::new(config))
}

fn from_dev(dir: Option<&Path>) -> Result<(Vec<HostPort>, Option<ClientTlsFiles>)> {
    let path = dir.unwrap_or(Path::new(DEV_DIR)).join(FILE);
    if !path.exists() {
        let start = "start `tailway dev FILE` here, or say which cluster: --bootstrap HOST:PORT [--tls-ca FILE]";
        bail!(
            "no --bootstrap is given, and no dev run is ready here ({} is missing)\n  next: {start}",
            path.display()
        );
    }
    let published = Published::read(&path)?;
    let broker = published.brokers.first();
    let broker = broker.ok_or_else(|| anyhow!("{} names no broker", path.display()))?;
    let bootstrap =
        HostPort::parse_list(&broker.tls).with_context(|| path.display().to_string())?;
    let files = ClientTlsFiles {
        ca: published.ca,
        cert: Some(published.client_cert),
        key: Some(published.client_key),
        server_name: None,
    };
    Ok((bootstrap, Some(files)))
}
