//! What comparing found: of a range, and of all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Row;

use crate::error::{Error, Result};

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    /// Ranges that compared equal, in the end all of them.
    pub ranges: u64,
    /// Rows in them.
    pub rows: u64,
    /// Ranges that differed at first.
    pub differing_ranges: u64,
    /// Rows that differed and were repaired.
    pub mismatches: u64,
    /// What was compared in each partition, where the target has some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<String, Compared>,
}

/// What compared equal in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compared {
    pub rows: i64,
    /// The sum of the rows' hashes.
    #[serde(serialize_with = "as_text")]
    pub checksum: i128,
}

/// Too large a number for JSON.
fn as_text<S: serde::Serializer>(checksum: &i128, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(checksum)
}

impl Findings {
    pub(super) fn add(&mut self, partitions: Vec<(String, Compared)>) {
        for (name, one) in partitions {
            let all = self.partitions.entry(name).or_default();
            all.rows += one.rows;
            all.checksum += one.checksum;
        }
    }
}

/// What was seen of a range.
#[derive(Default)]
pub(super) struct Sums {
    /// Of the captured side.
    pub(super) rows: i64,
    pub(super) sum: i128,
    /// Both sides are, piece by piece.
    pub(super) equal: bool,
    /// What is in which partition.
    pub(super) parts: Vec<(String, Compared)>,
    /// Without the rests.
    pub(super) took: Duration,
    pub(super) rested: Duration,
}

impl Sums {
    /// A row of `Flow::checksums`.
    pub(super) fn add(&mut self, row: &Row, is_partitioned: bool) -> Result<()> {
        let (rows, sum): (i64, &str) = (row.get(0), row.get(1));
        self.equal &= (rows, sum) == (row.get(2), row.get(3));
        self.rows += rows;
        self.sum += checksum(sum)?;
        if is_partitioned {
            self.parts.extend(parts(row)?);
        }
        Ok(())
    }
}

/// Of a row of `Flow::checksums`; null where no partition has a row of the range.
fn parts(row: &Row) -> Result<Vec<(String, Compared)>> {
    let names: Option<Vec<String>> = row.get(4);
    let counts: Option<Vec<i64>> = row.get(5);
    let sums: Option<Vec<String>> = row.get(6);
    let all = names
        .into_iter()
        .flatten()
        .zip(counts.into_iter().flatten())
        .zip(sums.into_iter().flatten());
    let one = |((name, rows), sum): ((String, i64), String)| {
        Ok((name, Compared { rows, checksum: checksum(&sum)? }))
    };
    all.map(one).collect()
}

fn checksum(sum: &str) -> Result<i128> {
    sum.parse().map_err(|e| Error::failed(format!("the checksum {sum}: {e}")))
}
