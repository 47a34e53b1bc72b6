//! Settings that ask for more than can be given. Ignoring one of them would weaken what the
//! operator relies on, so each is refused by name.

use super::parse;
use super::settings::Settings;
use crate::error::{Error, Result};

/// Refused whatever the value is.
const NEVER: &[(&str, &str)] = &[
    ("sslcrl", "certificate revocation lists are not supported"),
    ("sslcrldir", "certificate revocation lists are not supported"),
    ("require_auth", "restricting the authentication method is not supported"),
    ("requirepeer", "checking the owner of the server process is not supported"),
    ("scram_client_key", "authentication with SCRAM keys is not supported"),
    ("scram_server_key", "authentication with SCRAM keys is not supported"),
];

/// Values that are fine, and what the others would ask for.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("gssencmode", &["disable", "prefer"], "GSSAPI encryption is not supported"),
    ("channel_binding", &["disable", "prefer"], "channel binding cannot be required"),
    ("sslcertmode", &["disable", "allow"], "a client certificate cannot be required"),
    ("sslnegotiation", &["postgres"], "direct TLS negotiation is not supported"),
    ("min_protocol_version", &["3.0"], "only protocol version 3.0 is spoken"),
    ("replication", &["false", "off", "no", "0"], "replication connections are opened as needed"),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"], "no such version"),
    ("ssl_max_protocol_version", &["TLSv1.2", "TLSv1.3"], "TLS below 1.2 is not supported"),
];

/// What nobody but its owner should read.
const SECRETS: &[&str] =
    &["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

/// Refuses a connection string with a secret in it, for where it is kept and others read it. What is no
/// connection string is refused too.
pub fn secrets(dsn: &str) -> Result<()> {
    let settings = parse::parse(dsn)?;
    match SECRETS.iter().find(|keyword| settings.get(keyword).is_some()) {
        Some(keyword) => Err(Error::usage(format!(
            "{} may not be given here: it would be stored where others read it",
            settings.named(keyword)
        ))
        .next("Leave it to the password file (~/.pgpass), a service file, or PGPASSWORD")),
        None => Ok(()),
    }
}

/// Refuses what cannot be honoured.
pub(super) fn unhonoured(settings: &Settings) -> Result<()> {
    for (keyword, why) in NEVER {
        if settings.given(keyword).is_some() {
            return Err(refusal(settings, keyword, why).next("Remove it to go on without it"));
        }
    }
    for (keyword, allowed, why) in ONLY {
        let Some(value) = settings.given(keyword) else { continue };
        if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(value)) {
            return Err(refusal(settings, keyword, why)
                .next(format!("Remove it or set it to one of: {}", allowed.join(", "))));
        }
    }
    Ok(())
}

fn refusal(settings: &Settings, keyword: &str, why: &str) -> Error {
    Error::usage(format!("{} cannot be honoured: {why}", settings.named(keyword)))
}

#[cfg(test)]
mod tests {
    use super::super::layers::layered;
    use super::super::surroundings::fake::Fake;
    use super::*;

    fn refused(dsn: &str) -> Option<String> {
        unhonoured(&layered(Some(dsn), &Fake::new()).unwrap()).err().map(|e| e.to_string())
    }

    #[test]
    fn security_that_cannot_be_given_is_refused_by_name() {
        for dsn in [
            "gssencmode=require",
            "channel_binding=require",
            "sslcrl=/x",
            "sslcrldir=/x",
            "require_auth=scram-sha-256",
            "requirepeer=postgres",
            "sslnegotiation=direct",
            "sslcertmode=require",
            "ssl_max_protocol_version=TLSv1.1",
            "replication=database",
        ] {
            let text = refused(dsn).unwrap_or_else(|| panic!("{dsn} was accepted"));
            let keyword = dsn.split('=').next().unwrap();
            assert!(text.contains(&format!("\"{keyword}\"")), "{text}");
        }
    }

    #[test]
    fn the_environment_is_refused_too_and_named() {
        let machine = Fake::new().var("PGREQUIREAUTH", "none");
        let error = unhonoured(&layered(None, &machine).unwrap()).err().unwrap();
        assert!(error.to_string().contains("PGREQUIREAUTH"), "{error}");
    }

    #[test]
    fn secrets_are_not_kept() {
        for dsn in ["postgresql://u:hunter2@h/d", "host=h password=hunter2", "sslpassword=hunter2"]
        {
            let error = secrets(dsn).err().unwrap().to_string();
            assert!(error.contains("password\"") && error.contains("~/.pgpass"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(secrets("postgresql://u@h/d?sslmode=require").is_ok());
        assert!(secrets("service=eu2 passfile=/p").is_ok());
        assert!(secrets("hots=h").is_err());
    }

    #[test]
    fn harmless_settings_pass() {
        let dsn = "gssencmode=prefer channel_binding=prefer sslcrl='' keepalives=1 krbsrvname=x \
                   keepalives_idle=1 keepalives_interval=1 keepalives_count=1 tcp_user_timeout=1 \
                   client_encoding=utf8 sslcompression=0 sslsni=1 load_balance_hosts=random \
                   target_session_attrs=any ssl_min_protocol_version=tlsv1.2 options='-c a=b' \
                   application_name=x fallback_application_name=y gsslib=gssapi gssdelegation=0";
        assert_eq!(refused(dsn), None);
    }
}
