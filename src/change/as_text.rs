//! Values that are written down as texts, to be read again in any session.

use crate::catalog::Column;
use crate::error::Result;
use crate::pg::Session;

/// Does what reads values of a column as texts. A time is written as every setting reads it again; a text that is made of
/// one is what the operator's settings make of it, as where rows are written.
pub(super) async fn as_text<T>(
    session: &Session,
    column: &Column,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let texts = ["text", "varchar", "bpchar"];
    match column.type_schema == "pg_catalog" && texts.contains(&column.type_name.as_str()) {
        true => work.await,
        false => session.in_iso(work).await,
    }
}
