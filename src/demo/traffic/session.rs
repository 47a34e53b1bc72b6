//! One session: chooses, performs, remembers; connects again where the connection dies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use super::action::{Action, Note};
use super::line::{AnyInt, Line};
use super::oracle::{Image, Oracle, Target};
use super::report::Tally;
use super::{Live, Mix};

const STATUSES: [&str; 4] = ["new", "paid", "shipped", "returned"];
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Session {
    pub(super) dsn: String,
    pub(super) table: String,
    pub(super) mix: Mix,
    pub(super) number: usize,
    pub(super) stop: CancellationToken,
    pub(super) live: Arc<Live>,
}

/// A session at work.
struct Worker {
    session: Session,
    oracle: Oracle,
    tally: Tally,
    rng: StdRng,
    pace: Option<Interval>,
    /// A row just met, to be used at once.
    met: Option<(i64, Note)>,
    /// Makes tokens differ from those of any other traffic.
    run: u32,
    tokens: u64,
}

impl Session {
    /// Runs until told to stop.
    pub(super) async fn run(self, oracle: Oracle, tally: Tally) -> (Oracle, Tally) {
        let stop = self.stop.clone();
        let mut worker = Worker {
            rng: StdRng::seed_from_u64(self.mix.seed.wrapping_add(self.number as u64)),
            pace: pace(self.mix.rate),
            run: rand::random(),
            tokens: 0,
            met: None,
            session: self,
            oracle,
            tally,
        };
        while !stop.is_cancelled() {
            let opening = Line::open(&worker.session.dsn, &worker.session.table);
            let Some(opened) = stop.run_until_cancelled(opening).await else { break };
            match opened {
                Ok(line) => worker.work(line).await,
                Err(failure) => worker.tally.failed("connect", failure),
            }
            stop.run_until_cancelled(tokio::time::sleep(RECONNECT_PAUSE)).await;
        }
        (worker.oracle, worker.tally)
    }
}

impl Worker {
    /// Sends statements until told to stop or the connection dies.
    async fn work(&mut self, mut line: Line) {
        loop {
            if let Some(pace) = &mut self.pace {
                self.session.stop.run_until_cancelled(pace.tick()).await;
            }
            if self.session.stop.is_cancelled() {
                return;
            }
            let action = self.choose();
            if !self.perform(&mut line, action).await {
                return;
            }
        }
    }

    /// Performs one action and remembers its outcome; says whether the connection is alive.
    async fn perform(&mut self, line: &mut Line, action: Action) -> bool {
        let began = Instant::now();
        let answer = line.perform(&action, &mut self.tally.cached_plan_errors).await;
        let took = self.tally.timed(began);
        self.session.live.worst_micros.fetch_max(took, Ordering::Relaxed);
        match answer {
            Ok(rows) => {
                self.acknowledge(action, &rows);
                true
            }
            Err(failure) => {
                let alive = !failure.lost;
                self.tally.failed(action.verb().name(), failure);
                if !alive {
                    self.tally.lost_connections += 1;
                    self.oracle.doubt(action);
                }
                alive
            }
        }
    }

    fn acknowledge(&mut self, action: Action, rows: &[Row]) {
        let verb = action.verb();
        if let Action::Meet { id } = action {
            self.meet(id, rows);
        } else if rows.len() != 1 {
            // The row is known to be there: whoever asks must find it, at any moment.
            let (verb, found) = (verb.name(), rows.len());
            self.tally.anomaly(format!("{verb} found {found} rows instead of 1: {action:?}"));
        } else if let Action::Read { id, note } = &action {
            if note_of(&rows[0]).as_ref() != Some(note) {
                self.tally.anomaly(format!("a read of id {id} did not find note {note:?}"));
            }
        } else {
            match rows[0].try_get::<_, AnyInt>(0) {
                Ok(AnyInt(id)) => self.oracle.acknowledge(action, id),
                Err(e) => {
                    self.tally.anomaly(format!("{}: its id cannot be read: {e}", verb.name()))
                }
            }
        }
        if verb.is_write() {
            self.tally.count(verb);
            self.session.live.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn meet(&mut self, id: i64, rows: &[Row]) {
        match rows {
            [] => self.oracle.meet(id, Image::Absent),
            [row] => match note_of(row) {
                Some(note) => {
                    self.oracle.meet(id, Image::Present(note.clone()));
                    self.met = Some((id, note));
                }
                None => self.tally.anomaly(format!("the note of id {id} cannot be read")),
            },
            rows => self.tally.anomaly(format!("id {id} is there {} times", rows.len())),
        }
    }

    fn choose(&mut self) -> Action {
        let Mix { inserts, updates, deletes, moves, reads, .. } = self.session.mix;
        let mut at = self.rng.random_range(0..(inserts + updates + deletes + moves + reads).max(1));
        let mut falls_to = |weight: u32| {
            let hit = at < weight;
            at = at.saturating_sub(weight);
            hit
        };
        if falls_to(inserts) {
            return self.insert();
        }
        let Some((id, note)) =
            self.met.take().or_else(|| match self.oracle.choose(&mut self.rng) {
                Some(Target::Known(id, note)) => Some((id, note)),
                Some(Target::Stranger(id)) => Some((id, None)),
                None => None,
            })
        else {
            return self.insert();
        };
        if self.oracle.fate(id).is_none() {
            return Action::Meet { id };
        }
        if falls_to(updates) {
            let status = STATUSES[self.rng.random_range(0..STATUSES.len())];
            Action::Update { id, note, token: self.token(), status }
        } else if falls_to(deletes) {
            Action::Delete { id, note }
        } else if falls_to(moves) {
            Action::Move { id, note, to: self.oracle.fresh_id() }
        } else {
            Action::Read { id, note }
        }
    }

    fn insert(&mut self) -> Action {
        let cents = self.rng.random_range(0..1_000_000_u32);
        Action::Insert {
            customer: self.rng.random_range(0..100_000),
            amount: format!("{}.{:02}", cents / 100, cents % 100),
            token: self.token(),
        }
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("{:x}.{}.{} ", self.run, self.session.number, self.tokens)
    }
}

fn note_of(row: &Row) -> Option<Note> {
    row.try_get::<_, Option<String>>("note").ok().map(|note| note.map(Into::into))
}

fn pace(rate: Option<f64>) -> Option<Interval> {
    let rate = rate.filter(|rate| *rate > 0.0)?;
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    // A stall is not made up for: what it kept from being sent is lost traffic, not a burst.
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    Some(pace)
}
