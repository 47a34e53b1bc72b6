//! The operator's hooks: what they are told, and what is kept of their calls.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::run::{Report, Run};
use super::store;
use crate::cutover::Before;
use crate::error::{Error, Kind};
use crate::hooks::{Hook, Hooks};
use crate::pg::Connector;
use crate::pg::sqlstate::UNDEFINED_TABLE;
use crate::telemetry::Meter;

/// A server that does not keep in this time what a hook came to is not waited for.
const KEEP: Duration = Duration::from_secs(10);

/// Calls the hooks of one run.
#[derive(Clone)]
pub(super) struct Caller {
    hooks: Hooks,
    connector: Connector,
    /// As typed.
    table: String,
    meter: Meter,
}

impl Caller {
    pub(super) fn of(run: &Run<'_>) -> Caller {
        Caller {
            hooks: run.hooks.clone(),
            connector: run.connector.clone(),
            table: run.table.to_owned(),
            meter: run.meter.clone(),
        }
    }

    /// Calls a hook, if there is one; `Err` says why it did not do what it should. What it came to is told, and
    /// kept in the migration's events, where it has begun.
    pub(super) async fn call(
        &self,
        hook: Hook,
        migration: Option<i64>,
        facts: Value,
    ) -> Result<(), String> {
        let Some((is_good, told)) = self.make(hook, migration, facts).await else { return Ok(()) };
        if let Some(migration) = migration {
            self.keep(migration, &told).await;
        }
        if is_good { Ok(()) } else { Err(format!("hook {told}")) }
    }

    /// Whether it did what it should, and what it came to; None where there is none.
    async fn make(
        &self,
        hook: Hook,
        migration: Option<i64>,
        facts: Value,
    ) -> Option<(bool, String)> {
        let mut all = Map::new();
        all.insert("table".into(), self.table.as_str().into());
        all.insert("migration".into(), json!(migration));
        all.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        if let Value::Object(facts) = facts {
            all.extend(facts);
        }
        let ended = self.hooks.call(hook, &all, |line| self.meter.note(line)).await?;
        let told = format!("{}: {ended}", hook.as_str());
        self.meter.note(format!("hook {told}"));
        Some((ended.is_good(), told))
    }

    /// In a session of its own: it may be called at any time.
    pub(super) async fn keep(&self, migration: i64, told: &str) {
        let kept = async {
            let session = self.connector.session(&format!("{migration}/hook")).await?;
            store::event(&session, migration, "hook", told).await
        };
        let kept = timeout(KEEP, kept).await;
        if let Err(e) = kept.unwrap_or_else(|_| Err(Error::lost("the server does not answer"))) {
            // Whoever aborted the migration took its state away.
            if e.sqlstate() == Some(UNDEFINED_TABLE) {
                return;
            }
            self.meter.note(format!("the call of a hook is not in pgwraith.event: {}", e.what()));
        }
    }

    /// Before anything is made. A hook that does not agree is a refusal; what one that does came to is to be
    /// kept once there is a migration.
    pub(super) async fn before_start(&self) -> Result<Option<String>, Error> {
        match self.make(Hook::BeforeStart, None, Value::Null).await {
            None => Ok(None),
            Some((true, told)) => Ok(Some(told)),
            Some((false, told)) => Err(Error::new(Kind::Refused, format!("hook {told}"))
                .state("Nothing was made or changed")
                .next("Once the hook agrees, start again")),
        }
    }

    /// The names are swapped. Called by whoever comes first to it: the run that swapped may have died.
    pub(super) async fn after_cutover(&self, migration: i64, report: &Report) {
        if !self.hooks.has(Hook::AfterCutover) {
            return;
        }
        let called = async {
            let session = self.connector.session(&format!("{migration}/hook")).await?;
            store::was_called(&session, migration, Hook::AfterCutover.as_str()).await
        };
        // Rather twice than never.
        if matches!(timeout(KEEP, called).await, Ok(Ok(true))) {
            return;
        }
        let cutover = report.cutover.as_ref();
        let facts = json!({
            "retired": report.retired,
            "attempts": cutover.map(|swapped| swapped.attempts),
            "lock_held_ms": cutover.map(|swapped| swapped.lock_held_ms),
            "stall_ms": cutover.map(|swapped| swapped.stall_ms),
        });
        let _ = self.call(Hook::AfterCutover, Some(migration), facts).await;
    }

    /// The run is over, and not as it should be.
    pub(super) async fn ended(&self, migration: Option<i64>, error: &Error) {
        let hook = match error.kind() {
            Kind::Stopped => Hook::Stopped,
            _ => Hook::Failed,
        };
        let facts = json!({ "error": error.to_string(), "exit_code": error.kind().exit_code() });
        let _ = self.call(hook, migration, facts).await;
    }
}

/// Asks the hook before the cutover.
pub(super) struct BeforeCutover {
    pub(super) caller: Caller,
    /// None where there is nothing in the state.
    pub(super) migration: Option<i64>,
}

impl Before for BeforeCutover {
    fn minds(&self) -> BoxFuture<'_, Option<String>> {
        let called = self.caller.call(Hook::BeforeCutover, self.migration, Value::Null);
        called.map(Result::err).boxed()
    }
}

/// Calls of the hook that tells that the run waits, one at a time, beside the work. The last one ends with this.
pub(super) struct Throttled {
    caller: Caller,
    migration: i64,
    last: Option<JoinHandle<()>>,
}

impl Throttled {
    pub(super) fn new(caller: Caller, migration: i64) -> Self {
        Throttled { caller, migration, last: None }
    }

    pub(super) fn tell(&mut self, reason: &str) {
        if self.last.as_ref().is_some_and(|last| !last.is_finished()) {
            return;
        }
        let (caller, migration) = (self.caller.clone(), self.migration);
        let facts = json!({ "reason": reason });
        self.last = Some(tokio::spawn(async move {
            let _ = caller.call(Hook::Throttled, Some(migration), facts).await;
        }));
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        if let Some(last) = &self.last {
            last.abort();
        }
    }
}
