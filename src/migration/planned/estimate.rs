//! How long things would take, by nothing but sizes: pure, and no more than a first idea.

/// Bytes a second that each is taken to manage, on a server that is at work. What was measured on an idle one
/// with two cores is about twice that (docs/design.md, Measured).
const READ: f64 = 200e6;
const WRITE: f64 = 50e6;
const INDEX: f64 = 30e6;
const COMPARE: f64 = 80e6;

/// What is known of the table's size.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Size {
    pub rows: f64,
    /// With TOAST.
    pub table_bytes: i64,
    pub index_bytes: i64,
    pub largest_index_bytes: i64,
}

/// Seconds and bytes.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    pub copy_seconds: f64,
    pub index_seconds: f64,
    pub verify_seconds: f64,
    /// Of the new table and its indexes, and while the largest is sorted besides.
    pub disk_bytes: i64,
    pub sort_bytes: i64,
    /// On each standby too.
    pub wal_bytes: i64,
}

impl Estimate {
    /// Of a copy.
    pub(super) fn of(size: &Size) -> Estimate {
        let (table, indexes) = (size.table_bytes as f64, size.index_bytes as f64);
        let disk = size.table_bytes.saturating_add(size.index_bytes);
        Estimate {
            copy_seconds: table / WRITE,
            index_seconds: indexes / INDEX,
            verify_seconds: 2.0 * table / COMPARE,
            disk_bytes: disk,
            sort_bytes: size.largest_index_bytes,
            wal_bytes: disk,
        }
    }

    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.copy_seconds + self.index_seconds + self.verify_seconds
    }
}

impl Size {
    /// To read all rows.
    pub fn read_seconds(&self) -> f64 {
        self.table_bytes as f64 / READ
    }

    /// To write the table and its indexes anew.
    pub fn rewrite_seconds(&self) -> f64 {
        self.table_bytes as f64 / WRITE + self.index_bytes as f64 / INDEX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_twice_as_large_takes_twice_as_long() {
        let size =
            |n| Size { rows: 1.0, table_bytes: n, index_bytes: n, largest_index_bytes: n / 2 };
        let (one, two) = (Estimate::of(&size(1 << 30)), Estimate::of(&size(1 << 31)));
        assert!((two.seconds() / one.seconds() - 2.0).abs() < 1e-9);
        assert_eq!(two.disk_bytes, 2 * one.disk_bytes);
        assert!(size(1 << 30).read_seconds() < size(1 << 30).rewrite_seconds());
    }
}
