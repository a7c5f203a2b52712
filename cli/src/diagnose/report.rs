//! Findings for people (a table, and below it what to do) and for programs (JSON, whose form is published: fields only get
//! added).

use anyhow::Result;
use serde_json::json;

use super::{Finding, State, is_good};
use crate::args::OutputForm;
use crate::output::{count, say, table};

/// Prints them.
pub(crate) fn print(findings: &[Finding], form: OutputForm) -> Result<()> {
    match form {
        OutputForm::Json => {
            let whole = json!({ "ok": is_good(findings), "findings": findings });
            say(&serde_json::to_string_pretty(&whole)?)
        }
        OutputForm::Table => lines(findings).iter().try_for_each(|line| say(line)),
    }
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
