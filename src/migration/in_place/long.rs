//! ALTER TABLE that reads all rows, under a lock that keeps no reads and writes out: VALIDATE, above all.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::violating;
use super::work::{Did, Steps};
use crate::change::trial::Does;
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::migration::store::{self, StoredStep};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{GivesWay, Ran, Session};

/// Nobody but DDL and VACUUM queues behind one that waits, and autovacuum gives way only to who waits for longer
/// than deadlock_timeout.
const LOCK_TIMEOUT: &str = "10s";
/// Pauses between two tries begin with this and double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Steps<'_, '_, '_> {
    pub(super) async fn long(&self, stored: &StoredStep) -> Result<Did> {
        if let Does::ReferPart { part, key } = &stored.step.does {
            return self.refer_part(stored, *part, key).await;
        }
        match self.read_all(&stored.step.sql, Some(stored.number)).await {
            Ok(()) => Ok(Did::default()),
            Err(e) if classify(&e) == Class::RowsDoNotFit => Err(self.violated(stored, e).await),
            Err(e) => Err(e),
        }
    }

    /// Executes `sql`, and where it is a whole step notes in its transaction that it is done. `Class::RowsDoNotFit` is
    /// PostgreSQL's own word.
    pub(super) async fn read_all(&self, sql: &str, step: Option<i32>) -> Result<()> {
        let context = self.context;
        let patience = || context.settings.borrow().cutover.patience;
        let (mut started, mut pause, mut told) = (Instant::now(), PAUSE, false);
        let _unthrottled = context.unthrottled.begin();
        let watcher = context.session("step watch").await?;
        let mut ways = GivesWay::new(sql);
        loop {
            let session = context.session("step").await?;
            let ran = ways.run(&watcher, session.pid(), self.once(&session, sql, step)).await;
            let error = match ran {
                Ok(Ran::Done(())) => return Ok(()),
                Ok(Ran::GaveWay(why)) => {
                    context.meter.note(why);
                    // It had its locks.
                    (started, pause, told) = (Instant::now(), PAUSE, false);
                    continue;
                }
                Err(error) => error,
            };
            session.rollback().await;
            match classify(&error) {
                Class::Late | Class::Transient if started.elapsed() < patience() => {
                    if !told {
                        let why = error.what();
                        context.meter.note(format!("{sql} waits for its locks: {why}"));
                    }
                    told = true;
                }
                _ => return Err(error),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The state is locked only once all rows are read: the transaction has no number until then, and keeps back
    /// nobody's slot.
    async fn once(&self, session: &Session, sql: &str, step: Option<i32>) -> Result<()> {
        let writer = &self.context.writer;
        session.batch("BEGIN").await?;
        writer.as_owner(session).await?;
        // As the operator's own session would understand it.
        session
            .batch(&format!(
                "SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; RESET search_path; SET LOCAL row_security = on"
            ))
            .await?;
        session.execute(&format!("{sql}\n"), &[]).await?;
        session
            .batch("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off")
            .await?;
        writer.as_tool(session).await?;
        match step {
            Some(number) => {
                store::claim_step(session, writer.migration, writer.epoch, number).await?;
            }
            None => store::still_mine(session, writer.migration, writer.epoch).await?,
        }
        failpoint!("step read");
        session.batch("COMMIT").await
    }

    async fn violated(
        &self,
        stored: &StoredStep,
        error: crate::error::Error,
    ) -> crate::error::Error {
        let name = match &stored.step.does {
            Does::Validate { name } => Some(name.clone()),
            // As typed: which one it was, PostgreSQL says.
            _ => violating::constraint_of(self, &error).await,
        };
        match name {
            Some(name) => violating::told(self, self.source.oid, &name, error).await,
            None => error,
        }
    }
}
