//! Sessions that go on through everything that hangs on a table, and may see no error at all: they
//! have no lock timeout, so a swap is to them a lock they wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness;
use crate::scene::{SOON, Shop, exec};

/// Leaves the server some time, on two cores.
const THINK: Duration = Duration::from_millis(3);

/// One session: what it is, and the transaction that it repeats. `{n}` is the number of the round,
/// from 1. Statements that check something divide by zero where it does not hold.
pub struct Script {
    pub role: &'static str,
    pub sql: &'static str,
}

pub struct Traffic {
    stop: Arc<AtomicBool>,
    sessions: Vec<Session>,
}

/// The rounds it has done; in the end their number, or the error that ended it.
struct Session {
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<u64, String>>,
}

impl Traffic {
    pub async fn start(shop: &Shop, scripts: &'static [Script]) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let mut sessions = Vec::new();
        for script in scripts {
            let client = shop.session().await;
            exec(&client, &format!("SET ROLE {}", script.role)).await;
            let (stop, rounds) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            let done = Arc::clone(&rounds);
            let task = async move {
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    let sql =
                        format!("BEGIN; {}; COMMIT", script.sql.replace("{n}", &n.to_string()));
                    if let Err(e) = client.batch_execute(&sql).await {
                        let told = e.as_db_error().map_or(e.to_string(), |d| format!("{d:?}"));
                        return Err(format!("{}, round {n}: {told}\n{sql}", script.role));
                    }
                    done.store(n, Ordering::SeqCst);
                    tokio::time::sleep(THINK).await;
                }
                Ok(n)
            };
            sessions.push(Session { done: rounds, task: tokio::spawn(task) });
        }
        Traffic { stop, sessions }
    }

    /// Waits until each session has done so many more rounds, or one has ended, which
    /// [`Self::stop`] then tells of.
    pub async fn some_more(&self, rounds: u64) {
        let done = |session: &Session| session.done.load(Ordering::SeqCst);
        let wanted: Vec<u64> = self.sessions.iter().map(|s| done(s) + rounds).collect();
        let reached = async || {
            let mut all = self.sessions.iter().zip(&wanted);
            all.all(|(session, wanted)| done(session) >= *wanted)
                || self.sessions.iter().any(|session| session.task.is_finished())
        };
        harness::wait_until("the sessions go on", SOON, reached).await;
    }

    /// The rounds of each session; panics where one saw an error.
    pub async fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut rounds = Vec::new();
        let mut errors = Vec::new();
        for session in self.sessions {
            match session.task.await.unwrap() {
                Ok(n) => rounds.push(n),
                Err(e) => errors.push(e),
            }
        }
        assert!(errors.is_empty(), "{}", errors.join("\n\n"));
        rounds
    }
}
