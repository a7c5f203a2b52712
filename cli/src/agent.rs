//! `tailway agent files`: what a running agent says of its files, from its admin port.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tailway_agent::Agent;
use tailway_daemon::Daemon;
use tailway_daemon::exit::Exit;
use tailway_metadata::time::WallMs;

use crate::admin;
use crate::args::AgentFilesArgs;
use crate::dev::published::{FILE, Published};
use crate::output::{Output, bytes, complain, moment, table};
use crate::target::DEV_DIR;

const HEADING: [&str; 9] =
    ["PATH", "GENERATION", "STATE", "SIZE", "READ", "ACKED", "LAG", "OPEN", "GUARANTEE"];

pub(crate) fn files(args: &AgentFilesArgs, output: Output) -> Result<Exit> {
    let address = match address(args) {
        Ok(address) => address,
        Err(error) => {
            complain(&format!("{error:#}"));
            return Ok(Exit::Config);
        }
    };
    let status = admin::status(address, "agent")?;
    let report = &status["shipper"];
    let files = report["files"].as_array().with_context(|| {
        format!(
            "what answers on {address} says nothing of files: is it an agent, and a current one?"
        )
    })?;
    output.whole(files, |files| lines(files))?;
    if output.is_table() {
        for note in notes(report, files.len()) {
            complain(&note);
        }
    }
    Ok(Exit::Ok)
}

fn address(args: &AgentFilesArgs) -> Result<SocketAddr> {
    if let Some(address) = args.admin {
        return Ok(address);
    }
    if let Some(file) = &args.config {
        let config = Agent::load_config(file).map_err(|problems| anyhow!("{problems}"))?;
        return Ok(config.admin.address);
    }
    let path = args.data.as_deref().unwrap_or(Path::new(DEV_DIR)).join(FILE);
    if !path.exists() {
        bail!(
            "no dev run is ready here ({} is missing)\n  next: tailway agent files --config {}",
            path.display(),
            Agent::CONFIG_PATH
        );
    }
    let admin = Published::read(&path)?.agent.admin;
    admin.parse().with_context(|| format!("{}: agent.admin is {admin:?}", path.display()))
}

/// A table, and below it what is wrong with files of which less is guaranteed.
fn lines(files: &[Value]) -> Vec<String> {
    let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
    rows.extend(files.iter().map(row));
    let mut lines = table(&rows);
    for file in files {
        let path = text(&file["path"]);
        if let Some(why) = file["guarantee_why"].as_str() {
            let since = file["guarantee_since"].as_i64().map_or_else(String::new, since);
            lines.push(format!("{path}: at least once{since}, because {why}"));
        }
        let lost = file["lost"].as_u64().unwrap_or_default();
        if lost > 0 {
            lines.push(format!(
                "{path}: {} lost, truncated away before they were read; have it rotated by renaming",
                bytes(lost)
            ));
        }
        if let Some(trouble) = file["trouble"].as_str() {
            lines.push(format!("{path}: {trouble}"));
        }
    }
    lines
}

fn row(file: &Value) -> Vec<String> {
    let number = |key: &str| file[key].as_u64().unwrap_or_default();
    let guarantee = match text(&file["guarantee"]) {
        "exactly-once" => "exactly once",
        _ => "at least once",
    };
    vec![
        text(&file["path"]).to_owned(),
        text(&file["generation"]).chars().take(8).collect(),
        text(&file["state"]).to_owned(),
        number("size").to_string(),
        number("read").to_string(),
        number("acked").to_string(),
        bytes(number("lag")),
        number("plans_open").to_string(),
        guarantee.to_owned(),
    ]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn since(ms: i64) -> String {
    format!(" since {}", moment(WallMs(ms)))
}

/// What concerns all of them.
fn notes(report: &Value, shown: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let total = report["files_total"].as_u64().unwrap_or_default();
    let more = total.saturating_sub(shown as u64);
    if more > 0 {
        notes.push(format!("files without anything to do that are not shown: {more}"));
    }
    let lost = report["bytes_lost"].as_u64().unwrap_or_default();
    if lost > 0 {
        notes.push(format!(
            "lost since the agent started, because files went away before they were read: {}",
            bytes(lost)
        ));
    }
    for (what, trouble) in
        [("journal", &report["journal_trouble"]), ("output", &report["output"]["trouble"])]
    {
        if let Some(trouble) = trouble.as_str() {
            notes.push(format!("{what}: {trouble}"));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(why: Option<&str>) -> Value {
        json!({
            "path": "/a.log", "generation": "0123456789abcdef", "state": "idle", "size": 5,
            "read": 4, "acked": 3, "lag": 2, "lost": 0, "plans_open": 1,
            "guarantee": if why.is_some() { "at-least-once" } else { "exactly-once" },
            "guarantee_since": why.map(|_| 1_700_000_000_123_i64), "guarantee_why": why,
            "trouble": null,
        })
    }

    #[test]
    fn the_table_says_what_is_guaranteed_since_when_and_why() {
        let heading = "PATH    GENERATION  STATE  SIZE  READ  ACKED  LAG  OPEN  GUARANTEE";
        let row = "/a.log  01234567    idle   5     4     3      2 B  1     ";
        assert_eq!(lines(&[file(None)]), [heading.to_owned(), format!("{row}exactly once")]);
        let why = "/a.log: at least once since 2023-11-14T22:13:20Z, because of this";
        let expected = [heading.to_owned(), format!("{row}at least once"), why.to_owned()];
        assert_eq!(lines(&[file(Some("of this"))]), expected);
    }

    #[test]
    fn what_is_lost_is_said() {
        let mut file = file(None);
        file["lost"] = json!(1_500);
        let said = lines(&[file]).pop().unwrap();
        let expected = "/a.log: 1.5 kB lost, truncated away before they were read; have it rotated by renaming";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_not_in_the_table_is_noted() {
        let output = json!({"trouble": "refused"});
        let report =
            json!({"files_total": 9, "bytes_lost": 5, "journal_trouble": null, "output": output});
        let expected = [
            "files without anything to do that are not shown: 8",
            "lost since the agent started, because files went away before they were read: 5 B",
            "output: refused",
        ];
        assert_eq!(notes(&report, 1), expected);
    }
}
