//! Gives the rows of a relation that have no value in a column its default, range by range, and proves that
//! none is left.
//!
//! The application writes meanwhile, and is not to wait. A row that somebody has locked is passed over, so that we
//! wait for nobody while rows are locked by us; whoever wants one of those waits for the end of one piece, which the
//! server cuts off. What is passed over, and what a new key moves from a range that is to come into one that is
//! done, is found by the look at the end ([`Filler::sweep`]): it reads all rows at one snapshot, whatever
//! their keys, and rows that are younger have had the default since before the first range.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use super::chunk::{self, Kind, Planner, Range};
use super::copy::{Copied, Worked};
use super::key::{Key, array_parameters, key_arrays};
use super::write::{Isolation, Writer};
use super::{Flow, Now};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{GivesWay, Lsn, QualifiedName, Ran, Session};
use crate::throttle::valve::Valve;

/// What fails for a passing reason is tried so often.
const ATTEMPTS: u32 = 20;
/// A range that takes too long at once is done in pieces, of so many rows at first.
const PIECE: i64 = 1_000;
/// Rows that one look names, and that are filled at a time.
const LOOK: i64 = 5_000;
const BATCH: usize = 100;
/// Whoever writes NULL himself would keep us looking for ever.
const LOOKS: u32 = 3;
/// Pauses for those who have locked rows.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fills one column; shared by its workers.
pub struct Filler {
    pub flow: Arc<Flow>,
    pub column: String,
    pub writer: Writer,
    pub planner: Mutex<Planner>,
    pub valve: Valve,
    /// Every range was handed out.
    pub covered: CancellationToken,
    /// What a range should take, and the longest that one piece may: so long its rows are locked.
    pub aim: Now<Duration>,
    pub most: Now<Duration>,
    pub worked: Arc<Worked>,
}

/// What became of one piece.
struct Piece {
    /// That had no value, and were locked by nobody else; all of them were filled.
    rows: u64,
    wal: u64,
    /// There are no more in the range.
    last: bool,
}

impl Filler {
    /// The worker `number`, from 0: takes range after range, as fast as it may. Tells each to `report`.
    pub async fn work(
        &self,
        session: &Session,
        number: usize,
        report: impl Fn(Copied),
    ) -> Result<()> {
        session.batch(BY_INDEX).await?;
        let mut worked = Duration::ZERO;
        loop {
            let _there = tokio::select! {
                biased;
                () = self.covered.cancelled() => return Ok(()),
                there = self.valve.pass(number, worked) => there,
            };
            let range = {
                let mut planner = self.planner.lock().await;
                planner.pace.aim((self.aim)());
                planner.pace.take_a_share(self.valve.share());
                planner.next(&self.valve).await?
            };
            let Some(range) = range else {
                self.covered.cancel();
                return Ok(());
            };
            let copied = self.fill(session, &range).await?;
            report(copied);
            worked = copied.took;
        }
    }

    async fn fill(&self, session: &Session, range: &Range) -> Result<Copied> {
        let (started, mut attempts) = (Instant::now(), 0);
        let (mut rows, mut wal, mut most_rows) = (0, 0, i64::MAX);
        loop {
            let error = match self.piece(session, range, most_rows, rows).await {
                Ok(piece) => {
                    (rows, wal) = (rows + piece.rows, wal + piece.wal);
                    if !piece.last {
                        // It got somewhere: a long range may meet many a slow moment.
                        attempts = 0;
                        continue;
                    }
                    let took = started.elapsed();
                    self.worked.add(wal, took);
                    self.planner.lock().await.pace.learn(rows as i64, took, wal);
                    let (number, passed) = (range.number, rows);
                    return Ok(Copied { number, rows, passed, took, unrested: took });
                }
                Err(error) => error,
            };
            if session.is_closed() {
                return Err(error);
            }
            session.rollback().await;
            attempts += 1;
            match classify(&error) {
                // A row that moved to another partition under our snapshot cannot be locked: of fewer rows fewer do.
                Class::Late | Class::Transient if attempts < ATTEMPTS => {
                    most_rows = if most_rows == i64::MAX { PIECE } else { (most_rows / 4).max(1) };
                    tracing::debug!("range {} goes on in pieces of {most_rows}", range.number);
                }
                Class::Late if most_rows == 1 => return Err(self.takes_too_long()),
                _ => return Err(self.told(error, range.number)),
            }
        }
    }

    fn told(&self, e: Error, range: i64) -> Error {
        let what = format!("filling column {:?} in range {range} of the key", self.column);
        match classify(&e) {
            Class::RowsDoNotFit | Class::Duplicate => e
                .with_kind(ErrorKind::DataDiffers)
                .context(what)
                .next("pgwraith.chunk has the bounds of the range (kind \"fill\"); correct what refuses the value"),
            _ => e.context(what),
        }
    }

    /// At most so many rows of a range in one transaction, and with the last of them that it is done: committed
    /// both or none. `before` have been filled already.
    async fn piece(
        &self,
        session: &Session,
        range: &Range,
        most_rows: i64,
        before: u64,
    ) -> Result<Piece> {
        let flow = &self.flow;
        let snapshot = self.writer.begin(session, Isolation::ReadCommitted).await?;
        let began = self.claim(session, range).await?;
        let mut parameters = range.parameters();
        parameters.push(&most_rows);
        let lock = flow.lock_unfilled_range(range.bounds(), &self.column);
        let rows = self.locked_and_filled(session, &lock, &parameters).await?;
        self.writer.as_tool(session).await?;
        session.batch("SET LOCAL statement_timeout = 0").await?;
        let last = (rows as i64) < most_rows;
        let ended: Lsn = if last {
            let which = (Kind::Fill, range.number);
            chunk::settle(session, flow, which, before + rows, &snapshot).await?
        } else {
            session.one("SELECT pg_catalog.pg_current_wal_insert_lsn()", &[]).await?.get(0)
        };
        failpoint!("range filled");
        session.batch("COMMIT").await?;
        failpoint!("fill committed");
        Ok(Piece { rows, wal: ended.bytes_since(began), last })
    }

    /// Two statements, of which the first finds the rows by our operators, and only the second, one for each table that
    /// has some, is executed as the operator's own session would be: a default may call what uses names that are not
    /// qualified. What is locked stays where it is in between. Each has what the others have left of the time of one.
    async fn locked_and_filled(
        &self,
        session: &Session,
        lock: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        let began = Instant::now();
        let limit = || {
            let left = (self.most)().saturating_sub(began.elapsed()).as_millis().max(1);
            format!("SET LOCAL statement_timeout = {left}")
        };
        session.batch(&limit()).await?;
        self.writer.as_owner(session).await?;
        let locked = session.query(lock, parameters).await?;
        if locked.is_empty() {
            return Ok(0);
        }
        session.batch("RESET search_path").await?;
        let mut all = 0;
        for row in &locked {
            let table = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
            let (places, seen): (&str, i64) = (row.get(2), row.get(3));
            session.batch(&limit()).await?;
            let filled = session.one(&Flow::fill(&table, &self.column), &[&places]).await?;
            self.all_of(seen, filled.get(0), filled.get(1))?;
            all += seen;
        }
        // Not LOCAL: the RESET is of the session, and would come back with COMMIT.
        session.batch("SET search_path = pg_catalog, pg_temp").await?;
        Ok(all.max(0) as u64)
    }

    /// Those that are locked are there, and empty: only a trigger or a rule keeps them so, and would for ever. NULL is
    /// how a row is known that was not come to yet: such a default would be asked again and again.
    fn all_of(&self, seen: i64, filled: i64, without: i64) -> Result<()> {
        let column = &self.column;
        if without > 0 {
            let what = format!(
                "the default of column {column:?} gives NULL for a row, and a row with NULL is one that was not filled yet"
            );
            return Err(Error::new(ErrorKind::DataDiffers, what).next(
                "Going on would ask the default again: abort, and make the change by a copy (`pgwraith run` without --in-place)",
            ));
        }
        if filled != seen {
            let what = format!(
                "column {column:?}: of {seen} rows {filled} were filled; a trigger or rule that came meanwhile keeps the others from it"
            );
            return Err(
                Error::failed(what).next("Take it off the table until the column is filled")
            );
        }
        Ok(())
    }

    fn takes_too_long(&self) -> Error {
        let what = format!(
            "column {:?}: one row takes longer to be filled than --max-lock-hold ({} ms)",
            self.column,
            (self.most)().as_millis()
        );
        Error::failed(what).next(
            "Look at what the default calls, and what keeps the server busy; or allow more time",
        )
    }

    async fn claim(&self, session: &Session, range: &Range) -> Result<Lsn> {
        match chunk::claim(session, &self.flow, Kind::Fill, range.number).await? {
            Some((at, false)) => Ok(at),
            Some((_, true)) => {
                Err(Error::failed(format!("range {} was filled by another run", range.number)))
            }
            None => Err(self.planner.lock().await.check().await.err().unwrap_or_else(|| {
                Error::failed(format!("range {} is not in the state any more", range.number))
            })),
        }
    }

    /// Fills what the ranges have left, until a look at all rows finds none. `looker` reads, and gives way to whom
    /// `watcher` sees wait for that; `session` writes.
    pub async fn sweep(
        &self,
        (looker, watcher, session): (&Session, &Session, &Session),
        tell: impl Fn(String),
    ) -> Result<()> {
        looker.set_role(&self.writer.owner).await?;
        let mut ways = GivesWay::new(format!("the last look for rows without {:?}", self.column));
        session.batch(BY_INDEX).await?;
        let (mut looks, mut pause, mut worked) = (0, PAUSE, Duration::ZERO);
        let (mut most, mut batch, mut all_filled) = (None, BATCH, 0);
        loop {
            let (sql, limit): (_, [&(dyn ToSql + Sync); 1]) =
                (self.flow.unfilled(&self.column), [&LOOK]);
            let rows = match ways.run(watcher, looker.pid(), looker.query(&sql, &limit)).await? {
                Ran::Done(rows) => rows,
                Ran::GaveWay(why) => {
                    tell(why);
                    continue;
                }
            };
            let width = self.flow.key.len();
            let found: Vec<Key> = rows.iter().map(|row| Key::of_row(row, width)).collect();
            if found.is_empty() {
                return Ok(());
            }
            if most.is_none() {
                most = Some(self.most_to_fill(looker, found.len()).await?);
            }
            let (mut filled, mut rest, mut late) = (0, &found[..], 0);
            while !rest.is_empty() {
                let (keys, behind) = rest.split_at(batch.min(rest.len()));
                let _there = self.valve.pass(0, worked).await;
                let started = Instant::now();
                match self.fill_keys(session, keys).await? {
                    Some(rows) => (filled, rest, late) = (filled + rows, behind, 0),
                    None if late == ATTEMPTS => return Err(self.takes_too_long()),
                    // The same once more, of fewer.
                    None => (batch, late) = ((batch / 4).max(1), late + 1),
                }
                worked = started.elapsed();
            }
            all_filled += filled;
            if filled == 0 {
                if pause == PAUSE {
                    tell(format!(
                        "rows that are not filled yet are locked by others: {} at least",
                        found.len()
                    ));
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else if found.len() < LOOK as usize && filled == found.len() as u64 {
                looks += 1;
            }
            if looks == LOOKS {
                tell(format!(
                    "column {:?}: somebody writes NULL into it all the time",
                    self.column
                ));
                return Ok(());
            }
            // Not even one look has come to an end: it is not known that all that were there are filled.
            if most.is_some_and(|most| all_filled > most) {
                let what = "somebody writes NULL into it faster than it is filled";
                return Err(Error::failed(format!("column {:?}: {what}", self.column))
                    .next("Stop that, and go on"));
            }
        }
    }

    /// Each row that the ranges have left is filled once, and those are what the first look sees. Whoever writes NULL
    /// has more found for ever; so long that is borne.
    async fn most_to_fill(&self, looker: &Session, found: usize) -> Result<u64> {
        let borne = u64::from(LOOKS) * LOOK as u64;
        if found < LOOK as usize {
            return Ok(found as u64 + borne);
        }
        let all: i64 = looker.one(&self.flow.count_unfilled(&self.column), &[]).await?.get(0);
        Ok(all.max(0) as u64 + borne)
    }

    /// None where that was too much at once.
    async fn fill_keys(&self, session: &Session, keys: &[Key]) -> Result<Option<u64>> {
        let arrays = key_arrays(self.flow.key_type_oids(), keys);
        let parameters = array_parameters(&arrays);
        self.writer.begin(session, Isolation::ReadCommitted).await?;
        let lock = self.flow.lock_unfilled_keys(&self.column);
        let filled = self.locked_and_filled(session, &lock, &parameters).await;
        let error = match filled {
            Ok(rows) => return session.batch("COMMIT").await.map(|()| Some(rows)),
            Err(e) => e,
        };
        session.rollback().await;
        match classify(&error) {
            Class::Late => Ok(None),
            Class::Transient => Ok(Some(0)),
            _ => Err(error.context(format!("filling column {:?}", self.column))),
        }
    }
}

/// Rows are found by the key and then by where they are, never by a look at all of them.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SET max_parallel_workers_per_gather = 0";
