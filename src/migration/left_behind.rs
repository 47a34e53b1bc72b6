//! How many rows a condition leaves behind.

use std::fmt;

use crate::catalog::Table;
use crate::error::Result;
use crate::pg::Session;
use crate::shadow::set_role;
use crate::telemetry::thousands;

/// So long they are counted, in milliseconds; what takes longer is estimated.
const COUNT_TIMEOUT: u32 = 5_000;

/// Rows of the source, and how many of them the condition leaves behind.
#[derive(Debug, Clone, Copy)]
pub struct LeftBehind {
    all: u64,
    gone: u64,
    /// By the server's statistics, without reading the rows.
    estimated: bool,
}

impl LeftBehind {
    /// Counts them where that is soon done.
    pub async fn of(session: &Session, source: &Table, keep: &str) -> Result<LeftBehind> {
        session.batch(&format!("BEGIN; SET LOCAL statement_timeout = {COUNT_TIMEOUT}")).await?;
        let found = find(session, source, keep).await;
        session.rollback().await;
        found
    }
}

/// As the owner: what the condition calls never runs with the tool's rights. Row security that is forced would keep
/// rows from him.
async fn find(session: &Session, source: &Table, keep: &str) -> Result<LeftBehind> {
    let from = source.scanned();
    if !source.forces_row_security() {
        session.batch(&set_role(Some(&source.owner))).await?;
        session.batch("SAVEPOINT counted").await?;
        let sql = format!(
            "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT ({keep})) FROM {from} AS s"
        );
        match session.one(&sql, &[]).await {
            Ok(row) => {
                let rows = |n| row.get::<_, i64>(n).unsigned_abs();
                return Ok(LeftBehind { all: rows(0), gone: rows(1), estimated: false });
            }
            Err(e) if e.db().is_none() => return Err(e),
            // It takes too long, or a row has no answer: the copy will name it.
            Err(_) => session.batch("ROLLBACK TO SAVEPOINT counted").await?,
        }
    }
    let rows = async |condition: &str| -> Result<u64> {
        let sql = format!("EXPLAIN (FORMAT JSON) SELECT FROM {from} AS s WHERE {condition}");
        let plan: serde_json::Value = session.one(&sql, &[]).await?.get(0);
        Ok(plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(0.0) as u64)
    };
    let all = rows("true").await?;
    Ok(LeftBehind { all, gone: all.saturating_sub(rows(keep).await?), estimated: true })
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gone, all) = (thousands(self.gone), thousands(self.all));
        match self.estimated {
            true => write!(
                f,
                "about {gone} of about {all} rows (as the server estimates from its statistics)"
            ),
            false => write!(f, "{gone} of {all} rows, as they are now,"),
        }
    }
}
