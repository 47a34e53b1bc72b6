//! An ALTER TABLE that changes the catalogs alone, under the cutover's discipline of locks: the instant way, and the
//! short steps of the careful one.
//!
//! The statement takes a moment, but its lock waits for whoever uses the table, and everybody else behind it.
//! So it is taken as the swap's: looked first who is in the way; SHARE UPDATE EXCLUSIVE with patience, which
//! autovacuum yields to and which keeps DDL out, so that what was found out of the change stays true; then the
//! real one with a short limit, all in one transaction with a deadline that the server enforces
//! (**Invariant 7**): should the change take longer than was thought, it is undone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::deadline::Deadline;
use super::locker::{deadlock_timeout, late, lock_out_ddl, watch};
use super::look::{self, Obstacle};
use super::met::Met;
use super::patience::Patience;
use super::{Before, Limits, Window, ask, back_off, is_held, out_of_patience, outcome};
use crate::catalog::{self, Table};
use crate::change::Request;
use crate::change::trial::{self, Lock, Trial, Way};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Connector, Session};
use crate::shadow::set_role;
use crate::telemetry::{Meter, Timed};

/// How often to look whether the hours have come.
const HOURS_POLL: Duration = Duration::from_secs(1);

/// A change in place.
pub struct InPlace<'a> {
    pub connector: &'a Connector,
    /// What the names of its sessions begin with.
    pub role: &'a str,
    pub table: &'a Table,
    pub work: &'a dyn Work,
    pub meter: &'a Meter,
    /// As they are by now.
    pub limits: &'a (dyn Fn() -> Limits + Sync),
    /// The hours in which it may be.
    pub window: Option<&'a Window>,
    /// What the operator has it wait for, if anything.
    pub held: &'a (dyn Fn() -> Option<String> + Sync),
    pub before: &'a dyn Before,
    /// The transaction whose COMMIT was sent.
    pub sent: &'a Sent,
}

/// What is done under the lock.
pub trait Work: Sync {
    /// Behind the first lock, which keeps DDL out, and in its transaction. The session acts as the table's owner
    /// from then on.
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>>;
}

/// What is to be done.
pub struct Ready {
    /// The strongest lock on the table.
    pub lock: Lock,
    /// Other tables that are locked.
    pub others: Vec<u32>,
    pub statements: Vec<String>,
}

/// The transaction whose COMMIT was sent, if one was: its outcome has to be asked for where nobody heard the
/// answer, because the connection broke or the operator stopped the run at that moment.
#[derive(Default)]
pub struct Sent(Mutex<Option<(String, Altered)>>);

/// How it went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Altered {
    pub attempts: u32,
    /// From the grant to COMMIT's reply.
    pub lock_held_ms: f64,
    /// From the request to COMMIT's reply.
    pub stall_ms: f64,
}

impl Sent {
    fn set(&self, xid: &str, altered: &Altered) {
        *self.lock() = Some((xid.to_owned(), altered.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(String, Altered)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one.
    pub fn is_sent(&self) -> bool {
        self.lock().is_some()
    }

    /// What became of it; None where it was not sent, or rolled back.
    pub async fn outcome(&self, connector: &Connector, role: &str) -> Result<Option<Altered>> {
        let Some((xid, altered)) = self.lock().clone() else { return Ok(None) };
        let committed = outcome::committed(connector, &format!("{role}outcome"), &xid).await?;
        Ok(committed.then_some(altered))
    }
}

impl InPlace<'_> {
    /// Makes it; tries again until patience is over.
    pub async fn run(&self) -> Result<Altered> {
        let observer = self.session("observer").await?;
        // Nobody syncs.
        let limit = || (self.limits)().patience;
        let (mut patience, mut asked) = (Patience::new(&limit, None), false);
        let (mut attempts, mut met) = (0, Met::default());
        loop {
            if self.waits_for_its_hours(&observer).await?
                | is_held(self.held, self.meter, "the change").await
            {
                patience.begin_anew();
                asked = false;
            }
            if !asked {
                ask(self.before, self.meter, &patience).await?;
                asked = true;
                // That may have taken its time.
                continue;
            }
            let obstacle = match self.attempt(&observer, &mut attempts).await? {
                Ok(altered) => {
                    self.meter.lock_waits(None);
                    return Ok(altered);
                }
                Err(obstacle) => obstacle,
            };
            self.meter.lock_waits(Some(&obstacle.text));
            let is_news = met.again(&obstacle, Instant::now());
            if patience.left().is_zero() {
                return Err(out_of_patience(patience.limit(), attempts, &met));
            }
            if is_news {
                self.meter.note(format!("the change waits: {}", obstacle.text));
            }
            look::wait_for_standbys(&observer).await?;
            sleep(back_off(attempts)).await;
        }
    }

    async fn session(&self, name: &str) -> Result<Session> {
        self.connector.session(&format!("{}{name}", self.role)).await
    }

    /// Waits for the hours in which it may be. Returns whether it did.
    async fn waits_for_its_hours(&self, observer: &Session) -> Result<bool> {
        let Some(window) = self.window else { return Ok(false) };
        let mut waited = false;
        while !window.is_open(observer).await? {
            if !waited {
                self.meter.note("the change waits for the hours of --cutover-window");
                self.meter.lock_waits(Some("it waits for the hours of --cutover-window"));
            }
            waited = true;
            sleep(HOURS_POLL).await;
        }
        if waited {
            self.meter.lock_waits(None);
        }
        Ok(waited)
    }

    async fn attempt(
        &self,
        observer: &Session,
        attempts: &mut u32,
    ) -> Result<Result<Altered, Obstacle>> {
        let oid = self.table.oid;
        let parts: Vec<u32> = self.table.parts.iter().map(|part| part.oid).collect();
        if let Some(obstacle) = look::long_users(observer, oid, &parts, None).await? {
            return Ok(Err(obstacle));
        }
        let session = self.session("alter").await?;
        let deadlock_timeout = deadlock_timeout(&session).await?;
        session.batch("BEGIN").await?;
        let table = [format!("TABLE {}", self.table.scanned())];
        if let Err(obstacle) = lock_out_ddl(observer, &session, deadlock_timeout, &table).await? {
            return Ok(Err(obstacle));
        }
        let ready = match self.work.prepare(&session).await {
            Ok(ready) => ready,
            Err(e) if matches!(classify(&e), Class::Late | Class::Transient) => {
                return Ok(Err(late(&e, None)));
            }
            Err(e) => return Err(e),
        };
        let others: Vec<u32> = ready.others.iter().copied().chain(parts).collect();
        if let Some(obstacle) = look::long_users(observer, oid, &others, None).await? {
            return Ok(Err(obstacle));
        }
        let xid = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
        let xid: String = session.one(xid, &[]).await?.get(0);
        *attempts += 1;
        failpoint!("alter ready");
        let started = Instant::now();
        let limits = (self.limits)();
        let limit = limits.lock_timeout.min(deadlock_timeout / 2);
        let hold = limits.max_lock_hold;
        let attempt = Attempt { in_place: self, observer, session: &session, started, limit, hold };
        let done = attempt.under_lock(&ready, &xid, *attempts).await;
        if done.is_err() {
            session.rollback().await;
        }
        self.meter.took(Timed::Stall, started.elapsed());
        match done {
            Ok(altered) => Ok(Ok(altered)),
            Err(Stop::Late(obstacle)) => Ok(Err(obstacle)),
            Err(Stop::Definite(e)) => Err(e),
        }
    }
}

/// Makes ready for the clauses of `request`. What was found out of them may not hold any more: a constraint that
/// proved something may be gone. From here on DDL waits.
pub async fn still_instant(session: &Session, table: &Table, request: &Request) -> Result<Ready> {
    let changed = |what: String| Error::failed(what).next("Look at the table, and start again");
    let name = table.qualified();
    let now = catalog::read(session, table.oid).await?;
    let now = now.filter(|now| now.qualified() == name && now.owner == table.owner);
    let now =
        now.ok_or_else(|| changed(format!("{name} is another table now than just before")))?;
    let Trial { verdict, observed, .. } = trial::observe_within(session, &now, request).await?;
    session.batch(&set_role(Some(&now.owner))).await?;
    if verdict.way != Way::Instant {
        let why = verdict.why;
        return Err(changed(format!(
            "the change of {name} was instant, and is not any more: {why}"
        )));
    }
    let alter = |clauses: &String| format!("ALTER TABLE {name} {clauses}\n");
    Ok(Ready {
        lock: observed.lock,
        others: observed.others.iter().map(|other| other.oid).collect(),
        statements: request.alters.iter().map(alter).collect(),
    })
}

/// One attempt.
struct Attempt<'a> {
    in_place: &'a InPlace<'a>,
    observer: &'a Session,
    session: &'a Session,
    started: Instant,
    /// From the first request to the last grant.
    limit: Duration,
    /// And to COMMIT.
    hold: Duration,
}

enum Stop {
    Late(Obstacle),
    Definite(Error),
}

impl Attempt<'_> {
    async fn under_lock(&self, ready: &Ready, xid: &str, attempts: u32) -> Result<Altered, Stop> {
        let (InPlace { table, connector, role, sent, .. }, session) = (self.in_place, self.session);
        let deadline = Deadline::after(self.hold);
        let ask = format!("LOCK TABLE {} IN {} MODE", table.scanned(), ready.lock.sql());
        self.waiting(session.batch(&format!("{}; {ask}", self.limits(deadline)))).await?;
        let granted = Instant::now();
        failpoint!("alter locked");
        // As the operator's own session would understand it.
        let own = "RESET search_path; SET LOCAL row_security = on";
        session.batch(own).await.map_err(Stop::of)?;
        for sql in &ready.statements {
            session.batch(&self.limits(deadline)).await.map_err(Stop::of)?;
            self.waiting(async { session.execute(sql, &[]).await.map(drop) }).await?;
        }
        failpoint!("altered");
        if deadline.is_over() {
            return Err(Stop::Late(Obstacle::new("the deadline was over before COMMIT")));
        }
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
        let told = || Altered { attempts, lock_held_ms: ms(granted), stall_ms: ms(self.started) };
        sent.set(xid, &told());
        match session.batch("COMMIT").await {
            Ok(()) => Ok(told()),
            Err(e) if e.db().is_some() && !session.is_closed() => Err(Stop::of(e)),
            Err(_) => match sent.outcome(connector, role).await {
                Ok(Some(altered)) => Ok(altered),
                Ok(None) => Err(Stop::Late(Obstacle::new("the connection broke at COMMIT"))),
                Err(e) => Err(Stop::Definite(e)),
            },
        }
    }

    /// What is left of the attempt, and of the time to wait for locks.
    fn limits(&self, deadline: Deadline) -> String {
        let left = self.limit.saturating_sub(self.started.elapsed()).as_millis().max(1);
        let settings = deadline.settings(self.session.version());
        format!("{settings}SET LOCAL lock_timeout = {left}")
    }

    /// Of a statement that may wait for locks.
    async fn waiting(&self, work: impl Future<Output = Result<()>>) -> Result<(), Stop> {
        let (done, who) = watch(self.observer, self.session.pid(), self.limit / 3, work).await;
        done.map_err(|e| match classify(&e) {
            Class::Late => Stop::Late(late(&e, who)),
            _ => Stop::of(e),
        })
    }
}

impl Stop {
    fn of(e: Error) -> Stop {
        match classify(&e) {
            Class::Late | Class::Transient | Class::ConnectionLost => {
                Stop::Late(Obstacle::new(e.what()))
            }
            _ => Stop::Definite(e),
        }
    }
}
