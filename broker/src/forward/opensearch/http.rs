//! HTTP/1.1 to the nodes of one sink: connections that are kept, one deadline for each exchange, and failures that say
//! whether anything can have arrived.
//!
//! A kept connection may have been closed by the other end meanwhile; a request that finds that out before a byte of an
//! answer came is doubtful all the same, because the node may have taken it. Invariants: an answer is read up to a bound; a
//! connection whose exchange did not end well is not used again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER,
    USER_AGENT,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tailway_daemon::Deadline;
use tailway_net::{Stream, dial};

use crate::config::Host;

/// Connections that are kept for later, for each node.
const IDLE_MAX: usize = 8;
/// No node takes longer to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One question.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) content_type: &'static str,
    pub(super) gzip: bool,
    pub(super) body: Bytes,
    /// Of the answer.
    pub(super) bytes_max: usize,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
    /// Which node gave it.
    pub(super) from: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nothing was sent.
    Unsent(String),
    /// What was sent may have been done.
    Doubtful(String),
}

/// The nodes of a sink.
pub(super) struct Nodes {
    hosts: Vec<Node>,
    next: AtomicUsize,
    timeout: Duration,
}

struct Node {
    host: Host,
    idle: Mutex<Vec<Connection>>,
}

/// A connection and what drives it: both live and die together, so that no task is left behind.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<Stream>, Full<Bytes>>,
}

impl Nodes {
    pub(super) fn new(hosts: &[Host], timeout: Duration) -> Self {
        let node = |host: &Host| Node { host: host.clone(), idle: Mutex::default() };
        Self { hosts: hosts.iter().map(node).collect(), next: AtomicUsize::new(0), timeout }
    }

    /// Asks the next node. One that cannot be connected to is passed over, each once.
    pub(super) async fn ask(
        &self,
        question: &Question,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, NoAnswer> {
        let deadline = Deadline::after(self.timeout);
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut unsent = Vec::new();
        for turn in 0..self.hosts.len() {
            let node = &self.hosts[(first + turn) % self.hosts.len()];
            match node.ask(question, authorization, deadline, self.timeout).await {
                Err(NoAnswer::Unsent(cause)) => unsent.push(cause),
                other => return other,
            }
        }
        Err(NoAnswer::Unsent(unsent.join("; ")))
    }
}

impl Node {
    async fn ask(
        &self,
        question: &Question,
        authorization: Option<&HeaderValue>,
        deadline: Deadline,
        timeout: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        let name = self.name();
        let request = self.request(question, authorization).map_err(NoAnswer::Unsent)?;
        let exchange = connection.exchange(request, question.bytes_max);
        match deadline.run(exchange).await {
            Some(Ok((status, retry_after, body))) => {
                self.keep(connection);
                Ok(Answer { status, retry_after, body, from: name })
            }
            Some(Err(cause)) => Err(NoAnswer::Doubtful(format!("{name}: {cause}"))),
            None => Err(NoAnswer::Doubtful(format!("{name} did not answer within {timeout:?}"))),
        }
    }

    async fn connect(&self, deadline: Deadline) -> Result<Connection, NoAnswer> {
        let Host { address, tls, .. } = &self.host;
        let timeout = deadline.remaining().min(CONNECT_TIMEOUT);
        let stream = dial(address, tls.as_ref(), timeout)
            .await
            .map_err(|error| NoAnswer::Unsent(error.to_string()))?;
        let failed = |error: hyper::Error| NoAnswer::Unsent(format!("{}: {error}", self.name()));
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        Ok(Connection { sender, driver })
    }

    fn request(
        &self,
        question: &Question,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let Host { address, path, .. } = &self.host;
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(format!("{path}{}", question.path))
            .header(HOST, address.to_string())
            .header(USER_AGENT, concat!("tailway-broker/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json");
        if !question.body.is_empty() {
            request = request.header(CONTENT_TYPE, question.content_type);
            if question.gzip {
                request = request.header(CONTENT_ENCODING, "gzip");
            }
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.body(Full::new(question.body.clone())).map_err(|error| error.to_string())
    }

    fn name(&self) -> String {
        let Host { address, tls, path } = &self.host;
        let scheme = if tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}{path}")
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<(StatusCode, Option<Duration>, Bytes), String> {
        let Self { sender, driver } = self;
        let answer = async {
            sender.ready().await.map_err(said)?;
            let response = sender.send_request(request).await.map_err(said)?;
            let status = response.status();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
            let body = read(response.into_body(), bytes_max).await?;
            Ok((status, retry_after, body))
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            ended = driver => Err(match ended {
                Ok(()) => "it closed the connection before its answer was whole".to_owned(),
                Err(error) => said(error),
            }),
        }
    }
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, String> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(format!("its answer is longer than {bytes_max} bytes"))
        }
        Err(error) => Err(tailway_daemon::daemon::chain(error.as_ref())),
    }
}

fn said(error: hyper::Error) -> String {
    tailway_daemon::daemon::chain(&error)
}

/// In seconds; a date is not looked at, because the clocks may differ.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: u64 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3_600)))
}
