//! Copies the captured relation range by range into the target, several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::blame::blame;
use super::capture::Tracker;
use super::chunk::{self, Kind, Planner, Range};
use super::clash::{Way, store_absent};
use super::cut::Prepared;
use super::piece::{Pieces, unrested};
use super::segment::Segment;
use super::write::{Door, Isolation, Writer};
use super::{Flow, Now, sql::Bounds};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Lsn, Session};
use crate::throttle::valve::Valve;

/// A chunk that failed for a passing reason is tried so often.
const ATTEMPTS: u32 = 8;

/// One copied range.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    pub number: i64,
    pub rows: u64,
    /// The rows of the range, also those that are not wanted; as far as they were counted when it was cut.
    pub passed: u64,
    /// Without the rests in it.
    pub took: Duration,
    /// What of it was not rested for yet.
    pub(super) unrested: Duration,
}

/// Copies one flow; shared by its workers.
pub struct Copier {
    pub flow: Arc<Flow>,
    pub writer: Writer,
    pub door: Door,
    pub tracker: Arc<Tracker>,
    pub planner: Mutex<Planner>,
    pub valve: Valve,
    /// Every range was handed out, or all that are wanted: nobody waits for another.
    pub covered: CancellationToken,
    /// What a range should take.
    pub aim: Now<Duration>,
    /// What was done is added up here.
    pub worked: Arc<Worked>,
    /// What the rows that do not fit are told to; without it the first of them ends the copy.
    pub misfits: Option<Misfits>,
}

/// What a worker keeps from range to range.
#[derive(Default)]
struct Inserting {
    pieces: Pieces,
    statements: Prepared,
}

/// What workers did, and the time it took them, without that in which they rested.
#[derive(Debug, Default)]
pub struct Worked {
    wal: AtomicU64,
    micros: AtomicU64,
}

impl Worked {
    pub(super) fn add(&self, wal: u64, took: Duration) {
        self.wal.fetch_add(wal, Ordering::Relaxed);
        self.micros.fetch_add(micros(took), Ordering::Relaxed);
    }

    /// Bytes of WAL that were written in a second of one worker's time; None where nothing was done.
    pub fn wal_per_second(&self) -> Option<u64> {
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let rate = (self.wal.load(Ordering::Relaxed) as f64 / seconds) as u64;
        (seconds > 0.0 && rate > 0).then_some(rate)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Told of rows that do not fit the new table; the range goes without any row then.
pub type Misfits = Box<dyn Fn(Error) -> Result<()> + Send + Sync>;

impl Copier {
    /// The worker `number`, from 0: takes range after range until the key space is covered, as fast as it
    /// may. Tells each to `report`.
    pub async fn work(
        &self,
        session: &Session,
        number: usize,
        report: impl Fn(Copied),
    ) -> Result<()> {
        session.batch("SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0").await?;
        let (mut worked, mut inserting) = (Duration::ZERO, Inserting::default());
        loop {
            let _there = tokio::select! {
                biased;
                () = self.covered.cancelled() => return Ok(()),
                there = self.valve.pass(number, worked) => there,
            };
            let shared = self.door.share().await;
            let Some(range) = self.next_range().await? else {
                self.covered.cancel();
                return Ok(());
            };
            let copied = self.copy(session, &mut inserting, &range).await;
            drop(shared);
            let copied = match (copied, &self.misfits) {
                (Err(e), Some(misfits)) if e.kind() == ErrorKind::DataDiffers => {
                    misfits(e)?;
                    continue;
                }
                (copied, _) => copied?,
            };
            report(copied);
            worked = copied.unrested;
        }
    }

    async fn next_range(&self) -> Result<Option<Range>> {
        let mut planner = self.planner.lock().await;
        planner.pace.aim((self.aim)());
        planner.pace.take_a_share(self.valve.share());
        planner.next(&self.valve).await
    }

    async fn copy(
        &self,
        session: &Session,
        inserting: &mut Inserting,
        range: &Range,
    ) -> Result<Copied> {
        let (mut attempt, mut way) = (0, Way::All);
        let mut clash = String::new();
        loop {
            attempt += 1;
            let error = match self.try_copy(session, inserting, range, way).await {
                Ok(copied) => return Ok(copied),
                Err(error) => error,
            };
            if session.is_closed() {
                return Err(error);
            }
            session.rollback().await;
            if let Some(next) = way.after(&error) {
                tracing::debug!("chunk {} clashes: {error}", range.number);
                (way, clash) = (next, error.what().to_owned());
                continue;
            }
            if self.flow.lacks_room(&error) && attempt < ATTEMPTS {
                match self.flow.make_room_for_range(range).await {
                    Ok(made) => {
                        // That a lock could not be had says nothing of the rows.
                        attempt -= u32::from(!made);
                        continue;
                    }
                    Err(e) if e.kind() == ErrorKind::DataDiffers => {
                        return Err(self.rows_do_not_fit(session, range, e).await);
                    }
                    Err(e) => return Err(e.context(format!("copying chunk {}", range.number))),
                }
            }
            match classify(&error) {
                Class::Transient if attempt < ATTEMPTS => {
                    tracing::debug!("chunk {} is tried again: {error}", range.number);
                }
                Class::RowsDoNotFit => {
                    return Err(self.rows_do_not_fit(session, range, error).await);
                }
                _ if error.kind() == ErrorKind::DataDiffers => {
                    return Err(Error::new(error.kind(), format!("{}. {clash}", error.what()))
                        .next("Correct the data or the change, then start again"));
                }
                _ => return Err(error.context(format!("copying chunk {}", range.number))),
            }
        }
    }

    /// One range in one transaction, its progress in the same transaction: committed both or none.
    async fn try_copy(
        &self,
        session: &Session,
        inserting: &mut Inserting,
        range: &Range,
        way: Way,
    ) -> Result<Copied> {
        let started = Instant::now();
        let snapshot = self.writer.begin(session, Isolation::RepeatableRead).await?;
        let wal_before = self.claim(session, range).await?;
        self.writer.as_owner(session).await?;
        let (rows, rested) = match (way, way.statement(&self.flow, range.bounds())) {
            (Way::All, _) => self.insert(session, inserting, &range.keys).await?,
            (_, Some(sql)) => (session.execute(&sql, &range.parameters()).await?, Duration::ZERO),
            (_, None) => (0, Duration::ZERO),
        };
        let absent = match way {
            Way::All => 0,
            _ => store_absent(session, &self.flow, &self.writer, range, rows).await?,
        };
        self.writer.as_tool(session).await?;
        let which = (Kind::Copy, range.number);
        let wal_after = chunk::settle(session, &self.flow, which, rows, &snapshot).await?;
        failpoint!("chunk copied");
        self.commit(session, absent).await?;
        failpoint!("chunk committed");
        let took = started.elapsed().saturating_sub(rested);
        let wal = wal_after.bytes_since(wal_before);
        self.worked.add(wal, took);
        let passed = range.size(rows as i64);
        self.planner.lock().await.pace.learn(passed, took, wal);
        let (number, passed) = (range.number, passed.max(0) as u64);
        Ok(Copied { number, rows, passed, took, unrested: unrested(took, rested) })
    }

    /// Inserts a range in the open transaction; returns its rows, and the rests in it.
    async fn insert(
        &self,
        session: &Session,
        Inserting { pieces, statements }: &mut Inserting,
        range: &Segment,
    ) -> Result<(u64, Duration)> {
        let (flow, mut rows) = (&*self.flow, 0);
        let along = (flow, &flow.course(Kind::Copy));
        let rested = pieces.each(session, along, &self.valve, range, async |piece| {
            let insert = statements.of(session, piece, |b| flow.copy_range(b)).await?;
            rows += session.run_count(&insert, &piece.parameters()).await?;
            Ok(())
        });
        let rested = rested.await?;
        Ok((rows, rested))
    }

    /// Commits a range, with so many keys of it stored as dirty. Where the answer is lost, so is the
    /// stretch, and the next one counts what is stored.
    async fn commit(&self, session: &Session, absent: u64) -> Result<()> {
        if absent == 0 {
            return session.batch("COMMIT").await;
        }
        failpoint!("clash stored");
        self.tracker.dirty().will_be_stored(absent);
        let committed = session.batch("COMMIT").await;
        if committed.is_err() {
            self.tracker.dirty().were_not_stored(absent);
        }
        failpoint!("clash committed");
        committed
    }

    /// Locks the chunk's row and finds it not done (**Invariant 9**: no chunk is copied twice).
    async fn claim(&self, session: &Session, range: &Range) -> Result<Lsn> {
        match chunk::claim(session, &self.flow, Kind::Copy, range.number).await? {
            Some((at, false)) => Ok(at),
            Some((_, true)) => {
                Err(Error::failed(format!("chunk {} was copied by another run", range.number)))
            }
            None => Err(self.planner.lock().await.check().await.err().unwrap_or_else(|| {
                Error::failed(format!("chunk {} is not in the state any more", range.number))
            })),
        }
    }

    async fn rows_do_not_fit(&self, session: &Session, range: &Range, error: Error) -> Error {
        let culprit = match blame(session, &self.flow, &self.writer, range).await {
            Ok(Some(key)) => format!("the row with key {key} does not fit the new table"),
            Ok(None) => "a row did not fit the new table, and has changed since".to_owned(),
            Err(e) => format!("a row does not fit the new table (its key was not found: {e})"),
        };
        Error::new(ErrorKind::DataDiffers, format!("{culprit}. {}", error.what()))
            .next(self.flow.target.mend_of(&error))
    }

    /// Whether the server would answer a range by reading the whole table, asked without running it.
    pub async fn reads_whole_table(&self, session: &Session, range: &Range) -> Result<bool> {
        let bounds = range.bounds();
        if bounds == (Bounds { lower: false, upper: false }) {
            return Ok(false);
        }
        let sql = format!("EXPLAIN {}", self.flow.copy_range(bounds));
        let plan = session.query(&sql, &range.parameters()).await?;
        Ok(plan.iter().any(|line| line.get::<_, &str>(0).contains("Seq Scan on")))
    }
}
