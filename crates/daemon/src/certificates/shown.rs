//! What a program says of the certificates that it shows to peers: `/status`, the metric, and the log before they end.
//!
//! Every one of them is told of, whoever made it: that a listener's certificate of another CA ends is not seen by looking at
//! the program's own. Invariant: what is said of a time that is not now names both clocks.

use std::path::PathBuf;

use serde_json::{Value, json};
use tailway_metadata::time::WallMs;
use tailway_net::explain::utc;

use super::life::Life;
use crate::metrics::{EncodeLabelSet, Family, Gauge, Metrics};

/// One certificate's file, and what is in it; `None` where that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) file: PathBuf,
    pub(super) life: Option<Life>,
}

/// What `/status` says.
#[derive(Default)]
pub(super) struct Shown {
    /// The program's own first.
    pub(super) held: Vec<Held>,
    pub(super) renews_at: Option<WallMs>,
    pub(super) failure: Option<String>,
    /// Why it is not known whom to trust.
    pub(super) trust_failure: Option<String>,
    /// CAs in its file.
    pub(super) trusts: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

/// When each certificate ends, by its file.
#[derive(Clone)]
pub(super) struct NotAfter(Family<FileLabel, Gauge>);

/// Something to say in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// Peers refuse it now.
    pub(super) is_refused: bool,
    pub(super) text: String,
}

impl Held {
    fn json(&self, now: WallMs) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "not_after_ms": self.life.map(|life| life.not_after.0),
            "ends_in_s": self.life.map(|life| life.seconds_left(now)),
            "is_ending": self.life.is_some_and(|life| life.is_ending(now)),
        })
    }

    /// That its time is not now, or over before long; `renewed`: by this program.
    pub(super) fn remark(&self, now: WallMs, renewed: bool) -> Option<Remark> {
        let life = self.life?;
        let next = if renewed {
            "see why it is not renewed in /status"
        } else {
            "nobody renews it: replace the files, they are read again by themselves"
        };
        let clock = utc(now);
        let (is_refused, text) = if life.is_early(now) {
            let from = utc(life.not_before);
            let what = format!(
                "this program's certificate is not valid yet, peers refuse it: it is valid from {from}, this host's clock says {clock}; next: compare this host's clock with the issuer's (timedatectl)"
            );
            (true, what)
        } else if life.is_over(now) {
            let ended = utc(life.not_after);
            let what = format!(
                "this program's certificate has ended, peers refuse it: it ended at {ended}, this host's clock says {clock}; next: {next}"
            );
            (true, what)
        } else if life.is_ending(now) {
            let ends = utc(life.not_after);
            (false, format!("this program's certificate ends soon, at {ends}; next: {next}"))
        } else {
            return None;
        };
        Some(Remark { is_refused, text })
    }
}

impl Shown {
    pub(super) fn json(&self, now: WallMs) -> Value {
        let mut told = self.held.first().map_or_else(|| json!({}), |own| own.json(now));
        told["renews_at_ms"] = json!(self.renews_at.map(|at| at.0));
        told["failure"] = json!(self.failure);
        told["trusted_cas"] = json!(self.trusts);
        told["trust_failure"] = json!(self.trust_failure);
        let others = self.held.iter().skip(1);
        told["others"] = others.map(|held| held.json(now)).collect();
        told
    }
}

impl NotAfter {
    pub(super) fn new(metrics: &Metrics) -> NotAfter {
        NotAfter(metrics.register(
            "tailway_cert_not_after_timestamp_seconds",
            "When this program's certificates end, by file",
            Family::default(),
        ))
    }

    pub(super) fn set(&self, held: &Held) {
        let Some(life) = held.life else { return };
        let label = FileLabel { file: held.file.display().to_string() };
        self.0.get_or_create(&label).set(life.not_after.0.div_euclid(1_000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn what_is_not_good_now_or_not_for_long_is_remarked_on() {
        let life = Life { not_before: WallMs(10 * DAY), not_after: WallMs(100 * DAY) };
        let held = Held { file: "c.pem".into(), life: Some(life) };
        let cases = [
            (
                9,
                true,
                Some("valid from 1970-01-11T00:00:00Z, this host's clock says 1970-01-10T00:"),
            ),
            (10, false, None),
            (69, false, None),
            (71, false, Some("ends soon, at 1970-04-11T00:00:00Z; next: nobody renews it")),
            (
                101,
                true,
                Some("ended at 1970-04-11T00:00:00Z, this host's clock says 1970-04-12T00:"),
            ),
        ];
        for (day, is_refused, text) in cases {
            let remark = held.remark(WallMs(day * DAY), false);
            assert_eq!(remark.is_some(), text.is_some(), "{day}: {remark:?}");
            if let (Some(remark), Some(text)) = (remark, text) {
                assert!(
                    remark.is_refused == is_refused && remark.text.contains(text),
                    "{remark:?}"
                );
            }
        }
        let renewed = held.remark(WallMs(71 * DAY), true).unwrap();
        assert!(renewed.text.ends_with("see why it is not renewed in /status"), "{renewed:?}");
        assert_eq!(Held { life: None, ..held }.remark(WallMs(0), false), None);
    }

    #[test]
    fn every_certificate_is_told_of() {
        let held = |file: &str, until: i64| Held {
            file: file.into(),
            life: Some(Life { not_before: WallMs(0), not_after: WallMs(until * DAY) }),
        };
        let shown = Shown {
            held: vec![held("own.pem", 100), held("listener.pem", 9), held("metrics.pem", 1_000)],
            renews_at: Some(WallMs(5)),
            ..Shown::default()
        };
        let told = shown.json(WallMs(8 * DAY));
        assert_eq!((&told["file"], &told["is_ending"]), (&json!("own.pem"), &json!(false)));
        assert_eq!(told["renews_at_ms"], 5);
        assert_eq!(
            (&told["others"][0]["file"], &told["others"][0]["is_ending"]),
            (&json!("listener.pem"), &json!(true))
        );
        assert_eq!(told["others"][0]["ends_in_s"], 86_400);
        assert_eq!(told["others"].as_array().unwrap().len(), 2);
        let metrics = Metrics::new();
        let not_after = NotAfter::new(&metrics);
        for one in &shown.held {
            not_after.set(one);
        }
        let text = metrics.encode();
        for line in ["{file=\"own.pem\"} 8640000\n", "{file=\"listener.pem\"} 777600\n"] {
            let line = format!("tailway_cert_not_after_timestamp_seconds{line}");
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
