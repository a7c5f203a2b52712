//! This side's own certificate, as it lies on the disk: whose it is, and whether its time is now.

use tailway_metadata::time::WallMs;
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{ClientTlsFiles, PeerIdentity, validity};

use super::Finding;
use super::verdict::ends_soon;
use crate::output::{moment, span};

const STEP: &str = "own certificate";
const RENEW: &str =
    "tailway cert renew DIR (of a daemon: /status, certificate, says why it is not renewed)";

/// For one that has ended, on either side's word.
pub(super) const ENROL_ANEW: &str = "a new token (tailway token create) and `tailway enroll`, or tailway cert issue: one that has ended cannot be renewed";

/// `None` where none is configured.
pub(crate) fn own_certificate(files: &ClientTlsFiles, now: WallMs) -> Option<Finding> {
    let path = files.cert.as_ref()?;
    let target = path.display().to_string();
    let certificate = match read_certificates(TlsFile::Certificate, path) {
        Ok(chain) => chain.into_iter().next()?,
        Err(error) => return Some(Finding::failed(&target, STEP, error.to_string(), RENEW)),
    };
    let whose = PeerIdentity::from_certificate(&certificate)
        .map_or_else(|| "nobody by name".to_owned(), |identity| identity.to_string());
    let Some((not_before, not_after)) = validity::validity(&certificate) else {
        let what = format!("{whose}; from when to when it is good cannot be read");
        return Some(Finding::failed(&target, STEP, what, RENEW));
    };
    Some(judge(&target, &whose, (not_before, not_after), now))
}

fn judge(target: &str, whose: &str, (from, until): (WallMs, WallMs), now: WallMs) -> Finding {
    let clock = format!("this host's clock says {}", moment(now));
    if now > until {
        let what = format!("{whose}; it ended at {}, {clock}", moment(until));
        return Finding::failed(target, STEP, what, ENROL_ANEW);
    }
    if now < from {
        let what = format!("{whose}; it is valid from {}, {clock}", moment(from));
        let next = "correct the clock of this host or of the one that issued it (timedatectl)";
        return Finding::failed(target, STEP, what, next);
    }
    let what = format!("{whose}; it ends in {}", span(now, until));
    if ends_soon(from, until, now) {
        return Finding::warning(target, STEP, what, RENEW);
    }
    Finding::ok(target, STEP, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::State;

    #[test]
    fn both_clocks_are_told_when_its_time_is_not_now() {
        let day = 86_400_000;
        let (from, until) = (WallMs(0), WallMs(100 * day));
        for (now, state, text) in [
            (
                -1_000,
                State::Failed,
                "valid from 1970-01-01T00:00:00Z, this host's clock says 1969-12-31T23:59:59Z",
            ),
            (50 * day, State::Ok, "it ends in 50 days"),
            (90 * day, State::Ok, "it ends in 10 days"),
            (95 * day, State::Warning, "it ends in 5 days"),
            (
                101 * day,
                State::Failed,
                "ended at 1970-04-11T00:00:00Z, this host's clock says 1970-04-12T00:00:00Z",
            ),
        ] {
            let finding = judge("c.pem", "agent", (from, until), WallMs(now));
            assert_eq!(finding.state, state, "{now}");
            let ended = finding.next.as_deref() == Some(ENROL_ANEW);
            assert_eq!(ended, now > until.0, "{now}: one that has ended cannot be renewed");
            assert!(finding.detail.contains(text), "{now}: {}", finding.detail);
        }
    }
}
