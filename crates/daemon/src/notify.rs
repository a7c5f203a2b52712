//! systemd's notification protocol: READY, STOPPING, STATUS and WATCHDOG datagrams to `$NOTIFY_SOCKET`.
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

    /// To be called once when the program serves.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=ready");
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// How often systemd wants to hear `watchdog`: half of its limit.
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
    for_us.then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_as_systemd_expects_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let notify =
            Notify { target: Some((UnixDatagram::unbound().unwrap(), address)), watchdog: None };
        notify.ready();
        notify.status("two\nlines");
        notify.stopping();
        let mut buffer = [0_u8; 100];
        for expected in ["READY=1\nSTATUS=ready", "STATUS=two lines", "STOPPING=1\nSTATUS=stopping"]
        {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
        }
        Notify::default().ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_asked() {
        let own = Some(std::process::id().to_string());
        let half = Some(Duration::from_secs(5));
        assert_eq!(watchdog(Some("10000000".into()), None), half);
        assert_eq!(watchdog(Some("10000000".into()), own), half);
        assert_eq!(watchdog(Some("10000000".into()), Some("1".into())), None);
        assert_eq!(watchdog(Some("0".into()), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
