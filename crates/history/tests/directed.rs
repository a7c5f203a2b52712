//! One small history per rule, broken in that rule alone: exactly that check must say so. Were one check taken out, its rows
//! here would fail, since no other check sees what they break.

#![allow(clippy::unwrap_used, reason = "tests")]

use tailway_history::{Checker, Report, read};

/// Two clients' sends, a reader, two members of a group, brokers, replicas, a file and the final drain; clean.
const CLEAN: &str = r#"
{"proc":"p1","f":"send","type":"ok","t0":10,"t1":11,"tp":"t/0","off":0,"val":1099511627776}
{"proc":"p1","f":"send","type":"ok","t0":12,"t1":13,"tp":"t/0","off":1,"val":1099511627777}
{"proc":"p1","f":"send","type":"info","t0":14,"t1":15,"tp":"t/0","val":1099511627778}
{"proc":"p1","f":"send","type":"info","t0":14,"t1":15,"tp":"t","val":1099511627779}
{"proc":"p1","f":"send","type":"fail","t0":14,"t1":15,"tp":"t/0","val":1099511627780}
{"proc":"p2","f":"send","type":"ok","t0":16,"t1":17,"tp":"t/0","off":3,"val":2199023255552,"idem":false}
{"proc":"p2","f":"send","type":"ok","t0":16,"t1":17,"tp":"t/0","val":2199023255553,"idem":false}
{"proc":"b1","f":"ack","type":"ok","t0":10,"t1":11,"tp":"t/0","epoch":1}
{"proc":"b1","f":"fence","type":"ok","t0":14,"t1":14,"tp":"t/0","epoch":1}
{"proc":"b2","f":"ack","type":"ok","t0":16,"t1":17,"tp":"t/0","epoch":2}
{"proc":"r","f":"assign","type":"ok","t0":10,"t1":10,"tp":"t/0","off":0}
{"proc":"r","f":"poll","type":"ok","t0":20,"t1":21,"tp":"t/0","off":0,"val":1099511627776,"epoch":1,"hw":1}
{"proc":"r","f":"poll","type":"ok","t0":20,"t1":21,"tp":"t/0","off":1,"val":1099511627777,"epoch":1,"hw":2}
{"proc":"r","f":"poll","type":"ok","t0":22,"t1":23,"tp":"t/0","off":2,"val":1099511627778,"epoch":1,"hw":3}
{"proc":"r","f":"hw","type":"ok","t0":24,"t1":25,"tp":"t/0","off":3}
{"proc":"r","f":"hw","type":"ok","t0":26,"t1":27,"tp":"t/0","off":4}
{"proc":"m1","f":"assign","type":"ok","t0":30,"t1":30,"tp":"t/0","group":"g"}
{"proc":"m1","f":"poll","type":"ok","t0":31,"t1":32,"tp":"t/0","off":0,"val":1099511627776}
{"proc":"m1","f":"poll","type":"ok","t0":31,"t1":32,"tp":"t/0","off":1,"val":1099511627777}
{"proc":"m1","f":"poll","type":"ok","t0":31,"t1":32,"tp":"t/0","off":2,"val":1099511627778}
{"proc":"m1","f":"commit","type":"ok","t0":33,"t1":34,"tp":"t/0","off":1,"group":"g"}
{"proc":"m1","f":"commit","type":"ok","t0":35,"t1":36,"tp":"t/0","off":2,"group":"g"}
{"proc":"m1","f":"commit","type":"info","t0":37,"t1":38,"tp":"t/0","off":3,"group":"g"}
{"proc":"m2","f":"assign","type":"ok","t0":40,"t1":40,"tp":"t/0","group":"g"}
{"proc":"m2","f":"poll","type":"ok","t0":41,"t1":42,"tp":"t/0","off":2,"val":1099511627778}
{"proc":"m2","f":"poll","type":"ok","t0":41,"t1":42,"tp":"t/0","off":3,"val":2199023255552}
{"proc":"m2","f":"commit","type":"ok","t0":43,"t1":44,"tp":"t/0","off":4,"group":"g"}
{"proc":"h","f":"line","type":"ok","t0":1,"t1":1,"tp":"/a.log","val":7}
{"proc":"h","f":"line","type":"ok","t0":1,"t1":1,"tp":"/a.log","val":8}
{"proc":"h","f":"line","type":"ok","t0":1,"t1":1,"tp":"/a.log","val":7}
{"proc":"s","f":"doc","type":"ok","t0":2,"t1":2,"tp":"/a.log","val":7}
{"proc":"s","f":"doc","type":"ok","t0":2,"t1":2,"tp":"/a.log","val":8}
{"proc":"s","f":"doc","type":"ok","t0":2,"t1":2,"tp":"/a.log","val":7}
{"proc":"d","f":"assign","type":"ok","t0":50,"t1":50,"tp":"t/0","off":0,"drain":true}
{"proc":"d","f":"poll","type":"ok","t0":51,"t1":52,"tp":"t/0","off":0,"val":1099511627776,"epoch":1}
{"proc":"d","f":"poll","type":"ok","t0":51,"t1":52,"tp":"t/0","off":1,"val":1099511627777,"epoch":1}
{"proc":"d","f":"poll","type":"ok","t0":51,"t1":52,"tp":"t/0","off":2,"val":1099511627778,"epoch":1}
{"proc":"d","f":"poll","type":"ok","t0":51,"t1":52,"tp":"t/0","off":3,"val":2199023255552,"epoch":2}
{"proc":"d","f":"poll","type":"ok","t0":51,"t1":52,"tp":"t/0","off":4,"val":2199023255553,"epoch":2}
{"proc":"d","f":"drain","type":"ok","t0":50,"t1":52,"tp":"t/0","off":5}
{"proc":"b1","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":0,"val":1099511627776,"epoch":1,"crc":9}
{"proc":"b1","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":1,"val":1099511627777,"epoch":1,"crc":9}
{"proc":"b1","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":2,"val":1099511627778,"epoch":1,"crc":9}
{"proc":"b1","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":3,"val":2199023255552,"epoch":2,"crc":10}
{"proc":"b1","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":4,"val":2199023255553,"epoch":2,"crc":10}
{"proc":"b1","f":"dump","type":"fail","t0":60,"t1":60,"tp":"t/0","off":5,"epoch":2,"crc":11}
{"proc":"b2","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":0,"val":1099511627776,"epoch":1,"crc":9}
{"proc":"b2","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":1,"val":1099511627777,"epoch":1,"crc":9}
{"proc":"b2","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":2,"val":1099511627778,"epoch":1,"crc":9}
{"proc":"b2","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":3,"val":2199023255552,"epoch":2,"crc":10}
{"proc":"b2","f":"dump","type":"ok","t0":60,"t1":60,"tp":"t/0","off":4,"val":2199023255553,"epoch":2,"crc":10}
"#;

fn judge(history: &str) -> Report {
    let mut checker = Checker::new();
    read(&mut checker, "h", history.as_bytes()).unwrap();
    checker.finish()
}

/// Each violation as `K6 2 h:3 h:4`: check, offset, lines.
fn brief(report: &Report) -> Vec<String> {
    let words = |v: &tailway_history::Violation| {
        let off = v.off.map_or("-".to_owned(), |off| off.to_string());
        format!("{:?} {off} {}", v.check, v.lines.join(" "))
    };
    report.violations.iter().map(words).collect()
}

/// Which line to change (from 1), what in it, into what; the lines to add at the end; what must be found, and nothing else.
type Case = (&'static [(usize, &'static str, &'static str)], &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (&[], "", &[]),
    // K1: an acknowledged offset holds another's value; a replica holds another than the clients saw.
    (&[(6, "\"off\":3", "\"off\":1")], "", &["K1 1 h:2 h:6"]),
    (
        &[(41, ":1099511627776", ":5"), (47, ":1099511627776", ":5")],
        "",
        &["K1 0 h:1 h:41", "K1 0 h:1 h:47"],
    ),
    // K2: an idempotent value stands twice; a value is sent twice.
    (
        &[
            (39, "2199023255553", "1099511627778"),
            (7, "\"ok\"", "\"info\""),
            (45, "2199023255553", "1099511627778"),
            (51, "2199023255553", "1099511627778"),
        ],
        "",
        &["K2 4 h:14 h:39"],
    ),
    (
        &[],
        r#"{"proc":"p1","f":"send","type":"info","t0":12,"t1":13,"tp":"t/0","val":1099511627777}"#,
        &["K2 - h:2 h:52"],
    ),
    // K3: acknowledged beyond the drain; nowhere; read and gone; no drain; a drain that ends early.
    (
        &[],
        r#"{"proc":"p3","f":"send","type":"ok","t0":12,"t1":13,"tp":"t/0","off":5,"val":3298534883328}"#,
        &["K3 5 h:52"],
    ),
    (
        &[],
        r#"{"proc":"p3","f":"send","type":"ok","t0":12,"t1":13,"tp":"t/0","val":3298534883328}"#,
        &["K3 - h:52"],
    ),
    (
        &[],
        r#"{"proc":"p3","f":"send","type":"ok","t0":12,"t1":13,"tp":"u/0","off":0,"val":3298534883328}"#,
        &["K3 - h:52"],
    ),
    (
        &[(34, "\"off\":0", "\"off\":0"), (40, "\"off\":5", "\"off\":6")],
        "",
        &["K3 5 h:34 h:40", "K10 5 h:46", "K10 5 h:51"],
    ),
    // K4: never sent; failed; of another topic; of another partition; no client's payload.
    (&[(3, "627778", "627799")], "", &["K4 2 h:14"]),
    (&[(3, "info", "fail")], "", &["K4 2 h:3 h:14"]),
    (&[(3, "\"t/0\"", "\"u\"")], "", &["K4 2 h:3 h:14"]),
    (&[(3, "\"t/0\"", "\"t/1\"")], "", &["K4 2 h:3 h:14"]),
    (&[(3, "\"t/0\"", "\"t\"")], "", &[]),
    (
        &[
            (7, "\"ok\"", "\"info\""),
            (39, ",\"val\":2199023255553", ""),
            (45, ",\"val\":2199023255553", ""),
            (51, ",\"val\":2199023255553", ""),
        ],
        "",
        &["K4 4 h:39"],
    ),
    // K5: the log holds a later send before an earlier one; not where there is no idempotence.
    (
        &[
            (7, "2199023255553", "2199023255551"),
            (39, "2199023255553", "2199023255551"),
            (45, "2199023255553", "2199023255551"),
            (51, "2199023255553", "2199023255551"),
        ],
        "",
        &[],
    ),
    (
        &[
            (1, "627776", "627785"),
            (12, "627776", "627785"),
            (18, "627776", "627785"),
            (35, "627776", "627785"),
            (41, "627776", "627785"),
            (47, "627776", "627785"),
        ],
        "",
        &["K5 1 h:1 h:2"],
    ),
    // K6: skipped, read again, never assigned; a new assign starts anew.
    (
        &[(13, "poll", "hw"), (13, ",\"val\":1099511627777,\"epoch\":1,\"hw\":2", "")],
        "",
        &["K6 2 h:12 h:14"],
    ),
    (
        &[],
        r#"{"proc":"r","f":"poll","type":"ok","t0":80,"t1":81,"tp":"t/0","off":2,"val":1099511627778}"#,
        &["K6 2 h:14 h:52"],
    ),
    (
        &[],
        r#"{"proc":"x","f":"poll","type":"ok","t0":80,"t1":81,"tp":"t/0","off":2,"val":1099511627778}"#,
        &["K6 2 h:52"],
    ),
    (&[(11, "\"off\":0", "\"off\":1")], "", &["K6 0 h:11 h:12"]),
    (
        &[],
        "{\"proc\":\"r\",\"f\":\"assign\",\"type\":\"ok\",\"t0\":79,\"t1\":79,\"tp\":\"t/0\",\"off\":1}\n{\"proc\":\"r\",\"f\":\"poll\",\"type\":\"ok\",\"t0\":80,\"t1\":81,\"tp\":\"t/0\",\"off\":1,\"val\":1099511627777}",
        &[],
    ),
    // K7: read at the high watermark; it falls, but not between concurrent looks nor for a new epoch; the final one is lower.
    (&[(12, "\"hw\":1", "\"hw\":0")], "", &["K7 0 h:12"]),
    (&[(16, "\"off\":4", "\"off\":2")], "", &["K7 2 h:15 h:16"]),
    (&[(16, "\"off\":4", "\"off\":2"), (16, "\"t0\":26", "\"t0\":25")], "", &[]),
    (&[(16, "\"off\":4", "\"off\":2,\"epoch\":2")], "", &[]),
    (&[(16, "\"off\":4", "\"off\":6")], "", &["K7 6 h:16 h:40"]),
    (&[(14, "\"hw\":3", "\"hw\":6")], "", &["K7 6 h:14 h:40"]),
    // K8: two leaders of an epoch; an ack after the fence; the old epoch after the new; epochs along the log.
    (&[(8, "\"b1\"", "\"b3\""), (10, "\"epoch\":2", "\"epoch\":1")], "", &["K8 - h:8 h:10"]),
    (&[(10, "\"b2\"", "\"b1\""), (10, "\"epoch\":2", "\"epoch\":1")], "", &["K8 - h:9 h:10"]),
    (&[(8, "\"t0\":10,\"t1\":11", "\"t0\":20,\"t1\":21")], "", &["K8 - h:10 h:8"]),
    (&[(8, "\"t0\":10,\"t1\":11", "\"t0\":15,\"t1\":21")], "", &[]),
    (
        &[(36, "\"epoch\":1", "\"epoch\":2"), (13, "\"epoch\":1", "\"epoch\":2")],
        "",
        &["K8 2 h:13 h:14"],
    ),
    (&[(36, "\"epoch\":1", "\"epoch\":0")], "", &["K8 1 h:13 h:36"]),
    // K9: falls in one process, also within one tick; across members; beyond what was read, by one who read nothing; a member
    // that goes on below, above, where an unknown commit may have put it; a failed commit binds nothing.
    (&[(21, "\"off\":1", "\"off\":3")], "", &["K9 2 h:21 h:22", "K9 2 h:21 h:25"]),
    (
        &[
            (22, "\"off\":2", "\"off\":0"),
            (22, "\"t0\":35,\"t1\":36", "\"t0\":33,\"t1\":34"),
            (23, "\"off\":3", "\"off\":2"),
        ],
        "",
        &["K9 0 h:21 h:22"],
    ),
    (&[(27, "\"off\":4", "\"off\":1")], "", &["K9 1 h:22 h:27"]),
    (&[(27, "\"off\":4", "\"off\":1"), (27, "ok", "fail")], "", &[]),
    (&[(27, "\"off\":4", "\"off\":5")], "", &["K9 5 h:26 h:27"]),
    (&[(27, "\"m2\"", "\"m3\"")], "", &["K9 4 h:27"]),
    (&[(22, "\"off\":2", "\"off\":3")], "", &["K9 2 h:22 h:25", "K9 2 h:25"]),
    (&[(22, "ok", "fail"), (23, "\"off\":3", "\"off\":2")], "", &[]),
    (&[(22, "ok", "fail")], "", &["K9 2 h:25"]),
    (&[(24, "\"group\"", "\"off\":2,\"group\"")], "", &[]),
    (
        &[
            (24, "\"group\"", "\"off\":3,\"group\""),
            (25, "poll", "hw"),
            (25, ",\"val\":1099511627778", ",\"epoch\":7"),
        ],
        "",
        &[],
    ),
    // K10: a CRC that does not hold below the high watermark; replicas that differ; one that lacks; one that holds two.
    (&[(42, "\"ok\"", "\"fail\"")], "", &["K10 1 h:42"]),
    (&[(48, "\"crc\":9", "\"crc\":8")], "", &["K10 1 h:42 h:48"]),
    (&[(48, "\"epoch\":1", "\"epoch\":2")], "", &["K10 1 h:42 h:48"]),
    (&[(48, "\"off\":1", "\"off\":7")], "", &["K10 1 h:49"]),
    (&[(51, "\"off\":4", "\"off\":7")], "", &["K10 4 h:51"]),
    (
        &[(46, "\"off\":5", "\"off\":4")],
        "",
        &["K1 4 h:39 h:46", "K10 4 h:45 h:46", "K10 4 h:46", "K10 4 h:46 h:51"],
    ),
    // K11: lost, delivered again, unknown, out of order.
    (&[(33, "\"val\":7", "\"val\":8")], "", &["K11 - h:33", "K11 2 h:30"]),
    (&[(33, "\"val\":7", "\"val\":9")], "", &["K11 - h:33", "K11 2 h:30"]),
    (
        &[
            (28, "\"val\":7", "\"val\":6"),
            (30, "\"val\":7", "\"val\":5"),
            (31, "\"val\":7", "\"val\":8"),
            (32, "\"val\":8", "\"val\":6"),
            (33, "\"val\":7", "\"val\":5"),
        ],
        "",
        &["K11 0 h:31 h:32"],
    ),
];

fn broken(changes: &[(usize, &str, &str)], added: &str) -> Vec<String> {
    let mut lines: Vec<String> = CLEAN.trim().lines().map(str::to_owned).collect();
    for (line, from, to) in changes {
        let old = &lines[line - 1];
        assert!(old.contains(from), "line {line} has no {from}: {old}");
        lines[line - 1] = old.replacen(from, to, 1);
    }
    lines.extend(added.lines().map(str::to_owned));
    lines
}

#[test]
fn each_broken_rule_is_found_and_nothing_else() {
    let mut wrong = Vec::new();
    for (changes, added, expected) in CASES {
        let report = judge(&broken(changes, added).join("\n"));
        if brief(&report) != *expected {
            wrong.push(format!("{changes:?} {added}\nexpected {expected:?}\nfound {report}\n\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_check_has_a_row_that_it_alone_sees() {
    for check in tailway_history::Check::ALL {
        let alone = CASES.iter().any(|(_, _, expected)| {
            let name = format!("{check:?} ");
            !expected.is_empty() && expected.iter().all(|violation| violation.starts_with(&name))
        });
        assert!(alone, "{check:?}");
    }
}

#[test]
fn a_history_that_shows_nothing_is_not_clean() {
    assert!(judge("").vacuous().is_some_and(|why| why.contains("empty")));
    let unknown: String = CLEAN
        .trim()
        .lines()
        .filter(|line| line.contains("\"info\""))
        .flat_map(|l| [l, "\n"])
        .collect();
    assert!(judge(&unknown).vacuous().is_some_and(|why| why.contains("no acknowledged send")));
    assert_eq!(judge(CLEAN.trim()).vacuous(), None);
}

#[test]
fn a_torn_line_is_named() {
    let mut checker = Checker::new();
    let error = read(&mut checker, "torn.jsonl", &b"{\"proc\":\"p\",\"f\":\"se"[..]).unwrap_err();
    assert!(error.to_string().starts_with("torn.jsonl:1: "), "{error}");
}

#[test]
fn one_file_per_process_gives_the_same_verdicts() {
    let checks = |report: &Report| -> std::collections::BTreeSet<_> {
        report.violations.iter().map(|violation| violation.check).collect()
    };
    for (changes, added, _) in CASES {
        let mixed = broken(changes, added);
        let mut apart = mixed.clone();
        apart.sort_by_key(|line| line.split('"').nth(3).map(str::to_owned));
        let (mixed, apart) = (judge(&mixed.join("\n")), judge(&apart.join("\n")));
        assert_eq!(checks(&mixed), checks(&apart), "{changes:?}\n{mixed}\n{apart}");
    }
}
