//! The client side of one Kafka connection: many requests in flight, matched by correlation id.
//!
//! One task owns the stream; it writes requests in the order in which they were begun and hands
//! each answer to its waiter. Invariants: at most `in_flight_max` requests are unanswered; every
//! call has a deadline; the connection dies once, with one cause, and every waiter then gets it.
//! A call that runs out of time kills the connection: answers come in order, so whatever waits
//! behind it is late as well, and an answer nobody waits for must not be mistaken for another's.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use tailway_wire::WireError;
use tailway_wire::api::ApiKey;
use tailway_wire::frame::{self, RequestHeader};
use tailway_wire::messages::{Decodable, Encodable, StrBytes};

use crate::explain::TlsFailure;
use crate::frame_io::{FrameError, FrameReader, write_segments};

/// Requests gathered into one vectored write when several are waiting.
const GATHER: usize = 16;
/// After a failed write, how long what the peer sent before may still be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Settings of a connection.
#[derive(Debug, Clone)]
pub struct RpcOptions {
    /// Sent in every request header.
    pub client_id: Option<String>,
    /// A longer answer is an error, and the end of the connection.
    pub response_bytes_max: usize,
    /// Unanswered requests; more wait, within their deadlines.
    pub in_flight_max: usize,
}

impl Default for RpcOptions {
    fn default() -> Self {
        Self { client_id: None, response_bytes_max: 128 * 1024 * 1024, in_flight_max: 32 }
    }
}

/// Why a call has no answer. Cheap to clone: the death of a connection goes to all its waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// The connection is gone. The request may or may not have been processed.
    #[error("the connection to {peer} ended: {cause}")]
    Closed {
        peer: Arc<str>,
        cause: Arc<str>,
        /// What TLS had against us, if that is the cause: in TLS 1.3 a refused certificate is told after the handshake.
        tls: Option<TlsFailure>,
    },
    /// No answer in time. The request may or may not have been processed.
    #[error("{peer} did not answer {api} within {after:?}: it is overloaded, stuck or cut off")]
    TimedOut { peer: Arc<str>, api: &'static str, after: Duration },
    /// The request could not be encoded in this version; nothing was sent.
    #[error("{api} v{version} for {peer} cannot be encoded: {cause}")]
    Encode { peer: Arc<str>, api: &'static str, version: i16, cause: String },
    /// The answer is no valid answer.
    #[error("the answer of {peer} to {api} v{version} cannot be read: {cause}")]
    Decode { peer: Arc<str>, api: &'static str, version: i16, cause: String },
}

/// A connection to one server. Clones share it; it closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct RpcConnection {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Vec<Bytes>>,
}

/// A request that was handed to the connection; await [`PendingCall::response`].
#[derive(Debug)]
pub struct PendingCall {
    connection: RpcConnection,
    api: &'static str,
    deadline: Instant,
    after: Duration,
    reply: oneshot::Receiver<Bytes>,
}

#[derive(Debug)]
struct Shared {
    peer: Arc<str>,
    client_id: Option<StrBytes>,
    over_tls: bool,
    in_flight: Arc<Semaphore>,
    waiters: Mutex<Waiters>,
    dead: watch::Sender<Option<RpcError>>,
}

#[derive(Debug, Default)]
struct Waiters {
    next_correlation_id: i32,
    by_id: BTreeMap<i32, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Bytes>,
    /// Held until the answer is here, also when the caller has given up.
    _permit: OwnedSemaphorePermit,
}

impl RpcConnection {
    /// Takes over a stream and spawns the task that serves it. `peer` names it in errors.
    pub fn start(stream: crate::Stream, peer: impl Into<Arc<str>>, options: RpcOptions) -> Self {
        let over_tls = stream.is_tls();
        Self::start_on(stream, over_tls, peer, options)
    }

    /// As [`Self::start`], over any byte stream.
    pub fn start_on<S>(
        stream: S,
        over_tls: bool,
        peer: impl Into<Arc<str>>,
        options: RpcOptions,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let (requests, queue) = mpsc::channel(options.in_flight_max.max(1));
        let shared = Arc::new(Shared {
            peer: peer.into(),
            client_id: options.client_id.map(StrBytes::from_string),
            over_tls,
            in_flight: Arc::new(Semaphore::new(options.in_flight_max.max(1))),
            waiters: Mutex::default(),
            dead: watch::Sender::new(None),
        });
        let reader = FrameReader::new(reader, options.response_bytes_max);
        tailway_runtime::spawn(serve(Arc::clone(&shared), reader, writer, queue));
        Self { shared, requests }
    }

    pub fn peer(&self) -> &Arc<str> {
        &self.shared.peer
    }

    pub fn client_id(&self) -> Option<&str> {
        self.shared.client_id.as_deref()
    }

    /// Why the connection ended, if it has.
    pub fn failure(&self) -> Option<RpcError> {
        self.shared.dead.borrow().clone()
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) -> RpcError {
        let mut dead = self.shared.dead.subscribe();
        loop {
            if let Some(error) = dead.borrow_and_update().clone() {
                return error;
            }
            if dead.changed().await.is_err() {
                return self.shared.closed("the connection is gone");
            }
        }
    }

    /// Ends the connection; every waiter gets `cause`.
    pub fn close(&self, cause: &str) {
        let error = self.shared.closed(cause);
        self.shared.die(error);
    }

    /// Queues a request and returns once it has its place in the order of writes. `encode` gets
    /// the correlation id and gives the whole frame, length included, as segments.
    pub async fn begin<E, F>(
        &self,
        api: &'static str,
        version: i16,
        timeout: Duration,
        encode: F,
    ) -> Result<PendingCall, RpcError>
    where
        E: std::fmt::Display,
        F: FnOnce(i32) -> Result<Vec<Bytes>, E>,
    {
        let deadline = Instant::now() + timeout;
        let (place, permit) = self.place_in_line(api, timeout, deadline).await?;
        let (reply, answer) = oneshot::channel();
        let id = self.shared.lock().register(Waiter { reply, _permit: permit });
        match encode(id) {
            Ok(segments) => place.send(segments),
            Err(cause) => {
                self.shared.lock().by_id.remove(&id);
                let peer = Arc::clone(&self.shared.peer);
                return Err(RpcError::Encode { peer, api, version, cause: cause.to_string() });
            }
        }
        // The connection may have died between the check and the registration.
        if let Some(error) = self.failure() {
            self.shared.lock().by_id.remove(&id);
            return Err(error);
        }
        let connection = self.clone();
        Ok(PendingCall { connection, api, deadline, after: timeout, reply: answer })
    }

    /// One request, one answer: [`Self::begin`] and [`PendingCall::response`].
    pub async fn call_raw<E, F>(
        &self,
        api: &'static str,
        version: i16,
        timeout: Duration,
        encode: F,
    ) -> Result<Bytes, RpcError>
    where
        E: std::fmt::Display,
        F: FnOnce(i32) -> Result<Vec<Bytes>, E>,
    {
        self.begin(api, version, timeout, encode).await?.response().await
    }

    /// A request of a generated type and its answer.
    pub async fn call<Req: Encodable, Resp: Decodable>(
        &self,
        api: ApiKey,
        version: i16,
        request: &Req,
        timeout: Duration,
    ) -> Result<Resp, RpcError> {
        let encode =
            |id| frame::encode_request(&self.header(api, version, id), request).map(|f| vec![f]);
        let answer = self.call_raw(api.name(), version, timeout, encode).await?;
        let (_, response) = frame::decode_response(api, version, answer)
            .map_err(|cause| self.undecodable(api, version, &cause))?;
        Ok(response)
    }

    /// A request whose body is already bytes (our private APIs); the body of its answer.
    pub async fn call_body(
        &self,
        api: ApiKey,
        version: i16,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let encode =
            |id| frame::encode_request_raw(&self.header(api, version, id), body).map(|f| vec![f]);
        let answer = self.call_raw(api.name(), version, timeout, encode).await?;
        let (_, body) = frame::split_response(api, version, answer)
            .map_err(|cause| self.undecodable(api, version, &cause))?;
        Ok(body)
    }

    /// The header of a request on this connection.
    pub fn header(&self, api: ApiKey, version: i16, correlation_id: i32) -> RequestHeader {
        RequestHeader::new(api, version, correlation_id, self.shared.client_id.clone())
    }

    /// The error for an answer that does not decode.
    pub fn undecodable(&self, api: ApiKey, version: i16, cause: &WireError) -> RpcError {
        RpcError::Decode {
            peer: Arc::clone(&self.shared.peer),
            api: api.name(),
            version,
            cause: cause.to_string(),
        }
    }

    /// Queues a request that has no answer (Produce with acks=0).
    pub async fn send_raw<E, F>(
        &self,
        api: &'static str,
        version: i16,
        timeout: Duration,
        encode: F,
    ) -> Result<(), RpcError>
    where
        E: std::fmt::Display,
        F: FnOnce(i32) -> Result<Vec<Bytes>, E>,
    {
        let deadline = Instant::now() + timeout;
        let (place, _permit) = self.place_in_line(api, timeout, deadline).await?;
        let id = self.shared.lock().take_id();
        let segments = encode(id).map_err(|cause| RpcError::Encode {
            peer: Arc::clone(&self.shared.peer),
            api,
            version,
            cause: cause.to_string(),
        })?;
        place.send(segments);
        Ok(())
    }

    async fn place_in_line(
        &self,
        api: &'static str,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<(mpsc::Permit<'_, Vec<Bytes>>, OwnedSemaphorePermit), RpcError> {
        let wait = async {
            let permit = Arc::clone(&self.shared.in_flight).acquire_owned().await.ok()?;
            Some((self.requests.reserve().await.ok()?, permit))
        };
        match self.until_dead(deadline, wait).await {
            Some(Ok(Some(places))) => Ok(places),
            Some(Err(error)) => Err(error),
            Some(Ok(None)) => Err(self.shared.closed("the connection is gone")),
            // Only this caller is late; those that are on their way have deadlines of their own.
            None => Err(self.shared.timed_out(api, timeout)),
        }
    }

    /// `None` at the deadline, `Err` when the connection dies first.
    async fn until_dead<T>(
        &self,
        deadline: Instant,
        wait: impl Future<Output = T>,
    ) -> Option<Result<T, RpcError>> {
        if let Some(error) = self.failure() {
            return Some(Err(error));
        }
        tokio::select! {
            biased;
            result = timeout_at(deadline, wait) => result.ok().map(Ok),
            error = self.closed() => Some(Err(error)),
        }
    }
}

impl PendingCall {
    /// The response frame, starting with its header.
    pub async fn response(self) -> Result<Bytes, RpcError> {
        let Self { connection, api, deadline, after, reply } = self;
        match timeout_at(deadline, reply).await {
            Ok(Ok(frame)) => Ok(frame),
            // The task dropped the waiter: the connection is dead and its cause is set.
            Ok(Err(_)) => Err(connection.closed().await),
            Err(_) => Err(connection.shared.time_out(api, after)),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self, cause: impl Into<Arc<str>>) -> RpcError {
        RpcError::Closed { peer: Arc::clone(&self.peer), cause: cause.into(), tls: None }
    }

    fn broken(&self, error: &io::Error) -> RpcError {
        let (peer, cause) = (Arc::clone(&self.peer), crate::explain::io_error(error).into());
        RpcError::Closed { peer, cause, tls: TlsFailure::of_io(error) }
    }

    /// The first cause wins; all later ones are consequences.
    fn die(&self, error: RpcError) {
        self.dead.send_if_modified(|dead| {
            let first = dead.is_none();
            if first {
                *dead = Some(error);
            }
            first
        });
        self.lock().by_id.clear();
    }

    fn timed_out(&self, api: &'static str, after: Duration) -> RpcError {
        RpcError::TimedOut { peer: Arc::clone(&self.peer), api, after }
    }

    fn time_out(&self, api: &'static str, after: Duration) -> RpcError {
        let error = self.timed_out(api, after);
        self.die(error.clone());
        error
    }

    /// Why a peer that never answered may have hung up.
    fn hang_up(&self, answered: bool) -> &'static str {
        match (answered, self.over_tls) {
            (true, _) => "it closed the connection",
            (false, false) => {
                "it closed the connection without an answer, as a TLS port does: if it is one, \
                 switch TLS on (--tls-ca FILE on the command line)"
            }
            (false, true) => {
                "it closed the connection without an answer; its log says why (a client \
                 certificate or an API version it refuses)"
            }
        }
    }
}

impl Waiters {
    fn take_id(&mut self) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id = id.checked_add(1).unwrap_or(0);
        id
    }

    fn register(&mut self, waiter: Waiter) -> i32 {
        let id = self.take_id();
        self.by_id.insert(id, waiter);
        id
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(
    shared: Arc<Shared>,
    reader: FrameReader<ReadHalf<S>>,
    mut writer: WriteHalf<S>,
    queue: mpsc::Receiver<Vec<Bytes>>,
) {
    let killed = async {
        let mut dead = shared.dead.subscribe();
        // The channel outlives this task.
        drop(dead.wait_for(Option::is_some).await);
    };
    let mut reading = std::pin::pin!(read_answers(&shared, reader));
    let (error, wait) = tokio::select! {
        biased;
        error = &mut reading => (error, None),
        error = write_requests(&shared, &mut writer, queue) => match error {
            Some(error) => (error, Some(LAST_WORDS)),
            None => (shared.closed("it is no longer used"), None),
        },
        () = killed => (shared.closed("it was closed here"), None),
    };
    // A peer that hangs up often says why just before: what can be read knows better.
    let error = match wait {
        Some(wait) => timeout_at(Instant::now() + wait, reading).await.unwrap_or(error),
        None => error,
    };
    shared.die(error);
    // Best effort, and never a reason to linger: the peer may read nothing any more.
    drop(tokio::time::timeout(Duration::from_millis(100), writer.shutdown()).await);
}

async fn read_answers<R: AsyncRead + Unpin>(
    shared: &Shared,
    mut reader: FrameReader<R>,
) -> RpcError {
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return shared.closed(shared.hang_up(reader.started())),
            Err(FrameError::Io(error))
                if !reader.started() && error.kind() == io::ErrorKind::ConnectionReset =>
            {
                return shared.closed(shared.hang_up(false));
            }
            Err(FrameError::Io(error)) => return shared.broken(&error),
            Err(error) => return shared.closed(error.to_string()),
        };
        let Some(id) = frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id)) else {
            return shared.closed("it sent an answer without a correlation id");
        };
        let Some(waiter) = shared.lock().by_id.remove(&id) else {
            return shared.closed(format!("it answered correlation id {id}, which nobody asked"));
        };
        // A caller that gave up has dropped its receiver; the answer is then of no use.
        drop(waiter.reply.send(frame));
    }
}

/// Writes until a write fails; `None` when the last handle is gone.
async fn write_requests<W: AsyncWrite + Unpin>(
    shared: &Shared,
    writer: &mut W,
    mut queue: mpsc::Receiver<Vec<Bytes>>,
) -> Option<RpcError> {
    while let Some(mut segments) = queue.recv().await {
        for _ in 1..GATHER {
            match queue.try_recv() {
                Ok(more) => segments.extend(more),
                Err(_) => break,
            }
        }
        if let Err(error) = write_segments(writer, &segments).await {
            return Some(shared.broken(&error));
        }
    }
    None
}

#[cfg(test)]
mod tests;
