//! When the members' certificates end, as the coordinator knows it. Pure.

use std::collections::BTreeMap;

use tailway_metadata::Role;
use tailway_metadata::authority::{AuthorityState, CertificateAuthority};
use tailway_metadata::enrollment::Membership;
use tailway_metadata::security::IssuedCertificate;
use tailway_metadata::time::WallMs;

use super::Finding;
use super::verdict::ends_soon;
use crate::output::{count, span};

const TARGET: &str = "certificates";
/// A year: certificates may live as long.
const CA_SOON_MS: i64 = 365 * 24 * 3_600_000;
/// Members that are named in one finding.
const SHOWN: usize = 10;

/// When the CA that signs ends: a warning in its last year, because nothing that it signed outlives it.
pub(crate) fn judge_authority(members: &Membership) -> Option<Finding> {
    const STEP: &str = "ca";
    let signs = |ca: &&CertificateAuthority| ca.state == AuthorityState::Active;
    let ca = members.authorities.iter().find(signs)?;
    let detail = format!("CA {} signs; it ends in {}", ca.id, span(members.now, ca.not_after));
    let left = ca.not_after.0.saturating_sub(members.now.0);
    Some(if left < CA_SOON_MS {
        let next = "tailway ca add, then activate it and retire this one (docs/security.md)";
        Finding::warning(TARGET, STEP, detail, next)
    } else {
        Finding::ok(TARGET, STEP, detail)
    })
}

/// One finding about all, and a warning where some end soon or have ended: of each member its newest counts.
pub(crate) fn judge_certificates(members: &Membership) -> Vec<Finding> {
    let now = members.now;
    let mut newest: BTreeMap<(Role, &str), &IssuedCertificate> = BTreeMap::new();
    for issued in members.certificates.iter().filter(|issued| issued.revoked.is_none()) {
        let held = newest.entry((issued.role, &issued.id)).or_insert(issued);
        if issued.not_after > held.not_after {
            *held = issued;
        }
    }
    let (ended, good): (Vec<_>, Vec<_>) =
        newest.into_values().partition(|issued| issued.not_after <= now);
    let mut findings = Vec::new();
    if let Some(next) = good.iter().min_by_key(|issued| issued.not_after) {
        let detail = format!(
            "{} in force; the next to end is {}/{}'s, in {}",
            count(good.len() as u64, "member"),
            next.role,
            next.id,
            span(now, next.not_after)
        );
        findings.push(Finding::ok(TARGET, "in force", detail));
    }
    let soon = good.iter().filter(|it| ends_soon(it.not_before, it.not_after, now));
    let soon: Vec<String> =
        soon.map(|it| format!("{}/{} in {}", it.role, it.id, span(now, it.not_after))).collect();
    if !soon.is_empty() {
        findings.push(Finding::warning(
            TARGET,
            "end soon",
            listed(&soon),
            "a daemon renews its own: its /status (certificate) says why it did not; of clients and admins: tailway cert renew DIR",
        ));
    }
    let ended: Vec<String> = ended.iter().map(|it| ago(it, now)).collect();
    if !ended.is_empty() {
        findings.push(Finding::warning(
            TARGET,
            "ended",
            listed(&ended),
            "if that host is gone, nothing; else a new token (tailway token create) and `tailway enroll` there",
        ));
    }
    findings
}

fn ago(issued: &IssuedCertificate, now: WallMs) -> String {
    format!("{}/{} {} ago", issued.role, issued.id, span(issued.not_after, now))
}

fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::authority::AuthorityId;
    use tailway_metadata::security::{Serial, Sha256};

    use super::*;
    use crate::diagnose::State;

    const DAY: i64 = 86_400_000;

    #[test]
    fn the_newest_of_each_member_counts() {
        let issued = |id: &str, until: i64, revoked: bool| IssuedCertificate {
            serial: Serial(format!("{until:04x}")),
            role: Role::Agent,
            id: id.into(),
            names: Vec::new(),
            not_before: WallMs(0),
            not_after: WallMs(until * DAY),
            issued_by: "init".into(),
            revoked: revoked.then_some(WallMs(1)),
            signed_by: AuthorityId::FIRST,
            knows: AuthorityId::FIRST,
        };
        let mut members = Membership {
            now: WallMs(100 * DAY),
            ca_sha256: Sha256([0; 32]),
            enrollment_port: None,
            tokens: Vec::new(),
            certificates: vec![
                issued("renewed", 102, false),
                issued("renewed", 300, false),
                issued("turned out", 101, true),
            ],
            brokers: Vec::new(),
            authorities: Vec::new(),
        };
        let all = "1 member in force; the next to end is agent/renewed's, in 200 days";
        assert_eq!(judge_certificates(&members), [Finding::ok(TARGET, "in force", all)]);
        assert_eq!(judge_authority(&members), None, "an older coordinator does not tell");
        for (days, state) in [(400, State::Ok), (300, State::Warning)] {
            members.authorities = vec![CertificateAuthority {
                id: AuthorityId::FIRST,
                sha256: Sha256([0; 32]),
                pem: String::new(),
                not_after: WallMs((100 + days) * DAY),
                state: AuthorityState::Active,
            }];
            let finding = judge_authority(&members).unwrap();
            let said = format!("CA 1 signs; it ends in {days} days");
            assert_eq!((finding.state, finding.detail), (state, said));
        }
        members.certificates.extend([issued("late", 104, false), issued("gone", 98, false)]);
        let told: Vec<(State, String)> = judge_certificates(&members)
            .into_iter()
            .map(|finding| (finding.state, finding.detail))
            .collect();
        let expected = [
            (State::Ok, "2 members in force; the next to end is agent/late's, in 4 days"),
            (State::Warning, "agent/late in 4 days"),
            (State::Warning, "agent/gone 2 days ago"),
        ];
        assert_eq!(told, expected.map(|(state, text)| (state, text.to_owned())));
    }
}
