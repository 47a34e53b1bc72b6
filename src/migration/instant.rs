//! The instant way: where PostgreSQL changes its catalogs alone, a run makes the change in place, and no copy.
//!
//! Nothing of it is put down in schema `pgwraith`: it is one transaction, so there is never anything to go on
//! with or to undo, and what it did is in the catalogs. A schema would stay behind in databases that never had
//! a migration.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::Phase;
use super::hooked::{BeforeCutover, Caller};
use super::run::Run;
use crate::catalog::{self, Table};
use crate::change::Request;
use crate::change::trial::{self, Trial, Way};
use crate::cutover::{self, Altered, InPlace, Ready, Sent, Work};
use crate::error::{Error, Kind, Result};
use crate::hooks::Hook;
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};
use crate::preflight::{self, Severity};
use crate::shadow::Names;
use crate::telemetry::Sample;

/// All of it at once.
struct Change<'a> {
    table: &'a Table,
    request: &'a Request,
}

impl Work for Change<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        cutover::still_instant(session, self.table, self.request).boxed()
    }
}

impl Run<'_> {
    /// Makes the change in place where that is instant; None where it is not, or where it cannot be found
    /// out: then the copy says what is in the way.
    pub async fn alter_in_place(&self, request: &Request) -> Result<Option<Altered>> {
        let Some((table, trial)) = self.supervisor.guard(self.looked_at(request)).await? else {
            return Ok(None);
        };
        if trial.verdict.way != Way::Instant {
            if trial.verdict.way != Way::ShadowCopy {
                let way = trial.verdict.way.as_str();
                self.meter.note(format!(
                    "the change can be made {way} (--in-place): {}; `pgwraith plan` says how. This run copies the table",
                    trial.verdict.why
                ));
            }
            return Ok(None);
        }
        self.alter_at_once(&table, &trial, request).await.map(Some)
    }

    /// Makes a change that is instant.
    pub(super) async fn alter_at_once(
        &self,
        table: &Table,
        trial: &Trial,
        request: &Request,
    ) -> Result<Altered> {
        if self.settings.postponed || self.settings.paused {
            return Err(Error::usage("the change is instant: there is nothing to do before it that could be postponed or paused")
                .state("Nothing was touched")
                .next("Run it when it is wanted, perhaps with --cutover-window; or copy the table with --force-copy"));
        }
        self.meter.note(format!(
            "the change is instant and made in place: {} (--force-copy copies the table all the same)",
            trial.verdict.why
        ));
        let sent = Sent::default();
        let done = self.supervisor.guard(self.alter(table, request, &sent)).await;
        let done = match done {
            // It may have been done at that moment.
            Err(e) if e.kind() == Kind::Stopped => match sent.outcome(self.connector, "").await {
                Ok(Some(altered)) => Ok(altered),
                Ok(None) => Err(e.state("Nothing was changed")),
                Err(unknown) => Err(unknown),
            },
            done => done,
        };
        let caller = Caller::of(self);
        match done {
            Ok(altered) => {
                let facts = json!({
                    "retired": null, "attempts": altered.attempts,
                    "lock_held_ms": altered.lock_held_ms, "stall_ms": altered.stall_ms,
                });
                let _ = caller.call(Hook::AfterCutover, None, facts).await;
                Ok(altered)
            }
            Err(e) => {
                caller.ended(None, &e).await;
                Err(e)
            }
        }
    }

    async fn alter(&self, table: &Table, request: &Request, sent: &Sent) -> Result<Altered> {
        let caller = Caller::of(self);
        caller.before_start().await?;
        self.meter.tell(Sample::Phase(Phase::Cutover.as_str()));
        let before = BeforeCutover { caller, migration: None };
        let in_place = InPlace {
            connector: self.connector,
            role: "",
            table,
            work: &Change { table, request },
            meter: &self.meter,
            limits: &|| self.settings.cutover,
            window: self.settings.window.as_ref(),
            held: &|| None,
            before: &before,
            sent,
        };
        let unchanged = |e: Error| {
            let e = match e.db().is_some() && !classify(&e).passes() {
                true => e.with_kind(Kind::Refused).context("the change in place is refused"),
                false => e,
            };
            match e.has_state() || sent.is_sent() {
                true => e,
                false => e.state("Nothing was changed; the table is in use as it was"),
            }
        };
        in_place.run().await.map_err(unchanged)
    }

    /// What PostgreSQL would do in place. Where that cannot be found out, the reason is the copy's to tell:
    /// its own preflight and rehearsal meet it too.
    pub(super) async fn looked_at(&self, request: &Request) -> Result<Option<(Table, Trial)>> {
        request.refuse_by_name()?;
        if request.needs_copy().is_some() {
            return Ok(None);
        }
        let mut is_partitioned = false;
        let looked = async {
            let control = self.connector.session("control").await?;
            let oid = catalog::find(&control, self.table).await?;
            let Some(table) = catalog::read(&control, oid).await? else { return Ok(None) };
            is_partitioned = table.is_partitioned();
            let trial = self.tried(&control, &table, request).await?;
            Ok::<_, Error>(trial.map(|trial| (table, trial)))
        };
        match looked.await {
            Ok(found) => Ok(found),
            // To copy a huge table because somebody was in the way for a moment is not what anybody wants.
            Err(e) if classify(&e).passes() || classify(&e) == Class::Late => Err(e
                .context("finding out whether PostgreSQL changes its catalogs alone")
                .state("Nothing was touched")
                .next("Start again; --force-copy copies the table whatever the change is")),
            // A copy is rehearsed on an ordinary clone: it would not meet what PostgreSQL refuses of a partitioned table.
            Err(e) if e.kind() == Kind::Usage && is_partitioned => Err(e),
            Err(e) => {
                self.meter.note(format!(
                    "whether PostgreSQL would change its catalogs alone is not known ({}): the table is copied",
                    e.what()
                ));
                Ok(None)
            }
        }
    }

    async fn tried(
        &self,
        control: &Session,
        table: &Table,
        request: &Request,
    ) -> Result<Option<Trial>> {
        let names = Names::of(&table.qualified());
        let findings = preflight::before_a_trial(&self.subject(control, table, &names)).await?;
        if findings.iter().any(|found| found.severity == Severity::Refuse) {
            return Ok(None);
        }
        trial::observe(control, table, request).await.map(Some)
    }
}
