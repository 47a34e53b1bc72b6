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
pub(super) use trial::{become_partitioned, refuse_publications};

use super::{Plan, Request};
use crate::catalog::Table;
use crate::error::Result;
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::shadow::{self, Names};

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

/// How the target is partitioned.
#[derive(Debug, Clone)]
pub struct Partitioning {
    /// What follows PARTITION BY.
    pub by: String,
    /// The target as an ordinary table: each partition is like it.
    pub like: Table,
    /// Each behind what it is a part of. None in a rehearsal that needs no rows for what it finds out.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// Final from the beginning: only the partitioned table changes its name.
    pub name: String,
    /// `FOR VALUES …`, or `DEFAULT`.
    pub bound: String,
    /// The partition that it is a part of; None: of the table itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What follows PARTITION BY, where it has partitions itself, and so no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How it is stored, where that is not as the present table is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

/// How one partition is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Own {
    pub tablespace: Option<String>,
    pub options: Vec<String>,
    pub toast_options: Vec<String>,
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

    /// The partitions of `root` that have rows, wherever that is called what.
    pub fn leaves(&self, root: &QualifiedName) -> Vec<QualifiedName> {
        let with_rows = self.partitions.iter().filter(|partition| partition.by.is_none());
        with_rows.map(|partition| root.sibling(&partition.name)).collect()
    }

    /// What each partition of `root` is to be, with or without rows, in their order.
    pub fn tables(&self, root: &QualifiedName) -> Vec<Table> {
        let names: Vec<_> = self.partitions.iter().map(|p| root.sibling(&p.name)).collect();
        let mut tables = shadow::partitions(&self.like, &names);
        for (table, partition) in tables.iter_mut().zip(&self.partitions) {
            if let Some(own) = &partition.own {
                table.tablespace.clone_from(&own.tablespace);
                table.options.clone_from(&own.options);
                table.toast_options.clone_from(&own.toast_options);
            }
            if partition.by.is_some() {
                *table = shadow::as_root(table);
            }
        }
        tables
    }

    /// What makes the partitions of `root`.
    pub fn create_sql(&self, root: &QualifiedName) -> Vec<String> {
        let create = |partition: &Partition| {
            let of = partition.of.as_ref().map_or(root.clone(), |of| root.sibling(of));
            let mut sql =
                shadow::create_partition(&of, &root.sibling(&partition.name), &partition.bound);
            if let Some(by) = &partition.by {
                sql.push_str(&format!(" PARTITION BY {by}"));
            }
            let tablespace = partition.own.as_ref().and_then(|own| own.tablespace.as_ref());
            if let Some(tablespace) = tablespace {
                sql.push_str(&format!(" TABLESPACE {}", quote_ident(tablespace)));
            }
            sql
        };
        self.partitions.iter().map(create).collect()
    }
}
