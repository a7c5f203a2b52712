//! Findings, for people as a table, and below it what to do.

use anyhow::Result;
use serde::Serialize;

use super::{Finding, State, is_good};
use crate::output::{Output, count, table};

/// Prints them.
pub(crate) fn print(findings: &[Finding], output: Output) -> Result<()> {
    output.whole(&Whole { ok: is_good(findings), findings }, |whole| lines(whole.findings))
}

#[derive(Debug, Serialize)]
struct Whole<'a> {
    ok: bool,
    findings: &'a [Finding],
}

/// The table; then what failed and what is about to, each with its cause and what to do next.
pub(crate) fn lines(findings: &[Finding]) -> Vec<String> {
    let mut rows = vec![["TARGET", "STEP", "RESULT", ""].map(str::to_owned).to_vec()];
    let mut last = "";
    for finding in findings {
        let target = if finding.target == last { "" } else { &finding.target };
        last = &finding.target;
        // Causes are long: they stand below, whole.
        let detail = match finding.state {
            State::Ok => &finding.detail,
            _ => "",
        };
        rows.push([target, finding.step, finding.state.name(), detail].map(str::to_owned).into());
    }
    let mut lines = table(&rows);
    let open = |finding: &&Finding| matches!(finding.state, State::Failed | State::Warning);
    for Finding { target, step, state, detail, next } in findings.iter().filter(open) {
        lines.push(String::new());
        lines.push(format!("{}: {target}, {step}: {detail}", state.name()));
        lines.extend(next.iter().map(|next| format!("  next: {next}")));
    }
    lines.push(String::new());
    lines.push(summary(findings));
    lines
}

/// `all is well`, or how much is not.
fn summary(findings: &[Finding]) -> String {
    let number = |state| findings.iter().filter(|finding| finding.state == state).count() as u64;
    match (number(State::Failed), number(State::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("it works, with {}", count(warnings, "warning")),
        (failures, _) => format!("{} failed", count(failures, "step")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_that_are_documented() {
        let findings = [Finding::ok("a:1", "dns", "10.0.0.1")];
        for command in ["status", "agent test output"] {
            crate::output::documented(command, &Whole { ok: true, findings: &findings });
        }
    }

    #[test]
    fn causes_stand_whole_below_the_table() {
        let skipped = Finding { state: State::Skipped, ..Finding::ok("a:1", "tls", "") };
        let findings = [
            Finding::ok("a:1", "dns", "10.0.0.1"),
            Finding::failed("a:1", "tcp", "connection refused", "ss -ltn"),
            skipped,
            Finding::warning("t", "write", "it does not exist", "tailway topic create t"),
        ];
        let expected = [
            "TARGET  STEP   RESULT",
            "a:1     dns    ok       10.0.0.1",
            "        tcp    FAILED",
            "        tls    skipped",
            "t       write  warning",
            "",
            "FAILED: a:1, tcp: connection refused",
            "  next: ss -ltn",
            "",
            "warning: t, write: it does not exist",
            "  next: tailway topic create t",
            "",
            "1 step failed",
        ];
        assert_eq!(lines(&findings), expected);
        assert_eq!(summary(&findings[..1]), "all is well");
        assert_eq!(summary(&findings[3..]), "it works, with 1 warning");
    }
}
