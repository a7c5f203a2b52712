//! `tailway agent test output`: the way of a line, step by step, with the agent's own configuration. Sends no record.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tailway_agent::Agent;
use tailway_agent::config::Config;
use tailway_client::probe::{Ask, Described};
use tailway_client::{Client, ClientConfig, TopicPartition};
use tailway_daemon::exit::Exit;
use tailway_daemon::{Clock, Daemon};

use crate::args::AgentTestOutputArgs;
use crate::diagnose::verdict::{judge_producers, judge_topics};
use crate::diagnose::{Finding, brokers, is_good, own_certificate, report};
use crate::output::{Output, complain, quoted};

pub(crate) async fn run(args: AgentTestOutputArgs, output: Output) -> Result<Exit> {
    let config = match Agent::load_config(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems.to_string());
            return Ok(Exit::Config);
        }
    };
    let findings = test(&config, Duration::from_secs(args.timeout), &Clock::new()).await;
    report::print(&findings, output)?;
    Ok(if is_good(&findings) { Exit::Ok } else { Exit::Failure })
}

async fn test(config: &Config, timeout: Duration, clock: &Clock) -> Vec<Finding> {
    let output = &config.output;
    let own = output.tls.as_ref().and_then(|tls| tls.files());
    let mut findings: Vec<Finding> =
        own.and_then(|files| own_certificate(files, clock.wall())).into_iter().collect();
    let mut topics: BTreeSet<String> =
        config.inputs.iter().map(|input| input.topic.clone()).collect();
    topics.extend(config.metrics.iter().map(|metrics| metrics.topic.clone()));
    let topics: Vec<String> = topics.into_iter().collect();
    let client = ClientConfig::new(output.brokers.clone(), "tailway")
        .with_tls(output.tls.clone())
        .with_request_timeout(timeout);
    let (seen, described) = brokers::look(&client, &Ask::Topics(topics.clone()), clock).await;
    findings.extend(seen);
    if let Some(described) = described {
        findings.extend(judge_topics(&topics, &described, &way_in(config)));
        findings.extend(producers(&topics, &described, client).await);
    }
    findings
}

/// The options by which an admin's command reaches the same cluster: an agent's own certificate makes no topics.
fn way_in(config: &Config) -> String {
    let brokers: Vec<String> = config.output.brokers.iter().map(ToString::to_string).collect();
    let way = format!("--bootstrap {}", quoted(&brokers.join(",")));
    let Some(files) = config.output.tls.as_ref().and_then(|tls| tls.files()) else { return way };
    let admin = match files.cert {
        Some(_) => " --tls-cert ADMIN/cert.pem --tls-key ADMIN/cert.key",
        None => "",
    };
    format!("{way} --tls-ca {}{admin}", quoted(&files.ca.display().to_string()))
}

/// Asks the leader of the first partition of each topic that is there.
async fn producers(topics: &[String], described: &Described, config: ClientConfig) -> Vec<Finding> {
    let client = Client::new(config);
    let mut findings = Vec::new();
    for name in topics {
        let leader = described.cluster.partition(name, 0).map(|partition| partition.leader);
        if leader.is_none_or(|leader| leader < 0) {
            continue;
        }
        let asked = client.describe_producers(&TopicPartition::new(name.as_str(), 0)).await;
        findings.push(judge_producers(name, asked.map(drop)));
    }
    client.close().await;
    findings
}
