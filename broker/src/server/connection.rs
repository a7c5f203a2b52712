//! One client's connection: three loops in one task.
//!
//! The reader takes frames off the wire ahead of the work, a bounded number, so that a client that goes away is noticed
//! while its long poll waits, whatever it had sent behind it. The worker handles requests one after another, as Kafka does, with one exception: a Produce that has its
//! place in the partition's order does not hold up the next one while it waits for the disk. The writer sends answers in
//! the order of the requests.
//! Invariants: an answer is never overtaken; an end of the stream lets what was received before it finish; whichever loop
//! ends takes the others with it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tailway_daemon::Stop;
use tailway_metadata::ClusterImage;
use tailway_net::frame_io::Foreign;
use tailway_net::{FrameError, FrameReader, Stream, write_segments};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::budget::{FREE_BYTES, Share};
use super::context::{Closing, Peer, Services};
use super::dispatch::{self, Outcome};
use super::refusals::Reason;
use super::stall::StallGuard;

/// An answer that is still waited for; `None` ends the connection.
pub(super) type PendingAnswer = Pin<Box<dyn Future<Output = Option<Vec<Bytes>>> + Send>>;

/// One request as it came.
struct Received {
    frame: Bytes,
    share: Option<Share>,
}

/// One answer on its way out, with the memory it holds.
struct Answer {
    outcome: AnswerOutcome,
    shares: Vec<Share>,
}

enum AnswerOutcome {
    Ready(Vec<Bytes>),
    Pending(PendingAnswer),
}

/// Serves one connection until it ends or the broker stops.
pub(super) async fn serve(stream: Stream, peer: Arc<Peer>, services: Arc<Services>, stop: Stop) {
    let (read_half, write_half) = tokio::io::split(stream);
    let (tell_closing, closing) = Closing::new();
    let in_flight = services.limits.requests_in_flight;
    let (frames, received) = mpsc::channel(in_flight);
    let (answers, outgoing) = mpsc::channel(in_flight);
    let unanswered = Arc::new(AtomicUsize::new(0));

    let reader = Reader {
        frames: FrameReader::new(read_half, services.limits.request_size),
        peer: Arc::clone(&peer),
        services: Arc::clone(&services),
        unanswered: Arc::clone(&unanswered),
    };
    let work = Worker { peer: Arc::clone(&peer), services: Arc::clone(&services), closing };
    let writer = StallGuard::new(write_half, services.limits.write_timeout);
    let (ending, (), written) = tokio::join!(
        reader.run(frames, tell_closing, stop),
        work.run(received, answers),
        write_answers(writer, outgoing, &services, &unanswered),
    );
    services.groups.connection_closed(peer.connection).await;
    match (ending, written) {
        (Ok(()), Ok(())) => tracing::debug!(peer = %peer.address, "connection ended"),
        (Err(error), _) => {
            tracing::debug!(peer = %peer.address, %error, "connection ended while reading");
        }
        (_, Err(error)) => {
            tracing::debug!(peer = %peer.address, %error, "connection ended while writing");
        }
    }
}

struct Reader {
    frames: FrameReader<ReadHalf<Stream>>,
    peer: Arc<Peer>,
    services: Arc<Services>,
    /// Requests received and not answered yet: their client is not idle.
    unanswered: Arc<AtomicUsize>,
}

impl Reader {
    /// Ends when the client does, when the broker stops, when the worker is gone, and at the first bad frame.
    async fn run(
        mut self,
        frames: mpsc::Sender<Received>,
        tell_closing: watch::Sender<bool>,
        mut stop: Stop,
    ) -> Result<(), FrameError> {
        let mut images = self.services.view.follow();
        let peer = Arc::clone(&self.peer);
        let ending = loop {
            let received = tokio::select! {
                biased;
                () = stop.requested() => break Ok(()),
                () = revoked(&peer, &mut images) => {
                    let text = format!("connection cut: the certificate of {} was revoked", peer.principal);
                    self.services.refusals.request(Reason::Revoked, &peer, None, &text);
                    break Ok(());
                }
                () = frames.closed() => break Ok(()),
                received = self.next() => received,
            };
            match received {
                Ok(Some(received)) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        biased;
                        () = stop.requested() => break Ok(()),
                        sent = frames.send(received) => if sent.is_err() { break Ok(()) },
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    self.refuse(&error);
                    break Err(error);
                }
            }
        };
        tell_closing.send_replace(true);
        ending
    }

    /// The next frame; `None` at the end of the stream and when the client is idle for too long. Cancel-safe, except
    /// that a cancelled frame gives its memory back.
    async fn next(&mut self) -> Result<Option<Received>, FrameError> {
        let limits = &self.services.limits;
        let length = loop {
            match timeout(limits.idle_timeout, self.frames.next_length()).await {
                Ok(length) => match length? {
                    Some(length) => break length,
                    None => return Ok(None),
                },
                Err(_) if self.unanswered.load(Ordering::Relaxed) > 0 => {}
                Err(_) => return Ok(None),
            }
        };
        let requests = self.services.requests.clone();
        let whole = async {
            let alone = self.unanswered.load(Ordering::Relaxed) == 0;
            let share = if alone && length <= FREE_BYTES {
                None
            } else {
                Some(requests.take(length).await)
            };
            let frame = self.frames.next().await?;
            Ok(frame.map(|frame| Received { frame, share }))
        };
        let Ok(received) = timeout(limits.read_timeout, whole).await else {
            let limit = limits.read_timeout;
            let text = format!("a frame of {length} bytes was not there after {limit:?}");
            return Err(FrameError::Io(io::Error::new(io::ErrorKind::TimedOut, text)));
        };
        if let Ok(Some(received)) = &received {
            let bytes = u64::try_from(received.frame.len()).unwrap_or(u64::MAX);
            self.services.metrics.bytes_in.inc_by(bytes.saturating_add(4));
        }
        received
    }

    fn refuse(&self, error: &FrameError) {
        let refusals = &self.services.refusals;
        let (host, listener) = (self.peer.address.ip(), &*self.peer.listener);
        match error {
            FrameError::Foreign(Foreign::TlsHandshake | Foreign::TlsAlert) => {
                refusals.connection(Reason::TlsOnPlaintext, host, listener, &error.to_string());
            }
            FrameError::Foreign(Foreign::Http) | FrameError::NegativeLength { .. } => {
                refusals.connection(Reason::NotKafka, host, listener, &error.to_string());
            }
            FrameError::TooLarge { .. } => {
                refusals.request(Reason::TooLarge, &self.peer, None, &error.to_string());
            }
            // A connection that breaks is no refusal of ours.
            FrameError::Cut { .. } | FrameError::Io(_) => {}
        }
    }
}

/// Returns once the peer's certificate is revoked; never for a peer without one. Cancel-safe.
async fn revoked(peer: &Peer, images: &mut watch::Receiver<Arc<ClusterImage>>) {
    let serial = &peer.principal.serial;
    if !peer.principal.has_certificate() || tailway_faults::is_planted("broker.revoked_served") {
        return std::future::pending().await;
    }
    if images.wait_for(|image| image.security.is_revoked(serial)).await.is_err() {
        // Nobody follows the coordinator any more: the broker stops.
        std::future::pending::<()>().await;
    }
}

struct Worker {
    peer: Arc<Peer>,
    services: Arc<Services>,
    closing: Closing,
}

impl Worker {
    async fn run(self, mut received: mpsc::Receiver<Received>, answers: mpsc::Sender<Answer>) {
        while let Some(Received { frame, share }) = received.recv().await {
            let handled = tokio::select! {
                biased;
                // Nobody can be answered any more: a long poll need not go on.
                () = answers.closed() => return,
                outcome = dispatch::handle(&self.services, &self.peer, &self.closing, frame) => outcome,
            };
            let (outcome, shares) = match handled {
                Outcome::Reply(segments) => (AnswerOutcome::Ready(segments), Vec::new()),
                // The records are slices of the frame: its memory is in use until the append is answered.
                Outcome::Pending(pending) => {
                    (AnswerOutcome::Pending(pending), share.into_iter().collect())
                }
                Outcome::Fetched(segments, shares) => (AnswerOutcome::Ready(segments), shares),
                Outcome::Silent => (AnswerOutcome::Ready(Vec::new()), Vec::new()),
                Outcome::Close => return,
            };
            if answers.send(Answer { outcome, shares }).await.is_err() {
                return;
            }
        }
    }
}

async fn write_answers(
    mut writer: StallGuard<WriteHalf<Stream>>,
    mut outgoing: mpsc::Receiver<Answer>,
    services: &Services,
    unanswered: &AtomicUsize,
) -> io::Result<()> {
    while let Some(Answer { outcome, shares }) = outgoing.recv().await {
        let segments = match outcome {
            AnswerOutcome::Ready(segments) => segments,
            AnswerOutcome::Pending(pending) => match pending.await {
                Some(segments) => segments,
                None => break,
            },
        };
        if !segments.is_empty() {
            write_segments(&mut writer, &segments).await?;
            let bytes: usize = segments.iter().map(Bytes::len).sum();
            services.metrics.bytes_out.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        drop(shares);
        unanswered.fetch_sub(1, Ordering::Relaxed);
    }
    drop(outgoing);
    writer.shutdown().await
}
