//! The connecting role can act as everybody whose objects follow the table: a view's owner replaces his
//! view, whoever granted a privilege grants it again, and a foreign key takes the rights of two owners.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;

use super::privileges::{membership, right_to_act};
use super::{Finding, Result, Subject};
use crate::catalog::{self, Carried, Grant, Table};
use crate::pg::quote_ident;

/// What of somebody else's follows the table, by its owner.
type Owned = BTreeMap<String, Vec<String>>;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let carried = catalog::carried(subject.session, subject.table.oid).await?;
    let mut findings = missing_roles(subject, &owned(subject.table, &carried)).await?;
    findings.extend(missing_schemas(subject, &carried).await?);
    Ok(findings)
}

fn owned(table: &Table, carried: &[Carried]) -> Owned {
    let mut owned = Owned::new();
    let mut add = |owner: &str, what: String| {
        let list = owned.entry(owner.to_owned()).or_default();
        if owner != table.owner && !list.contains(&what) {
            list.push(what);
        }
    };
    for thing in carried {
        add(&thing.owner, format!("{} {}", thing.kind, thing.name));
        if let Some(relation) = &thing.relation {
            add(&relation.owner, format!("{} {}", thing.kind, thing.name));
        }
    }
    for key in &table.foreign_keys {
        for end in [&key.from, &key.to] {
            add(&end.owner, format!("table {} of foreign key {:?}", end.qualified(), key.name));
        }
    }
    for statistics in &table.statistics {
        add(&statistics.owner, format!("statistics {}", statistics.qualified()));
    }
    for grant in grants(table) {
        add(&grant.grantor, format!("grants on {}", table.qualified()));
    }
    owned.retain(|_, list| !list.is_empty());
    owned
}

fn grants(table: &Table) -> impl Iterator<Item = &Grant> {
    let columns = table.columns.iter().filter_map(|c| c.grants.as_ref());
    let system = table.system_columns.iter().map(|c| &c.grants);
    let sequences = table.sequences.iter().filter_map(|s| s.grants.as_ref());
    table.grants.iter().chain(columns).chain(system).chain(sequences).flatten()
}

async fn missing_roles(subject: &Subject<'_>, owned: &Owned) -> Result<Vec<Finding>> {
    let become_owner = right_to_act(subject.session.version());
    let sql = "SELECT o.rolname::pg_catalog.text, r.rolname::pg_catalog.text, r.rolinherit,
        pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER')
      FROM pg_catalog.pg_roles r, pg_catalog.pg_roles o
      WHERE r.rolname = SESSION_USER AND o.rolname = ANY ($1)
        AND NOT (pg_catalog.pg_has_role(r.oid, o.oid, $2::pg_catalog.text) AND pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE'))
      ORDER BY 1";
    let owners: Vec<&str> = owned.keys().map(String::as_str).collect();
    let rows = subject.session.query(sql, &[&owners, &become_owner]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (owner, role): (&str, &str) = (row.get(0), row.get(1));
        let things = owned.get(owner).map_or(String::new(), |list| list.join(", "));
        Finding::refuse(
            format!(
                "{} cannot act as {}, to whom belongs what follows the table: {things}",
                quote_ident(role),
                quote_ident(owner)
            ),
            membership(subject.session.version(), owner, role, row.get(3), row.get(2)),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

/// Replacing a view or function takes CREATE on its schema, of its owner or, failing that, of the tool;
/// naming the table, in a GRANT or a definition, takes USAGE on the table's; statistics are made by the
/// table's owner and given to theirs.
async fn missing_schemas(subject: &Subject<'_>, carried: &[Carried]) -> Result<Vec<Finding>> {
    let sql = "SELECT n.nspname::pg_catalog.text, SESSION_USER::pg_catalog.text, 'CREATE' FROM pg_catalog.pg_namespace n
        WHERE n.nspname = ANY ($1) AND NOT pg_catalog.has_schema_privilege(SESSION_USER::pg_catalog.text, n.oid, 'CREATE')
      UNION ALL SELECT n.nspname, r.rolname, 'USAGE' FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r
        WHERE n.nspname = $2 AND r.rolname = ANY ($3) AND NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
      UNION SELECT n.nspname, r.rolname, p.privilege
        FROM ROWS FROM (pg_catalog.unnest($4::pg_catalog.text[]), pg_catalog.unnest($5::pg_catalog.text[])) w (schema, role)
        JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema JOIN pg_catalog.pg_roles r ON r.rolname = w.role,
        (VALUES ('USAGE'), ('CREATE')) p (privilege)
        WHERE NOT pg_catalog.has_schema_privilege(r.oid, n.oid, p.privilege)";
    let by_tool = carried.iter().filter(|c| c.role.is_none()).filter_map(|c| c.schema.as_deref());
    let schemas: Vec<&str> = by_tool.collect();
    let grantors = grants(subject.table).map(|g| g.grantor.as_str());
    let acting: Vec<&str> =
        grantors.chain(carried.iter().filter_map(|c| c.role.as_deref())).collect();
    let statistics = subject.table.statistics.iter();
    let (homes, makers): (Vec<&str>, Vec<&str>) = statistics
        .flat_map(|s| [&s.owner, &subject.table.owner].map(|role| (&*s.schema, role.as_str())))
        .unzip();
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&schemas, &subject.table.schema, &acting, &homes, &makers];
    let rows = subject.session.query(sql, &parameters).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (schema, role) = (quote_ident(row.get(0)), quote_ident(row.get(1)));
        let privilege: &str = row.get(2);
        Finding::refuse(
            format!(
                "{role} lacks {privilege} on schema {schema}, for what follows the table there"
            ),
            format!("GRANT {privilege} ON SCHEMA {schema} TO {role}"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
