//! One stretch of a run: from its start, or from where another stretch or run stopped, until the names
//! are swapped and everything is tidied up, or something is in the way.
//!
//! Every stretch goes through the same phases. What is done already is found done: ranges by their rows
//! in the state, indexes on the shadow, the swap by its own record. So whatever a run was doing when it
//! was cut off, going on is the same as starting, and a stretch of the same process goes on as another
//! process would.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::begun::{Begun, Known};
use super::context::Context;
use super::hooked::{BeforeCutover, Caller};
use super::run::{Report, Run};
use super::store::Stored;
use super::supervisor::{Background, Supervisor};
use super::watchdog::Watchdog;
use super::{Phase, after, begun, catch_up, copy, index, prepare, store, teardown, verify};
use crate::catalog::{self, Baseline, Table};
use crate::change::Plan;
use crate::cutover;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::found::Findings;
use crate::flow::write::superseded;
use crate::hooks::Hook;
use crate::pg::sqlstate::classify;
use crate::pg::{Session, shell_word};
use crate::telemetry::Sample;

/// One stretch.
pub(super) struct Stretch<'a, 'r> {
    pub(super) run: &'a Run<'r>,
    pub(super) supervisor: Supervisor,
    pub(super) migration: i64,
    pub(super) epoch: i64,
    /// Whether a lost slot may be made anew.
    pub(super) recover: bool,
}

impl Stretch<'_, '_> {
    /// Works until everything is done. `fresh` is what preflight looked at; `report` what is known once
    /// the names are swapped, whatever happens afterwards.
    pub(super) async fn work(
        &self,
        fresh: Option<(Table, Plan)>,
        report: &mut Option<Report>,
    ) -> Result<()> {
        let control = self.session("control").await?;
        let stored = store::load(&control, self.migration).await?.ok_or_else(superseded)?;
        if stored.epoch != self.epoch {
            return Err(superseded());
        }
        if !stored.swapped {
            let watchdog = self.watchdog().await?;
            let swapped = async {
                let begun = self.supervisor.guard(self.begin(&control, &stored, fresh)).await?;
                self.phases(&control, begun).await
            };
            let swapped = swapped.await;
            watchdog.finish().await;
            *report = Some(swapped?);
        }
        let report = report.get_or_insert_with(|| Report::of_swapped(&stored.names));
        let caller = Caller::of(self.run);
        // Nobody waits for the other: neither the application for our slot, nor its log for a hook. A stop
        // ends the hook; whatever else failed is over.
        let stops = self.supervisor.next_stretch();
        let told = async {
            caller.after_cutover(self.migration, report).await;
            Ok(())
        };
        let (_, tidied) = tokio::join!(stops.guard(told), self.tidy_up(&control, &stored));
        tidied?;
        report.foreign_keys += self.afterwards(&control).await?;
        Ok(())
    }

    pub(super) async fn session(&self, role: &str) -> Result<Session> {
        self.run.connector.session(&format!("{}/{role}", self.migration)).await
    }

    async fn begin(
        &self,
        control: &Session,
        stored: &Stored,
        fresh: Option<(Table, Plan)>,
    ) -> Result<Begun> {
        prepare::make_alike(self.run.connector, control, stored).await?;
        let making = self.making(control, stored);
        match stored.phase() {
            None => {
                Err(Error::failed(format!("the phase {:?} is of a newer program", stored.phase))
                    .next("Use the version of pgwraith that began this migration"))
            }
            Some(Phase::Prepare) => making.anew(fresh).await,
            Some(_) => making.again(self.recover).await,
        }
    }

    pub(super) fn making<'a>(
        &'a self,
        control: &'a Session,
        stored: &'a Stored,
    ) -> begun::Making<'a> {
        begun::Making {
            connector: self.run.connector,
            control,
            stored,
            epoch: self.epoch,
            meter: &self.run.meter,
        }
    }

    async fn phases(&self, control: &Session, begun: Begun) -> Result<Report> {
        let Begun { known, flow, fingerprint, stream, start, at, new_slot, unproven } = begun;
        let here = Here { at, new_slot, unproven };
        let work = async |context: &Context, baseline: &Baseline| {
            self.in_order(control, &known, context, baseline, here).await
        };
        let capture = Some((stream, start));
        self.accompanied(control, &known, flow, fingerprint.clone(), capture, work).await
    }

    pub(super) async fn watchdog(&self) -> Result<Background> {
        let watchdog = Watchdog {
            session: self.session("watchdog").await?,
            migration: self.migration,
            unanswered: self.run.connector.unanswered().clone(),
            meter: self.run.meter.clone(),
        };
        Ok(self.supervisor.spawn(|end| watchdog.watch(end)))
    }

    async fn in_order(
        &self,
        control: &Session,
        known: &Known,
        context: &Context,
        fingerprint: &Baseline,
        here: Here,
    ) -> Result<Report> {
        let settings = || context.settings.borrow().clone();
        if here.at == Phase::Prepare {
            prepare::create_shadow(control, &context.flow, known).await?;
            failpoint!("shadow made");
            if known.request.indexes_before {
                let plans = index::plans(context, known)?;
                index::build_on_empty(context, &settings().index, &plans).await?;
            }
        }
        if here.new_slot {
            prepare::wait_for_writers(control, known.source.oid, &context.meter).await?;
            failpoint!("writers waited for");
        }

        self.enter(control, here, Phase::Copy).await?;
        copy::copy(context).await?;

        self.enter(control, here, Phase::Index).await?;
        index::build_first(context, &settings().index, known, !here.unproven).await?;
        let syncs = catch_up::start(context, &self.supervisor);
        let recovered = match here.unproven {
            true => Some(self.compare_anew(control, context).await?),
            false => None,
        };
        index::build_unique(context, &settings().index, known).await?;
        if here.at <= Phase::Index {
            index::vacuum(context, &settings().index, known).await?;
            failpoint!("vacuumed");
        }

        self.enter(control, here, Phase::CatchUp).await?;
        catch_up::drain(context).await?;

        self.enter(control, here, Phase::Verify).await?;
        self.check_source(control, known, context, fingerprint).await?;
        let (verify, open) = verify::verify(context, u64::MAX).await?;

        self.enter(control, here, Phase::Cutover).await?;
        let caller = Caller::of(self.run);
        let _ = caller.call(Hook::Ready, Some(self.migration), Value::Null).await;
        let held = || context.held.borrow().clone();
        let before = BeforeCutover { caller, migration: Some(self.migration) };
        let limits = || context.settings.borrow().cutover;
        let cutover = context.cutover(known, fingerprint, &limits, (&held, &before));
        let cutover::Done { swapped, shut } = cutover.run(open).await?;
        syncs.finish().await;
        drop(shut);
        Ok(Report {
            cutover: Some(swapped),
            keys_synced: context.tracker.dirty().synced(),
            verify,
            recovered,
            ..Report::of_swapped(&known.names)
        })
    }

    /// The source is what it was. Partitions that came just now are taken in by whoever watches it: before that their rows
    /// would be found missing.
    async fn check_source(
        &self,
        control: &Session,
        known: &Known,
        context: &Context,
        fingerprint: &Baseline,
    ) -> Result<()> {
        loop {
            let now = catalog::fingerprint(control, context.flow.watched()).await?;
            fingerprint.check(&now, &known.names.source.to_string())?;
            if fingerprint.new_partitions(&now).is_empty() {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }

    /// What the old slot would have told since it was lost is found by comparing every row: before
    /// anything relies on the shadow being the source at some moment.
    async fn compare_anew(&self, control: &Session, context: &Context) -> Result<Findings> {
        let (findings, _) = verify::verify(context, EXPECTED).await?;
        context.meter.note(format!(
            "recovered: {} of {} ranges differed, {} rows in them were copied again",
            findings.differing_ranges, findings.ranges, findings.mismatches
        ));
        // The keys too hot to compare were changed under the new slot: the stream tells of them.
        store::mark_unproven(control, &context.flow, false).await?;
        Ok(findings)
    }

    async fn enter(&self, control: &Session, here: Here, phase: Phase) -> Result<()> {
        self.run.meter.tell(Sample::Phase(phase.as_str()));
        failpoint!("phase entered");
        store::enter(control, self.migration, phase, here.at).await
    }

    /// Takes away what holds the server back, now that the names are swapped.
    async fn tidy_up(&self, control: &Session, stored: &Stored) -> Result<()> {
        match teardown::after_swap(control, self.migration, self.epoch).await {
            Err(e) if !classify(&e).passes() && e.kind() == Kind::Failed => {
                let table = shell_word(&stored.names.source.to_string());
                let next = format!("`pgwraith abort {table}` takes it away");
                self.run
                    .meter
                    .note(format!("the swap is done, but cleaning up failed: {e}. {next}"));
                Ok(())
            }
            done => done,
        }
    }

    /// What could not be done under the lock. Returns how many foreign keys that proved.
    async fn afterwards(&self, control: &Session) -> Result<usize> {
        let patience = self.run.live.now().cutover.patience;
        let (connector, meter) = (self.run.connector, &self.run.meter);
        let work = after::run(connector, control, self.migration, patience, meter);
        let proven = self.supervisor.guard(work).await?;
        store::event(control, self.migration, "finished", "").await?;
        failpoint!("finished");
        Ok(proven)
    }
}

/// How often to ask whether new partitions have been taken in.
const POLL: Duration = Duration::from_millis(50);

/// After a lost slot rows differ, and no more of them than this need be named.
const EXPECTED: u64 = 20;

/// How far the migration had come when the stretch began.
#[derive(Clone, Copy)]
struct Here {
    at: Phase,
    new_slot: bool,
    unproven: bool,
}
