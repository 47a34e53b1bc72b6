//! Verification: read-only, and exact under full write load (**Invariant 8**'s proof).
//!
//! A round: start recording P, every key that is or becomes dirty, batches in flight included; take
//! a repeatable-read snapshot S; pass a fence, after which P is complete. For a key outside P the
//! target at S must be the captured relation at S: whatever S sees of it was delivered before the
//! fence, so before it was recorded nothing of it was outstanding, and a sync that cleared it
//! committed before S. So ranges are compared in S without the keys of P, with no tolerance. The
//! keys of P are compared by name in a later round, once they are not in its P; those that are hot
//! to the end are compared under the cutover lock.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;

use super::capture::{Fence, Tracker};
use super::chunk::{Kind as ChunkKind, Planner, Range};
use super::cut::Prepared;
use super::differ::{Difference, compare_keys, difference};
use super::found::{Findings, Sums};
use super::key::{Key, array_parameters, key_arrays};
use super::piece::{Pieces, unrested};
use super::segment::Segment;
use super::sync::FENCE_LIMIT;
use super::write::{Isolation, Writer};
use super::{Flow, Now};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{RawArray, Session, quote_ident, quote_literal};
use crate::throttle::presence::There;
use crate::throttle::valve::Valve;

/// With more keys to be left out a range is compared as a whole.
const MANY_KEYS: usize = 1_000;
/// So many differing rows are told one by one.
const MOST_NAMED: u64 = 10_000;
/// So few keys are left for the comparison under the cutover lock.
const FEW: usize = 500;
/// A longer repair is of a key that is changed all the time.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);
/// So long a round waits for a lock that somebody holds up who may be waiting for the round.
const GIVE_WAY: &str = "lock_timeout = '100ms'";
/// Rounds spent on keys that are changed again and again.
const KEY_ROUNDS: usize = 5;

/// What verification tells as it goes.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// A range was compared.
    Compared { rows: u64, equal: bool, took: Duration },
    /// So many rows differ.
    Differ(u64),
}

/// How it goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub workers: usize,
    /// No snapshot of ours lives longer.
    pub max_snapshot_age: Duration,
    /// What a range should take.
    pub range_time: Duration,
}

/// Compares one flow's sides; its sessions share each round's snapshot.
pub struct Verifier {
    pub flow: Arc<Flow>,
    pub writer: Writer,
    pub tracker: Arc<Tracker>,
    pub planner: Mutex<Planner>,
    pub valve: Valve,
    pub limits: Now<Limits>,
    /// So many differing rows are named.
    pub named: u64,
}

/// A range that differs, its rows that do, and whether it was compared before.
type Suspect = (Range, Vec<Difference>, bool);

/// What a worker keeps from range to range.
#[derive(Default)]
struct Comparing {
    pieces: Pieces,
    /// Without keys to be left out, and with.
    statements: [Prepared; 2],
}

/// The state of one verification.
#[derive(Default)]
struct Progress {
    findings: Findings,
    /// Ranges that differed once, to be compared again after the repair.
    again: Vec<Range>,
    /// Keys not compared yet.
    open: HashSet<Key>,
    /// Keys that differed by name and were repaired.
    repaired: HashSet<Key>,
    /// Those of them whose repair was asked for in the last round.
    asked: Vec<Key>,
}

impl Verifier {
    /// Compares every range, repairs what differs, and compares that again, in sessions that `open` opens. Tells each to
    /// `report`. Returns the findings and the keys that were too hot to compare, for the comparison under the cutover
    /// lock.
    ///
    /// `DataDiffers` where repair does not cure a difference.
    pub async fn verify(
        &self,
        open: impl AsyncFn(usize) -> Result<Session>,
        fence: &Fence,
        report: impl Fn(Seen),
    ) -> Result<(Findings, HashSet<Key>)> {
        let mut sessions = Vec::new();
        self.planner.lock().await.session().batch(&format!("SET {GIVE_WAY}")).await?;
        let mut progress = Progress::default();
        let mut key_rounds = 0;
        loop {
            while self.wants_more(&sessions) {
                let session = open(sessions.len()).await?;
                // Each with its own keys to be left out: what suits few of them does not suit many.
                let sql = "SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0; \
                           SET plan_cache_mode = force_custom_plan";
                session.batch(sql).await?;
                sessions.push(session);
            }
            // Before there is a snapshot.
            let there = self.valve.pass(0, Duration::ZERO).await;
            self.round(&sessions, fence, there, &mut progress, &report).await?;
            let ranges_done = self.planner.lock().await.is_complete() && progress.again.is_empty();
            if ranges_done {
                key_rounds += 1;
                // What was repaired is compared before the lock, however few it is (Invariant 8).
                let few =
                    progress.open.len() <= FEW && progress.repaired.is_disjoint(&progress.open);
                if few || key_rounds > KEY_ROUNDS {
                    return Ok((progress.findings, progress.open));
                }
            }
        }
    }

    /// Whether there are fewer sessions than workers: those that are not wanted any more wait at the valve.
    fn wants_more(&self, sessions: &[Session]) -> bool {
        sessions.len() < (self.limits)().workers.max(1)
    }

    async fn round(
        &self,
        sessions: &[Session],
        fence: &Fence,
        there: There,
        progress: &mut Progress,
        report: &impl Fn(Seen),
    ) -> Result<()> {
        loop {
            self.wait_for_repairs(std::mem::take(&mut progress.asked)).await;
            // The fence under the snapshot is then a fast one. What this one brings may be stored.
            fence.pass(FENCE_LIMIT).await?;
            if self.tracker.dirty().start_recording() {
                break;
            }
        }
        let began = Instant::now();
        let ready = self.take_snapshot(sessions, fence).await;
        let recorded = self.tracker.dirty().take_recorded();
        let compared = match ready {
            Ok(true) => {
                self.compare_all(sessions, &recorded, (began, there), progress, report).await
            }
            Ok(false) => Ok((Vec::new(), Vec::new())),
            Err(e) => Err(e),
        };
        for session in sessions {
            session.rollback().await;
        }
        let (differing, suspects) = compared?;
        progress.open.extend(recorded);
        let before = progress.findings.mismatches;
        self.repair(differing, suspects, progress)?;
        report(Seen::Differ(progress.findings.mismatches - before));
        Ok(())
    }

    /// Takes S and makes P complete; false where this is no time to compare.
    async fn take_snapshot(&self, sessions: &[Session], fence: &Fence) -> Result<bool> {
        if !self.share_snapshot(sessions).await? {
            return Ok(false);
        }
        fence.pass(FENCE_LIMIT).await?;
        // A TRUNCATE before S was decoded before the fence: either the target has followed, and is
        // empty whatever the snapshot, or this is no time. One after S waits for our lock.
        Ok(self.tracker.dirty().barrier().is_none())
    }

    /// P must be small enough to hold, keys on disk are not in it, and a TRUNCATE is not yet followed:
    /// let the syncs catch up. Keys just repaired should not be in it: give their syncs some time.
    async fn wait_for_repairs(&self, asked: Vec<Key>) {
        let mut arrivals = self.tracker.arrivals();
        let deadline = Instant::now() + REPAIR_LIMIT;
        loop {
            {
                let dirty = self.tracker.dirty();
                let repaired = Instant::now() > deadline || !asked.iter().any(|k| dirty.holds(k));
                let truncated = dirty.barrier().is_some();
                if repaired && !truncated && dirty.on_disk() == 0 && dirty.backlog() < 20_000 {
                    return;
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), arrivals.changed()).await;
        }
    }

    /// One snapshot for all sessions; false where a table's lock cannot be had just now.
    ///
    /// The tables are locked before S is taken: to a snapshot older than a TRUNCATE a table would be as
    /// empty as to a newer one. And no session comes to wait for a lock when another has its own:
    /// whoever queues between the two (a TRUNCATE, an emergency ALTER) would wait for the one and keep
    /// the other waiting, forever, since the one waits for the other in here, where the server does not
    /// see it.
    async fn share_snapshot(&self, sessions: &[Session]) -> Result<bool> {
        let (source, target) = (self.flow.captured.itself(), &self.flow.target.root);
        let lock =
            format!("SET LOCAL {GIVE_WAY}; LOCK TABLE {source}, {target} IN ACCESS SHARE MODE");
        let role = format!("SET LOCAL ROLE {}", quote_ident(&self.writer.owner));
        let mut exported: Option<String> = None;
        for session in sessions {
            session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            if exported.is_none() {
                // With patience: nobody waits for us yet.
                session.batch(&format!("LOCK TABLE {source} IN ACCESS SHARE MODE")).await?;
            }
            match session.batch(&lock).await {
                Err(e) if classify(&e) == Class::Late => return Ok(false),
                other => other?,
            }
            match &exported {
                Some(name) => {
                    let sql = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(name));
                    session.batch(&sql).await?;
                }
                None => {
                    let row = session.one("SELECT pg_catalog.pg_export_snapshot()", &[]).await?;
                    exported = Some(row.get(0));
                }
            }
            session.batch(&role).await?;
        }
        Ok(true)
    }

    /// All sessions take ranges until the snapshot is too old, or more of them are wanted; returns what differs, by key and by
    /// range.
    async fn compare_all(
        &self,
        sessions: &[Session],
        recorded: &HashSet<Key>,
        (began, there): (Instant, There),
        progress: &mut Progress,
        report: &impl Fn(Seen),
    ) -> Result<(Vec<Difference>, Vec<Suspect>)> {
        let Some(first) = sessions.first() else { return Ok((Vec::new(), Vec::new())) };
        let ready: Vec<Key> = progress.open.difference(recorded).cloned().collect();
        let differing = compare_keys(first, &self.flow, &ready.iter().collect::<Vec<_>>()).await?;
        for key in &ready {
            progress.open.remove(key);
        }
        // From here on each worker is there for itself.
        drop(there);
        let open_again = Mutex::new(std::mem::take(&mut progress.again));
        let all_found = Mutex::new((Vec::new(), Findings::default()));
        let (again, found) = (&open_again, &all_found);
        let deadline = || began + (self.limits)().max_snapshot_age.mul_f64(0.7);
        let workers = sessions.iter().enumerate().map(|(number, session)| async move {
            let (mut comparing, mut worked) = (Comparing::default(), Duration::ZERO);
            let mut compared = 0;
            // Who may not go on now leaves the round, whose snapshot must not grow old meanwhile.
            while self.valve.lets(number) {
                let pass = self.valve.pass(number, worked);
                let Ok(_there) = tokio::time::timeout_at(deadline().into(), pass).await else {
                    break;
                };
                // One at least in each round: where fences take longer than a snapshot may live, there would be none ever.
                let late = Instant::now() >= deadline() && compared > 0;
                if late || self.wants_more(sessions) || self.in_the_way(sessions).await? {
                    break;
                }
                let repeated = again.lock().await.pop();
                let (range, second) = match repeated {
                    Some(range) => (range, true),
                    None => match self.next_range().await? {
                        Some(range) => (range, false),
                        None => return Ok(()),
                    },
                };
                let seen = self.compare(session, &mut comparing, &range, recorded).await?;
                compared += 1;
                let Sums { rows, equal, parts, took, .. } = seen;
                worked = unrested(took, seen.rested);
                self.planner.lock().await.pace.learn(range.size(rows), took, 0);
                report(Seen::Compared { rows: rows as u64, equal, took });
                if equal {
                    let mut found = found.lock().await;
                    found.1.ranges += 1;
                    found.1.rows += rows as u64;
                    found.1.add(parts);
                } else {
                    let started = Instant::now();
                    let differences = self.find(session, &range, recorded).await?;
                    found.lock().await.0.push((range, differences, second));
                    worked += started.elapsed();
                }
            }
            Ok::<_, Error>(())
        });
        futures_util::future::try_join_all(workers).await?;
        progress.again = open_again.into_inner();
        let (suspects, findings) = all_found.into_inner();
        progress.findings.ranges += findings.ranges;
        progress.findings.rows += findings.rows;
        progress.findings.add(findings.partitions.into_iter().collect());
        Ok((differing, suspects))
    }

    /// The planner's next range; None too where its look at the source would wait behind somebody who
    /// waits for the sessions of this round: they end with it.
    async fn next_range(&self) -> Result<Option<Range>> {
        let mut planner = self.planner.lock().await;
        planner.pace.aim((self.limits)().range_time);
        match planner.next(&self.valve).await {
            Err(e) if classify(&e) == Class::Late => {
                planner.session().rollback().await;
                Ok(None)
            }
            range => range,
        }
    }

    /// Whether anybody waits for a lock that a snapshot of ours holds, an emergency ALTER say, and
    /// behind it perhaps everybody: then the round ends at the next range.
    async fn in_the_way(&self, sessions: &[Session]) -> Result<bool> {
        let ours: Vec<i32> = sessions.iter().map(Session::pid).collect();
        let planner = self.planner.lock().await;
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks w WHERE NOT w.granted \
                   AND pg_catalog.pg_blocking_pids(w.pid) OPERATOR(pg_catalog.&&) $1)";
        Ok(planner.session().one(sql, &[&ours]).await?.get(0))
    }

    /// Compares one range, in pieces where there is little time to work.
    async fn compare(
        &self,
        session: &Session,
        Comparing { pieces, statements }: &mut Comparing,
        range: &Range,
        except: &HashSet<Key>,
    ) -> Result<Sums> {
        let (flow, started) = (&*self.flow, Instant::now());
        let arrays = self.arrays(except);
        let mut sums = Sums { equal: true, ..Sums::default() };
        let mut compare = async |piece: &Segment| {
            let sql = |b| flow.checksums(b, !arrays.is_empty());
            let statement =
                statements[usize::from(!arrays.is_empty())].of(session, piece, sql).await?;
            let rows = session.run(&statement, &parameters(&arrays, piece)).await?;
            let row = rows.first().ok_or_else(|| Error::failed("PostgreSQL returned no sums"))?;
            sums.add(row, flow.target.is_partitioned())
        };
        // To begin a statement over many keys or partitions takes longer than a piece. And where the new key has another
        // order, the bounds of a piece are none of the target.
        let whole = except.len() > MANY_KEYS || flow.target.is_partitioned() || !flow.keeps_order();
        let rested = match whole {
            true => compare(&range.keys).await.map(|()| Duration::ZERO)?,
            false => {
                let along = (flow, &flow.course(ChunkKind::Verify));
                pieces.each(session, along, &self.valve, &range.keys, compare).await?
            }
        };
        (sums.rested, sums.took) = (rested, started.elapsed().saturating_sub(rested));
        if sums.equal {
            self.record(range, sums.rows, &sums.sum.to_string()).await?;
        }
        Ok(sums)
    }

    async fn find(
        &self,
        session: &Session,
        range: &Range,
        except: &HashSet<Key>,
    ) -> Result<Vec<Difference>> {
        let arrays = self.arrays(except);
        let sql = self.flow.differing_rows(range.bounds(), !except.is_empty());
        let rows = session.query(&sql, &parameters(&arrays, &range.keys)).await?;
        Ok(rows.iter().map(|row| difference(&self.flow, row)).collect())
    }

    /// The key set's arrays; no parameters for an empty set.
    fn arrays(&self, except: &HashSet<Key>) -> Vec<RawArray> {
        if except.is_empty() {
            return Vec::new();
        }
        key_arrays(self.flow.key_type_oids(), except)
    }

    /// The checksum is kept as evidence.
    async fn record(&self, range: &Range, rows: i64, sum: &str) -> Result<()> {
        let session = &self.planner.lock().await;
        let session = session.session();
        self.writer.begin(session, Isolation::ReadCommitted).await?;
        let sql = "UPDATE pgwraith.chunk SET done = true, rows = $4, checksum = \
                   $5::pg_catalog.text::pg_catalog.numeric, finished_at = pg_catalog.clock_timestamp() \
                   WHERE migration_id = $1 AND flow = $2 AND kind = 'verify' AND number = $3";
        let flow = &self.flow;
        let values: [&(dyn ToSql + Sync); 5] =
            [&flow.migration, &flow.number, &range.number, &rows, &sum];
        session.execute(sql, &values).await?;
        failpoint!("range recorded");
        session.batch("COMMIT").await
    }

    /// Repair only marks keys dirty; a repaired range is not a verified one.
    fn repair(
        &self,
        differing: Vec<Difference>,
        suspects: Vec<Suspect>,
        progress: &mut Progress,
    ) -> Result<()> {
        progress.open.extend(differing.iter().map(|d| d.key.clone()));
        let named = (!differing.is_empty()).then_some((None, differing, false));
        let ranges =
            suspects.into_iter().map(|(range, found, second)| (Some(range), found, second));
        for (range, differences, second) in named.into_iter().chain(ranges) {
            if range.is_some() && !second {
                progress.findings.differing_ranges += 1;
            }
            for (n, d) in differences.iter().enumerate() {
                let counted = progress.findings.mismatches + n as u64;
                if counted < self.named.min(MOST_NAMED) {
                    tracing::warn!("source and shadow differ: {}", d.text);
                } else if counted == MOST_NAMED && counted < self.named {
                    tracing::warn!(
                        "source and shadow differ: in more rows, which the report counts"
                    );
                }
                // One comparison does not name all rows of a bad range: what a second one names may
                // be new. A row that was repaired before is not.
                if !progress.repaired.insert(d.key.clone()) {
                    return Err(incurable(&d.text));
                }
            }
            if second && differences.is_empty() {
                return Err(incurable("a range"));
            }
            progress.findings.mismatches += differences.len() as u64;
            let mut dirty = self.tracker.dirty();
            for d in differences {
                dirty.mark_for_repair(d.key.clone());
                progress.asked.push(d.key);
            }
            drop(dirty);
            self.tracker.announce();
            progress.again.extend(range);
        }
        Ok(())
    }
}

fn parameters<'a>(arrays: &'a [RawArray], keys: &'a Segment) -> Vec<&'a (dyn ToSql + Sync)> {
    let mut all = array_parameters(arrays);
    all.extend(keys.parameters());
    all
}

fn incurable(text: &str) -> Error {
    Error::new(Kind::DataDiffers, format!("source and shadow still differ after repair: {text}"))
        .next("Something else writes to the shadow, or the projection is not deterministic")
}
