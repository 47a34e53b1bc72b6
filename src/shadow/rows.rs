//! The view that a table's rows are read through where they cannot be read from the table itself: row security
//! is forced on its owner, or only some of its rows are wanted.

use crate::catalog::Table;
use crate::pg::QualifiedName;

/// Whether there has to be one.
pub fn needs_rows_view(source: &Table, keeps_some: bool) -> bool {
    source.forces_row_security() || keeps_some
}

/// To be run as the tool's role, whose view hides nothing but rows for which `keep` (SQL over the row as `s`) is
/// not true. What it is asked by, the table's owner, needs SELECT on it. The planner pulls it up: plans are those
/// of the table.
pub fn create_rows_view(view: &QualifiedName, source: &Table, keep: Option<&str>) -> String {
    let condition = keep.map(|keep| format!(" WHERE {keep}")).unwrap_or_default();
    format!("CREATE VIEW {view} AS SELECT s.* FROM {} AS s{condition}", source.scanned())
}
