//! Where a connection fails, why, and what to do next: for `agent test output` and `status`.
//!
//! Probing (`tailway_client::probe`) and judging are apart: [`verdict`] is pure and turns what was seen of an address into
//! findings, one a step (DNS, TCP, TLS, ApiVersions, Metadata), in the order in which a connection takes them. What comes
//! after a step that fails was not tried, and says so. [`report`] prints findings; a run is good if none of them failed.

pub(crate) mod brokers;
pub(crate) mod certificates;
mod own;
pub(crate) mod report;
pub(crate) mod verdict;

use serde::Serialize;

pub(crate) use own::own_certificate;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Ok,
    /// It works now, and will not for ever, or less well than it could.
    Warning,
    Failed,
    /// A step before it failed.
    Skipped,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
            State::Skipped => "skipped",
        }
    }
}

/// One step of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// An address, a topic, a file.
    pub(crate) target: String,
    pub(crate) step: &'static str,
    pub(crate) state: State,
    /// What is so; of a failure, the likely cause.
    pub(crate) detail: String,
    /// What to do or to look at next, where something is to be done.
    pub(crate) next: Option<String>,
}

impl Finding {
    pub(crate) fn ok(target: &str, step: &'static str, detail: impl Into<String>) -> Finding {
        Finding::new(target, step, State::Ok, detail.into(), None)
    }

    pub(crate) fn warning(
        target: &str,
        step: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Finding {
        Finding::new(target, step, State::Warning, detail.into(), Some(next.into()))
    }

    pub(crate) fn failed(
        target: &str,
        step: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Finding {
        Finding::new(target, step, State::Failed, detail.into(), Some(next.into()))
    }

    fn new(
        target: &str,
        step: &'static str,
        state: State,
        detail: String,
        next: Option<String>,
    ) -> Finding {
        Finding { target: target.to_owned(), step, state, detail, next }
    }
}

/// Whether nothing failed.
pub(crate) fn is_good(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.state != State::Failed)
}
