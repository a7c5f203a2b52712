//! DescribeConfigs (32), versions 1-4. KIP-226 (sources), KIP-569 (types and documentation from 3).
//!
//! Topics and brokers. Only keys that act are listed, each with its effective value and where that comes from; nothing is
//! shown that could be set without effect. Differs: nothing can be altered yet, so broker settings are read-only, and broker
//! loggers (type 8) are INVALID_REQUEST.

use std::collections::BTreeMap;

use tailway_metadata::topic_config::{ConfigType, KEYS};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::describe_configs_request::DescribeConfigsResource;
use tailway_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use tailway_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::text;
use crate::cluster::ClusterView;
use crate::server::context::BrokerFacts;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// From this version on answers have types and documentation.
const TYPES_FROM: i16 = 3;

/// Where a value comes from. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Topic,
    BrokerFile,
    Default,
}

impl Source {
    pub const fn code(self) -> i8 {
        match self {
            Source::Topic => 1,
            Source::BrokerFile => 4,
            Source::Default => 5,
        }
    }
}

/// One key with its effective value, and what the value would be without the topmost source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
    pub read_only: bool,
    kind: i8,
    doc: &'static str,
    /// All sources that say something, strongest first.
    synonyms: Vec<(String, Source)>,
}

/// Every topic config that acts, with this topic's effective values.
pub fn topic_settings(
    own: &BTreeMap<String, String>,
    broker: &BTreeMap<String, String>,
) -> Vec<Setting> {
    let setting = |key: &'static tailway_metadata::topic_config::ConfigKey| {
        let sources = [
            (own.get(key.name).cloned(), Source::Topic),
            (broker.get(key.name).cloned(), Source::BrokerFile),
            (Some(key.default.to_owned()), Source::Default),
        ];
        let synonyms: Vec<(String, Source)> =
            sources.into_iter().filter_map(|(value, source)| Some((value?, source))).collect();
        let (value, source) =
            synonyms.first().cloned().unwrap_or_else(|| (key.default.to_owned(), Source::Default));
        Setting {
            name: key.name,
            value,
            source,
            read_only: false,
            kind: key.kind.code(),
            doc: key.doc,
            synonyms,
        }
    };
    KEYS.iter().map(setting).collect()
}

pub fn handle(
    request: DescribeConfigsRequest,
    version: i16,
    view: &ClusterView,
    facts: &BrokerFacts,
) -> DescribeConfigsResponse {
    let options = Options {
        version,
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let results = request.resources.into_iter().map(|resource| {
        let settings = match resource.resource_type {
            TOPIC => of_topic(&resource.resource_name, view, facts),
            BROKER => of_broker(&resource.resource_name, view, facts),
            other => Err((
                ErrorCode::INVALID_REQUEST,
                format!("resources of type {other} have no configs here"),
            )),
        };
        result(resource, settings, &options)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

type Described = Result<Vec<Setting>, (ErrorCode, String)>;

fn of_topic(name: &str, view: &ClusterView, facts: &BrokerFacts) -> Described {
    if let Err(error) = tailway_metadata::topic::validate_name(name) {
        return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()));
    }
    let image = view.image();
    let topic = image.topic(name).ok_or_else(|| {
        let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        (code, format!("topic {name} does not exist"))
    })?;
    Ok(topic_settings(&topic.configs, &facts.topic_defaults))
}

fn of_broker(name: &str, view: &ClusterView, facts: &BrokerFacts) -> Described {
    let me = view.me().to_string();
    if name.is_empty() {
        // The cluster-wide default for brokers: nothing can be set there yet.
        return Ok(Vec::new());
    }
    if name != me {
        let why = format!("this is broker {me}; ask broker {name} itself");
        return Err((ErrorCode::INVALID_REQUEST, why));
    }
    let setting = |(name, value): &(&'static str, String)| Setting {
        name,
        value: value.clone(),
        source: Source::BrokerFile,
        read_only: true,
        kind: ConfigType::String.code(),
        doc: "",
        synonyms: vec![(value.clone(), Source::BrokerFile)],
    };
    Ok(facts.settings.iter().map(setting).collect())
}

struct Options {
    version: i16,
    synonyms: bool,
    documentation: bool,
}

fn result(
    resource: DescribeConfigsResource,
    settings: Described,
    options: &Options,
) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name);
    match settings {
        Ok(settings) => {
            let wanted = resource.configuration_keys;
            let listed = settings
                .into_iter()
                .filter(|setting| {
                    wanted.as_ref().is_none_or(|keys| keys.iter().any(|key| **key == *setting.name))
                })
                .map(|setting| describe(&setting, options));
            result.with_error_message(None).with_configs(listed.collect())
        }
        Err((code, why)) => result.with_error_code(code.code()).with_error_message(Some(text(why))),
    }
}

fn describe(setting: &Setting, options: &Options) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(text(setting.name))
        .with_value(Some(text(&setting.value)))
        .with_read_only(setting.read_only)
        .with_config_source(setting.source.code())
        .with_is_sensitive(false);
    if options.synonyms {
        let synonyms = setting.synonyms.iter().map(|(value, source)| {
            DescribeConfigsSynonym::default()
                .with_name(text(setting.name))
                .with_value(Some(text(value)))
                .with_source(source.code())
        });
        result = result.with_synonyms(synonyms.collect());
    }
    if options.version >= TYPES_FROM {
        let doc = (options.documentation && !setting.doc.is_empty()).then(|| text(setting.doc));
        result = result.with_config_type(setting.kind).with_documentation(doc);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_acts_is_listed_with_its_source() {
        let own = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
        let broker = BTreeMap::from([
            ("retention.ms".to_owned(), "2".to_owned()),
            ("segment.ms".to_owned(), "3".to_owned()),
        ]);
        let settings = topic_settings(&own, &broker);
        assert_eq!(settings.len(), KEYS.len());
        let of = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap();
        assert_eq!(
            (of("retention.ms").value.as_str(), of("retention.ms").source),
            ("1", Source::Topic)
        );
        let synonyms: Vec<(&str, i8)> =
            of("retention.ms").synonyms.iter().map(|(v, s)| (v.as_str(), s.code())).collect();
        assert_eq!(synonyms, [("1", 1), ("2", 4), ("604800000", 5)]);
        assert_eq!(
            (of("segment.ms").value.as_str(), of("segment.ms").source),
            ("3", Source::BrokerFile)
        );
        assert_eq!(of("cleanup.policy").source, Source::Default);
    }
}
