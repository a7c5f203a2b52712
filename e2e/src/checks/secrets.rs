//! Secrets that are planted everywhere, and looked for wherever Tailway says something: logs at trace level, metrics, status
//! pages, commands, panics.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::text;
use crate::cluster::{AGENTS, BROKER, CLIENT, COORDINATOR, Cluster, ENROLLMENT, TOPIC};
use crate::group::{Check, need};
use crate::process::{run_with_input, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[(
    "keys, tokens, passwords and records are in no log at trace level, metric, status page, command's output or panic",
    nowhere,
)];

const PATIENCE: Duration = Duration::from_mins(2);
const LINE: &str = "canary-line-7f3a9c";
const VALUE: &str = "canary-value-51be02";
const KEY: &str = "canary-key-c90d44";
const HEADER: &str = "canary-header-8e16aa";
const PASSWORD: &str = "canary-password-2d77f0";
const MISTYPED: &str = "canarymistyped63b1";
/// What ends a program in a test build, by a panic in the middle of its work.
const PANIC: &str = "storage.write:25:panic";

/// A secret's name for the verdict, and a form in which it would be found.
type Planted = (String, String);

fn nowhere() -> Result<()> {
    need("kcat", "kcat")?;
    let programs = Programs::armed()?;
    // The talkative dependency is quiet until it is named.
    let loud = ("level: info", "level: trace,openraft=trace");
    let environment = [("RUST_BACKTRACE", "full")];
    let mut cluster = Cluster::coordinator(programs, &environment, &[loud])?;
    cluster.add_broker()?;
    cluster.stop(BROKER)?;
    let password = cluster.network.host(BROKER)?.etc("tailway/sink-password");
    fs::write(&password, PASSWORD)?;
    fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let sink = "sinks:\n- name: es\n  type: opensearch\n  topics: [\"*\"]\n  urls: [\"http://127.0.0.1:9\"]\n  \
        data_stream: logs-{topic}-default\n  username: tailway\n  \
        password: { file: /etc/tailway/sink-password }\n";
    cluster.configure(BROKER, "broker", &[loud, ("sinks: []\n", sink)])?;
    cluster.start(BROKER, "broker")?;
    for agent in AGENTS {
        cluster.add_agent(agent)?;
        cluster.stop(agent)?;
        cluster.configure(agent, "agent", &[loud])?;
        cluster.start(agent, "agent")?;
        write_line(&cluster, agent)?;
    }
    let said = converse(&mut cluster)?;
    let mut heard = pages(&cluster)?;
    heard.push(("commands".to_owned(), said));
    for (host, daemon) in [(AGENTS[1], "agent"), (BROKER, "broker"), (COORDINATOR, "coordinator")] {
        panic(&mut cluster, host, daemon)?;
    }
    for (host, _) in DAEMONS {
        let log = cluster.log(host)?;
        // An agent has nothing to say below INFO: yet.
        let is_loud = log.contains("DEBUG") || !TALKATIVE.contains(&host);
        ensure!(is_loud, "{host} does not log at trace level:\n{log}");
        heard.push((format!("log of {host}"), log));
    }
    let planted = planted(&cluster)?;
    let mut found = Vec::new();
    for (place, text) in &heard {
        for (secret, form) in planted.iter().filter(|(_, form)| text.contains(form)) {
            let at = text.lines().find(|line| line.contains(form)).unwrap_or_default();
            let at: String = at.chars().take(300).collect();
            found.push(format!("{secret} in {place}: {at}"));
        }
    }
    ensure!(found.is_empty(), "{} secrets are told:\n{}", found.len(), found.join("\n"));
    drop(cluster.stop(AGENTS[0]));
    Ok(())
}

const DAEMONS: [(&str, &str); 4] =
    [(COORDINATOR, "coordinator"), (BROKER, "broker"), (AGENTS[0], "agent"), (AGENTS[1], "agent")];

/// Those that have lines for developers.
const TALKATIVE: [&str; 2] = [COORDINATOR, BROKER];

fn write_line(cluster: &Cluster, agent: &str) -> Result<()> {
    let path = cluster.logs(agent)?.join("app.log");
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    writeln!(file, "{LINE}")?;
    Ok(())
}

/// All that members, clients and operators ask, right and wrong; what the commands print that are not asked for a secret.
fn converse(cluster: &mut Cluster) -> Result<String> {
    let identity = cluster.identity("reports")?;
    let produce = format!("-P -t other -k {KEY} -H {HEADER}={HEADER}");
    let shell = cluster.client_config("kcat", &identity)?;
    let shell = shell.trim_end().strip_suffix("-L").context("no -L")?;
    cluster.shell(&format!("echo {VALUE} | {shell}{produce}"))?;
    for topic in [TOPIC, "other"] {
        wait_until(PATIENCE, || {
            Ok(cluster.consume(&identity, topic).is_ok_and(|all| all.contains("canary-")))
        })
        .with_context(|| format!("nothing arrives in {topic}"))?;
    }
    let mut said = String::new();
    let wrong = cluster.token("agent", &[])?;
    let (front, _) = wrong.rsplit_once('.').context("no token")?;
    let state = cluster.network.host(CLIENT)?.dir().join("state");
    let config = state.with_extension("yaml");
    let places = ["--state", text(&state)?, "--config", text(&config)?];
    for token in [format!("{front}.{MISTYPED}"), format!("{front}.{MISTYPED}.1"), MISTYPED.into()] {
        let enroll = [&["enroll", ENROLLMENT, &token][..], &places].concat();
        said += &cluster.refused(CLIENT, &enroll)?;
    }
    for args in [&["token", "list"][..], &["cert", "list"], &["ca", "list"], &["status"]] {
        let mut command = cluster.tailway_command(COORDINATOR, args)?;
        let output = crate::process::finish(&mut command, PATIENCE)?;
        said += &String::from_utf8_lossy(&output.stdout);
        said += &String::from_utf8_lossy(&output.stderr);
    }
    Ok(said)
}

/// What each daemon shows on its admin port.
fn pages(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for (host, daemon) in DAEMONS {
        for path in ["/metrics", "/status", "/livez", "/readyz"] {
            let page = cluster.admin(host, daemon, path)?;
            pages.push((format!("{path} of {host}"), page));
        }
    }
    Ok(pages)
}

/// Makes a daemon end by a panic under work with secrets in it.
fn panic(cluster: &mut Cluster, host: &'static str, daemon: &str) -> Result<()> {
    cluster.stop(host)?;
    cluster.start_failing(host, daemon, ("TAILWAY_FAULTS", PANIC))?;
    wait_until(PATIENCE, || {
        write_line(cluster, AGENTS[0])?;
        write_line(cluster, AGENTS[1])?;
        if daemon == "coordinator" {
            // It may have ended already, or end before it answers.
            drop(cluster.token("agent", &[]));
        }
        Ok(cluster.log(host)?.contains("panicked at"))
    })
    .with_context(|| {
        format!("{daemon} does not panic:\n{}", cluster.log(host).unwrap_or_default())
    })?;
    cluster.take(host).map(drop)
}

/// Every secret that there is, in the forms in which programs print what they have.
fn planted(cluster: &Cluster) -> Result<Vec<Planted>> {
    let named = |what: &str, form: &str| (what.to_owned(), form.to_owned());
    let mut planted = vec![
        named("a line's text", LINE),
        named("a record's value", VALUE),
        named("a record's key", KEY),
        named("a record's header", HEADER),
        named("a password", PASSWORD),
        named("a mistyped token", MISTYPED),
    ];
    let basic = run_with_input(
        std::process::Command::new("base64").arg("-w0"),
        format!("tailway:{PASSWORD}").as_bytes(),
        PATIENCE,
    )?;
    planted.push(("a password as it is sent".to_owned(), basic));
    ensure!(cluster.tokens().len() >= 4, "there are too few tokens");
    for token in cluster.tokens() {
        let secret = token.rsplit_once('.').context("a token has no secret")?.1;
        planted.push(named("a token", secret));
    }
    let mut files = Vec::new();
    files_below(cluster.dir(), &mut files)?;
    let mut found = 0;
    for path in files {
        let Ok(content) = fs::read_to_string(&path) else { continue };
        if path.ends_with("keystore.password") {
            planted.push(named("a keystore's password", content.trim()));
        }
        let Some((_, body)) = content.split_once("PRIVATE KEY-----\n") else { continue };
        found += 1;
        let what = format!("the key in {}", path.display());
        let lines = body.lines().take_while(|line| !line.starts_with('-'));
        planted.extend(lines.filter(|l| l.len() >= 16).map(|line| (what.clone(), line.to_owned())));
        let key = PrivateKeyDer::from_pem_slice(content.as_bytes())?;
        // RFC 5958 and RFC 5915: the private number of P-256 begins here.
        let number = key.secret_der().get(36..68).context("a key of another kind")?;
        let hex = |form: fn(&u8) -> String| number.iter().map(form).collect::<String>();
        planted.push((what.clone(), hex(|byte| format!("{byte:02x}"))));
        planted.push((what.clone(), hex(|byte| format!("{byte:02X}"))));
        let list: Vec<String> = number.iter().take(8).map(u8::to_string).collect();
        planted.push((what, list.join(", ")));
    }
    // CA, coordinator, broker, two agents, admin, client.
    ensure!(found >= 7, "only {found} files with private keys");
    Ok(planted)
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_below(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}
