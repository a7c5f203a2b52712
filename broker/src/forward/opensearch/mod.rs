//! OpenSearch and Elasticsearch: `_bulk` with `create`, and what makes a repeated `create` harmless.
//!
//! Within one index the second `create` of an id is refused. A data stream rolls over to the next index, which would take the
//! id again. So each partition's commit carries the write index at or after which everything above the commit may have gone
//! (the floor); it is durable before the first record is sent. Whatever is in doubt, after a lost answer or an earlier run,
//! is looked up in every backing index from the floor on before it is sent again.
//! Invariant: the floor is never newer than the oldest index that a record above the durable commit may be in.

mod bulk;
mod classify;
pub(crate) mod document;
mod http;
mod setup;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tailway_metadata::Secret;
use tailway_metadata::time::WallMs;

use super::record::Record;
use super::sink::Place;
use crate::config::{Auth, Naming, OpenSearchConfig, SinkLimits};
use crate::machine::forward::{Failure, Item, Pause, PauseKind};
use bulk::Operation;
use document::Document;
use http::{Answer, NoAnswer, Nodes, Question};
pub use setup::SetUp;

/// An answer to a bulk has some 100 bytes an item, and more for what failed.
const BULK_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest floor that is believed.
const FLOOR_BYTES_MAX: usize = 512;

/// A sink.
pub(crate) struct OpenSearch {
    nodes: Nodes,
    config: OpenSearchConfig,
    /// As it was read last. Read anew after it was refused.
    authorization: Mutex<Option<HeaderValue>>,
}

/// One partition's way into it.
pub(crate) struct Lane {
    sink: Arc<OpenSearch>,
    place: Place,
    /// The data stream, if it goes to one.
    stream: Option<String>,
    state: Mutex<Backing>,
}

#[derive(Debug, Default)]
struct Backing {
    /// The stream is there, and this is its newest known index.
    current: Option<String>,
    floor: Option<String>,
    /// A name that turned out to be an alias, and of what.
    alias: Option<(String, String)>,
}

impl OpenSearch {
    pub(crate) fn new(config: &OpenSearchConfig, limits: &SinkLimits) -> Self {
        Self {
            nodes: Nodes::new(&config.hosts, limits.request_timeout),
            config: config.clone(),
            authorization: Mutex::default(),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let authorization = self.authorization()?;
        let answer =
            self.nodes.ask(question, authorization.as_ref()).await.map_err(
                |error| match error {
                    NoAnswer::Unsent(cause) => Failure::Unsent { cause: cause.into() },
                    NoAnswer::Doubtful(cause) => Failure::doubtful(cause),
                },
            )?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            *lock(&self.authorization) = None;
        }
        Ok(answer)
    }

    /// Asks for JSON. `None`: it is not there (404).
    async fn ask_for(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Option<Bytes>, Failure> {
        let question = Question {
            method,
            path: path.to_owned(),
            content_type: "application/json",
            gzip: false,
            body,
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(&question).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer.body)),
            _ => Err(failure(&answer)),
        }
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let mut known = lock(&self.authorization);
        if known.is_some() || self.config.auth == Auth::None {
            return Ok(known.clone());
        }
        let pause = |cause: String| {
            Failure::Pause(Pause { kind: PauseKind::Credentials, cause: cause.into() })
        };
        let text = match &self.config.auth {
            Auth::None => return Ok(None),
            Auth::Basic { username, password } => {
                let password = password.read().map_err(|error| pause(error.to_string()))?;
                let both = Secret::new(format!("{username}:{}", password.expose()));
                Secret::new(format!("Basic {}", STANDARD.encode(both.expose())))
            }
            Auth::ApiKey(key) => {
                let key = key.read().map_err(|error| pause(error.to_string()))?;
                Secret::new(format!("ApiKey {}", key.expose()))
            }
        };
        let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
            pause("the credentials have characters that no header can carry".into())
        })?;
        value.set_sensitive(true);
        *known = Some(value.clone());
        Ok(Some(value))
    }
}

impl Lane {
    pub(crate) fn new(sink: Arc<OpenSearch>, place: Place) -> Self {
        let stream = match &sink.config.naming {
            Naming::DataStream(template) => Some(template.render(&place.topic, WallMs(0))),
            Naming::Index(_) => None,
        };
        Self { sink, place, stream, state: Mutex::default() }
    }

    /// Whether it can be asked what it has: within one index nothing has to be.
    pub(crate) fn looks_up(&self) -> bool {
        self.stream.is_some() && !tailway_faults::is_planted("broker.forward_doubts_not_looked_up")
    }

    /// Makes sure that the target is there and that the floor is known.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        let Some(stream) = &self.stream else { return Ok(()) };
        if self.state().current.is_some() {
            return Ok(());
        }
        let mut indices = self.backing_indices(stream).await?;
        if indices.is_empty() {
            self.create_stream(stream).await?;
            indices = self.backing_indices(stream).await?;
        }
        let mut held = self.state();
        let state = &mut *held;
        state.current = indices.pop();
        if state.floor.is_none() {
            state.floor.clone_from(&state.current);
        }
        Ok(())
    }

    async fn create_stream(&self, stream: &str) -> Result<(), Failure> {
        let question = Question {
            method: Method::PUT,
            path: format!("/_data_stream/{stream}"),
            content_type: "application/json",
            gzip: false,
            body: Bytes::new(),
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.sink.ask(&question).await?;
        let exists = || {
            let error = classify::error_in(&answer.body);
            error.is_some_and(|error| error.kind == "resource_already_exists_exception")
        };
        if answer.status.is_success() || exists() {
            return Ok(());
        }
        if answer.status == StatusCode::BAD_REQUEST {
            let said = String::from_utf8_lossy(&answer.body);
            let said: String = said.chars().take(300).collect();
            let cause = format!(
                "the data stream {stream} is not there and cannot be made ({said}); run: tailway sink setup {}",
                self.place.sink
            );
            return Err(Failure::Pause(Pause { kind: PauseKind::Target, cause: cause.into() }));
        }
        Err(failure(&answer))
    }

    /// The oldest first; none: the stream is not there.
    async fn backing_indices(&self, stream: &str) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        struct Whole {
            data_streams: Vec<Stream>,
        }
        #[derive(Deserialize)]
        struct Stream {
            indices: Vec<Index>,
        }
        #[derive(Deserialize)]
        struct Index {
            index_name: String,
        }
        let path = format!("/_data_stream/{stream}");
        let Some(body) = self.sink.ask_for(Method::GET, &path, Bytes::new()).await? else {
            return Ok(Vec::new());
        };
        let whole: Whole = serde_json::from_slice(&body)
            .map_err(|error| Failure::doubtful(format!("GET {path} was answered with {error}")))?;
        let first = whole.data_streams.into_iter().next();
        Ok(first.map_or_else(Vec::new, |stream| {
            stream.indices.into_iter().map(|index| index.index_name).collect()
        }))
    }

    /// Sends the records; what cannot be a document is refused without being sent.
    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Result<Vec<Item>, Failure> {
        self.prepare().await?;
        if let Some((alias, of)) = self.state().alias.clone() {
            let cause = format!(
                "{alias} is an alias of {of}: behind an alias a record could be there twice; write data_stream:, or the name of an index"
            );
            return Err(Failure::Pause(Pause { kind: PauseKind::Target, cause: cause.into() }));
        }
        let names = self.names();
        let gzip = self.sink.config.gzip;
        let building = tailway_runtime::spawn_blocking(move || build(&records, &names, gzip));
        let Ok(built) = building.await else {
            return Err(Failure::Unsent { cause: "the broker stops".into() });
        };
        let Built { body, refused, wanted } =
            built.map_err(|error| Failure::Unsent { cause: error.to_string().into() })?;
        let count = refused.iter().filter(|item| item.is_none()).count();
        if count == 0 {
            return Ok(refused.into_iter().flatten().collect());
        }
        let question = Question {
            method: Method::POST,
            path: bulk::BULK_PATH.to_owned(),
            content_type: "application/x-ndjson",
            gzip,
            body,
            bytes_max: BULK_ANSWER_BYTES_MAX,
        };
        let answer = self.sink.ask(&question).await?;
        if answer.status != StatusCode::OK {
            return Err(failure(&answer));
        }
        let answered = bulk::answered(&answer.body).map_err(|error| {
            Failure::doubtful(format!("the answer of {} is not whole: {error}", answer.from))
        })?;
        if answered.items.len() != count {
            let got = answered.items.len();
            return Err(Failure::doubtful(format!("{got} items came back for {count} records")));
        }
        self.note_indices(&answered.indices, &wanted);
        let mut items = answered.items.into_iter();
        Ok(refused.into_iter().filter_map(|item| item.or_else(|| items.next())).collect())
    }

    fn names(&self) -> Names {
        let fixed = match (&self.stream, &self.sink.config.naming) {
            (Some(stream), _) => Some(stream.clone()),
            (None, Naming::Index(template) | Naming::DataStream(template)) => {
                (!template.is_dated()).then(|| template.render(&self.place.topic, WallMs(0)))
            }
        };
        Names { fixed, naming: self.sink.config.naming.clone(), place: self.place.clone() }
    }

    fn note_indices(&self, indices: &[String], wanted: &BTreeSet<String>) {
        let mut state = self.state();
        for index in indices {
            if self.stream.is_some() {
                let newer = state.current.as_ref().is_none_or(|known| is_newer(index, known));
                if newer {
                    state.current = Some(index.clone());
                }
            } else if !wanted.contains(index) {
                let alias = wanted.first().cloned().unwrap_or_default();
                state.alias = Some((alias, index.clone()));
            }
        }
    }

    /// Which of the records are there, whatever index took them.
    pub(crate) async fn look_up(&self, records: &[Arc<Record>]) -> Result<Vec<bool>, Failure> {
        let mut found = vec![false; records.len()];
        let Some(stream) = &self.stream else { return Ok(found) };
        let ids: Vec<String> = records
            .iter()
            .map(|record| document::id_of(record, self.place.topic_id, self.place.partition))
            .collect();
        let indices = self.backing_indices(stream).await?;
        let floor = self.state().floor.clone();
        let from = floor.and_then(|floor| indices.iter().position(|index| *index == floor));
        for index in &indices[from.unwrap_or(0)..] {
            let open: Vec<usize> = (0..ids.len()).filter(|at| !found[*at]).collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<&str> = open.iter().map(|at| ids[*at].as_str()).collect();
            let body =
                bulk::lookup(&asked).map_err(|error| Failure::doubtful(error.to_string()))?;
            let path = format!("/{index}/_mget?_source=false&realtime=true");
            let Some(body) = self.sink.ask_for(Method::POST, &path, body).await? else { continue };
            let there = bulk::looked_up(&body, asked.len()).map_err(|error| {
                Failure::doubtful(format!("POST {path} was answered with {error}"))
            })?;
            for (at, there) in open.into_iter().zip(there) {
                found[at] = there;
            }
        }
        Ok(found)
    }

    /// What goes into the commit.
    pub(crate) fn memory(&self) -> String {
        self.state().floor.clone().unwrap_or_default()
    }

    /// What an earlier run put into it.
    pub(crate) fn remember(&self, memory: &str) {
        let known = !memory.is_empty() && memory.len() <= FLOOR_BYTES_MAX;
        // Without one, every backing index is looked into.
        self.state().floor = Some(if known { memory.to_owned() } else { String::new() });
    }

    /// Nothing that was sent is open: what comes goes to the newest index, or a later one.
    pub(crate) fn settled(&self) {
        let mut held = self.state();
        let state = &mut *held;
        if state.current.is_some() {
            state.floor.clone_from(&state.current);
        }
    }

    fn state(&self) -> MutexGuard<'_, Backing> {
        lock(&self.state)
    }
}

/// How records are named.
struct Names {
    fixed: Option<String>,
    naming: Naming,
    place: Place,
}

/// A body, what was refused instead, and the names that are in it.
struct Built {
    body: Bytes,
    refused: Vec<Option<Item>>,
    wanted: BTreeSet<String>,
}

fn build(records: &[Arc<Record>], names: &Names, gzip: bool) -> std::io::Result<Built> {
    let Place { topic, topic_id, partition, .. } = &names.place;
    let mut refused = Vec::with_capacity(records.len());
    let mut documents: Vec<(Document, String)> = Vec::with_capacity(records.len());
    for record in records {
        if let Some(why) = &record.unreadable {
            refused.push(Some(bulk::refused("unreadable_batch", why)));
            continue;
        }
        refused.push(None);
        let document = Document::of(record, *topic_id, *partition);
        let index = match (&names.fixed, &names.naming) {
            (Some(name), _) => name.clone(),
            (None, Naming::Index(template) | Naming::DataStream(template)) => {
                template.render(topic, document.at)
            }
        };
        documents.push((document, index));
    }
    let operations = documents.iter().map(|(document, index)| Operation {
        index,
        id: &document.id,
        json: &document.json,
    });
    let body = bulk::body(operations, gzip)?;
    let wanted = documents.into_iter().map(|(_, index)| index).collect();
    Ok(Built { body, refused, wanted })
}

fn failure(answer: &Answer) -> Failure {
    classify::request(answer.status, &answer.from, &answer.body, answer.retry_after)
}

/// By the number at the end, which every rollover raises.
fn is_newer(index: &str, than: &str) -> bool {
    let number = |name: &str| name.rsplit('-').next().and_then(|digits| digits.parse::<u64>().ok());
    number(index) > number(than)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
