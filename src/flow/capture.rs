//! Takes in the stream: marks keys dirty, returns fences, reports how far the slot may advance.
//!
//! One task owns the replication stream. It never waits for anybody: where memory for dirty keys
//! is used up it stops reading, and goes on answering the server.
//!
//! The server sends each commit at once, in several packets. To be woken for each of them takes as much of
//! the processors that the application commits on as its commits do. So while nobody waits for a fence the
//! stream is read in gulps: when all has been read that came, it rests for [`REST`].

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::dirty::DirtySet;
use super::key::Key;
use super::together::{Keeping, Together};
use super::{Flow, Now};
use crate::error::{Error, Kind, Result};
use crate::pg::{Lsn, Session};
use crate::wal::{Frame, Message, Relation, ReplicationStream, Tuple, Value, XidWidener, decode};

/// The prefix of our messages in the log.
const FENCE_PREFIX: &str = "pgwraith";

/// How often the server hears from us.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// A server that says nothing for so long, although asked, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long the stream is left alone while nobody waits for it.
const REST: Duration = Duration::from_millis(20);
/// And where more than this had come, which says that more is coming than would have room in the socket.
const SHORT_REST: Duration = Duration::from_millis(1);
const MUCH: usize = 32 << 10;

/// What the capture has taken in, shared with those who work it off.
#[derive(Default)]
pub struct Tracker {
    dirty: Mutex<DirtySet>,
    fences: Mutex<HashMap<String, oneshot::Sender<()>>>,
    /// A fence was added.
    awaited: Notify,
    /// Relations that the stream told changes of.
    told: Mutex<HashSet<u32>>,
    /// Where the slot may advance to: stored in the state before it is set here.
    confirmed: AtomicU64,
    /// Counts arrivals: something became dirty, or the position moved.
    arrived: watch::Sender<u64>,
    /// Whether stored keys are to be brought back as memory allows (not while rows are copied).
    reload: AtomicBool,
    /// A whole batch could not be synced because of keys that were not in it.
    clash: AtomicBool,
    /// The last batch left keys unsynced.
    clashing: AtomicBool,
    /// Unique values wander between rows: batches wait for each other's, and deadlock.
    wandering: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    numbering: tokio::sync::Mutex<()>,
    /// Whether keys are kept together, and what that changes.
    pub(super) keeping: Keeping,
    /// Memory was freed.
    pub freed: Notify,
    next_fence: AtomicU64,
}

impl Tracker {
    /// The dirty keys. Held for moments only, never across an await.
    pub fn dirty(&self) -> MutexGuard<'_, DirtySet> {
        // A panic while it was held cannot leave half a change behind that matters: every change is
        // one call.
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that wait, and keys that were synced so far.
    pub fn counts(&self) -> (u64, u64) {
        let dirty = self.dirty();
        (dirty.backlog(), dirty.synced())
    }

    /// Lets the slot advance. The caller has stored `position` in the state.
    pub fn confirm(&self, position: Lsn) {
        self.confirmed.fetch_max(position.0, Ordering::SeqCst);
    }

    /// Where the slot may advance to.
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::SeqCst))
    }

    /// Wakes whoever waits for something to do.
    pub fn announce(&self) {
        self.arrived.send_modify(|n| *n += 1);
    }

    /// Sees every announcement from now on.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// From now on stored keys are brought back and synced.
    pub fn start_reloading(&self) {
        self.reload.store(true, Ordering::SeqCst);
        self.announce();
    }

    /// Whether stored keys are brought back.
    pub fn reloads(&self) -> bool {
        self.reload.load(Ordering::SeqCst)
    }

    /// No key of a batch could be synced: those that they clash with may be stored, waiting for room.
    pub fn clashed(&self) {
        self.clash.store(true, Ordering::SeqCst);
        self.announce();
    }

    /// Whether that happened since the last time.
    pub fn take_clash(&self) -> bool {
        self.clash.swap(false, Ordering::SeqCst)
    }

    /// Notes whether a batch left keys unsynced.
    pub fn expect_clash(&self, clash: bool) {
        self.clashing.store(clash, Ordering::SeqCst);
    }

    /// Whether the last batch did.
    pub fn expects_clash(&self) -> bool {
        self.clashing.load(Ordering::SeqCst)
    }

    /// Two batches met over a unique value: from now on one batch runs at a time.
    pub fn values_wander(&self) {
        self.wandering.store(true, Ordering::SeqCst);
    }

    /// Waits for this batch's turn, where only one may run at a time.
    pub async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.wandering.load(Ordering::SeqCst) {
            true => Some(self.turn.lock().await),
            false => None,
        }
    }

    /// To be held from before rows of `pgwraith.dirty` get their numbers until they are committed, by whoever stores keys
    /// while stored ones are brought back: that goes by their numbers, and would go past those that are committed
    /// behind greater ones.
    pub async fn numbers_rows(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.numbering.lock().await
    }

    /// For whoever is about to take all keys at once: from now on none is stored unless it has to be.
    pub fn keep_together(&self) -> Together {
        let together = self.keeping.begin();
        // Who has stopped for want of room goes on.
        self.freed.notify_one();
        self.announce();
        together
    }

    /// Whether keys should be synced at once: somebody is about to take all of them, they wait for each other,
    /// memory has no room for others, or there are so many that waiting for more does not make it cheaper.
    pub(super) fn presses(&self, many: usize) -> bool {
        let dirty = self.dirty();
        let wait = dirty.on_disk() > 0 || dirty.in_vain() > 0;
        wait || dirty.in_memory() >= many || self.keeping.is_under_way()
    }

    /// The relations that the stream told changes of.
    pub fn told_of(&self) -> HashSet<u32> {
        self.told().clone()
    }

    /// Rows of that relation come to the target as if the stream had told of them.
    pub fn tell_of(&self, relation: u32) {
        self.told().insert(relation);
    }

    /// Those changes do not matter any more.
    pub fn forget_told(&self, relations: &HashSet<u32>) {
        self.told().retain(|oid| !relations.contains(oid));
    }

    fn told(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fences(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes fences and waits for them.
///
/// A fence is a transactional message in a small transaction of its own, committed with
/// `synchronous_commit = local`: every commit whose record is before it in the log is delivered
/// before it, and everything a snapshot taken earlier sees has its record before it.
pub struct Fence {
    session: Session,
    tracker: Arc<Tracker>,
    migration: i64,
    report: Box<dyn Fn(Duration) + Send + Sync>,
}

impl Fence {
    /// `session` is used for fences alone. How long each took that came back is told to `report`.
    pub fn new(
        session: Session,
        tracker: Arc<Tracker>,
        migration: i64,
        report: impl Fn(Duration) + Send + Sync + 'static,
    ) -> Self {
        Fence { session, tracker, migration, report: Box::new(report) }
    }

    /// Writes a fence and waits until the stream returns it, no longer than `limit`.
    pub async fn pass(&self, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        let number = self.tracker.next_fence.fetch_add(1, Ordering::SeqCst);
        let token = format!("fence {} {} {number}", self.migration, self.session.pid());
        let (returned, wait) = oneshot::channel();
        self.tracker.fences().insert(token.clone(), returned);
        // Only now: the capture looks at the fences before it rests, and hears of this in its rest.
        self.tracker.awaited.notify_one();
        let came_back = timeout(limit, async {
            let sql = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::pg_catalog.text)";
            self.session.one(sql, &[&FENCE_PREFIX, &token]).await?;
            wait.await.map_err(|_| Error::failed("the replication stream ended"))
        })
        .await;
        self.tracker.fences().remove(&token);
        came_back.unwrap_or_else(|_| {
            Err(Error::failed(format!(
                "a message written to the log did not come back within {} ms: logical decoding lags",
                limit.as_millis()
            )))
        })?;
        let took = started.elapsed();
        (self.report)(took);
        Ok(took)
    }
}

/// Reads the stream until `stop`; ends the stream then. Any other end is an error.
pub async fn capture(
    mut stream: ReplicationStream,
    flow: Arc<Flow>,
    tracker: Arc<Tracker>,
    next_xid: u64,
    most_in_memory: Now<usize>,
    stop: CancellationToken,
) -> Result<()> {
    let mut reader = Reader {
        flow,
        tracker: tracker.clone(),
        xids: XidWidener::new(next_xid),
        relations: HashMap::new(),
        transaction: None,
        unannounced: false,
    };
    let mut status = interval(STATUS_EVERY);
    status.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let (mut rest, mut gulp, mut announced) = (None, 0, 0);
    loop {
        let full = tracker.dirty().in_memory() >= tracker.keeping.most(most_in_memory());
        if full {
            // In the middle of a large transaction nothing else would wake the keeper.
            tracker.announce();
        }
        tokio::select! {
            biased;
            _ = stop.cancelled() => break,
            _ = status.tick() => {
                let (received, confirmed) = (tracker.dirty().received(), tracker.confirmed());
                let ask = heard.elapsed() > SILENCE_LIMIT / 4;
                stream.status_update(received, confirmed, confirmed, ask).await?;
                if heard.elapsed() > SILENCE_LIMIT && !full {
                    return Err(Error::lost("the server stopped answering on the replication connection"));
                }
            }
            _ = tracker.freed.notified(), if full => {}
            // Somebody waits, or it has rested.
            _ = timeout_at(rest.unwrap_or(heard), tracker.awaited.notified()), if rest.is_some() => {
                stream.wake();
                rest = None;
            }
            frame = stream.next(), if !full && rest.is_none() => {
                heard = Instant::now();
                let Some(frame) = frame? else {
                    return Err(Error::lost("the server is shutting down and ended the stream"));
                };
                if let Frame::XLogData { data, .. } = &frame {
                    gulp += data.len();
                }
                if reader.take(frame)? {
                    let confirmed = tracker.confirmed();
                    let received = tracker.dirty().received();
                    stream.status_update(received, confirmed, confirmed, false).await?;
                }
                if gulp - announced > MUCH || !tracker.fences().is_empty() {
                    reader.announce();
                    announced = gulp;
                }
            }
            // All was read that came. (What came in the rest is told by the runtime, behind this: to rest again before
            // it had the time to would leave that unread for as long as nobody waits for a fence, and the slot where
            // it is.)
            () = ready(()), if !full && rest.is_none() && !stream.has_unread() && tracker.fences().is_empty() => {
                let time = if gulp > MUCH { SHORT_REST } else { REST };
                (rest, gulp, announced) = (Some(Instant::now() + time), 0, 0);
                reader.announce();
                stream.rest();
            }
        }
    }
    let (received, confirmed) = (tracker.dirty().received(), tracker.confirmed());
    let _ = stream.status_update(received, confirmed, confirmed, false).await;
    stream.finish().await;
    Ok(())
}

struct Reader {
    flow: Arc<Flow>,
    tracker: Arc<Tracker>,
    xids: XidWidener,
    /// By relation oid: where the key's columns stand in its tuples.
    relations: HashMap<u32, Vec<usize>>,
    transaction: Option<Transaction>,
    /// Something arrived that nobody was told of: whoever hears of each commit wakes for each.
    unannounced: bool,
}

struct Transaction {
    xid: u64,
    /// The position of its commit record.
    commit: Lsn,
    fences: Vec<String>,
}

impl Reader {
    /// Takes in one frame; true where the server wants an answer.
    fn take(&mut self, frame: Frame) -> Result<bool> {
        match frame {
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                // Nothing before it is left to send. Our own copy makes gigabytes of log that the
                // stream skips: without this the slot would hold all of it.
                if self.transaction.is_none() {
                    self.tracker.dirty().advance(wal_end);
                    self.unannounced = true;
                }
                Ok(reply_requested)
            }
            Frame::XLogData { data, .. } => self.message(decode(data)?).map(|()| false),
        }
    }

    fn message(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Begin { final_lsn, xid, .. } => {
                let xid = self.xids.widen(xid);
                self.transaction = Some(Transaction { xid, commit: final_lsn, fences: Vec::new() });
            }
            Message::Commit { end_lsn, .. } => self.commit(end_lsn),
            Message::Relation(relation) => self.relation(relation)?,
            Message::Insert { relation, new } => self.mark(relation, &new, None)?,
            Message::Update { relation, old, new } => {
                let old = old.map(|o| o.tuple);
                if let Some(old) = &old {
                    self.mark(relation, old, None)?;
                }
                self.mark(relation, &new, old.as_ref())?;
            }
            Message::Delete { relation, old } => self.mark(relation, &old.tuple, None)?,
            Message::Truncate { relations, .. } => self.truncate(&relations)?,
            Message::Logical { transactional: true, prefix, content, .. }
                if prefix == FENCE_PREFIX.as_bytes() =>
            {
                if let (Some(t), Ok(token)) =
                    (&mut self.transaction, String::from_utf8(content.to_vec()))
                {
                    t.fences.push(token);
                }
            }
            Message::Logical { .. } | Message::Origin { .. } | Message::Type { .. } => {}
        }
        Ok(())
    }

    /// Only now may fences return: everything up to this commit is in the dirty set.
    fn commit(&mut self, end: Lsn) {
        let Some(transaction) = self.transaction.take() else { return };
        self.tracker.dirty().advance(end);
        for token in transaction.fences {
            if let Some(waiting) = self.tracker.fences().remove(&token) {
                let _ = waiting.send(());
            }
        }
        self.unannounced = true;
    }

    /// Wakes whoever waits for what arrived.
    fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) {
            self.tracker.announce();
        }
    }

    fn relation(&mut self, relation: Relation) -> Result<()> {
        let place = |name: &str| {
            relation.columns.iter().position(|c| c.name == name.as_bytes()).ok_or_else(|| {
                Error::new(
                    Kind::NotResumable,
                    format!("the stream no longer carries the key column {name:?}"),
                )
                .next("Someone changed the table or pgwraith's publication: abort and start again")
            })
        };
        let places = self.flow.key.iter().map(|k| place(&k.source)).collect::<Result<_>>()?;
        self.tracker.told().insert(relation.oid);
        self.relations.insert(relation.oid, places);
        Ok(())
    }

    /// Marks the key in `tuple`; a value it does not carry (an unchanged toasted key) is in `old`.
    fn mark(&mut self, relation: u32, tuple: &Tuple, old: Option<&Tuple>) -> Result<()> {
        let (transaction, places) = self.place(relation)?;
        let value = |&place: &usize| match tuple.get(place) {
            Some(Value::Binary(bytes)) => Some(bytes),
            Some(Value::Unchanged) => match old.and_then(|o| o.get(place)) {
                Some(Value::Binary(bytes)) => Some(bytes),
                _ => None,
            },
            _ => None,
        };
        let columns: Option<Vec<&Bytes>> = places.iter().map(value).collect();
        let columns = columns.ok_or_else(|| {
            Error::new(Kind::NotResumable, "the stream sent a change without its key").next(
                "Someone changed the table's replica identity or publication: abort and start again",
            )
        })?;
        let key = Key::pack(columns.into_iter().map(|b| &b[..]));
        let (xid, commit) = (transaction.xid, transaction.commit);
        self.tracker.dirty().mark(key, xid, commit);
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<()> {
        let captured = &self.flow.captured;
        // All that the publication has besides a partitioned table is its partitions.
        if (captured.is_partitioned || relations.contains(&captured.oid))
            && let Some(t) = &self.transaction
        {
            self.tracker.dirty().mark_truncate(t.xid, t.commit);
            self.tracker.announce();
        }
        Ok(())
    }

    fn place(&self, relation: u32) -> Result<(&Transaction, &Vec<usize>)> {
        let known = self.transaction.as_ref().zip(self.relations.get(&relation));
        known.ok_or_else(|| Error::failed("the stream sent a change of an unannounced relation"))
    }
}
