//! The mark that an unfinished shadow bears, so that it is known for one where no state knows it: its comment,
//! until the swap gives it that of the table.

use super::takeover;
use crate::catalog;
use crate::error::Result;
use crate::pg::{QualifiedName, Session};

const BEGIN: &str = "pgwraith: unfinished, filled by migration ";

/// The comment. It says of which table it is, as oid and name: what somebody renamed may be in use, and
/// what was restored from a dump may be too.
pub(super) fn mark(migration: i64, oid: u32, name: &QualifiedName) -> String {
    format!("{BEGIN}{migration} as {name} ({oid})")
}

/// A table that bears one.
#[derive(Debug)]
pub(super) struct Marked {
    pub(super) migration: i64,
    pub(super) oid: u32,
    pub(super) name: QualifiedName,
    /// Whether it is what the mark was put on, under the name it had then.
    pub(super) is_itself: bool,
    /// Whoever works for that migration now.
    pub(super) run_by: Option<String>,
}

/// All of them in this database, but those of the migrations in `known`.
pub(super) async fn marked(session: &Session, known: &[i64]) -> Result<Vec<Marked>> {
    let sql = "SELECT c.oid, d.description FROM pg_catalog.pg_description d \
               JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND c.relkind IN ('r', 'p') \
               WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0 \
                 AND pg_catalog.starts_with(d.description, $1) ORDER BY c.oid";
    let mut out = Vec::new();
    for row in session.query(sql, &[&BEGIN]).await? {
        let (oid, comment): (u32, &str) = (row.get(0), row.get(1));
        let Some(migration) = migration_of(comment).filter(|id| !known.contains(id)) else {
            continue;
        };
        let Some(name) = catalog::name_of(session, oid).await? else { continue };
        let is_itself = comment == mark(migration, oid, &name);
        let run_by = takeover::sessions(session, migration).await?.into_iter().next();
        out.push(Marked { migration, oid, name, is_itself, run_by });
    }
    Ok(out)
}

fn migration_of(comment: &str) -> Option<i64> {
    comment.strip_prefix(BEGIN)?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_whose_it_is() {
        let name = QualifiedName::new("public", "orders_v2");
        let mark = mark(7421, 16400, &name);
        assert_eq!(migration_of(&mark), Some(7421), "{mark}");
        assert!(mark.contains("\"public\".\"orders_v2\"") && mark.contains("16400"), "{mark}");
        assert_eq!(migration_of("orders of customers"), None);
    }
}
