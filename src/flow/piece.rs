//! A range in pieces. Where there is little time to work, a range as a whole would take little of it on
//! average and all of it for its while: whoever commits then waits until what it wrote to the log is on disk, and
//! whoever is to run, for a processor. So it is worked off piece by piece, with a rest after each. All pieces are
//! of one transaction and one snapshot, and each begins where the last ended (**Invariant 2**, within the range): what
//! is done is the range, as it would be without them, and neither the state nor another commit has anything to do
//! with them.

use std::time::{Duration, Instant};

use super::Flow;
use super::cut::Prepared;
use super::segment::Segment;
use crate::change::Course;
use crate::error::Result;
use crate::pg::Session;
use crate::throttle::valve::Valve;

/// What a piece should take: about what 500 rows of pgbench's do. Of plain statements that copied 100,000 rows a second
/// in pieces of so many, its p99 was 8 to 11 ms; in pieces of three times as many there were peaks far above that.
const PIECE: Duration = Duration::from_micros(800);
const FEWEST: i64 = 100;
const MOST: i64 = 100_000;
/// A transaction of ours is open for no longer than this but for the piece that it is at; what is left of the range
/// goes as a whole then.
const LONGEST: Duration = Duration::from_secs(5);

/// What of work that took so long was not rested for yet, where there were such rests in it: each piece but the last was.
pub fn unrested(took: Duration, rested: Duration) -> Duration {
    if rested.is_zero() { took } else { took.min(PIECE) }
}

/// Goes through ranges in pieces, in one session.
#[derive(Debug)]
pub struct Pieces {
    /// Of the next piece.
    rows: i64,
    find: Prepared,
}

impl Default for Pieces {
    fn default() -> Self {
        Pieces { rows: 500, find: Prepared::default() }
    }
}

impl Pieces {
    /// Works all of the range off, in the session's transaction; at once as soon as there is all the time. Returns how
    /// long it rested.
    pub async fn each(
        &mut self,
        session: &Session,
        (flow, course): (&Flow, &Course),
        valve: &Valve,
        range: &Segment,
        mut work: impl AsyncFnMut(&Segment) -> Result<()>,
    ) -> Result<Duration> {
        let mut rested = Duration::ZERO;
        let mut rest = range.clone();
        let started = Instant::now();
        while valve.is_scarce() && started.elapsed() < LONGEST {
            let began = Instant::now();
            let end = self.find.cut(session, (flow, course), &rest, self.rows).await?;
            // What is left of it is no more than a piece.
            let Some(end) = end else { break };
            let found = began.elapsed();
            let piece = Segment { lower: rest.lower, upper: Some(end.clone()) };
            rest = Segment { lower: Some(end), upper: rest.upper };
            work(&piece).await?;
            let worked = began.elapsed();
            self.learn(worked, found);
            valve.breathe(worked).await;
            rested += began.elapsed() - worked;
        }
        work(&rest).await?;
        Ok(rested)
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
        let (rows, took) = settled(us(2), us(100));
        assert!((PIECE / 2..PIECE * 2).contains(&took), "{rows} rows in {took:?}");
        assert_eq!(settled(ms(50), us(300)).0, FEWEST, "rows that are dear");
    }

    #[test]
    fn what_it_takes_to_begin_makes_no_piece_tiny() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let (rows, took) = settled(us(5), ms(20));
        assert!(rows > 1_000 && took < ms(100), "{rows} rows in {took:?}");
    }
}
