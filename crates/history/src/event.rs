//! One event of a history, and its JSON form.
//!
//! `{"proc", "f", "type", "t0", "t1", "tp", "off", "val", "epoch", ...}`: who, what, how it ended, begin and end in
//! microseconds of one clock for all processes, and what the kind of event needs. `tp` is `topic/partition` (no topic name
//! holds a slash), or `topic` alone where a send's partition is not known; for lines and documents it is the file's name.
//! `val` is `client << 40 | n`, n rising with the client's sends. The form is strict: an unknown or missing field is refused.
//!
//! | f | proc | means |
//! | --- | --- | --- |
//! | `send` | producer | one record; `ok` acknowledged (at `off`, where told), `fail` surely not written, `info` unknown. `idem: false`: a producer without idempotence |
//! | `assign` | consumer | begins to read `tp` at `off`; with `group` as a member, at the committed offset, `off` left out; `drain: true` begins the final drain |
//! | `poll` | consumer | read `val` at `off`; no `val`: a payload that no client makes. `hw`: the high watermark that came with it; `epoch`: the batch's; `ts`: the record's, in ms |
//! | `drain` | consumer | ended the final drain of `tp` at the high watermark `off` |
//! | `commit` | member | committed `off`, the next to read, for `group`; `ok`, `fail` or `info` |
//! | `hw` | anyone | was told by the leader (of `epoch`) that the high watermark of `tp` is `off` |
//! | `ack` | broker | acknowledged a produce request as leader of `epoch` |
//! | `fence` | broker | learned that it no longer leads up to and with `epoch` |
//! | `dump` | replica | after its stop holds `val` (batch leader `epoch`, batch `crc`) at `off`; `fail`: the CRC does not hold |
//! | `line`, `doc` | host, sink | a line of a file, in file order; a document made of one, in the sink's order |
//! | `fault` | nemesis | `note` was done between `t0` and `t1` |

use serde::{Deserialize, Serialize};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was surely not done.
    Fail,
    /// Nobody knows.
    Info,
}

/// What was done; fields as in the module's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Send { tp: String, off: Option<u64>, val: u64, idempotent: bool },
    Assign { tp: String, off: Option<u64>, group: Option<String>, drain: bool },
    Poll { tp: String, off: u64, val: Option<u64>, epoch: Option<u32>, hw: Option<u64> },
    Drain { tp: String, off: u64 },
    Commit { tp: String, off: u64, group: String },
    HighWatermark { tp: String, off: u64, epoch: Option<u32> },
    Ack { tp: String, epoch: u32 },
    Fence { tp: String, epoch: u32 },
    Dump { tp: String, off: u64, val: Option<u64>, epoch: Option<u32>, crc: Option<u32> },
    Line { file: String, val: u64 },
    Doc { file: String, val: u64 },
    Fault { note: String },
}

/// One event. Only sends, commits and dumps end otherwise than `Ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which process saw it. The events of one process come in the order in which they happened to it.
    pub proc: String,
    /// Begin, in microseconds.
    pub t0: u64,
    /// End, in microseconds, not before `t0`.
    pub t1: u64,
    pub outcome: Outcome,
    pub act: Act,
}

/// Why a line is not an event.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("`{f}` events need `{field}`")]
    Missing { f: &'static str, field: &'static str },
    #[error("`{f}` events have no type `{outcome:?}`")]
    Outcome { f: &'static str, outcome: Outcome },
    #[error("ends (t1 {t1}) before it begins (t0 {t0})")]
    Backwards { t0: u64, t1: u64 },
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum F {
    Send,
    Assign,
    Poll,
    Drain,
    Commit,
    Hw,
    Ack,
    Fence,
    Dump,
    Line,
    Doc,
    Fault,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    proc: String,
    f: F,
    #[serde(rename = "type")]
    outcome: Outcome,
    t0: u64,
    t1: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    off: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hw: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    idem: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    drain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc: Option<u32>,
    /// For people and for other tools; no check needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ts: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Event {
    /// Reads one line of a history.
    pub fn parse(line: &str) -> Result<Self, Unfit> {
        let raw: Raw = serde_json::from_str(line)?;
        let (f, outcome) = (raw.f.name(), raw.outcome);
        if raw.t1 < raw.t0 {
            return Err(Unfit::Backwards { t0: raw.t0, t1: raw.t1 });
        }
        let fits = match raw.f {
            F::Send | F::Commit => true,
            F::Dump => outcome != Outcome::Info,
            _ => outcome == Outcome::Ok,
        };
        if !fits {
            return Err(Unfit::Outcome { f, outcome });
        }
        let (proc, t0, t1) = (raw.proc.clone(), raw.t0, raw.t1);
        Ok(Event { proc, t0, t1, outcome, act: raw.act()? })
    }

    /// The line that `parse` reads.
    pub fn to_line(&self) -> String {
        // Numbers, strings and booleans always have a JSON form.
        serde_json::to_string(&Raw::from(self)).unwrap_or_default()
    }

    /// The kind of event, as `f` spells it.
    pub fn f(&self) -> &'static str {
        Raw::kind(&self.act).name()
    }

    /// The partition (or topic, or file) of the event; a fault has none.
    pub fn tp(&self) -> Option<&str> {
        match &self.act {
            Act::Send { tp, .. }
            | Act::Assign { tp, .. }
            | Act::Poll { tp, .. }
            | Act::Drain { tp, .. }
            | Act::Commit { tp, .. }
            | Act::HighWatermark { tp, .. }
            | Act::Ack { tp, .. }
            | Act::Fence { tp, .. }
            | Act::Dump { tp, .. } => Some(tp),
            Act::Line { file, .. } | Act::Doc { file, .. } => Some(file),
            Act::Fault { .. } => None,
        }
    }
}

impl F {
    fn name(self) -> &'static str {
        match self {
            F::Send => "send",
            F::Assign => "assign",
            F::Poll => "poll",
            F::Drain => "drain",
            F::Commit => "commit",
            F::Hw => "hw",
            F::Ack => "ack",
            F::Fence => "fence",
            F::Dump => "dump",
            F::Line => "line",
            F::Doc => "doc",
            F::Fault => "fault",
        }
    }
}

impl Raw {
    fn act(self) -> Result<Act, Unfit> {
        let f = self.f.name();
        let need = |field| Unfit::Missing { f, field };
        let tp = self.tp.ok_or(need("tp"));
        let off = self.off.ok_or(need("off"));
        let val = self.val.ok_or(need("val"));
        let epoch = self.epoch.ok_or(need("epoch"));
        Ok(match self.f {
            F::Send => Act::Send { tp: tp?, off: self.off, val: val?, idempotent: self.idem },
            F::Assign => {
                Act::Assign { tp: tp?, off: self.off, group: self.group, drain: self.drain }
            }
            F::Poll => {
                Act::Poll { tp: tp?, off: off?, val: self.val, epoch: self.epoch, hw: self.hw }
            }
            F::Drain => Act::Drain { tp: tp?, off: off? },
            F::Commit => {
                Act::Commit { tp: tp?, off: off?, group: self.group.ok_or(need("group"))? }
            }
            F::Hw => Act::HighWatermark { tp: tp?, off: off?, epoch: self.epoch },
            F::Ack => Act::Ack { tp: tp?, epoch: epoch? },
            F::Fence => Act::Fence { tp: tp?, epoch: epoch? },
            F::Dump => {
                Act::Dump { tp: tp?, off: off?, val: self.val, epoch: self.epoch, crc: self.crc }
            }
            F::Line => Act::Line { file: tp?, val: val? },
            F::Doc => Act::Doc { file: tp?, val: val? },
            F::Fault => Act::Fault { note: self.note.ok_or(need("note"))? },
        })
    }

    fn kind(act: &Act) -> F {
        match act {
            Act::Send { .. } => F::Send,
            Act::Assign { .. } => F::Assign,
            Act::Poll { .. } => F::Poll,
            Act::Drain { .. } => F::Drain,
            Act::Commit { .. } => F::Commit,
            Act::HighWatermark { .. } => F::Hw,
            Act::Ack { .. } => F::Ack,
            Act::Fence { .. } => F::Fence,
            Act::Dump { .. } => F::Dump,
            Act::Line { .. } => F::Line,
            Act::Doc { .. } => F::Doc,
            Act::Fault { .. } => F::Fault,
        }
    }
}

impl From<&Event> for Raw {
    fn from(event: &Event) -> Self {
        let mut raw = Raw {
            proc: event.proc.clone(),
            f: Raw::kind(&event.act),
            outcome: event.outcome,
            t0: event.t0,
            t1: event.t1,
            tp: event.tp().map(str::to_owned),
            off: None,
            val: None,
            epoch: None,
            hw: None,
            group: None,
            idem: true,
            drain: false,
            crc: None,
            ts: None,
            note: None,
        };
        match &event.act {
            Act::Send { off, val, idempotent, .. } => {
                (raw.off, raw.val, raw.idem) = (*off, Some(*val), *idempotent);
            }
            Act::Assign { off, group, drain, .. } => {
                (raw.off, raw.group, raw.drain) = (*off, group.clone(), *drain);
            }
            Act::Poll { off, val, epoch, hw, .. } => {
                (raw.off, raw.val, raw.epoch, raw.hw) = (Some(*off), *val, *epoch, *hw);
            }
            Act::Drain { off, .. } => raw.off = Some(*off),
            Act::Commit { off, group, .. } => {
                (raw.off, raw.group) = (Some(*off), Some(group.clone()));
            }
            Act::HighWatermark { off, epoch, .. } => (raw.off, raw.epoch) = (Some(*off), *epoch),
            Act::Ack { epoch, .. } | Act::Fence { epoch, .. } => raw.epoch = Some(*epoch),
            Act::Dump { off, val, epoch, crc, .. } => {
                (raw.off, raw.val, raw.epoch, raw.crc) = (Some(*off), *val, *epoch, *crc);
            }
            Act::Line { val, .. } | Act::Doc { val, .. } => raw.val = Some(*val),
            Act::Fault { note } => raw.note = Some(note.clone()),
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_its_line() {
        let lines = [
            r#"{"proc":"p","f":"send","type":"ok","t0":1,"t1":2,"tp":"t/0","off":3,"val":4}"#,
            r#"{"proc":"p","f":"send","type":"info","t0":1,"t1":2,"tp":"t","val":4,"idem":false}"#,
            r#"{"proc":"c","f":"assign","type":"ok","t0":1,"t1":2,"tp":"t/0","off":0,"drain":true}"#,
            r#"{"proc":"c","f":"assign","type":"ok","t0":1,"t1":2,"tp":"t/0","group":"g"}"#,
            r#"{"proc":"c","f":"poll","type":"ok","t0":1,"t1":2,"tp":"t/0","off":3,"val":4,"epoch":0,"hw":9}"#,
            r#"{"proc":"c","f":"poll","type":"ok","t0":1,"t1":2,"tp":"t/0","off":3}"#,
            r#"{"proc":"c","f":"drain","type":"ok","t0":1,"t1":2,"tp":"t/0","off":3}"#,
            r#"{"proc":"c","f":"commit","type":"fail","t0":1,"t1":2,"tp":"t/0","off":3,"group":"g"}"#,
            r#"{"proc":"c","f":"hw","type":"ok","t0":1,"t1":2,"tp":"t/0","off":3,"epoch":1}"#,
            r#"{"proc":"b","f":"ack","type":"ok","t0":1,"t1":2,"tp":"t/0","epoch":1}"#,
            r#"{"proc":"b","f":"fence","type":"ok","t0":1,"t1":2,"tp":"t/0","epoch":1}"#,
            r#"{"proc":"b","f":"dump","type":"fail","t0":1,"t1":2,"tp":"t/0","off":3,"val":4,"epoch":1,"crc":7}"#,
            r#"{"proc":"h","f":"line","type":"ok","t0":1,"t1":2,"tp":"/a.log","val":4}"#,
            r#"{"proc":"s","f":"doc","type":"ok","t0":1,"t1":2,"tp":"/a.log","val":4}"#,
            r#"{"proc":"n","f":"fault","type":"ok","t0":1,"t1":2,"note":"kill"}"#,
        ];
        for line in lines {
            assert_eq!(Event::parse(line).unwrap().to_line(), line);
        }
    }

    #[test]
    fn what_is_not_an_event_is_refused_by_name() {
        let cases = [
            (r#"{"proc":"p","f":"send","type":"ok","t0":1,"t1":2,"tp":"t/0"}"#, "need `val`"),
            (r#"{"proc":"p","f":"poll","type":"ok","t0":1,"t1":2,"tp":"t/0","val":1}"#, "`off`"),
            (
                r#"{"proc":"p","f":"poll","type":"info","t0":1,"t1":2,"tp":"t/0","off":1}"#,
                "no type `Info`",
            ),
            (r#"{"proc":"p","f":"hw","type":"ok","t0":3,"t1":2,"tp":"t/0","off":1}"#, "before"),
            (r#"{"proc":"p","f":"sent","type":"ok","t0":1,"t1":2}"#, "unknown variant `sent`"),
            (
                r#"{"proc":"p","f":"fault","type":"ok","t0":1,"t1":2,"note":"x","vla":1}"#,
                "unknown field `vla`",
            ),
            (r#"{"proc":"p","f":"send","type":"ok","t0":1"#, "EOF"),
            ("", "EOF"),
        ];
        for (line, expected) in cases {
            let said = Event::parse(line).unwrap_err().to_string();
            assert!(said.contains(expected), "{line}: {said}");
        }
    }
}
