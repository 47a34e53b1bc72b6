//! What a run will need on disk, in numbers.

use super::{Finding, Result, Subject};
use crate::catalog::Table;

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

/// As a person reads it: `37 MB`, `1.4 GB`.
fn bytes(n: i64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 10.0);
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn numbers_are_for_people() {
        for (n, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (8192, "8.0 kB"),
            (38 << 20, "38 MB"),
            ((3 << 30) / 2, "1.5 GB"),
            (i64::MAX, "8192 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }
}
