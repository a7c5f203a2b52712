//! How a host becomes a member: the one listener that asks for no certificate.
//!
//! TLS, whose chain shows the CA that a token pins; then one frame with an [`EnrollRequest`], one with the answer, and the
//! end. Nothing else is served. Bounds: connections, handshake, size and time of the request, and wrong tokens per address
//! and in total ([`Guesses`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::tasks::Group;
use tailway_daemon::{Stop, Tasks};
use tailway_metadata::enrollment::{Answer, ENROLL_BYTES_MAX, EnrollRequest, Enrolled};
use tailway_net::pin::sha256;
use tailway_net::{FrameReader, Incoming, Listener, write_segments};
use tailway_wire::ErrorCode;
use tokio::time::timeout;

use super::membership::{self, certify};
use super::service::Service;
use crate::machine::guesses::{Address, Guesses};
use crate::machine::{Grant, Refusal};

/// From the handshake to the request, and from the answer to its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the enrolment port.
#[derive(Debug)]
pub struct Enrollment {
    listener: Listener,
    service: Service,
    guesses: Mutex<Guesses>,
    connections: Group,
}

impl Enrollment {
    /// Accepts from here on, until `tasks` stops.
    pub fn start(listener: Listener, service: Service, tasks: &Tasks) {
        let connections = tasks.group("enrollments");
        let guesses = Mutex::default();
        let enrollment = Arc::new(Enrollment { listener, service, guesses, connections });
        tasks.spawn_watched("enrollment listener", |stop| accept(enrollment, stop));
    }

    async fn serve(self: Arc<Enrollment>, incoming: Incoming, mut stop: Stop) {
        let peer = incoming.peer;
        let served = async {
            let accepted = incoming.establish().await.map_err(|error| error.to_string())?;
            let _permit = accepted.permit;
            let mut reader = FrameReader::new(accepted.stream, ENROLL_BYTES_MAX);
            let frame = match timeout(PATIENCE, reader.next()).await {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return Err("it was closed before a request came".to_owned()),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("no request came within {PATIENCE:?}")),
            };
            let answer = self.answer(peer, &frame).await;
            let answer = match &answer {
                Ok(enrolled) => Answer::Done(enrolled).encode(),
                Err(refusal) => membership::refused(refusal.clone()).encode(),
            };
            let length = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes();
            let segments = [Bytes::copy_from_slice(&length), Bytes::from(answer)];
            let mut stream = reader.into_inner();
            match timeout(PATIENCE, write_segments(&mut stream, &segments)).await {
                Ok(Ok(())) => {
                    // A clean end of TLS, so that the host can tell it from a cut; it may be gone.
                    let end = tokio::io::AsyncWriteExt::shutdown(&mut stream);
                    drop(timeout(PATIENCE, end).await);
                    Ok(())
                }
                Ok(Err(error)) => Err(format!("the answer could not be sent: {error}")),
                Err(_) => Err(format!("it took no answer for {PATIENCE:?}")),
            }
        };
        if let Some(Err(why)) = stop.unless(served).await {
            tracing::info!(%peer, "enrolment connection closed: {why}");
        }
    }

    async fn answer(&self, peer: SocketAddr, frame: &[u8]) -> Result<Enrolled, Refusal> {
        let address = address_of(peer.ip());
        if let Err(wait) = self.guesses().admit(address, self.service.clock.mono()) {
            self.service.metrics.enrollments_throttled.inc();
            return Err(Refusal::new(
                ErrorCode::THROTTLING_QUOTA_EXCEEDED,
                format!("too many wrong attempts: try again in {} s", wait.as_secs() + 1),
            ));
        }
        let outcome = self.enroll(frame).await;
        match &outcome {
            Ok(enrolled) => {
                self.guesses().forgive(address);
                self.service.metrics.enrollments.inc();
                let issued = &enrolled.certificate;
                tracing::info!(%peer, role = %issued.role, id = issued.id, serial = %issued.serial, "enrolled");
            }
            Err(refusal) => {
                self.service.metrics.enrollments_refused.inc();
                // Only a wrong token is a guess; a coordinator that does not lead is nobody's mistake.
                if refusal.code != ErrorCode::CLUSTER_AUTHORIZATION_FAILED
                    && refusal.code != ErrorCode::INVALID_REQUEST
                {
                    self.guesses().forgive(address);
                }
                tracing::warn!(%peer, why = refusal.text, "enrolment refused");
            }
        }
        outcome
    }

    async fn enroll(&self, frame: &[u8]) -> Result<Enrolled, Refusal> {
        let request = EnrollRequest::decode(frame)
            .map_err(|why| Refusal::new(ErrorCode::INVALID_REQUEST, why))?;
        let secret_sha256 = sha256(request.secret.expose().as_bytes());
        let grant = Grant::Token { id: request.token_id, secret_sha256 };
        certify(&self.service, grant, request.id, request.names, &request.csr).await
    }

    fn guesses(&self) -> std::sync::MutexGuard<'_, Guesses> {
        // Counters: whole after every step.
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(enrollment: Arc<Enrollment>, mut stop: Stop) {
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            incoming = enrollment.listener.accept() => match incoming {
                Ok(incoming) => {
                    let name = format!("enrollment {}", incoming.peer);
                    let serving = Arc::clone(&enrollment);
                    enrollment.connections.spawn(name, |stop| serving.serve(incoming, stop));
                }
                Err(error) => {
                    enrollment.service.metrics.connections_refused.inc();
                    tracing::debug!(%error, "no enrolment connection taken");
                }
            },
        }
    }
}

fn address_of(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
