//! The cluster's CAs: one at first, two while one replaces the other.
//!
//! Nothing is recorded of them before the first is to be replaced: until then there is the one that `coordinator init` made,
//! and it has the number 1. What is here is no secret; the keys never leave the coordinator's host.
//! Invariants (kept by `Security`): a retired CA stays retired; once any is recorded, exactly one signs (after each batch).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::security::Sha256;
use crate::time::WallMs;

/// The number of a CA, by the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthorityId(pub u32);

impl AuthorityId {
    /// The CA that `coordinator init` made.
    pub const FIRST: AuthorityId = AuthorityId(1);

    /// Records leave it out where it is the first, so that they are as they were before there could be a second.
    pub fn is_first(&self) -> bool {
        *self == AuthorityId::FIRST
    }
}

impl Default for AuthorityId {
    fn default() -> AuthorityId {
        AuthorityId::FIRST
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AuthorityId {
    type Err = String;

    fn from_str(text: &str) -> Result<AuthorityId, String> {
        text.parse()
            .map(AuthorityId)
            .map_err(|_| "write its number, as `tailway ca list` shows it".to_owned())
    }
}

/// What a CA is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// Its certificates are accepted, but it signs no new ones.
    Trusted,
    /// It signs.
    Active,
    /// Nobody accepts its certificates any more.
    Retired,
}

impl AuthorityState {
    pub const fn name(self) -> &'static str {
        match self {
            AuthorityState::Trusted => "trusted",
            AuthorityState::Active => "signs",
            AuthorityState::Retired => "retired",
        }
    }
}

/// One CA of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateAuthority {
    pub id: AuthorityId,
    /// Of its certificate (DER): what tokens pin.
    pub sha256: Sha256,
    /// Its certificate.
    pub pem: String,
    pub not_after: WallMs,
    pub state: AuthorityState,
}
