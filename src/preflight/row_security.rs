//! No row security: a session that it applies to would read fewer rows than there are, and this
//! version does not give the new table the old one's policies.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    let name = table.qualified();
    let sql =
        "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.polname), ', ' ORDER BY p.polname)
               FROM pg_catalog.pg_policy p WHERE p.polrelid = $1";
    let policies: Option<String> = subject.session.one(sql, &[&table.oid]).await?.get(0);
    let mut signs = Vec::new();
    let mut mends = Vec::new();
    if table.row_security {
        signs.push("is enabled".to_owned());
        mends.push(format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"));
    }
    if table.force_row_security {
        signs.push("is forced on the owner".to_owned());
        mends.push(format!("ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY"));
    }
    if let Some(policies) = policies {
        signs.push(format!("has the policies {policies}"));
        mends.push("DROP POLICY … and create them again afterwards".to_owned());
    }
    if signs.is_empty() {
        return Ok(vec![]);
    }
    Ok(vec![Finding::refuse(
        format!(
            "row security of {name} {}, and this version does not carry it over",
            signs.join(" and ")
        ),
        format!(
            "Wait for a version that does; or, only if every role with a grant may see every row \
             meanwhile: {}",
            mends.join("; ")
        ),
    )])
}
