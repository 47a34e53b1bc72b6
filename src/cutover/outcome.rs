//! What became of a COMMIT that got no answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::pg::Connector;

const LIMIT: Duration = Duration::from_secs(120);

/// Asks until the transaction is no longer in progress; true if it committed.
pub(super) async fn committed(connector: &Connector, role: &str, xid: &str) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match ask(connector, role, xid).await {
            Ok(Some(status)) if status == "committed" => return Ok(true),
            Ok(Some(status)) if status == "aborted" => return Ok(false),
            Ok(_) => {}
            Err(e) => tracing::debug!("asking for the cutover's outcome: {e}"),
        }
        if Instant::now() > deadline {
            return Err(Error::failed(format!(
                "the connection broke at the cutover's COMMIT, and its outcome is not known yet (transaction {xid})"
            ))
            .next(format!("Ask SELECT pg_xact_status('{xid}'): committed means that the names are swapped")));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(connector: &Connector, role: &str, xid: &str) -> Result<Option<String>> {
    let session = connector.session(role).await?;
    let sql = "SELECT pg_catalog.pg_xact_status($1::pg_catalog.text::pg_catalog.xid8)";
    Ok(session.one(sql, &[&xid]).await?.get(0))
}
