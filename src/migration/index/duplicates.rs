//! The data violates a unique index: which rows.

use crate::error::{Error, Kind, Result};
use crate::migration::context::Context;
use crate::pg::{Lossy, Session, quote_ident};
use crate::shadow::IndexPlan;

/// The error that names the index and some rows that violate it.
pub(super) async fn duplicates(
    session: &Session,
    context: &Context,
    plan: &IndexPlan,
    e: Error,
) -> Error {
    let detail = e.db().and_then(|d| d.detail()).unwrap_or("").to_owned();
    let sample = match sample(session, context, plan).await {
        Ok(keys) if !keys.is_empty() => {
            format!(", for instance the rows with keys {}", keys.join("; "))
        }
        _ => String::new(),
    };
    Error::new(
        Kind::DataDiffers,
        format!("the data violates the unique index or constraint {}{sample}. {detail}", plan.name),
    )
    .next("Remove the duplicates or leave the constraint out, then start again")
    .source(e)
}

async fn sample(session: &Session, context: &Context, plan: &IndexPlan) -> Result<Vec<String>> {
    session.set_role(&context.writer.owner).await?;
    let root = &context.flow.target.root;
    let expressions = &plan.index.expressions;
    let key: Vec<String> = context
        .flow
        .key
        .iter()
        .map(|k| format!("t.{}::pg_catalog.text", quote_ident(&k.target)))
        .collect();
    let numbered = || expressions.iter().enumerate();
    let values: Vec<String> = numbered().map(|(n, e)| format!("{e} AS pgwraith_{n}")).collect();
    let same: Vec<String> =
        numbered().map(|(n, e)| format!("({e}) IS NOT DISTINCT FROM d.pgwraith_{n}")).collect();
    let sql = format!(
        "SELECT pg_catalog.concat_ws(', ', {}) FROM {root} AS t JOIN (SELECT {} FROM {root} \
         GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1) d ON {} LIMIT 5",
        key.join(", "),
        values.join(", "),
        expressions.join(", "),
        same.join(" AND ")
    );
    let rows = session.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| r.get::<_, Lossy>(0).0).collect())
}
