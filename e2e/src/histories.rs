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

type Change = dyn Fn(&mut [History]);

/// One event changed.
pub struct Mutation {
    /// What was done, to which events.
    pub what: String,
    /// The check that must flag it.
    pub check: &'static str,
    how: Box<Change>,
}

impl Mutation {
    /// The histories with the change.
    pub fn apply(&self, histories: &[History]) -> Vec<History> {
        let mut mutated = histories.to_vec();
        (self.how)(&mut mutated);
        mutated
    }
}

struct Changes<'a> {
    histories: &'a [History],
    out: Vec<Mutation>,
}

impl Changes<'_> {
    fn add(
        &mut self,
        what: &str,
        check: &'static str,
        places: &[Place],
        how: impl Fn(&mut [History]) + 'static,
    ) {
        let said = |(file, index): &Place| {
            let history = &self.histories[*file];
            format!("{}:{} {}", history.name, index + 1, history.events[*index])
        };
        let of: Vec<String> = places.iter().map(said).collect();
        let what = format!("{what}: {}", of.join(" and "));
        self.out.push(Mutation { what, check, how: Box::new(how) });
    }
}

/// One change of each kind.
pub fn mutations(histories: &[History]) -> Result<Vec<Mutation>> {
    let mut changes = Changes { histories, out: Vec::new() };
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

    changes.add("drop", "K4", &[send], move |all| drop(remove(all, send)));
    changes.add("drop", "K6", &[poll], move |all| drop(remove(all, poll)));
    changes.add("drop", "K6", &[drained], move |all| drop(remove(all, drained)));
    for (what, place) in [("poll", poll), ("send", send)] {
        let check = if what == "poll" { "K6" } else { "K2" };
        changes.add("repeat", check, &[place], move |all| {
            let again = at(all, place).clone();
            all[place.0].events.insert(place.1, again);
        });
    }
    let later = next_of(histories, poll, &["f", "tp"])?;
    changes.add("swap", "K6", &[poll, later], move |all| all[poll.0].events.swap(poll.1, later.1));
    let other = next_of(histories, send, &["f", "type", "tp"])?;
    changes.add("swap the offsets of", "K1", &[send, other], move |all| {
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
        changes.add(&format!("re-offset by {by}"), check, &[place], move |all| {
            let off = &mut at(all, place)["off"];
            *off = json!(off.as_u64().unwrap_or(0).saturating_add_signed(by));
        });
    }
    for (check, place) in [("K1", send), ("K1", poll), ("K1", drained)] {
        changes.add("re-value", check, &[place], move |all| {
            let val = &mut at(all, place)["val"];
            *val = json!(val.as_u64().unwrap_or(0) ^ (1 << 39));
        });
    }
    changes.add("call failed", "K4", &[send], move |all| at(all, send)["type"] = json!("fail"));
    let end = (drained.0, histories[drained.0].events.len() - 1);
    changes.add("truncate before", "K3", &[end], move |all| all[end.0].events.truncate(end.1));
    Ok(changes.out)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutation_changes_one_file() {
        let event = |proc: &str, f: &str, off: u64| json!({"proc": proc, "f": f, "type": "ok", "tp": "t/0", "off": off, "val": off});
        let file = |proc: &str, fs: &[&str]| History {
            name: format!("{proc}.jsonl"),
            events: (0..4).flat_map(|n| fs.iter().map(move |f| event(proc, f, 600 + n))).collect(),
        };
        let histories = [
            file("producer", &["send"]),
            file("confluent-reader", &["poll", "hw"]),
            file("member", &["commit"]),
            file("drain", &["poll", "drain"]),
        ];
        let mutations = mutations(&histories).unwrap();
        assert_eq!(mutations.len(), 17);
        for mutation in mutations {
            let mutated = mutation.apply(&histories);
            let changed = histories.iter().zip(&mutated).filter(|(a, b)| a.events != b.events);
            assert_eq!(changed.count(), 1, "{}", mutation.what);
        }
    }
}
