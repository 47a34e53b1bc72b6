//! The end of a run that did not come to its end: what is kept to go on from, what goes, and what the
//! operator is told.

use std::time::Duration;

use tokio::time::timeout;

use super::run::{Report, Run};
use super::store::{self, Stored};
use super::{Phase, teardown};
use crate::catalog;
use crate::error::{Error, Kind, Result};
use crate::flow::write::superseded;
use crate::pg::sqlstate::classify;
use crate::pg::{Lsn, QualifiedName, Session, shell_word};

/// A server that does not answer at the end is not waited for: nothing that is left is lost.
const LIMIT: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// The error, with the state that things are in and the ways on.
    ///
    /// The slot stays where somebody may go on: it holds log back, and says so. It goes where nobody can
    /// (the source was changed), or where nothing was copied yet that it would be kept for.
    pub(super) async fn end(
        &self,
        migration: i64,
        epoch: i64,
        error: Error,
        report: Option<Report>,
    ) -> Result<Report> {
        match report {
            // Whoever took it over does the rest, and his sessions are not ours to end.
            Some(_) if error.kind() == Kind::NotResumable => {
                let swapped =
                    format!("The names were swapped before that: {} has its new shape", self.table);
                return Err(error.and_then_state(swapped, "Nothing is lost".to_owned()));
            }
            Some(_) => return Err(self.after_swap(migration, error).await),
            None => {}
        }
        let settled = timeout(LIMIT, self.settle(migration, epoch, &error)).await;
        let told = match settled.unwrap_or_else(|_| Err(Error::lost("the server does not answer")))
        {
            Ok(told) => told,
            // Whatever went wrong here is the echo of being superseded, and nothing here is ours.
            Err(e) if e.kind() == Kind::NotResumable => {
                tracing::debug!("superseded: {error}");
                return Err(e);
            }
            Err(e) => Told {
                state: format!(
                    "{} is in use; what became of the run's slot could not be asked ({}): it may hold WAL back",
                    self.table,
                    e.what()
                ),
                next: self.ways_on(),
            },
        };
        // Whoever said what state things are in said the way on, too.
        if error.has_state() {
            return Err(error);
        }
        let error = match classify(&error).advice() {
            Some(advice) if error.kind() == Kind::Failed => error.next(advice),
            _ => error,
        };
        Err(error.and_then_state(told.state, told.next))
    }

    fn ways_on(&self) -> String {
        let table = shell_word(self.table);
        format!("`pgwraith resume {table}` goes on, `pgwraith abort {table}` undoes it")
    }

    fn recover(&self) -> String {
        let table = shell_word(self.table);
        format!(
            "`pgwraith resume {table} --recover` makes a new slot and compares every row, \
             `pgwraith abort {table}` undoes it"
        )
    }

    /// How things stand at the end of a run, of which everything has ended by now; that it ended is an event. One session
    /// keeps successors out until it is rolled back, the other does the work: what fails in it must not let them in.
    pub(super) async fn end_all(
        &self,
        migration: i64,
        epoch: i64,
        error: &Error,
    ) -> Result<(Session, Session, Stored)> {
        let holder = self.connector.session("end").await?;
        if !store::hold_epoch(&holder, migration, epoch).await? {
            return Err(superseded());
        }
        let session = self.connector.session("end").await?;
        teardown::end_sessions(&session, migration).await?;
        // Only now: a COMMIT may have been under way.
        let stored = store::load(&session, migration).await?.ok_or_else(superseded)?;
        let what = match error.kind() {
            Kind::Stopped => "stopped",
            Kind::NotResumable => store::GIVEN_UP,
            // Steps that are left can be gone on with.
            Kind::Usage if stored.phase() != Some(Phase::InPlace) => store::GIVEN_UP,
            _ => "failed",
        };
        store::event(&session, migration, what, &error.to_string()).await?;
        Ok((holder, session, stored))
    }

    async fn settle(&self, migration: i64, epoch: i64, error: &Error) -> Result<Told> {
        let (holder, session, stored) = self.end_all(migration, epoch, error).await?;
        if stored.swapped {
            return Ok(swapped(&stored));
        }
        if stored.options["abort"] == true {
            // Nobody comes in between who would go on with what is asked to go.
            holder.rollback().await;
            return self.aborted(&session, stored).await;
        }
        let keeps = self.keeps(&stored, error.kind());
        let there = catalog::name_of(&session, stored.source_oid).await?;
        let told = match keeps {
            true => self.kept(&session, &stored, there).await?,
            false => self.given_up(&session, &stored, there, error.kind()).await?,
        };
        holder.rollback().await;
        Ok(told)
    }

    fn keeps(&self, stored: &Stored, kind: Kind) -> bool {
        let may_go_on = match kind {
            Kind::Stopped => !self.drops_slot(stored),
            Kind::Failed | Kind::DataDiffers | Kind::Refused => true,
            // Where it is still there, the slot tells nothing that anybody could go on from.
            Kind::Unproven | Kind::Usage | Kind::NotResumable => false,
        };
        may_go_on && stored.phase().is_none_or(|phase| phase > Phase::Prepare)
    }

    /// By what is in the state now: it may have been set a moment ago, and nobody looks any more.
    fn drops_slot(&self, stored: &Stored) -> bool {
        let settings = self.live.read(&stored.options);
        settings.unwrap_or_else(|_| self.live.now()).drop_slot_on_stop
    }

    async fn kept(
        &self,
        session: &Session,
        stored: &Stored,
        there: Option<QualifiedName>,
    ) -> Result<Told> {
        let name = there.map_or_else(|| stored.names.source.to_string(), |name| name.to_string());
        let holds = slot_holds(session, &stored.slot).await?;
        let shadow = &stored.names.shadow;
        let state = format!("{name} is untouched and in use; the copy so far is kept in {shadow}");
        Ok(match holds {
            Some(holds) => Told { state: format!("{state}; {holds}"), next: self.ways_on() },
            None => Told { state: format!("{state}; the slot is gone"), next: self.recover() },
        })
    }

    /// Somebody asked for it with pgwraith.abort().
    async fn aborted(&self, session: &Session, stored: Stored) -> Result<Told> {
        super::abort::undo(self.connector, session, stored, &self.meter).await?;
        Ok(Told {
            state: format!("{} is untouched; nothing of the migration is left", self.table),
            next: "`pgwraith run` begins another".to_owned(),
        })
    }

    async fn given_up(
        &self,
        session: &Session,
        stored: &Stored,
        there: Option<QualifiedName>,
        kind: Kind,
    ) -> Result<Told> {
        let for_good = matches!(kind, Kind::Usage | Kind::NotResumable)
            || stored.phase() == Some(Phase::Prepare);
        if for_good {
            // What a run that goes on needs of the source's side goes too: nobody will.
            teardown::release(session, stored).await?;
        } else {
            teardown::drop_slot(session, &stored.slot).await?;
            // As somebody left it, it may make the application's updates fail.
            if kind == Kind::Unproven {
                teardown::drop_publication(session, &stored.publication).await?;
            }
        }
        let shadow = &stored.names.shadow;
        let left = match stored.shadow_oid {
            Some(oid) => catalog::name_of(session, oid).await?,
            None => None,
        };
        let source =
            there.map(|name| format!("{name} is untouched and in use; ")).unwrap_or_default();
        let table = shell_word(self.table);
        let (state, next) = match (kind, stored.phase()) {
            (Kind::Usage | Kind::NotResumable, _) => (
                match left {
                    Some(left) => format!(
                        "{source}slot and publication are dropped; the unfinished shadow {left} is left"
                    ),
                    None => format!("{source}slot and publication are dropped; there is no shadow"),
                },
                format!("`pgwraith abort {table}` removes what is left"),
            ),
            (_, Some(Phase::Prepare)) => (
                format!("{source}nothing was copied yet; slot and publication are dropped"),
                self.ways_on(),
            ),
            _ => (
                format!("{source}the slot is dropped; the copy so far is kept in {shadow}"),
                self.recover(),
            ),
        };
        Ok(Told { state, next })
    }

    /// The names are swapped; something behind that is left to do.
    async fn after_swap(&self, migration: i64, error: Error) -> Error {
        let told = async {
            let session = self.connector.session("end").await?;
            teardown::end_sessions(&session, migration).await?;
            let stored = store::load(&session, migration).await?.ok_or_else(superseded)?;
            let left = store::left_to_validate(&session, migration).await?;
            Ok::<_, Error>((stored.names, left))
        };
        match told.await {
            Ok((names, left)) => {
                super::after::unfinished(error, &names, &left, &shell_word(self.table))
            }
            Err(e) => error.and_then_state(
                format!(
                    "The names were swapped before that (what is left could not be asked: {})",
                    e.what()
                ),
                format!("`pgwraith resume {}` does the rest", shell_word(self.table)),
            ),
        }
    }
}

/// What the operator is told.
struct Told {
    state: String,
    next: String,
}

fn swapped(stored: &Stored) -> Told {
    let (source, retired) = (&stored.names.source, &stored.names.retired);
    let table = shell_word(&source.to_string());
    Told {
        state: format!("The names were swapped before that: {source} has its new shape"),
        next: format!("The old table is {retired}. `pgwraith resume {table}` does what is left"),
    }
}

/// How much log a slot holds back, and what becomes of that; None where it is gone.
async fn slot_holds(session: &Session, slot: &str) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.pg_current_wal_lsn(), s.restart_lsn, s.safe_wal_size, \
               pg_catalog.current_setting('max_slot_wal_keep_size') \
               FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
    let Some(row) = session.maybe(sql, &[&slot]).await? else { return Ok(None) };
    let (now, from): (Lsn, Option<Lsn>) = (row.get(0), row.get(1));
    let held = now.bytes_since(from.unwrap_or(now)) >> 20;
    let until = match row.get::<_, Option<i64>>(2) {
        Some(safe) => format!(
            "until another {} MB are written, when the server gives it up (max_slot_wal_keep_size = {})",
            safe.max(0) >> 20,
            row.get::<_, &str>(3)
        ),
        None => "without limit (max_slot_wal_keep_size = -1)".to_owned(),
    };
    Ok(Some(format!(
        "the slot {slot} holds back {held} MB of WAL now, and all that is written from here on, {until}"
    )))
}
