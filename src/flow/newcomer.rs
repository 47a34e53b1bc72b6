//! A partition that came to the captured relation in mid-run.
//!
//! What is written to it from then on is told by the stream. What was in it as it was attached is not: it was written
//! when the table was nobody's partition, or in the transaction that made it one. So every key that it has is stored as
//! dirty. Mostly there is none: a partition is made empty, for the time to come.
//!
//! It may also bring more rows than the table has, so they are stored page by page along the key, each page in a
//! transaction of its own, and of no row that was in it nothing is told in the end. Pages follow each other: the first has
//! no lower bound, each begins behind the last key of the one before, and the last is the one that found no more
//! (**Invariant 2**, of the partition). All of them are read by statements that begin after the partition was seen to be
//! one. So take a row that it had then. If nobody changes it until the page with its key is read, it is in that. If
//! somebody does, he began behind whoever attached it, who had locked the table against all writers, so the stream
//! tells of the key that the row had, and of the key that it gets: also where that is in a page that was read before, or
//! the row is gone when its page is read. That holds as long as the partition is one: whoever takes it in has to find
//! it attached in the end by the same row of the catalogs as in the beginning, or what was written in between was told
//! nobody ([`came_and_went`]). No lock keeps it attached meanwhile: somebody's DETACH would wait for minutes, and the
//! application behind it.

use super::Flow;
use super::capture::Tracker;
use super::cut::Prepared;
use super::dirty::SEEN_BY_ALL;
use super::keeper::store_keys;
use super::key::Key;
use super::segment::Segment;
use super::sql::{Bounds, where_all};
use super::sync::PLANS;
use crate::change::Course;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::pg::{QualifiedName, Raw, Session};

/// Keys of a page.
const PAGE: f64 = 10_000.0;

/// Sets a session up for pages: each begins where an index leads it. A table that was filled just now has no statistics.
pub async fn prepare(session: &Session) -> Result<()> {
    session.batch(PLANS).await?;
    session.batch("SET enable_bitmapscan = off; SET enable_sort = off").await
}

/// The keys of a newcomer that are not stored yet.
pub struct Newcomer<'a> {
    flow: &'a Flow,
    partition: QualifiedName,
    /// None once all are.
    rest: Option<Segment>,
    page: Prepared,
}

impl<'a> Newcomer<'a> {
    /// All keys of `partition`, which was seen to be one.
    pub fn new(flow: &'a Flow, partition: QualifiedName) -> Self {
        Newcomer { flow, partition, rest: Some(Segment::all()), page: Prepared::default() }
    }

    /// Whether all of them are stored, or about to be.
    pub fn is_done(&self) -> bool {
        self.rest.is_none()
    }

    /// Stores the next ones in the open transaction, this share of a whole page. Returns how many.
    ///
    /// Each is dirty whatever any transaction did to it (**Invariant 3**): whoever syncs it does so at a snapshot that is
    /// taken after this transaction has committed, and sees all that this one sees; what changes the key since then is
    /// told by the stream.
    pub async fn store(&mut self, session: &Session, share: f64) -> Result<u64> {
        let Some(rest) = &self.rest else { return Ok(0) };
        let (flow, partition) = (self.flow, &self.partition);
        let page = self.page.of(session, rest, |bounds| page_of(flow, partition, bounds)).await?;
        let most = (PAGE * share).max(1.0) as i64;
        let mut parameters = rest.parameters();
        parameters.push(&most);
        let rows = session.run(&page, &parameters).await?;
        let width = flow.key.len();
        let keys: Vec<Key> = rows.iter().map(|row| Key::of_row(row, width)).collect();
        let bytes: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
        store_keys(session, flow, &bytes, &vec![SEEN_BY_ALL.to_string(); bytes.len()]).await?;
        let last = rows.last().filter(|_| rows.len() as i64 == most);
        let last: Option<Vec<Raw>> = last.map(|row| (0..width).map(|i| row.get(i)).collect());
        self.rest = Segment::behind(&last);
        Ok(rows.len() as u64)
    }
}

fn page_of(flow: &Flow, partition: &QualifiedName, bounds: Bounds) -> String {
    let course = Course::of_key(&flow.key);
    let key = flow.source_key("s");
    format!(
        "SELECT {key} FROM ONLY {partition} AS s{} ORDER BY {key} LIMIT ${}",
        where_all([flow.source_range(&course, bounds, 0)]),
        bounds.sides() * course.columns.len() + 1
    )
}

/// One of them was no partition in between: what was written to it then, nobody was told, and its rows may be in the
/// target already. Only a comparison finds those that it lost.
pub fn came_and_went(flow: &Flow) -> Error {
    let table = &flow.captured.name;
    Error::failed(format!("a partition of {table} came and went again while the run lasted"))
        .next("`pgwraith resume` compares every row once more")
}

/// Commits the transaction that stored so many. Where the answer is lost, so is the stretch, and the next one counts what
/// is stored.
pub async fn commit(session: &Session, tracker: &Tracker, stored: u64) -> Result<()> {
    failpoint!("newcomer stored");
    tracker.dirty().will_be_stored(stored);
    let committed = session.batch("COMMIT").await;
    if committed.is_err() {
        tracker.dirty().were_not_stored(stored);
    }
    tracker.announce();
    committed
}
