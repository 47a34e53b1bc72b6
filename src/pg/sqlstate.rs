//! What an SQLSTATE means for a migration: the one place that classifies them.

use tokio_postgres::error::SqlState;

use crate::error::Error;

/// What a failed statement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Rows of the source do not fit the new shape.
    RowsDoNotFit,
    /// A unique index or constraint was violated.
    Duplicate,
    /// A lock was not granted in time, or a limit of ours ended the statement.
    Late,
    /// The same statement may succeed when run again.
    Transient,
    /// The connection or the server is gone.
    ConnectionLost,
    /// Everything else.
    Definite,
}

/// Classifies an error that came from PostgreSQL or its connection.
pub fn classify(error: &Error) -> Class {
    match error.db() {
        // DDL of two sessions on one catalog row, where no lock keeps them apart: GRANT takes none.
        Some(db)
            if db.code() == &SqlState::INTERNAL_ERROR
                && db.message().starts_with("tuple concurrently") =>
        {
            Class::Transient
        }
        Some(db) => classify_code(db.code()),
        None if error.is_connection_lost() => Class::ConnectionLost,
        None => Class::Definite,
    }
}

fn classify_code(code: &SqlState) -> Class {
    match code.code() {
        "23505" | "23P01" => Class::Duplicate,
        "55P03" | "57014" => Class::Late,
        "40001" | "40P01" => Class::Transient,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Class::ConnectionLost,
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
            ("42601", Class::Definite),
        ] {
            assert_eq!(classify_code(&SqlState::from_code(code)), class, "{code}");
        }
    }
}
