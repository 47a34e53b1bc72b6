//! `pgwraith cleanup`.

use serde_json::json;

use super::args::CleanupArgs;
use super::resolve;
use crate::error::{Error, Result};
use crate::migration::{self, Leftover};
use crate::say;
use crate::telemetry::{Show, Telemetry};

pub(super) async fn cleanup(args: CleanupArgs) -> Result<()> {
    let done = async {
        let connector = resolve::connector(&args.connection)?;
        match args.yes {
            true => {
                let telemetry = Telemetry::start("", Show::Quiet);
                let done = migration::cleanup(&connector, &telemetry.meter()).await;
                telemetry.finish();
                done
            }
            false => migration::leftovers(&connector).await,
        }
    };
    let done = done.await;
    if args.json {
        say::out_line(as_json(&done, args.yes));
    } else if let Ok(found) = &done {
        say::out(as_text(found, args.yes));
    }
    still_there(&done?).map_or(Ok(()), Err)
}

/// What could not be removed is an error, after all that could be was.
fn still_there(found: &[Leftover]) -> Option<Error> {
    let failed = |leftover: &Leftover| {
        leftover.failed.as_ref().map(|why| format!("{}: {why}", leftover.what))
    };
    let failed: Vec<String> = found.iter().filter_map(failed).collect();
    (!failed.is_empty()).then(|| {
        Error::failed(format!(
            "{} of {} could not be removed: {}",
            failed.len(),
            found.len(),
            failed.join("; ")
        ))
        .next("All else that can go is gone")
    })
}

fn as_json(done: &Result<Vec<Leftover>>, removed: bool) -> serde_json::Value {
    let failure = |e: &Error| json!({"outcome": "failed", "exit_code": e.kind().exit_code(), "error": e.to_string()});
    match done {
        Ok(found) => {
            let mut object = match still_there(found) {
                Some(e) => failure(&e),
                None => json!({"outcome": if removed { "removed" } else { "listed" }}),
            };
            object["leftovers"] = json!(found);
            object
        }
        Err(e) => failure(e),
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
        let part = leftover.goes.map(|part| format!("{part} ")).unwrap_or_default();
        let mut became = match (leftover.may_go(), removed) {
            (false, _) => String::new(),
            (true, true) if leftover.failed.is_some() => format!("; {part}not removed"),
            (true, true) => format!("; {part}removed"),
            (true, false) if leftover.goes.is_some() => format!("; {part}can go"),
            (true, false) => String::new(),
        };
        if let Some(why) = &leftover.kept {
            became.push_str(&format!("; kept: {why}"));
        }
        if let Some(left) = &leftover.left {
            became.push_str(&format!(". {left}"));
        }
        out.push_str(&format!("{}{}{became}\n", leftover.what, holds.unwrap_or_default()));
    }
    if !removed && found.iter().any(Leftover::may_go) {
        let instead = match found.iter().any(Leftover::may_be_resumed) {
            true => "; `pgwraith resume TABLE` goes on with a migration instead",
            false => "",
        };
        out.push_str(&format!(
            "`pgwraith cleanup --yes` removes what is not kept, with slot, publication, shadow and state{instead}\n"
        ));
    }
    out
}
