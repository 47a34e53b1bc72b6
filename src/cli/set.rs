//! `pgwraith set`.

use super::args::SetArgs;
use super::resolve;
use crate::error::Result;
use crate::migration;

pub(super) async fn set(args: SetArgs) -> Result<()> {
    let flags = resolve::given(&resolve::assignments(&args.limits)?)?;
    let connector = resolve::connector(&args.connection)?;
    let typed = args.limits.join(" ");
    migration::set(&connector, &args.table, &flags, &typed).await?;
    println!("{}: {typed}", args.table);
    Ok(())
}
