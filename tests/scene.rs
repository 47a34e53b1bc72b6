//! What the tests of whole runs share: a database, a run that is held where the test wants it, and
//! ways to compare tables.

use std::time::{Duration, Instant};

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::traffic::Mix;
use tokio_postgres::Client;
use tokio_postgres::types::FromSql;

use crate::harness::{self, Background, Output};

pub const SOON: Duration = Duration::from_secs(120);

/// The tests' machine is nobody's application: what reads and commits take on it holds no copy back.
pub const AT_ONCE: [&str; 2] = ["--max-probe-latency", "1h"];

/// For who goes on with small ranges that were wanted for dying among them.
pub const LARGER: [&str; 2] = ["--chunk-time", "200ms"];

/// The traffic beside large tables: keys change as often as rows are updated.
pub fn mix() -> Mix {
    Mix { sessions: 3, rate: Some(200.0), moves: 45, ..Mix::default() }
}

/// Rows of a table that changes under live traffic, where the suite would take too long with as many as
/// `PGWRAITH_LARGE=1` makes.
pub fn many_rows() -> u64 {
    if std::env::var_os("PGWRAITH_LARGE").is_some() { 200_000 } else { 40_000 }
}

/// A cluster with one database and a session in it.
pub struct Shop {
    pub cluster: Cluster,
    pub dsn: String,
    pub client: Client,
}

/// A fresh cluster with more settings.
pub async fn shop_with(settings: &[(&str, &str)]) -> Shop {
    let cluster = harness::cluster_with(settings).await;
    let dsn = harness::database(&cluster, "shop").await;
    let client = harness::connect(&dsn).await;
    Shop { cluster, dsn, client }
}

/// A fresh cluster.
pub async fn shop() -> Shop {
    shop_with(&[]).await
}

impl Shop {
    /// Runs statements.
    #[track_caller]
    pub fn exec<'a>(&'a self, sql: &'a str) -> impl Future<Output = ()> + 'a {
        exec(&self.client, sql)
    }

    /// The one value of a query.
    #[track_caller]
    pub fn value<'a, T>(&'a self, sql: &'a str) -> impl Future<Output = T> + 'a
    where
        T: for<'f> FromSql<'f> + 'a,
    {
        value(&self.client, sql)
    }

    /// The program's arguments for a run over `table`.
    pub fn arguments(&self, table: &str, change: &[&str]) -> Vec<String> {
        let given = ["run", table, "-d", &self.dsn, "--json"];
        given.iter().chain(change).map(|s| (*s).to_owned()).collect()
    }

    /// A run over `table` to its end.
    pub async fn run(&self, table: &str, change: &[&str]) -> Output {
        harness::run(self.arguments(table, change)).await
    }

    /// A run that is held where it enters `phase`.
    pub async fn held(&self, phase: &str, table: &str, change: &[&str]) -> Held {
        Held::start(self, phase, self.arguments(table, change)).await
    }

    /// Goes on in a new database of the same cluster.
    pub async fn move_to(&mut self, database: &str) {
        self.dsn = harness::database(&self.cluster, database).await;
        self.client = self.session().await;
    }

    /// Another session.
    pub async fn session(&self) -> Client {
        harness::connect(&self.dsn).await
    }

    /// Slots and publications of ours.
    pub async fn held_back(&self) -> Vec<String> {
        let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots \
                   UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
                   WHERE pubname LIKE 'pgwraith%'";
        self.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The definition of one table.
    pub async fn definition(&self, table: &str) -> Vec<String> {
        crate::definition::definition(self, table).await
    }

    /// All rows as text, in the order of the text's bytes.
    pub async fn rows(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT (t.*)::text COLLATE \"C\" FROM {table} t ORDER BY 1");
        self.client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

#[track_caller]
pub fn exec<'a>(client: &'a Client, sql: &'a str) -> impl Future<Output = ()> + 'a {
    let at = std::panic::Location::caller();
    async move {
        if let Err(e) = client.batch_execute(sql).await {
            panic!("{at}: {sql}: {}", e.as_db_error().map_or(e.to_string(), |d| d.to_string()));
        }
    }
}

#[track_caller]
pub fn value<'a, T>(client: &'a Client, sql: &'a str) -> impl Future<Output = T> + 'a
where
    T: for<'f> FromSql<'f> + 'a,
{
    let at = std::panic::Location::caller();
    async move {
        match client.query_one(sql, &[]).await {
            Ok(row) => row.get(0),
            Err(e) => {
                panic!("{at}: {sql}: {}", e.as_db_error().map_or(e.to_string(), |d| d.to_string()))
            }
        }
    }
}

/// A run that stops where it enters a phase, until it is let go.
///
/// A trigger on the state's log of events does it, so that no lock on the migrated table is held.
/// It is put there while the run waits for its slot, that is for a transaction of ours.
pub struct Held {
    pub run: Background,
    pub gate: Client,
}

const GATE: i64 = 4711;

/// Waits until `condition`, a query for one boolean, holds; the run must not end meanwhile.
pub async fn wait_for(client: &Client, run: &mut Background, what: &str, condition: &str) {
    let deadline = Instant::now() + SOON;
    while !value::<bool>(client, condition).await {
        run.expect_running();
        assert!(Instant::now() < deadline, "waited in vain: {what}:\n{}", run.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A run with these arguments that is killed once it has copied some ranges, and before it has copied all.
pub async fn die_in_the_copy(shop: &Shop, arguments: Vec<String>) {
    let mut run = Background::start(arguments);
    let made = "SELECT to_regclass('pgwraith.chunk') IS NOT NULL";
    wait_for(&shop.client, &mut run, "it begins", made).await;
    let some = "SELECT count(*) > 3 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    wait_for(&shop.client, &mut run, "some ranges are copied", some).await;
    let copying = "SELECT phase = 'copy' AND to_regclass(format('%I.%I', source_schema, shadow_name)) IS NOT NULL
                   FROM pgwraith.migration";
    assert!(shop.value::<bool>(copying).await, "it is over before it could die");
    run.signal(libc::SIGKILL);
    assert_eq!(run.finish(SOON).await.signal, Some(libc::SIGKILL));
    // The server notices a moment later that its sessions are gone.
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
}

impl Held {
    /// A run with these arguments that is held where it enters `phase`.
    pub async fn start(shop: &Shop, phase: &str, arguments: Vec<String>) -> Held {
        let gate = shop.session().await;
        exec(&gate, &format!("SELECT pg_advisory_lock({GATE})")).await;
        let writer = shop.session().await;
        exec(&writer, "CREATE TABLE IF NOT EXISTS public.elsewhere (n int)").await;
        exec(&writer, "BEGIN; INSERT INTO public.elsewhere VALUES (1)").await;
        let mut run = Background::start(arguments);
        let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks w JOIN pg_locks h USING (transactionid) \
                     JOIN pg_stat_activity a ON a.pid = w.pid WHERE NOT w.granted AND h.granted \
                     AND a.application_name LIKE 'pgwraith/%/stream')";
        wait_for(&shop.client, &mut run, "it waits for its slot", waits).await;
        exec(&shop.client, &format!(
            "CREATE OR REPLACE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               PERFORM pg_catalog.pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$; \
             CREATE OR REPLACE TRIGGER gate BEFORE INSERT ON pgwraith.event FOR EACH ROW \
               WHEN (NEW.what = 'phase' AND NEW.detail = '{phase}') EXECUTE FUNCTION public.gate()"
        ))
        .await;
        exec(&writer, "COMMIT").await;
        let held = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} \
             AND NOT granted)"
        );
        wait_for(&shop.client, &mut run, &format!("it enters {phase}"), &held).await;
        Held { run, gate }
    }

    /// Lets it go on.
    pub async fn release(&self) {
        exec(&self.gate, &format!("SELECT pg_advisory_unlock({GATE})")).await;
    }

    /// Lets it go on to its end.
    pub async fn finish(self) -> Output {
        self.release().await;
        self.run.finish(SOON).await
    }
}

/// Lets the program die when it comes by `point` for the `nth` time.
#[cfg(feature = "failpoints")]
pub async fn dies_at(point: &str, nth: u32, arguments: Vec<String>) {
    let action = format!("{point}={}*off->return", nth - 1);
    let action = if nth == 1 { format!("{point}=return") } else { action };
    let program = Background::start_with(&[("FAILPOINTS", &action)], arguments);
    let output = program.finish(SOON).await;
    assert_eq!(output.signal, Some(libc::SIGKILL), "{point} was never reached: {output}");
}
