//! The standbys that are asked themselves (`--replica`): what each answered last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::standbys::Standby;
use crate::error::Error;
use crate::pg::Lsn;
use crate::throttle::replica::{Place, System, name};

/// How often one is asked.
const EVERY: Duration = Duration::from_millis(250);
/// One that cannot be asked is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What was answered, by connection string. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Replicas(Arc<Mutex<BTreeMap<String, Answer>>>);

#[derive(Debug, Clone)]
struct Answer {
    name: String,
    replayed: Result<Lsn, String>,
    at: Instant,
}

impl Replicas {
    /// Asks the standby at `dsn` again and again, on a connection of its own, whatever becomes of that.
    pub async fn ask(&self, dsn: &str, role: &str, primary: Option<System>) {
        let place = match Place::of(dsn) {
            Ok(place) => place,
            Err(e) => return self.note(dsn, "?", Err(e.what().to_owned())),
        };
        let name = place.name();
        let note = |replayed| self.note(dsn, &name, replayed);
        loop {
            let why = ask_on(&place, role, primary, &note).await;
            tracing::debug!("replica {name}: {why}");
            note(Err(why.what().to_owned()));
            sleep(AGAIN).await;
        }
    }

    /// One that is not asked any more.
    pub fn forget(&self, dsn: &str) {
        self.lock().remove(dsn);
    }

    /// Those at `dsns`; the server had written up to `written`, and was asked for that at `asked`.
    pub(super) fn standbys(&self, dsns: &[String], written: Lsn, asked: Instant) -> Vec<Standby> {
        let all = self.lock();
        let position = |answer: &Answer| match &answer.replayed {
            // Nobody replays what is not written: it follows another server since one of both was promoted.
            Ok(replayed) if *replayed > written && answer.at < asked => {
                Err("it has replayed more than this server has written: it follows another"
                    .to_owned())
            }
            replayed => replayed.clone(),
        };
        let standby = |dsn: &String| match all.get(dsn) {
            Some(answer) => Standby::asked(&answer.name, position(answer)),
            None => Standby::asked(&name(dsn), Err("it has not answered yet".to_owned())),
        };
        dsns.iter().map(standby).collect()
    }

    fn note(&self, dsn: &str, name: &str, replayed: Result<Lsn, String>) {
        let answer = Answer { name: name.to_owned(), replayed, at: Instant::now() };
        self.lock().insert(dsn.to_owned(), answer);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends where it does not answer, or is none any more.
async fn ask_on(
    place: &Place,
    role: &str,
    primary: Option<System>,
    note: &impl Fn(Result<Lsn, String>),
) -> Error {
    let replica = match place.open(role, primary).await {
        Ok(replica) => replica,
        Err(e) => return e,
    };
    loop {
        match replica.replayed().await {
            Ok(replayed) => note(Ok(replayed)),
            Err(e) => return e,
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_where_it_answered_and_never_beyond_what_is_written() {
        let (replicas, dsn) = (Replicas::default(), ["host=eu2".to_owned()]);
        let at = |asked| replicas.standbys(&dsn, Lsn(100), asked).remove(0);
        let standby = |replayed: Result<u64, &str>| {
            Standby::asked("eu2:5432", replayed.map(Lsn).map_err(str::to_owned))
        };
        assert_eq!(at(Instant::now()), standby(Err("it has not answered yet")));
        let before = Instant::now();
        replicas.note(&dsn[0], "eu2:5432", Ok(Lsn(101)));
        assert_eq!(at(before), standby(Ok(101)), "written after the server was asked");
        let told = at(Instant::now() + EVERY);
        assert!(told.position.unwrap_err().contains("it follows another"));
        replicas.note(&dsn[0], "eu2:5432", Err("gone".into()));
        assert_eq!(at(before), standby(Err("gone")));
        replicas.forget(&dsn[0]);
        assert_eq!(at(before), standby(Err("it has not answered yet")));
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_told() {
        let (replicas, dsn) = (Replicas::default(), ["host=a,b".to_owned()]);
        replicas.ask(&dsn[0], "replica", None).await;
        let told = replicas.standbys(&dsn, Lsn(0), Instant::now()).remove(0);
        assert!(told.position.unwrap_err().contains("several servers"));
    }
}
