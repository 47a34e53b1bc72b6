//! In the rehearsal the altered clone becomes a partitioned one, so that PostgreSQL itself says what cannot be on
//! such a table. One partition is enough for that.

use super::{Asked, By, Partition, Partitioning, Partitions, Strategy, alike, create_sql};
use crate::catalog::{Index, Table};
use crate::change::clone::{self, Clone, about_the_change, set_role};
use crate::change::foreign_keys;
use crate::change::no_such_column;
use crate::change::stand_in::StandIns;
use crate::error::{Error, Kind, Result};
use crate::pg::name::free_name;
use crate::pg::{Session, quote_ident};
use crate::shadow;

/// Makes the clone anew as a partitioned table, under its name. `target`, which is read from it, becomes the
/// root's model.
pub(in crate::change) async fn become_partitioned(
    session: &Session,
    made: &mut Clone,
    (source, target): (&Table, &mut Table),
    asked: Option<&Asked>,
    stand_ins: &mut StandIns<'_>,
) -> Result<Partitioning> {
    let by = match asked {
        Some(asked) => By::of(asked)?,
        None => alike::by(source, target)?,
    };
    let taken = |name: &str| target.indexes.iter().any(|index| index.name == name);
    let named = |n: usize| free_name(&made.name.name, &format!("_p{n}"), taken);
    let parts = match asked {
        None => alike::on_trial(source, target, &by, named)?,
        Some(_) => vec![one_for_all(&by, named(0))],
    };
    refuse_unknown_columns(&by, target)?;
    refuse_unique(&by, target)?;
    refuse_publications(session, target).await?;
    let like = target.clone();
    *target = shadow::as_root(target);
    let told = |e: Error| match about_the_change(&e) {
        true => Error::usage(format!(
            "{} cannot be partitioned by {}: {}",
            like.qualified(),
            by.sql(),
            stand_ins.told(e.what())
        ))
        .next(
            "Nothing was changed. Take that off the table with --alter, or before, and start again",
        ),
        false => e,
    };
    set_role(session, Some(&target.owner)).await.map_err(told)?;
    for sql in statements(target, made, &by, &parts) {
        session.batch(&sql).await.map_err(told)?;
    }
    let now = clone::read(session, &made.name).await?;
    made.oid = now.oid;
    clone::dress(session, target, &made.name, &now).await?;
    foreign_keys::put_again(session, target, stand_ins).await.map_err(|e| match about_the_change(&e) {
        true => Error::new(
            Kind::Refused,
            format!("a foreign key cannot follow {} when it is partitioned: {}", like.qualified(), stand_ins.told(e.what())),
        )
        .state("Nothing was touched")
        .next("VALIDATE it where it is NOT VALID; otherwise drop it before, and add what is possible after the swap"),
        false => e,
    })?;
    Ok(Partitioning { by: by.sql(), like, partitions: Partitions::default() })
}

/// A partition that takes every row.
pub(super) fn one_for_all(by: &By, name: String) -> Partition {
    let bound = match by.strategy {
        Strategy::Hash => "FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        Strategy::Range | Strategy::List => "DEFAULT",
    };
    Partition::of_rows(name, bound)
}

/// The clone gives way to one that is partitioned.
fn statements(target: &Table, made: &Clone, by: &By, parts: &[Partition]) -> Vec<String> {
    let name = &made.name;
    let mut out = vec![
        // With the foreign keys between it and the stand-ins.
        format!("DROP TABLE {name} CASCADE"),
        shadow::clone_root(target, name, &by.sql()),
    ];
    out.extend(create_sql(parts, name));
    for index in &target.indexes {
        out.extend(shadow::create_whole_index(target, index, name, &index.name));
    }
    out.extend(shadow::not_valid_constraints(target, name));
    out.extend(shadow::replica_identity(target, name, str::to_owned));
    out
}

fn refuse_unknown_columns(by: &By, target: &Table) -> Result<()> {
    let unknown = by.columns.iter().find(|column| target.column_named(column).is_none());
    unknown.map_or(Ok(()), |unknown| Err(no_such_column("--partition-by", unknown, target)))
}

/// Each partition has its own part of a unique index, so that only rows of one partition can clash: all of them
/// are named, with what mends them.
fn refuse_unique(by: &By, target: &Table) -> Result<()> {
    let lacks = |index: &&Index| {
        let has = |column: &String| {
            target.column_named(column).is_some_and(|c| index.attnums.contains(&c.attnum))
        };
        index.unique && !index.exclusion && !by.columns.iter().all(has)
    };
    let mut mends = Vec::new();
    let mut named = Vec::new();
    for index in target.indexes.iter().filter(lacks) {
        named.push(index.name.as_str());
        let mut columns = index.expressions.clone();
        let missing = |c: &&String| !columns.contains(&quoted_as_printed(c));
        let missing: Vec<String> =
            by.columns.iter().filter(missing).map(|c| quoted_as_printed(c)).collect();
        columns.extend(missing);
        let columns = columns.join(", ");
        let name = quote_ident(&index.name);
        mends.push(match target.constraint_of(index).map(|c| c.kind) {
            Some('p') => {
                format!("--alter 'DROP CONSTRAINT {name}, ADD CONSTRAINT {name} PRIMARY KEY ({columns})'")
            }
            Some(_) => format!("--alter 'DROP CONSTRAINT {name}, ADD CONSTRAINT {name} UNIQUE ({columns})'"),
            None => format!("DROP INDEX {name} before, or make it one on ({columns})"),
        });
    }
    if named.is_empty() {
        return Ok(());
    }
    let may_be_null = |c: &&String| target.column_named(c).is_some_and(|c| !c.not_null);
    let nulls: Vec<&str> = by.columns.iter().filter(may_be_null).map(String::as_str).collect();
    let nulls = match nulls.is_empty() {
        true => String::new(),
        false => format!(
            ". {} may be NULL, which no primary key allows: give such rows a value too (--map), or make it UNIQUE",
            nulls.join(", ")
        ),
    };
    Err(Error::usage(format!(
        "a unique index of a partitioned table has the columns that it is partitioned by, {}; these of {} have not: {}",
        by.columns.join(", "),
        target.qualified(),
        named.join(", ")
    ))
    .next(format!(
        "Nothing was changed. Give it with the change, and uniqueness is that of the longer key: {}{nulls}",
        mends.join("; ")
    )))
}

/// As `pg_get_indexdef` prints a column.
fn quoted_as_printed(column: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match column.chars().all(plain) && !column.starts_with(|c: char| c.is_ascii_digit()) {
        true => column.to_owned(),
        false => quote_ident(column),
    }
}

/// Subscribers know the table by its name: they must not hear of its partitions.
pub(in crate::change) async fn refuse_publications(
    session: &Session,
    target: &Table,
) -> Result<()> {
    let sql = "SELECT pg_catalog.quote_ident(p.pubname) FROM pg_catalog.pg_publication_rel r \
               JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid JOIN pg_catalog.pg_class c ON c.oid = r.prrelid \
               WHERE c.relname = $1 AND c.relnamespace = pg_catalog.to_regnamespace($2) AND NOT p.pubviaroot \
               AND p.pubname OPERATOR(pg_catalog.!~) '^pgwraith_[0-9]+$' ORDER BY 1";
    let rows = session.query(sql, &[&target.name, &quote_ident(&target.schema)]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let name: &str = row.get(0);
    Err(Error::new(
        Kind::Refused,
        format!("publication {name} would send the changes of a partitioned {} under its partitions' names", target.qualified()),
    )
    .state("Nothing was touched")
    .next(format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true): for ordinary tables that changes nothing")))
}
