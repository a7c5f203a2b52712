//! A program's certificates while it runs: their files are read again when they change, the own certificate is renewed in
//! time, the file of CAs follows those of the cluster, and the certificate's end is announced.
//!
//! Renewed is what `tailway enroll` and `coordinator init` made: key and certificate in one file (so that one rename
//! replaces both) beside an identity.json that names the coordinator. Between half and two thirds of its life a new key is
//! made and the coordinator asked; until that succeeds it is tried again and again, and the old one serves on until it ends.
//! At the start and every few minutes it is asked which CAs to trust, so that another can take over; once that signs, the
//! certificate is renewed whatever its age.
//! Certificates of other making are only read again: whoever makes them replaces the files.
//! Invariant: connections that are open stay as they are; what cannot be read changes nothing.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tailway_metadata::enrollment::{Enrolled, Trust};
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
/// Of the coordinator, which has the answer itself: the others wait for it.
const OWN_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries, and between two warnings, at most.
const RETRY_MAX: Duration = Duration::from_mins(5);
const WARN_EVERY_MAX: Duration = Duration::from_hours(1);

/// Between two questions which CAs to trust.
const TRUST_EVERY_MAX: Duration = Duration::from_mins(10);
const TRUST_EVERY_MIN: Duration = Duration::from_secs(1);

/// An answer of the coordinator's own.
pub type OwnAnswer<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// What a program that is the coordinator itself asks of itself.
pub struct OwnPapers {
    /// Its next certificate: request (PEM) in, papers out.
    pub renewal: Box<dyn Fn(String) -> OwnAnswer<Enrolled> + Send + Sync>,
    /// Whom it trusts in, whom to trust out.
    pub trust: Box<dyn Fn(Vec<Sha256>) -> OwnAnswer<Trust> + Send + Sync>,
}

/// What a program speaks TLS with.
#[derive(Default)]
pub struct Certificates {
    pub servers: Vec<ServerTls>,
    pub clients: Vec<ClientTls>,
    pub own: Option<OwnPapers>,
}

impl Certificates {
    /// Keeps them from here on, as a task. Nothing to do for a program without a certificate.
    pub fn keep(self, context: &Context) {
        let Some(own) = self.own_files() else { return };
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

    fn own_files(&self) -> Option<Own> {
        let server = self.servers.iter().map(ServerTls::files).map(|files| Own {
            cert: files.cert.clone(),
            key: files.key.clone(),
            ca: files.client_ca.clone(),
        });
        let client = self.clients.iter().filter_map(ClientTls::files).filter_map(|files| {
            let (cert, key) = (files.cert.clone()?, files.key.clone()?);
            Some(Own { cert, key, ca: Some(files.ca.clone()) })
        });
        let all: Vec<Own> = server.chain(client).filter(|own| own.ca.is_some()).collect();
        // One that is renewed here, before others that a program may also have.
        all.iter().find(|own| own.cert == own.key).or(all.first()).cloned()
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

    /// When its program asks again which CAs to trust: hosts that started together do not ask together.
    fn ask_every(self, jitter: u32) -> Duration {
        let every = (self.span() / 200).clamp(TRUST_EVERY_MIN, TRUST_EVERY_MAX);
        every * (900 + jitter / 5) / 1_000
    }

    /// How long after another CA has begun to sign its certificate is renewed.
    fn follow_after(self, jitter: u32) -> Duration {
        (self.span() / 20).min(TRUST_EVERY_MAX) * jitter / 1_000
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
    /// Why it is not known whom to trust.
    trust_failure: Option<String>,
    /// CAs in its file.
    trusts: usize,
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
            "trusted_cas": self.trusts,
            "trust_failure": self.trust_failure,
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
    /// The CAs in the own file.
    trusts: Vec<Sha256>,
    /// The coordinator to ask, if the own certificate is one that is renewed.
    coordinator: Option<HostPort>,
}

/// When what is done next.
struct Plan {
    retry: WallMs,
    warn: WallMs,
    ask: WallMs,
    /// Another CA signs: the certificate is renewed whatever its age.
    follow: Option<WallMs>,
}

impl Keeper {
    async fn run(self, mut stop: Stop) {
        let keeper = Arc::new(self);
        let never = WallMs(i64::MIN);
        let mut plan = Plan { retry: never, warn: never, ask: never, follow: None };
        let mut loaded: Option<Sha256> = None;
        loop {
            let looking = Arc::clone(&keeper);
            let looked = tailway_runtime::spawn_blocking(move || looking.look());
            let Some(Ok(mut look)) = stop.unless(looked).await else { return };
            if loaded.is_some_and(|loaded| loaded != look.digest) {
                let reloading = Arc::clone(&keeper);
                let done = tailway_runtime::spawn_blocking(move || reloading.reload());
                let Some(Ok(reloaded)) = stop.unless(done).await else { return };
                if !reloaded {
                    // The old ones are in use: what the file says is trusted by nobody here.
                    look.trusts.clear();
                }
                // Who waits for this member to trust another CA is told now.
                plan.ask = never;
            }
            loaded = Some(look.digest);
            let Some(life) = look.life else {
                if stop.unless(tokio::time::sleep(LOOK_EVERY_MAX)).await.is_none() {
                    return;
                }
                continue;
            };
            if stop.unless(keeper.act(look, life, &mut plan)).await.is_none() {
                return;
            }
            let own = keeper.certificates.own.is_some();
            let every = if own { life.look_every().min(OWN_LOOK_EVERY) } else { life.look_every() };
            if stop.unless(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    /// What is due now: asking whom to trust, renewing, warning.
    async fn act(&self, look: Look, life: Life, plan: &mut Plan) {
        let now = self.clock.wall();
        let renewable = look.coordinator.is_some() || self.certificates.own.is_some();
        self.show(life, renewable, look.trusts.len());
        if renewable && now >= plan.ask {
            let answer = self.ask_trust(look.coordinator.as_ref(), look.trusts).await;
            // The coordinator's own answer costs nothing.
            let every = life.ask_every(self.jitter);
            let own = self.certificates.own.is_some();
            plan.ask = if own { now } else { later(now, every) };
            plan.follow = match answer {
                Ok(renew) if renew => {
                    let after = life.follow_after(if own { 0 } else { self.jitter });
                    plan.follow.or(Some(later(now, after)))
                }
                _ => None,
            };
        }
        let follows = plan.follow.is_some_and(|at| now >= at);
        let due = now >= life.renew_at(self.jitter) || follows;
        if renewable && due && now >= plan.retry {
            let renewed = self.renew(look.coordinator).await;
            if renewed.is_ok() {
                plan.follow = None;
            }
            self.tell(renewed);
            plan.retry = later(now, (life.span() / 50).min(RETRY_MAX));
        } else if life.is_ending(now) && now >= plan.warn {
            self.warn(life, now, renewable);
            plan.warn = later(now, (life.span() / 20).min(WARN_EVERY_MAX));
        }
    }

    /// Asks which CAs to trust and replaces the file of them, if it has others. Whether the certificate is to be renewed.
    async fn ask_trust(
        &self,
        coordinator: Option<&HostPort>,
        trusts: Vec<Sha256>,
    ) -> Result<bool, String> {
        let asked = async {
            let trust = match (&self.certificates.own, coordinator) {
                (Some(own), _) => (own.trust)(trusts).await?,
                (None, Some(address)) => renewal::trust(address, &self.own_tls()?, trusts).await?,
                (None, None) => return Err("there is nobody to ask".to_owned()),
            };
            let (ca, ca_pem) = (self.own.ca.clone(), trust.ca_pem);
            let write = move || ca.map_or(Ok(false), |ca| put_authorities(&ca, &ca_pem));
            let written = tailway_runtime::spawn_blocking(write).await;
            if written.map_err(|error| error.to_string())?? {
                tracing::info!("the CAs to trust are others now, and are read again");
            }
            Ok(trust.renew)
        };
        let answer = asked.await;
        let failure = answer.as_ref().err().cloned();
        if let Some(error) = &failure {
            tracing::debug!(%error, "it is not known which CAs to trust from now on; it is asked again");
        }
        self.shown().trust_failure = failure;
        answer
    }

    /// As the files are on the disk.
    fn own_tls(&self) -> Result<ClientTls, String> {
        let files = ClientTlsFiles {
            ca: self.own.ca.clone().unwrap_or_default(),
            cert: Some(self.own.cert.clone()),
            key: Some(self.own.key.clone()),
            server_name: None,
        };
        ClientTls::load(&files).map_err(|error| error.to_string())
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
        let ca = self.own.ca.as_deref().unwrap_or(Path::new(""));
        let trusts = read_certificates("CA", ca).unwrap_or_default();
        let trusts = trusts.iter().map(|certificate| sha256(certificate)).collect();
        Look { digest: sha256(&all), life, trusts, coordinator }
    }

    /// Whether it could be used.
    fn reload(&self) -> bool {
        let servers = self.certificates.servers.iter().map(ServerTls::reload);
        let clients = self.certificates.clients.iter().map(ClientTls::reload);
        let done = servers.chain(clients).collect::<Result<Vec<()>, _>>();
        match &done {
            Ok(_) => tracing::info!(
                file = %self.own.cert.display(),
                "certificates were read again: new connections use them"
            ),
            Err(error) => {
                tracing::error!(%error, "certificates were changed and cannot be used: the old ones stay");
            }
        }
        done.is_ok()
    }

    /// A new key, a new certificate, one rename.
    async fn renew(&self, coordinator: Option<HostPort>) -> Result<Enrolled, String> {
        let made = CertificateRequest::generate().map_err(|error| error.to_string())?;
        let enrolled = match (&self.certificates.own, coordinator) {
            (Some(own), _) => (own.renewal)(made.csr_pem.clone()).await?,
            (None, Some(address)) => {
                renewal::renew(&address, &self.own_tls()?, made.csr_pem.clone()).await?
            }
            (None, None) => return Err("there is nobody to ask".into()),
        };
        let (own, papers) = (self.own.clone(), enrolled.clone());
        let write = move || -> Result<(), String> {
            let whole = format!("{}{}", papers.certificate_pem, made.key_pem.expose());
            // The CAs first: the new certificate may be of one that is not known yet.
            if let Some(ca) = &own.ca {
                put_authorities(ca, &papers.ca_pem)?;
            }
            atomic_replace(&FsDisk, &own.cert, whole.as_bytes()).map_err(|error| error.to_string())
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

    fn show(&self, life: Life, renewable: bool, trusts: usize) {
        self.not_after.set(life.not_after.0.div_euclid(1_000));
        let mut shown = self.shown();
        shown.path = self.own.cert.display().to_string();
        shown.life = Some(life);
        shown.trusts = trusts;
        shown.renews_at = renewable.then(|| life.renew_at(self.jitter));
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the file had others before. Blocks.
fn put_authorities(ca: &Path, ca_pem: &str) -> Result<bool, String> {
    let same = std::fs::read_to_string(ca).is_ok_and(|known| known == ca_pem);
    if !same {
        atomic_replace(&FsDisk, ca, ca_pem.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(!same)
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
