//! The TLS library's configuration, made from settings and certificate files.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::public_key::subject_public_key_info;
use super::verifier::{Check, Roots, Verifier};
use super::{RootCert, SslSettings, TlsMode};
use crate::error::{Error, Result};

/// The TLS configuration, `None` for `sslmode=disable`. Reads the certificate files.
pub fn client_config(ssl: &SslSettings) -> Result<Option<Arc<ClientConfig>>> {
    if ssl.mode == TlsMode::Disable {
        return Ok(None);
    }
    // Named explicitly: a process-wide default may not exist, or be somebody else's.
    let provider = Arc::new(ring::default_provider());
    let versions: Vec<_> = [(ssl.tls12, &TLS12), (ssl.tls13, &TLS13)]
        .into_iter()
        .filter_map(|(wanted, version)| wanted.then_some(version))
        .collect();
    let verifier = Verifier { provider: provider.clone(), check: check(ssl)? };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|e| Error::failed(format!("TLS cannot be set up: {e}")).source(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &ssl.client_cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let certified = certified_key(cert, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.enable_sni = ssl.sni;
    Ok(Some(Arc::new(config)))
}

fn check(ssl: &SslSettings) -> Result<Check> {
    let roots = match &ssl.root {
        RootCert::Missing { looked_for } => return unverified(ssl.mode, looked_for.as_deref()),
        RootCert::System => system_roots()?,
        RootCert::File(path) => file_roots(path)?,
    };
    match ssl.mode {
        TlsMode::VerifyFull => Ok(Check::ChainAndName(roots)),
        _ => Ok(Check::Chain(roots)),
    }
}

fn unverified(mode: TlsMode, looked_for: Option<&Path>) -> Result<Check> {
    let place = looked_for.map_or("no home directory".into(), |path| path.to_string_lossy());
    match mode {
        TlsMode::VerifyCa | TlsMode::VerifyFull => Err(Error::usage(format!(
            "the root certificate file (connection parameter \"sslrootcert\") does not exist: \
             {place}"
        ))
        .next(
            "Provide the file, use the system's root certificates with sslrootcert=system, or \
             choose an sslmode that does not verify the server's certificate",
        )),
        _ => Ok(Check::Nothing),
    }
}

fn file_roots(path: &Path) -> Result<Roots> {
    let certificates = certificates(path, "sslrootcert")?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(|e| bad_file(path, "sslrootcert", &e).source(e))?;
    }
    Ok(Roots { store, certificates })
}

/// Certificates of the system that the TLS library cannot use are left out: there are always some.
fn system_roots() -> Result<Roots> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(loaded.certs.iter().cloned());
    if store.is_empty() {
        return Err(Error::usage(
            "sslrootcert=system: the system has no root certificates that can be read",
        )
        .next("Install them (package ca-certificates) or name a file in sslrootcert"));
    }
    Ok(Roots { store, certificates: loaded.certs })
}

fn certified_key(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let chain = certificates(cert, "sslcert")?;
    check_key_permissions(key)?;
    let der = PrivateKeyDer::from_pem_file(key).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            bad_file(key, "sslkey", &"it holds no private key, or an encrypted one")
                .next("Use a key without a passphrase, protected by file permissions")
        }
        e => bad_file(key, "sslkey", &e),
    })?;
    let key_of_file =
        provider.key_provider.load_private_key(der).map_err(|e| bad_file(key, "sslkey", &e))?;
    let certified = CertifiedKey::new(chain, key_of_file);
    if !belong_together(&certified) {
        return Err(Error::usage(format!(
            "the certificate {} (connection parameter \"sslcert\") is not for the key {} \
             (\"sslkey\")",
            cert.display(),
            key.display()
        )));
    }
    Ok(certified)
}

/// Our own comparison, since the TLS library's refuses certificates of X.509 version 1.
fn belong_together(certified: &CertifiedKey) -> bool {
    let of_cert = certified.cert.first().and_then(|cert| subject_public_key_info(cert));
    match (of_cert, certified.key.public_key()) {
        (Some(of_cert), Some(of_key)) => of_cert == of_key.as_ref(),
        (of_cert, _) => of_cert.is_some(),
    }
}

/// As libpq: nobody else's to read, except that root may let a group read its file.
fn check_key_permissions(key: &Path) -> Result<()> {
    let metadata = std::fs::metadata(key).map_err(|e| bad_file(key, "sslkey", &e).source(e))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if !metadata.is_file() || metadata.mode() & forbidden != 0 {
        return Err(bad_file(key, "sslkey", &"others have access to it, or it is no plain file")
            .next("Set its permissions to u=rw (0600) or less"));
    }
    Ok(())
}

fn certificates(path: &Path, keyword: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad_file(path, keyword, &e))?;
    if certificates.is_empty() {
        return Err(bad_file(path, keyword, &"it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn bad_file(path: &Path, keyword: &str, why: &dyn std::fmt::Display) -> Error {
    Error::usage(format!(
        "the file {} (connection parameter {keyword:?}) cannot be used: {why}",
        path.display()
    ))
}
