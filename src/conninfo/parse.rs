//! The text of a connection string, both forms libpq reads. Pure: no file, no environment.
//!
//! Messages name parameters and never quote stray text: a misplaced blank or an unencoded
//! character turns a piece of the password into stray text.

use std::iter::Peekable;
use std::str::Chars;

use super::settings::{Origin, Settings};
use super::uri;
use crate::error::{Error, Result};

/// Parses a connection string: a URI if it starts like one, else `keyword=value` pairs.
pub(super) fn parse(dsn: &str) -> Result<Settings> {
    match uri::without_scheme(dsn) {
        Some(rest) => uri::parse(rest),
        None => parse_pairs(dsn),
    }
}

/// The form `host=localhost port = 5432 password='it\'s'`.
fn parse_pairs(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let mut rest = text.chars().peekable();
    let mut previous = None;
    loop {
        skip_blanks(&mut rest);
        if rest.peek().is_none() {
            return Ok(settings);
        }
        let keyword = take_keyword(&mut rest).ok_or_else(|| no_equals_sign(previous.as_deref()))?;
        skip_blanks(&mut rest);
        let value = take_value(&mut rest, &keyword)?;
        settings.set(&keyword, value, Origin::ConnectionString)?;
        previous = Some(keyword);
    }
}

/// The keyword and the `=` behind it; `None` if there is no `=`.
fn take_keyword(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut keyword = String::new();
    while let Some(c) = rest.next_if(|c| *c != '=' && !is_blank(*c)) {
        keyword.push(c);
    }
    skip_blanks(rest);
    rest.next_if_eq(&'=').map(|_| keyword)
}

fn take_value(rest: &mut Peekable<Chars<'_>>, keyword: &str) -> Result<String> {
    let quoted = rest.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match rest.next() {
            // A backslash at the very end stands for nothing, as in libpq.
            Some('\\') => value.extend(rest.next()),
            Some('\'') if quoted => return Ok(value),
            Some(c) if !quoted && is_blank(c) => return Ok(value),
            Some(c) => value.push(c),
            None if quoted => return Err(unterminated(keyword)),
            None => return Ok(value),
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

/// What C's `isspace` accepts, which includes the vertical tab.
pub(super) fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

fn no_equals_sign(previous: Option<&str>) -> Error {
    match previous {
        None => Error::usage(
            "the connection string is neither a URI nor a list of keyword=value pairs",
        )
        .next("Write it like postgresql://user@host:5432/dbname or like 'host=… dbname=… user=…'"),
        Some(keyword) => Error::usage(format!(
            "after the value of connection parameter {keyword:?} follows a word without \"=\""
        ))
        .next("Put a value with blanks into single quotes"),
    }
}

fn unterminated(keyword: &str) -> Error {
    Error::usage(format!(
        "the quoted value of connection parameter {keyword:?} has no closing single quote"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(dsn: &str, keyword: &str) -> Option<String> {
        parse(dsn).unwrap().get(keyword).map(str::to_owned)
    }

    #[test]
    fn pairs_with_blanks_quotes_and_backslashes() {
        let dsn = "\t host = db1\nport=5433  user='a b' password='it\\'s \\\\' dbname = ''";
        assert_eq!(value(dsn, "host").as_deref(), Some("db1"));
        assert_eq!(value(dsn, "port").as_deref(), Some("5433"));
        assert_eq!(value(dsn, "user").as_deref(), Some("a b"));
        assert_eq!(value(dsn, "password").as_deref(), Some("it's \\"));
        assert_eq!(value(dsn, "dbname").as_deref(), Some(""));
        assert_eq!(value("password=a\\ b'c", "password").as_deref(), Some("a b'c"));
        assert_eq!(value("password=a\\", "password").as_deref(), Some("a"));
        assert_eq!(value("options=", "options").as_deref(), Some(""));
        assert_eq!(value("host=a host=b", "host").as_deref(), Some("b"));
        assert_eq!(value("", "host"), None);
    }

    #[test]
    fn the_word_after_a_closing_quote_is_the_next_keyword() {
        assert_eq!(value("user='a'dbname=b", "dbname").as_deref(), Some("b"));
    }

    #[test]
    fn unknown_keywords_are_refused_by_name() {
        for dsn in ["hots=x", "postgresql:///?hots=x", "=x"] {
            let error = parse(dsn).err().unwrap();
            assert_eq!(error.kind(), crate::error::Kind::Usage);
            assert!(error.to_string().contains("unknown connection parameter"), "{error}");
        }
        assert!(parse("hots=x").err().unwrap().to_string().contains("\"hots\""));
    }

    #[test]
    fn no_message_quotes_a_piece_of_the_password() {
        for dsn in [
            "hunter2",
            "password=my hunter2",
            "password='my hunter2",
            "password=hunter2\0",
            "postgres:/u:hunter2@host/db",
            "postgresql://u:hunter2%@host/db",
            "postgresql://u:hunter2%00@host/db",
            "postgresql://u:hunter2%ff@host/db",
            "postgresql://u:p@[hunter2",
            "postgresql://u:p@[]/hunter2",
            "postgresql://u@h/d?password=a&hunter2",
            "postgresql://u@h/d?password=a=hunter2",
            "postgresql://u@h/d?password=hunter2%0",
        ] {
            let error = parse(dsn).err().unwrap_or_else(|| panic!("{dsn} was accepted"));
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{dsn}: {text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
            let _ = parse(&format!("postgresql://{text}"));
            let _ = parse(&format!("postgres://h/d?{text}"));
            let _ = parse(&format!("host={text}"));
        }

        #[test]
        fn texts_made_of_syntax_do_not_either(text in "[\\[\\]@:/?&=,%'\\\\ a0]{0,24}") {
            let _ = parse(&text);
            let _ = parse(&format!("postgres://{text}"));
        }

        #[test]
        fn a_quoted_value_comes_back(text in "[^\0]*") {
            let quoted = text.replace('\\', "\\\\").replace('\'', "\\'");
            prop_assert_eq!(value(&format!("password='{quoted}' port=1"), "password"), Some(text));
        }
    }
}
