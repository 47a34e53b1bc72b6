//! `pgwraith set` and `pgwraith cutover`.

use super::args::{Connection, CutoverArgs, SetArgs};
use super::resolve;
use crate::error::Result;
use crate::migration;
use crate::say;

pub(super) async fn set(args: SetArgs) -> Result<()> {
    change(&args.table, &args.connection, "set", &args.limits).await
}

pub(super) async fn cutover(args: CutoverArgs) -> Result<()> {
    let now = ["postpone-cutover=off".to_owned()];
    change(&args.table, &args.connection, "cutover", &now).await
}

async fn change(table: &str, connection: &Connection, what: &str, limits: &[String]) -> Result<()> {
    let flags = resolve::given(&resolve::assignments(limits)?)?;
    let connector = resolve::connector(connection)?;
    let typed = limits.join(" ");
    let was_alive = migration::set(&connector, table, &flags, what, &typed).await?;
    say::out_line(format_args!("{table}: {typed}"));
    if !was_alive {
        say::out_line("nobody runs it now: `pgwraith resume` goes on with this");
    }
    Ok(())
}
