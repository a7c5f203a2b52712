//! `tailway sink setup`: the index template that a sink's names need.
//!
//! Its patterns are the literal beginning of the sink's names, so that it concerns nothing else. Nothing is changed that is
//! there under another name.

use std::fmt;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::OpenSearch;
use crate::config::Naming;
use crate::machine::forward::Failure;

/// Above the templates that servers bring along (100 at most).
const PRIORITY: u32 = 200;

/// What was set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUp {
    pub template: String,
    pub pattern: String,
    pub data_stream: bool,
}

impl fmt::Display for SetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { template, pattern, data_stream } = self;
        let what = if *data_stream { "data streams" } else { "indices" };
        write!(f, "index template {template} is there: {what} {pattern}")
    }
}

impl OpenSearch {
    /// Its name and version, as it tells them who may ask.
    pub(crate) async fn what_it_is(&self) -> Result<String, Failure> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Root {
            cluster_name: String,
            version: Version,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Version {
            distribution: Option<String>,
            number: String,
        }
        let body = self.ask_for(Method::GET, "/", Bytes::new()).await?.unwrap_or_default();
        let root: Root = serde_json::from_slice(&body)
            .map_err(|error| Failure::doubtful(format!("it does not say what it is: {error}")))?;
        let Root { cluster_name, version: Version { distribution, number } } = root;
        let distribution = distribution.unwrap_or_else(|| "elasticsearch".to_owned());
        Ok(format!("{distribution} {number}, cluster {cluster_name}"))
    }

    /// Makes the index template of the sink of this name, or makes it anew.
    pub(crate) async fn set_up(&self, sink: &str) -> Result<SetUp, Failure> {
        let (prefix, data_stream) = match &self.config.naming {
            Naming::DataStream(template) => (template.prefix(), true),
            Naming::Index(template) => (template.prefix(), false),
        };
        let pattern = format!("{prefix}*");
        let template = format!("tailway-{sink}");
        let mut body = json!({
            "index_patterns": [pattern],
            "priority": PRIORITY,
            "template": {
                "mappings": {
                    "date_detection": false,
                    "properties": {
                        "@timestamp": { "type": "date" },
                        "message": { "type": "text" },
                        "log": { "properties": { "offset": { "type": "long" } } },
                    },
                    "dynamic_templates": [{
                        "strings": {
                            "match_mapping_type": "string",
                            "mapping": { "type": "keyword", "ignore_above": 1024 },
                        },
                    }],
                },
            },
            "_meta": { "made_by": "tailway sink setup" },
        });
        if data_stream {
            body["data_stream"] = json!({});
        }
        let path = format!("/_index_template/{template}");
        self.ask_for(Method::PUT, &path, Bytes::from(body.to_string())).await?;
        Ok(SetUp { template, pattern, data_stream })
    }
}
