//! TLS as libpq's `ssl…` parameters ask for it.
//!
//! Two differences from libpq remain, both on the strict side: a certificate is not accepted for
//! its common name alone (it needs a subject alternative name under `verify-full`), and a server
//! certificate of X.509 version 1 cannot be verified (it can be used with `require` and below).

mod client;
#[cfg(test)]
mod handshake_tests;
mod public_key;
mod verifier;

use std::path::PathBuf;

use tokio_postgres::config::SslMode;

use super::settings::Settings;
use super::surroundings::Surroundings;
use crate::error::{Error, Result};

pub use client::client_config;

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Whether one attempt to connect uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseTls {
    /// No `SSLRequest` is sent.
    Never,
    /// TLS if the server offers it, plain otherwise.
    IfOffered,
    /// TLS, or the attempt has failed.
    Always,
}

/// The certificates that the server's one must lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// None: every certificate is accepted. Not possible with `verify-ca` and `verify-full`.
    Missing { looked_for: Option<PathBuf> },
    /// Those of the operating system (`sslrootcert=system`).
    System,
    /// Those of a file that exists; the chain is then verified in every mode, as in libpq.
    File(PathBuf),
}

/// The `ssl…` parameters.
#[derive(Debug, Clone)]
pub struct SslSettings {
    pub mode: TlsMode,
    pub root: RootCert,
    /// Client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Whether the server is told the name it was asked for by.
    pub sni: bool,
    /// Whether TLS 1.2 and TLS 1.3 are spoken.
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl TlsMode {
    /// How to try one server, in order; see [`ConnInfo::attempts`](super::ConnInfo::attempts).
    pub fn attempts(self) -> &'static [UseTls] {
        match self {
            TlsMode::Disable => &[UseTls::Never],
            TlsMode::Allow => &[UseTls::Never, UseTls::Always],
            TlsMode::Prefer => &[UseTls::IfOffered, UseTls::Never],
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[UseTls::Always],
        }
    }

    fn parse(text: &str) -> Option<TlsMode> {
        Some(match text {
            "disable" => TlsMode::Disable,
            "allow" => TlsMode::Allow,
            "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            _ => return None,
        })
    }
}

impl UseTls {
    /// The same in `tokio_postgres`'s words.
    pub fn ssl_mode(self) -> SslMode {
        match self {
            UseTls::Never => SslMode::Disable,
            UseTls::IfOffered => SslMode::Prefer,
            UseTls::Always => SslMode::Require,
        }
    }
}

impl SslSettings {
    pub(super) fn from_settings(settings: &Settings, machine: &dyn Surroundings) -> Result<Self> {
        let root = root_cert(settings, machine);
        let tls13_only = is(settings, "ssl_min_protocol_version", "TLSv1.3");
        let tls12_only = is(settings, "ssl_max_protocol_version", "TLSv1.2");
        if tls13_only && tls12_only {
            return Err(Error::usage(
                "connection parameters \"ssl_min_protocol_version\" and \
                 \"ssl_max_protocol_version\" leave no TLS version",
            ));
        }
        Ok(SslSettings {
            mode: mode(settings, &root)?,
            client_cert: client_cert(settings, machine),
            root,
            sni: settings.given("sslsni") != Some("0"),
            tls12: !tls13_only,
            tls13: !tls12_only,
        })
    }
}

fn is(settings: &Settings, keyword: &str, value: &str) -> bool {
    settings.given(keyword).is_some_and(|given| given.eq_ignore_ascii_case(value))
}

/// Anybody can get a certificate from a public authority, so the system's roots are worth nothing
/// without the name: they change the default and allow no weaker mode.
fn mode(settings: &Settings, root: &RootCert) -> Result<TlsMode> {
    let system = *root == RootCert::System;
    let Some(text) = settings.get("sslmode") else {
        return Ok(if system { TlsMode::VerifyFull } else { TlsMode::Prefer });
    };
    let modes = "disable, allow, prefer, require, verify-ca, verify-full";
    let mode = TlsMode::parse(text).ok_or_else(|| settings.bad_value("sslmode", modes))?;
    if system && mode != TlsMode::VerifyFull {
        return Err(Error::usage(format!(
            "{} is {text:?}, too weak for sslrootcert=system",
            settings.named("sslmode")
        ))
        .next("Use sslmode=verify-full"));
    }
    Ok(mode)
}

fn root_cert(settings: &Settings, machine: &dyn Surroundings) -> RootCert {
    let path = match settings.given("sslrootcert") {
        Some("system") => return RootCert::System,
        Some(path) => Some(PathBuf::from(path)),
        None => default_file(machine, "root.crt"),
    };
    match path {
        Some(path) if machine.status(&path).is_some() => {
            warn_of_revocation_list(machine);
            RootCert::File(path)
        }
        looked_for => {
            warn_of_missing_root(settings);
            RootCert::Missing { looked_for }
        }
    }
}

/// libpq goes on without a word where the mode does not insist on verifying; so does this, with
/// one.
fn warn_of_missing_root(settings: &Settings) {
    if let Some(path) = settings.given("sslrootcert") {
        tracing::warn!("root certificate file {path} does not exist: no certificate is verified");
    }
}

/// libpq would use it together with root certificates, unless told of another one.
fn warn_of_revocation_list(machine: &dyn Surroundings) {
    if let Some(path) = default_file(machine, "root.crl").filter(|p| machine.status(p).is_some()) {
        tracing::warn!(
            "certificate revocation list {} is ignored: revocation is not supported",
            path.display()
        );
    }
}

/// A certificate that does not exist is not sent, also if it was named; so does libpq.
fn client_cert(settings: &Settings, machine: &dyn Surroundings) -> Option<(PathBuf, PathBuf)> {
    if is(settings, "sslcertmode", "disable") {
        return None;
    }
    let file = |keyword: &str, default: &str| {
        settings.given(keyword).map(PathBuf::from).or_else(|| default_file(machine, default))
    };
    let cert = file("sslcert", "postgresql.crt").filter(|path| machine.status(path).is_some())?;
    Some((cert, file("sslkey", "postgresql.key").unwrap_or_default()))
}

fn default_file(machine: &dyn Surroundings, name: &str) -> Option<PathBuf> {
    machine.home().map(|home| home.join(".postgresql").join(name))
}

#[cfg(test)]
mod tests {
    use super::super::layers::layered;
    use super::super::surroundings::fake::Fake;
    use super::*;

    fn ssl_on(dsn: &str, machine: &Fake) -> Result<SslSettings> {
        SslSettings::from_settings(&layered(Some(dsn), machine)?, machine)
    }

    fn ssl(dsn: &str) -> SslSettings {
        ssl_on(dsn, &Fake::new()).unwrap()
    }

    #[test]
    fn modes_and_their_attempts() {
        use UseTls::*;
        assert_eq!(ssl("").mode, TlsMode::Prefer);
        for (name, attempts) in [
            ("disable", &[Never][..]),
            ("allow", &[Never, Always]),
            ("prefer", &[IfOffered, Never]),
            ("require", &[Always]),
            ("verify-ca", &[Always]),
            ("verify-full", &[Always]),
        ] {
            assert_eq!(ssl(&format!("sslmode={name}")).mode.attempts(), attempts, "{name}");
        }
        for bad in ["sslmode=on", "sslmode=''", "sslmode=Require"] {
            let text = ssl_on(bad, &Fake::new()).err().unwrap().to_string();
            assert!(text.contains("\"sslmode\""), "{text}");
        }
    }

    #[test]
    fn the_systems_roots_ask_for_the_name() {
        assert_eq!(ssl("sslrootcert=system").mode, TlsMode::VerifyFull);
        assert_eq!(ssl("sslrootcert=system").root, RootCert::System);
        assert!(ssl_on("sslrootcert=system sslmode=verify-ca", &Fake::new()).is_err());
    }

    #[test]
    fn default_files_are_used_where_they_exist() {
        assert!(matches!(ssl("").root, RootCert::Missing { .. }));
        assert_eq!(ssl("sslcert=/missing").client_cert, None);
        let machine = Fake::new().file("/home/os/.postgresql/root.crt", 0o644, "").file(
            "/home/os/.postgresql/postgresql.crt",
            0o644,
            "",
        );
        let found = ssl_on("", &machine).unwrap();
        assert_eq!(found.root, RootCert::File("/home/os/.postgresql/root.crt".into()));
        let (cert, key) = found.client_cert.unwrap();
        assert!(cert.ends_with("postgresql.crt") && key.ends_with("postgresql.key"));
        assert_eq!(ssl_on("sslcertmode=disable", &machine).unwrap().client_cert, None);
    }

    #[test]
    fn protocol_versions() {
        let both = ssl("ssl_min_protocol_version=TLSv1.1");
        assert!(both.tls12 && both.tls13);
        assert!(!ssl("ssl_min_protocol_version=tlsv1.3").tls12);
        assert!(!ssl("ssl_max_protocol_version=TLSv1.2").tls13);
        let none = "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2";
        assert!(ssl_on(none, &Fake::new()).is_err());
    }
}
