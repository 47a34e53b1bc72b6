//! The rows of which both sides differ, by name.

use tokio_postgres::{Row, Statement};

use super::Flow;
use super::key::{Key, array_parameters, key_arrays};
use crate::error::Result;
use crate::pg::{Lossy, Session};

/// Keys of one comparison by name.
const SLICE: usize = 5000;

/// One row that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    pub key: Key,
    /// The key as text, and how the row differs.
    pub text: String,
}

/// Compares both sides for a set of keys, in whatever transaction the session has open.
pub async fn compare_keys(
    session: &Session,
    flow: &Flow,
    keys: &[&Key],
) -> Result<Vec<Difference>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    KeyComparison::prepare(session, flow).await?.run(session, flow, keys).await
}

/// The comparison by key, prepared in one session.
pub struct KeyComparison(Statement);

impl KeyComparison {
    /// Prepares it in `session`.
    pub async fn prepare(session: &Session, flow: &Flow) -> Result<Self> {
        Ok(KeyComparison(session.prepare(&flow.differing_keys()).await?))
    }

    /// The keys whose sides differ. An empty set is asked too, once: that plans the statement.
    pub async fn run(
        &self,
        session: &Session,
        flow: &Flow,
        keys: &[&Key],
    ) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        let mut rest = keys;
        loop {
            let (slice, tail) = rest.split_at(rest.len().min(SLICE));
            let arrays = key_arrays(flow.key_type_oids(), slice.iter().copied());
            let rows = session.run(&self.0, &array_parameters(&arrays)).await?;
            found.extend(rows.iter().map(|row| difference(flow, row)));
            rest = tail;
            if rest.is_empty() {
                return Ok(found);
            }
        }
    }
}

/// What a row of `differing_rows` or `differing_keys` says.
pub(super) fn difference(flow: &Flow, row: &Row) -> Difference {
    let width = flow.key.len();
    let key = Key::of_row(row, width);
    let values: Vec<Option<Lossy>> = row.get(width);
    let named = flow.key.iter().zip(values);
    let named: Vec<String> = named
        .map(|(k, v)| format!("{} = {}", k.source, v.as_ref().map_or("NULL", |v| &v.0)))
        .collect();
    let how = match (row.get(width + 1), row.get(width + 2)) {
        (true, _) => "missing from the shadow".to_owned(),
        (_, true) => "only in the shadow".to_owned(),
        _ => format!("differs in {}", row.get::<_, Vec<String>>(width + 3).join(", ")),
    };
    Difference { key, text: format!("{}: {how}", named.join(", ")) }
}
