//! Live traffic with an oracle of its own.
//!
//! Some sessions write to a table, one statement a transaction, each session only to rows it owns:
//! those it inserted, and its share of the rows that were there (by id modulo the number of
//! sessions). So each session knows what its rows must look like: what the server acknowledged is
//! there, once, and what it deleted or moved elsewhere is not. The oracle never asks the table what
//! to expect, but for a row's first state.
//!
//! Rows are told apart by `id` and known by `note`, to which every update appends a token that
//! occurs nowhere else.

mod action;
mod line;
mod oracle;
mod report;
mod session;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use oracle::{Oracle, Share};
pub use report::{Report, Stall, StatementError};
use report::{Tally, Timing};
use session::Session;
pub use verify::OracleResult;

/// Where rows go when their key is changed. No identity sequence gets there.
const FIRST_FRESH_ID: i64 = 1_000_000_000;
/// How many rows one session may move; 64 sessions fit into `int`.
const FRESH_IDS_PER_SESSION: i64 = 10_000_000;

/// What the traffic consists of: sessions, and how often each kind of statement comes.
#[derive(Debug, Clone)]
pub struct Mix {
    /// How many sessions write at a time.
    pub sessions: usize,
    /// Statements per second and session; as fast as the server answers where there is none.
    /// Timers tick in milliseconds, so more than 1000 is no limit that could be kept.
    pub rate: Option<f64>,
    /// The weights of the kinds of statements.
    pub inserts: u32,
    pub updates: u32,
    pub deletes: u32,
    /// Updates that give the row another id.
    pub moves: u32,
    pub reads: u32,
    /// The same seed makes every session choose alike.
    pub seed: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Mix {
            sessions: 4,
            rate: None,
            inserts: 20,
            updates: 45,
            deletes: 15,
            moves: 5,
            reads: 15,
            seed: 1,
        }
    }
}

/// What can be seen while the traffic runs.
#[derive(Debug, Default)]
struct Live {
    writes: AtomicU64,
    worst_micros: AtomicU64,
}

/// Running traffic. Stop it to learn what happened; dropping it breaks it off.
pub struct Traffic {
    sessions: JoinSet<(Oracle, Tally)>,
    stop: CancellationToken,
    live: Arc<Live>,
    began: (Instant, SystemTime),
    rows_at_start: i64,
}

impl Traffic {
    /// Starts the sessions on `table` (a name as in SQL, quoted where necessary), which must have
    /// the columns of `orders` and no other writer.
    pub async fn start(dsn: &str, table: &str, mix: Mix) -> Result<Traffic> {
        let survey = survey(dsn, table).await?;
        let mut traffic = Traffic {
            sessions: JoinSet::new(),
            stop: CancellationToken::new(),
            live: Arc::default(),
            began: (Instant::now(), SystemTime::now()),
            rows_at_start: survey.rows,
        };
        for number in 0..mix.sessions {
            let share = share_of(number, mix.sessions, &survey);
            let session = Session {
                dsn: dsn.to_owned(),
                table: table.to_owned(),
                mix: mix.clone(),
                number,
                stop: traffic.stop.clone(),
                live: Arc::clone(&traffic.live),
            };
            let tally = Tally::new(Timing::new()?, traffic.began);
            traffic.sessions.spawn(session.run(Oracle::new(share), tally));
        }
        Ok(traffic)
    }

    /// How many writes the server has acknowledged so far.
    pub fn writes(&self) -> u64 {
        self.live.writes.load(Ordering::Relaxed)
    }

    /// The longest a statement took since this was last asked.
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.live.worst_micros.swap(0, Ordering::Relaxed))
    }

    /// Ends the traffic when every session has the answer to its last statement.
    pub async fn stop(mut self) -> Result<Report> {
        self.stop.cancel();
        let mut oracles = Vec::new();
        let mut total = Tally::new(Timing::new()?, self.began);
        while let Some(done) = self.sessions.join_next().await {
            let (oracle, tally) =
                done.map_err(|e| Error::failed("a traffic session broke off").source(e))?;
            total.add(tally)?;
            oracles.push(oracle);
        }
        Ok(Report::new(total, self.began.0.elapsed(), oracles, self.rows_at_start))
    }
}

/// The table as the traffic finds it.
struct Survey {
    rows: i64,
    last_id: i64,
    first_fresh_id: i64,
}

async fn survey(dsn: &str, table: &str) -> Result<Survey> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let connection = tokio::spawn(connection);
    // Earlier traffic may have moved rows: its fresh ids are not ours.
    let query = format!(
        "SELECT count(*), coalesce(max(id) FILTER (WHERE id < {FIRST_FRESH_ID}), 0)::int8, \
         greatest({FIRST_FRESH_ID}, max(id) + 1)::int8 FROM {table}"
    );
    let row = client.query_one(&query, &[]).await?;
    connection.abort();
    Ok(Survey { rows: row.try_get(0)?, last_id: row.try_get(1)?, first_fresh_id: row.try_get(2)? })
}

fn share_of(number: usize, sessions: usize, survey: &Survey) -> Share {
    let (number, sessions) = (number as i64, sessions as i64);
    Share {
        remainder: number,
        modulus: sessions,
        last_id: survey.last_id,
        first_fresh_id: survey.first_fresh_id + number * FRESH_IDS_PER_SESSION,
    }
}
