//! A range in pieces. Where there is little time to work, a range as a whole would take little of it on
//! average and all of it for its while: whoever commits then waits until what it wrote to the log is on disk.
//! So it is inserted piece by piece, with a rest after each. All pieces are of one transaction and one
//! snapshot, and each begins where the last ended (**Invariant 2**, within the range): what is committed is
//! the range, as it would be without them, and neither the state nor another commit has anything to do with them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::Flow;
use super::chunk::Kind;
use super::segment::Segment;
use super::sql::Bounds;
use crate::error::Result;
use crate::pg::{Raw, Session};
use crate::throttle::valve::Valve;

/// What a piece should take: about what the application does not feel.
pub const PIECE: Duration = Duration::from_millis(2);
const FEWEST: i64 = 100;
const MOST: i64 = 100_000;
/// A transaction of ours is open for no longer than this but for the piece that it is at; what is left of the range
/// goes as a whole then.
const LONGEST: Duration = Duration::from_secs(5);

/// What was inserted of a range.
#[derive(Debug, Default)]
pub struct Inserted {
    pub rows: u64,
    /// The rests in it.
    pub rested: Duration,
}

/// Inserts ranges in pieces, in one session.
#[derive(Debug)]
pub struct Pieces {
    /// Of the next piece.
    rows: i64,
    find: HashMap<Bounds, Statement>,
    insert: HashMap<Bounds, Statement>,
}

impl Default for Pieces {
    fn default() -> Self {
        Pieces { rows: 500, find: HashMap::new(), insert: HashMap::new() }
    }
}

impl Pieces {
    /// Inserts all of the range in the session's transaction; at once as soon as there is all the time.
    pub async fn insert(
        &mut self,
        session: &Session,
        flow: &Flow,
        valve: &Valve,
        range: &Segment,
    ) -> Result<Inserted> {
        let mut inserted = Inserted::default();
        let mut rest = range.clone();
        let started = Instant::now();
        while valve.is_scarce() && started.elapsed() < LONGEST {
            let began = Instant::now();
            let Some(end) = self.find_end(session, flow, &rest).await? else { break };
            let found = began.elapsed();
            let piece = Segment { lower: rest.lower, upper: Some(end.clone()) };
            rest = Segment { lower: Some(end), upper: rest.upper };
            let insert =
                prepared(&mut self.insert, session, &piece, |b| flow.copy_range(b)).await?;
            inserted.rows += session.run_count(&insert, &piece.parameters()).await?;
            let worked = began.elapsed();
            self.learn(worked, found);
            valve.breathe(worked).await;
            inserted.rested += began.elapsed() - worked;
        }
        let sql = flow.copy_range(rest.bounds());
        inserted.rows += session.execute(&sql, &rest.parameters()).await?;
        Ok(inserted)
    }

    /// None where what is left of the range is no more than a piece.
    async fn find_end(
        &mut self,
        session: &Session,
        flow: &Flow,
        rest: &Segment,
    ) -> Result<Option<Vec<Raw>>> {
        let course = flow.course(Kind::Copy);
        let find =
            prepared(&mut self.find, session, rest, |b| flow.bound_in_range(&course, b)).await?;
        let before = self.rows - 1;
        let mut parameters = rest.parameters();
        parameters.push(&before as &(dyn ToSql + Sync));
        let rows = session.run(&find, &parameters).await?;
        let width = course.columns.len();
        Ok(rows.first().map(|row| (0..width).map(|i| row.get::<_, Raw>(i)).collect()))
    }

    /// From a piece that took so long, of which so long to find its end. To begin a statement over hundreds of
    /// partitions takes longer than a piece should, and does not fall with its rows: to find an end shows it,
    /// since that reads next to nothing.
    fn learn(&mut self, took: Duration, found: Duration) {
        let time = PIECE.max(found * 3);
        let factor = time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let next = self.rows as f64 * factor.clamp(0.25, 1.5);
        self.rows = (next as i64).clamp(FEWEST, MOST);
    }
}

/// The statement for a segment with such bounds, prepared once.
async fn prepared(
    all: &mut HashMap<Bounds, Statement>,
    session: &Session,
    segment: &Segment,
    sql: impl Fn(Bounds) -> String,
) -> Result<Statement> {
    let bounds = segment.bounds();
    if let Some(statement) = all.get(&bounds) {
        return Ok(statement.clone());
    }
    let statement = session.prepare(&sql(bounds)).await?;
    Ok(all.entry(bounds).or_insert(statement).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a piece, and how long it takes, once they settle: where it takes `fixed` to begin a statement,
    /// and `row` to insert one.
    fn settled(row: Duration, fixed: Duration) -> (i64, Duration) {
        let mut pieces = Pieces::default();
        let found = |rows: i64| fixed + row * rows as u32 / 10;
        let took = |rows: i64| found(rows) + fixed + row * rows as u32;
        for _ in 0..60 {
            pieces.learn(took(pieces.rows), found(pieces.rows));
        }
        (pieces.rows, took(pieces.rows))
    }

    #[test]
    fn pieces_take_about_their_time() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let (rows, took) = settled(us(2), us(300));
        assert!((ms(1)..ms(3)).contains(&took), "{rows} rows in {took:?}");
        assert_eq!(settled(ms(50), us(300)).0, FEWEST, "rows that are dear");
    }

    #[test]
    fn what_it_takes_to_begin_makes_no_piece_tiny() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let (rows, took) = settled(us(5), ms(20));
        assert!(rows > 1_000 && took < ms(100), "{rows} rows in {took:?}");
    }
}
