//! systemd's notification protocol: READY, STOPPING, STATUS, EXTEND_TIMEOUT_USEC and WATCHDOG datagrams to `$NOTIFY_SOCKET`.
//!
//! Without the variable nothing happens. Failures are logged once at debug: a lost datagram must not stop a program.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The notification socket, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn from_env() -> Notify {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Notify::default() };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&path),
        };
        let target = match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(target) => Some(target),
            Err(error) => {
                tracing::warn!(socket = ?path, %error, "cannot use NOTIFY_SOCKET");
                None
            }
        };
        Notify {
            target,
            watchdog: watchdog(env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok()),
        }
    }

    /// For tests: to whoever has bound `path`, with a watchdog of that span.
    pub fn to(path: &std::path::Path, watchdog: Option<Duration>) -> std::io::Result<Notify> {
        let target = (UnixDatagram::unbound()?, SocketAddr::from_pathname(path)?);
        Ok(Notify { target: Some(target), watchdog: watchdog.map(interval) })
    }

    /// The program has begun, and does `what` before it is ready; that may take `more` from now on.
    pub fn starting(&self, what: &str, more: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={what}", more.as_micros()));
    }

    /// To be called once when the program serves.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=ready");
    }

    pub fn stopping(&self, why: &str) {
        self.send(&format!("STOPPING=1\nSTATUS=stopping: {}", why.replace('\n', " ")));
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Whether anybody is told anything.
    pub fn is_heard(&self) -> bool {
        self.target.is_some()
    }

    /// How often the watchdog is to be fed: every quarter of systemd's limit, so that a loop which is away for less than three of
    /// them does no harm.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.target.is_some())
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.target else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, "cannot notify systemd");
        }
    }
}

fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    for_us.then(|| interval(Duration::from_micros(usec)))
}

fn interval(limit: Duration) -> Duration {
    // Also of a nonsensical limit: an interval of nothing is none.
    (limit / 4).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_as_systemd_expects_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(&path, None).unwrap();
        notify.starting("opening", Duration::from_mins(1));
        notify.ready();
        notify.status("two\nlines");
        notify.watchdog();
        notify.stopping("SIGTERM");
        let mut buffer = [0_u8; 100];
        for expected in [
            "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening",
            "READY=1\nSTATUS=ready",
            "STATUS=two lines",
            "WATCHDOG=1",
            "STOPPING=1\nSTATUS=stopping: SIGTERM",
        ] {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
        }
        Notify::default().ready();
    }

    #[test]
    fn the_watchdog_is_fed_four_times_as_often_as_asked() {
        let own = Some(std::process::id().to_string());
        let quarter = Some(Duration::from_millis(2_500));
        assert_eq!(watchdog(Some("10000000".into()), None), quarter);
        assert_eq!(watchdog(Some("10000000".into()), own), quarter);
        assert_eq!(watchdog(Some("10000000".into()), Some("1".into())), None);
        assert_eq!(watchdog(Some("0".into()), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
