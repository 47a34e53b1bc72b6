//! Phase "index": first the key's index, so that changes can be applied, and with it every index
//! that is not unique; then the unique ones at a point where the shadow equals the source, where only
//! real duplicates clash; then VACUUM and ANALYZE.
//!
//! Indexes that are not unique cannot clash and need no such point. Building them at once uses the
//! time in which the stream still skips through the copy's own WAL (measured: a quarter of the phase).

use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::Table;
use crate::error::{Error, Kind, Result};
use crate::flow::sync::{Full, Syncer};
use crate::flow::write::Alone;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Lossy, Session, quote_ident};
use crate::shadow::{self, IndexPlan, TemporaryNames};

use super::catch_up;
use super::context::Context;
use super::prepare::shadow_settings;

/// How indexes are built.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// `maintenance_work_mem` of the building sessions; None leaves the server's.
    pub memory: Option<String>,
    /// Indexes built at a time.
    pub jobs: usize,
    /// `max_parallel_maintenance_workers` of each build.
    pub parallel_workers: u32,
}

impl Default for IndexSettings {
    fn default() -> Self {
        IndexSettings { memory: None, jobs: 1, parallel_workers: 0 }
    }
}

/// What is built when.
pub(super) struct Plans {
    /// The key's index, and all that are not unique.
    first: Vec<IndexPlan>,
    /// The other unique ones.
    unique: Vec<IndexPlan>,
}

impl Plans {
    /// How many of the unique indexes are built at a time: several on the same columns one by one.
    fn unique_jobs(&self, jobs: usize) -> usize {
        let columns = |plan: &IndexPlan| {
            let mut columns = plan.expressions.clone();
            columns.sort();
            columns
        };
        let alike = |n: usize, plan: &IndexPlan| {
            self.unique[..n].iter().any(|other| columns(other) == columns(plan))
        };
        let any = self.unique.iter().enumerate().any(|(n, plan)| alike(n, plan));
        if any { 1 } else { jobs }
    }
}

pub(super) fn plans(context: &Context, source: &Table, target: &Table) -> Result<Plans> {
    let names = TemporaryNames::of(target);
    let rename = |name: &str| names.until_swap(name);
    let mut all = shadow::index_plans(target, &context.flow.target.root, rename);
    let columns: Vec<_> = context.flow.key.iter().map(|k| k.target.as_str()).collect();
    let key = shadow::key_index(target, &columns)
        .and_then(|key| all.iter().position(|p| p.name == key.name))
        .ok_or_else(|| Error::failed("the new table has no unique index on its key"))?;
    let key = all.remove(key);
    let (unique, mut first): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.unique);
    first.push(key);
    // Of several unique indexes on the same columns a foreign key takes the oldest: they keep their
    // order.
    largest_first(&mut first, source);
    Ok(Plans { first, unique })
}

/// Several jobs end at about the same time when no large index is left for the end. An index that the
/// source does not have may be as large as any.
fn largest_first(plans: &mut [IndexPlan], source: &Table) {
    let bytes = |plan: &IndexPlan| {
        let same = source.indexes.iter().find(|i| i.name == plan.name);
        same.map_or(i64::MAX, |i| i.bytes)
    };
    plans.sort_by_key(|plan| std::cmp::Reverse(bytes(plan)));
}

/// Builds the key's index and those that are not unique. Nothing writes to the shadow yet.
pub(super) async fn build_first(
    context: &Context,
    settings: &IndexSettings,
    plans: &Plans,
) -> Result<()> {
    let _alone = context.door.alone().await;
    build_all(context, settings, &plans.first).await
}

/// Builds the other unique indexes while the shadow rests and equals the source.
pub(super) async fn build_unique(
    context: &Context,
    settings: &IndexSettings,
    target: &Table,
    plans: &Plans,
) -> Result<()> {
    let _alone = rest_at_equality(context).await?;
    let one_by_one = IndexSettings { jobs: plans.unique_jobs(settings.jobs), ..settings.clone() };
    build_all(context, &one_by_one, &plans.unique).await?;
    let root = &context.flow.target.root;
    let names = TemporaryNames::of(target);
    if let Some(sql) = shadow::replica_identity(target, root, |name| names.until_swap(name)) {
        builder(context, settings, 0).await?.batch(&sql).await?;
    }
    Ok(())
}

async fn rest_at_equality(context: &Context) -> Result<Alone> {
    let session = context.session("full sync").await?;
    let (flow, writer) = (Arc::clone(&context.flow), context.writer.clone());
    let syncer = Syncer::new(session, flow, writer).await?;
    loop {
        catch_up::drain(context).await?;
        match syncer.full(&context.tracker, &context.door, &context.fence).await? {
            Full::Equal(_, alone) => return Ok(alone),
            Full::Truncated | Full::Behind => {}
        }
    }
}

async fn build_all(context: &Context, settings: &IndexSettings, plans: &[IndexPlan]) -> Result<()> {
    let queue = Mutex::new(plans.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let jobs = (0..settings.jobs.min(plans.len())).map(|n| async move {
        let session = builder(context, settings, n).await?;
        while let Some(plan) = next() {
            build(&session, context, plan).await?;
        }
        Ok::<_, Error>(())
    });
    futures_util::future::try_join_all(jobs).await?;
    attach_all(context, settings, plans).await
}

/// After the builds: making an index a constraint locks the table, and would wait for the others.
async fn attach_all(
    context: &Context,
    settings: &IndexSettings,
    plans: &[IndexPlan],
) -> Result<()> {
    let attaches: Vec<&String> = plans.iter().filter_map(|plan| plan.attach.as_ref()).collect();
    if attaches.is_empty() {
        return Ok(());
    }
    let session = builder(context, settings, 0).await?;
    for attach in attaches {
        session.batch(attach).await?;
    }
    Ok(())
}

async fn builder(context: &Context, settings: &IndexSettings, n: usize) -> Result<Session> {
    let session = context.session(&format!("index {n}")).await?;
    session.set_role(&context.writer.owner).await?;
    let workers = settings.parallel_workers.to_string();
    session.set("max_parallel_maintenance_workers", &workers).await?;
    if let Some(memory) = &settings.memory {
        session.set("maintenance_work_mem", memory).await?;
    }
    Ok(session)
}

async fn build(session: &Session, context: &Context, plan: &IndexPlan) -> Result<()> {
    let tablespace = plan.tablespace.as_deref().unwrap_or("");
    session.set("default_tablespace", tablespace).await?;
    if let Err(e) = session.batch(&plan.create).await {
        return Err(match classify(&e) {
            Class::Duplicate => duplicates(session, context, plan, e).await,
            _ => e.context(format!("building index {}", plan.name)),
        });
    }
    Ok(())
}

/// The data violates a unique index: name it and some rows.
async fn duplicates(session: &Session, context: &Context, plan: &IndexPlan, e: Error) -> Error {
    let detail = e.db().and_then(|d| d.detail()).unwrap_or("").to_owned();
    let sample = match sample_duplicates(session, context, plan).await {
        Ok(keys) if !keys.is_empty() => {
            format!(", for instance the rows with keys {}", keys.join("; "))
        }
        _ => String::new(),
    };
    Error::new(
        Kind::DataDiffers,
        format!("the data violates the unique index or constraint {}{sample}. {detail}", plan.name),
    )
    .next("Remove the duplicates or leave the constraint out, then start again")
    .source(e)
}

async fn sample_duplicates(
    session: &Session,
    context: &Context,
    plan: &IndexPlan,
) -> Result<Vec<String>> {
    let root = &context.flow.target.root;
    let key: Vec<String> = context
        .flow
        .key
        .iter()
        .map(|k| format!("t.{}::pg_catalog.text", quote_ident(&k.target)))
        .collect();
    let numbered = || plan.expressions.iter().enumerate();
    let values: Vec<String> = numbered().map(|(n, e)| format!("{e} AS pgwraith_{n}")).collect();
    let same: Vec<String> =
        numbered().map(|(n, e)| format!("({e}) IS NOT DISTINCT FROM d.pgwraith_{n}")).collect();
    let sql = format!(
        "SELECT pg_catalog.concat_ws(', ', {}) FROM {root} AS t JOIN (SELECT {} FROM {root} \
         GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1) d ON {} LIMIT 5",
        key.join(", "),
        values.join(", "),
        plan.expressions.join(", "),
        same.join(" AND ")
    );
    let rows = session.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| r.get::<_, Lossy>(0).0).collect())
}

/// Visibility map and statistics, so that plans after the swap are as good as before; with the
/// future table's own settings, which say what statistics to gather.
pub(super) async fn vacuum(
    context: &Context,
    settings: &IndexSettings,
    target: &Table,
) -> Result<()> {
    let root = &context.flow.target.root;
    shadow_settings(&context.session("settings").await?, root, target).await?;
    let session = builder(context, settings, 0).await?;
    // Some delay, so that a huge table's VACUUM leaves disks to others; on a small one unnoticeable.
    session.batch("SET vacuum_cost_delay = '1ms'; SET vacuum_cost_limit = 2000").await?;
    for relation in &context.flow.target.relations {
        session.batch(&format!("VACUUM (ANALYZE) {relation}")).await?;
    }
    Ok(())
}
