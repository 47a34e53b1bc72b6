//! Keeps **Invariant 5**: what memory should not hold goes to `pgwraith.dirty`, and the slot's
//! position advances only past what is synced or stored, after the state says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::capture::Tracker;
use super::dirty::{Spill, StoredRow};
use super::key::Key;
use super::sync::PLANS;
use super::write::{Isolation, Writer};
use super::{Flow, Now};
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::pg::{Lsn, Session};

/// When keys leave memory, and how often the position is stored.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys in memory from which on they are stored in the database.
    pub spill_keys: usize,
    /// Keys in memory at which the stream is not read further.
    pub most_keys: usize,
    /// Retained log from which on keys are stored so that the slot can advance.
    pub spill_wal: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { spill_keys: 50_000, most_keys: 100_000, spill_wal: 64 << 20 }
    }
}

/// The least interval between two stored positions.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// The least advance that is stored.
const CONFIRM_BYTES: u64 = 16 << 10;
const SPILL_BATCH: usize = 20_000;
/// Where there is room in memory still, few are stored at a time, and it rests so many times as long after each:
/// whoever commits meanwhile waits for what it writes.
const GENTLE_BATCH: usize = 500;
const GENTLE_REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(100);
const LOAD_BATCH: i64 = 10_000;

/// Stores keys and positions of one flow, and brings keys back.
pub struct Keeper {
    /// Used by the keeper alone.
    pub session: Session,
    pub flow: Arc<Flow>,
    pub writer: Writer,
    pub tracker: Arc<Tracker>,
    pub limits: Now<Limits>,
}

impl Keeper {
    /// Works until `stop`.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        self.session.batch(PLANS).await?;
        let mut arrivals = self.tracker.arrivals();
        let mut loaded_through = 0;
        let mut confirmed_at = Instant::now();
        loop {
            tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                _ = arrivals.changed() => {}
                // The position moves on a quiet table too.
                _ = sleep(CONFIRM_EVERY) => {}
            }
            // Keys that clash make room for those that they clash with.
            if self.tracker.take_clash() && self.is_crowded() {
                self.spill(SPILL_BATCH).await?;
            }
            while self.should_spill() && self.spill_in_turn(&stop).await? {}
            if self.should_load() {
                self.load(&mut loaded_through).await?;
            }
            if confirmed_at.elapsed() >= CONFIRM_EVERY {
                self.confirm().await?;
                confirmed_at = Instant::now();
            }
        }
    }

    fn should_spill(&self) -> bool {
        let dirty = self.tracker.dirty();
        let retained = dirty.received().bytes_since(dirty.confirmable());
        let holds_back = retained > self.tracker.keeping.log((self.limits)().spill_wal);
        dirty.in_memory() > self.room() || holds_back && dirty.in_memory() > 0
    }

    /// So many keys stay in memory.
    fn room(&self) -> usize {
        self.tracker.keeping.room((self.limits)().spill_keys)
    }

    /// Whether stored keys wait for room.
    fn is_crowded(&self) -> bool {
        let dirty = self.tracker.dirty();
        dirty.on_disk() > 0 && dirty.in_memory() >= self.room() / 2
    }

    fn should_load(&self) -> bool {
        let dirty = self.tracker.dirty();
        self.tracker.reloads() && dirty.on_disk() > 0 && dirty.in_memory() < self.room() / 2
    }

    /// Stores some, as many as memory asks for.
    async fn spill_in_turn(&self, stop: &CancellationToken) -> Result<bool> {
        if self.tracker.dirty().in_memory() > self.room() {
            // The rest stays for the syncs: what is stored has to be brought back for them.
            return self.spill(SPILL_BATCH.min(self.room() / 2 + 1)).await;
        }
        let began = Instant::now();
        let stored = self.spill(GENTLE_BATCH).await?;
        let rest = (began.elapsed() * GENTLE_REST).min(LONGEST_REST);
        Ok(stored && timeout(rest, stop.cancelled()).await.is_err())
    }

    /// Stores some keys; false where all are in flight or stored already, and the syncs will make
    /// room.
    async fn spill(&self, most: usize) -> Result<bool> {
        let spills = self.tracker.dirty().to_spill(most);
        if spills.is_empty() {
            return Ok(false);
        }
        let replaced = self.store(&spills).await?;
        failpoint!("keys stored");
        self.tracker.dirty().spilled(spills, replaced);
        self.tracker.freed.notify_one();
        Ok(true)
    }

    /// Stores keys, each in place of the rows it has; returns how many those were. One row a key:
    /// it is the last change that has to be seen (Invariant 3), and a transaction that changes the
    /// same rows again and again would fill the disk, and the syncs' time, with the ones before.
    async fn store(&self, spills: &[Spill]) -> Result<u64> {
        let keys: Vec<&[u8]> = spills.iter().map(|s| s.key.as_bytes()).collect();
        let xids: Vec<String> = spills.iter().map(|s| s.xid.to_string()).collect();
        let (migration, flow) = (&self.flow.migration, &self.flow.number);
        let _turn = self.tracker.numbers_rows().await;
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        let delete = "DELETE FROM pgwraith.dirty d USING pg_catalog.unnest($3::pg_catalog.bytea[]) AS u(key) \
                      WHERE d.migration_id = $1 AND d.flow = $2 AND d.kind = 'key' AND d.key = u.key";
        let replaced = self.session.execute(delete, &[migration, flow, &keys]).await?;
        store_keys(&self.session, &self.flow, &keys, &xids).await?;
        failpoint!("keys ready");
        self.session.batch("COMMIT").await?;
        Ok(replaced)
    }

    async fn load(&self, through: &mut i64) -> Result<()> {
        // Not all of it: what comes next would drive out what is brought back.
        let room = (self.room() * 3 / 4).saturating_sub(self.tracker.dirty().in_memory());
        let most = LOAD_BATCH.min(room as i64).max(1);
        let rows = self
            .session
            .query(
                "SELECT id, key, xid::pg_catalog.text FROM pgwraith.dirty WHERE migration_id = $1 \
                 AND flow = $2 AND kind = 'key' AND id > $3 ORDER BY id LIMIT $4",
                &[&self.flow.migration, &self.flow.number, &*through, &most],
            )
            .await?;
        let mut dirty = self.tracker.dirty();
        for row in &rows {
            let id = row.get(0);
            *through = id;
            let xid = row.get::<_, &str>(2).parse().unwrap_or(u64::MAX);
            dirty.load(Key::from_bytes(row.get(1)), StoredRow { id, xid });
        }
        drop(dirty);
        self.tracker.announce();
        failpoint!("keys loaded");
        Ok(())
    }

    async fn confirm(&self) -> Result<()> {
        let position = self.tracker.dirty().confirmable();
        // Storing it moves the log's end too; on a resting server that must come to rest.
        if position.bytes_since(self.tracker.confirmed()) < CONFIRM_BYTES {
            return Ok(());
        }
        self.store_position(position).await?;
        failpoint!("position stored");
        self.tracker.confirm(position);
        failpoint!("position confirmed");
        Ok(())
    }

    /// The state's position is never behind the slot's: stored first, confirmed afterwards.
    async fn store_position(&self, position: Lsn) -> Result<()> {
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        let sql = "UPDATE pgwraith.flow SET stored_lsn = GREATEST(stored_lsn, $3) \
                   WHERE migration_id = $1 AND flow = $2";
        let flow = &self.flow;
        self.session.execute(sql, &[&flow.migration, &flow.number, &position]).await?;
        self.session.batch("COMMIT").await
    }
}

/// Puts packed keys down as dirty in the open transaction, each by a transaction.
pub(super) async fn store_keys(
    session: &Session,
    flow: &Flow,
    keys: &[&[u8]],
    xids: &[String],
) -> Result<()> {
    let sql = "INSERT INTO pgwraith.dirty (migration_id, flow, kind, key, xid) \
               SELECT $1, $2, 'key', u.key, u.xid::pg_catalog.xid8 FROM ROWS FROM (\
               pg_catalog.unnest($3::pg_catalog.bytea[]), pg_catalog.unnest($4::pg_catalog.text[])) AS u(key, xid)";
    session.execute(sql, &[&flow.migration, &flow.number, &keys, &xids]).await?;
    Ok(())
}
