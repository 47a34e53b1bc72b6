//! One run: the phases in order, and the end, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::context::Context;
use super::copy::CopySettings;
use super::index::IndexSettings;
use super::supervisor::{Background, Supervisor};
use super::{Phase, after, catch_up, copy, index, prepare, store, teardown, watch};
use crate::catalog::{self, Fingerprint, Table};
use crate::change::{self, Request};
use crate::cutover::{self, Cutover, Swapped};
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::capture::{Fence, Tracker, capture};
use crate::flow::chunk::{self, Pace, Planner};
use crate::flow::keeper::{Keeper, Limits};
use crate::flow::truncate::Truncator;
use crate::flow::verify::{Findings, Verifier};
use crate::flow::write::{Door, Writer};
use crate::pg::{Connector, Session};
use crate::preflight::{self, EventTriggers, Subject};
use crate::shadow::{Names, Step};
use crate::telemetry::{Meter, Sample};

/// Rows of the first verified range.
const FIRST_RANGE: i64 = 50_000;

/// The first run's epoch.
pub(super) const EPOCH: i64 = 1;

/// How each phase goes about it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub copy: CopySettings,
    pub index: IndexSettings,
    pub keeper: Limits,
    pub cutover: cutover::Limits,
    /// No snapshot of ours lives longer.
    pub max_snapshot_age: Duration,
    pub event_triggers: EventTriggers,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            copy: CopySettings::default(),
            index: IndexSettings::default(),
            keeper: Limits::default(),
            cutover: cutover::Limits::default(),
            max_snapshot_age: Duration::from_secs(30),
            event_triggers: EventTriggers::default(),
        }
    }
}

/// What a run came to.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub table: String,
    pub retired: String,
    pub keys_synced: u64,
    pub cutover: Swapped,
    pub verify: Findings,
    /// Proven after the swap.
    pub foreign_keys: usize,
}

/// A run that is about to start.
pub struct Run<'a> {
    pub connector: &'a Connector,
    /// As typed.
    pub table: &'a str,
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub meter: Meter,
    pub supervisor: Supervisor,
}

/// What is known before anything is made.
pub(super) struct Known {
    pub(super) source: Table,
    pub(super) target: Table,
    pub(super) names: Names,
    pub(super) migration: i64,
}

impl Run<'_> {
    /// Migrates the table. On any error the source is as it was, and the slot is gone.
    pub async fn migrate(&self) -> Result<Report> {
        let control = self.connector.session("control").await?;
        let oid = catalog::find(&control, self.table).await?;
        let source = catalog::read(&control, oid)
            .await?
            .ok_or_else(|| Error::usage(format!("{} is not there any more", self.table)))?;
        let names = Names::of(&source.qualified());
        self.preflight(&control, &source, &names).await?;
        let plan = self.supervisor.guard(change::rehearse(&control, &source, self.request)).await?;
        self.meter.tell(Sample::Rows(source.estimated_rows.max(0.0) as u64));
        self.meter.tell(Sample::Phase(Phase::Prepare.as_str()));
        store::ensure(&control).await?;
        let migration = store::begin(&control, oid, &names, self.request).await?;
        let target = plan.target.clone();
        let flow = prepare::describe_flow(&control, migration, &source, plan, &names).await?;
        store::record_flow(&control, &flow).await?;
        let known = Known { source, target, names, migration };
        let flow = Arc::new(flow);
        let done = self.phases(&control, &known, Arc::clone(&flow)).await;
        let (report, afterwards) = self.end(&known, &flow, done).await?;
        self.afterwards(&known, &afterwards).await?;
        Ok(report)
    }

    async fn afterwards(&self, known: &Known, steps: &[Step]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        self.meter.tell(Sample::Phase("validate"));
        let patience = self.settings.cutover.patience;
        let (connector, names, meter) = (self.connector, &known.names, &self.meter);
        let migration = known.migration;
        let work = after::run(connector, migration, names, steps, patience, meter);
        match self.supervisor.guard(work).await {
            Ok(()) => Ok(()),
            Err(e) if e.has_state() => Err(e),
            Err(e) => {
                // What the operator stopped must not go on in the server, where it would be in the way
                // of whoever does it by hand. How far it came is not known: to validate again is quick.
                let session = self.connector.session("cleanup").await?;
                teardown::end_sessions(&session, migration).await?;
                let left: Vec<String> = steps.iter().map(|step| step.sql.clone()).collect();
                Err(after::unfinished(e, names, &left))
            }
        }
    }

    async fn preflight(&self, control: &Session, source: &Table, names: &Names) -> Result<()> {
        let subject = Subject {
            connector: self.connector,
            session: control,
            table: source,
            names,
            event_triggers: self.settings.event_triggers,
        };
        let findings = self.supervisor.guard(preflight::run(&subject)).await?;
        for finding in findings.iter().filter(|f| f.severity != preflight::Severity::Refuse) {
            self.meter.note(format!("{}: {}. {}", finding.check, finding.what, finding.mend));
        }
        preflight::refuse(&findings, self.table).map_or(Ok(()), Err)
    }

    async fn phases(
        &self,
        control: &Session,
        known: &Known,
        flow: Arc<Flow>,
    ) -> Result<(Report, Vec<Step>)> {
        let guard = &self.supervisor;
        prepare::create_rows_view(self.connector, &flow, &known.source, EPOCH).await?;
        prepare::create_publication(control, &flow, &known.source).await?;
        let fingerprint =
            catalog::fingerprint(control, flow.captured.oid, &flow.publication).await?;
        let opened = prepare::open_stream(self.connector, control, &flow, &self.meter);
        let (stream, start) = guard.guard(opened).await?;
        let (context, mut background) = self.start(control, known, flow, stream, start).await?;
        let session = context.session("watch").await?;
        let (watched, before) = (Arc::clone(&context.flow), fingerprint.clone());
        let failing = guard.clone();
        background.push(guard.spawn(|end| watch::watch(session, watched, before, failing, end)));
        let done = guard.guard(self.work(control, known, &context, &fingerprint)).await;
        for task in background {
            task.finish().await;
        }
        match done {
            Ok(done) => Ok(done),
            Err(e) => Err(watch::explain(self.connector, &context.flow, &fingerprint, e).await),
        }
    }

    /// Starts what runs beside the phases: capture, keeper, truncator.
    async fn start(
        &self,
        control: &Session,
        known: &Known,
        flow: Arc<Flow>,
        stream: crate::wal::ReplicationStream,
        start: crate::pg::Lsn,
    ) -> Result<(Context, Vec<Background>)> {
        let tracker = Arc::new(Tracker::default());
        tracker.dirty().advance(start);
        tracker.confirm(start);
        let sql =
            "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text";
        let next_xid: u64 = control.one(sql, &[]).await?.get::<_, &str>(0).parse().unwrap_or(3);
        let role = |what: &str| format!("{}/{what}", known.migration);
        let connector = self.connector.clone();
        let owner = known.source.owner.clone();
        let writer = Writer { migration: known.migration, epoch: EPOCH, owner };
        let door = Door::default();
        let most = self.settings.keeper.most_keys;
        let captured = {
            let (flow, tracker) = (Arc::clone(&flow), Arc::clone(&tracker));
            self.supervisor.spawn(|end| capture(stream, flow, tracker, next_xid, most, end))
        };
        let keeper = Keeper {
            session: connector.session(&role("keeper")).await?,
            flow: Arc::clone(&flow),
            writer: writer.clone(),
            tracker: Arc::clone(&tracker),
            limits: self.settings.keeper,
        };
        let truncator = Truncator {
            session: connector.session(&role("truncate")).await?,
            flow: Arc::clone(&flow),
            writer: writer.clone(),
            tracker: Arc::clone(&tracker),
            door: door.clone(),
        };
        let session = connector.session(&role("fence")).await?;
        let fence = Fence::new(session, Arc::clone(&tracker), known.migration);
        let watched = (Arc::clone(&tracker), self.meter.clone());
        let background = vec![
            captured,
            self.supervisor.spawn(|end| keeper.keep(end)),
            self.supervisor.spawn(|end| truncator.follow(end)),
            self.supervisor.spawn(|end| tell_backlog(watched.0, watched.1, end)),
        ];
        let meter = self.meter.clone();
        Ok((Context { connector, flow, writer, tracker, door, fence, meter }, background))
    }

    async fn work(
        &self,
        control: &Session,
        known: &Known,
        context: &Context,
        fingerprint: &Fingerprint,
    ) -> Result<(Report, Vec<Step>)> {
        let settings = self.settings;
        prepare::create_shadow(control, &context.flow, &known.source, &known.target).await?;
        prepare::wait_for_writers(control, known.source.oid, &self.meter).await?;

        self.enter(control, known, Phase::Copy).await?;
        copy::copy(context, settings.copy).await?;

        self.enter(control, known, Phase::Index).await?;
        let plans = index::plans(context, &known.source, &known.target)?;
        index::build_first(context, &settings.index, &plans).await?;
        let syncs = catch_up::start(context, &self.supervisor, settings.copy.workers).await?;
        index::build_unique(context, &settings.index, &known.target, &plans).await?;
        index::vacuum(context, &settings.index, &known.target).await?;

        self.enter(control, known, Phase::CatchUp).await?;
        catch_up::drain(context).await?;

        self.enter(control, known, Phase::Verify).await?;
        self.check_unchanged(control, known, context, fingerprint).await?;
        let (verify, open) = self.verify(context).await?;

        self.enter(control, known, Phase::Cutover).await?;
        let cutover = Cutover {
            connector: self.connector,
            flow: Arc::clone(&context.flow),
            writer: &context.writer,
            tracker: &context.tracker,
            door: &context.door,
            fence: &context.fence,
            names: &known.names,
            request: self.request,
            target: &known.target,
            fingerprint,
            meter: &self.meter,
            limits: settings.cutover,
        };
        let cutover::Done { swapped, afterwards, foreign_keys, shut } = cutover.run(open).await?;
        for task in syncs {
            task.finish().await;
        }
        drop(shut);
        let keys_synced = context.tracker.dirty().synced();
        let report = Report {
            table: known.names.source.to_string(),
            retired: known.names.retired.to_string(),
            keys_synced,
            cutover: swapped,
            verify,
            foreign_keys,
        };
        Ok((report, afterwards))
    }

    async fn verify(
        &self,
        context: &Context,
    ) -> Result<(Findings, std::collections::HashSet<crate::flow::key::Key>)> {
        let mut sessions = Vec::new();
        for n in 1..=self.settings.copy.workers.max(1) {
            sessions.push(context.session(&format!("verify {n}")).await?);
        }
        let pace = if context.flow.keeps_order() {
            let first = FIRST_RANGE.min(self.settings.copy.first_chunk.max(1) * 10);
            Pace::new(first, self.settings.copy.chunk_time, u64::MAX)
        } else {
            // No range of the source is a range of the shadow: all of it is one.
            Pace::whole()
        };
        let planner = Planner::new(
            context.session("verify plan").await?,
            Arc::clone(&context.flow),
            context.writer.clone(),
            chunk::Kind::Verify,
            pace,
        )
        .await?;
        let verifier = Verifier {
            flow: Arc::clone(&context.flow),
            writer: context.writer.clone(),
            tracker: Arc::clone(&context.tracker),
            planner: Mutex::new(planner),
            max_snapshot_age: self.settings.max_snapshot_age,
        };
        let report = |rows| self.meter.tell(Sample::Compared(rows));
        verifier.verify(&sessions, &context.fence, report).await
    }

    async fn check_unchanged(
        &self,
        control: &Session,
        known: &Known,
        context: &Context,
        before: &Fingerprint,
    ) -> Result<()> {
        let flow = &context.flow;
        let now = catalog::fingerprint(control, flow.captured.oid, &flow.publication).await?;
        before.check(&now, &known.names.source.to_string())
    }

    async fn enter(&self, control: &Session, known: &Known, phase: Phase) -> Result<()> {
        self.meter.tell(Sample::Phase(phase.as_str()));
        store::enter(control, known.migration, phase).await
    }
}

async fn tell_backlog(
    tracker: Arc<Tracker>,
    meter: Meter,
    end: tokio_util::sync::CancellationToken,
) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = end.cancelled() => return Ok(()),
            _ = tick.tick() => {
                let (backlog, synced) = {
                    let dirty = tracker.dirty();
                    (dirty.backlog(), dirty.synced())
                };
                meter.tell(Sample::Dirty(backlog, synced));
            }
        }
    }
}
