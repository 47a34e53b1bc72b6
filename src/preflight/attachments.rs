//! Nothing hangs on the table that a swap would lose or leave with the old table. Each thing is
//! refused by name.

use super::{Finding, Result, Subject};
use crate::catalog::{self, Attachment};
use crate::pg::quote_ident;

const GENERIC: &str = "This version does not carry it over: drop it before and create it again \
                       afterwards, or wait for a version that does";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let attachments = catalog::attachments(subject.session, subject.table.oid).await?;
    let mut findings: Vec<Finding> = attachments.iter().map(|a| finding(subject, a)).collect();
    findings.extend(unreadable(subject));
    Ok(findings)
}

fn finding(subject: &Subject<'_>, attachment: &Attachment) -> Finding {
    let what = format!("{} {}", attachment.kind, attachment.name);
    Finding::refuse(what, mend(subject, attachment))
}

/// Where the attachment's name is an identifier of its own, the statement is given whole.
fn mend(subject: &Subject<'_>, attachment: &Attachment) -> String {
    let table = subject.table.qualified();
    let name = &attachment.name;
    let own = quote_ident(name);
    let again = "and create it again afterwards";
    match attachment.kind.as_str() {
        "foreign key" => format!("This version does not carry it over: drop the constraint {again}, NOT VALID first and then VALIDATE"),
        "view" => format!("DROP VIEW {name} {again}; left alone it would go on reading the old table"),
        "materialized view" => format!("DROP MATERIALIZED VIEW {name} {again}; left alone it would go on reading the old table"),
        "rule of another table" => format!("DROP RULE {name} {again}"),
        "inheritance" => "Wait for a version that carries inheritance; or ALTER TABLE … NO INHERIT … before and INHERIT again afterwards".to_owned(),
        "invalid index" => format!("DROP INDEX {name} or REINDEX INDEX CONCURRENTLY {name}"),
        "publication" => format!(
            "ALTER PUBLICATION {own} DROP TABLE {table}, and ADD TABLE again afterwards; meanwhile its subscribers miss the changes"
        ),
        _ => GENERIC.to_owned(),
    }
}

fn unreadable(subject: &Subject<'_>) -> impl Iterator<Item = Finding> {
    let indexes = subject.table.indexes.iter().filter(|i| i.definition.is_empty());
    let indexes = indexes.map(|i| format!("index {}", quote_ident(&i.name)));
    let statistics = subject.table.statistics.iter().filter(|s| s.definition.is_empty());
    let statistics = statistics.map(|s| format!("extended statistics {}", s.qualified()));
    let finding = |what: String| {
        Finding::refuse(format!("{what}, whose definition this version cannot read"), GENERIC)
    };
    indexes.chain(statistics).map(finding)
}
