//! Who may write, and when.
//!
//! **Invariant 9** (one writer run): every writing transaction begins through [`Writer::begin`],
//! which locks the migration's row FOR KEY SHARE and finds its own epoch there. A successor raises
//! the epoch under FOR UPDATE, so it waits for every older transaction, and whoever wakes up later
//! finds another epoch. **Invariant 4** (no older snapshot writes after a newer one): the
//! [`Door`].

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::error::{Error, Kind, Result};
use crate::pg::{Session, Snapshot, quote_ident};

/// The right of one run to write.
#[derive(Debug, Clone)]
pub struct Writer {
    pub migration: i64,
    pub epoch: i64,
    /// Data is written as the table's owner.
    pub owner: String,
}

/// How a writing transaction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadCommitted,
    RepeatableRead,
}

impl Writer {
    /// Begins a transaction and returns a snapshot that is not newer than any read in it
    /// (the transaction's own, under repeatable read).
    pub async fn begin(&self, session: &Session, isolation: Isolation) -> Result<Snapshot> {
        let level = match isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
        };
        let sql = format!(
            "BEGIN ISOLATION LEVEL {level} READ WRITE; \
             WITH mine AS MATERIALIZED (SELECT 1 FROM pgwraith.migration \
               WHERE id = {} AND epoch = {} FOR KEY SHARE) \
             SELECT pg_catalog.pg_current_snapshot(), (SELECT pg_catalog.count(*) FROM mine)",
            self.migration, self.epoch
        );
        let rows = session.simple(&sql).await?;
        let (snapshot, mine) = match rows.first().map(Vec::as_slice) {
            Some([Some(snapshot), Some(mine)]) => (snapshot, mine.as_str()),
            _ => return Err(Error::failed("PostgreSQL returned no snapshot")),
        };
        if mine != "1" {
            session.rollback().await;
            return Err(superseded());
        }
        snapshot.parse().map_err(Error::failed)
    }

    /// From here to `as_tool` or the end of the transaction, statements run as the table's owner.
    pub async fn as_owner(&self, session: &Session) -> Result<()> {
        session.batch(&format!("SET LOCAL ROLE {}", quote_ident(&self.owner))).await
    }

    /// Statements run as the connecting role again.
    pub async fn as_tool(&self, session: &Session) -> Result<()> {
        session.batch("SET LOCAL ROLE NONE").await
    }
}

/// Somebody else runs the migration now, or nobody.
pub fn superseded() -> Error {
    Error::new(Kind::NotResumable, "another run or an abort has taken this migration over")
        .state("This run wrote nothing after that")
        .next("See table pgwraith.migration for who runs it now")
}

/// The one door to the target.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<RwLock<()>>);

/// Held by a chunk or a batch while it writes.
pub type Shared = OwnedRwLockReadGuard<()>;
/// Held by whoever must be the only writer.
pub type Alone = OwnedRwLockWriteGuard<()>;

impl Door {
    /// Waits until nobody is alone inside. Fair: a waiting [`Door::alone`] goes first.
    pub async fn share(&self) -> Shared {
        Arc::clone(&self.0).read_owned().await
    }

    /// Waits until everybody has left.
    pub async fn alone(&self) -> Alone {
        Arc::clone(&self.0).write_owned().await
    }
}
