//! The node of a simulated sink: answers what a broker asks as OpenSearch does, and is as troublesome as its plan says.
//!
//! What it does with a request it does at once, between two polls; troubles come before or after that. So a request is done
//! or it is not, and only this node knows. Each document that comes is compared with the record that its id names.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use tailway_client::TopicPartition;
use tailway_net::{HostPort, Limits, Listener, Security, Stream};
use tailway_runtime::sim::{HostRng, note};
use tokio::time::{Instant, sleep};

use super::http::{self, Answer, Request};
use super::index::{Created, Index, Place, place_of};
use super::{NAME_HEAD, STREAM_TAIL};
use crate::clients::Shared;
use crate::history::payload;
use crate::oracle::Durable;
use crate::plan::{SinkNaming, SinkPlan, SinkTrouble};
use crate::writer::{LINES_TOPIC, line_of};

/// Troubles with whole requests.
const OF_REQUESTS: [SinkTrouble; 6] = [
    SinkTrouble::Busy,
    SinkTrouble::Unavailable,
    SinkTrouble::Resets,
    SinkTrouble::LostAnswers,
    SinkTrouble::TruncatedAnswers,
    SinkTrouble::SlowAnswers,
];
const REQUEST_TROUBLE: f64 = 0.3;
const ITEM_TROUBLE: f64 = 0.1;
/// A stream rolls over after an answer that did not come whole, and after one that did.
const ROLLS_AFTER_DOUBT: f64 = 0.5;
const ROLLS: f64 = 0.03;
const SLOW_MS_MAX: u64 = 6_000;
/// Of so many records one is no document.
const REJECTED_ONE_IN: u32 = 12;

/// A node. Its host may die; what it has stays.
pub(super) struct Node {
    pub(super) plan: SinkPlan,
    pub(super) seed: u64,
    pub(super) shared: Shared,
    pub(super) state: Mutex<State>,
    pub(super) begun: Instant,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) healed: bool,
}

impl Node {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts and answers for as long as its host lives.
    pub(super) async fn serve(self: Arc<Self>, address: HostPort) {
        let limits = Limits::default();
        let Ok(listener) = Listener::bind(&address, Security::Plaintext, limits).await else {
            self.object("the sink's port is taken");
            return;
        };
        while let Ok(incoming) = listener.accept().await {
            let Ok(accepted) = incoming.establish().await else { continue };
            let node = Arc::clone(&self);
            drop(tailway_runtime::spawn(async move {
                let _permit = accepted.permit;
                if let Err(error) = node.converse(accepted.stream).await
                    && error.kind() == std::io::ErrorKind::InvalidData
                {
                    node.object(&error.to_string());
                }
            }));
        }
    }

    async fn converse(&self, mut stream: Stream) -> std::io::Result<()> {
        while let Some(request) = http::read(&mut stream).await? {
            let trouble = self.trouble();
            let Request { method, path, body } = &request;
            note(|| {
                let crc = crc32c::crc32c(body.as_bytes());
                format!("sink: {method} {path} {}+{crc:08x} {trouble:?}", body.len())
            });
            let mut rng = HostRng;
            match trouble {
                Some(SinkTrouble::Resets) => return Ok(()),
                Some(SinkTrouble::Busy) => {
                    let retry_after = rng.gen_bool(0.3).then_some(1);
                    let answer = Answer { retry_after, ..error(429, "rejected_execution", "full") };
                    http::write(&mut stream, &answer, None).await?;
                }
                Some(SinkTrouble::Unavailable) => {
                    if rng.gen_bool(0.5) {
                        self.answer(&request);
                        self.may_roll_over(ROLLS_AFTER_DOUBT);
                    }
                    http::write(&mut stream, &error(503, "unavailable", "gone"), None).await?;
                }
                Some(SinkTrouble::LostAnswers) => {
                    self.answer(&request);
                    self.may_roll_over(ROLLS_AFTER_DOUBT);
                    return Ok(());
                }
                Some(SinkTrouble::TruncatedAnswers) => {
                    let answer = self.answer(&request);
                    self.may_roll_over(ROLLS_AFTER_DOUBT);
                    let cut = rng.gen_range(0..answer.body.len().max(1));
                    return http::write(&mut stream, &answer, Some(cut)).await;
                }
                Some(SinkTrouble::SlowAnswers) => {
                    let wait = Duration::from_millis(rng.gen_range(0..SLOW_MS_MAX));
                    if self.may_be_late() && rng.gen_bool(0.5) {
                        sleep(wait).await;
                        let answer = self.answer(&request);
                        http::write(&mut stream, &answer, None).await?;
                    } else {
                        let answer = self.answer(&request);
                        self.may_roll_over(ROLLS_AFTER_DOUBT);
                        sleep(wait).await;
                        http::write(&mut stream, &answer, None).await?;
                    }
                }
                _ => {
                    let answer = self.answer(&request);
                    self.may_roll_over(ROLLS);
                    http::write(&mut stream, &answer, None).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether requests may be done after their client has given them up. With rollovers no client can tell that from
    /// one that was lost, so that the record may be there twice: this is not promised, and not simulated.
    pub(super) fn may_be_late(&self) -> bool {
        !(self.rolls_over() && self.plan.has(SinkTrouble::Rollovers))
    }

    fn rolls_over(&self) -> bool {
        self.plan.naming == SinkNaming::DataStream
    }

    fn trouble(&self) -> Option<SinkTrouble> {
        let mut rng = HostRng;
        if self.lock().healed || !rng.gen_bool(REQUEST_TROUBLE) {
            return None;
        }
        let own: Vec<SinkTrouble> =
            OF_REQUESTS.into_iter().filter(|trouble| self.plan.has(*trouble)).collect();
        own.choose(&mut rng).copied()
    }

    fn may_roll_over(&self, chance: f64) {
        if self.plan.has(SinkTrouble::Rollovers) && HostRng.gen_bool(chance) {
            self.roll_over();
        }
    }

    /// Every stream goes on in a new index.
    pub(super) fn roll_over(&self) {
        let mut state = self.lock();
        if !self.rolls_over() || state.healed {
            return;
        }
        for stream in state.index.streams() {
            note(|| format!("sink: {stream} rolls over"));
            state.index.roll_over(&stream);
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        match (request.method.as_str(), &parts[..]) {
            ("PUT", ["_data_stream", stream]) => {
                if self.lock().index.create_stream(stream) {
                    return good(&json!({ "acknowledged": true }));
                }
                error(400, "resource_already_exists_exception", "it is there")
            }
            ("GET", ["_data_stream", stream]) => {
                let state = self.lock();
                let Some(indices) = state.index.indices_of(stream) else {
                    return error(404, "index_not_found_exception", "no such stream");
                };
                let indices: Vec<Value> =
                    indices.iter().map(|name| json!({ "index_name": name })).collect();
                good(&json!({ "data_streams": [{ "name": stream, "indices": indices }] }))
            }
            ("POST", [index, "_mget"]) => self.look_up(index, &request.body),
            ("POST", ["_bulk"]) => match self.bulk(&request.body) {
                Ok(items) => good(&json!({ "errors": true, "items": items })),
                Err(cause) => {
                    self.object(&format!("a bulk is none: {cause}"));
                    error(400, "illegal_argument_exception", &cause)
                }
            },
            _ => {
                let Request { method, path, .. } = request;
                self.object(&format!("it was asked {method} {path}, which nobody asks a sink"));
                error(405, "method_not_allowed", "no such thing")
            }
        }
    }

    fn look_up(&self, index: &str, body: &str) -> Answer {
        let asked: Value = serde_json::from_str(body).unwrap_or_default();
        let ids = asked["ids"].as_array().map_or(&[][..], Vec::as_slice);
        let ids: Vec<&str> = ids.iter().filter_map(Value::as_str).collect();
        match self.lock().index.look_up(index, &ids) {
            Some(found) => {
                let docs = ids.iter().zip(found);
                let docs: Vec<Value> =
                    docs.map(|(id, found)| json!({ "_id": id, "found": found })).collect();
                good(&json!({ "docs": docs }))
            }
            None => error(404, "index_not_found_exception", "no such index"),
        }
    }

    fn bulk(&self, body: &str) -> Result<Vec<Value>, String> {
        let lines: Vec<&str> = body.lines().collect();
        if !body.ends_with('\n') || !lines.len().is_multiple_of(2) {
            return Err(format!("{} lines, or no line end", lines.len()));
        }
        let mut items = Vec::new();
        for pair in lines.chunks_exact(2) {
            let action: Value = serde_json::from_str(pair[0]).map_err(|e| e.to_string())?;
            let (target, id) = (&action["create"]["_index"], &action["create"]["_id"]);
            let (Some(target), Some(id)) = (target.as_str(), id.as_str()) else {
                return Err(format!("{} is no action of ours", pair[0]));
            };
            let place = topic_of(target).and_then(|topic| place_of(topic, id));
            let place = place.ok_or_else(|| format!("{target} {id} names no record"))?;
            let document: Value = serde_json::from_str(pair[1]).map_err(|e| e.to_string())?;
            if let Err(cause) = self.is_its_record(&place, &document) {
                self.object(&format!("{place:?}: {cause}"));
            }
            items.push(json!({ "create": self.create(target, id, place) }));
        }
        Ok(items)
    }

    /// The item of the answer.
    fn create(&self, target: &str, id: &str, place: Place) -> Value {
        // What came before they began is there, and is taken for that.
        let begun = self.begun.elapsed() >= self.plan.rejects_after;
        if begun && self.rejects(&place) && !self.lock().index.has(&place) {
            let cause = json!({ "type": "illegal_argument", "reason": "not a date" });
            let reason = json!({ "type": "mapper_parsing_exception", "reason": "failed to parse", "caused_by": cause });
            return json!({ "_index": target, "status": 400, "error": reason });
        }
        let mut rng = HostRng;
        let mut state = self.lock();
        let mut strikes =
            |trouble| self.plan.has(trouble) && !state.healed && rng.gen_bool(ITEM_TROUBLE);
        if strikes(SinkTrouble::BusyItems) {
            let reason = json!({ "type": "rejected_execution_exception", "reason": "full" });
            return json!({ "_index": target, "status": 429, "error": reason });
        }
        let unsure = strikes(SinkTrouble::UnsureItems);
        let reason = json!({ "type": "unavailable_shards_exception", "reason": "gone" });
        let unknown = json!({ "_index": target, "status": 503, "error": reason });
        if unsure && rng.gen_bool(0.5) {
            return unknown;
        }
        let makes_indices = !self.rolls_over();
        let created = state.index.create(target, id, place, makes_indices);
        drop(state);
        match created {
            _ if unsure => unknown,
            Ok(Created::New { index }) => json!({ "_index": index, "status": 201 }),
            Ok(Created::Conflict { index }) => {
                let reason =
                    json!({ "type": "version_conflict_engine_exception", "reason": "it is there" });
                json!({ "_index": index, "status": 409, "error": reason })
            }
            Ok(Created::NoTarget) => {
                let reason =
                    json!({ "type": "index_not_found_exception", "reason": "no such index" });
                json!({ "_index": target, "status": 404, "error": reason })
            }
            Err(cause) => {
                self.object(&format!("twice: {cause}"));
                json!({ "_index": target, "status": 201 })
            }
        }
    }

    /// Whether a record is no document, once rejects have begun.
    pub(super) fn rejects(&self, place: &Place) -> bool {
        let text = format!("{} {place:?}", self.seed);
        self.plan.has(SinkTrouble::Rejects)
            && crc32c::crc32c(text.as_bytes()).is_multiple_of(REJECTED_ONE_IN)
    }

    /// Whether a document is what is durable at its record's place.
    fn is_its_record(&self, place: &Place, document: &Value) -> Result<(), String> {
        let message = document["message"].as_str().ok_or("it has no message")?;
        let mut oracle = self.shared.oracle();
        if place.topic == LINES_TOPIC {
            oracle.read_lines();
            let line = line_of(Some(&message.to_owned().into()));
            let line = line.ok_or_else(|| format!("{message:?} is no line"))?;
            let dir = format!("{LINES_TOPIC}-{}", place.partition);
            let is_there = oracle.places_of_line(&line).iter().any(|(path, offset)| {
                *offset == place.offset && path.parent().is_some_and(|of| of.ends_with(&dir))
            });
            return if is_there { Ok(()) } else { Err(format!("{line:?} is not durable there")) };
        }
        let tp = TopicPartition::new(&*place.topic, place.partition);
        let durable = oracle.durable_value(&tp, place.offset);
        for found in oracle.take_findings() {
            self.shared.history.violation(found);
        }
        let Some(Durable(Some(val))) = durable else {
            return Err(format!("durable there is {durable:?}"));
        };
        let head = payload(val, 0);
        if message.starts_with(&*String::from_utf8_lossy(&head)) {
            return Ok(());
        }
        Err(format!("durable there is value {val}, and it is another one's"))
    }

    fn object(&self, cause: &str) {
        self.shared.history.violation(format!("sink: {cause}"));
    }
}

/// The topic whose records a name is for.
fn topic_of(target: &str) -> Option<&str> {
    let rest = target.strip_prefix(NAME_HEAD)?;
    rest.strip_suffix(STREAM_TAIL).or_else(|| rest.split('-').next())
}

fn good(body: &Value) -> Answer {
    Answer { status: 200, retry_after: None, body: body.to_string() }
}

fn error(status: u16, kind: &str, reason: &str) -> Answer {
    let body = json!({ "error": { "type": kind, "reason": reason }, "status": status });
    Answer { status, retry_after: None, body: body.to_string() }
}
