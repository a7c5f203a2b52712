//! Tokens, enrolments and revocations, as replies and as what they leave in the image.

use tailway_metadata::authority::AuthorityId;
use tailway_metadata::enrollment::CertificateRef;
use tailway_metadata::security::{IssuedCertificate, Role, Serial, Sha256};
use tailway_metadata::time::WallMs;
use tailway_wire::ErrorCode;

use super::bench::Bench;
use super::membership::{Certify, Grant, NewToken};
use super::*;

const NOW: WallMs = WallMs(1_790_000_000_000);
const HOUR: u64 = 3_600_000;
const SECRET: Sha256 = Sha256([7; 32]);

fn at(ms: u64) -> WallMs {
    WallMs(NOW.0 + i64::try_from(ms).unwrap())
}

fn token(id: &str, role: Role, uses: u32) -> NewToken {
    NewToken {
        id: id.into(),
        role,
        secret_sha256: SECRET,
        ttl_ms: HOUR,
        uses,
        created_by: "admin root".into(),
        now: NOW,
    }
}

fn enroll(token: &str, id: &str, names: &[&str], serial: &str, now: WallMs) -> Certify {
    Certify {
        grant: Grant::Token { id: token.into(), secret_sha256: SECRET },
        id: id.into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        serial: Serial(serial.into()),
        not_before: now,
        not_after: WallMs(now.0 + 10 * 3_600_000),
        now,
    }
}

fn certified(bench: &mut Bench, request: Certify) -> IssuedCertificate {
    match bench.decided(Request::Certify(request)) {
        Reply::Certified(issued) => issued,
        other => panic!("{other:?}"),
    }
}

fn refused(bench: &mut Bench, request: Certify) -> String {
    let before = bench.controller.image().clone();
    let (_, text) = bench.refused(Request::Certify(request));
    assert_eq!(*bench.controller.image(), before, "a refusal changes nothing");
    text
}

#[test]
fn a_token_gives_as_many_certificates_as_it_says() {
    let mut bench = Bench::leading();
    let made = bench.decided(Request::CreateToken(token("t", Role::Agent, 2)));
    assert!(matches!(made, Reply::TokenCreated(t) if t.expires == at(HOUR) && t.used == 0));
    let issued = certified(&mut bench, enroll("t", "web1", &[], "01", NOW));
    assert_eq!((issued.role, issued.issued_by.as_str()), (Role::Agent, "token t"));
    certified(&mut bench, enroll("t", "web2", &[], "02", NOW));
    let text = refused(&mut bench, enroll("t", "web3", &[], "03", NOW));
    assert!(text.contains("used up: it was good for 2"), "{text}");
    let security = &bench.controller.image().security;
    assert_eq!((security.tokens["t"].used, security.certificates.len()), (2, 2));
}

#[test]
fn a_token_that_is_not_good_is_refused_and_a_guess_learns_nothing() {
    let mut bench = Bench::leading();
    bench.decided(Request::CreateToken(token("t", Role::Agent, 2)));
    let text = refused(&mut bench, enroll("t", "web1", &[], "01", at(HOUR + 2_000)));
    assert!(text.contains("expired 2 s ago"), "{text}");
    certified(&mut bench, enroll("t", "web1", &[], "01", at(HOUR - 1)));
    // A wrong secret gets the same answer whatever the token's state, and whether it exists.
    let mut guesses = Vec::new();
    for (id, now) in [("t", NOW), ("t", at(2 * HOUR)), ("u", NOW)] {
        let mut wrong = enroll(id, "web9", &[], "09", now);
        wrong.grant = Grant::Token { id: id.into(), secret_sha256: Sha256([8; 32]) };
        guesses.push(refused(&mut bench, wrong));
    }
    assert!(guesses[0].contains("not known here"), "{}", guesses[0]);
    assert!(guesses.iter().all(|guess| *guess == guesses[0]), "{guesses:?}");
    bench.decided(Request::RevokeToken("t".into()));
    let text = refused(&mut bench, enroll("t", "web2", &[], "02", NOW));
    assert_eq!(text, guesses[0]);
}

#[test]
fn an_identity_or_name_in_force_is_not_given_again() {
    let mut bench = Bench::leading();
    bench.decided(Request::CreateToken(token("b", Role::Broker, 9)));
    certified(&mut bench, enroll("b", "1", &["b1.example"], "01", NOW));
    let text = refused(&mut bench, enroll("b", "1", &["b2.example"], "02", NOW));
    assert!(text.contains("broker/1 is a member already") && text.contains("revoke 01"), "{text}");
    let text = refused(&mut bench, enroll("b", "2", &["x", "b1.example"], "02", NOW));
    assert!(text.contains("b1.example belongs to broker/1"), "{text}");
    bench.decided(Request::RevokeCertificates { which: member(Role::Broker, "1"), now: NOW });
    certified(&mut bench, enroll("b", "1", &["b1.example"], "02", NOW));
    // An operator may: a client's certificate is made anew while the old one is in use.
    let mut by_admin = enroll("", "1", &["b1.example"], "03", NOW);
    by_admin.grant = Grant::Admin { name: "root".into(), role: Role::Broker };
    let issued = certified(&mut bench, by_admin);
    assert_eq!(issued.issued_by, "admin root");
}

fn member(role: Role, id: &str) -> CertificateRef {
    CertificateRef::Member { role, id: id.into() }
}

#[test]
fn a_member_renews_for_itself_under_the_names_it_has() {
    let mut bench = Bench::leading();
    bench.decided(Request::CreateToken(token("b", Role::Broker, 9)));
    certified(&mut bench, enroll("b", "1", &["b1.example"], "01", NOW));
    let renew = |of: &str, role, id: &str, serial: &str, now| {
        let grant = Grant::Renewal { serial: Serial(of.into()), role };
        Certify { grant, ..enroll("", id, &["other.example"], serial, now) }
    };
    let issued = certified(&mut bench, renew("01", Role::Broker, "1", "02", at(HOUR)));
    assert_eq!(issued.names, ["b1.example"]);
    assert_eq!(issued.issued_by, "renewal of 01");
    for (of, role, id) in
        [("09", Role::Broker, "1"), ("01", Role::Admin, "1"), ("01", Role::Broker, "2")]
    {
        let text = refused(&mut bench, renew(of, role, id, "03", at(HOUR)));
        assert!(text.contains("is not one that this coordinator issued to"), "{text}");
    }
    let text = refused(&mut bench, renew("01", Role::Broker, "1", "03", at(11 * HOUR)));
    assert!(text.contains("certificate 01 has expired"), "{text}");
    for n in 3..=16 {
        certified(&mut bench, renew("02", Role::Broker, "1", &format!("{n:02x}"), at(HOUR)));
    }
    let text = refused(&mut bench, renew("02", Role::Broker, "1", "ff", at(HOUR)));
    assert!(text.contains("renews too often"), "{text}");
    bench.decided(Request::RevokeCertificates { which: member(Role::Broker, "1"), now: at(HOUR) });
    let text = refused(&mut bench, renew("02", Role::Broker, "1", "ff", at(HOUR)));
    assert!(text.contains("certificate 02 was revoked"), "{text}");
}

/// The test above, in a process of its own, with the check left out.
#[test]
fn a_renewal_of_what_is_not_good_is_missed_when_it_is_let_through() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let test = format!("{}::a_member_renews_for_itself_under_the_names_it_has", module_path!());
    let test = test.split_once("::").unwrap().1;
    child.args(["--exact", test]).env("TAILWAY_PLANT", "coordinator.revoked_renewed");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("panicked"), "{text}");
}

#[test]
fn members_are_named_as_their_role_wants() {
    let mut bench = Bench::leading();
    for role in [Role::Agent, Role::Broker, Role::Coordinator, Role::Client] {
        bench.decided(Request::CreateToken(token(role.name(), role, 9)));
    }
    let many: Vec<String> = (0..33).map(|n| format!("h{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (role, id, names, why) in [
        ("agent", "", &[][..], "an id is 1 to 64"),
        ("agent", "a/b", &[], "an id is 1 to 64"),
        ("agent", &"x".repeat(65), &[], "an id is 1 to 64"),
        ("agent", "web1", &["broker.example"], "nobody connects to a agent"),
        ("client", "web1", &["broker.example"], "nobody connects to a client"),
        ("broker", "web1", &["b"], "its number"),
        ("broker", "-1", &["b"], "its number"),
        ("broker", "07", &["b"], "its number"),
        ("broker", "1", &[], "give --name HOST"),
        ("broker", "1", &many, "33 names"),
        ("coordinator", "x", &["c"], "its number"),
    ] {
        let text = refused(&mut bench, enroll(role, id, names, "01", NOW));
        assert!(text.contains(why), "{role} {id}: {text}");
    }
}

#[test]
fn tokens_are_checked_when_they_are_made() {
    let mut bench = Bench::leading();
    let cases = [
        (NewToken { uses: 0, ..token("t", Role::Agent, 1) }, "1 to 10000 uses"),
        (NewToken { uses: 10_001, ..token("t", Role::Agent, 1) }, "1 to 10000 uses"),
        (NewToken { ttl_ms: 0, ..token("t", Role::Agent, 1) }, "31 days"),
        (NewToken { ttl_ms: u64::MAX, ..token("t", Role::Agent, 1) }, "31 days"),
        (token("t", Role::Admin, 1), "no token makes an admin"),
        (token("a b", Role::Agent, 1), "an id is"),
    ];
    for (new, why) in cases {
        let (code, text) = bench.refused(Request::CreateToken(new));
        assert!(code == ErrorCode::INVALID_REQUEST && text.contains(why), "{text}");
    }
    bench.decided(Request::CreateToken(token("t", Role::Agent, 1)));
    let (_, text) = bench.refused(Request::CreateToken(token("t", Role::Agent, 1)));
    assert!(text.contains("a token t already"), "{text}");
    let (code, text) = bench.refused(Request::RevokeToken("u".into()));
    assert_eq!(code, ErrorCode::RESOURCE_NOT_FOUND, "{text}");
}

#[test]
fn revoked_stays_revoked_and_what_is_over_is_forgotten() {
    let mut bench = Bench::leading();
    bench.decided(Request::CreateToken(token("t", Role::Agent, 9)));
    certified(&mut bench, enroll("t", "web1", &[], "01", NOW));
    let by_serial = CertificateRef::Serial(Serial("01".into()));
    for (which, now) in [(by_serial, at(5)), (member(Role::Agent, "web1"), at(9))] {
        match bench.decided(Request::RevokeCertificates { which, now }) {
            Reply::CertificatesRevoked(found) => {
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].revoked, Some(at(5)), "the first time counts");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.controller.image().security.is_revoked(&Serial("01".into())));
    let (code, _) =
        bench.refused(Request::RevokeCertificates { which: member(Role::Agent, "x"), now: NOW });
    assert_eq!(code, ErrorCode::RESOURCE_NOT_FOUND);
    // Two days later both the token and the certificate are over.
    let later = NewToken { now: at(48 * HOUR), ..token("u", Role::Agent, 1) };
    bench.decided(Request::CreateToken(later));
    let security = &bench.controller.image().security;
    assert_eq!(security.tokens.keys().collect::<Vec<_>>(), ["u"]);
    assert!(security.certificates.is_empty());
}

#[test]
fn certificates_of_before_the_first_start_are_adopted_once() {
    let issued = IssuedCertificate {
        serial: Serial("0a".into()),
        role: Role::Admin,
        id: "root".into(),
        names: Vec::new(),
        not_before: NOW,
        not_after: at(HOUR),
        issued_by: "init".into(),
        revoked: None,
        signed_by: AuthorityId::FIRST,
        knows: AuthorityId::FIRST,
    };
    let settings = Settings { first_certificates: vec![issued.clone()], ..bench::settings() };
    let mut bench = Bench::new();
    bench.controller = controller::Controller::new(settings);
    bench.on(Event::Leads { image: Arc::default(), fresh_log_id: bench::LOG });
    bench.on(Event::Committed);
    let image = bench.controller.image().clone();
    assert_eq!(image.security.certificates[&issued.serial], issued);
    let which = CertificateRef::Serial(issued.serial.clone());
    bench.decided(Request::RevokeCertificates { which, now: NOW });
    let image = bench.controller.image().clone();
    let actions = bench.on(Event::Leads { image: image.clone(), fresh_log_id: bench::LOG });
    assert_eq!(actions, []);
    assert!(image.security.is_revoked(&issued.serial), "a new term does not bring it back");
}
