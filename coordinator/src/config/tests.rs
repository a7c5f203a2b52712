//! Tests of the configuration: the shipped file is the defaults, and every refusal says where and what to write.

use std::path::Path;

use super::*;

#[test]
fn the_shipped_file_equals_the_defaults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/coordinator.yaml");
    if let Err(differences) = tailway_daemon::config::defaults::compare::<RawConfig>(&file) {
        panic!("{differences}");
    }
}

fn problems_of(text: &str) -> Vec<String> {
    let path = Path::new("coordinator.yaml");
    let (raw, problems) = match tailway_daemon::config::load_text::<RawConfig>(path, text) {
        Ok(loaded) => loaded,
        Err(problems) => return vec![problems.to_string()],
    };
    let problems = Config::check(raw, problems).unwrap_err();
    problems.sorted().iter().map(|p| format!("{}: {}", p.path, p.text)).collect()
}

#[test]
fn all_problems_come_at_once() {
    let text = "
coordinator:
  id: 1
  cluster_id: 'a b'
  data_dir: ''
  listen: 127.0.0.1
  tls: { ca: '', cert: '/nowhere/c.pem', key: '/nowhere/c.key' }
  voters: [{ id: 0, address: '127.0.0.1:1' }, { id: 1, address: '127.0.0.1:2' }]
brokers: { session_timeout: 10ms }
topics: { default_partitions: 0, offsets_topic_partitions: 10001 }
limits: { connections: 0 }
admin: { address: '0.0.0.0:9645' }
";
    let found = problems_of(text);
    let expected = [
        "coordinator.cluster_id: write 1 to 64 of A-Z a-z 0-9 . _ -",
        "coordinator.data_dir: it is empty; write a directory, as /var/lib/tailway/coordinator",
        "coordinator.listen: `127.0.0.1` is not HOST:PORT: the port is missing; write for example kafka.example.com:9093",
        "coordinator.tls.ca: it is empty; name a PEM file",
        "coordinator.voters: 2 voters are listed, but a quorum of more than one is not supported yet; list this coordinator alone, or write []",
        "brokers.session_timeout: write a time from 1s to 10m; 9s is the default",
        "topics.default_partitions: write a number from 1 to 10000",
        "topics.offsets_topic_partitions: write a number from 1 to 10000",
        "limits.connections: write a number from 1 to 100000",
        "admin.address: 0.0.0.0:9645 is not a loopback address, and the admin port has no authentication; write 127.0.0.1:9645",
    ];
    assert_eq!(found, expected);
}

#[test]
fn one_voter_is_this_one() {
    let text = "
coordinator: { id: 1, cluster_id: c, tls: { ca: /nowhere/ca.pem }, voters: [{ id: 2, address: 'x:1' }] }
";
    let found = problems_of(text);
    let voter = "coordinator.voters[0].id: the only voter is 2, but this is coordinator 1";
    assert!(found.contains(&voter.to_owned()), "{found:?}");
    assert!(found[0].starts_with("coordinator.tls.cert: cannot read certificate"), "{found:?}");
}

#[test]
fn a_missing_cluster_id_and_typos_are_explained() {
    let found = problems_of("coordinator: { clusterid: c }\n");
    assert!(
        found.iter().any(|p| p.starts_with("coordinator.cluster_id: it is missing")),
        "{found:?}"
    );
    assert!(found.iter().any(|p| p.contains("cluster_id") && p.contains("clusterid")), "{found:?}");
}
