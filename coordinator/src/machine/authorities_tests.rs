//! A rotation of the CA, step by step, as replies and as what they leave in the image.

use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::security::{Role, Serial, Sha256};
use tailway_metadata::time::WallMs;

use super::authorities::NewAuthority;
use super::bench::Bench;
use super::membership::{Certify, Grant, NewToken};
use super::*;

const NOW: WallMs = WallMs(1_790_000_000_000);
const LIFE: i64 = 10 * 3_600_000;
const TWO: AuthorityId = AuthorityId(2);

fn ca(byte: u8) -> NewAuthority {
    NewAuthority { sha256: Sha256([byte; 32]), pem: format!("ca {byte}"), not_after: WallMs(7) }
}

fn add(byte: u8) -> Request {
    Request::AddAuthority { first: ca(1), new: ca(byte) }
}

fn activate(authority: AuthorityId, force: bool) -> Request {
    Request::ActivateAuthority { authority, force, now: NOW }
}

fn retire(authority: AuthorityId, force: bool) -> Request {
    Request::RetireAuthority { authority, force, now: NOW }
}

fn certify(bench: &mut Bench, grant: Grant, id: &str, serial: &str) {
    let request = Certify {
        grant,
        id: id.into(),
        names: Vec::new(),
        serial: Serial(serial.into()),
        not_before: NOW,
        not_after: WallMs(NOW.0 + LIFE),
        now: NOW,
    };
    bench.decided(Request::Certify(request));
}

fn issue(bench: &mut Bench, id: &str, serial: &str) {
    let grant = Grant::Admin { name: "root".into(), role: Role::Agent };
    certify(bench, grant, id, serial);
}

fn token(bench: &mut Bench, id: &str) {
    let token = NewToken {
        id: id.into(),
        role: Role::Agent,
        secret_sha256: Sha256([7; 32]),
        ttl_ms: 3_600_000,
        uses: 1,
        created_by: "admin root".into(),
        now: NOW,
    };
    bench.decided(Request::CreateToken(token));
}

fn states(bench: &Bench) -> Vec<(u32, AuthorityState)> {
    let authorities = &bench.controller.image().security.authorities;
    authorities.values().map(|ca| (ca.id.0, ca.state)).collect()
}

#[test]
fn a_ca_is_replaced_without_cutting_anybody_off() {
    use AuthorityState::{Active, Retired, Trusted};
    let mut bench = Bench::leading();
    issue(&mut bench, "web1", "01");
    issue(&mut bench, "web2", "02");
    token(&mut bench, "old");
    assert!(bench.refused(activate(TWO, false)).1.contains("there is no CA 2"));
    let Reply::Authority(added) = bench.decided(add(2)) else { panic!("not added") };
    let expected = CertificateAuthority {
        id: TWO,
        sha256: Sha256([2; 32]),
        pem: "ca 2".into(),
        not_after: WallMs(7),
        state: Trusted,
    };
    assert_eq!(added, expected);
    assert_eq!(states(&bench), [(1, Active), (2, Trusted)]);
    assert!(bench.refused(add(3)).1.contains("two CAs are trusted already"));
    // Who is new is told of both; who is there has to say that it knows.
    issue(&mut bench, "web3", "03");
    let (_, text) = bench.refused(activate(TWO, false));
    assert!(text.contains("cut off: agent/web1, agent/web2. "), "{text}");
    for serial in ["01", "02"] {
        bench.decided(Request::NoteTrust { serial: Serial(serial.into()), knows: TWO });
    }
    bench.decided(activate(TWO, false));
    assert_eq!(states(&bench), [(1, Trusted), (2, Active)]);
    let (_, text) = bench.refused(retire(AuthorityId::FIRST, false));
    assert!(text.contains("agent/web1, agent/web2, agent/web3. "), "{text}");
    for (id, serial) in [("web1", "01"), ("web2", "02"), ("web3", "03")] {
        let grant = Grant::Renewal { serial: Serial(serial.into()), role: Role::Agent };
        certify(&mut bench, grant, id, &format!("1{}", &serial[1..]));
    }
    token(&mut bench, "new");
    let (_, text) = bench.refused(retire(AuthorityId::FIRST, false));
    assert!(text.contains("tokens name CA 1 and would be worthless: old. "), "{text}");
    assert!(bench.refused(retire(TWO, false)).1.contains("CA 2 signs"));
    bench.decided(Request::RevokeToken("old".into()));
    bench.decided(retire(AuthorityId::FIRST, false));
    assert_eq!(states(&bench), [(1, Retired), (2, Active)]);
    let security = &bench.controller.image().security;
    let revoked = |serial: &str| security.is_revoked(&Serial(serial.into()));
    assert_eq!((revoked("01"), revoked("11")), (true, false), "what the old CA signed is over");
    assert!(bench.refused(activate(AuthorityId::FIRST, true)).1.contains("was retired"));
    let Reply::Authority(third) = bench.decided(add(3)) else { panic!("not added") };
    assert_eq!(third.id, AuthorityId(3), "a number is never given twice");
}

#[test]
fn force_cuts_off_and_an_added_ca_can_be_taken_back() {
    use AuthorityState::{Active, Retired, Trusted};
    let mut bench = Bench::leading();
    issue(&mut bench, "web1", "01");
    bench.decided(add(2));
    bench.decided(retire(TWO, false));
    assert_eq!(states(&bench), [(1, Active), (2, Retired)]);
    bench.decided(add(3));
    bench.decided(activate(AuthorityId(3), true));
    assert_eq!(states(&bench), [(1, Trusted), (2, Retired), (3, Active)]);
    bench.decided(retire(AuthorityId::FIRST, true));
    let security = &bench.controller.image().security;
    assert!(security.is_revoked(&Serial("01".into())));
    assert_eq!(security.active_authority(), AuthorityId(3));
    // Whoever was cut off, expired or was turned out is waited for by nobody.
    bench.decided(add(4));
    bench.decided(activate(AuthorityId(4), false));
}
