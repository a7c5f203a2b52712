//! How far the agent is, and, when nothing comes, why: read from the same status that `/status` serves.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::inputs::Inputs;
use super::screen::Progress;
use super::system::System;
use crate::output::bytes;

/// Most files that are named in an explanation.
const NAMED_MAX: usize = 3;

/// The agent's progress; `None` while it does not run.
pub(crate) fn of(system: &System) -> Option<Progress> {
    let status = system.agent()?.status.json();
    let shipper = &status["shipper"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let files = shipper["files"].as_array().map_or(&[][..], Vec::as_slice);
    let unacked: u64 = files.iter().map(|file| number(&file["unacked"])).sum();
    Some(Progress {
        lines: number(&shipper["lines"]),
        bytes: number(&shipper["bytes"]),
        lag: number(&shipper["behind"]) + unacked,
    })
}

/// Why there are no new records.
pub(crate) fn why(system: &System, inputs: &Inputs) -> String {
    let not_ready = system.not_ready();
    if !not_ready.is_empty() {
        return not_ready.join("; ");
    }
    let Some(agent) = system.agent() else { return "the agent is not running".to_owned() };
    let shipper = &agent.status.json()["shipper"];
    if let Some(trouble) = shipper["output"]["trouble"].as_str() {
        return format!("the agent cannot send: {trouble}");
    }
    let troubles = shipper["troubles"].as_array().map_or(&[][..], Vec::as_slice);
    let troubles = troubles.iter().take(NAMED_MAX).filter_map(|trouble| {
        Some(format!("{}: {}", trouble["path"].as_str()?, trouble["cause"].as_str()?))
    });
    let lag = of(system).map_or(0, |progress| progress.lag);
    let main = if lag > 0 {
        format!("{} wait to be read and acknowledged", bytes(lag))
    } else {
        of_files(inputs)
    };
    troubles.chain([main]).collect::<Vec<_>>().join("; ")
}

/// Everything works, so it is the files.
fn of_files(inputs: &Inputs) -> String {
    let mut said = Vec::new();
    for input in &inputs.0 {
        let Some(pattern) = &input.pattern else { continue };
        // Looked at again: files may have come since the start.
        let now = super::inputs::expand(pattern).unwrap_or_default();
        if now.is_empty() {
            said.push(format!("{} matches no file yet", input.typed));
        }
        for file in now {
            let name = shown(&file);
            said.push(match fs::metadata(&file) {
                Ok(found) if found.len() == 0 => format!("{name} is empty"),
                Ok(_) => format!("{name} is read to its end, nothing new is written"),
                Err(error) => format!("{name} cannot be read: {error}"),
            });
        }
    }
    let more = said.len().saturating_sub(NAMED_MAX);
    said.truncate(NAMED_MAX);
    if more > 0 {
        said.push(format!("and {more} more files like that"));
    }
    said.join("; ")
}

/// As one would type it here.
fn shown(file: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    file.strip_prefix(here).unwrap_or(file).display().to_string()
}
