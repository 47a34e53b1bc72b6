//! SQL sessions: few, long-lived, named by what they do, with every setting pinned that a role or
//! database default could turn against us (design §5).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::name::quote_literal;
use super::unanswered::Unanswered;
use crate::error::{Error, Result};

/// Pinned at connection start, where they override `ALTER ROLE … SET` and `ALTER DATABASE … SET`
/// before the first statement runs. `search_path` is pinned afterwards ([`PINNED_LATER`]) so that
/// `RESET search_path` still means the operator's own, under which the change is parsed.
const PINNED_AT_START: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read\\ committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    // Invariant 5: what we report as stored is on disk, whatever the role's default; `local`,
    // because a stalled synchronous standby must not stall us.
    ("synchronous_commit", "local"),
    ("default_tablespace", ""),
    ("default_table_access_method", "heap"),
    ("row_security", "off"),
    ("jit", "off"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    // What the server prints of an expression is read again.
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
    // A tool whose host is gone lets go of its transactions within a minute.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// What an expression that is STABLE may read, and how a value is written or read. The operator's own, as they are when a
/// migration begins.
const MAKING: [&str; 7] = [
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "default_text_search_config",
];

const PINNED_LATER: &str =
    "SET search_path = pg_catalog, pg_temp; SET standard_conforming_strings = on;";

/// A tool that was killed leaves nothing at work for long, not even the building of an index.
const NOTICES_A_LOST_CLIENT: &str = "SET client_connection_check_interval = '1s'";

/// Pins what could not be pinned at the start, and asks who the server is.
pub(super) async fn settle(client: Client, role: &str, unanswered: &Unanswered) -> Result<Session> {
    client.batch_execute(PINNED_LATER).await?;
    // Not every platform of a server can look whether its client is still there.
    client.batch_execute(NOTICES_A_LOST_CLIENT).await.ok();
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_backend_pid(), \
             pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
             pg_catalog.current_setting('server_encoding')",
            &[],
        )
        .await?;
    let encoding: String = row.get(2);
    let session = Session {
        client,
        pid: row.get(0),
        version: row.get(1),
        encoding: encoding.clone(),
        role: role.to_owned(),
        unanswered: unanswered.clone(),
        kept: Mutex::default(),
        made_by: Mutex::default(),
    };
    if session.version >= 170_000 {
        session.batch("SET transaction_timeout = 0").await?;
    }
    if encoding == "SQL_ASCII" {
        session.set("client_encoding", client_encoding(&encoding)).await?;
    }
    Ok(session)
}

/// The encoding that every connection of ours uses, the walsender's too, so that a text key comes
/// back to the server as the bytes it left with: UTF-8, which the server converts both ways, or
/// none at all where the server does not know what its bytes mean.
pub(crate) fn client_encoding(server_encoding: &str) -> &'static str {
    if server_encoding == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" }
}

/// The session's name in `pg_stat_activity`.
pub fn application_name(role: &str) -> String {
    format!("pgwraith/{role}")
}

pub(crate) fn start_options(own: Option<&str>) -> String {
    let pinned = PINNED_AT_START.iter().map(|(name, value)| format!("-c {name}={value}"));
    own.map(str::to_owned).into_iter().chain(pinned).collect::<Vec<_>>().join(" ")
}

/// One SQL session. Dropping it closes the connection, and the server rolls back what was open.
pub struct Session {
    client: Client,
    pid: i32,
    version: i32,
    encoding: String,
    role: String,
    unanswered: Unanswered,
    /// Statements by their texts.
    kept: Mutex<HashMap<String, Statement>>,
    /// The settings that it was given to make values by.
    made_by: Mutex<Vec<(String, String)>>,
}

impl Session {
    /// The backend's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// `server_version_num`.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// `server_encoding`.
    pub fn encoding(&self) -> &str {
        &self.encoding
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements without parameters.
    pub async fn batch(&self, sql: &str) -> Result<()> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.batch_execute(&self.tag(sql)).await.map_err(Error::from)
    }

    /// Runs statements without parameters and returns the last result's rows as text.
    pub async fn simple(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let _sent = self.unanswered.sent(self.pid);
        let mut rows = Vec::new();
        for message in self.client.simple_query(&self.tag(sql)).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Runs one statement and returns its rows.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.query(&self.tag(sql), params).await.map_err(Error::from)
    }

    /// Runs one statement that returns exactly one row.
    pub async fn one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.query_one(&self.tag(sql), params).await.map_err(Error::from)
    }

    /// The same of a statement that is long and comes again: it is prepared the first time, and kept.
    pub async fn one_again(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let known = self.kept().get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.prepare(sql).await?;
                self.kept().insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        let _sent = self.unanswered.sent(self.pid);
        self.client.query_one(&statement, params).await.map_err(Error::from)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Statement>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one statement that returns at most one row.
    pub async fn maybe(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.query_opt(&self.tag(sql), params).await.map_err(Error::from)
    }

    /// Runs one statement and returns the number of rows it touched.
    pub async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.execute(&self.tag(sql), params).await.map_err(Error::from)
    }

    /// Prepares a statement once for many runs.
    pub async fn prepare(&self, sql: &str) -> Result<Statement> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.prepare(&self.tag(sql)).await.map_err(Error::from)
    }

    /// Runs a prepared statement and returns its rows.
    pub async fn run(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.query(statement, params).await.map_err(Error::from)
    }

    /// Runs a prepared statement and returns the number of rows it touched.
    pub async fn run_count(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        let _sent = self.unanswered.sent(self.pid);
        self.client.execute(statement, params).await.map_err(Error::from)
    }

    /// Gives up what the session is doing: rolls back, ignoring that nothing may be open.
    pub async fn rollback(&self) {
        if let Err(e) = self.batch("ROLLBACK").await {
            tracing::debug!("rollback: {e}");
        }
    }

    /// Does it in a part of the open transaction that is undone again, whatever comes of it.
    pub async fn undone<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.batch("SAVEPOINT undone").await?;
        let done = work.await;
        // Of several of that name the last one: parts may be in parts.
        let undone = self.batch("ROLLBACK TO SAVEPOINT undone; RELEASE SAVEPOINT undone").await;
        done.and_then(|done| undone.map(|()| done))
    }

    /// From here on, every object belongs to `role`, and data is read and written as `role`.
    pub async fn set_role(&self, role: &str) -> Result<()> {
        self.batch(&format!("SET SESSION ROLE {}", super::quote_ident(role))).await
    }

    /// Pins one setting for the session.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        self.batch(&format!("SET {} = {}", super::quote_ident(name), quote_literal(value))).await
    }

    /// The settings that values are made by, as the session has them.
    pub async fn making(&self) -> Result<Vec<(String, String)>> {
        let sql = "SELECT s.name, s.setting FROM pg_catalog.pg_settings s WHERE s.name = ANY ($1) ORDER BY s.name";
        let rows = self.query(sql, &[&MAKING.as_slice()]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Sets those.
    pub(super) async fn make_by(&self, settings: &[(String, String)]) -> Result<()> {
        let set = |(name, value): &(String, String)| {
            format!("SET {} = {}", super::quote_ident(name), quote_literal(value))
        };
        if !settings.is_empty() {
            self.batch(&settings.iter().map(set).collect::<Vec<_>>().join("; ")).await?;
        }
        *self.made_by.lock().unwrap_or_else(PoisonError::into_inner) = settings.to_vec();
        Ok(())
    }

    /// Has the server write times and intervals meanwhile as every setting reads them again. What fails may leave it so:
    /// it has failed a transaction, whose end undoes that, or the session is of no use any more.
    pub async fn in_iso<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.batch("SET \"DateStyle\" = 'ISO'; SET \"IntervalStyle\" = 'postgres'").await?;
        let done = work.await?;
        self.batch(&self.own_styles()).await?;
        Ok(done)
    }

    /// Values are made under its own settings again: those that it was given, or those of role, database and server.
    fn own_styles(&self) -> String {
        let given = self.made_by.lock().unwrap_or_else(PoisonError::into_inner);
        let back = |name: &str| match given.iter().find(|(given, _)| given == name) {
            Some((_, value)) => format!("SET \"{name}\" = {}", quote_literal(value)),
            None => format!("RESET \"{name}\""),
        };
        ["DateStyle", "IntervalStyle"].map(back).join("; ")
    }

    /// Every statement says who sent it and for what.
    fn tag(&self, sql: &str) -> String {
        format!("/* pgwraith {} */ {sql}", self.role.replace('*', ""))
    }
}
