//! What runs that are dead have left in this database, slots first: they hold the log back.

use super::abort::{self, Aborted};
use super::mark::{self, Marked};
use super::store::{self, Stored};
use super::unfinished::{self, Shadow};
use super::{liveness, row, takeover, teardown};
use crate::catalog;
use crate::error::Result;
use crate::pg::{Connector, Session, quote_ident, shell_word};
use crate::telemetry::Meter;

/// One thing that was left, or that looks like it and is not to be touched.
#[derive(Debug, serde::Serialize)]
pub struct Leftover {
    /// What it is, and of what.
    pub what: String,
    /// Bytes of WAL that it holds back, where it does.
    pub holds_wal: Option<i64>,
    /// Why it is left alone, where it is.
    pub kept: Option<String>,
    /// Why it could not be removed, and what mends that.
    pub failed: Option<String>,
    /// What was not removed with it, and why.
    pub left: Option<String>,
    /// What of it goes all the same.
    pub goes: Option<&'static str>,
    #[serde(skip)]
    thing: Thing,
}

#[derive(Debug)]
enum Thing {
    Migration(Box<Stored>),
    /// What one that swapped has on the server besides its state, which is kept.
    Rest(Box<Stored>),
    Slot(String),
    Publication(String),
    /// A shadow that no state knows, by its mark.
    Shadow(Box<Marked>),
    /// Not ours to take away.
    Nothing,
}

/// Everything that was left, what holds back most of the log first.
pub async fn leftovers(connector: &Connector) -> Result<Vec<Leftover>> {
    let session = connector.session("cleanup").await?;
    look(&session).await
}

/// Takes away what may be taken away; returns what that was, what was kept, and what could not go.
///
/// The slots of all go first: they hold WAL back, and what is in the way of a table is not in theirs. One
/// that cannot go does not spare the others.
pub async fn cleanup(connector: &Connector, meter: &Meter) -> Result<Vec<Leftover>> {
    let session = connector.session("cleanup").await?;
    let mut found = look(&session).await?;
    if found.iter().any(|leftover| leftover.thing.stored().is_some()) {
        store::ensure(&session).await?;
    }
    for leftover in &mut found {
        let done = slot_of(&session, leftover).await;
        leftover.note(&session, done).await;
    }
    for leftover in found.iter_mut().filter(|leftover| leftover.failed.is_none()) {
        let done = rest_of((connector, &session), leftover, meter).await;
        if done.is_err() {
            // Its slot is gone.
            leftover.holds_wal = None;
        }
        leftover.note(&session, done).await;
    }
    Ok(found)
}

impl Leftover {
    /// Whether any of it goes, or went.
    pub fn may_go(&self) -> bool {
        self.kept.is_none() || self.goes.is_some()
    }

    /// Whether somebody may go on with it instead.
    pub fn may_be_resumed(&self) -> bool {
        self.thing.stored().is_some_and(|stored| !stored.is_dry_run())
    }

    async fn note(&mut self, session: &Session, done: Result<()>) {
        if let Err(e) = done {
            session.rollback().await;
            self.failed = Some(e.to_string());
        }
    }
}

impl Thing {
    fn stored(&self) -> Option<&Stored> {
        match self {
            Thing::Migration(stored) | Thing::Rest(stored) => Some(stored),
            Thing::Slot(_) | Thing::Publication(_) | Thing::Shadow(_) | Thing::Nothing => None,
        }
    }
}

async fn slot_of(session: &Session, leftover: &mut Leftover) -> Result<()> {
    if let Thing::Slot(name) = &leftover.thing {
        return teardown::drop_slot(session, name).await;
    }
    let Some(stored) = leftover.thing.stored() else { return Ok(()) };
    // Somebody may have gone on with it since it was listed.
    if let Some(by) = liveness::run_by(session, stored).await? {
        leftover.kept = Some(is_alive(&by));
        leftover.goes = None;
        leftover.thing = Thing::Nothing;
        return Ok(());
    }
    row::refuse_outsiders(session, stored).await?;
    takeover::cut_off(session, stored.id).await?;
    teardown::drop_slot(session, &stored.slot).await
}

async fn rest_of(
    (connector, session): (&Connector, &Session),
    leftover: &mut Leftover,
    meter: &Meter,
) -> Result<()> {
    match std::mem::replace(&mut leftover.thing, Thing::Nothing) {
        Thing::Migration(stored) => {
            let done = abort::undo(connector, session, *stored, meter).await?;
            if let Aborted::Undone { shadow: Shadow::Left(why), .. } = done {
                leftover.left = Some(why);
            }
        }
        Thing::Rest(stored) => teardown::release(session, &stored).await?,
        Thing::Publication(name) => teardown::drop_publication(session, &name).await?,
        Thing::Shadow(shadow) => drop_marked(session, leftover, &shadow, meter).await?,
        Thing::Slot(_) | Thing::Nothing => {}
    }
    Ok(())
}

/// Somebody may have begun a migration, or renamed the table, since it was listed.
async fn drop_marked(
    session: &Session,
    leftover: &mut Leftover,
    shadow: &Marked,
    meter: &Meter,
) -> Result<()> {
    let known = store::load(session, shadow.migration).await?.map(|stored| stored.id);
    let now = mark::marked(session, known.as_slice()).await?;
    match now.into_iter().find(|now| now.oid == shadow.oid) {
        Some(now) if why_kept(&now).is_none() => {
            let Some(table) = catalog::read(session, now.oid).await? else { return Ok(()) };
            unfinished::drop_table(session, &table, meter).await
        }
        now => {
            let is_known = || "a migration that is under way has it".to_owned();
            leftover.kept = Some(now.and_then(|now| why_kept(&now)).unwrap_or_else(is_known));
            Ok(())
        }
    }
}

/// Only what certainly is a shadow, and still one, is removed.
fn why_kept(shadow: &Marked) -> Option<String> {
    match &shadow.run_by {
        Some(by) => Some(is_alive(by)),
        None if shadow.is_itself => None,
        None => Some(format!(
            "it was made under another name or in another database, and may be in use. If it is not: DROP TABLE {}",
            shadow.name
        )),
    }
}

fn is_alive(by: &str) -> String {
    format!("a run is alive: {by}")
}

async fn look(session: &Session) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let mut known = Vec::new();
    for stored in store::all_unfinished(session).await? {
        known.push(stored.id);
        found.push(of_migration(session, stored).await?);
    }
    found.extend(orphans(session, &known).await?);
    found.extend(mark::marked(session, &known).await?.into_iter().map(of_shadow));
    found.sort_by_key(|leftover| std::cmp::Reverse(leftover.holds_wal));
    Ok(found)
}

async fn of_migration(session: &Session, stored: Stored) -> Result<Leftover> {
    let alive = liveness::run_by(session, &stored).await?;
    let left = match stored.swapped {
        true => store::left_to_validate(session, stored.id).await?.len(),
        false => 0,
    };
    let is_anything_left = teardown::is_anything_left(session, &stored).await?;
    let by = stored
        .run_by
        .as_ref()
        .map(|(host, process)| format!(", last run by process {process} on {host}"));
    let stands = match stored.swapped {
        true => "swapped, and not at its end".to_owned(),
        false => format!("unfinished in phase {}", stored.phase),
    };
    let holds_wal = held(session, &stored.slot).await?;
    let what = format!(
        "migration {} of {}, {stands}{}",
        stored.id,
        stored.names.source,
        by.unwrap_or_default()
    );
    let to_run = format!(
        "its state, `pgwraith resume {}` has {left} statement{} left to run",
        shell_word(&stored.names.source.to_string()),
        if left == 1 { "" } else { "s" }
    );
    let (kept, goes, thing) = match &alive {
        Some(by) => (Some(is_alive(by)), None, Thing::Nothing),
        None if left == 0 => (None, None, Thing::Migration(Box::new(stored))),
        // They hold WAL back, and what is left to run does not need them.
        None if is_anything_left => {
            (Some(to_run), Some("slot and publication"), Thing::Rest(Box::new(stored)))
        }
        None => (Some(to_run), None, Thing::Nothing),
    };
    Ok(Leftover { what, holds_wal, kept, failed: None, left: None, goes, thing })
}

fn of_shadow(shadow: Marked) -> Leftover {
    let kept = why_kept(&shadow);
    Leftover {
        what: format!(
            "table {}, the unfinished shadow of migration {}, which no state knows",
            shadow.name, shadow.migration
        ),
        holds_wal: None,
        thing: if kept.is_none() { Thing::Shadow(Box::new(shadow)) } else { Thing::Nothing },
        kept,
        failed: None,
        left: None,
        goes: None,
    }
}

async fn held(session: &Session, slot: &str) -> Result<Option<i64>> {
    let sql = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::pg_catalog.int8 \
               FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
    Ok(session.maybe(sql, &[&slot]).await?.and_then(|row| row.get(0)))
}

/// Slots and publications that are named as ours are and that no state knows: of a database whose state
/// was dropped by hand, say. Those of other databases are told and left alone.
async fn orphans(session: &Session, known: &[i64]) -> Result<Vec<Leftover>> {
    let slots = "SELECT s.slot_name::pg_catalog.text, s.database::pg_catalog.text, s.database = pg_catalog.current_database(), \
                 s.active_pid, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::pg_catalog.int8 \
                 FROM pg_catalog.pg_replication_slots s \
                 WHERE s.slot_name OPERATOR(pg_catalog.~) '^pgwraith_[0-9]+_[0-9]+$' AND NOT (\
                   s.database = pg_catalog.current_database() AND pg_catalog.split_part(s.slot_name, '_', 3)::pg_catalog.int8 = ANY ($1))";
    let mut out = Vec::new();
    for row in session.query(slots, &[&known]).await? {
        let (name, database, here): (String, &str, bool) = (row.get(0), row.get(1), row.get(2));
        let kept = match (here, row.get::<_, Option<i32>>(3)) {
            (false, _) => Some(format!("connect to database {}", quote_ident(database))),
            (true, Some(pid)) => Some(format!("pid {pid} streams from it")),
            (true, None) => None,
        };
        out.push(Leftover {
            what: format!("replication slot {name} in database {}", quote_ident(database)),
            holds_wal: row.get(4),
            thing: if kept.is_none() { Thing::Slot(name) } else { Thing::Nothing },
            kept,
            failed: None,
            left: None,
            goes: None,
        });
    }
    let publications = "SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p \
                        WHERE p.pubname OPERATOR(pg_catalog.~) '^pgwraith_[0-9]+$' \
                          AND pg_catalog.pg_has_role(p.pubowner, 'USAGE') \
                          AND pg_catalog.split_part(p.pubname, '_', 2)::pg_catalog.int8 <> ALL ($1)";
    for row in session.query(publications, &[&known]).await? {
        let name: String = row.get(0);
        out.push(Leftover {
            what: format!("publication {name}"),
            holds_wal: None,
            kept: None,
            failed: None,
            left: None,
            goes: None,
            thing: Thing::Publication(name),
        });
    }
    Ok(out)
}
