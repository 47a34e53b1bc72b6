//! The table is not fed by a subscription: after a rename its apply worker would skip every change
//! without a word.

use super::{Finding, Result, Subject};
use crate::catalog;
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let subscriptions = catalog::subscriptions(subject.session, subject.table.oid).await?;
    Ok(subscriptions.iter().map(|name| finding(subject, name)).collect())
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
