//! Who may be a member: roles, join tokens, and the certificates that were issued and revoked.
//!
//! All of it is replicated with the rest of the cluster's state and followed by brokers, so nothing here is a secret: of a
//! token only the SHA-256 of its random secret is kept, of a certificate no key. Time is wall time, because tokens and
//! certificates end at a moment, also across restarts.
//! Invariants (kept by `apply`): a token's uses never come back; a revoked certificate stays revoked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use crate::time::WallMs;

/// What a member is. The second part of its identity `spiffe://<cluster>/<role>/<id>`, and what its calls are allowed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Coordinator,
    Broker,
    Agent,
    /// A Kafka client of any make: reads, writes and belongs to groups.
    Client,
    /// An operator: whatever a client may, and all that changes the cluster.
    Admin,
}

impl Role {
    pub const ALL: [Role; 5] =
        [Role::Coordinator, Role::Broker, Role::Agent, Role::Client, Role::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Broker => "broker",
            Role::Agent => "agent",
            Role::Client => "client",
            Role::Admin => "admin",
        }
    }

    /// Whether members of this role are connected to, so that their certificates name hosts.
    pub const fn is_server(self) -> bool {
        matches!(self, Role::Coordinator | Role::Broker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| "write coordinator, broker, agent, client or admin".to_owned())
    }
}

/// A SHA-256 digest, in text as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Sha256) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0, |bits, (a, b)| bits | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = String;

    fn from_str(text: &str) -> Result<Sha256, String> {
        let wrong = || format!("a SHA-256 is 64 hexadecimal digits, not {} characters", text.len());
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Sha256(bytes))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Sha256, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A certificate's serial number, as lower-case hexadecimal digits (RFC 5280: at most 20 octets, positive).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Serial(pub String);

impl Serial {
    /// Of the number's big-endian octets; leading zeros do not count.
    pub fn of(octets: &[u8]) -> Serial {
        let significant = octets.iter().skip_while(|octet| **octet == 0);
        let digits = significant.flat_map(|octet| [octet >> 4, octet & 0xf]).map(|nibble| {
            char::from_digit(nibble.into(), 16).unwrap_or_else(|| unreachable!("four bits"))
        });
        Serial(digits.collect())
    }

    /// The number's big-endian octets, if this is a serial number.
    pub fn octets(&self) -> Option<Vec<u8>> {
        let digits = self.0.as_bytes();
        if digits.is_empty() || digits.len() > 40 || !digits.len().is_multiple_of(2) {
            return None;
        }
        let pairs = digits.chunks_exact(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets a host become a member: known by its id, proved by a secret of which only the hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    pub id: String,
    pub role: Role,
    pub secret_sha256: Sha256,
    pub expires: WallMs,
    /// How many certificates it is good for, and how many it has given.
    pub uses: u32,
    pub used: u32,
    /// Who made it.
    pub created_by: String,
    /// The CA whose hash stands in its text.
    #[serde(default, skip_serializing_if = "AuthorityId::is_first")]
    pub pins: AuthorityId,
}

impl JoinToken {
    pub fn is_expired(&self, now: WallMs) -> bool {
        now >= self.expires
    }
}

/// A certificate of the cluster's CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCertificate {
    pub serial: Serial,
    pub role: Role,
    pub id: String,
    /// Host names and addresses that it is good for; empty for those that are not connected to.
    pub names: Vec<String>,
    pub not_before: WallMs,
    pub not_after: WallMs,
    /// On whose word: `token 1a2b3c4d`, `admin root`, `init`.
    pub issued_by: String,
    /// Since when nobody accepts it any more.
    pub revoked: Option<WallMs>,
    /// The CA that signed it.
    #[serde(default, skip_serializing_if = "AuthorityId::is_first")]
    pub signed_by: AuthorityId,
    /// The newest CA that its holder is known to trust.
    #[serde(default, skip_serializing_if = "AuthorityId::is_first")]
    pub knows: AuthorityId,
}

impl IssuedCertificate {
    /// Whether it is accepted at `now`.
    pub fn is_good(&self, now: WallMs) -> bool {
        self.revoked.is_none() && now < self.not_after
    }

    /// Whether it names this member.
    pub fn is_of(&self, role: Role, id: &str) -> bool {
        self.role == role && self.id == id
    }
}

/// The part of the cluster image about membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub tokens: BTreeMap<String, JoinToken>,
    pub certificates: BTreeMap<Serial, IssuedCertificate>,
    /// Empty until a second CA is added.
    pub authorities: BTreeMap<AuthorityId, CertificateAuthority>,
}

impl Security {
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty() && self.authorities.is_empty()
    }

    /// Whether the certificate with this serial number was revoked, by itself or with the CA that signed it.
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        let revoked = |issued: &IssuedCertificate| {
            let by = self.authorities.get(&issued.signed_by);
            issued.revoked.is_some() || by.is_some_and(|ca| ca.state == AuthorityState::Retired)
        };
        self.certificates.get(serial).is_some_and(revoked)
    }

    /// The number of the CA that signs.
    pub fn active_authority(&self) -> AuthorityId {
        let mut known = self.authorities.values();
        known.find(|ca| ca.state == AuthorityState::Active).map_or(AuthorityId::FIRST, |ca| ca.id)
    }

    /// The newest CA that is to be trusted.
    pub fn newest_authority(&self) -> AuthorityId {
        self.trusted_authorities().map(|ca| ca.id).max().unwrap_or_default()
    }

    /// The CAs to trust, the one that signs first. None before the second was added.
    pub fn trusted_authorities(&self) -> impl Iterator<Item = &CertificateAuthority> {
        let of = |state| self.authorities.values().filter(move |ca| ca.state == state);
        of(AuthorityState::Active).chain(of(AuthorityState::Trusted))
    }

    /// The first broken invariant, in words; only the end of a batch counts.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let active = self.authorities.values().filter(|ca| ca.state == AuthorityState::Active);
        let active = active.count();
        let good = active == 1 || self.authorities.is_empty();
        (!good).then(|| format!("{active} CAs sign, not one"))
    }

    pub(crate) fn put_authority(&mut self, ca: &CertificateAuthority) -> Result<(), String> {
        if let Some(known) = self.authorities.get(&ca.id) {
            let again = known.state == AuthorityState::Retired && ca.state != known.state;
            if known.sha256 != ca.sha256 || again {
                return Err(format!("CA {} cannot become another or good again", ca.id));
            }
        } else if self.authorities.last_key_value().is_some_and(|(last, _)| ca.id <= *last) {
            return Err(format!("CA {} is older than those that are known", ca.id));
        }
        self.authorities.insert(ca.id, ca.clone());
        Ok(())
    }

    pub(crate) fn put_token(&mut self, token: &JoinToken) -> Result<(), String> {
        if token.used > token.uses {
            return Err(format!(
                "token {} was used {} times of {}",
                token.id, token.used, token.uses
            ));
        }
        if let Some(known) = self.tokens.get(&token.id)
            && (known.used > token.used || known.secret_sha256 != token.secret_sha256)
        {
            return Err(format!("token {} cannot become what it was before", token.id));
        }
        self.tokens.insert(token.id.clone(), token.clone());
        Ok(())
    }

    pub(crate) fn put_certificate(&mut self, issued: &IssuedCertificate) -> Result<(), String> {
        if let Some(known) = self.certificates.get(&issued.serial)
            && (known.revoked.is_some() && issued.revoked.is_none()
                || !known.is_of(issued.role, &issued.id))
        {
            return Err(format!(
                "certificate {} cannot become another or good again",
                issued.serial
            ));
        }
        self.certificates.insert(issued.serial.clone(), issued.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_serials_are_read_as_written() {
        let digest = Sha256(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"\u{e9}".repeat(32)] {
            assert!(wrong.parse::<Sha256>().is_err(), "{wrong}");
        }
        let mut other = digest;
        assert!(digest.matches(&other));
        other.0[31] ^= 1;
        assert!(!digest.matches(&other));
        assert_eq!(Serial::of(&[0, 0, 1, 0xab]), Serial("01ab".into()));
        assert_eq!(Serial("01ab".into()).octets(), Some(vec![1, 0xab]));
        for wrong in ["", "1", "xy", &"00".repeat(21)] {
            assert_eq!(Serial(wrong.into()).octets(), None, "{wrong}");
        }
    }

    #[test]
    fn roles_are_read_as_written() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("{:?}", role.name()));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn uses_and_revocations_never_come_back() {
        let mut security = Security::default();
        let token = |used, secret| JoinToken {
            id: "t".into(),
            role: Role::Agent,
            secret_sha256: Sha256([secret; 32]),
            expires: WallMs(10),
            uses: 2,
            used,
            created_by: "admin a".into(),
            pins: AuthorityId::FIRST,
        };
        security.put_token(&token(1, 1)).unwrap();
        for wrong in [token(0, 1), token(1, 2), token(3, 1)] {
            assert!(security.put_token(&wrong).is_err(), "{wrong:?}");
        }
        security.put_token(&token(2, 1)).unwrap();
        let certificate = |id: &str, revoked: Option<i64>| IssuedCertificate {
            serial: Serial("01".into()),
            role: Role::Agent,
            id: id.into(),
            names: Vec::new(),
            not_before: WallMs(0),
            not_after: WallMs(10),
            issued_by: "token t".into(),
            revoked: revoked.map(WallMs),
            signed_by: AuthorityId::FIRST,
            knows: AuthorityId::FIRST,
        };
        security.put_certificate(&certificate("a", None)).unwrap();
        assert!(!security.is_revoked(&Serial("01".into())));
        security.put_certificate(&certificate("a", Some(5))).unwrap();
        assert!(security.is_revoked(&Serial("01".into())));
        for wrong in [certificate("a", None), certificate("b", Some(5))] {
            assert!(security.put_certificate(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_retired_ca_stays_so_and_takes_its_certificates_with_it() {
        use AuthorityState::{Active, Retired, Trusted};
        let ca = |id, state| CertificateAuthority {
            id: AuthorityId(id),
            sha256: Sha256([u8::try_from(id).unwrap(); 32]),
            pem: format!("ca {id}"),
            not_after: WallMs(10),
            state,
        };
        let mut security = Security::default();
        assert_eq!(security.active_authority(), AuthorityId::FIRST);
        let issued = IssuedCertificate {
            serial: Serial("01".into()),
            role: Role::Agent,
            id: "a".into(),
            names: Vec::new(),
            not_before: WallMs(0),
            not_after: WallMs(10),
            issued_by: "token t".into(),
            revoked: None,
            signed_by: AuthorityId::FIRST,
            knows: AuthorityId::FIRST,
        };
        security.put_certificate(&issued).unwrap();
        let trusted = |security: &Security| -> Vec<u32> {
            security.trusted_authorities().map(|ca| ca.id.0).collect()
        };
        for (record, order, active) in [
            (ca(1, Active), vec![1], 1),
            (ca(2, Trusted), vec![1, 2], 1),
            (ca(1, Trusted), vec![1, 2], 1),
            (ca(2, Active), vec![2, 1], 2),
        ] {
            security.put_authority(&record).unwrap();
            assert_eq!((trusted(&security), security.active_authority().0), (order, active));
            assert_eq!(security.newest_authority().0, *trusted(&security).iter().max().unwrap());
            assert!(!security.is_revoked(&issued.serial));
        }
        security.put_authority(&ca(1, Retired)).unwrap();
        assert!(security.is_revoked(&issued.serial));
        let other = CertificateAuthority { sha256: Sha256([9; 32]), ..ca(2, Active) };
        for wrong in [ca(1, Trusted), other, ca(0, Trusted)] {
            assert!(security.put_authority(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(security.inconsistency(), None);
        security.put_authority(&ca(2, Trusted)).unwrap();
        assert_eq!(security.inconsistency(), Some("0 CAs sign, not one".to_owned()));
    }
}
