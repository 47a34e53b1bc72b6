//! What becomes of rows that moved while a copy went along another order than the key's.
//!
//! Ranges of such a copy are disjoint in that order, and cover it (**Invariant 2**). But a row whose place in it
//! changes between the snapshots of two ranges is read by both, or by none, and by the key alone that is not
//! seen: the target has no index yet. So before the key's index is built, every row whose key is dirty is taken
//! out of the target. What is left has each key once:
//!
//! - A row that some ranges saw otherwise than others was changed by a transaction that one snapshot sees and
//!   another does not. What is not visible to a snapshot used for copying is delivered by the stream
//!   (**Invariant 1**); and what one of them sees was committed, so it is in the log, before the last of them was
//!   taken. So once a fence that was written behind the copy has returned, its key has been marked.
//! - Nothing has been cleared since the copy began: what applies changes starts behind the key's index
//!   (**Invariant 3** is not even asked). Keys that an earlier run knew are stored, or told again by the slot
//!   (**Invariant 5**).
//! - So a key that is not dirty was the same to all of them: exactly one range has read its row.
//!
//! The keys stay dirty, and the sync writes their rows anew, those that no range saw with them. Where the stream
//! cannot be relied on (its slot was lost, or there is none), rows are sought that have one key between them; what
//! is missing then, a comparison of all rows finds.

use super::Flow;
use super::capture::Tracker;
use super::duplicate::stored_keys;
use super::key::{Key, array_parameters, key_arrays};
use super::sql::row;
use super::write::{Isolation, Writer};
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::pg::{QualifiedName, Session, quote_ident};

/// Keys of one statement.
const SLICE: usize = 10_000;
/// Every row of the target is read once, whatever the statistics of a new table say.
const PLANS: &str =
    "SET LOCAL enable_nestloop = off; SET LOCAL max_parallel_workers_per_gather = 0";

/// Takes the rows of all dirty keys out of the target, which nobody else writes to; None where a TRUNCATE is
/// to be followed first. A fence has returned since the copy was done.
pub async fn take_out(
    session: &Session,
    reader: &Session,
    flow: &Flow,
    writer: &Writer,
    tracker: &Tracker,
) -> Result<Option<u64>> {
    // Those that leave memory from here on are among the stored ones.
    let Some(in_memory) = tracker.dirty().in_memory_keys() else { return Ok(None) };
    let list = QualifiedName::new("pgwraith", format!("moved_{}", flow.migration));
    writer.begin(session, Isolation::ReadCommitted).await?;
    // It ends with the transaction, whichever way that ends.
    session.batch(&flow.create_key_list(&list)).await?;
    let owner = quote_ident(&writer.owner);
    session.batch(&format!("GRANT SELECT ON TABLE {list} TO {owner}; {PLANS}")).await?;
    let insert = flow.insert_into_key_list(&list);
    let mut keys = add(session, flow, &insert, &in_memory).await?;
    let mut through = 0;
    loop {
        let stored = stored_keys(reader, flow, &mut through).await?;
        if stored.is_empty() {
            break;
        }
        keys += add(session, flow, &insert, &stored).await?;
    }
    let mut gone = 0;
    if keys > 0 {
        writer.as_owner(session).await?;
        gone = session.execute(&flow.delete_listed(&list), &[]).await?;
        writer.as_tool(session).await?;
    }
    session.batch(&format!("DROP TABLE {list}")).await?;
    failpoint!("moved rows taken out");
    session.batch("COMMIT").await?;
    failpoint!("moved rows gone");
    Ok(Some(gone))
}

/// Takes the rows out that have a key in common.
pub async fn take_out_twins(session: &Session, flow: &Flow, writer: &Writer) -> Result<u64> {
    writer.begin(session, Isolation::ReadCommitted).await?;
    writer.as_owner(session).await?;
    session.batch(PLANS).await?;
    let gone = session.execute(&flow.delete_twins(), &[]).await?;
    session.batch("COMMIT").await?;
    Ok(gone)
}

async fn add(session: &Session, flow: &Flow, insert: &str, keys: &[Key]) -> Result<usize> {
    for slice in keys.chunks(SLICE) {
        let arrays = key_arrays(flow.key_type_oids(), slice);
        session.execute(insert, &array_parameters(&arrays)).await?;
    }
    Ok(keys.len())
}

impl Flow {
    /// A table for captured keys.
    pub(crate) fn create_key_list(&self, list: &QualifiedName) -> String {
        let columns = self.key.iter().map(|k| {
            let collation = k.source_collation.as_ref().map(|c| format!(" COLLATE {c}"));
            let (name, ty) = (quote_ident(&k.source), &k.source_type_sql);
            format!("{name} {ty}{}", collation.unwrap_or_default())
        });
        format!("CREATE TABLE {list} ({})", columns.collect::<Vec<_>>().join(", "))
    }

    /// Puts a set of keys there.
    fn insert_into_key_list(&self, list: &QualifiedName) -> String {
        format!("INSERT INTO {list} {}", self.keys())
    }

    /// Removes every row of the target whose key is there.
    pub(crate) fn delete_listed(&self, list: &QualifiedName) -> String {
        format!(
            "DELETE FROM {root} AS t USING (SELECT DISTINCT {mapped} FROM {list} AS s) AS m WHERE {key} = {listed}",
            root = self.target.root,
            mapped = self.mapped_key(),
            key = row(self.target_key("t")),
            listed = row(self.numbered("m")),
        )
    }

    /// Removes every row of the target whose key another row has too.
    fn delete_twins(&self) -> String {
        let key = self.target_key("o").join(", ");
        let numbered = self.target_key("o").into_iter().enumerate();
        let numbered: Vec<_> = numbered.map(|(i, c)| format!("{c} AS k{}", i + 1)).collect();
        format!(
            "DELETE FROM {root} AS t USING (SELECT {numbered} FROM {root} AS o GROUP BY {key} \
             HAVING pg_catalog.count(*) > 1) AS m WHERE {own} = {twin}",
            root = self.target.root,
            numbered = numbered.join(", "),
            own = row(self.target_key("t")),
            twin = row(self.numbered("m")),
        )
    }
}
