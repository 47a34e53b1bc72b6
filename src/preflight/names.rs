//! The names that a run gives are free: the new table's, the old one's after the swap, and those of
//! the new indexes until then.

use std::collections::{HashMap, HashSet};

use super::{Finding, Result, Subject, another_migration};
use crate::catalog::Table;
use crate::error::Error;
use crate::pg::name::MAX_NAME_BYTES;
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::shadow::{Names, TemporaryNames};

/// A name that a run will give in the table's schema.
struct Wanted {
    name: String,
    purpose: &'static str,
}

/// What has the name now.
pub(super) struct Holder {
    pub(super) what: String,
    /// A table that an earlier run put aside.
    retired: bool,
    /// Not a mere type.
    relation: bool,
    /// The table that it is, or is an index of.
    of: Option<u32>,
}

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let wanted = wanted(subject);
    let named: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
    let mut holders = holders(subject.session, subject.table, &named).await?;
    // That it is under way is another finding. Whoever followed this one would drop the copy that goes on.
    let shadows = another_migration::shadows(subject).await?;
    let is_theirs = |holder: &Holder| holder.of.is_some_and(|of| shadows.contains(&of));
    holders.retain(|_, holder| !is_theirs(holder));
    let mut seen = HashSet::from([subject.table.name.as_str()]);
    let mut findings = Vec::new();
    for name in &wanted {
        if let Some(holder) = holders.get(&name.name) {
            findings.push(taken(subject, name, holder));
        } else if !seen.insert(&name.name) || name.name.len() > MAX_NAME_BYTES {
            findings.push(unusable(name));
        }
    }
    findings.extend(statistics(subject, &shadows).await?);
    Ok(findings)
}

/// The names that only the change brings: those of indexes that the source has none of, and what the new
/// ones are called until the swap. A plain ALTER would say so at once, and a run only at the swap.
pub async fn refuse_taken(
    session: &Session,
    source: &Table,
    names: &Names,
    target: &Table,
) -> Result<()> {
    let (before, temporary) = (TemporaryNames::of(source), TemporaryNames::of(target));
    let known = |name: &str| source.indexes.iter().any(|i| i.name == name);
    let own = target.indexes.iter().map(|i| i.name.as_str());
    let kept = target.indexes.iter().filter(|i| !i.until_swap).map(|i| i.name.as_str());
    let new: Vec<&str> = kept.filter(|name| !known(name)).collect();
    let until_swap = own.map(|name| (name, temporary.until_swap(name)));
    // The others were looked at.
    let until_swap: Vec<(&str, String)> =
        until_swap.filter(|(own, name)| !known(own) || before.until_swap(own) != *name).collect();
    let wanted: Vec<&str> =
        new.iter().copied().chain(until_swap.iter().map(|(_, name)| name.as_str())).collect();
    let holders = holders(session, source, &wanted).await?;
    let refuse = |name: &str, what: &str| {
        let name = source.qualified().sibling(name);
        Err(Error::usage(format!(
            "the change brings an index {name}, and that is the name of {what}"
        ))
        .next("Give it another name: ADD CONSTRAINT name …"))
    };
    for name in new {
        match holders.get(name) {
            // Only relations are in an index's way.
            Some(holder) if holder.relation => {
                return refuse(name, &format!("another {}", holder.what));
            }
            _ if name == names.retired.name => return refuse(name, "the old table after the swap"),
            _ => {}
        }
    }
    for (own, name) in &until_swap {
        let what = match holders.get(name) {
            Some(holder) if holder.relation => format!("another {}", holder.what),
            _ if *name == names.shadow.name => "the new table".to_owned(),
            _ if *name == names.retired.name => "the old table after the swap".to_owned(),
            _ => continue,
        };
        return refuse(own, &format!("{what} with _v2 at its end, as it is called until the swap"));
    }
    Ok(())
}

/// Statistics have names of their own, and need not be in the table's schema.
async fn statistics(subject: &Subject<'_>, shadows: &[u32]) -> Result<Vec<Finding>> {
    let temporary = TemporaryNames::of(subject.table);
    let wanted = subject.table.statistics.iter();
    let (schemas, names): (Vec<&str>, Vec<String>) =
        wanted.map(|s| (s.schema.as_str(), temporary.until_swap(&s.name))).unzip();
    let sql = "SELECT n.nspname::pg_catalog.text, s.stxname::pg_catalog.text FROM pg_catalog.pg_statistic_ext s
      JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
      WHERE s.stxrelid <> ALL ($3) AND (n.nspname, s.stxname) IN (SELECT w.schema, w.name
        FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) w (schema, name))";
    let rows = subject.session.query(sql, &[&schemas, &names, &shadows]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        Finding::refuse(
            format!("{name}, wanted for new statistics, is the name of others"),
            format!("ALTER STATISTICS {name} RENAME TO …, or DROP STATISTICS {name}"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

fn wanted(subject: &Subject<'_>) -> Vec<Wanted> {
    let temporary = TemporaryNames::of(subject.table);
    let names = subject.names;
    let tables = [
        Wanted { name: names.shadow.name.clone(), purpose: "the new table" },
        Wanted { name: names.retired.name.clone(), purpose: "the old table after the swap" },
    ];
    let indexes = subject.table.indexes.iter();
    let indexes =
        indexes.map(|i| Wanted { name: temporary.until_swap(&i.name), purpose: "a new index" });
    tables.into_iter().chain(indexes).collect()
}

fn taken(subject: &Subject<'_>, wanted: &Wanted, holder: &Holder) -> Finding {
    let name = subject.table.qualified().sibling(&wanted.name);
    if holder.retired {
        return Finding::refuse(
            format!("{name}, wanted for {}, is the old table of an earlier run", wanted.purpose),
            format!("DROP TABLE {name}, once nobody needs it any more"),
        );
    }
    let command = match holder.what.as_str() {
        "index" => "INDEX",
        "sequence" => "SEQUENCE",
        "view" => "VIEW",
        "materialized view" => "MATERIALIZED VIEW",
        "type" => "TYPE",
        _ => "TABLE",
    };
    let drop = match command {
        "TABLE" => format!(
            "DROP TABLE {name} if nobody needs it (a run whose state somebody dropped leaves one behind: `pgwraith cleanup` knows it)"
        ),
        _ => "drop it if nobody needs it".to_owned(),
    };
    Finding::refuse(
        format!("{name}, wanted for {}, is the name of another {}", wanted.purpose, holder.what),
        format!("ALTER {command} {name} RENAME TO …, or {drop}"),
    )
}

/// Cut to 63 bytes, two names may be one.
fn unusable(wanted: &Wanted) -> Finding {
    Finding::refuse(
        format!(
            "the name {}, wanted for {}, is already that of another part of the migration once it \
             is cut to {MAX_NAME_BYTES} bytes",
            quote_ident(&wanted.name),
            wanted.purpose
        ),
        "Rename the table or index to something shorter",
    )
}

/// A table has a row type of its name, so types are in the way too; but not array types, which
/// PostgreSQL renames by itself.
pub(super) async fn holders(
    session: &Session,
    table: &Table,
    names: &[&str],
) -> Result<HashMap<String, Holder>> {
    let sql = "
      SELECT c.relname::pg_catalog.text,
        CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' WHEN 'S' THEN 'sequence'
          WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'type' ELSE 'table' END,
        EXISTS (SELECT 1 FROM pg_catalog.pg_trigger g
          WHERE g.tgrelid = c.oid AND g.tgname = 'pgwraith_retired'), true,
        COALESCE((SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = c.oid), c.oid)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY ($2)
      UNION ALL
      SELECT y.typname::pg_catalog.text, 'type', false, false, NULL
      FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
      WHERE n.nspname = $1 AND y.typname = ANY ($2) AND y.typrelid = 0
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type e WHERE e.typarray = y.oid)";
    let rows = session.query(sql, &[&table.schema, &names]).await?;
    let holder = |row: &tokio_postgres::Row| {
        let (what, retired, relation, of) = (row.get(1), row.get(2), row.get(3), row.get(4));
        (row.get(0), Holder { what, retired, relation, of })
    };
    // A relation says more than its row type would.
    Ok(rows.iter().rev().map(holder).collect())
}
