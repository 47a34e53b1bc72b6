//! What a run will need on disk, in numbers.

use super::{Finding, Result, Subject};
use crate::catalog::Table;
use crate::say::bytes;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let need = Need::of(subject.table);
    Ok(vec![Finding::note(
        format!(
            "on disk the table has {} and its indexes {}; the new one needs about the same again \
             ({}), up to {} while its largest index is sorted, and about {} of WAL (as much on each \
             standby)",
            bytes(need.heap),
            bytes(need.indexes),
            bytes(need.copy()),
            bytes(need.sort),
            bytes(need.copy()),
        ),
        format!(
            "See that the server has {} free, and room for the WAL that the application writes \
             meanwhile: how much is free cannot be asked over SQL and is unknown here",
            bytes(need.copy().saturating_mul(2).saturating_add(need.sort))
        ),
    )])
}

/// Estimates, taken from what the table occupies now: bloat counts, so they are rather too large.
pub(super) struct Need {
    /// With TOAST.
    heap: i64,
    indexes: i64,
    sort: i64,
}

impl Need {
    pub(super) fn of(table: &Table) -> Self {
        let sizes = || table.indexes.iter().map(|i| i.bytes);
        Need { heap: table.heap_bytes, indexes: sizes().sum(), sort: sizes().max().unwrap_or(0) }
    }

    /// What the new table will occupy, and about what it writes to the WAL.
    pub(super) fn copy(&self) -> i64 {
        self.heap.saturating_add(self.indexes)
    }
}
