//! Who asks, and what a role may ask of a broker: one table, without a wildcard, so that an API that is added to the
//! protocol does not compile until somebody has decided who may use it here.
//!
//! The columns are Kafka's ACL operations (KIP-11) taken together as roles: an agent writes, and reads to find out what of its own was
//! stored; a client reads, writes and belongs to groups; an admin also changes topics and groups. Brokers and coordinators have no
//! business as Kafka clients beyond what replication asks.
//! Without a certificate of this cluster a peer is a client; at an `insecure: true` listener, where nobody can be told
//! from anybody, everyone is an admin, as at a Kafka without an authorizer.

use std::fmt;

use tailway_metadata::security::Serial;
use tailway_metadata::{ClusterId, Role};
use tailway_net::PeerIdentity;
use tailway_wire::ApiKey;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub role: Role,
    /// What the certificate names; `None` without one.
    name: Option<String>,
    /// Of the certificate; empty without one.
    pub serial: Serial,
}

impl Principal {
    /// Whom a verified certificate makes, in this cluster.
    pub fn of_certificate(identity: Option<&PeerIdentity>, cluster: &ClusterId) -> Principal {
        let Some(identity) = identity else {
            return Principal { role: Role::Client, name: None, serial: Serial::default() };
        };
        let ours = identity.spiffe.as_ref().filter(|spiffe| spiffe.cluster == cluster.0);
        // A certificate of other origin, which the listener's CA vouches for, is some Kafka client's.
        let role = ours.and_then(|spiffe| spiffe.role.parse().ok()).unwrap_or(Role::Client);
        Principal { role, name: Some(identity.to_string()), serial: identity.serial.clone() }
    }

    /// Somebody at a listener that says `insecure: true`.
    pub fn insecure() -> Principal {
        Principal { role: Role::Admin, name: None, serial: Serial::default() }
    }

    /// Whether there is a certificate, which could be revoked.
    pub fn has_certificate(&self) -> bool {
        self.name.is_some()
    }

    pub fn may(&self, api: ApiKey) -> bool {
        is_allowed(api, self.role) || tailway_faults::is_planted("broker.role_unchecked")
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or("ANONYMOUS"))
    }
}

/// Whether a peer with this role may ask this. What brokers do not serve is nobody's.
pub fn is_allowed(api: ApiKey, role: Role) -> bool {
    use ApiKey as A;
    use Role as R;
    match api {
        // Describe: where things are. Whoever may connect may look.
        A::ApiVersions | A::Metadata | A::DescribeCluster => true,
        // Write.
        A::Produce | A::InitProducerId => matches!(role, R::Agent | R::Client | R::Admin),
        // Read, and for replication ClusterAction.
        A::Fetch | A::ListOffsets | A::OffsetForLeaderEpoch | A::DescribeProducers => {
            matches!(role, R::Broker | R::Agent | R::Client | R::Admin)
        }
        // DescribeConfigs: an agent asks how large its topic's batches may be.
        A::DescribeConfigs => matches!(role, R::Agent | R::Client | R::Admin),
        // Read of groups, and Describe of them.
        A::OffsetCommit
        | A::OffsetFetch
        | A::FindCoordinator
        | A::JoinGroup
        | A::Heartbeat
        | A::LeaveGroup
        | A::SyncGroup
        | A::DescribeGroups
        | A::ListGroups => matches!(role, R::Client | R::Admin),
        // Create, Delete.
        A::CreateTopics | A::DeleteTopics | A::DeleteGroups | A::OffsetDelete => role == R::Admin,
        A::BrokerRegistration
        | A::BrokerHeartbeat
        | A::AllocateProducerIds
        | A::FollowMetadata
        | A::CreateToken
        | A::RevokeToken
        | A::DescribeMembership
        | A::IssueCertificate
        | A::RevokeCertificates
        | A::RenewCertificate
        | A::DescribeTrust
        | A::AlterAuthorities => false,
    }
}

#[cfg(test)]
mod tests {
    use tailway_net::SpiffeId;
    use tailway_wire::Server;

    use super::*;

    #[test]
    fn each_role_reaches_its_own_apis_only() {
        let denied = |role: Role| -> Vec<&str> {
            let served = ApiKey::all().filter(|api| api.is_served_by(Server::Broker));
            served.filter(|api| !is_allowed(*api, role)).map(ApiKey::name).collect()
        };
        let admins = ["CreateTopics", "DeleteTopics", "DeleteGroups", "OffsetDelete"];
        assert_eq!(denied(Role::Admin), Vec::<&str>::new());
        assert_eq!(denied(Role::Client), admins);
        let groups = [
            "OffsetCommit",
            "OffsetFetch",
            "FindCoordinator",
            "JoinGroup",
            "Heartbeat",
            "LeaveGroup",
            "SyncGroup",
            "DescribeGroups",
            "ListGroups",
        ];
        let mut agents = groups.to_vec();
        agents.extend(admins);
        assert_eq!(denied(Role::Agent), agents);
        let allowed = |role: Role| -> Vec<&str> {
            ApiKey::all().filter(|api| is_allowed(*api, role)).map(ApiKey::name).collect()
        };
        assert_eq!(
            allowed(Role::Broker),
            [
                "Fetch",
                "ListOffsets",
                "Metadata",
                "ApiVersions",
                "OffsetForLeaderEpoch",
                "DescribeCluster",
                "DescribeProducers",
            ]
        );
        assert_eq!(allowed(Role::Coordinator), ["Metadata", "ApiVersions", "DescribeCluster"]);
        for api in ApiKey::all() {
            assert_eq!(is_allowed(api, Role::Admin), api.is_served_by(Server::Broker), "{api}");
        }
    }

    #[test]
    fn a_role_is_given_by_this_clusters_certificates_only() {
        let cluster = ClusterId("c".into());
        let role = |spiffe: Option<&str>| {
            let identity = PeerIdentity {
                spiffe: spiffe.and_then(SpiffeId::parse),
                common_name: Some("x".into()),
                serial: Serial("07".into()),
            };
            Principal::of_certificate(Some(&identity), &cluster).role
        };
        assert_eq!(role(Some("spiffe://c/admin/root")), Role::Admin);
        assert_eq!(role(Some("spiffe://c/agent/web1")), Role::Agent);
        for foreign in [Some("spiffe://d/admin/root"), Some("spiffe://c/root/x"), None] {
            assert_eq!(role(foreign), Role::Client, "{foreign:?}");
        }
        let nobody = Principal::of_certificate(None, &cluster);
        assert_eq!((nobody.role, nobody.to_string().as_str()), (Role::Client, "ANONYMOUS"));
        assert!(!nobody.has_certificate() && Principal::insecure().role == Role::Admin);
    }
}
