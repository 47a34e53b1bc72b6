//! Cuts the captured relation's key space into ranges, and sizes them. The bounds are found by the
//! server, in key order as the server orders it, and travel as its own bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_postgres::types::ToSql;

use super::Flow;
use super::cut::Prepared;
use super::key::Key;
use super::landmarks::Landmarks;
use super::pace::Pace;
use super::sample::sample;
use super::segment::{Segment, spread};
use super::sql::Bounds;
use super::write::{Isolation, Writer};
use crate::change::Course;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::pg::{Lsn, Raw, Session, Snapshot};
use crate::throttle::valve::Valve;

/// Keys that are read at a time for a range's end, where there is little time to work: well below a millisecond.
const STEP: i64 = 2_000;

/// How far a copy is is told to about one in so many.
const LANDMARKS: i64 = 100;

/// What ranges are for; the `kind` of a row in `pgwraith.chunk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Copy,
    Verify,
    /// Of the captured relation itself.
    Fill,
}

impl Kind {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Copy => "copy",
            Kind::Verify => "verify",
            Kind::Fill => "fill",
        }
    }
}

/// One range of the captured key, as it was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub number: i64,
    pub keys: Segment,
    /// How many keys it had when it was cut; None of those that another run cut, and of the last one of a segment
    /// where that is not counted.
    pub(super) size: Option<i64>,
}

impl Range {
    /// Which bounds it has.
    pub fn bounds(&self) -> Bounds {
        self.keys.bounds()
    }

    /// The keys to be gone through, where so many rows of it were wanted.
    pub(super) fn size(&self, wanted: i64) -> i64 {
        self.size.unwrap_or(wanted)
    }

    /// Its bounds as statement parameters.
    pub fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.keys.parameters()
    }
}

/// Locks the range's row, and says where the log was and whether the range is done (**Invariant 9**: none is done
/// twice); None where the row is gone.
pub(super) async fn claim(
    session: &Session,
    flow: &Flow,
    kind: Kind,
    number: i64,
) -> Result<Option<(Lsn, bool)>> {
    let sql = "SELECT pg_catalog.pg_current_wal_insert_lsn(), done FROM pgwraith.chunk \
               WHERE migration_id = $1 AND flow = $2 AND kind = $3 AND number = $4 FOR UPDATE";
    let identity: [&(dyn ToSql + Sync); 4] =
        [&flow.migration, &flow.number, &kind.as_str(), &number];
    let row = session.maybe(sql, &identity).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Notes, in its own transaction, that a range is done. Returns where the log is.
pub(super) async fn settle(
    session: &Session,
    flow: &Flow,
    (kind, number): (Kind, i64),
    rows: u64,
    snapshot: &Snapshot,
) -> Result<Lsn> {
    let sql = "UPDATE pgwraith.chunk SET done = true, rows = $5, snapshot_xmax = \
               $6::pg_catalog.text::pg_catalog.xid8, finished_at = pg_catalog.clock_timestamp() \
               WHERE migration_id = $1 AND flow = $2 AND kind = $3 AND number = $4 \
               RETURNING pg_catalog.pg_current_wal_insert_lsn()";
    let (rows, xmax) = (rows as i64, snapshot.xmax().to_string());
    let all: [&(dyn ToSql + Sync); 6] =
        [&flow.migration, &flow.number, &kind.as_str(), &number, &rows, &xmax];
    Ok(session.one(sql, &all).await?.get(0))
}

/// Hands out ranges one after another until the key space is covered.
///
/// **Invariant 2** (coverage): the first range has no lower bound, each next one begins where the
/// last ended, and the last has no upper bound: it is handed out only when the server found no
/// further bound. A copy in another order goes along that, whose last columns are the key's, so that no two rows
/// are in one place ([`super::moved`] says what becomes of those that change theirs). Whatever is inserted later arrives by the stream. All of the key space is one segment;
/// whoever wants a part of it alone hands in others.
pub struct Planner {
    session: Session,
    flow: Arc<Flow>,
    writer: Writer,
    kind: Kind,
    course: Course,
    pub pace: Pace,
    /// What is left to hand out.
    segments: VecDeque<Segment>,
    number: i64,
    /// Ranges that an earlier run handed out and did not settle.
    again: Vec<Range>,
    landmarks: Landmarks,
    find: Prepared,
    /// The keys of a segment's last range are counted, too.
    counts: bool,
    count: Prepared,
}

impl Planner {
    /// `session` is used by the planner alone; its text settings are pinned here.
    pub async fn new(
        session: Session,
        flow: Arc<Flow>,
        writer: Writer,
        kind: Kind,
        pace: Pace,
    ) -> Result<Self> {
        session
            .batch(
                "SET \"DateStyle\" = 'ISO'; SET \"IntervalStyle\" = 'postgres'; \
                 SET \"TimeZone\" = 'UTC'; SET enable_seqscan = off; SET enable_sort = off; \
                 SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0",
            )
            .await?;
        Ok(Planner {
            session,
            course: flow.course(kind),
            flow,
            writer,
            kind,
            pace,
            segments: VecDeque::from([Segment::all()]),
            number: 0,
            again: Vec::new(),
            landmarks: Landmarks::default(),
            find: Prepared::default(),
            counts: false,
            count: Prepared::default(),
        })
    }

    /// Hands out ranges of these segments alone, one of each in turn.
    pub fn only(&mut self, segments: Vec<Segment>) {
        self.segments = segments.into();
    }

    /// Goes through the key space by leaps, so that what was handed out until some moment is spread over all
    /// of it: it is cut into about so many segments. False where it cannot be cut. What a range is of the whole is told
    /// from then on, also where only some rows are wanted.
    pub async fn scatter(&mut self, segments: i64) -> Result<bool> {
        let keys = self.sample(segments).await?;
        let cut = keys.len() > 1;
        self.segments = spread(Segment::between(keys.into_iter())).into();
        self.counts = self.flow.captured.keys != self.flow.captured.rows;
        Ok(cut)
    }

    /// Tells from now on how far it is by the key; no less far than `before`.
    pub async fn set_landmarks(&mut self, before: Option<f32>) -> Result<()> {
        self.landmarks = Landmarks::new(&self.course, &self.sample(LANDMARKS).await?, before);
        Ok(())
    }

    async fn sample(&self, keys: i64) -> Result<Vec<Vec<Raw>>> {
        sample(&self.session, &self.flow, &self.course, &self.writer, keys).await
    }

    /// How many segments there are to hand out ranges of.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Goes on where an earlier run stopped: with the ranges that are not done, then behind the last
    /// one. What became of a range whose COMMIT got no answer is in its row by now (**Invariant 9**: the
    /// epoch was raised since, which waited for that transaction). Returns the rows that are done, and how far
    /// it was by the key.
    pub async fn go_on(&mut self) -> Result<(i64, Option<f32>)> {
        self.check().await?;
        let sql = "SELECT c.number, c.lower_key, c.upper_key, c.done FROM pgwraith.chunk c \
                   WHERE c.migration_id = $1 AND c.flow = $2 AND c.kind = $3 AND (NOT c.done OR c.number = \
                     (SELECT pg_catalog.max(l.number) FROM pgwraith.chunk l \
                      WHERE l.migration_id = $1 AND l.flow = $2 AND l.kind = $3)) ORDER BY c.number";
        let (migration, flow, kind) = (self.flow.migration, self.flow.number, self.kind.as_str());
        for row in self.session.query(sql, &[&migration, &flow, &kind]).await? {
            let keys = segment(row.get(1), row.get(2));
            let range = Range { number: row.get(0), keys, size: None };
            self.number = range.number + 1;
            self.segments = Segment::behind(&range.keys.upper).into_iter().collect();
            if !row.get::<_, bool>(3) {
                self.again.push(range);
            }
        }
        self.again.reverse();
        let done = "SELECT COALESCE(pg_catalog.sum(c.rows), 0)::pg_catalog.int8, \
                    pg_catalog.max(c.key_position) FROM pgwraith.chunk c \
                    WHERE c.migration_id = $1 AND c.flow = $2 AND c.kind = $3 AND c.done";
        let row = self.session.one(done, &[&migration, &flow, &kind]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// **Invariant 2**, of the state: each range that is recorded begins where the one before it ended, from
    /// the first on, and none that was handed out is missing. What was copied of one that somebody took away
    /// would be copied twice, or never.
    pub async fn check(&self) -> Result<()> {
        let sql = "SELECT f.ranges, k.there, k.apart FROM pgwraith.flow f, (\
                     SELECT pg_catalog.count(*) AS there, pg_catalog.count(*) FILTER (WHERE \
                       r.number <> r.before OR r.lower_key IS DISTINCT FROM r.bound) AS apart \
                     FROM (SELECT c.number, c.lower_key, pg_catalog.row_number() OVER w - 1 AS before, \
                         pg_catalog.lag(c.upper_key) OVER w AS bound FROM pgwraith.chunk c \
                       WHERE c.migration_id = $1 AND c.flow = $2 AND c.kind = $3 \
                       WINDOW w AS (ORDER BY c.number)) r) k \
                   WHERE f.migration_id = $1 AND f.flow = $2";
        let (flow, kind) = (&self.flow, self.kind.as_str());
        let row = self.session.maybe(sql, &[&flow.migration, &flow.number, &kind]).await?;
        let Some(row) = row else { return Ok(()) };
        let (handed_out, there, apart): (Option<i64>, i64, i64) =
            (row.get(0), row.get(1), row.get(2));
        let all = handed_out.filter(|_| self.kind != Kind::Verify).unwrap_or(there);
        match apart == 0 && there == all {
            true => Ok(()),
            false => Err(not_covered(self.kind, there, all)),
        }
    }

    /// Begins anew: what an earlier run found out does not count.
    pub async fn start_over(&mut self) -> Result<()> {
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        let sql = "DELETE FROM pgwraith.chunk WHERE migration_id = $1 AND flow = $2 AND kind = $3";
        let (flow, kind) = (&self.flow, self.kind.as_str());
        self.session.execute(sql, &[&flow.migration, &flow.number, &kind]).await?;
        self.session.batch("COMMIT").await
    }

    /// The next range, recorded in the state; None when the key space is covered. Whoever asks works, at the valve.
    pub async fn next(&mut self, valve: &Valve) -> Result<Option<Range>> {
        if let Some(range) = self.again.pop() {
            return Ok(Some(range));
        }
        let Some(segment) = self.segments.front().cloned() else { return Ok(None) };
        let (end, size) = self.find_end(&segment, valve).await?;
        let upper = end.clone().or(segment.upper.clone());
        let keys = Segment { lower: segment.lower, upper };
        let range = Range { number: self.number, keys, size };
        self.record(&range).await?;
        failpoint!("chunk recorded");
        // Only now: after an error the same range comes again.
        self.segments.pop_front();
        self.segments.extend(end.map(|end| Segment { lower: Some(end), upper: segment.upper }));
        self.number += 1;
        Ok(Some(range))
    }

    /// The planner's session, for recording what became of a range.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the last range was handed out, and every one before it.
    pub fn is_complete(&self) -> bool {
        self.segments.is_empty() && self.again.is_empty()
    }

    /// Where the next range of the segment ends, None where it is the last one; and how many keys it has. Where there is
    /// little time to work it is gone for in steps, with rests between: of a range that grew in a quiet hour, all its
    /// keys are read.
    async fn find_end(
        &mut self,
        segment: &Segment,
        valve: &Valve,
    ) -> Result<(Option<Vec<Raw>>, Option<i64>)> {
        let wanted = self.pace.rows();
        let mut left = wanted;
        if left == i64::MAX {
            return Ok((None, None));
        }
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        self.writer.as_owner(&self.session).await?;
        let mut segment = segment.clone();
        let end = loop {
            let began = Instant::now();
            let step = if valve.is_scarce() { left.min(STEP) } else { left };
            let along = (&*self.flow, &self.course);
            let end = self.find.cut(&self.session, along, &segment, step).await?;
            if end.is_none() {
                break None;
            }
            left -= step;
            if left == 0 {
                break end;
            }
            segment.lower = end;
            valve.breathe(began.elapsed()).await;
        };
        let size = match &end {
            Some(_) => Some(wanted),
            None if self.counts => Some(wanted - left + self.count(&segment).await?),
            None => None,
        };
        self.session.batch("COMMIT").await?;
        Ok((end, size))
    }

    /// How many keys a segment has.
    async fn count(&mut self, segment: &Segment) -> Result<i64> {
        let sql = |bounds| self.flow.count_keys_in_range(bounds);
        let count = self.count.of(&self.session, segment, sql).await?;
        let rows = self.session.run(&count, &segment.parameters()).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn record(&mut self, range: &Range) -> Result<()> {
        let Segment { lower, upper } = &range.keys;
        let (lower_key, upper_key) = (packed(lower), packed(upper));
        let position = self.landmarks.at(&self.session, &self.course, upper.as_deref()).await?;
        let lower = self.text(lower.as_deref()).await?;
        let upper = self.text(upper.as_deref()).await?;
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        let sql = "INSERT INTO pgwraith.chunk (migration_id, flow, kind, number, lower, upper, lower_key, upper_key, \
                   key_position) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let flow = &self.flow;
        let kind = self.kind.as_str();
        // As text to be read by people, as bytes to be used again.
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &flow.migration,
            &flow.number,
            &kind,
            &range.number,
            &lower,
            &upper,
            &lower_key,
            &upper_key,
            &position,
        ];
        self.session.execute(sql, &parameters).await?;
        if self.kind != Kind::Verify {
            let sql = "UPDATE pgwraith.flow SET ranges = $3 WHERE migration_id = $1 AND flow = $2";
            let handed_out = range.number + 1;
            self.session.execute(sql, &[&flow.migration, &flow.number, &handed_out]).await?;
        }
        self.session.batch("COMMIT").await
    }

    /// The bound as an array of text, in the server's own bytes: they need not be UTF-8.
    async fn text(&self, bound: Option<&[Raw]>) -> Result<Option<Raw>> {
        let Some(bound) = bound else { return Ok(None) };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            bound.iter().map(|raw| raw as &(dyn ToSql + Sync)).collect();
        Ok(Some(self.session.one(&Flow::bound_text(&self.course), &parameters).await?.get(0)))
    }
}

/// The ranges that were copied.
pub async fn copied_segments(session: &Session, flow: &Flow) -> Result<Vec<Segment>> {
    let sql = "SELECT c.lower_key, c.upper_key FROM pgwraith.chunk c WHERE c.migration_id = $1 \
               AND c.flow = $2 AND c.kind = $3 AND c.done ORDER BY c.number";
    let kind = Kind::Copy.as_str();
    let rows = session.query(sql, &[&flow.migration, &flow.number, &kind]).await?;
    Ok(rows.iter().map(|row| segment(row.get(0), row.get(1))).collect())
}

fn not_covered(kind: Kind, there: i64, all: i64) -> Error {
    let found = match there == all {
        true => "they do not follow each other".to_owned(),
        false => format!("{there} of {all} are there"),
    };
    let what = format!(
        "the state does not cover the table's keys any more: rows of pgwraith.chunk, which say what was done, \
         were deleted or changed by somebody ({found})"
    );
    let state = match kind {
        Kind::Fill => {
            "The table is in use; which of its rows are filled is not known by ranges any more"
        }
        Kind::Copy | Kind::Verify => {
            "The source is in use as it was, and so is all that the application wrote; the state is kept, but \
             what of the rows the shadow has is not known"
        }
    };
    Error::new(ErrorKind::NotResumable, what)
        .state(state)
        .next("`pgwraith abort` the migration, and begin again")
}

fn packed(bound: &Option<Vec<Raw>>) -> Option<Vec<u8>> {
    let bound = bound.as_ref()?;
    Some(Key::pack(bound.iter().map(|raw| &raw.0[..])).as_bytes().to_vec())
}

fn segment(lower: Option<&[u8]>, upper: Option<&[u8]>) -> Segment {
    Segment { lower: bound(lower), upper: bound(upper) }
}

fn bound(packed: Option<&[u8]>) -> Option<Vec<Raw>> {
    let key = Key::from_bytes(packed?);
    Some(key.columns().map(|column| Raw(Bytes::copy_from_slice(column))).collect())
}
