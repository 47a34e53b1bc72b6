//! The phases of a dry run, and what is seen of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Extent;
use super::clock::Clock;
use super::{late, table};
use crate::catalog::Baseline;
use crate::cutover::{self, Rehearsal};
use crate::error::{Error, Result};
use crate::flow::chunk::copied_segments;
use crate::flow::copy::Misfits;
use crate::flow::segment::Segment;
use crate::flow::sync::FENCE_LIMIT;
use crate::migration::begun::{Known, Rehearsing};
use crate::migration::context::Context;
use crate::migration::hooked::{BeforeCutover, Caller};
use crate::migration::slot_limits::SlotLimits;
use crate::migration::stretch::Stretch;
use crate::migration::supervisor::Background;
use crate::migration::{catch_up, copy, index, prepare, verify};
use crate::pg::{Lsn, Session};
use crate::telemetry::Sample;
use crate::throttle::account::Sum;

/// So long everything is looked at before anything is copied.
const BEFORE: Duration = Duration::from_secs(3);
/// The places in the key space where ranges are copied.
const PLACES: i64 = 64;
/// Rows that do not fit, as many as are worth being named.
const MOST_MISFITS: usize = 10;
/// Fewer keys say nothing of how fast they are applied: the sync gathers them first.
const ENOUGH: u64 = 1000;
/// How often to look how many keys were applied.
const POLL: Duration = Duration::from_millis(20);
/// What takes longer than this besides the copy and the indexes is given up, and said so.
const ENDLESS: Duration = Duration::from_secs(120);
/// So long the last few keys are waited for, and the cutover's rehearsal goes on trying.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was seen.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Seen {
    /// Of the whole table, as far as is known.
    pub rows: f64,
    pub prepare_seconds: f64,
    pub copied: Copied,
    /// Seconds for the indexes of what was copied, without waiting for changed keys; and for VACUUM. As all that follows
    /// about the new table they are those of the copied rows: what the sync wrote besides is taken off.
    pub index_seconds: f64,
    /// To choose how they are built, however large they are.
    pub choice_seconds: f64,
    pub vacuum_seconds: f64,
    /// None where nothing was captured.
    pub changes: Option<Changes>,
    /// Rows compared and the seconds that took; None where a part cannot be compared.
    pub verified: Option<(u64, f64)>,
    pub cutover: Option<Rehearsal>,
    pub cutover_seconds: f64,
    /// The copy filled the indexes.
    pub indexes_before: bool,
    /// Bytes of the new table without its indexes, and of each of those.
    pub table_bytes: i64,
    pub indexes: Vec<(String, i64)>,
    /// WAL that the server wrote a second before anything was copied.
    pub wal_per_second: f64,
    /// WAL of the copy and of the indexes, without what was written anyway, or to apply changes.
    pub copy_wal: f64,
    pub index_wal: f64,
    pub slot_limit: u64,
    /// Each signal before and during the copy, as a share of its limit and in words.
    pub signals: Vec<Signal>,
    /// By what held the copy back: the share of its time.
    pub throttled: Vec<(String, f64)>,
    pub misfits: Vec<String>,
    pub warnings: Vec<String>,
}

/// What was copied.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Copied {
    pub rows: u64,
    /// The rows of the table among which those were: more than them where only some are wanted.
    pub passed: u64,
    pub chunks: u64,
    /// From how many places of the key space.
    pub places: usize,
    pub seconds: f64,
    /// So long it was slower, and so many rows were copied: it begins slowly, once.
    pub warm_up_seconds: f64,
    pub warm_up_rows: f64,
    /// At full speed, once it was reached; None, as all that follows, where nothing was copied.
    pub rows_per_second: Option<f64>,
    /// The same in bytes of the new table.
    pub bytes_per_second: Option<f64>,
    /// Of that time and its two halves.
    pub slowest: Option<f64>,
    pub fastest: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

impl Seen {
    /// The rows of the new table, were all of it copied.
    pub fn wanted(&self) -> f64 {
        let (copied, passed) = (self.copied.rows as f64, self.copied.passed as f64);
        self.rows.max(passed) * if passed > 0.0 { copied / passed } else { 1.0 }
    }
}

/// What the application changed meanwhile.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Changes {
    /// Different keys a second since they are captured, until they were applied.
    pub in_per_second: f64,
    /// Applied a second; None where there were too few to say.
    pub out_per_second: Option<f64>,
    /// So many of those that waited were not applied when the time for that was over.
    pub left: u64,
}

/// One signal before and during the copy.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Signal {
    pub name: String,
    pub before: Option<String>,
    pub during: Option<String>,
}

impl Stretch<'_, '_> {
    pub(super) async fn measure(
        &self,
        control: &Session,
        (made, prepares): (Rehearsing, Instant),
        extent: Extent,
    ) -> Result<Seen> {
        let Rehearsing { known, flow, fingerprint, stream } = made;
        let began = Instant::now();
        let captures = stream.is_some();
        let work = async |context: &Context, baseline: &Baseline| {
            let known = &known;
            let measuring = Measuring { stretch: self, control, known, context, prepares, began };
            measuring.all(baseline, extent, captures).await
        };
        self.accompanied(control, &known, flow, fingerprint, stream, work).await
    }
}

struct Measuring<'a, 's, 'r> {
    stretch: &'a Stretch<'s, 'r>,
    control: &'a Session,
    known: &'a Known,
    context: &'a Context,
    /// When publication and slot were begun.
    prepares: Instant,
    /// When the slot was made, which captures keys from then on.
    began: Instant,
}

impl Measuring<'_, '_, '_> {
    async fn all(&self, baseline: &Baseline, extent: Extent, captures: bool) -> Result<Seen> {
        let (control, context) = (self.control, self.context);
        let Known { source, request, .. } = self.known;
        prepare::create_shadow(control, &context.flow, self.known).await?;
        if request.indexes_before {
            let plans = index::plans(context, self.known)?;
            let settings = context.settings.borrow().index.clone();
            index::build_on_empty(context, &settings, &plans).await?;
        }
        if captures {
            prepare::wait_for_writers(control, source.oid, &context.meter).await?;
        }
        let mut seen = Seen {
            prepare_seconds: self.prepares.elapsed().as_secs_f64(),
            indexes_before: request.indexes_before,
            ..Seen::default()
        };
        let asked = context.settings.borrow().index.max_slot_wal;
        seen.slot_limit = SlotLimits::read(control, asked).await?.of_guard();
        seen.rows = table::rows(control, source).await?;
        seen.warnings.extend(table::out_of_order(control, source, &context.flow).await?);

        let before = self.look_before(&mut seen).await?;
        let segments = self.copy(&mut seen, extent, &before).await?;
        let (syncs, converges) = self.build(&mut seen, captures).await?;
        if captures && converges {
            if context.flow.order.is_some() {
                let why =
                    "what was copied is not a part of the key's order, so that it was not compared";
                seen.warnings.push(why.to_owned());
            } else if context.flow.keeps_order() && !segments.is_empty() {
                seen.verified = self.verify(segments, &mut seen.warnings).await?;
            }
            let began = Instant::now();
            seen.cutover = Some(self.cutover(baseline).await?);
            seen.cutover_seconds = began.elapsed().as_secs_f64();
        }
        if let Some(syncs) = syncs {
            syncs.finish().await;
        }
        Ok(seen)
    }

    fn enter(&self, phase: &'static str) {
        self.context.meter.tell(Sample::Phase(phase));
    }

    /// How things are while nothing of ours is at work.
    async fn look_before(&self, seen: &mut Seen) -> Result<Sum> {
        self.enter("before");
        self.context.account.close();
        let (began, from) = (Instant::now(), index::wal_end(self.control).await?);
        sleep(BEFORE).await;
        let written = index::wal_end(self.control).await?.bytes_since(from);
        seen.wal_per_second = written as f64 / began.elapsed().as_secs_f64();
        Ok(self.context.account.close())
    }

    /// Copies ranges from all over the key space. Returns those that were.
    async fn copy(&self, seen: &mut Seen, extent: Extent, before: &Sum) -> Result<Vec<Segment>> {
        self.enter("copy");
        let context = self.context;
        let mut planner = copy::planner(context).await?;
        let hidden = !context.flow.captured.shows_all_keys();
        if !planner.scatter(PLACES).await? {
            let why =
                if hidden { "row security is forced on the owner" } else { "the table is small" };
            seen.warnings.push(format!(
                "ranges are from the beginning of the key space alone: {why}, and rows all over it cannot be picked"
            ));
        }
        if hidden && self.known.request.keep.is_some() {
            let why = "row security is forced on the owner: which part of the rows --where leaves is not known, and \
                       all is foretold as if it left all of them";
            seen.warnings.push(why.to_owned());
        }
        let places = planner.segments();
        let enough = CancellationToken::new();
        let clock = Clock::new(extent, seen.rows, enough.clone());
        let misfits = Arc::new(Mutex::new(Vec::new()));
        let copier = copy::copier(
            context,
            planner,
            enough.clone(),
            Some(collect(Arc::clone(&misfits), enough.clone())),
        );
        let from = index::wal_end(self.control).await?;
        let work = copy::work_off(context, &copier, |c| clock.note(c.rows, c.passed, c.took));
        tokio::select! {
            done = clock.run_out() => match done {},
            done = work => done?,
        }
        let written = index::wal_end(self.control).await?.bytes_since(from) as f64;
        let copied = &mut seen.copied;
        clock.tell(copied);
        copied.places = places.min(copied.chunks as usize);
        // Before the sync writes to it.
        seen.table_bytes = table::shadow_bytes(self.control, &context.flow).await?;
        let row = seen.table_bytes as f64 / copied.rows.max(1) as f64;
        copied.bytes_per_second = copied.rows_per_second.map(|rate| row * rate);
        seen.copy_wal = (written - seen.wal_per_second * seen.copied.seconds).max(0.0);
        self.tell_signals(seen, before, &context.account.close());
        seen.misfits = std::mem::take(&mut *misfits.lock().unwrap_or_else(PoisonError::into_inner));
        copied_segments(self.control, &context.flow).await
    }

    fn tell_signals(&self, seen: &mut Seen, before: &Sum, during: &Sum) {
        let names: BTreeSet<&String> =
            before.greatest.keys().chain(during.greatest.keys()).collect();
        let text = |sum: &Sum, name: &str| sum.greatest.get(name).map(|r| r.text.clone());
        let signals = names.into_iter().map(|name| Signal {
            name: name.clone(),
            before: text(before, name),
            during: text(during, name),
        });
        seen.signals = signals.collect();
        let all = during.time.as_secs_f64().max(0.001);
        let shares = during.rested.iter().map(|(by, time)| (by.clone(), time.as_secs_f64() / all));
        seen.throttled = shares.filter(|(_, share)| *share >= 0.005).collect();
    }

    /// Indexes, and the changes that came meanwhile. Returns who applies them, until the end.
    async fn build(&self, seen: &mut Seen, captures: bool) -> Result<(Option<Background>, bool)> {
        self.enter("index");
        let context = self.context;
        let settings = context.settings.borrow().index.clone();
        let Known { source, request, .. } = self.known;
        let (began, from) = (Instant::now(), index::wal_end(self.control).await?);
        seen.index_seconds =
            index::build_first(context, &settings, self.known, captures).await?.as_secs_f64();
        seen.choice_seconds = (began.elapsed().as_secs_f64() - seen.index_seconds).max(0.0);
        seen.index_wal = self.written(seen, from, began).await?;
        seen.indexes = table::shadow_indexes(self.control, &context.flow).await?;
        let mut late = late::Late::default();
        let (mut syncs, mut converges) = (None, true);
        if captures {
            (syncs, converges) = self.catch_up(seen).await?;
        }
        if captures && !converges {
            let why = "changes did not stop coming faster than they are applied: unique indexes, verification and the \
                       cutover were not rehearsed";
            seen.warnings.push(why.to_owned());
        } else if captures {
            let unique = index::build_unique(context, &settings, self.known).await?;
            late.index_seconds = unique.as_secs_f64();
            late.indexes = table::shadow_indexes(self.control, &context.flow).await?;
        } else if !request.indexes_before
            && let Some(share) = index::plans(context, self.known)?.left_out(source)
        {
            // What was copied at different times may have one value twice.
            seen.index_seconds *= 1.0 + share;
            let why = "without capture only the key's index is built of the unique ones: the time for the others is \
                       guessed from their size";
            seen.warnings.push(why.to_owned());
        }
        let (began, from) = (Instant::now(), index::wal_end(self.control).await?);
        index::vacuum(context, &settings, self.known).await?;
        late.vacuum_seconds = began.elapsed().as_secs_f64();
        late.vacuum_wal = self.written(seen, from, began).await?;
        late.add_to(seen, table::shadow_rows(self.control, &context.flow).await?);
        Ok((syncs, converges))
    }

    /// WAL that was written since then, without what is written anyway.
    async fn written(&self, seen: &Seen, from: Lsn, since: Instant) -> Result<f64> {
        let written = index::wal_end(self.control).await?.bytes_since(from) as f64;
        Ok((written - seen.wal_per_second * since.elapsed().as_secs_f64()).max(0.0))
    }

    /// How fast keys became dirty since the slot was made, and how fast they are applied now.
    /// Also whether they are applied as fast as they come.
    async fn catch_up(&self, seen: &mut Seen) -> Result<(Option<Background>, bool)> {
        let context = self.context;
        // What was committed by now is known.
        context.fence.pass(FENCE_LIMIT).await?;
        let waited = self.began.elapsed().as_secs_f64();
        let (waiting, before) = context.tracker.counts();
        let began = Instant::now();
        let syncs = catch_up::start(context, &self.stretch.supervisor);
        // What does not catch up is what is to be found out, and no reason to wait for ever.
        let drained = timeout(ENDLESS, catch_up::drain(context)).await;
        if drained.is_ok() {
            // That leaves the last few, which may be all there are. Where they are not applied, that is said.
            let _ = timeout(PATIENCE, self.applied(before + waiting)).await;
        }
        let took = began.elapsed().as_secs_f64().max(0.001);
        let applied = context.tracker.dirty().synced() - before;
        seen.changes = Some(Changes {
            in_per_second: waiting as f64 / waited.max(0.001),
            out_per_second: (applied >= ENOUGH).then(|| applied as f64 / took),
            left: waiting.saturating_sub(applied),
        });
        match drained {
            Ok(drained) => drained.map(|()| (Some(syncs), true)),
            Err(_) => Ok((Some(syncs), false)),
        }
    }

    /// Waits until so many keys were applied, or none is left (a TRUNCATE leaves none).
    async fn applied(&self, keys: u64) {
        let tracker = &self.context.tracker;
        loop {
            let (waiting, synced) = tracker.counts();
            if waiting == 0 || synced >= keys {
                return;
            }
            // What is applied is not announced.
            sleep(POLL).await;
        }
    }

    /// None where the throttle lets it go on for too short a time.
    async fn verify(
        &self,
        segments: Vec<Segment>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, f64)>> {
        self.enter("verify");
        let began = Instant::now();
        let findings = timeout(ENDLESS, verify::verify_only(self.context, segments)).await;
        let Ok(findings) = findings else {
            let why = "verification of what was copied did not come to its end: the throttle held it up, or it is slow";
            warnings.push(why.to_owned());
            return Ok(None);
        };
        Ok(Some((findings?.rows, began.elapsed().as_secs_f64())))
    }

    async fn cutover(&self, baseline: &Baseline) -> Result<Rehearsal> {
        self.enter("cutover");
        let (context, known) = (self.context, self.known);
        let caller = Caller::of(self.stretch.run);
        let before = BeforeCutover { caller, migration: Some(self.stretch.migration) };
        let limits = || {
            let limits = context.settings.borrow().cutover;
            cutover::Limits { patience: PATIENCE.min(limits.patience), ..limits }
        };
        context.cutover(known, baseline, &limits, (&|| None, &before)).rehearse().await
    }
}

/// Keeps what does not fit, until that is enough.
fn collect(found: Arc<Mutex<Vec<String>>>, enough: CancellationToken) -> Misfits {
    Box::new(move |e: Error| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.push(e.what().to_owned());
        if found.len() >= MOST_MISFITS {
            enough.cancel();
        }
        Ok(())
    })
}
