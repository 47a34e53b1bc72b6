//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`.

use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::surroundings::Surroundings;

/// What a line must match.
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// The text of the password file, if there is one and only its owner can read it.
pub(super) fn load(settings: &Settings, machine: &dyn Surroundings) -> Option<String> {
    let path = match settings.given("passfile") {
        Some(path) => PathBuf::from(path),
        None => machine.home()?.join(".pgpass"),
    };
    if !is_private(&path, machine) {
        return None;
    }
    match machine.read(&path) {
        Ok(text) => Some(text),
        Err(e) => {
            tracing::warn!("password file {} is ignored: {e}", path.display());
            None
        }
    }
}

/// Whether the file exists and is nobody else's to read; says why it is ignored otherwise.
fn is_private(path: &Path, machine: &dyn Surroundings) -> bool {
    let Some(status) = machine.status(path) else { return false };
    if !status.regular {
        tracing::warn!("password file {} is ignored: it is not a plain file", path.display());
        return false;
    }
    if status.mode & 0o077 != 0 {
        tracing::warn!(
            "password file {} is ignored: group or others have access to it, permissions should \
             be u=rw (0600) or less",
            path.display()
        );
        return false;
    }
    true
}

/// The password of the first line that matches. An empty one counts as none.
pub(super) fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let password = text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let line = line.trim_end_matches('\r');
        let rest = after_match(line, wanted.host)?;
        let rest = after_match(rest, &wanted.port.to_string())?;
        let rest = after_match(rest, wanted.dbname)?;
        after_match(rest, wanted.user)
    })?;
    Some(unescaped(password)).filter(|password| !password.is_empty())
}

/// What follows the first field of `line` and its colon, if that field is `*` or `wanted`.
fn after_match<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut field = line.chars();
    for wanted in wanted.chars() {
        let c = match field.next()? {
            '\\' => field.next()?,
            ':' => return None,
            c => c,
        };
        if c != wanted {
            return None;
        }
    }
    field.as_str().strip_prefix(':')
}

/// The password up to an unescaped colon, as libpq reads it.
fn unescaped(text: &str) -> String {
    let mut password = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' => break,
            // A backslash at the very end is itself.
            '\\' => password.push(rest.next().unwrap_or('\\')),
            c => password.push(c),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::surroundings::fake::Fake;
    use super::*;

    fn shop<'a>(host: &'a str, dbname: &'a str) -> Wanted<'a> {
        Wanted { host, port: 5432, dbname, user: "anna" }
    }

    fn password(text: &str) -> Option<String> {
        find(text, &shop("db1", "shop"))
    }

    #[test]
    fn the_first_matching_line_counts() {
        let text = "#db1:5432:shop:anna:no\n\ndb2:5432:shop:anna:no\ndb1:5433:shop:anna:no\n\
                    db1:5432:shop:bob:no\ndb1:*:shop:anna:yes\r\n*:*:*:*:late\n";
        assert_eq!(password(text).as_deref(), Some("yes"));
        assert_eq!(password("*:*:*:*:any").as_deref(), Some("any"));
        assert_eq!(password("db1:5432:shop:anna"), None);
        assert_eq!(password("db1:5432:shop:anna:"), None);
        assert_eq!(password("db:5432:shop:anna:x"), None);
        assert_eq!(password("db11:5432:shop:anna:x"), None);
        assert_eq!(password("db1*:5432:shop:anna:x"), None);
    }

    #[test]
    fn escapes_in_fields_and_in_the_password() {
        let ipv6 = "\\:\\:1:5432:a\\\\b:anna:p\\:q\\\\r:rest";
        assert_eq!(find(ipv6, &shop("::1", "a\\b")).as_deref(), Some("p:q\\r"));
        assert_eq!(find("::1:5432:shop:anna:x", &shop("::1", "shop")), None);
        assert_eq!(password("*:*:*:*:x\\").as_deref(), Some("x\\"));
    }

    #[test]
    fn a_file_others_can_read_is_ignored() {
        for (mode, read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let machine = Fake::new().file("/home/os/.pgpass", mode, "x");
            assert_eq!(load(&Settings::default(), &machine).is_some(), read, "{mode:o}");
        }
        assert!(load(&Settings::default(), &Fake::new().directory("/home/os/.pgpass")).is_none());
    }

    proptest! {
        #[test]
        fn no_line_makes_the_matcher_panic(text in "[*:\\\\a\r\n]{0,20}", any in any::<String>()) {
            let _ = find(&text, &shop("a", "a"));
            let _ = find(&any, &shop(&any, &any));
        }
    }
}
