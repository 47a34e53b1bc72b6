//! What only partitioned tables need, the new one or the old one, and is known once their partitions are: names, and
//! room for locks.

use super::Result;
use super::names::holders;
use crate::catalog::Table;
use crate::change::Plan;
use crate::error::{Error, Kind};
use crate::pg::Session;
use crate::shadow::Renamed;

/// So many names are told.
const SHOWN: usize = 10;

/// Refuses a change whose partitions cannot be made, or not be worked with.
pub async fn refuse_partitions(
    session: &Session,
    source: &Table,
    plan: &Plan,
    workers: usize,
) -> Result<()> {
    let mut relations: usize = source.parts.iter().map(|part| part.relations.len()).sum();
    let mut partitions = source.parts.len();
    if let Some(partitioning) = &plan.partitioning {
        let tables = partitioning.tables(&source.qualified());
        refuse_taken(session, source, &tables, &partitioning.renamed(&source.qualified())).await?;
        relations += tables.iter().map(|table| 1 + table.indexes.len()).sum::<usize>();
        partitions += tables.len();
    }
    match partitions {
        0 => Ok(()),
        _ => refuse_locks(session, source, partitions, relations * (workers + 2)).await,
    }
}

/// The names of partitions and of their indexes.
async fn refuse_taken(
    session: &Session,
    source: &Table,
    tables: &[Table],
    renamed: &[Renamed],
) -> Result<()> {
    let indexes = tables.iter().flat_map(|table| table.indexes.iter().map(|i| i.name.as_str()));
    // What the source's own partitions have is given up by them.
    let own = |name: &&str| {
        let beside = source.parts.iter().filter(|part| part.schema == source.schema);
        beside.flat_map(|part| &part.relations).any(|held| held == name)
    };
    let last = renamed.iter().flat_map(|r| {
        std::iter::once(r.to.name.as_str()).chain(r.indexes.iter().map(|(_, to)| to.as_str()))
    });
    let last = last.filter(|name| !own(name));
    let wanted: Vec<&str> =
        tables.iter().map(|table| table.name.as_str()).chain(indexes).chain(last).collect();
    let holders = holders(session, source, &wanted).await?;
    let mut taken: Vec<String> = wanted
        .iter()
        .filter_map(|name| {
            let holder = holders.get(*name)?;
            Some(format!("{} (another {})", source.qualified().sibling(*name), holder.what))
        })
        .collect();
    taken.sort();
    if taken.is_empty() {
        return Ok(());
    }
    let more = taken.len().saturating_sub(SHOWN);
    taken.truncate(SHOWN);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let (table, taken) = (source.qualified(), taken.join(", "));
    Err(Error::new(
        Kind::Refused,
        format!("names that the partitions of {table} need are taken: {taken}{more}"),
    )
    .state("Nothing was touched")
    .next("ALTER … RENAME TO, or drop it if nobody needs it"))
}

/// Whoever reaches all partitions holds a lock on each and on each of its indexes: we do, and whoever asks
/// without the column that rows are divided by.
async fn refuse_locks(
    session: &Session,
    source: &Table,
    partitions: usize,
    needed: usize,
) -> Result<()> {
    let sql = "SELECT pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8, \
               pg_catalog.current_setting('max_connections')::pg_catalog.int8 \
               + pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int8";
    let row = session.one(sql, &[]).await?;
    let (each, sessions): (i64, i64) = (row.get(0), row.get(1));
    // The other half is the application's.
    let room = each * sessions / 2;
    if needed as i64 <= room {
        return Ok(());
    }
    let wanted = needed as i64 * 2 / sessions.max(1) + 1;
    Err(Error::new(
        Kind::Refused,
        format!(
            "a run over the {partitions} partitions of {} takes up to {needed} locks at a time, and the server has \
             room for {} (max_locks_per_transaction = {each})",
            source.qualified(),
            room * 2
        ),
    )
    .state("Nothing was touched")
    .next(format!(
        "Let a partition span more, or set max_locks_per_transaction to {wanted} or more, which takes a restart"
    )))
}
