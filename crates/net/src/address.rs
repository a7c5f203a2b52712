//! `host:port` as people write it: names, IPv4, and IPv6 in brackets.
//!
//! A [`HostPort`] is what configurations, bootstrap lists and Metadata answers carry. It stays a
//! name until it is dialed, because the name is what the server's certificate is checked against.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A host (name or address, without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Why a text is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not HOST:PORT: {problem}; write for example kafka.example.com:9093")]
pub struct AddressError {
    pub text: String,
    pub problem: &'static str,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Parses a comma-separated bootstrap list; blanks around entries are allowed.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, AddressError> {
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::parse).collect()
    }

    /// The IP address, if the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |problem| AddressError { text: text.to_owned(), problem };
        if text.contains("://") {
            return Err(fail("it has a scheme, which Kafka addresses do not"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fail("the port is missing"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| fail("a bracket is not closed"))?,
            None if host.contains(':') => {
                return Err(fail("an IPv6 address needs brackets, as in [::1]:9093"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(fail("the host is missing"));
        }
        if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(fail("the host has a blank in it"));
        }
        let port: u16 = port.parse().map_err(|_| fail("the port is no number up to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_comes_back_the_same() {
        for text in ["localhost:9092", "127.0.0.1:1", "[::1]:9093", "a.b-c.example:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let list = HostPort::parse_list("a:1, b:2,").unwrap();
        assert_eq!(list, [HostPort::new("a", 1), HostPort::new("b", 2)]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("localhost", "the port is missing"),
            (":9092", "the host is missing"),
            ("::1:9092", "brackets"),
            ("[::1:9092", "bracket is not closed"),
            ("a:65536", "no number up to 65535"),
            ("a:", "no number up to 65535"),
            ("ssl://a:9092", "scheme"),
            ("a b:9092", "blank"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
