//! A standby that is asked itself how far it has replayed: the server knows only of those that stream from
//! it, not of a standby's standby, nor of one that is fed from the archive.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Statement;

use crate::conninfo::ConnInfo;
use crate::error::{Error, Result};
use crate::pg::{Connector, Lsn, Session};

/// Connecting takes no longer, or it is not reached.
const CONNECT: Duration = Duration::from_secs(5);
/// Nor does an answer: one that says nothing may be behind by any time.
const ANSWER: Duration = Duration::from_secs(2);

/// Which server's log is replayed: the same of a server and its standbys, and of no other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct System(i64);

impl System {
    /// None where that may not be asked.
    pub async fn of(session: &Session) -> Result<Option<System>> {
        let sql = "SELECT c.system_identifier FROM pg_catalog.pg_control_system() c";
        match session.one(sql, &[]).await {
            Ok(row) => Ok(Some(System(row.get(0)))),
            Err(e) if session.is_closed() => Err(e),
            Err(e) => {
                tracing::debug!("the system identifier is not known: {e}");
                Ok(None)
            }
        }
    }
}

/// Where one is.
pub struct Place {
    info: ConnInfo,
}

impl Place {
    /// What `dsn` leaves out comes from the libpq environment, service file and password file of this host.
    pub fn of(dsn: &str) -> Result<Place> {
        let mut info = ConnInfo::resolve(Some(dsn))?;
        // Which of several answers may change from one connection to the next: the one that is behind would
        // not be heard.
        if info.hosts.len() > 1 {
            return Err(Error::usage(format!("it names several servers ({})", hosts(&info)))
                .next("Give one --replica for each"));
        }
        // What the environment says of writable sessions is meant for the primary.
        info.writable_only = false;
        Ok(Place { info })
    }

    /// As it is shown to the operator: host and port, and never more.
    pub fn name(&self) -> String {
        hosts(&self.info)
    }

    /// Connects, as `role`, to a standby of the server `primary`.
    pub async fn open(&self, role: &str, primary: Option<System>) -> Result<Replica> {
        let connector = Connector::new(self.info.clone());
        let open = async {
            let session = connector.session(role).await?;
            let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()";
            let statement = session.prepare(sql).await?;
            let system = System::of(&session).await?;
            Ok((Replica { session, statement }, system))
        };
        let (replica, system) = in_time(CONNECT, open).await?;
        match (primary, system) {
            (Some(System(here)), Some(System(there))) if here != there => {
                Err(Error::failed(format!(
                    "it is no standby of this server: its system identifier is {there}, this server's {here}"
                )))
            }
            _ => Ok(replica),
        }
    }
}

fn hosts(info: &ConnInfo) -> String {
    info.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The name of the one at `dsn`. What is wrong with a connection string is said where it is used.
pub fn name(dsn: &str) -> String {
    Place::of(dsn).map_or_else(|_| "?".to_owned(), |place| place.name())
}

/// A session with one.
pub struct Replica {
    session: Session,
    statement: Statement,
}

impl Replica {
    /// Up to where it has replayed.
    pub async fn replayed(&self) -> Result<Lsn> {
        let rows = in_time(ANSWER, self.session.run(&self.statement, &[])).await?;
        let told = rows.first().map(|row| (row.get(0), row.get(1)));
        match told {
            Some((true, Some(replayed))) => Ok(replayed),
            Some((true, None)) => Err(Error::failed("it has replayed nothing yet")),
            _ => Err(Error::failed("it is no standby: it takes writes itself")),
        }
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::lost(format!("no answer within {} s", limit.as_secs()));
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_named_by_host_and_port() {
        assert_eq!(name("postgresql://dba@eu2:5433/shop"), "eu2:5433");
        assert_eq!(name("host=/run/pg dbname=x"), "/run/pg:5432");
        assert_eq!(name("hots=eu2"), "?");
        let several = Place::of("host=a,b").err().unwrap().to_string();
        assert!(several.contains("a:5432, b:5432"), "{several}");
        assert!(!Place::of("host=a target_session_attrs=primary").unwrap().info.writable_only);
    }
}
