//! The table is not fed by a subscription: after a rename its apply worker would skip every change
//! without a word.

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT s.subname::pg_catalog.text FROM pg_catalog.pg_subscription_rel r
               JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid
               WHERE r.srrelid = $1 ORDER BY s.subname";
    let rows = subject.session.query(sql, &[&subject.table.oid]).await?;
    Ok(rows.iter().map(|row| finding(subject, row.get(0))).collect())
}

fn finding(subject: &Subject<'_>, subscription: &str) -> Finding {
    let (name, table) = (quote_ident(subscription), subject.table.qualified());
    Finding::refuse(
        format!(
            "{table} is fed by subscription {name}, which would skip every change after the swap"
        ),
        format!(
            "Take the table out of the publication on the publisher, then ALTER SUBSCRIPTION {name} \
             REFRESH PUBLICATION here; afterwards add it again and refresh with copy_data = false"
        ),
    )
}
