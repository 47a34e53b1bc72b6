//! One run: begun or resumed, stretch after stretch until it is done, and its end, whatever it is.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::copy::CopySettings;
use super::hooked::Caller;
use super::in_place::Changed;
use super::index::IndexSettings;
use super::left_behind::LeftBehind;
use super::live::Live;
use super::retry::Patience;
use super::store::{self, DRY_RUN, Stored};
use super::stretch::Stretch;
use super::supervisor::Supervisor;
use super::takeover;
use super::{Phase, rehearsal, resume};
use crate::catalog::{self, Table};
use crate::change::{self, Plan, Request, partition};
use crate::cutover::{self, Swapped};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::found::Findings;
use crate::flow::keeper::Limits;
use crate::hooks::Hooks;
use crate::pg::sqlstate::classify;
use crate::pg::{Connector, Session, shell_word};
use crate::preflight::{self, EventTriggers, Subject};
use crate::shadow::Names;
use crate::telemetry::{Meter, Sample};
use crate::throttle;
use crate::throttle::critical::Critical;

/// A server that does not let go of what is left of a run in this time is not reached.
const REACHED: Duration = Duration::from_secs(60);
/// The first run's epoch.
pub(super) const FIRST_EPOCH: i64 = 1;

/// What the operator takes upon himself when he starts a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Consent {
    pub event_triggers: EventTriggers,
    /// Rows that the change does not keep, and columns that the file of the new table does not name, are not in
    /// that.
    pub data_goes: bool,
}

/// How each phase goes about it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub copy: CopySettings,
    pub index: IndexSettings,
    pub keeper: Limits,
    pub cutover: cutover::Limits,
    /// Of what presses.
    pub throttle: throttle::limits::Limits,
    /// What stops the run.
    pub critical: Vec<Critical>,
    /// The operator wants it to rest.
    pub paused: bool,
    /// The cutover waits for the operator's word.
    pub postponed: bool,
    /// And for these hours.
    pub window: Option<cutover::Window>,
    /// No snapshot of ours lives longer.
    pub max_snapshot_age: Duration,
    pub consent: Consent,
    /// How long a run goes on trying where the server cannot be reached, or something passing is in the way.
    pub retry_for: Duration,
    /// Whether a run that is stopped gives its slot up.
    pub drop_slot_on_stop: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            copy: CopySettings::default(),
            index: IndexSettings::default(),
            keeper: Limits::default(),
            cutover: cutover::Limits::default(),
            throttle: throttle::limits::Limits::default(),
            critical: Vec::new(),
            paused: false,
            postponed: false,
            window: None,
            max_snapshot_age: Duration::from_secs(30),
            consent: Consent::default(),
            retry_for: Duration::from_secs(1800),
            drop_slot_on_stop: false,
        }
    }
}

/// What a run came to.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub table: String,
    pub retired: String,
    pub keys_synced: u64,
    /// None where a run before swapped.
    pub cutover: Option<Swapped>,
    pub verify: Findings,
    /// What a comparison after a lost slot found.
    pub recovered: Option<Findings>,
    /// Proven after the swap.
    pub foreign_keys: usize,
}

impl Report {
    /// Of a migration whose names are swapped, and no more is known.
    pub(super) fn of_swapped(names: &Names) -> Report {
        Report {
            table: names.source.to_string(),
            retired: names.retired.to_string(),
            keys_synced: 0,
            cutover: None,
            verify: Findings::default(),
            recovered: None,
            foreign_keys: 0,
        }
    }
}

/// What going on with a migration came to.
#[derive(Debug)]
pub enum Outcome {
    Swapped(Box<Report>),
    Changed(Changed),
}

/// How an unfinished migration is taken up.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Cut off a run that is still alive.
    pub take_over: bool,
    /// Make a slot that is lost anew, and compare every row.
    pub recover: bool,
}

/// What is known of a table before there is a migration.
struct Looked {
    control: Session,
    source: Table,
    names: Names,
    plan: Plan,
    /// What the hook came to that was asked.
    agreed: Option<String>,
}

/// A run that is about to start.
pub struct Run<'a> {
    pub connector: &'a Connector,
    /// As typed.
    pub table: &'a str,
    /// As they are when it starts; what goes on for long asks for those of `live`.
    pub settings: &'a Settings,
    /// The flags behind the settings, for whoever resumes.
    pub options: &'a Value,
    /// The settings as they are by now.
    pub live: Live,
    pub meter: Meter,
    pub supervisor: Supervisor,
    pub hooks: Hooks,
}

impl Run<'_> {
    /// Migrates the table. On any error the source is as it was.
    pub async fn migrate(&self, request: &Request) -> Result<Report> {
        let (migration, fresh) = match self.begin(request, Phase::Prepare.as_str()).await {
            Ok(begun) => begun,
            Err(error) => return self.ended(None, error).await,
        };
        self.go_on(migration, FIRST_EPOCH, Some(fresh), false).await
    }

    /// Tells the hooks.
    pub(super) async fn ended<T>(&self, migration: Option<i64>, error: Error) -> Result<T> {
        Caller::of(self).ended(migration, &error).await;
        Err(error)
    }

    /// Looks before it leaps, and puts the migration down in `phase`.
    pub(super) async fn begin(
        &self,
        request: &Request,
        phase: &str,
    ) -> Result<(i64, (Table, Plan))> {
        let looked = self.supervisor.guard(self.consider(request, phase == DRY_RUN)).await?;
        let Looked { control, source, names, plan, agreed } = looked;
        self.meter.tell(Sample::Rows(source.estimated_rows.max(0.0) as u64));
        self.meter.tell(Sample::Phase(Phase::Prepare.as_str()));
        let rows = Some(source.estimated_rows as i64).filter(|rows| *rows > 0);
        let at = (phase, rows);
        let begin = store::begin(&control, source.oid, &names, request, self.options, at);
        let migration = self.put_down(begin).await?;
        if let Some(told) = agreed {
            Caller::of(self).keep(migration, &told).await;
        }
        failpoint!("begun");
        Ok((migration, (source, plan)))
    }

    /// Puts a migration down in the state. Where a stop comes meanwhile, its answer is waited for: the migration may be
    /// there by then, and whoever stops has to know it.
    pub(super) async fn put_down(&self, begin: impl Future<Output = Result<i64>>) -> Result<i64> {
        self.supervisor.see_through(begin).await.map_err(|e| match e.kind() {
            Kind::Stopped => {
                let what = "the server did not say whether the migration is in its state by now";
                let next =
                    format!("`pgwraith abort {}` undoes it, where it is", shell_word(self.table));
                e.and_then_state(what.to_owned(), next)
            }
            _ => e,
        })
    }

    /// Whether there can be a migration, and the operator agrees. Changes nothing.
    async fn consider(&self, request: &Request, rehearses: bool) -> Result<Looked> {
        let control = self.connector.session("control").await?;
        let oid = catalog::find(&control, self.table).await?;
        let source = catalog::read(&control, oid)
            .await?
            .ok_or_else(|| Error::usage(format!("{} is not there any more", self.table)))?;
        let names = Names::of(&source.qualified());
        self.preflight(&control, &source, &names).await?;
        let mut plan = change::rehearse(&control, &source, request).await?;
        preflight::refuse_taken(&control, &source, &names, &plan.target).await?;
        if let Some(keep) = &plan.keep {
            let gone = LeftBehind::of(&control, &source, keep).await?;
            self.agree_to_loss(gone, rehearses)?;
        }
        if request.shadow_ddl.is_some() {
            self.agree_to_columns(&change::ddl::dropped(&source, &plan.target), rehearses)?;
            for told in change::ddl::left_out(&source, &plan) {
                self.meter.note(told);
            }
        }
        if let Some(asked) = &request.partition {
            let told = partition::reads_all_rows(&source, &plan, asked)?;
            let without = asked.without_default().map(str::to_owned);
            told.into_iter().chain(without).for_each(|told| self.meter.note(told));
        }
        if let (Some(index), Some(order)) = (&request.order_by, &plan.order) {
            change::refuse_crowds(&control, &source, index, order).await?;
        }
        partition::lay_out((self.connector, &control), &source, &names, &mut plan, request).await?;
        let lost = change::lost_by_cascade(&source, &plan.target, request);
        lost.into_iter().for_each(|told| self.meter.note(told));
        let workers = self.settings.copy.workers;
        preflight::refuse_partitions(&control, &source, &plan, workers).await?;
        let limit = self.settings.cutover.max_lock_hold;
        if let Some(told) = preflight::long_swap(&source, &plan, limit) {
            self.meter.note(told);
        }
        let agreed = Caller::of(self).before_start().await?;
        Ok(Looked { control, source, names, plan, agreed })
    }

    /// What the file does not name is not said to go: whoever forgot a column would lose it.
    fn agree_to_columns(&self, dropped: &[&str], rehearses: bool) -> Result<()> {
        if dropped.is_empty() {
            return Ok(());
        }
        let columns = dropped.join(", ");
        let what = format!(
            "the new table of --shadow-ddl has no column {columns} of {}, or computes it: what is in there stays behind",
            self.table
        );
        if rehearses || self.settings.consent.data_goes {
            self.meter.note(what);
            return Ok(());
        }
        Err(Error::usage(what)
            .state("Nothing was touched")
            .next("Add --yes to agree, or name them in the file. They stay in the old table until somebody drops it"))
    }

    /// Rows are left behind only where somebody has said yes to about how many.
    fn agree_to_loss(&self, gone: LeftBehind, rehearses: bool) -> Result<()> {
        let what = format!("--where leaves {gone} of {} behind", self.table);
        if rehearses || self.settings.consent.data_goes {
            self.meter.note(what);
            return Ok(());
        }
        Err(Error::usage(what)
            .state("Nothing was touched")
            .next("Add --yes to agree. They stay in the old table until somebody drops it"))
    }

    /// Goes on with the unfinished migration of the table, from wherever it stands.
    pub async fn resume(&self, how: How) -> Result<Outcome> {
        let mut patience = Patience::default();
        let (stored, epoch) = loop {
            let began = Instant::now();
            match self.supervisor.guard(self.take_up(how)).await {
                Ok(taken) => break taken,
                // Nothing is there to resume, or it is named wrongly.
                Err(error) if error.kind() == Kind::Usage => return Err(error),
                Err(error) => {
                    if let Err(error) = self.rest(error, &mut patience, began.elapsed()).await {
                        return self.ended(None, error).await;
                    }
                }
            }
        };
        if stored.request.in_place {
            return self.go_on_in_place(stored.id, epoch).await.map(Outcome::Changed);
        }
        let report = self.go_on(stored.id, epoch, None, how.recover).await?;
        Ok(Outcome::Swapped(Box::new(report)))
    }

    /// Takes the migration over. Nothing of that is undone by doing it again.
    async fn take_up(&self, how: How) -> Result<(Stored, i64)> {
        let control = self.connector.session("control").await?;
        let stored = resume::find(&control, self.table).await?;
        if stored.is_dry_run() {
            return Err(rehearsal::nobody_goes_on(&stored));
        }
        if let Some(window) = &self.settings.window {
            window.check(&control).await?;
        }
        store::ensure(&control).await?;
        let epoch = takeover::claim(&control, &stored, how.take_over).await?;
        store::keep_options(&control, stored.id, self.options).await?;
        store::event(&control, stored.id, "resumed", &stored.phase).await?;
        if let Some(source) = catalog::read(&control, stored.source_oid).await? {
            self.meter.tell(Sample::Rows(source.estimated_rows.max(0.0) as u64));
        }
        Ok((stored, epoch))
    }

    /// Waits until it is worth trying again; what does not pass by itself comes back at once.
    async fn rest(&self, error: Error, patience: &mut Patience, lasted: Duration) -> Result<()> {
        let passes = error.kind() == Kind::Failed && classify(&error).passes();
        let limit = self.live.now().retry_for;
        let pause = if passes { patience.pause(limit, lasted) } else { None };
        let Some(pause) = pause else { return Err(error) };
        self.meter.note(format!(
            "{}; going on from the state in {:.1} s",
            error.what().trim_end_matches('.'),
            pause.as_secs_f64()
        ));
        // Without what the server said, which may quote rows: this is shown to whoever asks.
        let why = "what was done last did not work, and is tried again: the run's log says what";
        self.meter.tell(Sample::Rests(Some(why.to_owned())));
        let wait = async {
            sleep(pause).await;
            Ok(())
        };
        let waited = self.supervisor.guard(wait).await;
        self.meter.tell(Sample::Rests(None));
        waited
    }

    /// What is looked at before anything is touched.
    pub(super) fn subject<'a>(
        &'a self,
        session: &'a Session,
        table: &'a Table,
        names: &'a Names,
    ) -> Subject<'a> {
        Subject {
            connector: self.connector,
            session,
            table,
            names,
            event_triggers: self.settings.consent.event_triggers,
            replicas: &self.settings.throttle.replicas,
            workers: self.settings.copy.workers,
            window: self.settings.window.as_ref(),
        }
    }

    async fn preflight(&self, control: &Session, source: &Table, names: &Names) -> Result<()> {
        let findings = preflight::run(&self.subject(control, source, names)).await?;
        for finding in findings.iter().filter(|f| f.severity != preflight::Severity::Refuse) {
            self.meter.note(format!("{}: {}. {}", finding.check, finding.what, finding.mend));
        }
        preflight::refuse(&findings, self.table).map_or(Ok(()), Err)
    }

    /// Stretch after stretch: what passes by itself is waited for, and then the next one goes on from the
    /// state, on new connections and in an epoch of its own (**Invariant 9**: after any lost connection).
    /// `stretch` is told its epoch, and whether it is another one.
    pub(super) async fn stretches<T>(
        &self,
        migration: i64,
        epoch: &mut i64,
        mut stretch: impl AsyncFnMut(i64, bool) -> Result<T>,
    ) -> Result<T> {
        let mut patience = Patience::default();
        let mut lost = false;
        loop {
            let began = Instant::now();
            let work = async {
                if lost {
                    let back = self.take_back(migration, *epoch);
                    *epoch = self.supervisor.guard(back).await?;
                }
                stretch(*epoch, lost).await
            };
            match work.await {
                Ok(done) => return Ok(done),
                Err(error) => self.rest(error, &mut patience, began.elapsed()).await?,
            }
            lost = true;
        }
    }

    async fn go_on(
        &self,
        migration: i64,
        mut epoch: i64,
        mut fresh: Option<(Table, Plan)>,
        recover: bool,
    ) -> Result<Report> {
        let mut report = None;
        let stretch = async |epoch, again: bool| {
            let supervisor = self.supervisor.next_stretch();
            // A new slot was asked for once; where it got lost again, that is news.
            let recover = recover && !again;
            let stretch = Stretch { run: self, supervisor, migration, epoch, recover };
            stretch.work(fresh.take(), &mut report).await
        };
        let done = self.stretches(migration, &mut epoch, stretch).await;
        let error = match done {
            Ok(()) => return report.ok_or_else(|| Error::failed("nothing was swapped")),
            Err(error) => error,
        };
        match self.end(migration, epoch, error, report).await {
            Ok(report) => Ok(report),
            Err(error) => self.ended(Some(migration), error).await,
        }
    }

    /// The server may take connections, and answer nothing.
    async fn take_back(&self, migration: i64, epoch: i64) -> Result<i64> {
        let back = async {
            let session = self.connector.session("control").await?;
            takeover::take_back(&session, migration, epoch).await
        };
        let lost = || Error::lost("the server does not answer");
        timeout(REACHED, back).await.unwrap_or_else(|_| Err(lost()))
    }
}
