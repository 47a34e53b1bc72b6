//! `pgwraith set` and `pgwraith cutover`.

use super::args::{Connection, CutoverArgs, SetArgs};
use super::resolve;
use crate::error::Result;
use crate::migration;
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
    change(&args.table, &args.connection, "cutover", &now).await
}

async fn change(table: &str, connection: &Connection, what: &str, limits: &[String]) -> Result<()> {
    let flags = resolve::assignments(limits)?;
    let connector = resolve::connector(connection)?;
    let typed = limits.join(" ");
    let was_alive = migration::set(&connector, table, &flags, what, &typed).await?;
    say::out_line(format_args!("{table}: {typed}"));
    if !was_alive {
        say::out_line("nobody runs it now: `pgwraith resume` goes on with this");
        return Ok(());
    }
    for (name, when) in LATER.iter().filter(|(name, _)| is_among(name, limits)) {
        say::out_line(format_args!("{name} takes effect {when}"));
    }
    Ok(())
}

fn is_among(name: &str, typed: &[String]) -> bool {
    typed.iter().any(|one| one.split_once('=').is_some_and(|(given, _)| given == name))
}
