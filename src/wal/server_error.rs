//! What the server itself says: errors that keep their SQLSTATE, and notices.

use std::fmt;

use postgres_protocol::message::backend::{ErrorFields, ErrorResponseBody, NoticeResponseBody};
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::error::Error;

/// An ErrorResponse of the replication connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ServerError {
    /// The server's error underneath `error`, if there is one.
    pub fn of(error: &Error) -> Option<&ServerError> {
        std::error::Error::source(error)?.downcast_ref()
    }

    pub(super) fn read(body: &ErrorResponseBody) -> Self {
        Self::from_fields(body.fields())
    }

    /// Damaged fields must not hide the readable ones: this is what somebody needs to see.
    fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error =
            ServerError { code: String::new(), message: String::new(), detail: None, hint: None };
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            // The letters are those of "Error and Notice Message Fields".
            match field.type_() {
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

impl From<ServerError> for Error {
    fn from(e: ServerError) -> Self {
        let code = e.code.clone();
        Error::failed(format!("PostgreSQL says: {e}")).source(e).coded(code)
    }
}

/// Notices are for the log only.
pub(super) fn log_notice(body: &NoticeResponseBody) {
    let notice = ServerError::from_fields(body.fields());
    tracing::debug!(notice = %notice, "the replication connection received a notice");
}
