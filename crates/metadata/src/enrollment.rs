//! What hosts, operators and the coordinator say to each other about membership: JSON bodies, versioned and strict.
//!
//! [`EnrollRequest`] is the one request that comes without a certificate: it proves itself by a [`Token`], whose text also
//! pins the CA, so that the host knows whom it gives the secret to. All others are private APIs on the coordinator's mTLS
//! listener, answered by an [`Answer`].

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::authority::{AuthorityId, CertificateAuthority};
use crate::broker::Broker;
use crate::ids::ClusterId;
use crate::secret::Secret;
use crate::security::{IssuedCertificate, JoinToken, Role, Serial, Sha256};
use crate::time::WallMs;

/// How a token's text begins.
const TOKEN_PREFIX: &str = "tw1";
/// The version of [`EnrollRequest`].
const VERSION: u32 = 0;
/// The largest request on the enrolment endpoint, in bytes.
pub const ENROLL_BYTES_MAX: usize = 16 << 10;

/// What `token create` prints and `enroll` takes: `tw1.<SHA-256 of the CA>.<id>.<secret>`.
#[derive(Clone)]
pub struct Token {
    pub ca: Sha256,
    pub id: String,
    pub secret: Secret,
}

impl Token {
    /// The text, secret included.
    pub fn to_secret_text(&self) -> Secret {
        Secret::new(format!("{TOKEN_PREFIX}.{}.{}.{}", self.ca, self.id, self.secret.expose()))
    }
}

impl FromStr for Token {
    type Err = String;

    /// The error never repeats the text.
    fn from_str(text: &str) -> Result<Token, String> {
        let form = "a token is tw1.CA-HASH.ID.SECRET as `tailway token create` printed it";
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [prefix, ca, id, secret] = parts.as_slice() else {
            return Err(format!("{form}; this has {} parts", parts.len()));
        };
        if *prefix != TOKEN_PREFIX {
            return Err(format!("{form}; this does not begin with {TOKEN_PREFIX}"));
        }
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        if !plain(id) || !plain(secret) {
            return Err(format!("{form}; this is cut off or has other characters in it"));
        }
        let ca = ca.parse().map_err(|why| format!("{form}; of its CA hash: {why}"))?;
        Ok(Token { ca, id: (*id).to_owned(), secret: Secret::new(*secret) })
    }
}

/// A host asks to become a member.
#[derive(Clone)]
pub struct EnrollRequest {
    pub token_id: String,
    pub secret: Secret,
    /// What it will be called within the token's role.
    pub id: String,
    /// Host names and addresses under which it will be reached, if its role is connected to.
    pub names: Vec<String>,
    /// A PKCS#10 request (RFC 2986) in PEM, for its key and signed by it. Of its content only the key counts.
    pub csr: String,
}

/// [`EnrollRequest`] as it is received.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Received {
    version: u32,
    token_id: String,
    secret: Secret,
    id: String,
    names: Vec<String>,
    csr: String,
}

/// And as it is sent.
#[derive(Serialize)]
struct Sent<'a> {
    version: u32,
    token_id: &'a str,
    secret: &'a str,
    id: &'a str,
    names: &'a [String],
    csr: &'a str,
}

impl EnrollRequest {
    /// The body, secret included.
    pub fn encode(&self) -> Secret {
        let sent = Sent {
            version: VERSION,
            token_id: &self.token_id,
            secret: self.secret.expose(),
            id: &self.id,
            names: &self.names,
            csr: &self.csr,
        };
        Secret::from_utf8(to_json(&sent)).unwrap_or_else(|| panic!("JSON is always UTF-8"))
    }

    pub fn decode(body: &[u8]) -> Result<EnrollRequest, String> {
        let wire: Received = serde_json::from_slice(body)
            // The text of a serde error can quote what it found.
            .map_err(|error| {
                format!(
                    "it is no enrolment request (line {}, column {})",
                    error.line(),
                    error.column()
                )
            })?;
        if wire.version > VERSION {
            return Err(format!(
                "the request has version {}, this coordinator reads up to {VERSION}: upgrade the coordinator first",
                wire.version
            ));
        }
        Ok(EnrollRequest {
            token_id: wire.token_id,
            secret: wire.secret,
            id: wire.id,
            names: wire.names,
            csr: wire.csr,
        })
    }
}

/// A new member's papers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    pub cluster_id: ClusterId,
    pub certificate: IssuedCertificate,
    /// The certificate, and those of the CAs to trust.
    pub certificate_pem: String,
    pub ca_pem: String,
    /// The port of the coordinator's mTLS listener, on the host that was asked.
    pub coordinator_port: u16,
    /// Advertised TLS addresses of the brokers that are registered.
    pub brokers: Vec<String>,
}

/// An admin makes a token. Only the hash of its secret is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTokenRequest {
    pub id: String,
    pub role: Role,
    pub secret_sha256: Sha256,
    pub ttl_ms: u64,
    pub uses: u32,
}

/// An admin has a certificate made for a key of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueCertificateRequest {
    pub role: Role,
    pub id: String,
    pub names: Vec<String>,
    pub csr: String,
}

/// A member has its own certificate made anew, for a new key. Who it is, its present certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewCertificateRequest {
    pub csr: String,
}

/// Which certificates to revoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CertificateRef {
    Serial(Serial),
    /// All that a member has.
    Member {
        role: Role,
        id: String,
    },
}

impl FromStr for CertificateRef {
    type Err = String;

    /// `agent/web1`, or a serial number.
    fn from_str(text: &str) -> Result<CertificateRef, String> {
        if let Some((role, id)) = text.split_once('/') {
            return Ok(CertificateRef::Member { role: role.parse()?, id: id.to_owned() });
        }
        let serial = Serial(text.to_ascii_lowercase());
        match serial.octets() {
            Some(_) => Ok(CertificateRef::Serial(serial)),
            None => Err("write a serial number as `cert list` shows it, or ROLE/ID".to_owned()),
        }
    }
}

/// What the coordinator knows about membership. Fields only get added: an older command reads a newer coordinator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The coordinator's clock: what the moments below compare with.
    pub now: WallMs,
    /// Of the CA's certificate (DER), for a token's text.
    pub ca_sha256: Sha256,
    /// Where hosts with a token connect, on the coordinator's host; `None`: nowhere.
    pub enrollment_port: Option<u16>,
    pub tokens: Vec<JoinToken>,
    pub certificates: Vec<IssuedCertificate>,
    /// Those that have registered, fenced ones included.
    #[serde(default)]
    pub brokers: Vec<Broker>,
    /// Every CA that there was, by its number.
    #[serde(default)]
    pub authorities: Vec<CertificateAuthority>,
}

/// An admin changes which CAs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AlterAuthorities {
    /// Makes one more, to be trusted.
    Add,
    /// Has this one sign from now on. `force`: also while members do not trust it yet, who are then cut off.
    Activate { authority: AuthorityId, force: bool },
    /// Has nobody trust this one any more. `force`: also while certificates or tokens rest on it, which are then worthless.
    Retire { authority: AuthorityId, force: bool },
}

/// A member asks whom to trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// The CAs that it trusts now, by the hash of their certificates.
    pub trusts: Vec<Sha256>,
}

/// Whom a member is to trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The certificates of the CAs.
    pub ca_pem: String,
    /// Whether its certificate is to be renewed soon, whatever its age: a CA signed it that signs no more.
    pub renew: bool,
}

/// The answer to any of these: a result, or a Kafka error code and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    Done(T),
    Refused { code: i16, text: String },
}

impl<T: Serialize> Answer<T> {
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl<T: serde::de::DeserializeOwned> Answer<T> {
    pub fn decode(body: &[u8]) -> Result<Answer<T>, serde_json::Error> {
        serde_json::from_slice(body)
    }
}

/// A request of this module as a body.
pub fn to_json<T: Serialize>(request: &T) -> Vec<u8> {
    serde_json::to_vec(request).unwrap_or_else(|error| panic!("a request is always JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_written_and_its_error_tells_no_secret() {
        let token = Token { ca: Sha256([7; 32]), id: "1a2b".into(), secret: Secret::new("c0ffee") };
        let text = token.to_secret_text();
        let read: Token = text.expose().parse().unwrap();
        assert_eq!((read.ca, read.id.as_str(), read.secret.expose()), (token.ca, "1a2b", "c0ffee"));
        for (wrong, why) in [
            ("c0ffee".to_owned(), "1 parts"),
            (text.expose().replace("tw1", "tw2"), "begin with tw1"),
            (text.expose().replace("0707", "07"), "64 hexadecimal digits"),
            (text.expose().replace("c0ffee", "c0f fee"), "other characters"),
            (text.expose().replace("c0ffee", ""), "cut off"),
        ] {
            let error = wrong.parse::<Token>().err().unwrap();
            assert!(error.contains(why) && !error.contains("c0f"), "{error}");
        }
    }

    #[test]
    fn an_enrolment_is_read_as_written_and_strictly() {
        let request = EnrollRequest {
            token_id: "1a2b".into(),
            secret: Secret::new("c0ffee"),
            id: "web1".into(),
            names: vec!["a".into()],
            csr: "x".into(),
        };
        let body = request.encode();
        let text = body.expose();
        let read = EnrollRequest::decode(text.as_bytes()).unwrap();
        assert_eq!(read.encode().expose(), text);
        for (from, to, why) in [
            ("\"version\":0", "\"version\":1", "version 1"),
            ("\"id\"", "\"secret2\"", "no enrolment request"),
            ("\"c0ffee\"", "5", "no enrolment request"),
        ] {
            let error = EnrollRequest::decode(text.replace(from, to).as_bytes()).err().unwrap();
            assert!(error.contains(why) && !error.contains("c0ffee"), "{error}");
        }
    }

    #[test]
    fn certificates_are_named_by_serial_or_member() {
        let member = |role, id: &str| CertificateRef::Member { role, id: id.into() };
        assert_eq!("agent/web1".parse(), Ok(member(Role::Agent, "web1")));
        assert_eq!("01AB".parse(), Ok(CertificateRef::Serial(Serial("01ab".into()))));
        for wrong in ["root/x", "web1", ""] {
            assert!(wrong.parse::<CertificateRef>().is_err(), "{wrong}");
        }
    }
}
