//! Who runs transactions stricter than READ COMMITTED by default may, across the swap, go on
//! reading the new table by an old snapshot, and miss what was written in the last moment before.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let mut found = role_settings(subject).await?;
    found.extend(server_setting(subject).await?);
    if found.is_empty() {
        return Ok(vec![]);
    }
    Ok(vec![Finding::warn(
        format!(
            "default_transaction_isolation is stricter than read committed for {}",
            found.join(", ")
        ),
        "Expect that such a transaction, if its snapshot is older than the swap, does not see the \
         last changes before it (as with any ALTER TABLE that rewrites); let such transactions be \
         short, or none, at the cutover",
    )])
}

async fn role_settings(subject: &Subject<'_>) -> Result<Vec<String>> {
    let sql = "
      SELECT COALESCE('role ' || pg_catalog.quote_ident(r.rolname), 'every role')
        || COALESCE(' in database ' || pg_catalog.quote_ident(d.datname), '')
        || ' (' || pg_catalog.split_part(o, '=', 2) || ')'
      FROM pg_catalog.pg_db_role_setting s
      LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
      LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
      CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) o
      WHERE (s.setdatabase = 0 OR d.datname = pg_catalog.current_database())
        AND pg_catalog.split_part(o, '=', 1) = 'default_transaction_isolation'
        AND pg_catalog.split_part(o, '=', 2) IN ('repeatable read', 'serializable')
      ORDER BY 1";
    let rows = subject.session.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Our own sessions have it pinned, so what the server's files say is asked, where we may see them.
async fn server_setting(subject: &Subject<'_>) -> Result<Option<String>> {
    let may = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')
                 AND pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')";
    if !subject.session.one(may, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    // The last line for a setting is the one that counts.
    let sql = "SELECT f.setting FROM pg_catalog.pg_file_settings f
               WHERE f.name = 'default_transaction_isolation' AND f.error IS NULL
               ORDER BY f.seqno DESC LIMIT 1";
    let setting: Option<String> = subject.session.maybe(sql, &[]).await?.and_then(|row| row.get(0));
    let strict = setting.filter(|s| s == "repeatable read" || s == "serializable");
    Ok(strict.map(|setting| format!("the whole server ({setting})")))
}
