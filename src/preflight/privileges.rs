//! The connecting role has what a run needs and no more is asked for; what is missing is said as
//! the statement that gives it. The right to replicate is not looked up but tried
//! (`replication_connection`).

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

/// What the server says of the role's rights.
struct Rights {
    role: String,
    superuser: bool,
    inherits: bool,
    member: bool,
    may_become_owner: bool,
    has_owners_rights: bool,
    create_on_database: bool,
    owner_uses_schema: bool,
    owner_creates_in_schema: bool,
    reads_all_stats: bool,
    database: String,
}

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let rights = rights(subject).await?;
    let mut findings = in_general(subject, &rights);
    findings.extend(may_create(subject, &rights));
    Ok(findings)
}

/// Where the table's schema gets something new, be it an index.
pub(super) async fn creating(subject: &Subject<'_>) -> Result<Option<Finding>> {
    Ok(may_create(subject, &rights(subject).await?))
}

fn may_create(subject: &Subject<'_>, rights: &Rights) -> Option<Finding> {
    schema(subject, rights.superuser || rights.owner_creates_in_schema, "CREATE")
}

/// What a change in place takes that makes nothing new.
pub(super) async fn before_a_trial(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    Ok(in_general(subject, &rights(subject).await?))
}

fn in_general(subject: &Subject<'_>, rights: &Rights) -> Vec<Finding> {
    if rights.superuser {
        return vec![Finding::note(
            format!("the connecting role {:?} is a superuser", rights.role),
            "Know that data work runs as the table's owner for ownership only: code in index \
             expressions, checks, defaults and casts can RESET ROLE and then act as a superuser; \
             where the owner is not trusted, connect as a role with only the privileges documented",
        )];
    }
    let schema = schema(subject, rights.owner_uses_schema, "USAGE");
    let all = [owner(subject, rights), database(rights), schema, statistics(rights)];
    all.into_iter().flatten().collect()
}

/// Membership with both: to act as the owner (SET ROLE), and to own what the owner owns.
fn owner(subject: &Subject<'_>, rights: &Rights) -> Option<Finding> {
    if rights.may_become_owner && rights.has_owners_rights {
        return None;
    }
    let (owner, role) = (&subject.table.owner, &rights.role);
    Some(Finding::refuse(
        format!(
            "{} cannot act as {}, the table's owner, who will own the new table",
            quote_ident(role),
            quote_ident(owner)
        ),
        membership(subject.session.version(), owner, role, rights.member, rights.inherits),
    ))
}

/// What gives `role` all that a membership in `owner` can give.
pub(super) fn membership(
    version: i32,
    owner: &str,
    role: &str,
    member: bool,
    inherits: bool,
) -> String {
    let (owner, role) = (quote_ident(owner), quote_ident(role));
    if version >= 160_000 {
        return format!("GRANT {owner} TO {role} WITH INHERIT TRUE, SET TRUE");
    }
    // Before 16 what a membership gives is the member's attribute.
    let grant = (!member).then(|| format!("GRANT {owner} TO {role}"));
    let inherit = (!inherits).then(|| format!("ALTER ROLE {role} INHERIT"));
    grant.into_iter().chain(inherit).collect::<Vec<_>>().join("; ")
}

fn database(rights: &Rights) -> Option<Finding> {
    let (database, role) = (quote_ident(&rights.database), quote_ident(&rights.role));
    (!rights.create_on_database).then(|| {
        Finding::refuse(
            format!("{role} may not create in database {database}, as the publication and the schema pgwraith need"),
            format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        )
    })
}

fn schema(subject: &Subject<'_>, has: bool, privilege: &str) -> Option<Finding> {
    let (schema, owner) = (quote_ident(&subject.table.schema), quote_ident(&subject.table.owner));
    (!has).then(|| {
        Finding::refuse(
            format!("the table's owner {owner} lacks {privilege} on the table's schema {schema}"),
            format!("GRANT {privilege} ON SCHEMA {schema} TO {owner}"),
        )
    })
}

fn statistics(rights: &Rights) -> Option<Finding> {
    let role = quote_ident(&rights.role);
    (!rights.reads_all_stats).then(|| {
        Finding::refuse(
            format!("{role} may not see other sessions: the lag of standbys and who blocks the cutover would be unknown"),
            format!("GRANT pg_read_all_stats TO {role}"),
        )
    })
}

/// What `pg_has_role` calls the right to SET ROLE: the option came with 16, before every member may.
pub(super) fn right_to_act(version: i32) -> &'static str {
    if version >= 160_000 { "SET" } else { "MEMBER" }
}

async fn rights(subject: &Subject<'_>) -> Result<Rights> {
    let become_owner = right_to_act(subject.session.version());
    let table = subject.table;
    let row = subject.session.one(RIGHTS, &[&table.owner, &table.schema, &become_owner]).await?;
    Ok(Rights {
        role: row.get(0),
        superuser: row.get(1),
        inherits: row.get(2),
        member: row.get(3),
        may_become_owner: row.get(4),
        has_owners_rights: row.get(5),
        create_on_database: row.get(6),
        owner_uses_schema: row.get(7),
        owner_creates_in_schema: row.get(8),
        reads_all_stats: row.get(9),
        database: row.get(10),
    })
}

const RIGHTS: &str = "
  SELECT r.rolname::pg_catalog.text, r.rolsuper, r.rolinherit,
    pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER'),
    pg_catalog.pg_has_role(r.oid, o.oid, $3::pg_catalog.text),
    pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE'),
    pg_catalog.has_database_privilege(r.oid, d.oid, 'CREATE'),
    pg_catalog.has_schema_privilege(o.oid, n.oid, 'USAGE'),
    pg_catalog.has_schema_privilege(o.oid, n.oid, 'CREATE'),
    pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'),
    d.datname::pg_catalog.text
  FROM pg_catalog.pg_roles r, pg_catalog.pg_roles o, pg_catalog.pg_namespace n, pg_catalog.pg_database d
  WHERE r.rolname = SESSION_USER AND o.rolname = $1 AND n.nspname = $2
    AND d.datname = pg_catalog.current_database()";
