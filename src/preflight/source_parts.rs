//! The partitions of a table that is one already: their rows can be read and followed through it.
//!
//! The log says of a row in a partition what that partition's replica identity has, whatever the table's is. Where it
//! has other columns than are published, PostgreSQL refuses the application's own updates and deletes.

use super::{Finding, Result, Subject, refuse};
use crate::catalog::{Part, Table};
use crate::error::Error;
use crate::pg::quote_ident;

/// As it is called where something is found.
pub(super) const CHECK: &str = "source_partitions";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let mut all = findings(subject.table);
    all.extend(later(subject.table));
    all.extend(told(subject.table));
    Ok(all)
}

/// The one error for everything that is in the way now of following the partitions of `table`.
pub fn refuse_parts(table: &Table) -> Option<Error> {
    let named = |finding| Finding { check: CHECK, ..finding };
    let findings: Vec<Finding> = findings(table).into_iter().map(named).collect();
    refuse(&findings, &table.qualified().to_string())
}

fn findings(table: &Table) -> Vec<Finding> {
    if !table.is_partitioned() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> =
        table.parts.iter().flat_map(|part| kind(table, part)).collect();
    findings.extend(key(table));
    findings
}

/// What it is.
fn kind(table: &Table, part: &Part) -> Vec<Finding> {
    let (name, of) = (part.qualified(), table.qualified());
    let mut out = Vec::new();
    if part.detaching {
        out.push(Finding::refuse(
            format!("a DETACH CONCURRENTLY of partition {name} was not finished"),
            format!("ALTER TABLE {of} DETACH PARTITION {name} FINALIZE"),
        ));
    }
    if part.kind == 'f' {
        out.push(Finding::refuse(
            format!(
                "partition {name} is a foreign table, whose changes are in another server's log"
            ),
            format!("ALTER TABLE {of} DETACH PARTITION {name}"),
        ));
    }
    if part.persistence != 'p' {
        out.push(Finding::refuse(
            format!("partition {name} is unlogged: its changes are not in the WAL, so they cannot be followed"),
            format!("ALTER TABLE {name} SET LOGGED (rewrites it under an exclusive lock)"),
        ));
    }
    if let Some(method) =
        part.access_method.as_deref().filter(|am| *am != "heap" && part.kind == 'r')
    {
        out.push(Finding::refuse(
            format!("partition {name} is stored by access method {method:?}, which pgwraith does not know"),
            format!("ALTER TABLE {name} SET ACCESS METHOD heap (rewrites it under an exclusive lock)"),
        ));
    }
    if part.owner != table.owner {
        let (is, wanted) = (quote_ident(&part.owner), quote_ident(&table.owner));
        out.push(Finding::refuse(
            format!("partition {name} belongs to {is}, and the table to {wanted}"),
            format!("ALTER TABLE {name} OWNER TO {wanted}"),
        ));
    }
    out
}

/// What PostgreSQL does not give to a partition that comes later.
fn later(table: &Table) -> Option<Finding> {
    let by_index = table.is_partitioned() && table.replica_identity == 'i';
    let name = table.qualified();
    by_index.then(|| {
        Finding::warn(
            format!(
                "{name} has REPLICA IDENTITY USING INDEX, which PostgreSQL does not give to new partitions: one that is made \
                 while the run lasts ends it, or has its updates refused"
            ),
            "Make partitions ahead; or, in the transaction that makes one: ALTER TABLE its_name REPLICA IDENTITY USING INDEX its_index",
        )
    })
}

/// What a partition of the new table has as the table says.
fn told(table: &Table) -> Option<Finding> {
    let of = |part: &Part| {
        (!part.told.is_empty()).then(|| format!("{} of {}", part.told.join(", "), part.qualified()))
    };
    let all: Vec<String> = table.parts.iter().filter_map(of).collect();
    (!all.is_empty()).then(|| {
        Finding::note(
            format!(
                "some partitions' columns or indexes have a DEFAULT, STATISTICS, STORAGE, COMPRESSION, options, a CLUSTER mark or a comment \
                 of their own: {}",
                all.join("; ")
            ),
            "In the new table they are as the whole table says: give it to its partitions again after the swap",
        )
    })
}

/// By which its rows are known.
fn key(table: &Table) -> Vec<Finding> {
    let name = table.qualified();
    if table.replica_identity == 'f' {
        return vec![Finding::refuse(
            format!("{name} has REPLICA IDENTITY FULL, which says nothing of its partitions' rows"),
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
        )];
    }
    // That there is none is said elsewhere.
    let Ok(key) = table.key() else { return Vec::new() };
    let mut wanted: Vec<&str> = key.columns.iter().map(|c| c.name.as_str()).collect();
    wanted.sort_unstable();
    let differs = |part: &&Part| part.kind == 'r' && part.identity != wanted;
    let finding = |part: &Part| {
        let has = match part.replica_identity {
            'f' => "FULL".to_owned(),
            'n' => "NOTHING".to_owned(),
            _ => format!("({})", part.identity.join(", ")),
        };
        let by = match (&part.key_index, key.index.primary) {
            (_, true) => "DEFAULT".to_owned(),
            (Some(index), false) => format!("USING INDEX {}", quote_ident(index)),
            (None, false) => "USING INDEX its index on these columns".to_owned(),
        };
        Finding::refuse(
            format!(
                "the replica identity of partition {} is {has}, and rows are followed by {}: PostgreSQL would refuse \
                 updates of its rows while they are published so",
                part.qualified(),
                wanted.join(", ")
            ),
            format!("ALTER TABLE {} REPLICA IDENTITY {by}", part.qualified()),
        )
    };
    table.leaves().filter(differs).map(finding).collect()
}
