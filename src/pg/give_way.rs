//! A statement that reads all of a table under a weak lock keeps no reader or writer out. But whoever asks for a
//! stronger lock meanwhile, an ALTER TABLE of a deployment say, waits for its end, and everybody who comes after him
//! waits too. Design §5: such a statement of ours is ended at once, and begun anew when they are through.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::sqlstate::{Class, classify};
use super::{Session, Who};
use crate::error::{Error, Result};

/// Between two looks at who waits.
const LOOK: Duration = Duration::from_millis(250);
/// So often; whoever comes that regularly would have it begin anew for ever.
const MOST: u32 = 5;
/// For those who wait to be through; doubles each time.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a statement.
pub enum Ran<T> {
    Done(T),
    /// It was ended, and may be begun anew: for whom, for the log.
    GaveWay(String),
}

/// How often one piece of work has given way.
pub struct GivesWay {
    what: String,
    times: u32,
}

impl GivesWay {
    /// `what` it is, in messages.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), times: 0 }
    }

    /// Runs `work` on the backend `pid`, and cancels what that does as soon as somebody waits for it whom readers or
    /// writers wait behind. A cancel that comes when it is done finds the backend idle, which ignores it. Fails
    /// where it has given way too often.
    pub async fn run<T>(
        &mut self,
        watcher: &Session,
        pid: i32,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Ran<T>> {
        let mut work = pin!(work);
        let who = tokio::select! {
            biased;
            done = &mut work => return done.map(Ran::Done),
            who = somebody_waits(watcher, pid) => who,
        };
        if let Err(e) = watcher.execute("SELECT pg_catalog.pg_cancel_backend($1)", &[&pid]).await {
            tracing::warn!("{} keeps {who} waiting, and cannot be cancelled: {e}", self.what);
        }
        match work.await {
            Err(e) if classify(&e) == Class::Late => {}
            done => return done.map(Ran::Done),
        }
        self.times += 1;
        if self.times > MOST {
            return Err(self.too_often(&who));
        }
        sleep(PAUSE * 2_u32.pow(self.times - 1)).await;
        Ok(Ran::GaveWay(format!(
            "{} kept others waiting behind {who}: it gave way, and begins anew",
            self.what
        )))
    }

    /// Whether it may not be begun anew any more.
    pub fn is_over(&self) -> bool {
        self.times > MOST
    }

    fn too_often(&self, who: &Who) -> Error {
        Error::failed(format!(
            "{} gave way {MOST} times to somebody who wanted a stronger lock on the table, and would have to again: {who}",
            self.what
        ))
        .next("See that nobody alters, truncates or locks the table meanwhile")
    }
}

/// Only modes that a reader or writer would wait behind: VACUUM and its like may wait for us. And only for what we
/// have: where we wait ourselves, he does so for somebody else.
async fn somebody_waits(watcher: &Session, pid: i32) -> Who {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_locks w JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid \
         WHERE NOT w.granted AND w.locktype = 'relation' \
           AND w.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
           AND EXISTS (SELECT 1 FROM pg_catalog.pg_locks h WHERE h.pid = $1 AND h.granted AND h.locktype = 'relation' \
             AND h.database = w.database AND h.relation = w.relation) \
           AND $1 = ANY (pg_catalog.pg_blocking_pids(w.pid)) LIMIT 1",
        Who::COLUMNS
    );
    loop {
        sleep(LOOK).await;
        match watcher.maybe(&sql, &[&pid]).await {
            Ok(Some(row)) => return Who::of(&row),
            Ok(None) => {}
            Err(e) => tracing::debug!("asking who waits for backend {pid}: {e}"),
        }
    }
}
