//! What an SQLSTATE means for a migration: the one place that classifies them.

use crate::error::Error;

/// Of a name that means no table any more.
pub const UNDEFINED_TABLE: &str = "42P01";

/// What a failed statement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Rows of the source do not fit the new shape.
    RowsDoNotFit,
    /// A unique index or constraint was violated.
    Duplicate,
    /// A lock was not granted in time, or a limit of ours or somebody's cancel ended the statement.
    Late,
    /// The same statement may succeed when run again.
    Transient,
    /// The connection or the server is gone, or gives no connection now.
    ConnectionLost,
    /// The server has no room: on disk, in memory.
    NoRoom,
    /// Everything else.
    Definite,
}

impl Class {
    /// Whether it passes by itself: the run goes on from its state, on new connections.
    pub fn passes(self) -> bool {
        matches!(self, Class::Late | Class::Transient | Class::ConnectionLost)
    }

    /// What the operator can do about it before the run is resumed, where that is not in the message.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Class::NoRoom => Some("Make room on the server first"),
            Class::ConnectionLost => Some("See that the server is up and takes connections"),
            Class::Late => Some("See who holds the locks, or cancelled the statement"),
            Class::RowsDoNotFit | Class::Duplicate | Class::Transient | Class::Definite => None,
        }
    }
}

/// Classifies an error that came from PostgreSQL or its connection.
pub fn classify(error: &Error) -> Class {
    match error.sqlstate() {
        Some("XX000") if PASSING.iter().any(|text| error.what().contains(text)) => Class::Transient,
        Some(code) => classify_code(code),
        None if error.is_connection_lost() => Class::ConnectionLost,
        None => Class::Definite,
    }
}

/// DDL of two sessions on one catalog row, where no lock keeps them apart: GRANT takes none. And a
/// definition that was read while it was dropped.
const PASSING: [&str; 3] =
    ["tuple concurrently", "could not open relation with OID", "cache lookup failed"];

fn classify_code(code: &str) -> Class {
    match code {
        "23505" | "23P01" => Class::Duplicate,
        "55P03" | "57014" => Class::Late,
        "40001" | "40P01" => Class::Transient,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" | "53300" => {
            Class::ConnectionLost
        }
        "53100" | "53200" => Class::NoRoom,
        // Raised by a function of the operator's own, over a row.
        "P0001" => Class::RowsDoNotFit,
        // 22: data exceptions (too long, out of range, bad text); 23: not null, check, domain.
        code if code.starts_with("22") || code.starts_with("23") => Class::RowsDoNotFit,
        code if code.starts_with("08") => Class::ConnectionLost,
        _ => Class::Definite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_that_decide_what_a_run_does() {
        for (code, class) in [
            ("23505", Class::Duplicate),
            ("23502", Class::RowsDoNotFit),
            ("22001", Class::RowsDoNotFit),
            ("55P03", Class::Late),
            ("57014", Class::Late),
            ("40001", Class::Transient),
            ("57P01", Class::ConnectionLost),
            ("53300", Class::ConnectionLost),
            ("53100", Class::NoRoom),
            ("42601", Class::Definite),
        ] {
            assert_eq!(classify_code(code), class, "{code}");
        }
        let passing = Error::failed("x").coded("57P03");
        assert!(classify(&passing).passes() && !classify(&Error::failed("x")).passes());
    }
}
