//! A session's connection: prepared statements, and telling a refused statement from a lost one.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, NoTls, Row, Statement};

use super::action::{Action, Verb};
use crate::error::describe_db;

/// A statement that takes longer counts as lost with its connection, so that stopping the traffic
/// never waits for ever.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
/// PostgreSQL's words where a prepared statement's columns changed (SQLSTATE 0A000, as for much).
const STALE_PLAN: &str = "cached plan must not change result type";

pub(super) struct Line {
    client: Client,
    table: String,
    prepared: HashMap<Verb, Statement>,
    connection: JoinHandle<()>,
}

/// A statement that was not acknowledged.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) sqlstate: Option<String>,
    /// Whether the connection went with it, so that nobody knows what became of the statement.
    pub(super) lost: bool,
}

impl Line {
    pub(super) async fn open(dsn: &str, table: &str) -> Result<Line, Failure> {
        let (client, connection) =
            tokio_postgres::connect(dsn, NoTls).await.map_err(Failure::from)?;
        let connection = tokio::spawn(async move {
            connection.await.ok();
        });
        Ok(Line { client, table: table.to_owned(), prepared: HashMap::new(), connection })
    }

    /// Runs the action's statement to its acknowledgement. Does what applications do where the
    /// plan is stale: prepares anew and tries again; counts that in `stale_plans`.
    pub(super) async fn perform(
        &mut self,
        action: &Action,
        stale_plans: &mut u64,
    ) -> Result<Vec<Row>, Failure> {
        let attempts = async {
            loop {
                let statement = self.prepare(action.verb()).await?;
                match self.client.query(&statement, &action.parameters()).await {
                    Err(e) if is_stale_plan(&e) => {
                        *stale_plans += 1;
                        self.prepared.remove(&action.verb());
                    }
                    answer => return answer,
                }
            }
        };
        match tokio::time::timeout(STATEMENT_LIMIT, attempts).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure {
                message: format!("no answer within {STATEMENT_LIMIT:?}"),
                sqlstate: None,
                lost: true,
            }),
        }
    }

    async fn prepare(&mut self, verb: Verb) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.prepared.get(&verb) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&verb.sql(&self.table)).await?;
        self.prepared.insert(verb, statement.clone());
        Ok(statement)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A connection that gives no answer would otherwise stay open.
        self.connection.abort();
    }
}

fn is_stale_plan(e: &tokio_postgres::Error) -> bool {
    e.as_db_error().is_some_and(|db| db.message() == STALE_PLAN)
}

impl From<tokio_postgres::Error> for Failure {
    fn from(e: tokio_postgres::Error) -> Self {
        let Some(db) = e.as_db_error() else {
            // Not every such error means a dead connection, but "unknown" is always true.
            let cause = e.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return Failure { message: format!("{e}{cause}"), sqlstate: None, lost: true };
        };
        // A backend that ends while a statement runs may have committed it.
        let lost = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        Failure { message: describe_db(db), sqlstate: Some(db.code().code().to_owned()), lost }
    }
}

/// An id of whatever integer type the column has by now.
pub(super) struct AnyInt(pub(super) i64);

impl<'a> FromSql<'a> for AnyInt {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(AnyInt(match *ty {
            Type::INT2 => i16::from_sql(ty, raw)?.into(),
            Type::INT4 => i32::from_sql(ty, raw)?.into(),
            _ => i64::from_sql(ty, raw)?,
        }))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT2 | Type::INT4 | Type::INT8)
    }
}
