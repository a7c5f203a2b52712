//! Histories as JSON values, and the same with one event changed: what the checker of histories must not let pass.
//!
//! The form is read here as any foreign tool would read it. Which event is changed follows from the history alone: the
//! middle one of those that fit.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The events of one file, in order.
#[derive(Clone, Debug)]
pub struct History {
    pub name: String,
    pub events: Vec<Value>,
}

/// Every `*.jsonl` of a folder, by name.
pub fn read_all(dir: &Path) -> Result<Vec<History>> {
    let mut out = Vec::new();
    for path in crate::checks::files_with(dir, "jsonl")? {
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let read = fs::read_to_string(&path)?;
        let events = read.lines().map(|line| {
            serde_json::from_str(line).with_context(|| format!("{name} is not JSON: {line}"))
        });
        out.push(History { events: events.collect::<Result<_>>()?, name: name.clone() });
    }
    Ok(out)
}

/// The events as the lines of a file.
pub fn lines(events: &[Value]) -> String {
    events.iter().flat_map(|event| [event.to_string(), "\n".to_owned()]).collect()
}

/// Where an event stands: file and index.
type Place = (usize, usize);

/// What was done, which check must say so, and the changed histories.
pub type Mutation = (String, &'static str, Vec<History>);

/// One change of each kind.
pub fn mutations(histories: &[History]) -> Result<Vec<Mutation>> {
    let mut out = Vec::new();
    let mut change = |what: &str, check, places: &[Place], how: &dyn Fn(&mut Vec<History>)| {
        let mut mutated = histories.to_vec();
        how(&mut mutated);
        let of: Vec<String> = places
            .iter()
            .map(|(file, index)| {
                format!(
                    "{}:{} {}",
                    histories[*file].name,
                    index + 1,
                    histories[*file].events[*index]
                )
            })
            .collect();
        out.push((format!("{what}: {}", of.join(" and ")), check, mutated));
    };
    let send = middle(histories, |e| e["f"] == "send" && e["type"] == "ok", "acknowledged send")?;
    let poll = middle(histories, |e| e["f"] == "poll" && e["proc"] == "confluent-reader", "poll")?;
    let drained =
        middle(histories, |e| e["f"] == "poll" && e["proc"] == "drain", "drained record")?;
    let commit = middle(
        histories,
        |e| e["f"] == "commit" && e["type"] == "ok" && e["off"].as_u64() > Some(500),
        "commit",
    )?;
    let hw = middle(histories, |e| e["f"] == "hw", "high watermark")?;

    change("drop", "K4", &[send], &|all| drop(remove(all, send)));
    change("drop", "K6", &[poll], &|all| drop(remove(all, poll)));
    change("drop", "K6", &[drained], &|all| drop(remove(all, drained)));
    for (what, place) in [("poll", poll), ("send", send)] {
        let check = if what == "poll" { "K6" } else { "K2" };
        change("repeat", check, &[place], &|all| {
            let again = at(all, place).clone();
            all[place.0].events.insert(place.1, again);
        });
    }
    let later = next_of(histories, poll, &["f", "tp"])?;
    change("swap", "K6", &[poll, later], &|all| all[poll.0].events.swap(poll.1, later.1));
    let other = next_of(histories, send, &["f", "type", "tp"])?;
    change("swap the offsets of", "K1", &[send, other], &|all| {
        let (a, b) = (at(all, send)["off"].clone(), at(all, other)["off"].clone());
        at(all, send)["off"] = b;
        at(all, other)["off"] = a;
    });
    let moves = [
        ("K1", send, 1),
        ("K6", poll, 1),
        ("K9", commit, 1_000_000),
        ("K9", commit, -500),
        ("K7", hw, 1_000_000),
    ];
    for (check, place, by) in moves {
        change(&format!("re-offset by {by}"), check, &[place], &|all| {
            let off = &mut at(all, place)["off"];
            *off = json!(off.as_u64().unwrap_or(0).saturating_add_signed(by));
        });
    }
    for (check, place) in [("K1", send), ("K1", poll), ("K1", drained)] {
        change("re-value", check, &[place], &|all| {
            let val = &mut at(all, place)["val"];
            *val = json!(val.as_u64().unwrap_or(0) ^ (1 << 39));
        });
    }
    change("call failed", "K4", &[send], &|all| at(all, send)["type"] = json!("fail"));
    let end = (drained.0, histories[drained.0].events.len() - 1);
    change("truncate before", "K3", &[end], &|all| all[end.0].events.truncate(end.1));
    Ok(out)
}

fn at(histories: &mut [History], (file, index): Place) -> &mut Value {
    &mut histories[file].events[index]
}

fn remove(histories: &mut [History], (file, index): Place) -> Value {
    histories[file].events.remove(index)
}

/// The middle one of the events that fit.
fn middle(histories: &[History], fits: impl Fn(&Value) -> bool, what: &str) -> Result<Place> {
    let mut places = Vec::new();
    for (file, history) in histories.iter().enumerate() {
        let fitting = history.events.iter().enumerate().filter(|(_, event)| fits(event));
        places.extend(fitting.map(|(index, _)| (file, index)));
    }
    places.get(places.len() / 2).copied().with_context(|| format!("there is no {what} to change"))
}

/// The next event of the file that agrees with this one in these fields.
fn next_of(histories: &[History], (file, index): Place, fields: &[&str]) -> Result<Place> {
    let events = &histories[file].events;
    let alike = |event: &Value| fields.iter().all(|field| event[*field] == events[index][*field]);
    let found = (index + 1..events.len()).find(|next| alike(&events[*next]));
    Ok((file, found.context("the changed event has no successor")?))
}
