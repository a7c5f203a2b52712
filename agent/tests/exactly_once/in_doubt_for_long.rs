//! A batch that has no answer for longer than brokers remember its producer: sent again blindly it
//! would be stored twice, so it is looked for. The agent runs inside of the test, which shortens
//! the time.

use std::sync::Arc;
use std::time::Duration;

use tailway_agent::Agent;
use tailway_agent::config::{Config, RawConfig};
use tailway_agent::tail::os::OsFiles;
use tailway_daemon::{Clock, Context, Daemon, Deadline};
use tailway_storage::FsDisk;

use super::common::kafka::{Fault, Kafka};
use super::common::numbers;
use super::expected;

fn config(kafka: &Kafka, dir: &std::path::Path, delivery_timeout: Duration) -> Config {
    let at = dir.display();
    let yaml = format!(
        "agent: {{ data_dir: {at}/data, name: web-01 }}\n\
         output: {{ brokers: [\"{}\"], insecure: true, request_timeout: 200ms }}\n\
         inputs: [ {{ id: test, paths: [ \"{at}/*.log\" ] }} ]\n\
         metrics: {{ enabled: false }}\n",
        kafka.address(),
    );
    let loaded = tailway_daemon::config::load_text::<RawConfig>("agent.yaml".as_ref(), &yaml);
    let (raw, problems) = loaded.unwrap();
    let mut config = Config::check(raw, problems).unwrap();
    config.output.delivery_timeout = delivery_timeout;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_looked_for_before_it_is_sent_again() {
    let (soon, late) = (Duration::from_millis(600), Duration::from_hours(1));
    // Also a broker that says how soon it forgets a producer is looked into in time.
    tokio::join!(is_there(soon, None, 1), is_there(late, Some(1_200), 1), is_there(late, None, 2));
}

/// `times`: how often the lines are stored that had no answer.
async fn is_there(delivery_timeout: Duration, expiration: Option<u64>, times: usize) {
    let kafka = Kafka::start();
    if let Some(ms) = expiration {
        kafka.expire_producers_after(ms);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.log"), numbers(0..10)).unwrap();
    kafka.set_fault(Fault::NoAnswer);
    let config = config(&kafka, dir.path(), delivery_timeout);
    let context = Context::new(Clock::new());
    let agent = Agent::start_on(Arc::new(FsDisk), Arc::new(OsFiles), config, context).await;
    let (kafka, waiting) = (kafka.clone(), kafka);
    tailway_runtime::spawn_blocking(move || waiting.wait_for(10)).await.unwrap();
    kafka.set_fault(Fault::Deaf);
    kafka.forget_producers();
    tokio::time::sleep(Duration::from_secs(3)).await;
    kafka.set_fault(Fault::None);
    let (kafka, waiting) = (kafka.clone(), kafka);
    std::fs::write(dir.path().join("b.log"), numbers(10..20)).unwrap();
    let n = if times == 1 { 20 } else { 30 };
    tailway_runtime::spawn_blocking(move || waiting.wait_for(n)).await.unwrap();
    agent.unwrap().stop(Deadline::after(Duration::from_secs(10))).await.unwrap();
    let lines = kafka.messages();
    let (first, rest) = lines.split_at(lines.len() - 10);
    assert_eq!(first, vec![expected(0..10); times].concat(), "{delivery_timeout:?}");
    assert_eq!(rest, expected(10..20), "{delivery_timeout:?}");
}
