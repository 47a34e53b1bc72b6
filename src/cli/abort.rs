//! `pgwraith abort`.

use serde_json::json;

use super::args::AbortArgs;
use super::resolve;
use crate::error::Result;
use crate::migration;

pub(super) async fn abort(args: AbortArgs) -> Result<()> {
    let connector = resolve::connector(&args.connection)?;
    let aborted = migration::abort(&connector, &args.table).await?;
    if args.json {
        println!(
            "{}",
            json!({"table": aborted.table, "outcome": "aborted", "phase": aborted.phase})
        );
    } else {
        println!(
            "the migration of {} (phase {}) is undone: slot, publication, shadow and state are gone",
            aborted.table, aborted.phase
        );
    }
    Ok(())
}
