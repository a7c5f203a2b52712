//! Whole outputs of the loader for files with mistakes.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::common::{AdminConfig, LoggingConfig};
use super::{Problems, load_text, writable_by_all};
use crate::units::{ByteSize, Span};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    broker: RawBroker,
    listeners: Vec<RawListener>,
    admin: AdminConfig,
    logging: LoggingConfig,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct RawBroker {
    id: u16,
    name: String,
    data_dir: Option<String>,
    segment_bytes: ByteSize,
    linger: Span,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct RawListener {
    name: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    protocol: Protocol,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tls,
    Plaintext,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            broker: RawBroker::default(),
            listeners: vec![RawListener {
                name: "tls".into(),
                port: 9093,
                protocol: Protocol::Tls,
            }],
            admin: AdminConfig::on_port(9644),
            logging: LoggingConfig::default(),
        }
    }
}

fn load(text: &str) -> Result<(Raw, Problems), Problems> {
    load_text(Path::new("f.yaml"), text)
}

/// What a program's own check adds, here: no port 0.
fn checked(text: &str) -> String {
    let (raw, mut problems) = match load(text) {
        Ok(loaded) => loaded,
        Err(problems) => return problems.to_string(),
    };
    for (i, listener) in raw.listeners.iter().enumerate() {
        if listener.port == 0 {
            problems.at(&format!("listeners[{i}].port"), "0 is not a port; write 1 to 65535");
        }
    }
    raw.admin.check(&mut problems);
    raw.logging.check(&mut problems);
    problems.finish(()).map_or_else(|problems| problems.to_string(), |()| String::new())
}

#[test]
fn a_good_file_and_an_empty_one() {
    let (raw, problems) = load(
        "broker:\n  id: 7\n  name: 42   # a text all the same\n  segment_bytes: 64MiB\n  linger: 5ms\nlisteners:\n  - name: 'a'\n    port: 1\n    protocol: plaintext\n",
    )
    .unwrap();
    assert!(problems.is_empty(), "{problems}");
    assert_eq!((raw.broker.id, raw.broker.name.as_str()), (7, "42"));
    assert_eq!(raw.broker.segment_bytes, ByteSize::mib(64));
    assert_eq!(raw.listeners[0].protocol, Protocol::Plaintext);
    for empty in ["", "# nothing\n", "broker:\nlogging:\n"] {
        let (raw, problems) = load(empty).unwrap();
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(raw, Raw::default());
    }
}

#[test]
fn all_mistakes_in_one_output_with_positions() {
    let text = "\
brokre:
  id: 1
broker:
  id: seven
  linger: 5
  segment_bytes: 64MX
  id: 3
listeners:
  - name: a
    prot: 9092
    port: 99999
  - port: 9093
  - name: c
    protocol: plain
    port: 0
admin:
  address: 0.0.0.0:9644
logging:
  level: loud
  format: [json]
";
    let expected = "\
f.yaml:1:1: brokre: unknown key; did you mean `broker`?
f.yaml:4:7: broker.id: `seven` is text; write a whole number, 0 to 65535
f.yaml:5:11: broker.linger: 5 is a number; write a time span with its unit such as 500ms or 10s
f.yaml:6:18: broker.segment_bytes: `64MX` is not a size; write a number with B, KiB, MiB, GiB or TiB, for example 64MiB
f.yaml:7:3: broker.id: given twice (first on line 4); keep one of them
f.yaml:10:5: listeners[0].prot: unknown key; did you mean `port`?
f.yaml:11:11: listeners[0].port: 99999 is a number; write a whole number, 0 to 65535
f.yaml:12:5: listeners[1].name: missing; it has no default
f.yaml:14:15: listeners[2].protocol: `plain` is not one of tls, plaintext; did you mean `plaintext`?
f.yaml:15:11: listeners[2].port: 0 is not a port; write 1 to 65535
f.yaml:17:12: admin.address: 0.0.0.0:9644 is not a loopback address, and the admin port has no authentication; write 127.0.0.1:9644
f.yaml:19:10: logging.level: `loud` is not a level; write error, warn, info, debug or trace, or levels by module such as info,tailway_broker=debug
f.yaml:20:3: logging.format: this is a list; write text or json";
    let found = checked(text);
    assert_eq!(found.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
}

#[test]
fn text_that_is_not_a_configuration() {
    for (text, expected) in [
        ("broker: [1, 2\n", "f.yaml:2:1: this is not valid YAML:"),
        ("broker:\n  id: 1\n name: x\n", "f.yaml:3:"),
        ("- a\n- b\n", "f.yaml:1:1: the file must be a mapping"),
        ("just text\n", "f.yaml:1:1: the file must be a mapping"),
        ("broker: {}\n---\nbroker: {}\n", "f.yaml:3:1: a second document"),
        ("? [a]\n: b\n", "f.yaml:1:3: a key must be a word"),
        ("broker: 5\n", "f.yaml:1:9: broker: 5 is a number; write a mapping"),
        ("broker: [5]\n", "f.yaml:1:1: broker: this is a list; write a mapping"),
        ("broker: { name: *nobody }\n", "f.yaml:1:17: this is not valid YAML:"),
    ] {
        let found = checked(text);
        assert!(found.starts_with(expected), "{text:?}\n{found}");
    }
}

#[test]
fn aliases_work_but_cannot_explode() {
    let (raw, problems) =
        load("broker: { name: &n abc }\nlisteners: [{ name: *n, port: 1 }]\n").unwrap();
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(raw.listeners[0].name, "abc");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let item = format!("*a{}", level - 1);
        writeln!(bomb, "a{level}: &a{level} [{}]", vec![item; 10].join(", ")).unwrap();
    }
    assert!(checked(&bomb).contains("more than 20000 values"), "{}", checked(&bomb));
    for (depth, expected) in [(40, "more than 32 levels deep"), (5_000, "recursion limit")] {
        let deep = format!("broker: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(checked(&deep).contains(expected), "{}", checked(&deep));
    }
}

#[test]
fn every_truncation_of_a_file_gives_an_answer() {
    let text = "broker: &b\n  id: 7\n  name: \"x\\n\"\nlisteners:\n  - { name: a, port: 1 }\nlogging: *b\n";
    for end in 0..text.len() {
        drop(checked(&text[..end]));
    }
}

#[test]
fn a_file_that_anybody_may_change_is_remarked_on_with_the_command() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.yaml");
    assert_eq!(writable_by_all(&path), None, "it is not there");
    std::fs::write(&path, "").unwrap();
    for (mode, is_remarked) in [(0o600, false), (0o644, false), (0o664, false), (0o666, true)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let remark = writable_by_all(&path);
        assert_eq!(remark.is_some(), is_remarked, "{mode:o}");
        let command = format!(
            "(mode 0666), and with it what this program does; run: chmod o-w {}",
            path.display()
        );
        assert!(remark.is_none_or(|remark| remark.ends_with(&command)), "{command}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let problems = super::load::<Raw>(Path::new("/nonexistent/f.yaml")).unwrap_err();
    let text = problems.to_string();
    assert!(text.starts_with("/nonexistent/f.yaml: cannot read it: No such file"), "{text}");
}

#[test]
fn the_defaults_helper_finds_each_kind_of_difference() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.yaml");
    let good = "broker: { id: 0, name: '', segment_bytes: 0B, linger: 0 }\n# data_dir: /x\nlisteners: [{ name: tls, port: 9093, protocol: tls }]\nadmin: { address: '127.0.0.1:9644', metrics: { listen: '' } }\n# tls: x\nlogging: { format: text, level: info }\n";
    for (from, to, expected) in [
        ("", "", Ok(())),
        ("id: 0", "id: 1", Err(".broker.id: the file has 1, the default is 0")),
        ("# data_dir: /x", "", Err(".broker.data_dir: not in the file")),
        (", level: info", "", Err(".logging.level: not in the file")),
        ("level: info", "lvl: info", Err("f.yaml:6:26: logging.lvl: unknown key")),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let found = super::defaults::compare::<Raw>(&file);
        match expected {
            Ok(()) => assert_eq!(found, Ok(())),
            Err(text) => assert!(found.clone().unwrap_err().contains(text), "{to}: {found:?}"),
        }
    }
}
