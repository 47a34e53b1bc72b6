//! The oracle's verdict: the rows the sessions know of against the rows of a table.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use tokio_postgres::Client;

use super::action::Note;
use super::oracle::{Fate, Image, Oracle};
use super::report::Report;
use crate::error::Result;

const BATCH: usize = 5000;
/// The end of a long note is what tells: tokens are appended.
const SHOWN_CHARACTERS: usize = 60;

/// What the oracle found.
#[derive(Debug, Default)]
pub struct OracleResult {
    /// How many rows were compared.
    pub checked: u64,
    /// Acknowledged writes that are not there.
    pub lost: Vec<String>,
    /// What is there and must not be.
    pub unexpected: Vec<String>,
}

impl OracleResult {
    /// Whether the table holds exactly what was acknowledged.
    pub fn is_ok(&self) -> bool {
        self.lost.is_empty() && self.unexpected.is_empty()
    }
}

impl Report {
    /// Compares every row a session touched, and the number of all rows, with `table` (a name as
    /// in SQL). The traffic must have been the table's only writer.
    pub async fn verify(&self, client: &Client, table: &str) -> Result<OracleResult> {
        let mut result = self.verify_rows(client, table).await?;
        let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
        judge_count(row.try_get(0)?, self.rows_expected(), &mut result);
        Ok(result)
    }

    /// Compares only the rows a session touched: for tables that others write to, too.
    pub async fn verify_rows(&self, client: &Client, table: &str) -> Result<OracleResult> {
        let mut result = OracleResult::default();
        for oracle in &self.oracles {
            let ids = oracle.ids();
            for batch in ids.chunks(BATCH) {
                let found = notes_of(client, table, batch).await?;
                for id in batch {
                    let notes = found.get(id).map(Vec::as_slice).unwrap_or_default();
                    judge_row(*id, oracle, notes, &mut result);
                }
            }
            for (from, to) in oracle.doubtful_moves() {
                let found = notes_of(client, table, &[*from, *to]).await?;
                judge_move(*from, *to, found.len(), &mut result);
            }
        }
        Ok(result)
    }

    /// How many rows the table must have; a range where connections died in the middle of writes.
    pub fn rows_expected(&self) -> RangeInclusive<i64> {
        let sum = |bound: fn((i64, i64)) -> i64| {
            self.rows_at_start + self.oracles.iter().map(|o| bound(o.growth())).sum::<i64>()
        };
        sum(|(least, _)| least)..=sum(|(_, most)| most)
    }
}

/// The notes of all rows with these ids: more than one where an id is there twice.
async fn notes_of(client: &Client, table: &str, ids: &[i64]) -> Result<HashMap<i64, Vec<Note>>> {
    let query = format!("SELECT id::int8, note::text FROM {table} WHERE id = ANY($1::int8[])");
    let mut found: HashMap<i64, Vec<Note>> = HashMap::new();
    for row in client.query(&query, &[&ids]).await? {
        let note: Option<String> = row.try_get(1)?;
        found.entry(row.try_get(0)?).or_default().push(note.map(Into::into));
    }
    Ok(found)
}

fn judge_row(id: i64, oracle: &Oracle, found: &[Note], result: &mut OracleResult) {
    let Some(fate) = oracle.fate(id) else { return };
    result.checked += 1;
    let is = match found {
        [] => Image::Absent,
        [note] => Image::Present(note.clone()),
        more => {
            return result.unexpected.push(format!("id {id}: there are {} rows", more.len()));
        }
    };
    let allowed = match fate {
        Fate::Settled(image) => *image == is,
        Fate::Doubtful(one, other) => *one == is || *other == is,
    };
    if allowed {
        return;
    }
    match (fate, &is) {
        (Fate::Settled(Image::Absent), _) => result
            .unexpected
            .push(format!("id {id}: was deleted or moved, yet there is {}", shown(&is))),
        _ => result.lost.push(format!("id {id}: expected {}, found {}", told(fate), shown(&is))),
    }
}

fn judge_move(from: i64, to: i64, places: usize, result: &mut OracleResult) {
    match places {
        0 => result.lost.push(format!("id {from}: is neither there nor at {to}, its new id")),
        1 => {}
        _ => result.unexpected.push(format!("id {from}: is there and also at {to}, its new id")),
    }
}

fn judge_count(found: i64, expected: RangeInclusive<i64>, result: &mut OracleResult) {
    if found < *expected.start() {
        result.lost.push(format!("{found} rows in all, at least {} expected", expected.start()));
    }
    if found > *expected.end() {
        result.unexpected.push(format!("{found} rows in all, at most {} expected", expected.end()));
    }
}

fn told(fate: &Fate) -> String {
    match fate {
        Fate::Settled(image) => shown(image),
        Fate::Doubtful(one, other) => format!("{} or {}", shown(one), shown(other)),
    }
}

fn shown(image: &Image) -> String {
    match image {
        Image::Absent => "no row".into(),
        Image::Present(None) => "a row without note".into(),
        Image::Present(Some(note)) => {
            let start = note.char_indices().rev().nth(SHOWN_CHARACTERS).map(|(at, _)| at);
            match start {
                Some(at) => format!("a row with note …{:?}", &note[at..]),
                None => format!("a row with note {note:?}"),
            }
        }
    }
}
