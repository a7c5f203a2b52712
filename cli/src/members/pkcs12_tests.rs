//! The store's outer form and its MAC; that others can read it is shown with OpenSSL and Java, among the foreign clients.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

fn store(password: &Secret) -> (Vec<u8>, KeyPair) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.distinguished_name.push(DnType::CommonName, "the CA");
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name.push(DnType::CommonName, "client reports");
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let entry = Entry {
        name: "reports",
        key: key.serialized_der(),
        certificate: certificate.der(),
        authorities: std::slice::from_ref(ca_certificate.der()),
    };
    (encode(&entry, password).unwrap(), key)
}

#[test]
#[allow(clippy::redundant_closure_for_method_calls, reason = "a lifetime is in the way")]
fn the_mac_is_that_of_the_password_and_no_key_stands_in_clear() {
    let password = Secret::new("correct horse");
    let (store, key) = store(&password);
    let (safe, mac, salt) = yasna::parse_der(&store, |reader| {
        reader.read_sequence(|reader| {
            assert_eq!(reader.next().read_u8()?, 3);
            let safe = reader.next().read_sequence(|reader| {
                reader.next().read_oid()?;
                reader.next().read_tagged(Tag::context(0), |reader| reader.read_bytes())
            })?;
            let (mac, salt) = reader.next().read_sequence(|reader| {
                let mac = reader.next().read_sequence(|reader| {
                    reader.next().read_der()?;
                    reader.next().read_bytes()
                })?;
                let salt = reader.next().read_bytes()?;
                assert_eq!(reader.next().read_u32()?, ROUNDS);
                Ok((mac, salt))
            })?;
            Ok((safe, mac, salt))
        })
    })
    .unwrap();
    let salt = salt.try_into().unwrap();
    for (tried, fits) in [("correct horse", true), ("correct horsf", false), ("", false)] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derive_mac_key(&Secret::new(tried), &salt));
        assert_eq!(hmac::verify(&key, &safe, &mac).is_ok(), fits, "{tried:?}");
    }
    let secret = &key.serialized_der()[key.serialized_der().len() - 32..];
    assert!(!store.windows(secret.len()).any(|window| window == secret));
    assert!(!store.windows(8).any(|window| window == b"reports\0"), "names are encrypted too");
}
