//! A program's certificates while it runs: their files are read again when they change, the own certificate is renewed in
//! time, the file of CAs follows those of the cluster, and the certificate's end is announced.
//!
//! Renewed is what `tailway enroll` and `coordinator init` made: key and certificate in one file (so that one rename
//! replaces both) beside an identity.json that names the coordinator. Between half and two thirds of its life a new key is
//! made and the coordinator asked; until that succeeds it is tried again and again, and the old one serves on until it ends.
//! At the start and then twice a minute it is asked which CAs to trust, so that another can take over, and which of their
//! certificates were revoked; once another CA signs, the certificate is renewed whatever its age.
//! Certificates of other making are only read again, and announced too: whoever makes them replaces the files.
//! Invariant: connections that are open stay as they are; what cannot be read changes nothing.

mod life;
mod shown;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tailway_metadata::Secret;
use tailway_metadata::enrollment::{Enrolled, Trust};
use tailway_metadata::security::Sha256;
use tailway_metadata::time::WallMs;
use tailway_net::certificate_request::CertificateRequest;
use tailway_net::explain::utc;
use tailway_net::pin::sha256;
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, ServerTls, TlsError, renewal, validity};
use tailway_storage::{FsDisk, atomic_replace};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::daemon::Context;
use crate::metrics::{Counter, Metrics};
use crate::tasks::Stop;
use life::{LOOK_EVERY_MAX, Life};
use shown::{Held, NotAfter, Shown};

/// Of the coordinator, which has the answer itself: the others wait for it.
const OWN_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries, and between two warnings, at most.
const RETRY_MAX: Duration = Duration::from_mins(5);
const WARN_EVERY_MAX: Duration = Duration::from_hours(1);

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
    /// Keeps them from here on, as a task. Nothing to do for a program without TLS.
    pub fn keep(self, context: &Context) {
        if self.files().is_empty() {
            return;
        }
        let own = self.own_files();
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
            metrics: CertificateMetrics::new(metrics),
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

    /// The files of certificates, each once.
    fn shown_files(&self) -> Vec<PathBuf> {
        let servers = self.servers.iter().map(|tls| tls.files().cert.clone());
        let clients = self.clients.iter().filter_map(|tls| tls.files()?.cert.clone());
        let mut files: Vec<PathBuf> = servers.chain(clients).collect();
        files.sort();
        files.dedup();
        files
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

struct Keeper {
    certificates: Certificates,
    /// `None` for a program that has none, and trusts CAs.
    own: Option<Own>,
    clock: Clock,
    jitter: u32,
    shown: Arc<Mutex<Shown>>,
    metrics: CertificateMetrics,
}

/// What `/metrics` of every program shows of its certificates.
pub struct CertificateMetrics {
    not_after: NotAfter,
    renewals: Counter,
    failures: Counter,
}

impl CertificateMetrics {
    pub fn new(metrics: &Metrics) -> CertificateMetrics {
        CertificateMetrics {
            not_after: NotAfter::new(metrics),
            renewals: metrics.counter("tailway_cert_renewals", "Certificates renewed"),
            failures: metrics.counter(
                "tailway_cert_renewal_failures",
                "Renewals that failed and are tried again",
            ),
        }
    }
}

/// What one look at the disk found.
struct Look {
    digest: Sha256,
    /// The own one first.
    held: Vec<Held>,
    /// The CAs in the own file.
    trusts: Vec<Sha256>,
    /// The coordinator to ask, if the own certificate is one that is renewed.
    coordinator: Option<HostPort>,
}

/// When what is done next.
struct Plan {
    retry: WallMs,
    /// By file.
    warn: BTreeMap<PathBuf, WallMs>,
    ask: WallMs,
    /// Another CA signs: the certificate is renewed whatever its age.
    follow: Option<WallMs>,
    /// Files were replaced: they are read at once.
    replaced: bool,
}

/// What a question whom to trust came to.
struct Told {
    /// The certificate is to be renewed.
    renew: bool,
    /// The file of CAs was another before.
    replaced: bool,
}

impl Keeper {
    async fn run(self, mut stop: Stop) {
        let keeper = Arc::new(self);
        let never = WallMs(i64::MIN);
        let mut plan =
            Plan { retry: never, warn: BTreeMap::new(), ask: never, follow: None, replaced: false };
        let mut loaded: Option<Sha256> = None;
        loop {
            let looking = Arc::clone(&keeper);
            let looked = tailway_runtime::spawn_blocking(move || looking.look());
            let Some(Ok(mut look)) = stop.unless(looked).await else { return };
            if loaded.is_some_and(|loaded| loaded != look.digest) {
                let reloading = Arc::clone(&keeper);
                let done = tailway_runtime::spawn_blocking(move || reloading.reload());
                let Some(Ok(reloaded)) = stop.unless(done).await else { return };
                if let Err(error) = reloaded {
                    tracing::error!(%error, "certificates were changed and cannot be used: the old ones stay");
                    // The old ones are in use: what the file says is trusted by nobody here.
                    look.trusts.clear();
                } else {
                    tracing::info!("certificates were read again: new connections use them");
                }
                // Who waits for this member to trust another CA is told now.
                plan.ask = never;
            }
            loaded = Some(look.digest);
            let shortest = look.held.iter().filter_map(|held| held.life).map(Life::look_every);
            let mut every = shortest.min().unwrap_or(LOOK_EVERY_MAX);
            if keeper.certificates.own.is_some() {
                every = every.min(OWN_LOOK_EVERY);
            }
            if stop.unless(keeper.act(look, &mut plan)).await.is_none() {
                return;
            }
            if std::mem::take(&mut plan.replaced) {
                continue;
            }
            if stop.unless(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    /// What is due now: asking whom to trust, renewing, warning.
    async fn act(&self, look: Look, plan: &mut Plan) {
        let now = self.clock.wall();
        let renewable =
            self.own.is_some() && (look.coordinator.is_some() || self.certificates.own.is_some());
        let own = look.held.first().and_then(|held| held.life).filter(|_| self.own.is_some());
        self.show(&look, renewable);
        let tried = match own.filter(|_| renewable) {
            Some(life) => self.keep_up(&look, life, plan).await,
            None => false,
        };
        // What was just renewed is seen at the next look, and a try that failed has said so.
        for (index, held) in look.held.iter().enumerate().skip(usize::from(tried)) {
            let due = plan.warn.get(&held.file).is_none_or(|at| now >= *at);
            let Some(life) = held.life.filter(|_| due) else { continue };
            if warn(held, now, renewable && index == 0) {
                let again = later(now, (life.span() / 20).min(WARN_EVERY_MAX));
                plan.warn.insert(held.file.clone(), again);
            }
        }
    }

    /// Asks whom to trust, and renews the own certificate when it is time to. Whether that was tried.
    async fn keep_up(&self, look: &Look, life: Life, plan: &mut Plan) -> bool {
        let now = self.clock.wall();
        if now >= plan.ask {
            let answer = self.ask_trust(look.coordinator.as_ref(), look.trusts.clone()).await;
            plan.replaced = matches!(&answer, Ok(told) if told.replaced);
            // The coordinator's own answer costs nothing.
            let every = life.ask_every(self.jitter);
            let own = self.certificates.own.is_some();
            plan.ask = if own { now } else { later(now, every) };
            plan.follow = match answer {
                Ok(told) if told.renew => {
                    let after = life.follow_after(if own { 0 } else { self.jitter });
                    plan.follow.or(Some(later(now, after)))
                }
                _ => None,
            };
        }
        let follows = plan.follow.is_some_and(|at| now >= at);
        let due = now >= life.renew_at(self.jitter) || follows;
        if due && now >= plan.retry {
            let renewed = self.renew(look.coordinator.as_ref()).await;
            let mut span = life.span();
            if let Ok(enrolled) = &renewed {
                plan.follow = None;
                // The next one may live for much less than this one did.
                span = Life::of(&enrolled.certificate).span();
            }
            self.tell(renewed, life);
            plan.retry = later(now, (span / 50).min(RETRY_MAX));
            return true;
        }
        false
    }

    /// Asks whom to trust and replaces the file of CAs, if it says something else.
    async fn ask_trust(
        &self,
        coordinator: Option<&HostPort>,
        trusts: Vec<Sha256>,
    ) -> Result<Told, String> {
        let asked = async {
            let trust = match (&self.certificates.own, coordinator) {
                (Some(own), _) => (own.trust)(trusts).await?,
                (None, Some(address)) => renewal::trust(address, &self.own_tls()?, trusts).await?,
                (None, None) => return Err("there is nobody to ask".to_owned()),
            };
            let (ca, ca_pem) = (self.own.as_ref().and_then(|own| own.ca.clone()), trust.ca_pem);
            let write = move || ca.map_or(Ok(false), |ca| put_authorities(&ca, &ca_pem));
            let written = tailway_runtime::spawn_blocking(write).await;
            let replaced = written.map_err(|error| error.to_string())??;
            if replaced {
                tracing::info!(
                    "whom to trust has changed (CAs, or what was revoked), and is read again"
                );
            }
            Ok(Told { renew: trust.renew, replaced })
        };
        let answer = asked.await;
        let failure = answer.as_ref().err().cloned();
        if let Some(error) = &failure {
            tracing::debug!(%error, "it is not known whom to trust from now on; it is asked again");
        }
        self.shown().trust_failure = failure;
        answer
    }

    /// As the files are on the disk.
    fn own_tls(&self) -> Result<ClientTls, String> {
        let own = self.own.clone().ok_or("there is no certificate of its own")?;
        let files = ClientTlsFiles {
            ca: own.ca.unwrap_or_default(),
            cert: Some(own.cert),
            key: Some(own.key),
            server_name: None,
        };
        ClientTls::load(&files).map_err(|error| error.to_string())
    }

    /// Reads everything. Blocks.
    fn look(&self) -> Look {
        let mut all = Vec::new();
        for file in self.certificates.files() {
            // One that is missing at this moment is about to be replaced, or `reload` says so.
            let content = Zeroizing::new(std::fs::read(&file).unwrap_or_default());
            all.extend(sha256(&content).0);
        }
        let own = self.own.as_ref();
        let mut files = self.certificates.shown_files();
        files.sort_by_key(|file| own.is_none_or(|own| own.cert != *file));
        let coordinator = own.filter(|own| own.cert == own.key);
        let coordinator = coordinator.and_then(|own| coordinator_beside(&own.cert));
        let ca = own.and_then(|own| own.ca.as_deref()).unwrap_or(Path::new(""));
        let trusts = read_certificates(TlsFile::Ca, ca).unwrap_or_default();
        let trusts = trusts.iter().map(|certificate| sha256(certificate)).collect();
        let held = files.into_iter().map(held).collect();
        Look { digest: sha256(&all), held, trusts, coordinator }
    }

    /// Has listeners and dialers use what the files hold now. Blocks.
    fn reload(&self) -> Result<(), TlsError> {
        self.certificates.servers.iter().try_for_each(ServerTls::reload)?;
        self.certificates.clients.iter().try_for_each(ClientTls::reload)
    }

    /// A new key, a new certificate, one rename.
    async fn renew(&self, coordinator: Option<&HostPort>) -> Result<Enrolled, String> {
        let own_files = self.own.clone().ok_or("there is no certificate of its own")?;
        let made = CertificateRequest::generate().map_err(|error| error.to_string())?;
        let enrolled = match (&self.certificates.own, coordinator) {
            (Some(own), _) => (own.renewal)(made.csr_pem.clone()).await?,
            (None, Some(address)) => {
                renewal::renew(address, &self.own_tls()?, made.csr_pem.clone()).await?
            }
            (None, None) => return Err("there is nobody to ask".into()),
        };
        let (own, papers) = (own_files, enrolled.clone());
        let write = move || -> Result<(), String> {
            let whole = format!("{}{}", papers.certificate_pem, made.key_pem.expose());
            let whole = Secret::new(whole);
            // The CAs first: the new certificate may be of one that is not known yet.
            if let Some(ca) = &own.ca {
                put_authorities(ca, &papers.ca_pem)?;
            }
            atomic_replace(&FsDisk, &own.cert, whole.expose().as_bytes())
                .map_err(|error| error.to_string())
        };
        let written = tailway_runtime::spawn_blocking(write).await;
        written.map_err(|error| error.to_string())??;
        Ok(enrolled)
    }

    fn tell(&self, renewed: Result<Enrolled, String>, life: Life) {
        let failure = match renewed {
            Ok(enrolled) => {
                self.metrics.renewals.inc();
                let issued = enrolled.certificate;
                tracing::info!(serial = %issued.serial, not_after_ms = issued.not_after.0, "certificate renewed");
                None
            }
            Err(error) => {
                self.metrics.failures.inc();
                let (ends_at, ends_in_s) =
                    (utc(life.not_after), life.seconds_left(self.clock.wall()));
                tracing::warn!(
                    %error,
                    %ends_at,
                    ends_in_s,
                    "the certificate was not renewed; it serves until it ends, and that is tried again"
                );
                Some(error)
            }
        };
        self.shown().failure = failure;
    }

    fn show(&self, look: &Look, renewable: bool) {
        for held in &look.held {
            self.metrics.not_after.set(held);
        }
        let own = look.held.first().and_then(|held| held.life).filter(|_| renewable);
        let mut shown = self.shown();
        shown.held.clone_from(&look.held);
        shown.trusts = look.trusts.len();
        shown.renews_at = own.map(|life| life.renew_at(self.jitter));
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there was something to say.
fn warn(held: &Held, now: WallMs, renewed: bool) -> bool {
    let file = held.file.display();
    match held.remark(now, renewed) {
        Some(remark) if remark.is_refused => tracing::error!(%file, "{}", remark.text),
        Some(remark) => tracing::warn!(%file, "{}", remark.text),
        None => return false,
    }
    true
}

/// What a file of a certificate holds. Blocks.
fn held(file: PathBuf) -> Held {
    let chain = read_certificates(TlsFile::Certificate, &file).unwrap_or_default();
    let life = chain.first().and_then(|own| validity::validity(own));
    let life = life.map(|(not_before, not_after)| Life { not_before, not_after });
    Held { file, life }
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
