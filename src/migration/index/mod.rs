//! Phase "index": first the key's index, so that changes can be applied, and with it every index
//! that is not unique; then the unique ones at a point where the shadow equals the source, where only
//! real duplicates clash; then VACUUM and ANALYZE.
//!
//! Indexes that are not unique cannot clash and need no such point. Building them at once uses the
//! time in which the stream still skips through the copy's own WAL (measured: a quarter of the phase).
//!
//! Where the indexes were to be there before the copy, they are built on the empty shadow (`build_on_empty`) and
//! found there by this phase. What is left of it is that point: it alone tells duplicates of the data from
//! values that wandered while rows were copied.
//!
//! The phase may be entered again after a crash at any instant: what is there already is found by
//! looking at the shadow ([`present`]), never remembered.

mod announce;
mod build;
mod duplicates;
mod moved;
mod present;
mod size;
mod way;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::sync::{Full, Syncer};
use crate::flow::write::Alone;
use crate::pg::{QualifiedName, Session};
use crate::shadow::{self, IndexPlan, TemporaryNames};

use super::begun::Known;
use super::catch_up;
use super::context::Context;
use super::prepare::{self, shadow_settings};
use announce::Announcer;
pub(super) use build::{is_of_the_data, tell_waits};
use size::Extent;
pub(super) use size::{build_seconds, wal_end};
use whole::Whole;

/// How indexes are built.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// `maintenance_work_mem` of the building sessions; None leaves the server's.
    pub memory: Option<String>,
    /// Indexes built at a time.
    pub jobs: usize,
    /// `max_parallel_maintenance_workers` of each build.
    pub parallel_workers: u32,
    /// Bytes of WAL that the slot may hold back; None is 10 GiB, or half of what the server allows
    /// where that is less.
    pub max_slot_wal: Option<u64>,
}

impl Default for IndexSettings {
    fn default() -> Self {
        IndexSettings { memory: None, jobs: 1, parallel_workers: 0, max_slot_wal: None }
    }
}

/// What is built when.
pub(super) struct Plans {
    /// The key's index, and all that are not unique.
    first: Vec<Planned>,
    /// The other unique ones.
    unique: Vec<Planned>,
    /// Of a partitioned table, the indexes that those are parts of.
    first_wholes: Vec<Whole>,
    unique_wholes: Vec<Whole>,
}

/// One index to build, and what is known of its size.
struct Planned {
    plan: IndexPlan,
    /// The index of the new table that it is, or is a part of.
    of: String,
    /// What it is built on: the shadow, or a partition.
    on: QualifiedName,
    /// Of the whole index.
    extent: Extent,
}

impl Plans {
    /// The unique indexes that are not the key's, as a share of the others, by their size on the source; None
    /// where there are none.
    pub(super) fn left_out(&self, source: &Table) -> Option<f64> {
        let bytes = |all: &[Planned]| {
            let of = |planned: &Planned| source.indexes.iter().find(|i| i.name == planned.of);
            all.iter().filter_map(of).map(|i| i.bytes as f64).sum::<f64>()
        };
        (!self.unique.is_empty()).then(|| bytes(&self.unique) / bytes(&self.first).max(1.0))
    }

    /// How many of the unique indexes are built at a time: several on the same columns one by one.
    fn unique_jobs(&self, jobs: usize) -> usize {
        let columns = |planned: &Planned| {
            let mut columns = planned.plan.index.expressions.clone();
            columns.sort();
            (planned.on.clone(), columns)
        };
        let alike = |n: usize, planned: &Planned| {
            self.unique[..n].iter().any(|other| columns(other) == columns(planned))
        };
        let any = self.unique.iter().enumerate().any(|(n, planned)| alike(n, planned));
        if any { 1 } else { jobs }
    }
}

pub(super) fn plans(context: &Context, known: &Known) -> Result<Plans> {
    let Known { source, target, partitioning, .. } = known;
    let names = TemporaryNames::of(target);
    let rename = |name: &str| names.until_swap(name);
    let root = &context.flow.target.root;
    let mut all: Vec<IndexPlan> = shadow::index_plans(target, root, rename);
    let columns: Vec<_> = context.flow.key.iter().map(|k| k.target.as_str()).collect();
    let key = shadow::lookup_index(target, &columns)
        .and_then(|key| all.iter().position(|plan| plan.name == key.name))
        .ok_or_else(|| Error::failed("the new table has no index on its key"))?;
    let key = all.remove(key);
    // No two rows have the same key, so none clash in an index that has all of it.
    let clashes =
        |plan: &IndexPlan| plan.unique && !shadow::contains_key(target, &plan.index, &columns);
    let (unique, mut first): (Vec<_>, Vec<_>) = all.into_iter().partition(clashes);
    first.push(key);
    if let Some(partitioning) = partitioning {
        let divide = |plans| whole::divide(context, partitioning, source, target, plans);
        let (first, first_wholes) = divide(first);
        let (unique, unique_wholes) = divide(unique);
        return Ok(Plans { first, unique, first_wholes, unique_wholes });
    }
    let planned = |plan: IndexPlan| Planned {
        of: plan.name.clone(),
        on: root.clone(),
        extent: size::extent(&plan, source, target),
        plan,
    };
    let mut first: Vec<Planned> = first.into_iter().map(planned).collect();
    let unique = unique.into_iter().map(planned).collect();
    // Of several unique indexes on the same columns a foreign key takes the oldest: they keep their
    // order. A crash leaves the first of them.
    largest_first(&mut first, source);
    Ok(Plans { first, unique, first_wholes: Vec::new(), unique_wholes: Vec::new() })
}

/// Several jobs end at about the same time when no large index is left for the end. An index that the
/// source does not have may be as large as any.
fn largest_first(all: &mut [Planned], source: &Table) {
    let bytes = |planned: &Planned| {
        let same = source.indexes.iter().find(|i| i.name == planned.plan.name);
        same.map_or(i64::MAX, |i| i.bytes)
    };
    all.sort_by_key(|planned| std::cmp::Reverse(bytes(planned)));
}

/// Builds all of them on the empty shadow, where that takes no time and the slot waits for nothing: the copy
/// fills them. Nobody else writes to the shadow yet, but a TRUNCATE may be followed.
pub(super) async fn build_on_empty(
    context: &Context,
    settings: &IndexSettings,
    plans: &Plans,
) -> Result<()> {
    let _alone = context.door.alone().await;
    for (plans, wholes) in
        [(&plans.first, &plans.first_wholes), (&plans.unique, &plans.unique_wholes)]
    {
        build::on_empty(context, settings, plans).await?;
        whole::join(context, wholes).await?;
    }
    failpoint!("indexes made");
    Ok(())
}

/// Builds the key's index and those that are not unique. Nothing writes to the shadow yet, also where
/// the phase is entered again and the key's index is there: what applies changes starts afterwards.
/// Returns how long the builds took. `told`: whether the stream tells, or has told, of every change since the copy
/// began.
pub(super) async fn build_first(
    context: &Context,
    settings: &IndexSettings,
    known: &Known,
    told: bool,
) -> Result<Duration> {
    moved::take_out(context, told).await?;
    let _alone = context.door.alone().await;
    // Of the partitions that there are; what comes later has what the table has by then.
    let plans = &plans(context, known)?;
    // An invalid unique index may refuse rows, and helps no statement.
    present::missing(context, &plans.unique).await?;
    let built = build::all(context, settings, &plans.first).await?;
    whole::join(context, &plans.first_wholes).await?;
    Ok(built)
}

/// Builds the other unique indexes while the shadow rests and equals the source. Returns how long the builds
/// took.
pub(super) async fn build_unique(
    context: &Context,
    settings: &IndexSettings,
    known: &Known,
) -> Result<Duration> {
    let _alone = rest_at_equality(context).await?;
    let plans = &plans(context, known)?;
    let one_by_one = IndexSettings { jobs: plans.unique_jobs(settings.jobs), ..settings.clone() };
    let built = build::all(context, &one_by_one, &plans.unique).await?;
    whole::join(context, &plans.unique_wholes).await?;
    let names = TemporaryNames::of(&known.target);
    let until_swap = |name: &str| names.until_swap(name);
    let root = &context.flow.target.root;
    set_replica_identity(context, &known.target, root, until_swap).await?;
    // What is written to a partition is logged as its own identity says.
    let partitions = known.partitioning.iter().flat_map(|p| prepare::partitions(&context.flow, p));
    for leaf in partitions.filter(|leaf| leaf.replica_identity != 'd') {
        set_replica_identity(context, &leaf, &leaf.qualified(), str::to_owned).await?;
    }
    Ok(built)
}

async fn rest_at_equality(context: &Context) -> Result<Alone> {
    let session = context.session("full sync").await?;
    let (flow, writer) = (Arc::clone(&context.flow), context.writer.clone());
    let syncer = Syncer::new(session, flow, writer).await?;
    loop {
        catch_up::drain(context).await?;
        match syncer.full(&context.tracker, &context.door, &context.fence).await? {
            Full::Equal(_, alone) => return Ok(alone),
            Full::Truncated | Full::Behind | Full::Divided => {}
        }
    }
}

/// That of `target`, for the relation that is to be it.
async fn set_replica_identity(
    context: &Context,
    target: &Table,
    relation: &QualifiedName,
    rename: impl Fn(&str) -> String + Copy,
) -> Result<()> {
    let Some(sql) = shadow::replica_identity(target, relation, rename) else { return Ok(()) };
    let session = context.session("replica identity").await?;
    let now = present::now(&session, relation).await?;
    if shadow::has_replica_identity(target, &now, rename) {
        return Ok(());
    }
    build::as_owner(context, &session, &sql).await
}

/// Visibility map and statistics, so that plans after the swap are as good as before; with the
/// future table's own settings, which say what statistics to gather.
pub(super) async fn vacuum(
    context: &Context,
    settings: &IndexSettings,
    known: &Known,
) -> Result<()> {
    let control = context.session("settings").await?;
    shadow_settings(&control, &context.flow, &known.target).await?;
    for leaf in known.partitioning.iter().flat_map(|p| prepare::partitions(&context.flow, p)) {
        prepare::leaf_settings(&control, &leaf).await?;
    }
    let session = builder(context, settings, 0).await?;
    session.set_role(&context.writer.owner).await?;
    // Some delay, so that a huge table's VACUUM leaves disks to others; on a small one unnoticeable.
    session.batch("SET vacuum_cost_delay = '1ms'; SET vacuum_cost_limit = 2000").await?;
    let told = context.session("forecast").await?;
    let announcer = Announcer::new(context, &told).await?;
    let target = &context.flow.target;
    // Of a partitioned table's statistics, those of all partitions together are asked for once, behind them.
    let what = if target.is_partitioned() { "VACUUM" } else { "VACUUM (ANALYZE)" };
    for relation in &target.relations() {
        announcer.vacuum(&told, what, relation).await?;
        let _unthrottled = context.unthrottled.begin();
        session.batch(&format!("{what} {relation}")).await?;
    }
    match target.is_partitioned() {
        // Of all partitions together and of each.
        true => session.batch(&format!("ANALYZE {}", target.root)).await,
        false => Ok(()),
    }
}

/// A session that builds; it does so as the table's owner, each time anew.
pub(super) async fn builder(
    context: &Context,
    settings: &IndexSettings,
    n: usize,
) -> Result<Session> {
    let session = context.session(&format!("index {n}")).await?;
    let workers = settings.parallel_workers.to_string();
    session.set("max_parallel_maintenance_workers", &workers).await?;
    if let Some(memory) = &settings.memory {
        session.set("maintenance_work_mem", memory).await?;
    }
    Ok(session)
}
