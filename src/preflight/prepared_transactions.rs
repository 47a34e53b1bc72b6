//! No prepared transaction holds a lock on the table: nobody knows when it ends, no timeout ever
//! ends it, and until then no capture and no cutover.

use super::{Finding, Result, Subject};
use crate::pg::quote_literal;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    // A lock without a process belongs to a prepared transaction. Its virtual id leads to the lock
    // that every transaction has on its own id (and says that id itself only after a restart).
    let sql = "
      SELECT p.gid, p.owner::pg_catalog.text, p.prepared::pg_catalog.text,
        pg_catalog.string_agg(DISTINCT l.mode, ', ' ORDER BY l.mode)
      FROM pg_catalog.pg_locks l
      LEFT JOIN (pg_catalog.pg_locks own JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = own.transactionid)
        ON own.pid IS NULL AND own.locktype = 'transactionid'
          AND own.virtualtransaction = l.virtualtransaction
      WHERE l.pid IS NULL AND l.locktype = 'relation' AND l.relation = $1
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
          WHERE d.datname = pg_catalog.current_database())
      GROUP BY 1, 2, 3 ORDER BY 3, 1";
    let rows = subject.session.query(sql, &[&subject.table.oid]).await?;
    Ok(rows.iter().map(|row| finding(subject, row)).collect())
}

fn finding(subject: &Subject<'_>, row: &tokio_postgres::Row) -> Finding {
    let table = subject.table.qualified();
    let modes: String = row.get(3);
    let Some(gid) = row.get::<_, Option<String>>(0) else {
        return Finding::refuse(
            format!("a prepared transaction that cannot be named holds {modes} on {table}"),
            "Find it in pg_prepared_xacts and end it: COMMIT PREPARED or ROLLBACK PREPARED",
        );
    };
    let (owner, since): (String, String) = (row.get(1), row.get(2));
    let gid = quote_literal(&gid);
    let gid = gid.trim_start();
    Finding::refuse(
        format!(
            "the transaction {gid}, prepared by {owner:?} at {since}, holds {modes} on {table}"
        ),
        format!("COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}, as {owner:?} in this database"),
    )
}
