//! `tailway dev --sink`: the short form of a sink, and what it needs at its other end.

use tailway_broker::Broker;
use tailway_broker::config::{RawSink, SinkType};
use tailway_broker::forward::Trial;
use tailway_daemon::Daemon;

use super::dir::DevDir;
use crate::output::complain;

/// Reads `es=URL`, `kafka=HOST:PORT` or `stdout`. The rest is checked with the broker's configuration.
pub(crate) fn parse(text: &str) -> Result<RawSink, String> {
    let sink = |name: &str, kind| RawSink {
        name: name.to_owned(),
        kind: Some(kind),
        topics: vec!["*".to_owned()],
        ..RawSink::default()
    };
    match text.split_once('=') {
        None if text == "stdout" => Ok(sink("stdout", SinkType::Stdout)),
        Some(("es" | "opensearch", url)) if !url.is_empty() => {
            Ok(RawSink { urls: vec![url.to_owned()], ..sink("es", SinkType::Opensearch) })
        }
        Some(("kafka", brokers)) if !brokers.is_empty() => {
            let brokers = brokers.split(',').map(str::to_owned).collect();
            Ok(RawSink { brokers, insecure: true, ..sink("kafka", SinkType::Kafka) })
        }
        _ => Err("write es=URL, for example es=http://localhost:9200, kafka=HOST:PORT, or stdout"
            .to_owned()),
    }
}

/// Makes the index templates. What cannot be made now is said: forwarding waits for it.
pub(super) async fn set_up(dir: &DevDir) {
    // A configuration that is wrong is refused, in words, by the start that follows.
    let Ok(config) = Broker::load_config(&dir.config("broker")) else { return };
    for sink in config.sinks {
        let name = sink.name.clone();
        if let Err(error) = Trial::new(sink).set_up().await {
            let config = dir.config("broker");
            complain(&format!(
                "sink {name}: {error}\n  next: tailway sink setup {name} --config {}",
                config.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form() {
        let parsed = parse("es=http://localhost:9200").unwrap();
        assert_eq!((parsed.name.as_str(), parsed.urls.len()), ("es", 1));
        let parsed = parse("kafka=one:9092,two:9092").unwrap();
        assert_eq!((parsed.kind, parsed.brokers.len()), (Some(SinkType::Kafka), 2));
        assert_eq!(parse("stdout").unwrap().kind, Some(SinkType::Stdout));
        for wrong in ["", "es", "es=", "kafka=", "stdout=x", "http://localhost:9200"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
