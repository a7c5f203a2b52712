//! The admin port: /livez, /readyz, /metrics and /status over HTTP on loopback, on a thread of its own; on the same thread
//! the listener for metrics over mutual TLS, if there is one.
//!
//! Its own thread and runtime, so that it answers while the program's own is stuck: that is what /livez is for. The
//! program's runtime beats a heart (`Heart::beat`); /livez turns to 503 when it has not beaten for ten seconds.
//! Invariant: binds loopback only; serves at most `CONNECTIONS_MAX` requests at a time.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::clock::Clock;
use crate::daemon::{Context, StartError};
use crate::metrics;
use crate::metrics_listener::{Caller, MetricsListener};

/// Without a heartbeat for this long a program counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 32;
/// A name may have to be resolved.
const BIND_TIMEOUT: Duration = Duration::from_secs(20);
const THREAD_STACK_BYTES: usize = 256 << 10;

/// The last time that the program's own runtime ran.
#[derive(Clone, Debug)]
pub struct Heart {
    last_micros: Arc<AtomicU64>,
    clock: Clock,
}

impl Heart {
    pub fn new(clock: Clock) -> Heart {
        let heart = Heart { last_micros: Arc::default(), clock };
        heart.beat();
        heart
    }

    pub fn beat(&self) {
        self.last_micros.store(self.clock.mono().as_micros(), Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let last = tailway_metadata::time::Mono(self.last_micros.load(Ordering::Relaxed));
        self.clock.mono().since(last)
    }
}

/// A running admin port. Dropping it stops the thread.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Served {
    name: &'static str,
    context: Context,
    heart: Heart,
    slots: Arc<Semaphore>,
}

impl Admin {
    /// Binds and serves. The error names who holds the port.
    pub fn start(
        name: &'static str,
        address: SocketAddr,
        remote: Option<MetricsListener>,
        context: Context,
        heart: Heart,
    ) -> Result<Admin, StartError> {
        let failed = |error: io::Error| {
            let failed = StartError::new(format!("cannot serve the admin port on {address}"));
            if error.kind() == io::ErrorKind::AddrInUse {
                failed
                    .because(crate::holder::describe_held(address))
                    .next("stop that process, or set admin.address to a free port")
            } else {
                failed.cause(error).next("set admin.address to an address of this host")
            }
        };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let served = Served { name, context, heart, slots };
        // The thread binds the second listener, because it belongs to the thread's runtime, and tells how that went.
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || serve(listener, (remote, tell), served, stopped))
            .map_err(failed)?;
        let mut admin = Admin { address, metrics: None, stop: Some(stop), thread: Some(thread) };
        let bound = told
            .recv_timeout(BIND_TIMEOUT)
            .unwrap_or_else(|_| Err(StartError::new("cannot start the admin thread's runtime")));
        admin.metrics = bound?;
        if let Some(address) = admin.metrics {
            tracing::info!(%address, "metrics are served over mutual TLS, to clients and admins of the cluster");
        }
        Ok(admin)
    }

    /// Where metrics are served over mutual TLS, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The bound address (its port is real even if 0 was asked for).
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself: then there is nobody to tell.
            let _told = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked");
        }
    }
}

/// Where the second listener is bound, or why it is not.
type Told = std::sync::mpsc::SyncSender<Result<Option<SocketAddr>, StartError>>;

fn serve(
    listener: std::net::TcpListener,
    (remote, tell): (Option<MetricsListener>, Told),
    served: Served,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the admin thread's runtime");
            return;
        }
    };
    let readers = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .layer(middleware::from_fn(readers_only))
        .with_state(served.clone());
    let routes = Router::new()
        .route("/", get(root))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(served);
    runtime.block_on(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot serve the admin port");
                return;
            }
        };
        let bound = match remote {
            Some(remote) => remote.bind().await.map(Some),
            None => Ok(None),
        };
        let address = bound.as_ref().map(|bound| bound.as_ref().map(|bound| bound.address));
        // Nobody waits for it any more: then it is stopped, too.
        drop(tell.send(address.map_err(|error| {
            StartError::new(format!("cannot serve metrics on {}", error.address))
                .because(&error.cause)
                .next(format!("{}; or change admin.metrics.listen", error.next))
        })));
        let remote = async {
            let Ok(Some(bound)) = bound else { return std::future::pending().await };
            let readers = readers.into_make_service_with_connect_info::<Caller>();
            axum::serve(bound, readers).into_future().await
        };
        tokio::select! {
            biased;
            // Told to stop, or the owner is gone: connections are dropped, nobody waits for a peer.
            _ = stopped => {}
            served = remote => {
                let Err(error) = served else { return };
                tracing::error!(%error, "the listener for metrics failed");
            }
            served = axum::serve(listener, routes).into_future() => {
                if let Err(error) = served {
                    tracing::error!(%error, "the admin port failed");
                }
            }
        }
    });
}

/// Who is nobody here is told why, whatever it asks for.
async fn readers_only(
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller {
        Caller(Ok(())) => next.run(request).await,
        Caller(Err(why)) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

async fn root(State(served): State<Served>) -> Html<String> {
    Html(format!(
        "<!doctype html><title>{name}</title><h1>{name} {version}</h1><ul>\
         <li><a href=\"/livez\">/livez</a> is the process running\
         <li><a href=\"/readyz\">/readyz</a> can it serve, and if not, why\
         <li><a href=\"/status\">/status</a> what it does now, as JSON\
         <li><a href=\"/metrics\">/metrics</a> for Prometheus</ul>\n",
        name = served.name,
        version = crate::VERSION,
    ))
}

async fn livez(State(served): State<Served>) -> impl IntoResponse {
    let silent = served.heart.silent_for();
    let alive = silent < STUCK_AFTER;
    let code = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (
        code,
        Json(
            json!({ "alive": alive, "silent_ms": u64::try_from(silent.as_millis()).unwrap_or(u64::MAX) }),
        ),
    )
}

async fn readyz(State(served): State<Served>) -> impl IntoResponse {
    let ready = served.context.ready.json();
    let code =
        if ready["ready"] == true { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ready))
}

async fn metrics_text(State(served): State<Served>) -> impl IntoResponse {
    let Ok(_slot) = served.slots.try_acquire() else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], served.context.metrics.encode())
        .into_response()
}

async fn status(State(served): State<Served>) -> impl IntoResponse {
    let Ok(_slot) = served.slots.try_acquire() else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    let mut status = served.context.status.json();
    status["program"] = json!({
        "name": served.name,
        "version": crate::VERSION,
        "pid": std::process::id(),
        "uptime_ms": served.context.clock.mono().as_millis(),
        "ready": served.context.ready.json(),
    });
    Json(status).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tailway_metadata::time::WallMs;

    use super::*;

    fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[test]
    fn the_port_tells_readiness_status_and_metrics_and_ends_with_its_owner() {
        let context = Context::new(Clock::manual(WallMs(0)));
        let heart = Heart::new(context.clock.clone());
        let loopback = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::start("tailway-test", loopback, None, context.clone(), heart).unwrap();
        let address = admin.address();
        assert_eq!(get(address, "/livez").0, 200);
        let (code, body) = get(address, "/readyz");
        assert_eq!(code, 503, "{body}");
        assert!(body.contains("\"start\":\"starting\""), "{body}");
        let condition = context.ready.condition("raft", "no leader yet");
        assert!(get(address, "/readyz").1.contains("\"raft\":\"no leader yet\""));
        condition.holds();
        assert_eq!(get(address, "/readyz"), (200, r#"{"ready":true,"reasons":{}}"#.to_owned()));
        context.metrics.counter("tailway_test_things", "Things").inc();
        assert!(get(address, "/metrics").1.contains("tailway_test_things_total 1\n"));
        context.status.section("files", || json!({"open": 3}));
        let status: serde_json::Value = serde_json::from_str(&get(address, "/status").1).unwrap();
        assert_eq!(status["files"]["open"], 3);
        assert_eq!(status["program"]["name"], "tailway-test");
        for path in ["/livez", "/readyz", "/metrics", "/status"] {
            assert!(get(address, "/").1.contains(path));
        }
        assert_eq!(get(address, "/nothing").0, 404);
        let second =
            Admin::start("tailway-test", address, None, context.clone(), Heart::new(Clock::new()));
        let error = second.unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(admin);
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_heart_counts_as_stuck() {
        let clock = Clock::new();
        let heart = Heart::new(clock.clone());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(heart.silent_for() < STUCK_AFTER);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(heart.silent_for() >= STUCK_AFTER);
        heart.beat();
        assert_eq!(heart.silent_for(), Duration::ZERO);
    }
}
