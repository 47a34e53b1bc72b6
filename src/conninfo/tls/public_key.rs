//! The public key of a certificate, found without judging the rest of it.
//!
//! PostgreSQL's manual has its readers make certificates of X.509 version 1, which the TLS library
//! refuses to parse. Where certificates are not verified, or are our own, the key is all we need.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The `SubjectPublicKeyInfo` of a DER certificate, `None` if it is no certificate.
pub(super) fn subject_public_key_info(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate) = element(certificate, SEQUENCE)?;
    let (_, mut fields) = element(certificate, SEQUENCE)?;
    // The version is absent in version 1.
    if fields.first() == Some(&VERSION) {
        fields = skip(fields)?;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        fields = skip(fields)?;
    }
    element(fields, SEQUENCE).map(|(whole, _)| whole)
}

/// The first element of `der` with and without its header, if it is of this kind.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (header, end) = bounds(der)?;
    (der.first() == Some(&tag)).then_some(())?;
    Some((der.get(..end)?, der.get(header..end)?))
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    der.get(bounds(der)?.1..)
}

/// Where the first element's content begins and ends.
fn bounds(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, 2 + first));
    }
    let header = 2 + (first & 0x7f);
    // Three bytes of length are 16 MiB: more than any certificate.
    if header > 5 {
        return None;
    }
    let length = der.get(2..header)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
    Some((header, header + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    const CERTIFICATES: [&[u8]; 2] =
        [include_bytes!("testdata/server.crt"), include_bytes!("testdata/version1.crt")];

    #[test]
    fn the_key_is_found_in_every_version() {
        for pem in CERTIFICATES {
            let der = CertificateDer::from_pem_slice(pem).unwrap();
            // A P-256 key: 26 bytes of header, an uncompressed point.
            let key = subject_public_key_info(&der).unwrap();
            assert_eq!((key.len(), key[26]), (91, 4));
            for end in 0..der.len() {
                assert_eq!(subject_public_key_info(&der[..end]), None, "{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), at in 0usize..400, byte: u8) {
            let _ = subject_public_key_info(&bytes);
            for pem in CERTIFICATES {
                let mut der = CertificateDer::from_pem_slice(pem).unwrap().to_vec();
                let at = at % der.len();
                der[at] = byte;
                let _ = subject_public_key_info(&der);
            }
        }
    }
}
