//! Which role may ask what of the coordinator: one table, without a wildcard, so that an API that is added to the protocol
//! does not compile until somebody has decided who may use it here.

use tailway_metadata::Role;
use tailway_wire::{ApiKey, ErrorCode};

use crate::machine::Refusal;

/// Whether a member with this role may ask this. What is not served here is nobody's.
pub fn is_allowed(api: ApiKey, role: Role) -> bool {
    use ApiKey as A;
    use Role as R;
    match api {
        A::ApiVersions | A::RenewCertificate | A::DescribeTrust => true,
        A::BrokerRegistration | A::BrokerHeartbeat | A::AllocateProducerIds => role == R::Broker,
        A::FollowMetadata => matches!(role, R::Broker | R::Coordinator),
        // Brokers pass on what they have allowed their own clients.
        A::CreateTopics | A::DeleteTopics => matches!(role, R::Broker | R::Coordinator | R::Admin),
        A::CreateToken
        | A::RevokeToken
        | A::DescribeMembership
        | A::IssueCertificate
        | A::RevokeCertificates
        | A::AlterAuthorities => role == R::Admin,
        A::Produce
        | A::Fetch
        | A::ListOffsets
        | A::Metadata
        | A::OffsetCommit
        | A::OffsetFetch
        | A::FindCoordinator
        | A::JoinGroup
        | A::Heartbeat
        | A::LeaveGroup
        | A::SyncGroup
        | A::DescribeGroups
        | A::ListGroups
        | A::InitProducerId
        | A::OffsetForLeaderEpoch
        | A::DescribeConfigs
        | A::DeleteGroups
        | A::OffsetDelete
        | A::DescribeCluster
        | A::DescribeProducers => false,
    }
}

/// `Ok`, or the refusal that answers the request.
pub(super) fn check(api: ApiKey, role: Role, id: &str) -> Result<(), Refusal> {
    if is_allowed(api, role) || tailway_faults::is_planted("coordinator.role_unchecked") {
        return Ok(());
    }
    let who = match role {
        Role::Admin => "this API is not for operators",
        _ => "it takes a certificate with the role that this API is for (tailway cert issue)",
    };
    Err(Refusal::new(
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        format!("{role} {id} may not call {api} on the coordinator: {who}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_reaches_its_own_apis_only() {
        let allowed = |role: Role| -> Vec<&str> {
            ApiKey::all().filter(|api| is_allowed(*api, role)).map(ApiKey::name).collect()
        };
        assert_eq!(allowed(Role::Agent), ["ApiVersions", "RenewCertificate", "DescribeTrust"]);
        assert_eq!(allowed(Role::Client), ["ApiVersions", "RenewCertificate", "DescribeTrust"]);
        assert_eq!(
            allowed(Role::Coordinator),
            [
                "ApiVersions",
                "CreateTopics",
                "DeleteTopics",
                "FollowMetadata",
                "RenewCertificate",
                "DescribeTrust",
            ]
        );
        assert_eq!(
            allowed(Role::Broker),
            [
                "ApiVersions",
                "CreateTopics",
                "DeleteTopics",
                "BrokerRegistration",
                "BrokerHeartbeat",
                "AllocateProducerIds",
                "FollowMetadata",
                "RenewCertificate",
                "DescribeTrust",
            ]
        );
        assert_eq!(
            allowed(Role::Admin),
            [
                "ApiVersions",
                "CreateTopics",
                "DeleteTopics",
                "CreateToken",
                "RevokeToken",
                "DescribeMembership",
                "IssueCertificate",
                "RevokeCertificates",
                "RenewCertificate",
                "DescribeTrust",
                "AlterAuthorities",
            ]
        );
    }

    #[test]
    fn what_the_coordinator_serves_is_somebodys_and_nothing_else_is() {
        for api in ApiKey::all() {
            let somebody = Role::ALL.iter().any(|role| is_allowed(api, *role));
            assert_eq!(somebody, api.is_served_by(tailway_wire::Server::Coordinator), "{api}");
        }
    }
}
