//! `pgwraith set` and `pgwraith cutover`.

use super::args::{Connection, CutoverArgs, SetArgs};
use super::resolve;
use crate::error::Result;
use crate::migration::{self, Notices, Status};
use crate::pg::shell_word;
use crate::say;

/// What is under way goes on with the old ones of these.
const LATER: [(&str, &str); 4] = [
    ("chunk-rows", "where the next phase begins to go through the rows"),
    ("maintenance-work-mem", INDEXES),
    ("index-jobs", INDEXES),
    ("index-workers", INDEXES),
];
const INDEXES: &str =
    "where indexes are begun next; those that are being built go on as they began";

pub(super) async fn set(args: SetArgs) -> Result<()> {
    change(&args.table, &args.connection, "set", &args.limits).await
}

pub(super) async fn cutover(args: CutoverArgs) -> Result<()> {
    let now = ["postpone-cutover=off".to_owned()];
    change(&args.table, &args.connection, "cutover", &now).await?;
    let connector = resolve::connector(&args.connection)?;
    // Gone, where it has swapped by now.
    let all = migration::status(&connector, Some(&args.table)).await.unwrap_or_default();
    let waits = all.iter().filter(|status| !status.given_up);
    for held in waits.filter_map(|status| still_held(status, &args.table)) {
        say::out_line(held);
    }
    Ok(())
}

/// What a swap waits for besides that word.
fn still_held(status: &Status, table: &str) -> Option<String> {
    let mut out = Vec::new();
    if status.paused {
        out.push(format!("it is paused: `pgwraith set {table} pause=off`"));
    }
    if let Some(window) = &status.cutover_window {
        out.push(format!("it swaps in the hours of --cutover-window alone: {window}"));
    }
    if !matches!(status.phase.as_str(), "cutover" | "done") {
        out.push(format!("it is in phase {:?}: the swap comes behind verification", status.phase));
    }
    (!out.is_empty()).then(|| out.join("; "))
}

async fn change(table: &str, connection: &Connection, what: &str, limits: &[String]) -> Result<()> {
    let flags = resolve::assignments(limits)?;
    let connector = resolve::connector(connection)?;
    let typed = limits.join(" ");
    let noticed = migration::set(&connector, table, &flags, what, &typed).await?;
    say::out_line(format_args!("{table}: {typed}"));
    if let Some(told) = unnoticed(noticed, &shell_word(table)) {
        say::out_line(told);
        return Ok(());
    }
    for (name, when) in LATER.iter().filter(|(name, _)| is_among(name, limits)) {
        say::out_line(format_args!("{name} takes effect {when}"));
    }
    Ok(())
}

/// What to do where no run takes it over by itself.
fn unnoticed(noticed: Notices, table: &str) -> Option<String> {
    match noticed {
        Notices::Run => None,
        Notices::Resume => {
            Some("nobody runs it now: `pgwraith resume` goes on with this".to_owned())
        }
        Notices::NobodyDryRun => Some(format!(
            "nobody runs it, and nobody can go on: it is a dry run that was cut off; `pgwraith abort {table}` removes it"
        )),
        Notices::NobodyGivenUp => Some(format!(
            "nobody runs it, and it cannot go on: `pgwraith abort {table}` removes what is left"
        )),
    }
}

fn is_among(name: &str, typed: &[String]) -> bool {
    typed.iter().any(|one| one.split_once('=').is_some_and(|(given, _)| given == name))
}
