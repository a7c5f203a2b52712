//! One peer's connection: reads frames, has up to sixteen answered at once, writes answers as they are done.
//!
//! Bounds: frame size, requests at once, time without a frame, time inside a frame, time of a write. A peer that breaks
//! one, or sends what cannot be read, is disconnected with the reason in the log.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Stop;
use tailway_net::{Accepted, FrameError, FrameReader, Stream, write_segments};
use tailway_wire::WireError;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::service::{Peer, Service};

/// Requests of one connection that are worked on at the same time.
const IN_FLIGHT: usize = 16;
const FRAME_BYTES_MAX: usize = 1 << 20;
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn serve(connection: Accepted, peer: Peer, service: Service, mut stop: Stop) {
    let Accepted { stream, peer: address, permit, .. } = connection;
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection {
        reader: FrameReader::new(reader, FRAME_BYTES_MAX),
        writer,
        answers: JoinSet::new(),
    };
    if let Some(Err(end)) = stop.unless(connection.run(&peer, &service)).await {
        tell(&end, &peer, address);
    }
    // Best effort: the peer may be gone.
    drop(timeout(Duration::from_millis(100), connection.writer.shutdown()).await);
    drop(permit);
}

struct Connection {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
    answers: JoinSet<Result<Bytes, WireError>>,
}

/// Why a connection ended, other than by the peer's closing it.
enum End {
    Frame(FrameError),
    Request(WireError),
    Panicked(JoinError),
    Revoked,
    Idle,
    Stalled,
    Write(std::io::Error),
    WriteStalled,
}

impl Connection {
    async fn run(&mut self, peer: &Peer, service: &Service) -> Result<(), End> {
        loop {
            let patience = if self.reader.mid_frame() { FRAME_TIMEOUT } else { IDLE_TIMEOUT };
            let room = self.answers.len() < IN_FLIGHT;
            tokio::select! {
                biased;
                Some(answer) = self.answers.join_next() => {
                    let answer = answer.map_err(End::Panicked)?.map_err(End::Request)?;
                    self.write(answer).await?;
                }
                frame = timeout(patience, self.reader.next()), if room => match frame {
                    Ok(Ok(Some(_))) if service.is_revoked(peer) => return Err(End::Revoked),
                    Ok(Ok(Some(frame))) => {
                        let (peer, service) = (peer.clone(), service.clone());
                        let answer = async move { service.answer(&peer, frame).await };
                        self.answers.spawn(tailway_runtime::task(answer));
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => return Err(End::Frame(error)),
                    Err(_) if self.reader.mid_frame() => return Err(End::Stalled),
                    // A peer that waits for an answer is not idle.
                    Err(_) if self.answers.is_empty() => return Err(End::Idle),
                    Err(_) => {}
                },
            }
        }
    }

    async fn write(&mut self, answer: Bytes) -> Result<(), End> {
        match timeout(WRITE_TIMEOUT, write_segments(&mut self.writer, &[answer])).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Write(error)),
            Err(_) => Err(End::WriteStalled),
        }
    }
}

fn tell(end: &End, who: &Peer, peer: SocketAddr) {
    match end {
        // Gone between two requests, without a last word of TLS: so a command line tool ends.
        End::Frame(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%peer, ?who, "connection closed by the peer");
        }
        End::Frame(error) => tracing::warn!(%peer, ?who, %error, "connection closed"),
        End::Request(error) => {
            tracing::warn!(%peer, ?who, %error, "connection closed: a request cannot be read");
        }
        End::Panicked(error) => tracing::error!(%peer, ?who, %error, "a request failed"),
        End::Revoked => {
            tracing::warn!(%peer, ?who, "connection closed: its certificate was revoked");
        }
        End::Idle => {
            tracing::info!(%peer, ?who, "connection closed: no frame for {IDLE_TIMEOUT:?}");
        }
        End::Stalled => {
            tracing::warn!(%peer, ?who, "connection closed: a frame stopped half way for {FRAME_TIMEOUT:?}");
        }
        End::Write(error) => tracing::info!(%peer, ?who, %error, "connection lost"),
        End::WriteStalled => {
            tracing::warn!(%peer, ?who, "connection closed: it takes no answers for {WRITE_TIMEOUT:?}");
        }
    }
}
