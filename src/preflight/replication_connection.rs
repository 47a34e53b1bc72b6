//! A replication connection really opens, and to this very server and database. Managed services
//! grant the right to replicate through roles of their own, so it is tried rather than looked up.

use super::{Error, Finding, Result, Subject};
use crate::pg::{quote_ident, session};
use crate::wal::{ReplicationConn, ServerError};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let connector = subject.connector;
    let encoding = subject.session.encoding();
    let mut conn = match ReplicationConn::open(connector, "preflight", encoding).await {
        Ok(conn) => conn,
        Err(e) => return Ok(vec![does_not_open(subject, &e)]),
    };
    let elsewhere = elsewhere(subject, &mut conn).await;
    conn.close().await;
    Ok(match elsewhere {
        Ok(None) => vec![],
        Ok(Some(where_to)) => vec![leads_elsewhere(&where_to)],
        Err(e) => vec![does_not_open(subject, &e)],
    })
}

/// Where the connection leads to, if not to where the session is.
async fn elsewhere(subject: &Subject<'_>, conn: &mut ReplicationConn) -> Result<Option<String>> {
    let there = conn.identify_system().await?;
    // A standby has its primary's system identifier, so the walsender itself is looked for, by the
    // process id it was given and the name that we gave it.
    let sql = "SELECT pg_catalog.current_database()::pg_catalog.text, EXISTS (
                 SELECT 1 FROM pg_catalog.pg_stat_replication r
                 WHERE r.pid = $1 AND r.application_name = $2)";
    let name = session::application_name("preflight");
    let row = subject.session.one(sql, &[&conn.pid(), &name]).await?;
    let (here, found): (String, bool) = (row.get(0), row.get(1));
    if there.dbname != here {
        return Ok(Some(format!("database {:?} instead of {here:?}", there.dbname)));
    }
    let other = || format!("another server (system identifier {})", there.system_identifier);
    Ok((!found).then(other))
}

fn leads_elsewhere(where_to: &str) -> Finding {
    Finding::refuse(
        format!("a replication connection with the same connection string leads to {where_to}"),
        "Name the primary server itself as the only host in -d, with nothing in between (no \
         pooler, no load balancer)",
    )
}

fn does_not_open(subject: &Subject<'_>, e: &Error) -> Finding {
    let user = &subject.connector.info().user;
    let role = quote_ident(user);
    let code = ServerError::of(e).map(|e| e.code.as_str());
    let mend = match code {
        // insufficient_privilege
        Some("42501") => format!(
            "ALTER ROLE {role} REPLICATION; on managed services instead GRANT rds_replication TO \
             {role} (Amazon), ALTER USER {role} WITH REPLICATION as the service's administrator \
             (Google, Azure)"
        ),
        // invalid_authorization_specification
        Some("28000") => format!(
            "Admit it in pg_hba.conf (a connection for logical replication is matched by the \
             lines of its database, not by those of \"replication\"): host {} {user} <address> \
             scram-sha-256; then SELECT pg_reload_conf()",
            subject.connector.info().dbname
        ),
        // too_many_connections
        Some("53300") => "Raise max_wal_senders and restart the server, or end a replication \
                          connection that nobody needs"
            .to_owned(),
        _ => format!(
            "See that the connection string leads directly to the server, that pg_hba.conf admits \
             {role} to the database, and that it may replicate (ALTER ROLE {role} REPLICATION)"
        ),
    };
    Finding::refuse(format!("a replication connection does not open: {e}"), mend)
}
