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
    findings.extend(unreadable_indexes(subject));
    findings.extend(commented_sequences(subject, &attachments));
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
        "exclusion constraint" | "NO INHERIT or unenforced constraint" => format!("ALTER TABLE {table} DROP CONSTRAINT {own} {again}, if the rule may be unguarded meanwhile"),
        "not-null constraint that is not validated" => format!("ALTER TABLE {table} VALIDATE CONSTRAINT {own}"),
        "extended statistics" => format!("DROP STATISTICS {name} {again}, then ANALYZE"),
        "invalid index" => format!("DROP INDEX {name} or REINDEX INDEX CONCURRENTLY {name}"),
        "CLUSTER mark" => format!("ALTER TABLE {table} SET WITHOUT CLUSTER, and CLUSTER ON again afterwards"),
        "column storage" => format!("ALTER TABLE {table} ALTER COLUMN {own} SET STORAGE to its type's default, and back afterwards"),
        "column compression" => format!("ALTER TABLE {table} ALTER COLUMN {own} SET COMPRESSION default, and back afterwards"),
        "column option" => format!("ALTER TABLE {table} ALTER COLUMN {own} RESET (n_distinct, n_distinct_inherited), and set it again afterwards"),
        "column privilege" => format!("REVOKE the privileges on column {own} of {table}, and grant them again afterwards"),
        "statistics target" => "ALTER … ALTER COLUMN … SET STATISTICS -1, and set it again afterwards".to_owned(),
        "storage parameter" => format!("ALTER TABLE {table} RESET ({}), and set it again afterwards", parameter(name)),
        "toast storage parameter" => format!("ALTER TABLE {table} RESET (toast.{}), and set it again afterwards", parameter(name)),
        "comment" => "COMMENT ON … IS NULL, and set it again afterwards".to_owned(),
        "publication" => format!(
            "ALTER PUBLICATION {own} DROP TABLE {table}, and ADD TABLE again afterwards; meanwhile its subscribers miss the changes"
        ),
        _ => GENERIC.to_owned(),
    }
}

/// `fillfactor=80` → `fillfactor`.
fn parameter(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

fn unreadable_indexes(subject: &Subject<'_>) -> impl Iterator<Item = Finding> {
    let unreadable = subject.table.indexes.iter().filter(|i| i.definition.is_empty());
    unreadable.map(|index| {
        Finding::refuse(
            format!(
                "index {}, whose definition this version cannot read",
                quote_ident(&index.name)
            ),
            GENERIC,
        )
    })
}

/// An identity column gets a sequence of its own, which nothing but grants and position follow.
fn commented_sequences(subject: &Subject<'_>, known: &[Attachment]) -> Vec<Finding> {
    let named = |name: &str| known.iter().any(|a| a.kind == "comment" && a.name.contains(name));
    let sequences = subject.table.sequences.iter().filter(|s| s.identity && s.commented);
    sequences
        .filter(|s| !named(&s.name))
        .map(|s| {
            let name = crate::pg::QualifiedName::new(&s.schema, &s.name);
            Finding::refuse(
                format!("comment sequence {name}"),
                format!("COMMENT ON SEQUENCE {name} IS NULL, and set it again afterwards"),
            )
        })
        .collect()
}
