//! Whether the server knows what its text means.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    if subject.session.encoding() != "SQL_ASCII" {
        return Ok(vec![]);
    }
    Ok(vec![Finding::note(
        "the database's encoding is SQL_ASCII: its text is bytes of unknown meaning",
        "Expect keys to be handled as bytes; in messages they may be unreadable",
    )])
}
