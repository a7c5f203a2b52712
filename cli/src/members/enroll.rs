//! `tailway enroll`: this host becomes a member, with nothing but a token.
//!
//! The token says which CA to trust, so the first connection is verified as every later one is. The key is made here and
//! stays here. What could fail on this host is tried before the token is used.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use tailway_daemon::exit::Exit;
use tailway_metadata::enrollment::{Answer, EnrollRequest, Enrolled, Token};
use tailway_metadata::security::Serial;
use tailway_metadata::{ClusterId, Role, Secret};
use tailway_net::certificate_request::CertificateRequest;
use tailway_net::{ClientTls, FrameReader, HostPort, dial, write_segments};
use tokio::time::timeout;

use super::EnrollArgs;
use super::identity::{HostPortText, Identity, Papers, host_name};
use super::init::write_yaml;
use super::owner::{Owner, start_command};
use crate::output::{Output, complain, moment, quoted, span};

const TIMEOUT: Duration = Duration::from_secs(15);
/// A token is no longer than this.
const TOKEN_BYTES_MAX: u64 = 1 << 10;
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Where agents send and brokers listen.
const TOPIC: &str = "logs";
const BROKER_PORT: u16 = 9_093;

/// What this host is now.
#[derive(Debug, Serialize)]
struct Member<'a> {
    cluster_id: &'a ClusterId,
    role: Role,
    id: &'a str,
    serial: &'a Serial,
    not_after: String,
    /// Where key, certificate and CA are.
    tls: &'a Path,
    /// `null`: none was written.
    config: Option<&'a Path>,
    /// The command that starts its daemon.
    start: Option<String>,
}

impl Member<'_> {
    fn lines(&self) -> Vec<String> {
        let shown = |path: &Path| quoted(&path.display().to_string());
        let mut lines = vec![format!("{}  key, certificate and CA", shown(self.tls))];
        let start = self.config.zip(self.start.as_ref());
        lines.extend(start.map(|(config, start)| format!("{}  start it: {start}", shown(config))));
        lines
    }
}

pub(super) async fn run(args: EnrollArgs, output: Output) -> Result<Exit> {
    let token = token_of(&args.token.0)?;
    let role = role_of(&token)?;
    let id = match (&args.id, role) {
        (Some(id), _) => id.clone(),
        (None, Role::Broker | Role::Coordinator) => {
            bail!(
                "a {role} is known by its number\n  next: give --id NUMBER, one that no other {role} has"
            )
        }
        (None, _) => host_name(),
    };
    if role.is_server() && args.names.is_empty() {
        bail!(
            "others connect to a {role}\n  next: give --name HOST, by which they reach this host"
        );
    }
    let place = Place::of(&args, role, &id)?;
    place.prepare()?;
    let made = CertificateRequest::generate()?;
    let request = EnrollRequest {
        token_id: token.id.clone(),
        secret: token.secret.clone(),
        id: id.clone(),
        names: args.names.clone(),
        csr: made.csr_pem.clone(),
    };
    let enrolled = ask(&args.coordinator, &token, &request).await?;
    let coordinator = HostPort::new(args.coordinator.host.clone(), enrolled.coordinator_port);
    let identity = Identity {
        version: 0,
        cluster_id: enrolled.cluster_id.clone(),
        role: enrolled.certificate.role,
        id,
        serial: enrolled.certificate.serial.clone(),
        not_after: enrolled.certificate.not_after,
        coordinator: HostPortText::of(&coordinator),
    };
    place.papers.write(&made.key_pem, &enrolled.certificate_pem, &enrolled.ca_pem, &identity)?;
    place.write_config(&args, &identity, &coordinator, &enrolled)?;
    if let Some(owner) = place.owner {
        owner.take(&place.state, &[&place.papers.dir])?;
        place.config.iter().try_for_each(|config| owner.may_read(config))?;
    }
    place.tell(&identity, &enrolled, output)?;
    Ok(Exit::Ok)
}

fn token_of(typed: &Secret) -> Result<Token> {
    if typed.expose() != "-" {
        return typed.expose().parse().map_err(|why: String| anyhow!(why));
    }
    let mut read = String::new();
    std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut read)?;
    let read = Secret::new(read);
    read.expose().parse().map_err(|why: String| anyhow!(why))
}

/// `token create` puts the role in front of the id. The coordinator's word counts; this one tells what to prepare.
fn role_of(token: &Token) -> Result<Role> {
    let role = Role::ALL.into_iter().find(|role| token.id.starts_with(role.name()));
    role.with_context(|| format!("token {} does not begin with a role: it was altered", token.id))
}

async fn ask(address: &HostPort, token: &Token, request: &EnrollRequest) -> Result<Enrolled> {
    let tls = ClientTls::pinned(token.ca)?;
    let stream = dial(address, Some(&tls), TIMEOUT).await?;
    let body = request.encode();
    let body = body.expose().as_bytes();
    let length = u32::try_from(body.len())?.to_be_bytes();
    let mut reader = FrameReader::new(stream, ANSWER_BYTES_MAX);
    let talk = async {
        let segments = [Bytes::copy_from_slice(&length), Bytes::copy_from_slice(body)];
        write_segments(reader.inner_mut(), &segments).await?;
        let frame = reader.next().await?;
        frame.context("it closed the connection without an answer")
    };
    let frame = timeout(TIMEOUT, talk)
        .await
        .unwrap_or_else(|_| bail!("no answer within {TIMEOUT:?}"))
        .with_context(|| {
            format!(
                "{address} does not answer the enrolment; whether it took place: tailway cert list"
            )
        })?;
    match Answer::decode(&frame).context("the coordinator's answer cannot be read")? {
        Answer::Done(enrolled) => Ok(enrolled),
        Answer::Refused { text, .. } => Err(anyhow!("the coordinator refuses: {text}")),
    }
}

/// Where a new member's files go.
struct Place {
    role: Role,
    state: PathBuf,
    papers: Papers,
    /// `None` for those that have no configuration of ours.
    config: Option<PathBuf>,
    /// The service that the state directory was made for.
    owner: Option<Owner>,
}

impl Place {
    fn of(args: &EnrollArgs, role: Role, id: &str) -> Result<Place> {
        let daemon = matches!(role, Role::Agent | Role::Broker);
        let state = match &args.state {
            Some(state) => state.clone(),
            None if role == Role::Client => PathBuf::from(id),
            None => Path::new("/var/lib/tailway").join(role.name()),
        };
        let state = std::path::absolute(state)?;
        let papers = if daemon || role == Role::Coordinator {
            Papers::of_daemon(&state.join("tls"))?
        } else {
            Papers::in_dir(&state)?
        };
        let config = daemon.then(|| {
            args.config
                .clone()
                .unwrap_or_else(|| Path::new("/etc/tailway").join(format!("{role}.yaml")))
        });
        let owner = Owner::of(role, &state);
        Ok(Place { role, state, papers, config, owner })
    }

    fn prepare(&self) -> Result<()> {
        if let Some(config) = self.config.as_ref().filter(|config| config.exists()) {
            bail!(
                "{} is there already: this host has a configuration\n  next: move it away, or give --config FILE",
                config.display()
            );
        }
        self.papers.prepare()
    }

    fn write_config(
        &self,
        args: &EnrollArgs,
        identity: &Identity,
        coordinator: &HostPort,
        enrolled: &Enrolled,
    ) -> Result<()> {
        let Some(path) = &self.config else { return Ok(()) };
        match self.role {
            Role::Agent => write_yaml(path, "tailway enroll", &self.agent(args, enrolled)),
            _ => write_yaml(path, "tailway enroll", &self.broker(args, identity, coordinator)?),
        }
    }

    fn agent(&self, args: &EnrollArgs, enrolled: &Enrolled) -> tailway_agent::config::RawConfig {
        use tailway_agent::config::{RawAgent, RawConfig, RawInput, RawOutput, RawTls};
        RawConfig {
            agent: RawAgent { data_dir: self.state.clone(), ..RawAgent::default() },
            output: RawOutput {
                brokers: enrolled.brokers.clone(),
                topic: TOPIC.to_owned(),
                tls: Some(RawTls {
                    ca: self.papers.ca(),
                    cert: Some(self.papers.cert()),
                    key: Some(self.papers.key()),
                    ..RawTls::default()
                }),
                ..RawOutput::default()
            },
            inputs: vec![RawInput {
                id: "files".to_owned(),
                paths: args.inputs.clone(),
                ..RawInput::default()
            }],
            ..RawConfig::default()
        }
    }

    fn broker(
        &self,
        args: &EnrollArgs,
        identity: &Identity,
        coordinator: &HostPort,
    ) -> Result<tailway_broker::config::RawConfig> {
        use tailway_broker::config::{
            Protocol, RawBroker, RawClientAuth, RawConfig, RawCoordinator, RawListener, RawTls,
        };
        let tls =
            RawTls { ca: Some(self.papers.ca()), cert: self.papers.cert(), key: self.papers.key() };
        let name = args.names.first().cloned().unwrap_or_default();
        Ok(RawConfig {
            broker: RawBroker {
                id: identity.id.parse()?,
                data_dir: self.state.clone(),
                ..RawBroker::default()
            },
            coordinator: RawCoordinator {
                addresses: vec![coordinator.to_string()],
                tls: tls.clone(),
                ..RawCoordinator::default()
            },
            listeners: vec![RawListener {
                name: "tls".to_owned(),
                address: HostPort::new("0.0.0.0", BROKER_PORT).to_string(),
                advertise: HostPort::new(name, BROKER_PORT).to_string(),
                protocol: Protocol::Tls,
                client_auth: Some(RawClientAuth::Required),
                tls: Some(tls),
                ..RawListener::default()
            }],
            ..RawConfig::default()
        })
    }

    fn tell(&self, identity: &Identity, enrolled: &Enrolled, output: Output) -> Result<()> {
        let issued = &enrolled.certificate;
        complain(&format!(
            "this host is {} {} of cluster {}: certificate {}, good for {}",
            identity.role,
            identity.id,
            identity.cluster_id,
            issued.serial,
            span(issued.not_before, issued.not_after)
        ));
        let member = Member {
            cluster_id: &identity.cluster_id,
            role: identity.role,
            id: &identity.id,
            serial: &issued.serial,
            not_after: moment(issued.not_after),
            tls: &self.papers.dir,
            config: self.config.as_deref(),
            start: self.config.as_ref().map(|config| start_command(self.role, config, self.owner)),
        };
        output.whole(&member, Member::lines)?;
        match &self.config {
            None if self.role == Role::Coordinator => complain(
                "no configuration was written: a quorum of more than one coordinator is not supported yet",
            ),
            Some(config) if self.role == Role::Agent && enrolled.brokers.is_empty() => {
                let config = quoted(&config.display().to_string());
                complain(&format!(
                    "no broker is registered yet: write output.brokers into {config} first"
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_told_what_to_start() {
        let member = Member {
            cluster_id: &ClusterId("c".to_owned()),
            role: Role::Agent,
            id: "web1",
            serial: &Serial("0a".to_owned()),
            not_after: String::new(),
            tls: Path::new("/state/tls"),
            config: Some(Path::new("/etc/tailway/agent.yaml")),
            start: Some("tailway-agent --config /etc/tailway/agent.yaml".to_owned()),
        };
        let expected = [
            "/state/tls  key, certificate and CA",
            "/etc/tailway/agent.yaml  start it: tailway-agent --config /etc/tailway/agent.yaml",
        ];
        assert_eq!(member.lines(), expected);
        crate::output::documented("enroll", &member);
    }
}
