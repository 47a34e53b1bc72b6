//! The view that the rows of a table with forced row security are read through.

use crate::catalog::Table;
use crate::pg::QualifiedName;

/// To be run as the tool's role, whose view hides nothing. What it is asked by, the table's owner,
/// needs SELECT on it.
pub fn create_rows_view(view: &QualifiedName, source: &Table) -> String {
    format!("CREATE VIEW {view} AS SELECT * FROM ONLY {}", source.qualified())
}
