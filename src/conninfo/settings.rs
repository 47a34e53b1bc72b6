//! Keywords with their values, and where each value was found.

use std::collections::BTreeMap;

use super::keyword;
use crate::error::{Error, Result};

/// Where a value was found; tells the operator which place to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    ConnectionString,
    Service(String),
    Environment(&'static str),
}

/// Keyword to value. Has no `Debug`: one of the values is the password.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, (String, Origin)>);

impl Settings {
    /// Stores a value over an earlier one of the same keyword. A keyword libpq does not know is
    /// refused by name.
    pub(super) fn set(&mut self, keyword: &str, value: String, origin: Origin) -> Result<()> {
        let (keyword, value) = without_requiressl(keyword, value);
        let Some(known) = keyword::known(keyword) else {
            return Err(Error::usage(format!("unknown connection parameter {keyword:?}")));
        };
        // A NUL would end the value early in the protocol's startup message.
        if value.contains('\0') {
            return Err(Error::usage(format!(
                "the value of connection parameter \"{known}\" contains a zero byte"
            )));
        }
        self.0.insert(known, (value, origin));
        Ok(())
    }

    /// Takes over what is not set here yet: `lower` has less to say.
    pub(super) fn fill_from(&mut self, lower: Settings) {
        for (keyword, found) in lower.0 {
            self.0.entry(keyword).or_insert(found);
        }
    }

    /// The value, also an empty one: set to nothing is not the same as not set.
    pub(super) fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(|(value, _)| value.as_str())
    }

    /// The value unless it is empty.
    pub(super) fn given(&self, keyword: &str) -> Option<&str> {
        self.get(keyword).filter(|value| !value.is_empty())
    }

    /// The keyword for an error message, with the place its value comes from.
    pub(super) fn named(&self, keyword: &str) -> String {
        match self.0.get(keyword).map(|(_, origin)| origin) {
            Some(Origin::Service(name)) => {
                format!("connection parameter \"{keyword}\" (from service {name:?})")
            }
            Some(Origin::Environment(variable)) => {
                format!("connection parameter \"{keyword}\" (from {variable} in the environment)")
            }
            Some(Origin::ConnectionString) | None => format!("connection parameter \"{keyword}\""),
        }
    }

    /// A usage error about a value that may be shown.
    pub(super) fn bad_value(&self, keyword: &str, allowed: &str) -> Error {
        let value = self.get(keyword).unwrap_or_default();
        Error::usage(format!("{} has the value {value:?}", self.named(keyword)))
            .next(format!("Use one of: {allowed}"))
    }
}

/// The old spelling of `sslmode`, translated like libpq does.
fn without_requiressl(keyword: &str, value: String) -> (&str, String) {
    if keyword != "requiressl" {
        return (keyword, value);
    }
    let mode = if value.starts_with('1') { "require" } else { "prefer" };
    ("sslmode", mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_layers_win_and_a_set_empty_value_counts_as_set() {
        let mut high = Settings::default();
        high.set("host", String::new(), Origin::ConnectionString).unwrap();
        let mut low = Settings::default();
        low.set("host", "low".into(), Origin::Environment("PGHOST")).unwrap();
        low.set("port", "1".into(), Origin::Environment("PGPORT")).unwrap();
        high.fill_from(low);
        assert_eq!(high.get("host"), Some(""));
        assert_eq!(high.given("host"), None);
        assert_eq!(high.get("port"), Some("1"));
        assert!(high.named("port").contains("PGPORT"));
    }

    #[test]
    fn requiressl_becomes_sslmode() {
        for (value, mode) in [("1", "require"), ("0", "prefer"), ("", "prefer")] {
            let mut settings = Settings::default();
            settings.set("requiressl", value.into(), Origin::ConnectionString).unwrap();
            assert_eq!(settings.get("sslmode"), Some(mode));
        }
    }
}
