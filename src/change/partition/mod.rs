//! A table becomes a partitioned one, or is divided otherwise than it was: how, and into which partitions.
//!
//! Bounds are derived by the server from the rows as they are when the migration begins, once, and kept in the
//! state. Whatever is written for which there is none goes to the default partition, or, where there is to be none, gets
//! a partition like the others ([`missing`]).

mod alike;
mod bounds;
mod by;
mod list;
pub mod missing;
mod names;
mod ranges;
mod trial;

use bounds::derive;
pub use bounds::reads_all_rows;
pub use by::{By, Strategy};
pub use list::Partitions;
use names::Naming;
pub(super) use trial::{become_partitioned, refuse_publications};

use super::{Plan, Request};
use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::pg::{Connector, QualifiedName, Session, quote_ident};
use crate::shadow::{self, Names, Renamed};

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
    /// Whether there is one for the rows that have no other; None: there is.
    pub default: Option<bool>,
}

impl Asked {
    /// The table is to be an ordinary one.
    pub fn is_none(&self) -> bool {
        self.by.trim().eq_ignore_ascii_case("none")
    }

    /// Rows that have no other partition have none, until one is made for them.
    pub fn has_no_default(&self) -> bool {
        self.default == Some(false)
    }

    /// What follows from that, for people.
    pub fn without_default(&self) -> Option<&'static str> {
        self.has_no_default().then_some(
            "the new table has no default partition (--partition-default off): until the swap a row for which there is no \
             partition gets one; after it PostgreSQL refuses such a row, as of any table like that, and the application's \
             statement fails. So see that partitions are made ahead: --partition-premake, and pg_partman or a job of your \
             own from the swap on; of a LIST, before a new value is written",
        )
    }
}

/// How the target is partitioned.
#[derive(Debug, Clone)]
pub struct Partitioning {
    /// What follows PARTITION BY.
    pub by: String,
    /// The target as an ordinary table: each partition is like it.
    pub like: Table,
    /// None in a rehearsal that needs no rows for what it finds out.
    pub partitions: Partitions,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// Final from the beginning where it can be: only the partitioned table changes its name in the swap.
    pub name: String,
    /// Its name some time after the swap, where until then a partition of the source has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<String>,
    /// `FOR VALUES …`, or `DEFAULT`.
    pub bound: String,
    /// The partition that it is a part of; None: of the table itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What follows PARTITION BY, where it has partitions itself, and so no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What it has of its own, where that is not as the table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

impl Partition {
    /// One of the table's own that has rows, and nothing else of its own.
    pub(in crate::change) fn of_rows(name: impl Into<String>, bound: impl Into<String>) -> Self {
        let (name, bound) = (name.into(), bound.into());
        Partition { name, becomes: None, bound, of: None, by: None, own: None }
    }
}

/// What a partition has that is not the table's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Own {
    pub tablespace: Option<String>,
    pub options: Vec<String>,
    pub toast_options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Says into which partitions the rows go, as they are now; where the change asks for some.
pub async fn lay_out(
    (connector, session): (&Connector, &Session),
    source: &Table,
    names: &Names,
    plan: &mut Plan,
    request: &Request,
) -> Result<()> {
    let partitions = match &request.partition {
        Some(asked) => derive((connector, session), source, names, plan, asked).await?,
        // The operator's own table has them already.
        None if request.shadow_ddl.is_some() => return Ok(()),
        None if !source.is_partitioned() => return Ok(()),
        None => {
            let mut naming = Naming::of(names, &source.parts);
            alike::partitions(source, &plan.target, &mut naming)?
        }
    };
    if let Some(partitioning) = &mut plan.partitioning {
        partitioning.partitions = Partitions::of(partitions);
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
        self.partitions.leaves(root)
    }

    /// What each partition of `root` is to be, with or without rows, in their order.
    pub fn tables(&self, root: &QualifiedName) -> Vec<Table> {
        self.tables_of(&self.partitions.all(), root)
    }

    /// The same of these partitions.
    pub fn tables_of(&self, partitions: &[Partition], root: &QualifiedName) -> Vec<Table> {
        let names: Vec<_> = partitions.iter().map(|p| root.sibling(&p.name)).collect();
        let mut tables = shadow::partitions(&self.like, &names);
        for (table, partition) in tables.iter_mut().zip(partitions) {
            if let Some(own) = &partition.own {
                table.tablespace.clone_from(&own.tablespace);
                table.options.clone_from(&own.options);
                table.toast_options.clone_from(&own.toast_options);
                table.comment.clone_from(&own.comment);
            }
            if partition.by.is_some() {
                *table = shadow::as_root(table);
            }
        }
        tables
    }

    /// What makes the partitions of `root`.
    pub fn create_sql(&self, root: &QualifiedName) -> Vec<String> {
        create_sql(&self.partitions.all(), root)
    }

    /// Those that get their names after the swap, with rows or without.
    pub fn renamed(&self, root: &QualifiedName) -> Vec<Renamed> {
        let all = self.partitions.all();
        let now: Vec<_> = all.iter().map(|p| root.sibling(&p.name)).collect();
        let last = |p: &Partition| root.sibling(p.becomes.as_ref().unwrap_or(&p.name));
        shadow::renamed(&self.like, &now, &all.iter().map(last).collect::<Vec<_>>())
    }
}

/// What makes these partitions of `root`.
fn create_sql(partitions: &[Partition], root: &QualifiedName) -> Vec<String> {
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
    partitions.iter().map(create).collect()
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
