//! A program's certificates while it runs: their files are read again when they change, the own certificate is renewed in
//! time, and its end is announced.
//!
//! Renewed is what `tailway enroll` and `coordinator init` made: key and certificate in one file (so that one rename
//! replaces both) beside an identity.json that names the coordinator. Between half and two thirds of its life a new key is
//! made and the coordinator asked; until that succeeds it is tried again and again, and the old one serves on until it ends.
//! Certificates of other making are only read again: whoever makes them replaces the files.
//! Invariant: connections that are open stay as they are; what cannot be read changes nothing.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tailway_metadata::enrollment::Enrolled;
use tailway_metadata::security::Sha256;
use tailway_metadata::time::WallMs;
use tailway_net::certificate_request::CertificateRequest;
use tailway_net::pin::sha256;
use tailway_net::tls::read_certificates;
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, ServerTls, renewal, validity};
use tailway_storage::{FsDisk, atomic_replace};

use crate::clock::Clock;
use crate::daemon::Context;
use crate::metrics::{Counter, Gauge};
use crate::tasks::Stop;

/// Between two looks at the files; more often where a certificate lives shortly.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);
/// Between two tries, and between two warnings, at most.
const RETRY_MAX: Duration = Duration::from_mins(5);
const WARN_EVERY_MAX: Duration = Duration::from_hours(1);

/// How a program that is the coordinator itself gets its next certificate: request (PEM) in, papers out.
pub type OwnRenewal =
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Enrolled, String>> + Send>> + Send + Sync;

/// What a program speaks TLS with.
#[derive(Default)]
pub struct Certificates {
    pub servers: Vec<ServerTls>,
    pub clients: Vec<ClientTls>,
    pub own_renewal: Option<Box<OwnRenewal>>,
}

impl Certificates {
    /// Keeps them from here on, as a task. Nothing to do for a program without a certificate.
    pub fn keep(self, context: &Context) {
        let Some(own) = self.own() else { return };
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (status, clock) = (Arc::clone(&shown), context.clock.clone());
        context.status.section("certificate", move || {
            status.lock().unwrap_or_else(PoisonError::into_inner).json(clock.wall())
        });
        let metrics = &context.metrics;
        let keeper = Keeper {
            certificates: self,
            own,
            clock: context.clock.clone(),
            // Hosts that were enrolled together do not come back together.
            jitter: u32::try_from(tailway_runtime::seed() % 1_000).unwrap_or(0),
            shown,
            not_after: metrics.gauge(
                "tailway_cert_not_after_timestamp_seconds",
                "When this program's certificate ends",
            ),
            renewals: metrics.counter("tailway_cert_renewals", "Certificates renewed"),
            failures: metrics.counter(
                "tailway_cert_renewal_failures",
                "Renewals that failed and are tried again",
            ),
        };
        context.tasks.spawn("certificates", |stop| keeper.run(stop));
    }

    fn own(&self) -> Option<Own> {
        let server = self.servers.iter().map(ServerTls::files).map(|files| Own {
            cert: files.cert.clone(),
            key: files.key.clone(),
            ca: files.client_ca.clone(),
        });
        let client = self.clients.iter().filter_map(ClientTls::files).filter_map(|files| {
            let (cert, key) = (files.cert.clone()?, files.key.clone()?);
            Some(Own { cert, key, ca: Some(files.ca.clone()) })
        });
        server.chain(client).find(|own| own.ca.is_some())
    }

    /// Every file, once.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = Vec::new();
        for tls in self.servers.iter().map(ServerTls::files) {
            files.extend([tls.cert.clone(), tls.key.clone()]);
            files.extend(tls.client_ca.clone());
        }
        for tls in self.clients.iter().filter_map(ClientTls::files) {
            files.push(tls.ca.clone());
            files.extend(tls.cert.iter().chain(&tls.key).cloned());
        }
        files.sort();
        files.dedup();
        files
    }
}

/// The program's own certificate.
#[derive(Clone, Debug)]
struct Own {
    cert: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
}

/// From when to when a certificate is good, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    not_before: WallMs,
    not_after: WallMs,
}

impl Life {
    fn span(self) -> Duration {
        let ms = self.not_after.0.saturating_sub(self.not_before.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    fn at(self, thousandths: u32) -> WallMs {
        let ms = (self.span() / 1_000 * thousandths).as_millis();
        WallMs(self.not_before.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// From half of its life to 65 hundredths, by `jitter` of a thousand: before two thirds in any case.
    fn renew_at(self, jitter: u32) -> WallMs {
        self.at(500 + jitter * 150 / 1_000)
    }

    /// Its last third has begun.
    fn is_ending(self, now: WallMs) -> bool {
        now >= self.at(667)
    }

    fn look_every(self) -> Duration {
        (self.span() / 100).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }
}

#[derive(Default)]
struct Shown {
    path: String,
    life: Option<Life>,
    renews_at: Option<WallMs>,
    failure: Option<String>,
}

impl Shown {
    fn json(&self, now: WallMs) -> Value {
        json!({
            "file": self.path,
            "not_after_ms": self.life.map(|life| life.not_after.0),
            "ends_in_s": self.life.map(|life| life.not_after.0.saturating_sub(now.0) / 1_000),
            "is_ending": self.life.is_some_and(|life| life.is_ending(now)),
            "renews_at_ms": self.renews_at.map(|at| at.0),
            "failure": self.failure,
        })
    }
}

struct Keeper {
    certificates: Certificates,
    own: Own,
    clock: Clock,
    jitter: u32,
    shown: Arc<Mutex<Shown>>,
    not_after: Gauge,
    renewals: Counter,
    failures: Counter,
}

/// What one look at the disk found.
struct Look {
    digest: Sha256,
    life: Option<Life>,
    /// The coordinator to ask, if the own certificate is one that is renewed.
    coordinator: Option<HostPort>,
}

impl Keeper {
    async fn run(self, mut stop: Stop) {
        let keeper = Arc::new(self);
        let mut loaded: Option<Sha256> = None;
        let (mut retry_at, mut warn_at) = (WallMs(i64::MIN), WallMs(i64::MIN));
        loop {
            let looking = Arc::clone(&keeper);
            let looked = tailway_runtime::spawn_blocking(move || looking.look());
            let Some(Ok(look)) = stop.unless(looked).await else { return };
            if loaded.is_some_and(|loaded| loaded != look.digest) {
                let reloading = Arc::clone(&keeper);
                let done = tailway_runtime::spawn_blocking(move || reloading.reload());
                let Some(Ok(())) = stop.unless(done).await else { return };
            }
            loaded = Some(look.digest);
            let Some(life) = look.life else {
                if stop.unless(tokio::time::sleep(LOOK_EVERY_MAX)).await.is_none() {
                    return;
                }
                continue;
            };
            let now = keeper.clock.wall();
            let renewable = look.coordinator.is_some() || keeper.certificates.own_renewal.is_some();
            keeper.show(life, renewable);
            if renewable && now >= life.renew_at(keeper.jitter) && now >= retry_at {
                let Some(renewed) = stop.unless(keeper.renew(look.coordinator)).await else {
                    return;
                };
                keeper.tell(renewed);
                retry_at = later(now, (life.span() / 50).min(RETRY_MAX));
            } else if life.is_ending(now) && now >= warn_at {
                keeper.warn(life, now, renewable);
                warn_at = later(now, (life.span() / 20).min(WARN_EVERY_MAX));
            }
            if stop.unless(tokio::time::sleep(life.look_every())).await.is_none() {
                return;
            }
        }
    }

    /// Reads everything. Blocks.
    fn look(&self) -> Look {
        let mut all = Vec::new();
        for file in self.certificates.files() {
            // One that is missing at this moment is about to be replaced, or `reload` says so.
            let content = std::fs::read(&file).unwrap_or_default();
            all.extend(sha256(&content).0);
        }
        let chain = read_certificates("certificate", &self.own.cert).unwrap_or_default();
        let life = chain.first().and_then(|own| validity::validity(own));
        let life = life.map(|(not_before, not_after)| Life { not_before, not_after });
        let one_file = self.own.cert == self.own.key;
        let coordinator = if one_file { coordinator_beside(&self.own.cert) } else { None };
        Look { digest: sha256(&all), life, coordinator }
    }

    fn reload(&self) {
        let servers = self.certificates.servers.iter().map(ServerTls::reload);
        let clients = self.certificates.clients.iter().map(ClientTls::reload);
        match servers.chain(clients).collect::<Result<Vec<()>, _>>() {
            Ok(_) => tracing::info!(
                file = %self.own.cert.display(),
                "certificates were read again: new connections use them"
            ),
            Err(error) => {
                tracing::error!(%error, "certificates were changed and cannot be used: the old ones stay");
            }
        }
    }

    /// A new key, a new certificate, one rename.
    async fn renew(&self, coordinator: Option<HostPort>) -> Result<Enrolled, String> {
        let made = CertificateRequest::generate().map_err(|error| error.to_string())?;
        let enrolled = match (&self.certificates.own_renewal, coordinator) {
            (Some(own), _) => own(made.csr_pem.clone()).await?,
            (None, Some(address)) => {
                let files = ClientTlsFiles {
                    ca: self.own.ca.clone().unwrap_or_default(),
                    cert: Some(self.own.cert.clone()),
                    key: Some(self.own.key.clone()),
                    server_name: None,
                };
                let tls = ClientTls::load(&files).map_err(|error| error.to_string())?;
                renewal::renew(&address, &tls, made.csr_pem.clone()).await?
            }
            (None, None) => return Err("there is nobody to ask".into()),
        };
        let (own, papers) = (self.own.clone(), enrolled.clone());
        let write = move || -> Result<(), String> {
            let whole = format!("{}{}", papers.certificate_pem, made.key_pem.expose());
            let put = |path: &Path, content: &str| {
                atomic_replace(&FsDisk, path, content.as_bytes()).map_err(|error| error.to_string())
            };
            // The CAs first: the new certificate may be of one that is not known yet.
            if let Some(ca) = &own.ca
                && std::fs::read_to_string(ca).is_ok_and(|known| known != papers.ca_pem)
            {
                put(ca, &papers.ca_pem)?;
            }
            put(&own.cert, &whole)
        };
        let written = tailway_runtime::spawn_blocking(write).await;
        written.map_err(|error| error.to_string())??;
        Ok(enrolled)
    }

    fn tell(&self, renewed: Result<Enrolled, String>) {
        let failure = match renewed {
            Ok(enrolled) => {
                self.renewals.inc();
                let issued = enrolled.certificate;
                tracing::info!(serial = %issued.serial, not_after_ms = issued.not_after.0, "certificate renewed");
                None
            }
            Err(error) => {
                self.failures.inc();
                tracing::warn!(%error, "the certificate was not renewed; it is tried again");
                Some(error)
            }
        };
        self.shown().failure = failure;
    }

    fn warn(&self, life: Life, now: WallMs, renewable: bool) {
        let left = life.not_after.0.saturating_sub(now.0) / 1_000;
        let file = self.own.cert.display();
        let next = if renewable {
            "see why it is not renewed in /status"
        } else {
            "nobody renews it: replace the files, they are read again by themselves"
        };
        if left > 0 {
            tracing::warn!(%file, ends_in_s = left, "this program's certificate ends soon: {next}");
        } else {
            tracing::error!(%file, "this program's certificate has ended, peers refuse it: {next}");
        }
    }

    fn show(&self, life: Life, renewable: bool) {
        self.not_after.set(life.not_after.0.div_euclid(1_000));
        let mut shown = self.shown();
        shown.path = self.own.cert.display().to_string();
        shown.life = Some(life);
        shown.renews_at = renewable.then(|| life.renew_at(self.jitter));
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The coordinator that the identity.json beside a certificate names.
fn coordinator_beside(cert: &Path) -> Option<HostPort> {
    let text = std::fs::read(cert.with_file_name("identity.json")).ok()?;
    let identity: Value = serde_json::from_slice(&text).ok()?;
    identity.get("coordinator")?.as_str()?.parse().ok()
}

fn later(now: WallMs, span: Duration) -> WallMs {
    WallMs(now.0.saturating_add_unsigned(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_before_two_thirds_of_its_life() {
        let day = 86_400_000;
        for span in [20_000, day, 365 * day] {
            let life = Life { not_before: WallMs(7), not_after: WallMs(7 + span) };
            for jitter in [0, 1, 500, 999] {
                let at = life.renew_at(jitter);
                assert!(at.0 >= 7 + span / 2, "{span} {jitter}");
                assert!(!life.is_ending(at), "{span} {jitter}");
            }
            assert!(life.renew_at(999) > life.renew_at(0));
            assert!(life.is_ending(WallMs(7 + span * 7 / 10)));
            assert!((LOOK_EVERY_MIN..=LOOK_EVERY_MAX).contains(&life.look_every()));
        }
    }

    #[test]
    fn the_coordinator_is_named_beside_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("member.pem");
        assert_eq!(coordinator_beside(&cert), None);
        std::fs::write(dir.path().join("identity.json"), r#"{"coordinator":"c:9190"}"#).unwrap();
        assert_eq!(coordinator_beside(&cert), Some(HostPort::new("c", 9190)));
        std::fs::write(dir.path().join("identity.json"), "{").unwrap();
        assert_eq!(coordinator_beside(&cert), None);
    }
}
