//! The tables and the targets, as text and as the part of `docs/benchmarks.md` between its two marks.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::brokers::{Compared, Figures, WARM_UP_SECONDS};
use super::live::{Idle, Live};
use super::own::Own;
use super::profile::Profile;
use super::rdkafka::Through;
use super::shippers::{self, Shippers};
use crate::kafka::NEWEST;
use crate::process::run;
use crate::programs::{Programs, repository};

const DOCUMENT: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- written by cargo x bench-peers: begin -->";
const END: &str = "<!-- written by cargo x bench-peers: end -->";

/// All that was measured in one run.
pub struct Report {
    conditions: Vec<String>,
    pub compared: Vec<Compared>,
    pub send_loop: Option<f64>,
    /// Tailway, then Kafka.
    pub rdkafka: Option<[Through; 2]>,
    pub shippers: Option<Shippers>,
    pub live: Vec<Live>,
    pub idle: Option<Idle>,
    pub own: Option<Own>,
    pub profiles: Vec<Profile>,
}

/// What was promised, and what came out.
struct Target {
    what: String,
    limit: String,
    measured: String,
    met: bool,
}

impl Report {
    /// Takes down what a reader must know.
    pub fn begin(options: &Options, dir: &Path, busy: f64) -> Result<Report> {
        let said = |program: &str, args: &[&str]| -> Result<String> {
            Ok(run(Command::new(program).args(args).current_dir(repository()), super::SHORT)?
                .trim()
                .to_owned())
        };
        let tailway = Programs::built()?.path("tailway")?;
        let version = said(&tailway.to_string_lossy(), &["--version"])?;
        let file_system = said("stat", &["-f", "-c", "%T", &dir.to_string_lossy()])?;
        let trial = if options.trial { " **A trial: nothing here is a measurement.**" } else { "" };
        let only = if options.only.is_empty() {
            String::new()
        } else {
            format!(", only {:?}", options.only)
        };
        let conditions = vec![
            format!("{}, {version}, release build, beside Apache Kafka {NEWEST} ({}).{trial}",
                said("date", &["-u", "+%Y-%m-%d"])?,
                said("sh", &["-c", "java -version 2>&1 | head -1"])?),
            format!("Linux {}, {} ({} cores), data on {file_system}; {busy:.0} % of it busy before the run.",
                said("uname", &["-r"])?,
                said("sh", &["-c", "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1"])?,
                said("nproc", &[])?),
            format!("Brokers on core 1, clients and shippers on core 0, unless a row says otherwise; {} rounds, interleaved, medians{only}.", options.rounds),
            format!("Each broker took and gave {:.2} GB before the first figure. Tailway acknowledges after fdatasync; Kafka does not sync.",
                options.warm_up_gigabytes()),
            format!("Clients: kafka-producer-perf-test and kafka-consumer-perf-test {NEWEST}, acks=all, else their defaults."),
            format!("Throughput and latency are of what came after a producer's warm-up ({WARM_UP_SECONDS} s of a run at a rate, which lasts {} s more; else a third of the records); processor time is of the whole run.", options.seconds),
            "CPU is user and system time by /proc, of Tailway's broker and coordinator together; GB are 1e9 bytes of record values.".to_owned(),
        ];
        let (compared, live) = (Vec::new(), Vec::new());
        Ok(Report {
            conditions,
            compared,
            send_loop: None,
            rdkafka: None,
            shippers: None,
            live,
            idle: None,
            own: None,
            profiles: Vec::new(),
        })
    }

    /// A part failed: what is behind it was not measured.
    pub fn ended_early(&mut self, error: &anyhow::Error) {
        let cause = error.to_string();
        let cause = cause.lines().next().unwrap_or_default();
        self.conditions.push(format!(
            "**Ended early, by: {cause}.** Parts without a table were not measured."
        ));
    }

    /// All of it, in Markdown.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for condition in &self.conditions {
            line(&mut text, &format!("- {condition}"));
        }
        if !self.compared.is_empty() {
            self.brokers(&mut text);
        }
        if let Some(through) = &self.rdkafka {
            rdkafka_table(&mut text, through);
        }
        if let Some(shippers) = &self.shippers {
            shippers_table(&mut text, shippers);
        }
        if !self.live.is_empty() {
            line(
                &mut text,
                "\nA line's way from its append to the broker, 10,000 lines/s:\n\n| shipper | p50 ms | p99 ms | max ms | CPU % |\n| --- | --- | --- | --- | --- |",
            );
            for Live { name, p50_ms, p99_ms, max_ms, cpu_percent } in &self.live {
                line(
                    &mut text,
                    &format!("| {name} | {p50_ms} | {p99_ms} | {max_ms} | {cpu_percent:.1} |"),
                );
            }
        }
        if let Some(Idle { cpu_percent, descriptors, rss_mib }) = self.idle {
            line(
                &mut text,
                &format!(
                    "\n10,000 idle files: {cpu_percent:.2} % of a core, {descriptors} descriptors, peak RSS {rss_mib:.1} MiB."
                ),
            );
        }
        if let Some(own) = &self.own {
            own_table(&mut text, own);
        }
        line(&mut text, "\n| target | limit | measured | |\n| --- | --- | --- | --- |");
        for Target { what, limit, measured, met } in self.targets() {
            let verdict = if met { "met" } else { "**missed**" };
            line(&mut text, &format!("| {what} | {limit} | {measured} | {verdict} |"));
        }
        if !self.profiles.is_empty() {
            profile_tables(&mut text, &self.profiles);
        }
        text
    }

    fn brokers(&self, text: &mut String) {
        line(
            text,
            "\n| load | Kafka's maximum, records/s | broker | MB/s | MB/s, client on any core | CPU-s/GB at the maximum | CPU-s/GB at half of Kafka's | p50 / p99 ms at half | p50 / p99 ms at a fifth | CPU-s/GB of a consumer that follows at half | reading back: MB/s | CPU-s/GB | peak RSS MiB |",
        );
        line(text, &format!("|{}", " --- |".repeat(13)));
        for Compared { workload, kafka_max, tailway, kafka } in &self.compared {
            for (name, f) in [("Tailway", tailway), ("Kafka", kafka)] {
                line(
                    text,
                    &format!(
                        "| {} | {kafka_max} | {name} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} / {:.0} | {:.0} / {:.0} | {:.2} | {:.0} | {:.2} | {:.0} |",
                        workload.name(),
                        f.max_mb_s,
                        f.free_mb_s,
                        f.max_cpu_per_gb,
                        f.half_cpu_per_gb,
                        f.half_p50_ms,
                        f.half_p99_ms,
                        f.fifth_p50_ms,
                        f.fifth_p99_ms,
                        f.follow_cpu_per_gb,
                        f.read_mb_s,
                        f.read_cpu_per_gb,
                        f.peak_rss_mib
                    ),
                );
            }
        }
        if let Some(send_loop) = self.send_loop {
            line(
                text,
                &format!(
                    "\nA bare loop that reads a file and writes it to a loopback socket: {send_loop:.2} CPU-s/GB."
                ),
            );
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for Compared { workload, tailway, kafka, .. } in &self.compared {
            let name = workload.name();
            targets.push(ratio(
                &format!("{name}: produce CPU at half"),
                tailway.half_cpu_per_gb,
                kafka.half_cpu_per_gb,
                1.0 / 3.0,
            ));
            targets.push(self.follow(&name, tailway, kafka));
            targets.push(Target {
                what: format!("{name}: throughput, client on any core"),
                limit: ">= Kafka's".to_owned(),
                measured: format!("{:.0} of {:.0} MB/s", tailway.free_mb_s, kafka.free_mb_s),
                met: tailway.free_mb_s >= kafka.free_mb_s,
            });
            for (at, ours, theirs) in [
                ("a fifth", tailway.fifth_p99_ms, kafka.fifth_p99_ms),
                ("half", tailway.half_p99_ms, kafka.half_p99_ms),
            ] {
                targets.push(Target {
                    what: format!("{name}: p99 at {at}"),
                    limit: "<= Kafka's".to_owned(),
                    measured: format!("{ours:.0} of {theirs:.0} ms"),
                    met: ours <= theirs,
                });
            }
        }
        if let Some(Compared { tailway, kafka, .. }) = self.compared.last() {
            targets.push(ratio(
                "peak RSS of the broker after all loads, MiB",
                tailway.peak_rss_mib,
                kafka.peak_rss_mib,
                0.1,
            ));
        }
        targets.extend(self.shippers.iter().flat_map(shipper_targets));
        if let Some(live) = self.live.first() {
            targets.push(at_most(
                "agent, append to broker at 10,000 lines/s, p50 ms",
                live.p50_ms,
                7,
            ));
            targets.push(at_most(
                "agent, append to broker at 10,000 lines/s, p99 ms",
                live.p99_ms,
                20,
            ));
        }
        if let Some(Idle { cpu_percent, descriptors, rss_mib }) = self.idle {
            targets.push(at_most(
                "agent, 10,000 idle files, % of a core",
                format!("{cpu_percent:.2}").parse().unwrap_or(f64::NAN),
                0.3,
            ));
            targets.push(at_most("agent, 10,000 idle files, descriptors", descriptors, 64));
            targets.push(at_most("agent, 10,000 idle files, peak RSS MiB", rss_mib.round(), 40.0));
        }
        targets.extend(self.own.iter().flat_map(own_targets));
        targets
    }

    /// A consumer that follows: half of Kafka's cost, or 1.3 times a bare loop.
    fn follow(&self, name: &str, tailway: &Figures, kafka: &Figures) -> Target {
        let bare = self.send_loop.unwrap_or(0.0);
        let limit = (kafka.follow_cpu_per_gb / 2.0).max(bare * 1.3);
        Target {
            what: format!("{name}: CPU of a consumer that follows at half"),
            limit: format!("{limit:.2}"),
            measured: format!("{:.2}", tailway.follow_cpu_per_gb),
            met: tailway.follow_cpu_per_gb <= limit,
        }
    }

    /// Puts the text between the marks of the document.
    pub fn write(&self) -> Result<()> {
        let path = repository().join(DOCUMENT);
        let document =
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let replaced = between_marks(&document, &self.text())
            .with_context(|| format!("{DOCUMENT} has lost its marks {BEGIN} and {END}"))?;
        std::fs::write(&path, replaced).with_context(|| path.display().to_string())
    }
}

fn between_marks(document: &str, text: &str) -> Option<String> {
    let (head, rest) = document.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n\n{}\n{END}{tail}", text.trim_end()))
}

fn shippers_table(text: &mut String, of: &Shippers) {
    line(
        text,
        &format!(
            "\nOne file of {} lines of 200 bytes into six partitions, whole from the start; CPU of the shipper alone:\n\n| shipper | CPU-s/GB of input | MB/s | peak RSS MiB |\n| --- | --- | --- | --- |",
            of.input_bytes / 200
        ),
    );
    for row in &of.rows {
        let rss = if row.peak_rss_mib.is_nan() {
            "-".to_owned()
        } else {
            format!("{:.0}", row.peak_rss_mib)
        };
        line(text, &format!("| {} | {:.2} | {:.0} | {rss} |", row.name, row.cpu_per_gb, row.mb_s));
    }
    line(
        text,
        &format!(
            "| zstd 1 alone over the lines, blocks of 512 KiB | {:.2} | | |\n| zstd 1 alone over the same lines as ECS, blocks of 512 KiB | {:.2} | | |",
            of.zstd_raw, of.zstd_ecs
        ),
    );
}

fn rdkafka_table(text: &mut String, of: &[Through; 2]) {
    line(
        text,
        "\nLines of 1,000 bytes into six partitions and out again by kcat (librdkafka), acks=all, else its defaults, plaintext; CPU of the broker:\n\n| broker | in: MB/s | CPU-s/GB | out: MB/s | CPU-s/GB |\n| --- | --- | --- | --- | --- |",
    );
    for (name, of) in ["Tailway", "Kafka"].iter().zip(of) {
        let Through { produce_mb_s, produce_cpu_per_gb, consume_mb_s, consume_cpu_per_gb } = of;
        line(
            text,
            &format!(
                "| {name} | {produce_mb_s:.0} | {produce_cpu_per_gb:.2} | {consume_mb_s:.0} | {consume_cpu_per_gb:.2} |"
            ),
        );
    }
}

fn profile_tables(text: &mut String, of: &[Profile]) {
    line(
        text,
        "\nWhere the processor time goes on each path, by perf's samples: a sample within a system call counts for the call.",
    );
    for profile in of {
        line(text, &format!("\n| % | {} |\n| --- | --- |", profile.path));
        for (share, place) in profile.top() {
            line(text, &format!("| {share:.1} | {} |", place.replace('|', "\\|")));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn own_table(text: &mut String, of: &Own) {
    line(
        text,
        "\nBy `tailway bench start`, over TLS, daemons on any core:\n\n| the broker finds | ready ms | first ack ms | RSS MiB |\n| --- | --- | --- | --- |",
    );
    for start in &of.starts {
        line(
            text,
            &format!(
                "| {} | {:.0} | {:.0} | {:.1} |",
                start.found,
                start.ready_us as f64 / 1e3,
                start.first_ack_us as f64 / 1e3,
                mib(start.rss_bytes)
            ),
        );
    }
    let (count, kb) = (of.connections, of.connection_bytes as f64 / 1e3);
    line(text, &format!("\n{count} idle TLS connections: {kb:.1} KB of the broker's memory each."));
    if !of.sizes.is_empty() {
        let sizes =
            of.sizes.iter().map(|(name, bytes)| format!("{name} {:.1} MB", *bytes as f64 / 1e6));
        let sizes: Vec<String> = sizes.collect();
        line(text, &format!("\nProfile `dist`, stripped: {}.", sizes.join(", ")));
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn own_targets(of: &Own) -> Vec<Target> {
    let mut targets = Vec::new();
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    if let Some(empty) = of.starts.first() {
        let ms = tenths(empty.first_ack_us as f64 / 1e3);
        targets.push(at_most("broker, start on nothing to first ack, ms", ms, 100.0));
    }
    if let Some(many) = of.starts.get(1) {
        let ms = tenths(many.ready_us as f64 / 1e3);
        targets.push(at_most(&format!("broker, start with {}, ms", many.found), ms, 500.0));
        let rss = tenths(mib(many.rss_bytes));
        targets.push(at_most(&format!("broker, RSS with {}, MiB", many.found), rss, 64.0));
    }
    let kb = tenths(of.connection_bytes as f64 / 1e3);
    targets.push(at_most(&format!("{} idle TLS connections, KB each", of.connections), kb, 25.0));
    for (name, bytes) in &of.sizes {
        let limit = match *name {
            "tailway-agent" => 8.0,
            "tailway-broker" => 12.0,
            _ => 10.0,
        };
        let size = tenths(*bytes as f64 / 1e6);
        targets.push(at_most(&format!("{name}, profile dist, MB"), size, limit));
    }
    targets
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn shipper_targets(of: &Shippers) -> Vec<Target> {
    let cost = |name: &str| {
        of.rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.cpu_per_gb)
    };
    vec![
        ratio(
            "agent, raw, uncompressed, beside `cat \\| kcat -P`",
            cost(shippers::RAW_NONE),
            cost(shippers::KCAT_NONE),
            1.0,
        ),
        ratio(
            "agent, raw, zstd 1, TLS, beside zstd 1 alone",
            cost(shippers::RAW_ZSTD_TLS),
            of.zstd_raw,
            1.5,
        ),
        ratio(
            "agent, ECS, zstd 1, TLS, beside zstd 1 alone",
            cost(shippers::ECS_ZSTD_TLS),
            of.zstd_ecs,
            1.5,
        ),
    ]
}

fn ratio(what: &str, ours: f64, theirs: f64, limit: f64) -> Target {
    let ratio = ours / theirs;
    Target {
        what: what.to_owned(),
        limit: format!("<= {limit:.2} x"),
        measured: format!("{ratio:.2} x ({ours:.2} of {theirs:.2})"),
        met: ratio <= limit,
    }
}

fn at_most<T: PartialOrd + std::fmt::Display>(what: &str, measured: T, limit: T) -> Target {
    let met = measured <= limit;
    let (what, limit, measured) = (what.to_owned(), format!("<= {limit}"), measured.to_string());
    Target { what, limit, measured, met }
}

fn line(text: &mut String, more: &str) {
    // Writing to a string cannot fail.
    writeln!(text, "{more}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("# Title\n{BEGIN}\nold\n{END}\nprose\n");
        let expected = format!("# Title\n{BEGIN}\n\nnew\n{END}\nprose\n");
        assert_eq!(between_marks(&document, "new\n").as_deref(), Some(expected.as_str()));
        assert_eq!(between_marks("# Title\n", "new"), None);
    }

    #[test]
    fn a_missed_target_is_said_to_be_missed() {
        assert!(ratio("a", 1.0, 4.0, 0.25).met && !ratio("a", 1.1, 4.0, 0.25).met);
        assert!(!ratio("not measured", f64::NAN, 1.0, 1.0).met);
        assert!(at_most("b", 7, 7).met && !at_most("b", 8, 7).met);
    }

    #[test]
    fn the_document_has_its_marks() {
        let document = std::fs::read_to_string(repository().join(DOCUMENT)).unwrap();
        assert!(between_marks(&document, "").is_some());
    }
}
