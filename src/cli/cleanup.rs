//! `pgwraith cleanup`.

use serde_json::json;

use super::args::CleanupArgs;
use super::resolve;
use crate::error::Result;
use crate::migration::{self, Leftover};

pub(super) async fn cleanup(args: CleanupArgs) -> Result<()> {
    let done = async {
        let connector = resolve::connector(&args.connection)?;
        match args.yes {
            true => migration::cleanup(&connector).await,
            false => migration::leftovers(&connector).await,
        }
    };
    let done = done.await;
    if args.json {
        println!("{}", as_json(&done, args.yes));
    } else if let Ok(found) = &done {
        print!("{}", as_text(found, args.yes));
    }
    done.map(drop)
}

fn as_json(done: &Result<Vec<Leftover>>, removed: bool) -> serde_json::Value {
    match done {
        Ok(found) => {
            json!({"outcome": if removed { "removed" } else { "listed" }, "leftovers": found})
        }
        Err(e) => json!({
            "outcome": "failed", "exit_code": e.kind().exit_code(), "error": e.to_string(),
        }),
    }
}

fn as_text(found: &[Leftover], removed: bool) -> String {
    if found.is_empty() {
        return "nothing was left in this database\n".to_owned();
    }
    let mut out = String::new();
    for leftover in found {
        let holds =
            leftover.holds_wal.map(|bytes| format!("; holds back {} MB of WAL", bytes >> 20));
        let goes = match (leftover.goes, removed) {
            (Some(part), true) => format!("; {part} removed"),
            (Some(part), false) => format!("; {part} can go"),
            (None, _) => String::new(),
        };
        let became = match (&leftover.kept, removed) {
            (Some(why), _) => format!("{goes}; kept: {why}"),
            (None, true) => match &leftover.left {
                Some(left) => format!("; removed. {left}"),
                None => "; removed".to_owned(),
            },
            (None, false) => String::new(),
        };
        out.push_str(&format!("{}{}{became}\n", leftover.what, holds.unwrap_or_default()));
    }
    if !removed && found.iter().any(|leftover| leftover.kept.is_none() || leftover.goes.is_some()) {
        out.push_str(
            "`pgwraith cleanup --yes` removes what is not kept, with slot, publication, shadow and state; \
             `pgwraith resume TABLE` goes on with a migration instead\n",
        );
    }
    out
}
