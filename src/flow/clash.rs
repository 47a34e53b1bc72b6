//! What becomes of a range whose rows clash in a unique index of the target, where that is there before
//! the copy.
//!
//! Ranges are read at different moments: a value that wandered from one row to another in between is read
//! twice. So a clash says nothing of the data. The rows that clash are left out, and in the range's own
//! transaction their keys are stored as dirty: from then on they are what the sync leaves of a batch that
//! clashes, a key without a row.
//!
//! No knot comes of that which the sync could not undo. The copy neither updates nor deletes, so each row
//! of the target is what the source held when its range was read; where it holds something else by now,
//! the stream has made its key dirty. A row that was left out holds no value. So once every range is
//! copied, the target is the source but for dirty keys, as after any batch that clashed.

use tokio_postgres::types::ToSql;

use super::Flow;
use super::chunk::Range;
use super::dirty::SEEN_BY_ALL;
use super::keeper::store_keys;
use super::key::Key;
use super::segment::Segment;
use super::sql::Bounds;
use super::sync::has_deferrable_arbiter;
use super::write::Writer;
use crate::error::{Error, Kind, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Raw, Session};

/// Keys that are stored at a time.
const PAGE: i64 = 10_000;
/// Plans that look rows up, whatever the statistics of a new table say.
const PLANS: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
    SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off";

/// How a range is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Every row.
    All,
    /// The rows that no unique index speaks against.
    WhatFits,
    /// No row. For targets with deferrable constraints, whose violations cannot be skipped.
    None,
}

impl Way {
    /// How to go on where this way clashed; None where the error is no clash.
    pub(super) fn after(self, error: &Error) -> Option<Way> {
        match (self, classify(error)) {
            (Way::All, Class::Duplicate) => Some(Way::WhatFits),
            (Way::WhatFits, _) if has_deferrable_arbiter(error) => Some(Way::None),
            _ => None,
        }
    }

    /// The statement that writes the rows of a range.
    pub(super) fn statement(self, flow: &Flow, bounds: Bounds) -> Option<String> {
        match self {
            Way::All => Some(flow.copy_range(bounds)),
            Way::WhatFits => Some(flow.copy_what_fits(bounds)),
            Way::None => None,
        }
    }
}

/// Stores the keys of the range whose rows the target has not, in the open transaction, which has written
/// `rows` rows and goes on as the owner's. Returns how many those are.
///
/// Each is dirty whatever any transaction did to it (**Invariant 3**): whoever syncs it does so when every
/// range is copied, at a snapshot that is newer than this one and sees all that this one sees; what
/// changes the key since then is told by the stream.
pub(super) async fn store_absent(
    session: &Session,
    flow: &Flow,
    writer: &Writer,
    range: &Range,
    rows: u64,
) -> Result<u64> {
    session.batch(PLANS).await?;
    let sql = flow.count_range(range.bounds());
    let all: i64 = session.one(&sql, &range.parameters()).await?.get(0);
    let mut stored = 0;
    let mut keys = Some(range.keys.clone());
    while let Some(segment) = keys {
        let (page, last) = absent(session, flow, &segment).await?;
        writer.as_tool(session).await?;
        let bytes: Vec<&[u8]> = page.iter().map(Key::as_bytes).collect();
        store_keys(session, flow, &bytes, &vec![SEEN_BY_ALL.to_string(); bytes.len()]).await?;
        writer.as_owner(session).await?;
        stored += page.len() as u64;
        keys = last.map(|last| Segment { lower: Some(last), ..segment });
    }
    if rows + stored == all as u64 { Ok(stored) } else { Err(same_key()) }
}

/// The first keys of a segment whose rows are absent; and the last of them where there may be more.
async fn absent(
    session: &Session,
    flow: &Flow,
    segment: &Segment,
) -> Result<(Vec<Key>, Option<Vec<Raw>>)> {
    let mut parameters = segment.parameters();
    parameters.push(&PAGE as &(dyn ToSql + Sync));
    let rows = session.query(&flow.absent_in_range(segment.bounds()), &parameters).await?;
    let width = flow.key.len();
    let page = rows.iter().map(|row| Key::of_row(row, width)).collect();
    let full = rows.len() as i64 == PAGE;
    let last = rows.last().filter(|_| full);
    Ok((page, last.map(|row| (0..width).map(|i| row.get(i)).collect())))
}

/// A row that was left out although the target has its key: another one has the same. Ranges have no key
/// in common, so that is the change's doing, and no moment's.
fn same_key() -> Error {
    Error::new(
        Kind::DataDiffers,
        "the change gives several rows one key: what it makes of the key's columns is the same for them",
    )
}
