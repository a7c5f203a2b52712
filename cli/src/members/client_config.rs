//! `tailway client-config`: settings of other software for an identity that `cert issue` made, to be used as printed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_net::HostPort;

use super::cert::KEYSTORE_PEM;
use super::identity::Papers;
use crate::output::{Output, complain, quoted};

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Software {
    /// A command to paste
    Kcat,
    /// client.properties of Java clients and of Kafka's own tools, 2.7 and newer
    Java,
    /// output.kafka of filebeat.yml
    Filebeat,
    /// Properties of librdkafka and of what is built on it (confluent-kafka)
    Librdkafka,
}

/// Settings, to be used as they are.
#[derive(Debug, Serialize)]
struct Printed {
    software: &'static str,
    text: String,
}

pub(crate) fn run(
    software: Software,
    identity: &Path,
    bootstrap: &str,
    output: Output,
) -> Result<Exit> {
    let papers = Papers::in_dir(identity)?;
    let brokers: Vec<String> =
        HostPort::parse_list(bootstrap)?.iter().map(ToString::to_string).collect();
    let mut needed = vec![papers.ca(), papers.cert(), papers.key()];
    if software == Software::Java {
        // Only `cert issue` makes it; the first admin's and enrolled identities do without.
        needed.push(papers.dir.join(KEYSTORE_PEM));
    }
    if let Some(missing) = needed.iter().find(|path| !path.exists()) {
        bail!(
            "{} is missing\n  next: tailway cert issue --role client NAME --out DIR, and --identity DIR here",
            missing.display()
        );
    }
    let lines = settings(software, &papers, &brokers, has_list(&papers)?);
    let text = lines.join("\n") + "\n";
    output.whole(&Printed { software: software.name(), text }, |_| lines)?;
    // On stderr: what is printed is to be used as it is.
    complain(&use_of(software, brokers.first().map_or("", String::as_str)));
    if let Some(remark) = papers.remark(Clock::new().wall()) {
        complain(&remark);
    }
    Ok(Exit::Ok)
}

impl Software {
    fn name(self) -> &'static str {
        match self {
            Software::Kcat => "kcat",
            Software::Java => "java",
            Software::Filebeat => "filebeat",
            Software::Librdkafka => "librdkafka",
        }
    }
}

/// Whether the file of CAs says what was revoked. librdkafka believes nobody where it is told of a list that is not there.
fn has_list(papers: &Papers) -> Result<bool> {
    let ca = papers.ca();
    let pem = std::fs::read_to_string(&ca).with_context(|| ca.display().to_string())?;
    Ok(pem.contains(LIST))
}

/// How a revocation list begins in a file of CAs.
const LIST: &str = "-----BEGIN X509 CRL-----";

/// What to do with it.
fn use_of(software: Software, broker: &str) -> String {
    match software {
        Software::Kcat => {
            "lists the cluster; instead of -L: -C -t TOPIC reads, -P -t TOPIC writes".to_owned()
        }
        Software::Java => format!(
            "as client.properties; for Kafka's own tools: kafka-console-consumer --bootstrap-server {broker} --command-config client.properties --topic TOPIC (before 4.0: --consumer.config)"
        ),
        Software::Filebeat => {
            "in filebeat.yml, in the place of the output that is there; filebeat test output tries it"
                .to_owned()
        }
        Software::Librdkafka => {
            "as the configuration of a client, one property a line; kcat -F FILE -L tries it"
                .to_owned()
        }
    }
}

fn settings(
    software: Software,
    papers: &Papers,
    brokers: &[String],
    has_list: bool,
) -> Vec<String> {
    let at = |path: std::path::PathBuf| path.display().to_string();
    let (ca, cert, key) = (at(papers.ca()), at(papers.cert()), at(papers.key()));
    let keystore = at(papers.dir.join(KEYSTORE_PEM));
    let bootstrap = brokers.join(",");
    let mut librdkafka = vec![
        ("security.protocol", "ssl"),
        ("ssl.ca.location", ca.as_str()),
        ("ssl.certificate.location", cert.as_str()),
        ("ssl.key.location", key.as_str()),
    ];
    if has_list {
        librdkafka.insert(2, ("ssl.crl.location", ca.as_str()));
    }
    match software {
        Software::Kcat => {
            let option = |(name, value)| format!("-X {}", quoted(&format!("{name}={value}")));
            let options: Vec<String> = librdkafka.into_iter().map(option).collect();
            vec![format!("kcat -b {} {} -L", quoted(&bootstrap), options.join(" "))]
        }
        Software::Librdkafka => {
            let mut lines = vec![format!("bootstrap.servers={bootstrap}")];
            lines.extend(librdkafka.iter().map(|(name, value)| format!("{name}={value}")));
            lines
        }
        Software::Java => vec![
            format!("bootstrap.servers={bootstrap}"),
            "security.protocol=SSL".to_owned(),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={ca}"),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={keystore}"),
        ],
        Software::Filebeat => {
            let hosts: Vec<String> = brokers.iter().map(|broker| yaml(broker)).collect();
            vec![
                "output.kafka:".to_owned(),
                format!("  hosts: [{}]", hosts.join(", ")),
                "  topic: filebeat".to_owned(),
                "  version: \"2.1.0\"".to_owned(),
                "  required_acks: -1".to_owned(),
                format!("  ssl.certificate_authorities: [{}]", yaml(&ca)),
                format!("  ssl.certificate: {}", yaml(&cert)),
                format!("  ssl.key: {}", yaml(&key)),
            ]
        }
    }
}

/// A text in double quotes, as YAML and JSON have it.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_whole_and_quoted() {
        let papers = Papers::in_dir(Path::new("/a b")).unwrap();
        let brokers = ["h:1".to_owned(), "[::1]:2".to_owned()];
        let lines = |software| settings(software, &papers, &brokers, true);
        assert_eq!(
            lines(Software::Kcat),
            [
                "kcat -b 'h:1,[::1]:2' -X security.protocol=ssl -X 'ssl.ca.location=/a b/ca.pem' -X 'ssl.crl.location=/a b/ca.pem' -X 'ssl.certificate.location=/a b/cert.pem' -X 'ssl.key.location=/a b/cert.key' -L"
            ]
        );
        assert_eq!(
            lines(Software::Librdkafka),
            [
                "bootstrap.servers=h:1,[::1]:2",
                "security.protocol=ssl",
                "ssl.ca.location=/a b/ca.pem",
                "ssl.crl.location=/a b/ca.pem",
                "ssl.certificate.location=/a b/cert.pem",
                "ssl.key.location=/a b/cert.key",
            ]
        );
        let without = settings(Software::Librdkafka, &papers, &brokers, false);
        assert!(!without.iter().any(|line| line.contains("crl")), "{without:?}");
        assert_eq!(lines(Software::Java)[5], "ssl.keystore.location=/a b/keystore.pem");
        let filebeat = lines(Software::Filebeat);
        assert_eq!(filebeat[1], r#"  hosts: ["h:1", "[::1]:2"]"#);
        assert_eq!(filebeat[7], r#"  ssl.key: "/a b/cert.key""#);
    }

    #[test]
    fn an_identity_that_is_not_whole_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(Software::Kcat, dir.path(), "h:1", Output::Table).unwrap_err().to_string();
        crate::output::documented(
            "client-config",
            &Printed { software: "kcat", text: String::new() },
        );
        assert!(error.contains("ca.pem is missing") && error.contains("cert issue"), "{error}");
    }
}
