//! Finds the row that a range fails on, by halving the range.

use tokio_postgres::types::ToSql;

use super::Flow;
use super::chunk::{Kind, Range};
use super::segment::Segment;
use super::write::{Isolation, Writer};
use crate::error::Result;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Lossy, Raw, Session};

/// The key, as text, of one row in `range` that does not fit the target; None where all fit by now.
/// Nothing it tries is kept.
pub async fn blame(
    session: &Session,
    flow: &Flow,
    writer: &Writer,
    range: &Range,
) -> Result<Option<String>> {
    let mut range = range.clone();
    loop {
        let rows = count(session, flow, writer, &range).await?;
        if rows == 0 {
            return Ok(None);
        }
        let Some(middle) = key_at(session, flow, writer, &range, (rows - 1) / 2).await? else {
            return Ok(None);
        };
        let keys = Segment { upper: Some(middle.clone()), ..range.keys.clone() };
        let half = Range { keys, ..range };
        match (fits(session, flow, writer, &half).await?, rows) {
            (false, 1) => return describe(session, flow, &middle).await.map(Some),
            (true, 1) => return Ok(None),
            (false, _) => range = half,
            (true, _) => range.keys.lower = Some(middle),
        }
    }
}

async fn count(session: &Session, flow: &Flow, writer: &Writer, range: &Range) -> Result<i64> {
    let rows =
        read(session, writer, &flow.count_range(range.bounds()), &range.parameters()).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

async fn key_at(
    session: &Session,
    flow: &Flow,
    writer: &Writer,
    range: &Range,
    offset: i64,
) -> Result<Option<Vec<Raw>>> {
    let mut parameters = range.parameters();
    parameters.push(&offset);
    let course = flow.course(Kind::Copy);
    let sql = flow.key_in_range(&course, range.bounds());
    let rows = read(session, writer, &sql, &parameters).await?;
    let width = course.columns.len();
    Ok(rows.first().map(|row| (0..width).map(|i| row.get::<_, Raw>(i)).collect()))
}

async fn fits(session: &Session, flow: &Flow, writer: &Writer, range: &Range) -> Result<bool> {
    let tried = try_rows(session, writer, &flow.copy_range(range.bounds()), range).await;
    let tried = match tried {
        // One that clashes says nothing of those behind it.
        Err(e) if classify(&e) == Class::Duplicate => {
            try_rows(session, writer, &flow.copy_what_fits(range.bounds()), range).await
        }
        tried => tried,
    };
    match tried {
        Ok(_) => Ok(true),
        Err(e) if classify(&e) == Class::RowsDoNotFit => Ok(false),
        Err(e) => Err(e),
    }
}

/// What does not fit is found before deferrable constraints, which cannot be skipped, are looked at.
async fn try_rows(session: &Session, writer: &Writer, sql: &str, range: &Range) -> Result<u64> {
    writer.begin(session, Isolation::ReadCommitted).await?;
    writer.as_owner(session).await?;
    session.batch("SET CONSTRAINTS ALL DEFERRED").await?;
    let tried = session.execute(sql, &range.parameters()).await;
    session.rollback().await;
    tried
}

async fn describe(session: &Session, flow: &Flow, key: &[Raw]) -> Result<String> {
    let parameters: Vec<&(dyn ToSql + Sync)> =
        key.iter().map(|raw| raw as &(dyn ToSql + Sync)).collect();
    let course = flow.course(Kind::Copy);
    let text: Vec<Lossy> = session.one(&Flow::bound_text(&course), &parameters).await?.get(0);
    let named = course.columns.iter().zip(text).map(|(k, v)| format!("{} = {v}", k.source));
    Ok(named.collect::<Vec<_>>().join(", "))
}

async fn read(
    session: &Session,
    writer: &Writer,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>> {
    writer.begin(session, Isolation::ReadCommitted).await?;
    writer.as_owner(session).await?;
    let rows = session.query(sql, parameters).await;
    session.rollback().await;
    rows
}
