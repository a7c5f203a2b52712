//! What an agent's file may say, and what it is told when it is wrong.

use std::path::Path;

use super::*;

fn check(yaml: &str) -> Result<Config, Problems> {
    let (raw, problems) =
        tailway_daemon::config::load_text::<RawConfig>(Path::new("agent.yaml"), yaml)?;
    Config::check(raw, problems)
}

const SMALL: &str = "
agent: { data_dir: /tmp/agent }
output: { brokers: [\"127.0.0.1:9092\"], insecure: true }
inputs: [ { type: filestream, id: a, paths: [ /var/log/*.log ] } ]
";

#[test]
fn the_commented_file_is_the_default() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/agent.yaml"));
    let compared = tailway_daemon::config::defaults::compare::<RawConfig>(file);
    assert_eq!(compared, Ok(()), "configs/agent.yaml");
}

#[test]
fn a_small_file_is_enough() {
    let config = check(SMALL).unwrap();
    assert_eq!(config.inputs[0].topic, "logs");
    assert_eq!(config.output.compression, Codec::Zstd);
    assert!(config.output.tls.is_none());
    assert_eq!(config.metrics.unwrap().topic, "metrics");
}

#[test]
fn each_mistake_is_named_with_what_to_write() {
    for (from, to, says) in [
        ("insecure: true", "", "tls is missing"),
        ("127.0.0.1:9092", "127.0.0.1", "the port is missing"),
        ("/var/log/*.log", "log/*.log", "not an absolute path"),
        ("id: a,", "", "every input needs an id"),
        ("id: a,", "id: a, line_size: 1B,", "not 64B to 16MiB"),
        ("id: a,", "id: a, topic: \"a/b\",", "topic"),
        ("data_dir: /tmp/agent", "data_dir: \"\"", "it is empty"),
        ("data_dir: /tmp/agent", "data_dir: /tmp/agent, spool: 1KiB", "cannot hold two batches"),
        ("insecure: true", "tls: { ca: /no/such.pem }", "/no/such.pem"),
        ("insecure: true", "insecure: true, compresion: lz4", "compression"),
    ] {
        let yaml = SMALL.replace(from, to);
        let said = check(&yaml).unwrap_err().to_string();
        assert!(said.contains(says), "{to:?} is told:\n{said}");
    }
}

#[test]
fn all_mistakes_come_at_once_with_their_places() {
    let said = check(
        "output: { brokers: [x], insecure: true }\n\
         inputs:\n  - { id: a, paths: [ b ] }\n  - { id: a, paths: [ /b ] }\n",
    )
    .unwrap_err()
    .to_string();
    for says in ["agent.yaml:1:21", "agent.yaml:3:23", "agent.yaml:4:11"] {
        assert!(said.contains(says), "{says} is missing in:\n{said}");
    }
}
