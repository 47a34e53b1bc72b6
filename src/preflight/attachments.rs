//! Nothing hangs on the table that a swap would lose or leave with the old table. Each thing is
//! refused by name.

use super::{Finding, Result, Subject};
use crate::catalog::{self, Attachment};
use crate::pg::quote_ident;

const GENERIC: &str = "This version does not carry it over: drop it before and create it again \
                       afterwards, or wait for a version that does";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let attachments = catalog::attachments(subject.session, subject.table.oid).await?;
    let mut findings: Vec<Finding> = attachments.iter().map(finding).collect();
    if matches!(subject.table.kind, 'r' | 'p') {
        findings.extend(unreadable(subject));
    }
    let passing = catalog::passing(subject.session, subject.table.oid).await?;
    findings.extend(passing.iter().map(|what| {
        Finding::refuse(
            format!("{what}, which is temporary, refers to the table"),
            "Only the session that made it can change it: wait until it is dropped or that session ends",
        )
    }));
    Ok(findings)
}

fn finding(attachment: &Attachment) -> Finding {
    let what = format!("{} {}", attachment.kind, attachment.name);
    Finding::refuse(what, mend(attachment))
}

/// Where the attachment's name is an identifier of its own, the statement is given whole.
fn mend(attachment: &Attachment) -> String {
    let name = &attachment.name;
    let again = "and create it again afterwards";
    match attachment.kind.as_str() {
        "materialized view" => format!("DROP MATERIALIZED VIEW {name} {again}: it holds rows, and cannot be pointed to the new table"),
        "foreign key of a partitioned table" => "PostgreSQL binds none of those without looking at every row under lock: drop the constraint, and add it again afterwards".to_owned(),
        "foreign key whose triggers are not the usual ones" => "ALTER TABLE … ENABLE TRIGGER … for its RI_ConstraintTrigger triggers at both ends; now rows may go in unchecked".to_owned(),
        "inheritance" => "Wait for a version that carries inheritance; or ALTER TABLE … NO INHERIT … before and INHERIT again afterwards".to_owned(),
        "constraint trigger that names the table in its FROM" => format!("DROP TRIGGER {name} {again}"),
        "use of an index by name" => format!("It would mean the old table's index: drop what names it before {again}"),
        "index of a partition" => format!("DROP INDEX {name}, or make one like it on the whole table and attach it there"),
        kind if kind.ends_with(" of a partition") => "It is of one partition alone, and the new table will not have that: put it on the whole table, or drop it".to_owned(),
        "foreign key to a partition" => "It would hold the old table's partition: drop the constraint, and let it refer to the table".to_owned(),
        "use of a partition by name" => "It would mean the old table's partition: let it name the table, or drop it before".to_owned(),
        "invalid index" => format!("DROP INDEX {name} or REINDEX INDEX CONCURRENTLY {name}"),
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
