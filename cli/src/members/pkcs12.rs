//! A key store as Java and others take it: PKCS #12 (RFC 7292), written, never read.
//!
//! Key and certificates are encrypted by PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018), the whole has an
//! HMAC-SHA256 with the key derivation of RFC 7292 appendix B: what OpenSSL 3 and Java 17 write themselves. The CA is marked
//! as trusted (Oracle's attribute), so that one file is key store and trust store.

use std::num::NonZeroU32;

use anyhow::{Result, anyhow};
use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::{digest, hmac, pbkdf2};
use rustls_pki_types::CertificateDer;
use tailway_metadata::Secret;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSet, Tag, construct_der};

/// Rounds of the key derivations, as OpenSSL 3 and Java 17 have them.
const ROUNDS: u32 = 10_000;
const SALT_LEN: usize = 16;
const KEY_LEN: usize = 32;

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const ENCRYPTED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 6];
const SHROUDED_KEY_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 2];
const CERT_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509_CERTIFICATE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
const LOCAL_KEY_ID: &[u64] = &[1, 2, 840, 113_549, 1, 9, 21];
const TRUSTED_KEY_USAGE: &[u64] = &[2, 16, 840, 1, 113_894, 746_875, 1, 1];
const ANY_EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37, 0];
const PBES2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 13];
const PBKDF2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 12];
const HMAC_WITH_SHA256: &[u64] = &[1, 2, 840, 113_549, 2, 9];
const AES256_CBC: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 1, 42];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

/// What the store holds.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// PKCS #8, DER.
    pub(super) key: &'a [u8],
    pub(super) certificate: &'a [u8],
    /// Those to trust.
    pub(super) authorities: &'a [CertificateDer<'a>],
}

/// The store's bytes. The password is ASCII.
pub(super) fn encode(entry: &Entry<'_>, password: &Secret) -> Result<Vec<u8>> {
    let key_id = digest::digest(&digest::SHA256, entry.certificate);
    let certificates = construct_der(|writer| {
        writer.write_sequence_of(|writer| {
            cert_bag(writer.next(), entry.certificate, |attributes| {
                friendly_name(attributes.next(), entry.name);
                local_key_id(attributes.next(), key_id.as_ref());
            });
            for (index, ca) in entry.authorities.iter().enumerate() {
                // Java tells entries apart by this.
                let name = match index {
                    0 => "tailway-ca".to_owned(),
                    more => format!("tailway-ca-{}", more + 1),
                };
                cert_bag(writer.next(), ca, |attributes| {
                    friendly_name(attributes.next(), &name);
                    attribute(attributes.next(), TRUSTED_KEY_USAGE, |value| {
                        value.write_oid(&oid(ANY_EXTENDED_KEY_USAGE));
                    });
                });
            }
        });
    });
    let certificates = Encrypted::of(&certificates, password)?;
    let key = Encrypted::of(entry.key, password)?;
    let key = construct_der(|writer| {
        writer.write_sequence_of(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(SHROUDED_KEY_BAG));
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        key.algorithm(writer.next());
                        writer.next().write_bytes(&key.bytes);
                    });
                });
                writer.next().write_set_of(|attributes| {
                    friendly_name(attributes.next(), entry.name);
                    local_key_id(attributes.next(), key_id.as_ref());
                });
            });
        });
    });
    let safe = construct_der(|writer| {
        writer.write_sequence(|writer| {
            encrypted_data(writer.next(), &certificates);
            data(writer.next(), &key);
        });
    });
    let salt = fresh::<SALT_LEN>()?;
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &derive_mac_key(password, &salt));
    let mac = hmac::sign(&mac_key, &safe);
    Ok(construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(3);
            data(writer.next(), &safe);
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_oid(&oid(SHA256));
                        writer.next().write_null();
                    });
                    writer.next().write_bytes(mac.as_ref());
                });
                writer.next().write_bytes(&salt);
                writer.next().write_u32(ROUNDS);
            });
        });
    }))
}

/// Something encrypted by PBES2, and with what.
struct Encrypted {
    salt: [u8; SALT_LEN],
    iv: Vec<u8>,
    bytes: Vec<u8>,
}

impl Encrypted {
    fn of(plain: &[u8], password: &Secret) -> Result<Encrypted> {
        let failed = |_| anyhow!("the cryptographic library cannot encrypt");
        let salt = fresh::<SALT_LEN>()?;
        let mut key = [0; KEY_LEN];
        let rounds = NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN);
        let secret = password.expose().as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, secret, &mut key);
        let cipher = UnboundCipherKey::new(&AES_256, &key).map_err(failed)?;
        let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(cipher).map_err(failed)?;
        let mut bytes = plain.to_vec();
        let context = cipher.encrypt(&mut bytes).map_err(failed)?;
        let iv: &[u8] = (&context).try_into().map_err(failed)?;
        Ok(Encrypted { salt, iv: iv.to_vec(), bytes })
    }

    fn algorithm(&self, writer: DERWriter<'_>) {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&oid(PBES2));
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(PBKDF2));
                    writer.next().write_sequence(|writer| {
                        writer.next().write_bytes(&self.salt);
                        writer.next().write_u32(ROUNDS);
                        writer.next().write_sequence(|writer| {
                            writer.next().write_oid(&oid(HMAC_WITH_SHA256));
                            writer.next().write_null();
                        });
                    });
                });
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(AES256_CBC));
                    writer.next().write_bytes(&self.iv);
                });
            });
        });
    }
}

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

/// ContentInfo with plain bytes in it.
fn data(writer: DERWriter<'_>, bytes: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(DATA));
        writer.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(bytes));
    });
}

/// ContentInfo with EncryptedData (RFC 5652, section 8) in it.
fn encrypted_data(writer: DERWriter<'_>, encrypted: &Encrypted) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(ENCRYPTED_DATA));
        writer.next().write_tagged(Tag::context(0), |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_u8(0);
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(DATA));
                    encrypted.algorithm(writer.next());
                    writer.next().write_tagged_implicit(Tag::context(0), |writer| {
                        writer.write_bytes(&encrypted.bytes);
                    });
                });
            });
        });
    });
}

fn cert_bag(
    writer: DERWriter<'_>,
    certificate: &[u8],
    attributes: impl FnOnce(&mut DERWriterSet<'_>),
) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(CERT_BAG));
        writer.next().write_tagged(Tag::context(0), |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&oid(X509_CERTIFICATE));
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_bytes(certificate);
                });
            });
        });
        writer.next().write_set_of(attributes);
    });
}

fn attribute(writer: DERWriter<'_>, kind: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(kind));
        writer.next().write_set_of(|values| value(values.next()));
    });
}

fn friendly_name(writer: DERWriter<'_>, name: &str) {
    attribute(writer, FRIENDLY_NAME, |value| value.write_bmp_string(name));
}

fn local_key_id(writer: DERWriter<'_>, id: &[u8]) {
    attribute(writer, LOCAL_KEY_ID, |value| value.write_bytes(id));
}

/// RFC 7292, appendix B.2, for a MAC (ID 3) with SHA-256.
fn derive_mac_key(password: &Secret, salt: &[u8; SALT_LEN]) -> [u8; KEY_LEN] {
    /// SHA-256's block.
    const BLOCK: usize = 64;
    let bmp: Vec<u8> =
        password.expose().encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect();
    let filled = |bytes: &[u8]| -> Vec<u8> {
        let len = bytes.len().div_ceil(BLOCK) * BLOCK;
        bytes.iter().copied().cycle().take(len).collect()
    };
    // One block of output is all that is asked for, so nothing has to be added to the input for a next one.
    let input = [vec![3; BLOCK], filled(salt), filled(&bmp)].concat();
    let mut hash = digest::digest(&digest::SHA256, &input);
    for _ in 1..ROUNDS {
        hash = digest::digest(&digest::SHA256, hash.as_ref());
    }
    let mut key = [0; KEY_LEN];
    key.copy_from_slice(hash.as_ref());
    key
}

fn fresh<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("the system has no randomness"))?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "pkcs12_tests.rs"]
mod tests;
