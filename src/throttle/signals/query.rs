//! The operator's own question: while the number that it gives is greater than zero, the copy stops.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::pg::Session;
use crate::throttle::controller::Reading;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);
/// It may take no longer.
const LIMIT: &str = "5s";
/// An answer that is older says nothing any more.
const STALE: Duration = Duration::from_secs(7);

/// What was answered last, shared with whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<Mutex<Option<Answer>>>);

#[derive(Debug)]
struct Answer {
    sql: String,
    number: Result<f64, String>,
    at: Instant,
}

impl Asked {
    /// Asks `sql` once, and waits until it is time for the next time. Fails where the session is lost.
    pub async fn ask(&self, session: &Session, sql: &str) -> Result<()> {
        let number = match number(session, sql).await {
            Ok(number) => Ok(number),
            Err(e) if session.is_closed() => return Err(e),
            Err(e) => Err(e.what().to_owned()),
        };
        session.rollback().await;
        let answer = Answer { sql: sql.to_owned(), number, at: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        tokio::time::sleep(EVERY).await;
        Ok(())
    }

    /// The reading of the question `sql`.
    pub fn reading(&self, sql: &str, now: Instant) -> Reading {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pressure, text) = match answer.as_ref().filter(|answer| answer.sql == sql) {
            None => (None, "not answered yet".to_owned()),
            Some(answer) if now.duration_since(answer.at) > STALE => {
                (None, "no answer in time".to_owned())
            }
            Some(Answer { number: Ok(number), .. }) => {
                // Neither near a limit nor far from it: it says yes or no.
                (Some(if *number > 0.0 { 2.0 } else { 0.0 }), number.to_string())
            }
            Some(Answer { number: Err(why), .. }) => (None, why.clone()),
        };
        Reading::of_others("throttle-query", pressure, text)
    }
}

async fn number(session: &Session, sql: &str) -> Result<f64> {
    session.batch(&format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{LIMIT}'")).await?;
    // One statement: a second one could end the transaction, which only reads.
    session.prepare(sql).await?;
    let rows = session.simple(sql).await?;
    let first = rows.first().and_then(|row| row.first().cloned().flatten());
    let text = first.ok_or_else(|| Error::failed("it gives no number"))?;
    as_number(&text)
}

fn as_number(text: &str) -> Result<f64> {
    let number = text.trim().parse().ok().filter(|number: &f64| !number.is_nan());
    number.ok_or_else(|| Error::failed(format!("it gives {text:?}, which is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_measured() {
        assert_eq!(as_number(" 1.5").unwrap(), 1.5);
        assert_eq!(as_number("Infinity").unwrap(), f64::INFINITY);
        for text in ["NaN", "-nan", "", "many"] {
            assert!(as_number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_fresh_answer_to_this_question_counts() {
        let (asked, start) = (Asked::default(), Instant::now());
        assert_eq!(asked.reading("q", start).pressure, None);
        let answer = |number| Answer { sql: "q".into(), number, at: start };
        let give = |number| *asked.0.lock().unwrap() = Some(answer(number));
        give(Ok(0.0));
        assert_eq!(asked.reading("q", start).pressure, Some(0.0));
        assert_eq!(asked.reading("another", start).pressure, None);
        assert_eq!(asked.reading("q", start + STALE * 2).pressure, None);
        give(Ok(0.5));
        assert_eq!(asked.reading("q", start).pressure, Some(2.0));
        give(Err("it is wrong".into()));
        let wrong = asked.reading("q", start);
        assert_eq!((wrong.pressure, wrong.text.as_str()), (None, "it is wrong"));
    }
}
