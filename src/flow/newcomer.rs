//! A partition that came to the captured relation in mid-run.
//!
//! What is written to it from then on is told by the stream. What was in it as it was attached is not: it was written
//! when the table was nobody's partition, or in the transaction that made it one. So every key that it has is stored as
//! dirty. Mostly there is none: a partition is made empty, for the time to come.

use super::Flow;
use super::capture::Tracker;
use super::dirty::SEEN_BY_ALL;
use super::keeper::store_keys;
use super::key::Key;
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::pg::{QualifiedName, Session, quote_ident};

/// Keys that are stored at a time.
const PAGE: usize = 10_000;

/// Stores every key of `partition` in the open transaction, by a statement that begins after the partition was seen to
/// be one. Returns how many there are.
///
/// Each is dirty whatever any transaction did to it (**Invariant 3**): whoever syncs it does so at a snapshot that is
/// taken after this transaction has committed, and sees all that this one sees; what changes the key since then is told
/// by the stream.
pub async fn store_all(session: &Session, flow: &Flow, partition: &QualifiedName) -> Result<u64> {
    let key: Vec<String> = flow.key.iter().map(|k| quote_ident(&k.source)).collect();
    session
        .batch(&format!(
            "DECLARE newcomer NO SCROLL CURSOR FOR SELECT {} FROM ONLY {partition}",
            key.join(", ")
        ))
        .await?;
    let mut stored = 0;
    loop {
        let rows = session.query(&format!("FETCH {PAGE} FROM newcomer"), &[]).await?;
        let page: Vec<Key> = rows.iter().map(|row| Key::of_row(row, key.len())).collect();
        let bytes: Vec<&[u8]> = page.iter().map(Key::as_bytes).collect();
        store_keys(session, flow, &bytes, &vec![SEEN_BY_ALL.to_string(); bytes.len()]).await?;
        stored += page.len() as u64;
        if page.len() < PAGE {
            break;
        }
    }
    session.batch("CLOSE newcomer").await?;
    Ok(stored)
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
