//! What a `sinks` section may say.

use super::super::Config;
use super::super::tests::Pki;
use super::*;

fn config(sinks: &str) -> String {
    format!("{}\nsinks:\n{sinks}\n", super::super::tests::GOOD)
}

#[test]
fn wildcards_leave_internal_topics_and_dead_letters_alone() {
    let filter = |patterns: &[&str]| {
        TopicFilter::new(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
    };
    let cases: [(&[&str], &str, bool); 14] = [
        (&["*"], "logs", true),
        (&["*"], "__consumer_offsets", false),
        (&["*"], "__other", false),
        (&["*"], "logs.dead", false),
        (&["logs.dead"], "logs.dead", true),
        (&["*.dead"], "logs.dead", false),
        (&["__consumer_offsets"], "__consumer_offsets", true),
        (&["web", "app-*"], "app-1", true),
        (&["web", "app-*"], "app", false),
        (&["app-?"], "app-1", true),
        (&["app-?"], "app-12", false),
        (&["a*b*c"], "a-xbx-bc", true),
        (&["a*b*c"], "a-xbx-b", false),
        (&[], "logs", false),
    ];
    for (patterns, topic, expected) in cases {
        assert_eq!(filter(patterns).matches(topic), expected, "{patterns:?} {topic}");
    }
}

#[test]
fn a_sink_has_defaults_for_all_but_what_it_is() {
    let pki = Pki::new();
    let text = config(
        "  - { name: es, type: elasticsearch, topics: [\"*\"], urls: [\"http://localhost\", \"http://[::1]:19200/os/\"] }\n  \
         - { name: out, type: stdout, topics: [a], start: latest, batch_size: 1MiB }",
    );
    let sinks = pki.load(&text).unwrap().sinks;
    let SinkTarget::OpenSearch(es) = &sinks[0].target else { panic!("{:?}", sinks[0].target) };
    let hosts: Vec<(String, bool, &str)> = es
        .hosts
        .iter()
        .map(|host| (host.address.to_string(), host.tls.is_some(), host.path.as_str()))
        .collect();
    let expected =
        [("localhost:9200".to_owned(), false, ""), ("[::1]:19200".to_owned(), false, "/os")];
    assert_eq!(hosts, expected);
    assert_eq!(es.naming, Naming::DataStream(Template::parse("logs-{topic}-default").unwrap()));
    assert_eq!((&es.auth, es.gzip), (&Auth::None, true));
    let limits = SinkLimits {
        batch_bytes: 4 << 20,
        batch_records: 2_000,
        requests: 8,
        memory: 64 << 20,
        request_timeout: Duration::from_secs(30),
        rejects_in_a_row_max: 1_000,
    };
    assert_eq!((sinks[0].start, &sinks[0].limits), (Start::Earliest, &limits));
    assert_eq!((sinks[1].target.kind(), sinks[1].start), ("stdout", Start::Latest));
    assert_eq!(sinks[1].limits, SinkLimits { batch_bytes: 1 << 20, ..limits });
}

#[test]
fn what_is_filled_in_is_what_is_in_force() {
    let pki = Pki::new();
    let text = config(
        "  - { name: es, type: opensearch, topics: [\"*\"], urls: [\"http://localhost\"] }\n  \
         - { name: day, type: opensearch, topics: [a], urls: [\"http://localhost\"], index: \"x-%Y\", requests: 3 }\n  \
         - { name: k, type: kafka, topics: [\"*\"], brokers: [\"localhost:9092\"] }\n  \
         - { name: out, type: stdout, topics: [a], start: latest, memory: 16MiB }",
    );
    let (raw, problems) = pki.raw(&text).unwrap();
    let filled = raw.clone().filled();
    for sink in &filled.sinks {
        assert!(sink.batch_size.is_some() && sink.request_timeout.is_some(), "{sink:?}");
    }
    assert_eq!(filled.listeners[0].connections, Some(raw.limits.connections));
    let (_, again) = pki.raw(&text).unwrap();
    let typed = Config::check(raw, problems).unwrap();
    let filled = Config::check(filled, again).unwrap();
    assert_eq!(format!("{:?}", filled.sinks), format!("{:?}", typed.sinks));
    assert_eq!(format!("{:?}", filled.limits), format!("{:?}", typed.limits));
}

#[test]
fn a_kafka_sink_has_brokers_and_a_topic() {
    let pki = Pki::new();
    let text = config(
        "  - { name: k, type: kafka, topics: [\"*\"], brokers: [\"localhost:9092\", \"[::1]:9093\"] }\n  \
         - { name: l, type: kafka, topics: [a], brokers: [\"h:1\"], insecure: true, topic: \"central.{topic}\", compression: none }",
    );
    let sinks = pki.load(&text).unwrap().sinks;
    let kafka = |at: usize| match &sinks[at].target {
        SinkTarget::Kafka(kafka) => (kafka.brokers.len(), kafka.topic.as_str(), kafka.compression),
        other => panic!("{other:?}"),
    };
    assert_eq!(kafka(0), (2, "{topic}", Compression::Zstd));
    assert_eq!(kafka(1), (1, "central.{topic}", Compression::None));
    // What a Kafka takes by default is 1 MiB.
    assert_eq!(sinks[0].limits.batch_bytes, 512 << 10);
    let cases = [
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://h\"], compression: zstd }",
            "sinks[0].compression",
            "it takes no zstd; write gzip or none",
        ),
        (
            "{ name: a, type: kafka, topics: [a] }",
            "sinks[0]",
            "brokers is missing; write brokers: [\"kafka.example.com:9093\"]",
        ),
        (
            "{ name: a, type: kafka, topics: [a], brokers: [\"h:9092\"] }",
            "sinks[0]",
            "tls is missing; write tls: { ca: FILE }, or insecure: true for plaintext",
        ),
        (
            "{ name: a, type: kafka, topics: [a], brokers: [\"h:9092\"], insecure: true, urls: [x] }",
            "sinks[0].urls",
            "a kafka sink has none; remove it",
        ),
    ];
    for (sink, path, text) in cases {
        let expected = vec![(path.to_owned(), text.to_owned())];
        assert_eq!(pki.problems(&config(&format!("  - {sink}"))), expected, "{sink}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_where_it_stands() {
    let pki = Pki::new();
    let cases = [
        (
            "{ name: A, type: stdout, topics: [a] }",
            "sinks[0].name",
            "\"A\" is no sink name; write 1 to 32 of a-z, 0-9, - and _",
        ),
        (
            "{ name: a, topics: [a] }",
            "sinks[0]",
            "type is missing; write type: opensearch, kafka or stdout",
        ),
        (
            "{ name: a, type: stdout }",
            "sinks[0]",
            "topics is missing; write topics: [\"*\"], or names",
        ),
        (
            "{ name: a, type: stdout, topics: [a], index: x }",
            "sinks[0].index",
            "a stdout sink has none; remove it",
        ),
        (
            "{ name: a, type: opensearch, topics: [a] }",
            "sinks[0]",
            "urls is missing; write urls: [\"https://opensearch.example.com:9200\"]",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"localhost:9200\"] }",
            "sinks[0].urls[0]",
            "\"localhost:9200\" is no URL; write https://HOST:9200",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://u:p@h\"] }",
            "sinks[0].urls[0]",
            "a URL has no password in it; write username: and password: { file: PATH }",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://h\"], index: \"{topic}\" }",
            "sinks[0].index",
            "it does not begin with a letter or digit: whatever a topic is called, the name has to begin with one; write for example logs-{topic}",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://localhost\"], username: u }",
            "sinks[0]",
            "write either username: NAME with password: { file: PATH }, or api_key: { file: PATH }",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://localhost\"], api_key: { file: $DIR/none } }",
            "sinks[0].api_key",
            "cannot read the secret in $DIR/none: No such file or directory (os error 2)",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://h\"], requests: 0 }",
            "sinks[0].requests",
            "0 is not from 1 to 64",
        ),
        (
            "{ name: a, type: opensearch, topics: [a], urls: [\"http://h\"], memory: 1MiB }",
            "sinks[0].memory",
            "it is not from 8MiB to 4GiB",
        ),
    ];
    let dir = pki.dir().display().to_string();
    for (sink, path, text) in cases {
        let expected = vec![(path.to_owned(), text.replace("$DIR", &dir))];
        assert_eq!(pki.problems(&config(&format!("  - {sink}"))), expected, "{sink}");
    }
    let unknown = pki.problems(&config("  - { name: a, type: stdout, topics: [a], tpye: x }"));
    assert_eq!(unknown[0].0, "sinks[0].tpye");
}

/// What is refused may be a secret in the wrong place: it is named by where it stands, not by what it is.
#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let pki = Pki::new();
    for (wrong, path) in [
        ("urls: [\"HTTPS://u:hunter2@h\"]", "sinks[0].urls[0]"),
        ("urls: [\"https://u:hunter2@h\"]", "sinks[0].urls[0]"),
        ("urls: [\"u:hunter2@h\"]", "sinks[0].urls[0]"),
        ("urls: [\"https://h/?api_key=hunter2\"]", "sinks[0].urls[0]"),
        ("urls: [\"https://h\"], username: u, password: hunter2", "sinks[0].password"),
        ("urls: [\"https://h\"], api_key: hunter2", "sinks[0].api_key"),
    ] {
        let sink = format!("  - {{ name: a, type: opensearch, topics: [a], {wrong} }}");
        let told = pki.problems(&config(&sink));
        assert!(told.iter().any(|(at, _)| at == path), "{wrong}: {told:?}");
        assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
    }
}

#[test]
fn credentials_stay_on_this_host_or_go_over_tls_and_are_never_shown() {
    let pki = Pki::new();
    let secret = pki.dir().join("password");
    std::fs::write(&secret, "hunter2\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sink = |url: &str| {
        config(&format!(
            "  - {{ name: es, type: opensearch, topics: [\"*\"], urls: [\"{url}\"], username: u, password: {{ file: $DIR/password }}, tls: {{ ca: $DIR/ca.pem }} }}"
        ))
    };
    let config = pki.load(&sink("https://es.example.com:9200")).unwrap();
    let SinkTarget::OpenSearch(es) = &config.sinks[0].target else { panic!("no opensearch") };
    let Auth::Basic { username, password } = &es.auth else { panic!("{:?}", es.auth) };
    assert_eq!((username.as_str(), password.read().unwrap().expose()), ("u", "hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    let refused = pki.problems(&sink("http://es.example.com:9200"));
    let told: Vec<&str> = refused.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(told, ["sinks[0].urls[0]", "sinks[0].tls"], "{refused:?}");
}
