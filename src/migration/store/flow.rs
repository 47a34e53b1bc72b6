//! The row of a flow: how rows and keys are mapped, and how far its stream is stored.

use serde_json::Value;

use crate::catalog::{Fingerprint, Table};
use crate::change::partition::{Partition, Partitioning};
use crate::change::{Course, KeyColumn, Projected};
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::pg::{Lsn, Session};

/// What a run that goes on needs of the one that began.
pub(in crate::migration) struct Kept {
    /// As it was rehearsed before the copy: a default like `now()` was evaluated then.
    pub projection: Vec<Projected>,
    pub key: Vec<KeyColumn>,
    /// The order that ranges are copied in, where that is not the key's.
    pub order: Option<Course>,
    /// The shape of the table that was being filled ([`Table::shape`]).
    pub shape: Value,
    /// The partitions of that table, where it has some.
    pub partitions: Vec<Partition>,
    /// The source's when the capture began; None before.
    pub fingerprint: Option<Fingerprint>,
    /// What the stream of an older slot would have told is not known: the rows are to be compared
    /// before anything relies on them.
    pub unproven: bool,
    /// Everything before it is synced or stored; None before there was a slot.
    pub stored: Option<Lsn>,
}

/// Records the flow before its publication and slot are made, so that an abort finds them.
pub(in crate::migration) async fn record_flow(
    session: &Session,
    flow: &Flow,
    target: &Table,
    partitioning: Option<&Partitioning>,
) -> Result<()> {
    let columns: Vec<&str> = flow.key.iter().map(|k| k.source.as_str()).collect();
    let root = flow.target.root.to_string();
    let (projection, key) = (json(&flow.projection)?, json(&flow.key)?);
    let shape = json(&target.shape())?;
    let partitions = partitioning.map(|p| json(&p.partitions.all())).transpose()?;
    let course = flow.order.as_ref().map(json).transpose()?;
    session
        .execute(
            "INSERT INTO pgwraith.flow (migration_id, flow, source_oid, target, publication, slot, \
             key_columns, projection, key, shape, partitions, course) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (migration_id, flow) DO UPDATE SET source_oid = $3, target = $4, publication = $5, \
             slot = $6, key_columns = $7, projection = $8, key = $9, shape = $10, partitions = $11, course = $12, fingerprint = NULL, \
             unproven = false, stored_lsn = NULL",
            &[
                &flow.migration,
                &flow.number,
                &flow.captured.oid,
                &root,
                &flow.publication,
                &flow.slot,
                &columns,
                &projection,
                &key,
                &shape,
                &partitions,
                &course,
            ],
        )
        .await?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::failed(format!("the state cannot be stored: {e}")))
}

/// What is kept of flow 1 of a migration; None where an older program began it.
pub(in crate::migration) async fn kept(session: &Session, migration: i64) -> Result<Option<Kept>> {
    let sql = "SELECT f.projection, f.key, f.shape, f.fingerprint, f.unproven, f.stored_lsn, f.partitions, f.course \
               FROM pgwraith.flow f WHERE f.migration_id = $1 AND f.flow = 1";
    let Some(row) = session.maybe(sql, &[&migration]).await? else { return Ok(None) };
    let (Some(projection), Some(key), Some(shape)) =
        (row.get::<_, Option<Value>>(0), row.get::<_, Option<Value>>(1), row.get(2))
    else {
        return Ok(None);
    };
    let unreadable = |e| Error::failed(format!("the stored flow cannot be read: {e}"));
    Ok(Some(Kept {
        projection: serde_json::from_value(projection).map_err(unreadable)?,
        key: serde_json::from_value(key).map_err(unreadable)?,
        order: row
            .get::<_, Option<Value>>(7)
            .map(serde_json::from_value)
            .transpose()
            .map_err(unreadable)?,
        shape,
        partitions: match row.get::<_, Option<Value>>(6) {
            Some(partitions) => serde_json::from_value(partitions).map_err(unreadable)?,
            None => Vec::new(),
        },
        fingerprint: row.get::<_, Option<Value>>(3).map(Fingerprint::of_json),
        unproven: row.get(4),
        stored: row.get(5),
    }))
}

/// Keeps the partitions of the table that is filled, those that came since with them. In the transaction that made these.
pub(in crate::migration) async fn keep_partitions(
    session: &Session,
    flow: &Flow,
    partitions: &[Partition],
) -> Result<()> {
    let sql = "UPDATE pgwraith.flow SET partitions = $3 WHERE migration_id = $1 AND flow = $2";
    let partitions = json(&partitions)?;
    session.execute(sql, &[&flow.migration, &flow.number, &partitions]).await?;
    Ok(())
}

/// The key that ranges of this flow were handed out by; None before the first of them.
pub(in crate::migration) async fn kept_key(
    session: &Session,
    migration: i64,
    flow: i32,
) -> Result<Option<Vec<KeyColumn>>> {
    let sql = "SELECT f.key FROM pgwraith.flow f WHERE f.migration_id = $1 AND f.flow = $2";
    let Some(row) = session.maybe(sql, &[&migration, &flow]).await? else { return Ok(None) };
    let unreadable = |e| Error::failed(format!("a stored key cannot be read: {e}"));
    serde_json::from_value(row.get(0)).map(Some).map_err(unreadable)
}

/// Keeps what the source is from here on, for as long as the migration lasts.
pub(in crate::migration) async fn keep_fingerprint(
    session: &Session,
    flow: &Flow,
    fingerprint: &Fingerprint,
) -> Result<()> {
    let sql = "UPDATE pgwraith.flow SET fingerprint = $3 WHERE migration_id = $1 AND flow = $2";
    session.execute(sql, &[&flow.migration, &flow.number, fingerprint.as_json()]).await?;
    Ok(())
}

/// Notes whether the rows that are there must be compared before anything relies on them.
pub(in crate::migration) async fn mark_unproven(
    session: &Session,
    flow: &Flow,
    unproven: bool,
) -> Result<()> {
    let sql = "UPDATE pgwraith.flow SET unproven = $3 WHERE migration_id = $1 AND flow = $2";
    session.execute(sql, &[&flow.migration, &flow.number, &unproven]).await?;
    Ok(())
}

/// Records which cluster the slot is on and where it starts.
pub(in crate::migration) async fn record_slot(
    session: &Session,
    flow: &Flow,
    system: (&str, i32),
    start: Lsn,
) -> Result<()> {
    let (identifier, timeline) = system;
    session
        .execute(
            "UPDATE pgwraith.migration SET system_identifier = $2, timeline = $3 WHERE id = $1",
            &[&flow.migration, &identifier, &timeline],
        )
        .await?;
    let sql =
        "UPDATE pgwraith.flow SET slot = $4, stored_lsn = $3 WHERE migration_id = $1 AND flow = $2";
    session.execute(sql, &[&flow.migration, &flow.number, &start, &flow.slot]).await?;
    Ok(())
}

/// What is stored of the dirty keys: how many, and the transaction of a TRUNCATE that the shadow has yet
/// to follow.
pub(in crate::migration) async fn dirty(
    session: &Session,
    flow: &Flow,
) -> Result<(u64, Option<u64>)> {
    let sql = "SELECT pg_catalog.count(*) FILTER (WHERE d.kind = 'key'), \
               (SELECT t.xid::pg_catalog.text FROM pgwraith.dirty t WHERE t.migration_id = $1 AND t.flow = $2 \
                AND t.kind = 'truncate' ORDER BY t.xid DESC LIMIT 1) \
               FROM pgwraith.dirty d WHERE d.migration_id = $1 AND d.flow = $2";
    let row = session.one(sql, &[&flow.migration, &flow.number]).await?;
    let truncate = row.get::<_, Option<&str>>(1).and_then(|xid| xid.parse().ok());
    Ok((row.get::<_, i64>(0) as u64, truncate))
}
