//! `tailway status`: whether a cluster is well, and if not, which part is not, why, and what to do next.
//!
//! The coordinator knows the brokers and the certificates, the brokers know the partitions; each is asked by itself, so that
//! what is away is named instead of hiding the rest.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tailway_client::probe::{Ask, End, probe};
use tailway_client::{ClientConfig, ClientTls, ClientTlsFiles, HostPort};
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_metadata::broker::SecurityProtocol;
use tailway_metadata::enrollment::Membership;
use tailway_wire::ApiKey;

use crate::args::StatusArgs;
use crate::dev::published::{FILE, Published};
use crate::diagnose::certificates::{judge_authority, judge_certificates};
use crate::diagnose::verdict::{Origin, judge, judge_partitions};
use crate::diagnose::{Finding, brokers, is_good, own_certificate, report};
use crate::members::call;
use crate::members::identity::{ADMIN_DIR, Papers};
use crate::output::{Output, complain};
use crate::target::{DEV_DIR, tls_files};

/// Between two looks of --wait.
const PAUSE: Duration = Duration::from_millis(500);

/// Whom to ask, and as whom.
struct Target {
    coordinator: Option<HostPort>,
    /// Written down; empty: those that the coordinator knows.
    brokers: Vec<HostPort>,
    files: Option<ClientTlsFiles>,
    timeout: Duration,
}

pub(crate) async fn run(args: StatusArgs, output: Output) -> Result<Exit> {
    if let Some(bootstrap) = &args.target.bootstrap {
        // A mistake in it does not pass by waiting.
        HostPort::parse_list(bootstrap)?;
    }
    let clock = Clock::new();
    let patience = Duration::from_secs(if args.wait.is_some() { args.timeout } else { 0 });
    loop {
        let left = patience.saturating_sub(Duration::from_micros(clock.mono().as_micros()));
        // From the files on: whoever waits may have started the cluster at this moment.
        let looked = match Target::of(&args) {
            Ok(target) => target.look(&clock).await,
            Err(error) => Err(error),
        };
        let findings = match looked {
            Err(_) if !left.is_zero() => {
                tokio::time::sleep(PAUSE.min(left)).await;
                continue;
            }
            looked => looked?,
        };
        let good = is_good(&findings);
        if good || left.is_zero() {
            report::print(&findings, output)?;
            if !good && args.wait.is_some() {
                complain(&format!("not healthy after {} s", args.timeout));
            }
            return Ok(if good { Exit::Ok } else { Exit::Failure });
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}

impl Target {
    fn of(args: &StatusArgs) -> Result<Target> {
        let timeout = Duration::from_secs(args.target.request_timeout);
        let brokers = match &args.target.bootstrap {
            Some(bootstrap) => HostPort::parse_list(bootstrap)?,
            None => Vec::new(),
        };
        let of = |coordinator, files: Option<ClientTlsFiles>| {
            let files = tls_files(&args.target).or(files);
            Target { coordinator, brokers: brokers.clone(), files, timeout }
        };
        if let Some(dir) = &args.identity {
            return Target::of_identity(dir, of);
        }
        if !brokers.is_empty() {
            return Ok(of(None, None));
        }
        let dir = args.target.data.as_deref();
        let dev = dir.unwrap_or(Path::new(DEV_DIR));
        if dir.is_some() || dev.join(FILE).exists() {
            return Target::of_dev(dev, of);
        }
        if Path::new(ADMIN_DIR).exists() {
            return Target::of_identity(Path::new(ADMIN_DIR), of);
        }
        bail!(
            "which cluster? no dev run is ready here ({} is missing), and there is no {ADMIN_DIR}\n  next: tailway status --identity DIR (as `tailway coordinator init` made it), or --bootstrap HOST:PORT for any Kafka",
            dev.join(FILE).display()
        )
    }

    fn of_identity(
        dir: &Path,
        of: impl Fn(Option<HostPort>, Option<ClientTlsFiles>) -> Target,
    ) -> Result<Target> {
        let papers = Papers::found(dir)?;
        Ok(of(Some(papers.identity()?.coordinator.parse()?), Some(papers.files())))
    }

    fn of_dev(
        dir: &Path,
        of: impl Fn(Option<HostPort>, Option<ClientTlsFiles>) -> Target,
    ) -> Result<Target> {
        let path = dir.join(FILE);
        let published = Published::read(&path)?;
        let coordinator = published.coordinators.first();
        let coordinator =
            coordinator.ok_or_else(|| anyhow!("{} names no coordinator", path.display()))?;
        let address = coordinator.address.parse().with_context(|| path.display().to_string())?;
        let files = ClientTlsFiles {
            ca: published.ca,
            cert: Some(published.client_cert),
            key: Some(published.client_key),
            server_name: None,
        };
        Ok(of(Some(address), Some(files)))
    }

    /// Everything, once. The files are read each time: they may be replaced while --wait waits.
    async fn look(&self, clock: &Clock) -> Result<Vec<Finding>> {
        let own = self.files.as_ref().and_then(|files| own_certificate(files, clock.wall()));
        let mut findings: Vec<Finding> = own.into_iter().collect();
        let tls = self.files.as_ref().map(ClientTls::load).transpose()?;
        let config = |bootstrap| {
            ClientConfig::new(bootstrap, "tailway")
                .with_tls(tls.clone())
                .with_request_timeout(self.timeout)
        };
        let mut bootstrap = self.brokers.clone();
        if let (Some(address), Some(tls)) = (&self.coordinator, &tls) {
            let config = config(vec![address.clone()]);
            let members = coordinator(address, &config, tls, clock, &mut findings).await;
            if let Some(members) = members {
                findings.extend(registered(&members));
                findings.extend(judge_authority(&members));
                findings.extend(judge_certificates(&members));
                if bootstrap.is_empty() {
                    bootstrap = tls_addresses(&members);
                }
            }
        }
        if !bootstrap.is_empty() {
            let (seen, described) = brokers::look(&config(bootstrap), &Ask::AllTopics, clock).await;
            findings.extend(seen);
            findings.extend(described.iter().flat_map(|it| judge_partitions(&it.cluster)));
        }
        Ok(findings)
    }
}

/// The coordinator's steps, and what it knows.
async fn coordinator(
    address: &HostPort,
    config: &ClientConfig,
    tls: &ClientTls,
    clock: &Clock,
    findings: &mut Vec<Finding>,
) -> Option<Membership> {
    const STEP: &str = "leads";
    let probed = probe(config, address, &Ask::Nothing).await;
    findings.extend(judge(&probed, Origin::Coordinator, clock.wall()));
    let End::Serves { .. } = probed.end else { return None };
    let target = format!("coordinator at {address}");
    let asked = async {
        let rpc = call::connect(address, tls, config.connect_timeout).await?;
        call::ask(&rpc, ApiKey::DescribeMembership, &(), config.request_timeout).await
    };
    match asked.await {
        Ok(members) => {
            findings.push(Finding::ok(&target, STEP, "it knows the members"));
            Some(members)
        }
        Err(error) => {
            let next = "ask as an admin (--identity DIR); the coordinator's /readyz says why it does not lead";
            findings.push(Finding::failed(&target, STEP, format!("{error:#}"), next));
            None
        }
    }
}

/// Which brokers there are, and which of them lead nothing.
fn registered(members: &Membership) -> Vec<Finding> {
    const STEP: &str = "registered";
    if members.brokers.is_empty() {
        let next = "tailway token create --role broker, then `tailway enroll` on the broker's host";
        return vec![Finding::failed("brokers", STEP, "no broker has registered", next)];
    }
    let one = |broker: &tailway_metadata::broker::Broker| {
        let target = format!("broker {}", broker.id);
        if broker.fenced {
            let why = "it is fenced: the coordinator has not heard of it for too long, so it leads nothing";
            let next = "on its host: is tailway-broker running, and what does its /readyz say?";
            return Finding::failed(&target, STEP, why, next);
        }
        Finding::ok(&target, STEP, "the coordinator hears it")
    };
    members.brokers.iter().map(one).collect()
}

fn tls_addresses(members: &Membership) -> Vec<HostPort> {
    let brokers = members.brokers.iter().filter(|broker| !broker.fenced);
    let endpoints = brokers.flat_map(|broker| &broker.endpoints);
    endpoints
        .filter(|endpoint| endpoint.protocol == SecurityProtocol::Tls)
        .map(|endpoint| HostPort::new(endpoint.host.clone(), endpoint.port))
        .collect()
}
