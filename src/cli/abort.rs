//! `pgwraith abort`.

use serde_json::json;

use super::args::AbortArgs;
use super::resolve;
use super::run::failure;
use crate::error::Result;
use crate::migration::{self, Aborted, AfterSwap, Shadow, Undone};
use crate::say;
use crate::telemetry::{Show, Telemetry};

pub(super) async fn abort(args: AbortArgs) -> Result<()> {
    let done = undo(&args).await;
    if let (true, Err(e)) = (args.json, &done) {
        say::out_line(failure(&args.table, e));
    }
    let aborted = done?;
    if args.json {
        say::out_line(as_json(&aborted));
    } else {
        say::out(as_text(&aborted));
    }
    Ok(())
}

async fn undo(args: &AbortArgs) -> Result<Aborted> {
    let connector = resolve::connector(&args.connection)?;
    let telemetry = Telemetry::start(&args.table, Show::Quiet);
    let done = migration::abort(&connector, &args.table, &telemetry.meter()).await;
    telemetry.finish();
    done
}

fn as_json(aborted: &Aborted) -> serde_json::Value {
    match aborted {
        Aborted::Undone { table, phase, shadow } => {
            let (dropped, left) = match shadow {
                Shadow::NotThere => (None, None),
                Shadow::Dropped(name) => (Some(name.to_string()), None),
                Shadow::Left(why) => (None, Some(why)),
            };
            json!({
                "table": table, "outcome": "aborted", "phase": phase, "dropped": dropped, "left": left,
            })
        }
        Aborted::InPlace { table, undone } => json!({
            "table": table, "outcome": "aborted", "phase": "in place", "undone": undone.undone, "left": undone.left,
        }),
        Aborted::Swapped(AfterSwap { table, retired, to_validate, .. }) => json!({
            "table": table, "outcome": "swapped", "retired": retired, "to_validate": to_validate,
        }),
    }
}

fn as_text(aborted: &Aborted) -> String {
    match aborted {
        Aborted::Undone { table, phase, shadow } => {
            let undone = format!("the migration of {table} (phase {phase}) is undone");
            match shadow {
                Shadow::NotThere => {
                    format!("{undone}: slot, publication and state are gone; there was no shadow\n")
                }
                Shadow::Dropped(name) => {
                    format!("{undone}: slot, publication, shadow ({name}) and state are gone\n")
                }
                Shadow::Left(why) => {
                    format!("{undone}: slot, publication and state are gone. {why}\n")
                }
            }
        }
        Aborted::InPlace { table, undone } => in_place(table, undone),
        Aborted::Swapped(after) => after_swap(after),
    }
}

fn in_place(table: &str, undone: &Undone) -> String {
    let mut out = match (undone.undone.is_empty(), undone.left.is_empty()) {
        (true, true) => format!("nothing was changed in {table} yet; the state is gone\n"),
        (_, true) => format!("{table} is as it was before; the state is gone\n"),
        (_, false) => format!(
            "{table} is as it was before but for what was typed and done, which nobody here knows how to undo; the state is gone\n"
        ),
    };
    let undo = undone.undone.iter().map(|sql| format!("  undone by  {sql};\n"));
    let left = undone.left.iter().map(|sql| format!("  stays      {sql};\n"));
    out.extend(undo.chain(left));
    out
}

fn after_swap(after: &AfterSwap) -> String {
    let table = &after.table;
    let new = if after.is_there { "has its new shape" } else { "is gone since" };
    let old = match &after.retired {
        Some(retired) => format!("the old table is {retired}"),
        None => "the old table is gone".to_owned(),
    };
    let mut out = format!(
        "the names were swapped already: {table} {new}, {old}. Nothing was undone; what the run left is \
         gone: sessions, slot and publication\n"
    );
    if !after.to_validate.is_empty() {
        let why = after.unproven().map(|why| format!(" ({why})")).unwrap_or_default();
        out.push_str(&format!("left to run{why}:\n"));
    }
    for statement in &after.to_validate {
        out.push_str(&format!("  {statement};\n"));
    }
    out
}
