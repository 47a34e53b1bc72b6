//! Where a range of a course is cut: by the server, behind so many of its places.

use std::collections::HashMap;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::Flow;
use super::segment::Segment;
use super::sql::Bounds;
use crate::change::Course;
use crate::error::Result;
use crate::pg::{Raw, Session};

/// Statements for segments, one for each sort of bounds, prepared once in one session.
#[derive(Debug, Default)]
pub(super) struct Prepared(HashMap<Bounds, Statement>);

impl Prepared {
    /// The one for such a segment.
    pub(super) async fn of(
        &mut self,
        session: &Session,
        segment: &Segment,
        sql: impl Fn(Bounds) -> String,
    ) -> Result<Statement> {
        let bounds = segment.bounds();
        if let Some(statement) = self.0.get(&bounds) {
            return Ok(statement.clone());
        }
        let statement = session.prepare(&sql(bounds)).await?;
        Ok(self.0.entry(bounds).or_insert(statement).clone())
    }

    /// The place behind `rows` of the segment; None where it has no more of them.
    pub(super) async fn cut(
        &mut self,
        session: &Session,
        (flow, course): (&Flow, &Course),
        segment: &Segment,
        rows: i64,
    ) -> Result<Option<Vec<Raw>>> {
        let statement = self.of(session, segment, |b| flow.bound_in_range(course, b)).await?;
        let before = rows - 1;
        let mut parameters = segment.parameters();
        parameters.push(&before as &(dyn ToSql + Sync));
        let rows = session.run(&statement, &parameters).await?;
        let width = course.columns.len();
        Ok(rows.first().map(|row| (0..width).map(|i| row.get::<_, Raw>(i)).collect()))
    }
}
