//! A coordinator on loopback, by the files of a directory: ca.pem, and NAME.pem with NAME.key for each who has a name.

use std::path::Path;
use std::time::Duration;

use tailway_coordinator::{Config, Coordinator};
use tailway_daemon::{Context, Daemon};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, RpcConnection, RpcOptions, dial};

pub(crate) const CLUSTER: &str = "c-1";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Its configuration, with `more` lines in its section.
pub(crate) fn config(dir: &Path, cluster: &str, more: &str) -> Config {
    let shown = dir.display();
    let yaml = format!(
        "coordinator:
  cluster_id: {cluster}
  data_dir: {shown}/data
  listen: 127.0.0.1:0
  tls: {{ ca: {shown}/ca.pem, cert: {shown}/coordinator.pem, key: {shown}/coordinator.key }}
{more}"
    );
    let file = dir.join("coordinator.yaml");
    std::fs::write(&file, yaml).unwrap();
    Config::load(&file).unwrap()
}

/// Returns once it is ready.
pub(crate) async fn start(config: Config) -> (Coordinator, Context) {
    let context = Context::default();
    let coordinator = Coordinator::start(config, context.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, context.ready.wait()).await.unwrap();
    (coordinator, context)
}

/// A connection of the one with that name.
pub(crate) async fn connect(dir: &Path, coordinator: &Coordinator, name: &str) -> RpcConnection {
    let files = ClientTlsFiles {
        ca: dir.join("ca.pem"),
        cert: Some(dir.join(format!("{name}.pem"))),
        key: Some(dir.join(format!("{name}.key"))),
        server_name: None,
    };
    let tls = ClientTls::load(&files).unwrap();
    let address = coordinator.address().to_string().parse::<HostPort>().unwrap();
    let stream = dial(&address, Some(&tls), PATIENCE).await.unwrap();
    RpcConnection::start(stream, "coordinator", RpcOptions::default())
}
