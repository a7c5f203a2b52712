//! `tailway sink`: what a broker forwards where, what its sinks refused, and how that is delivered after all.
//!
//! `list` asks the broker's admin port; `test` and `setup` ask the sink itself, as the broker's configuration has it; `rejects`
//! and `replay` read and commit through the Kafka protocol, so that they need no more than any client.

mod args;
mod rejects;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::Value;
use tailway_broker::Broker;
use tailway_broker::config::{Config, SinkConfig};
use tailway_broker::forward::Trial;
use tailway_daemon::Daemon;
use tailway_daemon::exit::Exit;

pub(crate) use args::SinkCommand;
use args::{ConfigArgs, ListArgs};

use crate::admin;
use crate::dev::published::{FILE, Published};
use crate::output::{Output, complain, table};
use crate::target::DEV_DIR;

const HEADING: [&str; 9] =
    ["SINK", "TOPIC", "PART", "STATE", "COMMITTED", "LAG", "SECONDS", "DELIVERED", "DEAD"];

/// What a sink said of itself.
#[derive(Debug, Serialize)]
struct Tested<'a> {
    name: &'a str,
    kind: &'static str,
    good: bool,
    said: String,
}

/// What was made in a sink.
#[derive(Debug, Serialize)]
struct SetUp<'a> {
    name: &'a str,
    kind: &'static str,
    /// `null`: it needs nothing.
    made: Option<String>,
}

pub(crate) async fn run(command: SinkCommand, output: Output) -> Result<Exit> {
    match command {
        SinkCommand::List(args) => list(&args, output),
        SinkCommand::Test(args) => test(&args, output).await,
        SinkCommand::Setup(args) => setup(&args, output).await,
        SinkCommand::Rejects(args) => rejects::show(args, output).await,
        SinkCommand::Replay(args) => rejects::replay(args, output).await,
    }
}

fn list(args: &ListArgs, output: Output) -> Result<Exit> {
    let status = admin::status(address(args)?, "broker")?;
    let sinks = status["sinks"].as_array();
    if sinks.is_none() {
        complain("this broker has no sinks");
        if output.is_table() {
            return Ok(Exit::Ok);
        }
    }
    output.whole(sinks.map_or(&[][..], Vec::as_slice), lines)?;
    Ok(Exit::Ok)
}

fn address(args: &ListArgs) -> Result<SocketAddr> {
    if let Some(address) = args.admin {
        return Ok(address);
    }
    if let Some(file) = &args.config {
        return Ok(load(file)?.admin.address);
    }
    let path = args.data.as_deref().unwrap_or(Path::new(DEV_DIR)).join(FILE);
    if !path.exists() {
        bail!(
            "no dev run is ready here ({} is missing)\n  next: tailway sink list --config {}",
            path.display(),
            Broker::CONFIG_PATH
        );
    }
    let published = Published::read(&path)?;
    let broker = published.brokers.first().context("dev.json names no broker")?;
    broker.admin.parse().with_context(|| format!("{}: broker.admin", path.display()))
}

/// A table, and below it what is in the way.
fn lines(sinks: &[Value]) -> Vec<String> {
    let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
    let mut troubles = Vec::new();
    for sink in sinks {
        let name = sink["name"].as_str().unwrap_or_default();
        for lane in sink["partitions"].as_array().into_iter().flatten() {
            let (topic, partition) =
                (lane["topic"].as_str().unwrap_or_default(), &lane["partition"]);
            let number =
                |key: &str| lane[key].as_i64().map_or_else(|| "-".to_owned(), |n| n.to_string());
            rows.push(vec![
                name.to_owned(),
                topic.to_owned(),
                partition.to_string(),
                lane["state"].as_str().unwrap_or_default().to_owned(),
                number("committed"),
                number("lag_records"),
                number("lag_seconds"),
                number("delivered"),
                number("dead"),
            ]);
            if let Some(trouble) = lane["trouble"].as_str() {
                troubles.push(format!("{name} {topic}-{partition}: {trouble}"));
            }
        }
    }
    let mut lines = table(&rows);
    lines.extend(troubles);
    lines
}

async fn test(args: &ConfigArgs, output: Output) -> Result<Exit> {
    let config = load(&args.config)?;
    let mut tested = Vec::new();
    for sink in chosen(&config, args.name.as_deref())? {
        let (good, said) = match Trial::new(sink.clone()).test().await {
            Ok(what) => (true, what),
            Err(error) => (false, error.to_string()),
        };
        if !good {
            complain(&format!("{}: {said}", sink.name));
        }
        tested.push(Tested { name: &sink.name, kind: sink.target.kind(), good, said });
    }
    output.whole(&tested, |tested| {
        let good = tested.iter().filter(|one| one.good);
        good.map(|one| format!("{}: good: {}", one.name, one.said)).collect()
    })?;
    Ok(if tested.iter().all(|one| one.good) { Exit::Ok } else { Exit::Failure })
}

async fn setup(args: &ConfigArgs, output: Output) -> Result<Exit> {
    let config = load(&args.config)?;
    let Some(name) = &args.name else { bail!("name the sink: tailway sink setup NAME") };
    for sink in chosen(&config, Some(name))? {
        let made = Trial::new(sink.clone()).set_up().await;
        let made = made.map_err(|error| anyhow!("{name}: {error}"))?.map(|done| done.to_string());
        let kind = sink.target.kind();
        let line = match &made {
            Some(done) => format!("{name}: {done}"),
            None => format!("{name}: a {kind} sink needs no setup"),
        };
        output.line(&SetUp { name, kind, made }, line)?;
    }
    Ok(Exit::Ok)
}

fn load(file: &Path) -> Result<Config> {
    Broker::load_config(file).map_err(|problems| anyhow!("{problems}"))
}

/// The sinks of this name, or all.
fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a SinkConfig>> {
    let is_chosen = |sink: &&SinkConfig| name.is_none_or(|name| sink.name == name);
    let chosen: Vec<&SinkConfig> = config.sinks.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        bail!(
            "there is no sink {}in that configuration; there are: {there}",
            name.map_or_else(String::new, |name| format!("{name} "))
        );
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_for_each_partition_and_below_what_is_in_the_way() {
        let lane = json!({ "topic": "logs", "partition": 0, "state": "flowing", "committed": 7, "lag_records": 3,
            "lag_seconds": 1, "delivered": 7, "dead": 0 });
        let paused = json!({ "topic": "web", "partition": 1, "state": "paused", "committed": null, "lag_records": null,
            "lag_seconds": null, "delivered": 0, "dead": 0, "trouble": "401" });
        let sinks = [json!({ "name": "es", "partitions": [lane, paused] })];
        let expected = [
            "SINK  TOPIC  PART  STATE    COMMITTED  LAG  SECONDS  DELIVERED  DEAD",
            "es    logs   0     flowing  7          3    1        7          0",
            "es    web    1     paused   -          -    -        0          0",
            "es web-1: 401",
        ];
        assert_eq!(lines(&sinks), expected);
    }

    #[test]
    fn fields_are_those_that_are_documented() {
        let tested = Tested { name: "es", kind: "stdout", good: true, said: String::new() };
        crate::output::documented("sink test", &tested);
        crate::output::documented("sink setup", &SetUp { name: "es", kind: "stdout", made: None });
    }
}
