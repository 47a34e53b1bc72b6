//! Building what is missing.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::announce::Announcer;
use super::duplicates::duplicates;
use super::size::Forecast;
use super::way::{Way, way};
use super::{IndexSettings, Planned, builder, present};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::write::Isolation;
use crate::migration::context::Context;
use crate::migration::slot_limits::SlotLimits;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, Who, quote_ident};
use crate::shadow::IndexPlan;

/// After so long, say whom a build waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One index to build, and how.
struct Build<'a> {
    planned: &'a Planned,
    way: Way,
}

/// Builds what is missing of `plans` and makes constraints of what is to be one. Returns how long that took,
/// without the choice between the ways.
pub(super) async fn all(
    context: &Context,
    settings: &IndexSettings,
    plans: &[Planned],
) -> Result<Duration> {
    let missing = present::missing(context, plans).await?;
    if missing.build.is_empty() {
        let began = Instant::now();
        attach_all(context, &missing.attach).await?;
        return Ok(began.elapsed());
    }
    let session = context.session("forecast").await?;
    let jobs = settings.jobs.min(missing.build.len());
    let forecast = Forecast::make(context, &session, &missing.build, jobs).await?;
    let builds = choose(context, settings, (&session, &forecast), &missing.build).await?;
    let announcer = Announcer::new(context, &session).await?;
    let ahead = Some((&announcer, &forecast));
    // In order where the order matters. Elsewhere the plain ones first, several at a time: they share
    // the lock on the shadow. CREATE INDEX CONCURRENTLY shares it with no other build, and whoever
    // queues for it has a snapshot that it waits for.
    let began = Instant::now();
    let jobs = settings.jobs.max(1);
    let (together, one_by_one): (Vec<_>, Vec<_>) =
        builds.into_iter().partition(|build| jobs > 1 && build.way == Way::Plain);
    build_some(context, settings, jobs, &together, ahead).await?;
    build_some(context, settings, 1, &one_by_one, ahead).await?;
    attach_all(context, &missing.attach).await?;
    Ok(began.elapsed())
}

/// The same on an empty table, where there is nothing to choose.
pub(super) async fn on_empty(
    context: &Context,
    settings: &IndexSettings,
    plans: &[Planned],
) -> Result<()> {
    let missing = present::missing(context, plans).await?;
    let builds: Vec<_> =
        missing.build.iter().map(|planned| Build { planned, way: Way::Plain }).collect();
    build_some(context, settings, 1, &builds, None).await?;
    attach_all(context, &missing.attach).await
}

/// Chooses how each index is built, by what the slot may hold back.
async fn choose<'a>(
    context: &Context,
    settings: &IndexSettings,
    (session, forecast): (&Session, &Forecast),
    missing: &[&'a Planned],
) -> Result<Vec<Build<'a>>> {
    let limits = SlotLimits::read(session, settings.max_slot_wal).await?;
    let choose = |&planned: &&'a Planned| {
        let plan = &planned.plan;
        let predicted = forecast.of(planned);
        let way = match (way(predicted, limits), &plan.create_concurrently) {
            (Way::Concurrently, Some(_)) => Way::Concurrently,
            (Way::Concurrently, None) => {
                context.meter.note(format!(
                    "the index of {} cannot be built CONCURRENTLY: until it is built the slot holds back \
                     perhaps {} MB of WAL, of {} MB that it may",
                    plan.name,
                    predicted >> 20,
                    limits.bytes() >> 20
                ));
                Way::Plain
            }
            (Way::Plain, _) => Way::Plain,
        };
        tracing::info!("index {}: {way:?}, {predicted} bytes of WAL predicted", plan.name);
        Build { planned, way }
    };
    Ok(missing.iter().map(choose).collect())
}

async fn build_some(
    context: &Context,
    settings: &IndexSettings,
    jobs: usize,
    builds: &[Build<'_>],
    ahead: Option<(&Announcer<'_>, &Forecast)>,
) -> Result<()> {
    let queue = Mutex::new(builds.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let jobs = (0..jobs.min(builds.len())).map(|n| async move {
        let session = builder(context, settings, n).await?;
        while let Some(build) = next() {
            let announced = match ahead {
                Some((announcer, forecast)) => {
                    Some((announcer, announcer.index(&session, build.planned, forecast).await?))
                }
                None => None,
            };
            let _unthrottled = context.unthrottled.begin();
            build_one(context, &session, build).await?;
            // CONCURRENTLY waits for others' transactions, however long those take.
            if let Some((announcer, announced)) = announced.filter(|_| build.way == Way::Plain) {
                announcer.built(&announced);
            }
            failpoint!("index built");
        }
        Ok::<_, Error>(())
    });
    futures_util::future::try_join_all(jobs).await?;
    Ok(())
}

async fn build_one(context: &Context, session: &Session, build: &Build<'_>) -> Result<()> {
    let plan = &build.planned.plan;
    let tablespace = plan.index.tablespace.as_deref().unwrap_or("");
    session.set("default_tablespace", tablespace).await?;
    let built = match (build.way, &plan.create_concurrently) {
        (Way::Concurrently, Some(create)) => concurrently(context, session, plan, create).await,
        _ => as_owner(context, session, &plan.create).await,
    };
    match built {
        Ok(()) => Ok(()),
        Err(e) if is_of_the_data(&e) => Err(duplicates(session, context, plan, e).await),
        Err(e) => Err(e.context(format!("building index {}", plan.name))),
    }
}

/// Two names that clash in the catalog are no duplicates in the data.
pub(in crate::migration) fn is_of_the_data(e: &Error) -> bool {
    classify(e) == Class::Duplicate && e.db().is_some_and(|db| db.schema() != Some("pg_catalog"))
}

/// One statement on the shadow as its owner, in a transaction of Invariant 9.
pub(super) async fn as_owner(context: &Context, session: &Session, sql: &str) -> Result<()> {
    let writer = &context.writer;
    writer.begin(session, Isolation::ReadCommitted).await?;
    writer.as_owner(session).await?;
    if let Err(e) = session.batch(sql).await {
        session.rollback().await;
        return Err(e);
    }
    session.batch("COMMIT").await
}

/// Builds an index without a transaction around it, which CONCURRENTLY does not allow: Invariant 9 is
/// asked just before. It waits for every snapshot of the database that is older than it. None is ours:
/// who holds the door holds no transaction, and who waits for it has begun none.
async fn concurrently(
    context: &Context,
    session: &Session,
    plan: &IndexPlan,
    create: &str,
) -> Result<()> {
    context.writer.begin(session, Isolation::ReadCommitted).await?;
    session.batch("COMMIT").await?;
    context.meter.note(format!(
        "index {} is built CONCURRENTLY: built plainly, it might make the slot hold back more WAL than \
         it should",
        plan.name
    ));
    session.set_role(&context.writer.owner).await?;
    let watcher = context.session("index watch").await?;
    let built = tokio::select! {
        built = session.batch(create) => built,
        never = tell_waits(context, &watcher, session.pid(), &plan.name) => match never {},
    };
    if session.is_closed() {
        return built;
    }
    session.batch("SET SESSION ROLE NONE").await?;
    if built.is_err() {
        drop_invalid(context, session, plan).await;
    }
    built
}

/// A broken build leaves an invalid index that refuses rows and helps nobody. Where it cannot be dropped
/// now, [`present::missing`] does when the phase is entered again.
async fn drop_invalid(context: &Context, session: &Session, plan: &IndexPlan) {
    let name = context.flow.target.root.sibling(&plan.temporary);
    if let Err(e) = as_owner(context, session, &format!("DROP INDEX IF EXISTS {name}")).await {
        tracing::warn!("dropping the invalid index {name}: {e}");
    }
}

/// Tells, once for each, whom the build of backend `pid` waits for. That it cannot is no reason to give
/// the build up.
pub(in crate::migration) async fn tell_waits(
    context: &Context,
    watcher: &Session,
    pid: i32,
    name: &str,
) -> Infallible {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.pid IN (\
         SELECT p.current_locker_pid FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = $1 \
         UNION SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)))",
        Who::COLUMNS
    );
    let mut told = HashSet::new();
    loop {
        sleep(PATIENCE).await;
        let rows = watcher.query(&sql, &[&pid]).await.unwrap_or_else(|e| {
            tracing::debug!("asking whom index {name} waits for: {e}");
            Vec::new()
        });
        for who in rows.iter().map(Who::of) {
            if told.insert(who.pid) {
                context.meter.note(format!(
                    "index {name}, built CONCURRENTLY, waits for the transaction of {who}"
                ));
            }
        }
    }
}

/// After the builds: making an index a constraint locks the table, and would wait for the others.
async fn attach_all(context: &Context, attach: &[&Planned]) -> Result<()> {
    if attach.is_empty() {
        return Ok(());
    }
    let session = context.session("constraints").await?;
    for planned in attach {
        if let Some(sql) = &planned.plan.attach {
            let name = quote_ident(&planned.plan.name);
            as_owner(context, &session, sql)
                .await
                .map_err(|e| e.context(format!("making index {name} a constraint")))?;
            failpoint!("index attached");
        }
    }
    Ok(())
}
