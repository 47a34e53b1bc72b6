//! Connection URIs: `postgresql://user:password@host:port,host:port/dbname?keyword=value&…`.

use super::settings::{Origin, Settings};
use crate::error::{Error, Result};

/// What follows the scheme, `None` if the text is no connection URI.
pub(super) fn without_scheme(dsn: &str) -> Option<&str> {
    dsn.strip_prefix("postgresql://").or_else(|| dsn.strip_prefix("postgres://"))
}

/// Parses a URI without its scheme.
pub(super) fn parse(rest: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let rest = take_credentials(rest, &mut settings)?;
    let rest = take_hosts(rest, &mut settings)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, query),
        None => (rest, ""),
    };
    store(&mut settings, "dbname", path.strip_prefix('/').unwrap_or(path))?;
    take_parameters(query, &mut settings)?;
    Ok(settings)
}

/// `user:password@`. Only an `@` before the first slash ends credentials, as in libpq.
fn take_credentials<'a>(rest: &'a str, settings: &mut Settings) -> Result<&'a str> {
    let at = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => at,
        _ => return Ok(rest),
    };
    let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
    store(settings, "user", user)?;
    store(settings, "password", password)?;
    Ok(&rest[at + 1..])
}

/// `host:port,host:port`; hosts and ports become two lists of equal length, as in libpq.
fn take_hosts<'a>(mut rest: &'a str, settings: &mut Settings) -> Result<&'a str> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    loop {
        let (host, behind) = take_host(rest)?;
        hosts.push_str(host);
        rest = behind;
        if let Some(behind) = rest.strip_prefix(':') {
            let end = behind.find(['/', '?', ',']).unwrap_or(behind.len());
            ports.push_str(&behind[..end]);
            rest = &behind[end..];
        }
        let Some(behind) = rest.strip_prefix(',') else { break };
        hosts.push(',');
        ports.push(',');
        rest = behind;
    }
    store(settings, "host", &hosts)?;
    store(settings, "port", &ports)?;
    Ok(rest)
}

fn take_host(rest: &str) -> Result<(&str, &str)> {
    let Some(inside) = rest.strip_prefix('[') else {
        return Ok(rest.split_at(rest.find([':', '/', '?', ',']).unwrap_or(rest.len())));
    };
    let Some((address, behind)) = inside.split_once(']') else {
        return Err(bad_bracket("has an IPv6 address without a closing \"]\""));
    };
    if address.is_empty() {
        return Err(bad_bracket("has an empty IPv6 address \"[]\""));
    }
    if !behind.is_empty() && !behind.starts_with([':', '/', '?', ',']) {
        return Err(bad_bracket("goes on with something else than a port after \"]\""));
    }
    Ok((address, behind))
}

fn bad_bracket(what: &str) -> Error {
    Error::usage(format!("connection parameter \"host\" of the connection URI {what}"))
}

/// Stores a part of the URI. An empty part leaves the parameter to the environment.
fn store(settings: &mut Settings, keyword: &str, encoded: &str) -> Result<()> {
    if encoded.is_empty() {
        return Ok(());
    }
    settings.set(keyword, decode(encoded, keyword)?, Origin::ConnectionString)
}

/// `keyword=value&keyword=value`.
fn take_parameters(query: &str, settings: &mut Settings) -> Result<()> {
    if query.is_empty() {
        return Ok(());
    }
    // A single trailing "&" is accepted by libpq, an empty parameter elsewhere is not.
    let query = query.strip_suffix('&').unwrap_or(query);
    for (number, parameter) in (1..).zip(query.split('&')) {
        let Some((keyword, value)) = parameter.split_once('=') else {
            return Err(Error::usage(format!(
                "parameter {number} after the \"?\" of the connection URI has no \"=\""
            )));
        };
        let keyword = decode(keyword, "keyword")?;
        if value.contains('=') {
            return Err(Error::usage(format!(
                "connection parameter {keyword:?} of the connection URI has a second \"=\""
            ))
            .next("Write a \"=\" within a value as %3D"));
        }
        let value = decode(value, &keyword)?;
        match (keyword.as_str(), value.as_str()) {
            // JDBC's spelling, which libpq accepts too.
            ("ssl", "true") => {
                settings.set("sslmode", "require".to_owned(), Origin::ConnectionString)?
            }
            _ => settings.set(&keyword, value, Origin::ConnectionString)?,
        }
    }
    Ok(())
}

/// Replaces `%xy`. `keyword` says in messages whose value it is; the value itself stays unsaid.
fn decode(encoded: &str, keyword: &str) -> Result<String> {
    let bad = |what: &str| {
        Error::usage(format!("connection parameter {keyword:?} of the connection URI {what}"))
            .next("Write a literal \"%\" as %25")
    };
    if encoded.contains(|c: char| c.is_ascii_whitespace()) {
        // Most likely the URI is over, and something else follows that would be shown as part of this.
        return Err(bad("contains a blank").next("Write a blank within a value as %20"));
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex_digit);
        let low = bytes.next().and_then(hex_digit);
        match (high, low) {
            (Some(0), Some(0)) => return Err(bad("contains the forbidden %00")),
            (Some(high), Some(low)) => decoded.push(high << 4 | low),
            _ => return Err(bad("has a \"%\" without two hexadecimal digits")),
        }
    }
    String::from_utf8(decoded).map_err(|_| bad("is not UTF-8 after percent-decoding"))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::parse;

    fn check(uri: &str, expected: &[(&str, &str)]) {
        let settings = parse(uri).unwrap();
        for keyword in ["user", "password", "host", "port", "dbname", "sslmode", "options"] {
            let want = expected.iter().find(|(k, _)| *k == keyword).map(|(_, v)| *v);
            assert_eq!(settings.get(keyword), want, "{keyword} of {uri}");
        }
    }

    #[test]
    fn every_part_may_be_absent() {
        check("postgresql://", &[]);
        check("postgres:///", &[]);
        check("postgresql://@/?", &[]);
        check("postgresql://localhost", &[("host", "localhost")]);
        check("postgresql://:5433", &[("port", "5433")]);
        check("postgresql:///shop", &[("dbname", "shop")]);
        check("postgresql://u@", &[("user", "u")]);
        check("postgresql://u:@h", &[("user", "u"), ("host", "h")]);
        check(
            "postgresql://u:p@h:5433/shop?sslmode=require&options=-c%20a%3Db&",
            &[
                ("user", "u"),
                ("password", "p"),
                ("host", "h"),
                ("port", "5433"),
                ("dbname", "shop"),
                ("sslmode", "require"),
                ("options", "-c a=b"),
            ],
        );
    }

    #[test]
    fn a_query_may_follow_the_host() {
        check("postgresql://h?user=u", &[("host", "h"), ("user", "u")]);
        check("postgresql://h:1?user=u", &[("host", "h"), ("port", "1"), ("user", "u")]);
        check("postgresql://[::1]?user=u", &[("host", "::1"), ("user", "u")]);
    }

    #[test]
    fn several_hosts_and_ipv6() {
        check("postgresql://a:1,b:2/d", &[("host", "a,b"), ("port", "1,2"), ("dbname", "d")]);
        check("postgresql://a,b", &[("host", "a,b"), ("port", ",")]);
        check("postgresql://a:1,", &[("host", "a,"), ("port", "1,")]);
        check("postgresql://[2001:db8::1]:1,[::2]", &[("host", "2001:db8::1,::2"), ("port", "1,")]);
        for bad in ["postgresql://[::1", "postgresql://[]", "postgresql://[::1]x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_directory_in_the_host_or_in_the_query() {
        let host = [("host", "/var/run/postgresql"), ("dbname", "d")];
        check("postgresql://%2Fvar%2frun%2Fpostgresql/d", &host);
        check("postgresql:///d?host=/var/run/postgresql", &host);
    }

    #[test]
    fn credentials_end_at_the_first_at_sign() {
        check(
            "postgresql://u%40corp:p%3A%2F@h",
            &[("user", "u@corp"), ("password", "p:/"), ("host", "h")],
        );
        check("postgresql://u:a?b:c@h", &[("user", "u"), ("password", "a?b:c"), ("host", "h")]);
    }

    #[test]
    fn old_spellings_of_sslmode() {
        check("postgresql:///?ssl=true", &[("sslmode", "require")]);
        check("postgresql:///?requiressl=1", &[("sslmode", "require")]);
        assert!(parse("postgresql:///?ssl=false").is_err());
    }

    #[test]
    fn broken_queries_and_encodings_are_refused() {
        for bad in ["host", "host=a=b", "host=%", "host=%4", "host=%zz", "host=%00", "&"] {
            assert!(parse(&format!("postgresql:///?{bad}")).is_err(), "{bad}");
        }
        assert!(parse("postgresql:///?host=%ff").is_err());
        let error = parse("postgresql://h/d password=secret").err().unwrap().to_string();
        assert!(error.contains("\"dbname\"") && !error.contains("secret"), "{error}");
        assert!(parse("postgresql:///?host=a&&port=1").is_err());
    }

    proptest! {
        #[test]
        fn percent_encoding_comes_back(text in "[^\0]+") {
            let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            let settings = parse(&format!("postgres://u:{encoded}@h/{encoded}")).unwrap();
            prop_assert_eq!(settings.get("password"), Some(text.as_str()));
            prop_assert_eq!(settings.get("dbname"), Some(text.as_str()));
        }
    }
}
