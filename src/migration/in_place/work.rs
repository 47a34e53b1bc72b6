//! One stretch of the steps, with everybody beside it that a copy has too, but for capture.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch::Sender;

use super::{Changed, Made};
use crate::catalog::{self, Table};
use crate::change::own_key;
use crate::change::trial::{self, Does, How, Step, Way};
use crate::cutover::Altered;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::write::superseded;
use crate::flow::{Captured, Flow, Target};
use crate::migration::context::Context;
use crate::migration::store::{self, Stored, StoredStep};
use crate::migration::stretch::Stretch;
use crate::migration::{governor, prepare};
use crate::pg::Session;
use crate::telemetry::Sample;

/// What a step came to.
#[derive(Default)]
pub(super) struct Did {
    pub(super) lock: Option<Altered>,
    pub(super) rows: Option<u64>,
}

/// What the steps of one stretch share.
pub(super) struct Steps<'a, 's, 'r> {
    pub(super) stretch: &'a Stretch<'s, 'r>,
    pub(super) context: &'a Context,
    /// Used between steps.
    pub(super) control: &'a Session,
    /// Which it was when the stretch began.
    pub(super) source: &'a Table,
}

impl Stretch<'_, '_> {
    /// Makes the steps that are left; what is made is in `made`, whatever happens afterwards.
    pub(super) async fn alter(&self, made: &mut Vec<Made>) -> Result<Changed> {
        let control = self.session("control").await?;
        let stored = store::load(&control, self.migration).await?.ok_or_else(superseded)?;
        if stored.epoch != self.epoch {
            return Err(superseded());
        }
        // What a new column is filled with may depend on settings.
        prepare::make_alike(self.run.connector, &control, &stored).await?;
        let source = self.supervisor.guard(found(&control, &stored)).await?;
        let steps = self.supervisor.guard(self.steps_of(&control, &stored, &source)).await?;
        // That all is done may have been put down, and nobody heard of it.
        if !store::is_finished(&control, self.migration).await? {
            let watchdog = self.watchdog().await?;
            let worked = self.work_on(&control, &source, &steps, made).await;
            watchdog.finish().await;
            worked?;
            store::finish_in_place(&control, self.migration, self.epoch).await?;
            failpoint!("in place finished");
        }
        // What PostgreSQL does as typed, without keeping anybody out, is one step a flag.
        let typed = |stored: &StoredStep| stored.step.does == Does::Typed;
        let way = if steps.iter().all(typed) { Way::Online } else { Way::Careful };
        Ok(Changed { table: source.qualified().to_string(), way, steps: steps.len(), made: vec![] })
    }

    /// Those that were put down; where a run died before that, they are found out once more.
    async fn steps_of(
        &self,
        control: &Session,
        stored: &Stored,
        source: &Table,
    ) -> Result<Vec<StoredStep>> {
        let steps = store::steps(control, self.migration).await?;
        if !steps.is_empty() {
            return Ok(steps);
        }
        let trial = trial::observe(control, source, &stored.request).await?;
        super::refuse_without_a_way(source, &trial, self.run.table)?;
        store::record_steps(control, self.migration, self.epoch, &trial.steps).await?;
        failpoint!("steps recorded");
        store::steps(control, self.migration).await
    }

    async fn work_on(
        &self,
        control: &Session,
        source: &Table,
        steps: &[StoredStep],
        made: &mut Vec<Made>,
    ) -> Result<()> {
        // Until the governor has looked.
        let held = Sender::new(Some("for the operator's settings".to_owned()));
        let flow = flow(control, self.migration, source, steps).await?;
        let context = self.context(source, Arc::new(flow), held.subscribe()).await?;
        let guard = &self.supervisor;
        let beside = governor::start(self.run, guard, &context, held, (source, false)).await?;
        let work = Steps { stretch: self, context: &context, control, source };
        let done = guard.guard(work.in_order(steps, made)).await;
        for task in beside {
            task.finish().await;
        }
        done
    }
}

impl Steps<'_, '_, '_> {
    async fn in_order(&self, steps: &[StoredStep], made: &mut Vec<Made>) -> Result<()> {
        let (meter, id) = (&self.context.meter, self.context.flow.migration);
        for stored in steps.iter().filter(|stored| !stored.done) {
            self.rest().await;
            let step = &stored.step;
            meter.tell(Sample::Phase(phase(step)));
            let told = format!("{} of {}: {}", stored.number, steps.len(), step.sql);
            meter.note(format!("step {told}"));
            store::begin_step(self.control, id, self.context.writer.epoch, stored.number).await?;
            store::event(self.control, id, "step", &told).await?;
            failpoint!("step begun");
            let began = Instant::now();
            let did = match step.how() {
                How::Short => self.short(stored).await,
                How::Long => self.long(stored).await,
                How::Fill => self.fill(stored).await,
                How::Vacuum => self.vacuum(stored).await,
                How::Build => self.build(stored).await,
            };
            let Did { lock, rows } =
                did.map_err(|e| e.context(format!("step {}", stored.number)))?;
            failpoint!("step made");
            let seconds = began.elapsed().as_secs_f64();
            let (number, sql) = (stored.number, step.sql.clone());
            made.push(Made { number, sql, seconds, lock, rows });
            store::event(self.control, id, "step done", &told).await?;
        }
        Ok(())
    }

    /// What takes long is not begun while the operator has the run rest.
    async fn rest(&self) {
        let mut settings = self.context.settings.clone();
        while settings.borrow_and_update().paused {
            // Without a sender the stretch is over.
            if settings.changed().await.is_err() {
                return;
            }
        }
    }

    /// In a transaction of its own, once a step that needs none, or more than one, is made.
    pub(super) async fn settle(&self, stored: &StoredStep) -> Result<()> {
        let (writer, control) = (&self.context.writer, self.control);
        control.batch("BEGIN").await?;
        let claimed =
            store::claim_step(control, writer.migration, writer.epoch, stored.number).await;
        match claimed {
            Ok(()) => control.batch("COMMIT").await,
            Err(e) => {
                control.rollback().await;
                Err(e)
            }
        }
    }
}

/// How the time that a step takes is told.
fn phase(step: &Step) -> &'static str {
    match step.how() {
        How::Short => "alter",
        How::Long => "validate",
        How::Fill => "fill",
        How::Vacuum => "vacuum",
        How::Build => "index",
    }
}

/// The very table that the migration began with.
async fn found(control: &Session, stored: &Stored) -> Result<Table> {
    let name = &stored.names.source;
    let now = catalog::read(control, stored.source_oid).await?;
    let became = match now {
        Some(now) if now.qualified() == *name => return Ok(now),
        Some(now) => format!("{name} is called {} now", now.qualified()),
        None => format!("{name} was dropped"),
    };
    Err(Error::new(Kind::NotResumable, became))
}

/// What the throttle reads rows by, and what rows are filled by. What changes as typed may change the key.
async fn flow(
    control: &Session,
    migration: i64,
    source: &Table,
    steps: &[StoredStep],
) -> Result<Flow> {
    let name = source.qualified();
    let typed = steps.iter().any(|stored| stored.step.does == Does::Typed);
    let key = if typed { vec![] } else { own_key(source).unwrap_or_default() };
    Ok(Flow {
        migration,
        number: 1,
        captured: Captured {
            oid: source.oid,
            name: name.clone(),
            rows: name.clone(),
            keys: name.clone(),
            is_partitioned: source.is_partitioned(),
        },
        target: Target::ordinary(name, false),
        projection: Vec::new(),
        key,
        order: None,
        functions: Vec::new(),
        publication: format!("pgwraith_{migration}"),
        slot: prepare::slot_name(control, migration).await?,
    })
}
