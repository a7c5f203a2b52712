//! `tailway coordinator init`: the cluster's CA, the coordinator's certificate and configuration, the first admin.
//!
//! Nothing that is there is overwritten. The configuration is written last: without it nothing starts, and a second try
//! says what is left over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rcgen::KeyPair;
use serde::Serialize;
use tailway_coordinator::authority::{self, Authority};
use tailway_coordinator::config::{RawConfig, RawCoordinator, RawEnrollment, RawTls};
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_metadata::security::{IssuedCertificate, Role, Sha256};
use tailway_metadata::{ClusterId, Secret};
use tailway_net::HostPort;
use tailway_storage::{Disk, FsDisk, atomic_replace};

use super::InitArgs;
use super::identity::{HostPortText, Identity, Papers, host_name};
use super::owner::{Owner, start_command};
use crate::output::{Output, complain, quoted};

/// Names that every host has for itself, so that its own tools reach it.
const LOOPBACK: [&str; 2] = ["localhost", "127.0.0.1"];
/// Life of the certificates made here.
const LIFE: Duration = Duration::from_hours(365 * 24);

/// A cluster that was made.
#[derive(Debug, Serialize)]
struct Made<'a> {
    cluster_id: &'a ClusterId,
    ca_sha256: Sha256,
    config: &'a Path,
    /// The command that starts the coordinator.
    start: String,
    admin: &'a Path,
    /// Where the CA's key is.
    ca: PathBuf,
}

pub(super) fn run(args: &InitArgs, output: Output) -> Result<Exit> {
    let cluster_id = match &args.cluster_id {
        Some(id) => ClusterId(id.clone()),
        None => ClusterId(tailway_runtime::uuid().to_string()),
    };
    if !cluster_id.is_valid() {
        bail!("--cluster-id: write 1 to {} of A-Z a-z 0-9 . _ -", ClusterId::LEN_MAX);
    }
    let mut names = args.names.clone();
    if names.is_empty() {
        names.push(host_name());
    }
    let reached_by = names.first().cloned().unwrap_or_default();
    for own in LOOPBACK {
        if !names.iter().any(|name| name == own) {
            names.push(own.to_owned());
        }
    }
    for name in &names {
        authority::host_name(name).with_context(|| format!("--name {name}"))?;
    }
    if args.config.exists() {
        bail!(
            "{} is there already: this coordinator has a configuration\n  next: start it, or move that file away",
            args.config.display()
        );
    }
    let data_dir = std::path::absolute(&args.data_dir)?;
    let owner = Owner::of(Role::Coordinator, &data_dir);
    let (server, admin) = (Papers::of_daemon(&data_dir.join("tls"))?, Papers::in_dir(&args.admin)?);
    server.prepare()?;
    admin.prepare()?;
    let now = Clock::new().wall();
    let dir = data_dir.join(authority::DIR);
    let authority = Authority::create(&FsDisk, &dir, &cluster_id, now)?;
    let coordinator = HostPortText::of(&HostPort::new(reached_by, args.listen.port));
    let first = [
        (authority::first_certificate(Role::Coordinator, "0", &names, now, LIFE), &server),
        (authority::first_certificate(Role::Admin, "root", &[], now, LIFE), &admin),
    ];
    // Before anything is signed: what was issued is known.
    let issued: Vec<IssuedCertificate> = first.iter().map(|(issued, _)| issued.clone()).collect();
    authority::save_first(&FsDisk, &dir, &issued)?;
    for (issued, papers) in &first {
        sign(&authority, &cluster_id, issued, papers, &coordinator)?;
    }
    write_config(args, &cluster_id, &data_dir, &server)?;
    if let Some(owner) = owner {
        owner.take(&data_dir, &[&server.dir, &dir])?;
        owner.may_read(&args.config)?;
    }
    tell(args, &cluster_id, &authority, owner, output)?;
    Ok(Exit::Ok)
}

fn sign(
    authority: &Authority,
    cluster_id: &ClusterId,
    issued: &IssuedCertificate,
    papers: &Papers,
    coordinator: &HostPortText,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let pem = authority.sign(cluster_id, issued, &key)?;
    let identity = Identity {
        version: 0,
        cluster_id: cluster_id.clone(),
        role: issued.role,
        id: issued.id.clone(),
        serial: issued.serial.clone(),
        not_after: issued.not_after,
        coordinator: coordinator.clone(),
    };
    // Nothing was revoked yet; with the list that says so, what `client-config` prints has software look at later ones.
    let trusted = format!("{}{}", authority.pem(), authority.revocation_list(&[])?);
    papers.write(&Secret::new(key.serialize_pem()), &pem, &trusted, &identity)
}

fn write_config(
    args: &InitArgs,
    cluster_id: &ClusterId,
    data_dir: &Path,
    server: &Papers,
) -> Result<()> {
    let raw = RawConfig {
        coordinator: RawCoordinator {
            cluster_id: cluster_id.0.clone(),
            data_dir: data_dir.to_owned(),
            listen: args.listen.to_string(),
            tls: RawTls { ca: server.ca(), cert: server.cert(), key: server.key() },
            enrollment: RawEnrollment {
                listen: args.enroll_listen.to_string(),
                ..RawEnrollment::default()
            },
            ..RawCoordinator::default()
        },
        ..RawConfig::default()
    };
    write_yaml(&args.config, "tailway coordinator init", &raw)
}

/// A configuration of a member, and who wrote it.
pub(super) fn write_yaml<T: Serialize>(path: &Path, by: &str, raw: &T) -> Result<()> {
    let yaml = tailway_daemon::config::to_yaml(raw)
        .map_err(|error| anyhow!("cannot write {}: {error}", path.display()))?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        FsDisk.create_dir_all(parent)?;
    }
    let text = format!(
        "# Written by `{by}`. What each key means: the commented files in configs/.\n{yaml}"
    );
    let path = std::path::absolute(path)?;
    atomic_replace(&FsDisk, &path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn tell(
    args: &InitArgs,
    cluster_id: &ClusterId,
    authority: &Authority,
    owner: Option<Owner>,
    output: Output,
) -> Result<()> {
    let made = Made {
        cluster_id,
        ca_sha256: authority.sha256(),
        config: &args.config,
        start: start_command(Role::Coordinator, &args.config, owner),
        admin: &args.admin,
        ca: args.data_dir.join(authority::DIR),
    };
    complain(&format!("made cluster {cluster_id} with its own CA (SHA-256 {})", made.ca_sha256));
    output.whole(&made, Made::lines)
}

impl Made<'_> {
    fn lines(&self) -> Vec<String> {
        let shown = |path: &Path| quoted(&path.display().to_string());
        let (config, admin) = (shown(self.config), shown(self.admin));
        vec![
            format!("{config}  start it: {}", self.start),
            format!(
                "{admin}  the first admin: tailway token create --role agent --identity {admin}"
            ),
            format!("{}  the CA's key: back it up, and show it to nobody", shown(&self.ca)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told_with_what_to_do_next() {
        let made = Made {
            cluster_id: &ClusterId("c".to_owned()),
            ca_sha256: tailway_net::pin::sha256(b"ca"),
            config: Path::new("/c.yaml"),
            start: "tailway-coordinator --config /c.yaml".to_owned(),
            admin: Path::new("/admin"),
            ca: PathBuf::from("/data/ca"),
        };
        let expected = [
            "/c.yaml  start it: tailway-coordinator --config /c.yaml",
            "/admin  the first admin: tailway token create --role agent --identity /admin",
            "/data/ca  the CA's key: back it up, and show it to nobody",
        ];
        assert_eq!(made.lines(), expected);
        crate::output::documented("coordinator init", &made);
    }
}
