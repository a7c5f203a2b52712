//! A sink tried without a broker: `tailway sink test` and `tailway sink setup` ask it what forwarding would ask.

use std::fmt;

use super::opensearch::SetUp;
use super::sink::Sink;
use crate::config::SinkConfig;
use crate::machine::forward::Failure;

/// A sink as the configuration has it.
pub struct Trial {
    sink: Sink,
}

/// Why it did not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialError(String);

impl fmt::Display for TrialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrialError {}

impl From<Failure> for TrialError {
    fn from(failure: Failure) -> Self {
        Self(failure.cause().to_string())
    }
}

impl Trial {
    pub fn new(config: SinkConfig) -> Self {
        Self { sink: Sink::new(config) }
    }

    /// Asks the sink what it is, with its credentials. Writes nothing.
    pub async fn test(&self) -> Result<String, TrialError> {
        Ok(self.sink.what_it_is().await?)
    }

    /// Makes the index template; `None` where a sink of this type needs nothing.
    pub async fn set_up(&self) -> Result<Option<SetUp>, TrialError> {
        match self.sink.opensearch() {
            Some(sink) => Ok(Some(sink.set_up(&self.sink.config.name).await?)),
            None => Ok(None),
        }
    }
}
