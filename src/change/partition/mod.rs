//! An ordinary table becomes a partitioned one: how it is to be divided, and into which partitions.
//!
//! Bounds are derived by the server from the rows as they are when the migration begins, once, and kept in the
//! state. Whatever is written for which there is none goes to the default partition.

mod bounds;
mod by;
mod names;
mod ranges;
mod trial;

use bounds::derive;
pub use by::{By, Strategy};
pub(super) use trial::become_partitioned;

use super::{Plan, Request};
use crate::catalog::Table;
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, Session};
use crate::shadow::Names;

/// As the operator asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Asked {
    /// `RANGE (created_at)`.
    pub by: String,
    /// What a partition of a RANGE spans: an interval, or a number.
    pub every: Option<String>,
    /// Partitions of a RANGE beyond the last row.
    pub premake: Option<u32>,
    /// Partitions of a HASH.
    pub partitions: Option<u32>,
}

impl Asked {
    /// The table is to be an ordinary one.
    pub fn is_none(&self) -> bool {
        self.by.trim().eq_ignore_ascii_case("none")
    }
}

/// How the target is partitioned.
#[derive(Debug, Clone)]
pub struct Partitioning {
    pub by: By,
    /// The target as an ordinary table: each partition is like it.
    pub like: Table,
    /// None in a rehearsal, which needs no rows for what it finds out.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// Final from the beginning: only the partitioned table changes its name.
    pub name: String,
    /// `FOR VALUES …`, or `DEFAULT`.
    pub bound: String,
}

/// Says into which partitions the rows go, as they are now; where the change asks for some.
pub async fn lay_out(
    session: &Session,
    source: &Table,
    names: &Names,
    plan: &mut Plan,
    request: &Request,
) -> Result<()> {
    let Some(asked) = &request.partition else { return Ok(()) };
    let partitions = derive(session, source, names, plan, asked).await?;
    if let Some(partitioning) = &mut plan.partitioning {
        partitioning.partitions = partitions;
    }
    Ok(())
}

impl Partitioning {
    /// Indexes that only the migration needs are on each partition too.
    pub(super) fn take_helpers(&mut self, target: &Table) {
        self.like.indexes.extend(target.indexes.iter().filter(|index| index.until_swap).cloned());
    }

    /// The partitions of `root`, wherever that is called what.
    pub fn leaves(&self, root: &QualifiedName) -> Vec<QualifiedName> {
        self.partitions.iter().map(|partition| root.sibling(&partition.name)).collect()
    }
}

/// Only a partitioned table can become an ordinary one.
pub(super) fn refuse_ordinary(source: &Table) -> Result<()> {
    match source.is_partitioned() {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "--partition-by none: {} is not partitioned",
            source.qualified()
        ))),
    }
}

pub(super) fn not_alike(source: &Table) -> Error {
    Error::new(Kind::Refused, format!("{} is partitioned", source.qualified()))
}
