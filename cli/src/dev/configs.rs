//! The three configurations of a dev directory: the same structures that production loads, written as YAML and loaded
//! back through the same loader.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tailway_broker::config::RawSink;
use tailway_daemon::config::common::AdminConfig;

use super::dir::DevDir;
use super::files::write_file;
use super::inputs::Inputs;
use super::ports::loopback;
use super::published::{Published, PublishedAgent, PublishedBroker, PublishedCoordinator};

/// Where the lines of all followed files go.
pub(crate) const TOPIC: &str = "logs";
const BROKER_ID: i32 = 0;
const COORDINATOR_ID: i32 = 0;

/// Writes DIR/{coordinator,broker,agent}.yaml.
pub(crate) fn write(
    dir: &DevDir,
    inputs: &Inputs,
    plaintext: bool,
    sinks: &[RawSink],
) -> Result<()> {
    write_yaml(dir, "coordinator", &coordinator(dir))?;
    write_yaml(dir, "broker", &broker(dir, plaintext, sinks))?;
    write_yaml(dir, "agent", &agent(dir, inputs))
}

pub(crate) fn write_yaml<T: Serialize>(dir: &DevDir, daemon: &str, raw: &T) -> Result<()> {
    let yaml = tailway_daemon::config::to_yaml(raw)
        .map_err(|error| anyhow!("cannot write the configuration of the {daemon}: {error}"))?;
    let text = format!("# Written by `tailway dev`, which writes it again at each start.\n{yaml}");
    let path = dir.config(daemon);
    write_file(&path, text.as_bytes(), 0o644).with_context(|| path.display().to_string())
}

pub(crate) fn coordinator(dir: &DevDir) -> tailway_coordinator::config::RawConfig {
    use tailway_coordinator::config::{RawConfig, RawCoordinator, RawTls};
    let certificates = &dir.certificates;
    RawConfig {
        coordinator: RawCoordinator {
            id: 0,
            cluster_id: dir.identity.cluster_id.clone(),
            data_dir: dir.data("coordinator"),
            listen: loopback(dir.identity.ports.coordinator).to_string(),
            tls: RawTls {
                ca: certificates.ca(),
                cert: certificates.cert("coordinator"),
                key: certificates.key("coordinator"),
            },
            ..RawCoordinator::default()
        },
        admin: AdminConfig::on_port(dir.identity.ports.coordinator_admin),
        ..RawConfig::default()
    }
}

pub(crate) fn broker(
    dir: &DevDir,
    plaintext: bool,
    sinks: &[RawSink],
) -> tailway_broker::config::RawConfig {
    use tailway_broker::config::{
        Protocol, RawBroker, RawClientAuth, RawConfig, RawCoordinator, RawListener, RawTls,
    };
    let ports = dir.identity.ports;
    let tls = RawTls {
        ca: Some(dir.certificates.ca()),
        cert: dir.certificates.cert("broker"),
        key: dir.certificates.key("broker"),
    };
    let address = loopback(ports.broker_tls).to_string();
    let mut listeners = vec![RawListener {
        name: "tls".to_owned(),
        advertise: address.clone(),
        address,
        protocol: Protocol::Tls,
        client_auth: Some(RawClientAuth::Optional),
        tls: Some(tls.clone()),
        ..RawListener::default()
    }];
    if plaintext {
        let address = loopback(ports.broker_plaintext).to_string();
        listeners.push(RawListener {
            name: "plaintext".to_owned(),
            advertise: address.clone(),
            address,
            protocol: Protocol::Plaintext,
            insecure: true,
            ..RawListener::default()
        });
    }
    RawConfig {
        broker: RawBroker { id: BROKER_ID, data_dir: dir.data("broker"), ..RawBroker::default() },
        coordinator: RawCoordinator {
            addresses: vec![loopback(ports.coordinator).to_string()],
            tls,
            ..RawCoordinator::default()
        },
        listeners,
        sinks: sinks.to_vec(),
        admin: AdminConfig::on_port(ports.broker_admin),
        ..RawConfig::default()
    }
}

pub(crate) fn agent(dir: &DevDir, inputs: &Inputs) -> tailway_agent::config::RawConfig {
    use tailway_agent::config::{RawAgent, RawConfig, RawInput, RawOutput, RawTls};
    let ports = dir.identity.ports;
    RawConfig {
        agent: RawAgent { data_dir: dir.data("agent"), ..RawAgent::default() },
        output: RawOutput {
            brokers: vec![loopback(ports.broker_tls).to_string()],
            topic: TOPIC.to_owned(),
            tls: Some(RawTls {
                ca: dir.certificates.ca(),
                cert: Some(dir.certificates.cert("agent")),
                key: Some(dir.certificates.key("agent")),
                ..RawTls::default()
            }),
            ..RawOutput::default()
        },
        inputs: vec![RawInput {
            id: "dev".to_owned(),
            paths: inputs.patterns(),
            ..RawInput::default()
        }],
        admin: AdminConfig::on_port(ports.agent_admin),
        ..RawConfig::default()
    }
}

/// What dev.json says; `pids` is empty while nothing runs.
pub(crate) fn published(dir: &DevDir, inputs: &Inputs, plaintext: bool) -> Published {
    let ports = dir.identity.ports;
    let at = |port| loopback(port).to_string();
    Published {
        ca: dir.certificates.ca(),
        client_cert: dir.certificates.cert("admin"),
        client_key: dir.certificates.key("admin"),
        brokers: vec![PublishedBroker {
            id: BROKER_ID,
            tls: at(ports.broker_tls),
            plaintext: plaintext.then(|| at(ports.broker_plaintext)),
            admin: at(ports.broker_admin),
            data: dir.data("broker"),
        }],
        coordinators: vec![PublishedCoordinator {
            id: COORDINATOR_ID,
            address: at(ports.coordinator),
            admin: at(ports.coordinator_admin),
        }],
        agent: PublishedAgent { admin: at(ports.agent_admin), journal: journal(dir) },
        topics: inputs.topics(TOPIC),
        pids: std::collections::BTreeMap::new(),
    }
}

fn journal(dir: &DevDir) -> PathBuf {
    dir.data("agent").join("journal")
}
