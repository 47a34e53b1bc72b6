//! Takes the locks of an attempt: all of them in one order, or none.
//!
//! No order keeps out every circle. The application's transactions use the table, its views and what refers
//! to it in orders of their own, some of them against each other: whoever holds a view and waits for what we
//! have would never give us the view, however long we waited for it, and everybody behind us would wait
//! too. (By measurement attempts that failed had spent nearly all of their time on one lock: see
//! docs/design.md.) So a circle is looked for as soon as a
//! lock is not granted at once; then all locks go, the application goes on, and after a pause they are
//! taken again.
//!
//! That loosens nothing. Two migrations still take their locks in one order; circles that this order does
//! not exclude end as before: we yield, never the application, long before deadlock_timeout lets the server
//! choose. And the time that the application may queue is that of one attempt, whatever the number of tries:
//! they share it.

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::sleep;

use super::deadline::Deadline;
use super::locker::{Locker, late};
use super::locks::Locks;
use super::look::{self, Obstacle, POLL};
use super::{Cutover, Limits};
use crate::error::{Error, Result};
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};

/// Milliseconds that the application has to itself between two tries, which is about what it needs to get
/// through what it was doing; never in step with it.
const PAUSE: std::ops::RangeInclusive<u64> = 20..=80;

/// All locks are held.
pub(super) struct Taken {
    /// Of the first request.
    pub(super) started: Instant,
    pub(super) granted: Instant,
    pub(super) deadline: Deadline,
}

/// Why they are not; the transaction is to be rolled back.
pub(super) enum NotTaken {
    Late(Obstacle),
    /// Of a statement about something that may be another's by now, and who was in its way.
    Refused(Error, Option<String>),
}

/// What became of one try.
enum Try {
    Taken(Taken),
    /// Somebody who holds what we wait for waits for us.
    Circle(String),
}

/// Takes them. `sequences_first` says with which the first try begins; the next one begins the other way
/// round.
pub(super) async fn take(
    cutover: &Cutover<'_>,
    observer: &Session,
    locker: &Locker,
    (limits, mut sequences_first): (Limits, bool),
) -> Result<Taken, NotTaken> {
    let session = &locker.session;
    let mut left = limits.lock_timeout.min(locker.deadlock_timeout / 2);
    loop {
        run(session, "SAVEPOINT locks").await?;
        let started = Instant::now();
        let order = order(&locker.rehearsed.locks, sequences_first);
        let time = (limits.max_lock_hold, left);
        let who = match once(observer, session, order, time).await? {
            Try::Taken(taken) => return Ok(taken),
            Try::Circle(who) => who,
        };
        // The limits of this try go with it, on 17 and newer the running one of the transaction too.
        run(session, "ROLLBACK TO SAVEPOINT locks").await?;
        left = left.saturating_sub(started.elapsed());
        sleep(Duration::from_millis(rand::rng().random_range(PAUSE))).await;
        // In the pause we hold the first lock alone, which DDL may queue for, and changed keys wait.
        let others = look::is_waited_for(observer, session.pid()).await.map_err(refused)?;
        if left < POLL || others || look::too_many(cutover.tracker) {
            let what =
                format!("the application and the cutover wait for each other's locks: {who}");
            return Err(NotTaken::Late(Obstacle::new(what)));
        }
        sequences_first = !sequences_first;
    }
}

/// All before the look: what is renamed and still changed by somebody would be what it was.
fn order(locks: &Locks, sequences_first: bool) -> impl Iterator<Item = &String> {
    let Locks { statements, sequences, .. } = locks;
    let (first, last) = match sequences_first {
        true => (sequences, statements),
        false => (statements, sequences),
    };
    first.iter().chain(last)
}

/// From the first request to the last grant no longer than `left`; all that follows is to be over after `hold`.
async fn once(
    observer: &Session,
    session: &Session,
    order: impl Iterator<Item = &String>,
    (hold, left): (Duration, Duration),
) -> Result<Try, NotTaken> {
    let (deadline, budget) = (Deadline::after(hold), Deadline::after(left));
    let started = Instant::now();
    let mut granted = None;
    let mut order = order.peekable();
    while let Some(lock) = order.next() {
        // With the last one: the application waits for every journey of its own.
        let release = if order.peek().is_none() { "; RELEASE SAVEPOINT locks" } else { "" };
        let sql = format!(
            "{}SET LOCAL lock_timeout = {}; {lock}{release}",
            deadline.settings(session.version()),
            budget.left().as_millis().max(1)
        );
        let mut met = Met::default();
        let locked = watched(observer, session, &sql, &mut met).await;
        match (locked, met) {
            (Ok(()), _) => {}
            (Err(e), Met { circle: true, who }) if classify(&e) == Class::Late => {
                return Ok(Try::Circle(who.unwrap_or_else(|| "somebody".to_owned())));
            }
            (Err(e), Met { who, .. }) => {
                return Err(match classify(&e) {
                    Class::Transient => NotTaken::Late(late(&e, who)),
                    _ => NotTaken::Refused(e, who),
                });
            }
        }
        granted.get_or_insert_with(Instant::now);
    }
    Ok(Try::Taken(Taken { started, granted: granted.unwrap_or(started), deadline }))
}

/// Who was in the way of a lock.
#[derive(Default)]
struct Met {
    who: Option<String>,
    circle: bool,
}

/// Runs `sql`; cancels it where it waits in a circle.
async fn watched(observer: &Session, session: &Session, sql: &str, met: &mut Met) -> Result<()> {
    let work = session.batch(sql);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = sleep(POLL) => {}
        }
        // The answer comes on another way than the lock, which is not to wait for it.
        let blockers = tokio::select! {
            biased;
            done = &mut work => return done,
            blockers = look::blockers(observer, session.pid()) => blockers,
        };
        let Ok(blockers) = blockers else { continue };
        met.who = blockers.who.or(met.who.take());
        if !blockers.circle {
            continue;
        }
        // It may have been granted while we looked.
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = async {} => {}
        }
        met.circle = true;
        look::cancel(observer, session.pid()).await?;
        return work.await;
    }
}

async fn run(session: &Session, sql: &str) -> Result<(), NotTaken> {
    session.batch(sql).await.map_err(refused)
}

fn refused(e: Error) -> NotTaken {
    NotTaken::Refused(e, None)
}
