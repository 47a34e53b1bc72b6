//! A run that is killed when the names are swapped already: an abort takes away what it left, undoes
//! nothing, and tells what is still to be run.

use crate::harness::{self, Background, Failpoint, Output};
use crate::scene::{SOON, Shop, exec, shop, wait_for};

const STOP: i64 = 5;

/// A table with foreign keys to and from it, in a database that has the state's tables already; whoever
/// logs an event `what` waits for `STOP`.
async fn scene(what: &str) -> (Shop, Failpoint) {
    let shop = shop().await;
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(
        "CREATE TABLE p (id int PRIMARY KEY);
         CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p);
         CREATE TABLE \"The \"\"child\" (t int CONSTRAINT \"it's\" REFERENCES t);
         INSERT INTO p VALUES (1);
         INSERT INTO t SELECT i, 1 FROM generate_series(1, 100) i;
         INSERT INTO \"The \"\"child\" SELECT id FROM t",
    )
    .await;
    shop.exec(&format!(
        "CREATE FUNCTION public.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM pg_catalog.pg_advisory_xact_lock_shared({STOP}); RETURN NEW; END $$; \
         CREATE TRIGGER stop BEFORE INSERT ON pgwraith.event FOR EACH ROW \
           WHEN (NEW.what = '{what}') EXECUTE FUNCTION public.stop()"
    ))
    .await;
    let point = Failpoint::closed(shop.session().await, STOP).await;
    (shop, point)
}

fn run(shop: &Shop) -> Background {
    let change = ["--alter", "ALTER COLUMN id TYPE bigint", "--max-lock-hold", "60s"];
    Background::start(shop.arguments("t", &change))
}

async fn abort(shop: &Shop, more: &[&str]) -> Output {
    let arguments = ["abort", "t", "-d", &shop.dsn];
    harness::run(arguments.iter().chain(more)).await
}

async fn kill(run: Background) {
    run.signal(libc::SIGKILL);
    assert_eq!(run.finish(SOON).await.signal, Some(libc::SIGKILL));
}

/// What of a run is left but for the state, of which a swap leaves some.
async fn left(shop: &Shop) -> Vec<String> {
    let mut left = harness::leftovers(&shop.client).await;
    left.retain(|l| l != "schema pgwraith");
    left
}

/// The statements that are told work, and are all that was left; then there is nothing to abort.
async fn settled(shop: &Shop, statements: &[&str]) {
    assert_eq!(left(shop).await, [""; 0]);
    let ty =
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attname = 'id' AND attrelid = ";
    assert_eq!(shop.value::<String>(&format!("{ty} 't'::regclass")).await, "bigint");
    assert_eq!(shop.value::<String>(&format!("{ty} 't_old'::regclass")).await, "integer");
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
    shop.exec("INSERT INTO t VALUES (1000, 1)").await;
    let retired = shop.client.batch_execute("INSERT INTO t_old VALUES (1000, 1)").await;
    assert!(retired.is_err(), "the state's trigger is gone");

    let unproven = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(shop.value::<i64>(unproven).await, statements.len() as i64);
    for statement in statements {
        shop.exec(statement).await;
    }
    assert_eq!(shop.value::<i64>(unproven).await, 0);
    let events = "SELECT count(*) FROM pgwraith.event WHERE what = 'finished' AND detail <> ''";
    assert_eq!(shop.value::<i64>(events).await, 1);
    let again = abort(shop, &[]).await.expect_code(2);
    assert!(again.stderr.contains("t has no unfinished migration"), "{again}");
}

const OF_CHILD: &str = "ALTER TABLE \"public\".\"The \"\"child\" VALIDATE CONSTRAINT \"it's\"";
const OF_TABLE: &str = "ALTER TABLE \"public\".\"t\" VALIDATE CONSTRAINT \"t_p_fkey\"";

#[tokio::test]
async fn before_its_cleanup() {
    let (shop, point) = scene("swapped").await;
    let mut run = run(&shop);
    point.wait_for_somebody().await;
    // Queued behind the swap's transaction, it comes before the cleanup's, which locks the state's row.
    let holder = shop.session().await;
    let held = tokio::spawn(async move {
        exec(&holder, "BEGIN; LOCK TABLE pgwraith.migration IN EXCLUSIVE MODE").await;
        holder
    });
    let queued = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE mode = 'ExclusiveLock' AND NOT granted \
                  AND relation = 'pgwraith.migration'::regclass)";
    wait_for(&shop.client, &mut run, "the lock is queued for", queued).await;
    point.open().await;
    let holder = held.await.unwrap();
    let swapped = "SELECT EXISTS (SELECT 1 FROM pgwraith.migration WHERE outcome = 'swapped' \
                   AND source_name = 't')";
    assert!(shop.value::<bool>(swapped).await, "{}", run.said());
    kill(run).await;
    exec(&holder, "COMMIT").await;
    assert_eq!(shop.held_back().await.len(), 2, "a crash cleans nothing");

    let output = abort(&shop, &[]).await.expect_code(0);
    let told = "\"public\".\"t\" has its new shape, the old table is \"public\".\"t_old\"";
    assert!(output.stdout.contains(told), "{output}");
    let mut statements: Vec<&str> =
        output.stdout.lines().filter_map(|l| l.strip_prefix("  ")?.strip_suffix(';')).collect();
    statements.sort();
    assert_eq!(statements, [OF_CHILD, OF_TABLE], "{output}");
    settled(&shop, &statements).await;
}

/// Nobody had the time to log that the first key is proven: the catalog tells.
#[tokio::test]
async fn while_it_proves_foreign_keys() {
    let (shop, point) = scene("done").await;
    let run = run(&shop);
    point.wait_for_somebody().await;
    kill(run).await;
    assert_eq!(shop.held_back().await, [""; 0]);

    let output = abort(&shop, &["--json"]).await.expect_code(0);
    let told = output.json();
    assert_eq!(told["outcome"], "swapped", "{output}");
    assert_eq!(told["table"], "\"public\".\"t\"");
    assert_eq!(told["retired"], "\"public\".\"t_old\"");
    let statements: Vec<&str> =
        told["to_validate"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert_eq!(statements.len(), 1, "{output}");
    assert!([OF_CHILD, OF_TABLE].contains(&statements[0]), "{output}");
    settled(&shop, &statements).await;
    point.open().await;
}
