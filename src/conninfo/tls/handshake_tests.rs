//! Whole handshakes between a client configured by connection parameters and a server of the
//! test's own, without a network.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ProtocolVersion, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{RootCert, SslSettings, TlsMode, client_config};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conninfo/tls/testdata").join(name)
}

fn ssl(mode: TlsMode, root: Option<&str>) -> SslSettings {
    let root = match root {
        Some(name) => RootCert::File(file(name)),
        None => RootCert::Missing { looked_for: None },
    };
    SslSettings { mode, root, client_cert: None, sni: true, tls12: true, tls13: true }
}

fn pair(cert: &str, key: &str) -> CertifiedKey {
    let chain = CertificateDer::pem_file_iter(file(cert)).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file(key)).unwrap();
    let key = ring::default_provider().key_provider.load_private_key(key).unwrap();
    CertifiedKey::new(chain, key)
}

/// The server shows `cert`, and asks for a certificate of `root` if `client_auth`.
fn server(pair: CertifiedKey, client_auth: bool) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS12, &TLS13])
        .unwrap();
    let builder = if client_auth {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("root.crt")).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
}

/// What both sides make of the handshake: the version and whether the client showed a
/// certificate, or the client's error.
async fn shake(
    ssl: &SslSettings,
    server: ServerConfig,
    name: &str,
) -> Result<(ProtocolVersion, bool), String> {
    let connector = TlsConnector::from(client_config(ssl).unwrap().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let client = client.map_err(|e| e.to_string())?;
    let version = client.get_ref().1.protocol_version().unwrap();
    let server = server.map_err(|e| e.to_string())?;
    Ok((version, server.get_ref().1.peer_certificates().is_some()))
}

async fn accepts(mode: TlsMode, root: Option<&str>, cert: &str, name: &str) -> bool {
    let pair = pair(&format!("{cert}.crt"), &format!("{cert}.key"));
    shake(&ssl(mode, root), server(pair, false), name).await.is_ok()
}

#[tokio::test]
async fn without_root_certificates_every_certificate_is_accepted() {
    for mode in [TlsMode::Allow, TlsMode::Prefer, TlsMode::Require] {
        for cert in ["server", "version1", "selfsigned", "expired"] {
            assert!(accepts(mode, None, cert, "any.name").await, "{mode:?} {cert}");
        }
    }
}

#[tokio::test]
async fn root_certificates_have_the_chain_verified_in_every_mode() {
    for mode in [TlsMode::Allow, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa] {
        assert!(accepts(mode, Some("root.crt"), "server", "any.name").await, "{mode:?}");
        assert!(!accepts(mode, Some("stranger.crt"), "server", "db.example").await, "{mode:?}");
        assert!(!accepts(mode, Some("root.crt"), "selfsigned", "db.example").await, "{mode:?}");
    }
}

#[tokio::test]
async fn verify_full_wants_the_name_or_the_address_too() {
    let full = TlsMode::VerifyFull;
    assert!(accepts(full, Some("root.crt"), "server", "db.example").await);
    assert!(accepts(full, Some("root.crt"), "server", "127.0.0.1").await);
    assert!(!accepts(full, Some("root.crt"), "server", "other.example").await);
    assert!(!accepts(full, Some("root.crt"), "server", "127.0.0.2").await);
    assert!(!accepts(full, Some("stranger.crt"), "server", "db.example").await);
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_root_while_it_lasts() {
    let (ca, full) = (TlsMode::VerifyCa, TlsMode::VerifyFull);
    assert!(accepts(ca, Some("selfsigned.crt"), "selfsigned", "any.name").await);
    assert!(accepts(full, Some("selfsigned.crt"), "selfsigned", "db.example").await);
    assert!(!accepts(full, Some("selfsigned.crt"), "selfsigned", "any.name").await);
    assert!(!accepts(ca, Some("expired.crt"), "expired", "db.example").await);
}

#[tokio::test]
async fn a_server_without_the_key_is_refused_in_every_mode() {
    for (cert, tls13) in [("server", true), ("server", false), ("version1", true)] {
        let stolen = pair(&format!("{cert}.crt"), "selfsigned.key");
        let mut ssl = ssl(TlsMode::Require, None);
        (ssl.tls12, ssl.tls13) = (!tls13, tls13);
        let error = shake(&ssl, server(stolen, false), "db.example").await.unwrap_err();
        assert!(error.contains("BadSignature"), "{cert} {tls13}: {error}");
    }
}

#[tokio::test]
async fn protocol_versions_are_honoured() {
    for (tls12, tls13, want) in [
        (true, true, ProtocolVersion::TLSv1_3),
        (true, false, ProtocolVersion::TLSv1_2),
        (false, true, ProtocolVersion::TLSv1_3),
    ] {
        let ssl = SslSettings { tls12, tls13, ..ssl(TlsMode::VerifyFull, Some("root.crt")) };
        let server = server(pair("server.crt", "server.key"), false);
        assert_eq!(shake(&ssl, server, "db.example").await, Ok((want, false)));
    }
}

/// A copy of a key whose permissions do not depend on how the sources were checked out.
fn private_copy(directory: &Path, key: &str, mode: u32) -> PathBuf {
    let copy = directory.join(key);
    std::fs::copy(file(key), &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).unwrap();
    copy
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let key = private_copy(directory.path(), "server.key", 0o600);
    let mut ssl = ssl(TlsMode::Require, None);
    ssl.client_cert = Some((file("server.crt"), key));
    for asked in [true, false] {
        let server = server(pair("server.crt", "server.key"), asked);
        let shown = shake(&ssl, server, "db.example").await.unwrap().1;
        assert_eq!(shown, asked);
    }
}

#[test]
fn client_keys_that_cannot_be_used_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |cert: &str, key: PathBuf| {
        let mut ssl = ssl(TlsMode::Require, None);
        ssl.client_cert = Some((file(cert), key));
        client_config(&ssl).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let copy = |key, mode| private_copy(directory.path(), key, mode);
    assert_eq!(refused("version1.crt", copy("version1.key", 0o400)), "");
    assert!(refused("server.crt", copy("version1.key", 0o600)).contains("is not for the key"));
    assert!(refused("server.crt", copy("server.key", 0o644)).contains("0600"));
    assert!(refused("server.crt", copy("encrypted.key", 0o600)).contains("passphrase"));
    assert!(refused("server.crt", directory.path().join("none")).contains("\"sslkey\""));
    assert!(refused("server.key", copy("server.key", 0o600)).contains("\"sslcert\""));
}

#[test]
fn verifying_without_root_certificates_is_refused() {
    for mode in [TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let error = client_config(&ssl(mode, None)).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(error.to_string().contains("\"sslrootcert\""), "{error}");
    }
    let broken = client_config(&ssl(TlsMode::VerifyCa, Some("make.sh"))).unwrap_err();
    assert!(broken.to_string().contains("make.sh"), "{broken}");
    assert!(client_config(&ssl(TlsMode::Disable, None)).unwrap().is_none());
}
