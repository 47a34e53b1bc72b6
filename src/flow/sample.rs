//! Places from all over what a copy goes along, without going through it.

use super::Flow;
use super::write::{Isolation, Writer};
use crate::catalog;
use crate::change::Course;
use crate::error::Result;
use crate::pg::{Raw, Session};

/// So many pages are looked into.
const PAGES: f64 = 256.0;

/// About so many places, in the order of the course; none where they cannot be had cheaply. They are of rows at about
/// equal distances, as far as a sample tells.
pub async fn sample(
    session: &Session,
    flow: &Flow,
    course: &Course,
    writer: &Writer,
    keys: i64,
) -> Result<Vec<Vec<Raw>>> {
    // TABLESAMPLE does not go through a view.
    if !flow.captured.shows_all_keys() {
        return Ok(Vec::new());
    }
    let Some(percent) = percent(session, flow).await? else { return Ok(Vec::new()) };
    writer.begin(session, Isolation::ReadCommitted).await?;
    writer.as_owner(session).await?;
    let rows = session.query(&flow.sample_keys(course), &[&percent, &keys]).await?;
    session.batch("COMMIT").await?;
    let width = course.columns.len();
    let key = |row: &tokio_postgres::Row| (0..width).map(|i| row.get::<_, Raw>(i)).collect();
    Ok(rows.iter().map(key).collect())
}

/// What part of the table's pages that is; None where it was dropped just now, which others say.
pub async fn percent(session: &Session, flow: &Flow) -> Result<Option<f32>> {
    let size = "SELECT pg_catalog.sum(pg_catalog.pg_relation_size(r.oid::pg_catalog.regclass))::pg_catalog.int8 / \
                pg_catalog.current_setting('block_size')::pg_catalog.int8 FROM pg_catalog.unnest($1::pg_catalog.oid[]) r (oid)";
    let relations = catalog::tree(session, flow.captured.oid).await?;
    let pages: Option<i64> = session.one(size, &[&relations]).await?.get(0);
    Ok(pages.map(|pages| (PAGES * 100.0 / (pages.max(1) as f64)).min(100.0) as f32))
}
