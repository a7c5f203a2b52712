//! Whether every partition of this broker can be served: for `/readyz`, the log and a metric.
//!
//! A partition that refuses work after a disk error says so to its clients at once; this says it to the operator, once
//! when it begins and once when it is over.

use std::time::Duration;

use tailway_daemon::Stop;
use tailway_daemon::ready::Condition;

use super::routes::Routes;
use crate::metrics::BrokerMetrics;

const EVERY: Duration = Duration::from_secs(2);

/// The task.
pub async fn watch(routes: Routes, metrics: BrokerMetrics, ready: Condition, mut stop: Stop) {
    let mut said = None;
    loop {
        let (count, first) = failing(&routes);
        metrics.partitions_failed.set(i64::try_from(count).unwrap_or(i64::MAX));
        let now = first.map(|first| format!("{count} partitions cannot be served; {first}"));
        match &now {
            Some(text) if now != said => {
                tracing::error!("{text}; /status has all of them");
                ready.not_yet(text.as_str());
            }
            Some(_) => {}
            None => {
                if said.is_some() {
                    tracing::info!("every partition can be served again");
                }
                ready.holds();
            }
        }
        said = now;
        if stop.unless(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// How many partitions cannot be served, and the first of them with its reason.
fn failing(routes: &Routes) -> (usize, Option<String>) {
    let unopened = routes.failed_partitions();
    let mut failing: Vec<String> =
        unopened.iter().map(|(tp, error)| format!("{tp}: {error}")).collect();
    for partition in routes.partitions().all() {
        if let Some(error) = partition.failure() {
            failing.push(format!("{}: {error}", partition.topic_partition()));
        }
    }
    (failing.len(), failing.into_iter().next())
}
