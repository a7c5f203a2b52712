//! The Python clients (confluent-kafka, kafka-python) through `anchors/clients.sh`, with scripts from `clients/`.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::deployment::DevJson;
use crate::kcat::Transport;
use crate::process::run;
use crate::programs::repository;

const PATIENCE: Duration = Duration::from_mins(3);

/// `python clients/SCRIPT ARGS...`, with the wheels installed; connection settings are in the environment.
pub fn command(script: &str, dev: &DevJson, transport: Transport) -> Result<Command> {
    let mut command = Command::new(repository().join("e2e/anchors/clients.sh"));
    command.arg("python").arg(repository().join("e2e/clients").join(script));
    match transport {
        Transport::Plaintext => command.env("BOOTSTRAP", dev.plaintext()?),
        Transport::Tls => command
            .env("BOOTSTRAP", dev.tls())
            .env("CA", &dev.ca)
            .env("CERT", &dev.client_cert)
            .env("KEY", &dev.client_key),
    };
    Ok(command)
}

/// Runs a script to its end; its stdout.
pub fn script(name: &str, dev: &DevJson, transport: Transport, args: &[&str]) -> Result<String> {
    run(command(name, dev, transport)?.args(args), PATIENCE)
}
