//! What a migration has in the database.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Background, wait_until};

const SOON: Duration = Duration::from_secs(120);

/// The phase of the table's unfinished migration, if it has one.
pub async fn phase(client: &Client, table: &str) -> Option<String> {
    // The state's tables may not be there yet, or be gone: then there is no migration.
    let sql = "SELECT m.phase FROM pgwraith.migration m \
               WHERE m.finished_at IS NULL AND m.source_name = $1";
    client.query_opt(sql, &[&table]).await.ok()?.map(|row| row.get(0))
}

/// Waits until the table's migration has entered `phase`.
pub async fn wait_for_phase(client: &Client, run: &mut Background, table: &str, wanted: &str) {
    let mut last = None;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        run.expect_running();
        let now = phase(client, table).await;
        if now.as_deref() == Some(wanted) {
            return;
        }
        last = now.or(last);
        let said = || run.said();
        assert!(tokio::time::Instant::now() < deadline, "not in {wanted}: {last:?}\n{}", said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `condition`, a query for one boolean, is true.
pub async fn wait_for_sql(client: &Client, what: &str, condition: &str) {
    let holds = async || client.query_one(condition, &[]).await.is_ok_and(|r| r.get(0));
    wait_until(what, SOON, holds).await;
}

/// Everything of ours that is left on the server: slots, publications, state, shadows.
pub async fn leftovers(client: &Client) -> Vec<String> {
    let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots \
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'pgwraith%' \
        UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relname LIKE '%\\_v2%' \
        UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity \
          WHERE application_name LIKE 'pgwraith/%/%'";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A session that holds an advisory lock, and thereby whoever comes to a failpoint that asks for it.
pub struct Failpoint {
    holder: Client,
    number: i64,
}

impl Failpoint {
    /// Makes `pgwraith.chunk` stop at chunk `number` of the copy, inside the chunk's transaction
    /// and after its rows were written. The state's tables are there already.
    pub async fn at_chunk(admin: &Client, holder: Client, number: i64) -> Failpoint {
        let sql = format!(
            "CREATE FUNCTION public.stop_at_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               PERFORM pg_catalog.pg_advisory_xact_lock_shared({number}); RETURN NEW; END $$; \
             CREATE TRIGGER stop BEFORE UPDATE ON pgwraith.chunk FOR EACH ROW \
               WHEN (NEW.kind = 'copy' AND NEW.number = {number}) \
               EXECUTE FUNCTION public.stop_at_chunk()"
        );
        admin.batch_execute(&sql).await.unwrap();
        Failpoint::closed(holder, number).await
    }

    /// Holds everybody who asks for the advisory lock `number` in shared mode.
    pub async fn closed(holder: Client, number: i64) -> Failpoint {
        holder.execute("SELECT pg_advisory_lock($1)", &[&number]).await.unwrap();
        Failpoint { holder, number }
    }

    /// Waits until somebody is held.
    pub async fn wait_for_somebody(&self) {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' \
             AND objid = {} AND NOT granted)",
            self.number
        );
        wait_for_sql(&self.holder, "somebody waits at the failpoint", &sql).await;
    }

    /// Lets everybody go on.
    pub async fn open(self) {
        self.holder.execute("SELECT pg_advisory_unlock($1)", &[&self.number]).await.unwrap();
    }
}

/// Makes the state's tables, by a migration of another table, so that a test can put failpoints
/// on them.
pub async fn make_state(dsn: &str, admin: &Client) {
    admin.batch_execute("CREATE TABLE public.before_all (id int PRIMARY KEY)").await.unwrap();
    super::run(["run", "before_all", "-d", dsn, "--rebuild"]).await.expect_code(0);
    let sql = "DROP TABLE public.before_all, public.before_all_old; \
               TRUNCATE pgwraith.migration, pgwraith.flow, pgwraith.chunk, pgwraith.event, pgwraith.progress";
    admin.batch_execute(sql).await.unwrap();
}
