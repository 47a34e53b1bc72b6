//! `pgwraith abort`.

use serde_json::json;

use super::args::AbortArgs;
use super::resolve;
use super::run::failure;
use crate::error::Result;
use crate::migration::{self, Aborted};

pub(super) async fn abort(args: AbortArgs) -> Result<()> {
    let done = undo(&args).await;
    if let (true, Err(e)) = (args.json, &done) {
        println!("{}", failure(&args.table, e));
    }
    let aborted = done?;
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

async fn undo(args: &AbortArgs) -> Result<Aborted> {
    let connector = resolve::connector(&args.connection)?;
    migration::abort(&connector, &args.table).await
}
