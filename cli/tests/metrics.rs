//! docs/metrics.md is the code: every metric of every program, with its type and its meaning, and none that is not there.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use tailway_daemon::certificates::CertificateMetrics;
use tailway_daemon::metrics::Metrics;

/// The rows of a section's table, without what cannot be told from the code (labels).
fn documented(heading: &str) -> BTreeSet<String> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let section = text.split("\n## ").find(|part| part.lines().next() == Some(heading));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| `tailway_"));
    let cells = |row: &str| -> Vec<String> {
        row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(|row| {
        let row = cells(row);
        format!("{} | {} | {} | {}", row[0], row[1], row[2], row[4])
    })
    .collect()
}

fn declared(declare: impl FnOnce(&Metrics)) -> BTreeSet<String> {
    let metrics = Metrics::new();
    declare(&metrics);
    let row = |metric: tailway_daemon::metrics::MetricDescription| {
        let total = if metric.kind == "counter" { "_total" } else { "" };
        let unit = ["timestamp_seconds", "seconds", "bytes"];
        let unit = unit.into_iter().find(|unit| metric.name.ends_with(unit));
        let unit = match unit {
            Some("timestamp_seconds") => "seconds since 1970",
            Some(unit) => unit,
            None if metric.name.contains("bytes") => "bytes",
            None => "",
        };
        format!("`{}{total}` | {} | {unit} | {}", metric.name, metric.kind, metric.help)
    };
    metrics.describe().into_iter().map(row).collect()
}

#[track_caller]
fn same(heading: &str, declare: impl FnOnce(&Metrics)) {
    let (declared, documented) = (declared(declare), documented(heading));
    let rows = |rows: Vec<&String>| {
        rows.iter().map(|row| format!("| {row} |\n")).collect::<Vec<_>>().concat()
    };
    let missing = rows(declared.difference(&documented).collect());
    let stale = rows(documented.difference(&declared).collect());
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/metrics.md, {heading}; in the code and not there (with labels between unit and meaning):\n{missing}there and not in the code:\n{stale}"
    );
}

#[test]
fn every_program() {
    same("Every program", |metrics| drop(CertificateMetrics::new(metrics)));
}

#[test]
fn agent() {
    same("Agent", |metrics| drop(tailway_agent::metrics::AgentMetrics::new(metrics)));
}

#[test]
fn broker() {
    same("Broker", |metrics| drop(tailway_broker::metrics::BrokerMetrics::register(metrics)));
}

#[test]
fn coordinator() {
    same("Coordinator", |metrics| {
        drop(tailway_coordinator::metrics::CoordinatorMetrics::new(metrics));
    });
}
