//! The index phase: what is there already is taken or made anew, and no build makes the slot hold back
//! more WAL than it may.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgwraith::catalog;
use pgwraith::conninfo::ConnInfo;
use pgwraith::pg::{Connector, QualifiedName};
use pgwraith::shadow::{Names, Present, TemporaryNames, index_plans};

use crate::definition::assert_same;
use crate::harness::{Failpoint, wait_for_sql};
use crate::objects::{EVERYTHING, NAME};
use crate::scene::{Held, SOON, Shop, exec, shop};

/// Object ids of all indexes of a table, by name.
async fn indexes(shop: &Shop, table: &str) -> BTreeMap<String, u32> {
    let sql = "SELECT c.relname::text, c.oid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
               WHERE i.indrelid = to_regclass($1)";
    let rows = shop.client.query(sql, &[&table]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A table with indexes and constraints of every kind that the phase treats in its own way.
const KINDS: &str = "
    CREATE TABLE public.t (id int CONSTRAINT t_key PRIMARY KEY, n int NOT NULL, r int4range, v text,
      CONSTRAINT same UNIQUE (n), CONSTRAINT another UNIQUE (v) DEFERRABLE,
      CONSTRAINT apart EXCLUDE USING gist (r WITH &&), CONSTRAINT strict EXCLUDE USING gist (r WITH -|-));
    CREATE INDEX kept ON public.t (n, v);
    CREATE INDEX changed ON public.t (v);
    CREATE INDEX broken ON public.t (n);
    CREATE INDEX growing ON public.t (n DESC);
    CREATE INDEX missing ON public.t (v DESC);
    CREATE UNIQUE INDEX not_yet ON public.t (n, id);
    ALTER TABLE public.t REPLICA IDENTITY USING INDEX not_yet;
    INSERT INTO public.t SELECT i, i, int4range(i * 10, i * 10 + 5), 'v' || i FROM generate_series(1, 3000) i;";

#[tokio::test]
async fn what_a_crash_left_is_taken_or_made_anew() {
    let shop = shop().await;
    shop.exec(KINDS).await;
    let before = shop.definition("public.t").await;
    let held = shop.held("index", "public.t", &["--rebuild", "--index-jobs", "2"]).await;
    shop.exec("UPDATE public.t SET v = v || '+' WHERE id % 10 = 0").await;

    // What a phase that went well up to here has left.
    let same = [
        "CREATE UNIQUE INDEX t_key_v2 ON public.t_v2 (id)",
        "ALTER TABLE public.t_v2 ADD CONSTRAINT same_v2 UNIQUE (n)",
        "CREATE INDEX kept_v2 ON public.t_v2 (n, v)",
        "CREATE UNIQUE INDEX not_yet_v2 ON public.t_v2 (n, id)",
        "ALTER TABLE public.t_v2 REPLICA IDENTITY USING INDEX not_yet_v2",
        "ALTER TABLE public.t_v2 ADD CONSTRAINT apart_v2 EXCLUDE USING gist (r WITH &&)",
    ];
    // Other things under the names that are wanted.
    let others = [
        "CREATE INDEX changed_v2 ON public.t_v2 (v COLLATE \"C\")",
        "ALTER TABLE public.t_v2 ADD CONSTRAINT another_v2 UNIQUE (v) DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE public.t_v2 ADD CONSTRAINT strict_v2 EXCLUDE USING gist (r WITH =)",
    ];
    for sql in same.iter().chain(&others) {
        shop.exec(sql).await;
    }
    broken_off(&shop, "CREATE INDEX CONCURRENTLY broken_v2 ON public.t_v2 (n)").await;
    let left = indexes(&shop, "public.t_v2").await;

    // A backend that does not know that its client is gone.
    let builder = shop.session().await;
    let migration: i64 = shop.value("SELECT id FROM pgwraith.migration").await;
    exec(&builder, &format!("SET application_name = 'pgwraith/{migration}/index 0'")).await;
    exec(&builder, "BEGIN; CREATE INDEX growing_v2 ON public.t_v2 (n DESC)").await;

    held.finish().await.expect_code(0);
    assert_same(&shop.definition("public.t").await, &before, "afterwards");
    let now = indexes(&shop, "public.t").await;
    let taken = |name: &str| left[&format!("{name}_v2")] == now[name];
    for name in ["t_key", "same", "kept", "not_yet", "apart"] {
        assert!(taken(name), "{name} was built again");
    }
    for name in ["changed", "another", "strict", "broken"] {
        assert!(!taken(name), "{name} was taken as it was");
    }
    assert!(builder.is_closed() || builder.batch_execute("COMMIT").await.is_err());
}

/// An invalid index, as a CREATE INDEX CONCURRENTLY leaves it that is cancelled half-way.
async fn broken_off(shop: &Shop, sql: &str) {
    let reader = shop.session().await;
    exec(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.t").await;
    let client = shop.session().await;
    exec(&client, "SET statement_timeout = '1s'").await;
    let error = client.batch_execute(sql).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014", "{error}");
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(shop.value::<i64>(invalid).await, 1);
}

#[tokio::test]
async fn a_phase_that_has_nothing_left_to_do_does_nothing() {
    let shop = shop().await;
    shop.exec(EVERYTHING).await;
    let before = shop.definition(NAME).await;
    let held = shop.held("index", NAME, &["--rebuild"]).await;

    let session = Connector::new(ConnInfo::resolve(Some(&shop.dsn)).unwrap());
    let session = session.session("test").await.unwrap();
    let source = QualifiedName::new("Shop", "select");
    let shadow = Names::of(&source).shadow;
    let read = async |name| catalog::read_named(&session, name).await.unwrap().unwrap();
    let source = read(&source).await;
    let names = TemporaryNames::of(&source);
    let plans = index_plans(&source, &shadow, |name| names.until_swap(name));
    assert!(plans.len() > 12, "{plans:#?}");
    let empty = read(&shadow).await;
    assert!(plans.iter().all(|plan| plan.present(&empty) == Present::Nothing));

    session.set_role("Owner").await.unwrap();
    for plan in &plans {
        session.batch(&plan.create).await.unwrap();
        let built = if plan.attach.is_some() { Present::Index } else { Present::Whole };
        assert_eq!(plan.present(&read(&shadow).await), built, "{}", plan.create);
    }
    for sql in plans.iter().filter_map(|plan| plan.attach.as_ref()) {
        session.batch(sql).await.unwrap();
    }
    let whole = read(&shadow).await;
    assert!(plans.iter().all(|plan| plan.present(&whole) == Present::Whole));
    let built = indexes(&shop, &shadow.to_string()).await;

    held.finish().await.expect_code(0);
    assert_same(&shop.definition(NAME).await, &before, "afterwards");
    let now = indexes(&shop, NAME).await;
    for plan in &plans {
        assert_eq!(now[&plan.name], built[&plan.temporary], "{} was built again", plan.name);
    }
}

#[tokio::test]
async fn a_run_that_was_taken_over_drops_and_builds_nothing() {
    let shop = shop().await;
    shop.exec(KINDS).await;
    let held = shop.held("index", "public.t", &["--rebuild"]).await;
    // The successor's.
    shop.exec("CREATE INDEX changed_v2 ON public.t_v2 (n)").await;
    let left = indexes(&shop, "public.t_v2").await;
    shop.exec("UPDATE pgwraith.migration SET epoch = 2").await;
    let output = held.finish().await.expect_code(6);
    assert!(output.stderr.contains("has taken this migration over"), "{output}");
    assert_eq!(indexes(&shop, "public.t_v2").await, left);
}

/// A table with an index whose build can be held: its function asks for the lock that `GATE` closes.
const GATED: &str = "
    CREATE FUNCTION public.gated(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
      PERFORM pg_catalog.pg_advisory_xact_lock_shared(77); RETURN n; END $$;
    CREATE TABLE public.t (id int PRIMARY KEY, n int, v text, CONSTRAINT u UNIQUE (v) INCLUDE (n));
    CREATE INDEX gated ON public.t (public.gated(n));
    CREATE INDEX part ON public.t (v DESC) WHERE n > 100;
    INSERT INTO public.t SELECT i, i, 'v' || i FROM generate_series(1, 20000) i;";
const GATE: i64 = 77;

/// A run over that table, in the middle of the build of that index.
async fn building(shop: &Shop, limits: &[&str]) -> (Held, Failpoint) {
    let change: Vec<&str> = ["--rebuild"].iter().chain(limits).copied().collect();
    let held = shop.held("index", "public.t", &change).await;
    let gate = Failpoint::closed(shop.session().await, GATE).await;
    held.release().await;
    gate.wait_for_somebody().await;
    (held, gate)
}

/// How the index is built that is being built.
async fn command(shop: &Shop) -> String {
    shop.value("SELECT command FROM pg_stat_progress_create_index").await
}

/// Whether the slot lets go of what was written before this, while the build goes on: the server writes
/// something, and the run confirms again and again that it has seen it. (Not so much that the slot would be given up.)
async fn slot_lets_go(shop: &Shop) -> bool {
    let end = || shop.value::<String>("SELECT pg_current_wal_lsn()::text");
    let before = end().await;
    let is_past = async |position: &str, lsn: &str| {
        let sql = format!("SELECT {position} > '{lsn}' FROM pg_replication_slots");
        shop.value::<bool>(&sql).await
    };
    for _ in 0..4 {
        let (now, started) = (end().await, Instant::now());
        while !is_past("confirmed_flush_lsn", &now).await {
            assert!(started.elapsed() < SOON, "nothing was confirmed");
            shop.exec("INSERT INTO public.elsewhere SELECT generate_series(1, 6000)").await;
            // What the slot needs is found out where the server logs its open transactions.
            shop.exec("CHECKPOINT").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if is_past("restart_lsn", &before).await {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn an_index_too_large_for_the_slot_is_built_concurrently_and_holds_no_wal() {
    let shop = shop().await;
    shop.exec(GATED).await;
    let before = shop.definition("public.t").await;
    let (held, gate) = building(&shop, &["--max-slot-wal", "64kB"]).await;
    assert_eq!(command(&shop).await, "CREATE INDEX CONCURRENTLY");
    assert!(slot_lets_go(&shop).await);
    gate.open().await;
    let output = held.run.finish(SOON).await.expect_code(0);
    for name in ["t_pkey", "gated", "u", "part"] {
        assert!(output.stderr.contains(&format!("index {name} is built CONC")), "{name}: {output}");
    }
    assert_same(&shop.definition("public.t").await, &before, "built concurrently");
}

#[tokio::test]
async fn an_index_that_fits_is_built_plainly_and_holds_the_wal_of_its_time() {
    let shop = shop().await;
    shop.exec(GATED).await;
    let before = shop.definition("public.t").await;
    let (held, gate) = building(&shop, &[]).await;
    assert_eq!(command(&shop).await, "CREATE INDEX");
    assert!(!slot_lets_go(&shop).await);
    gate.open().await;
    let output = held.run.finish(SOON).await.expect_code(0);
    assert!(!output.stderr.contains("CONCURRENTLY"), "{output}");
    assert_same(&shop.definition("public.t").await, &before, "built plainly");
}

#[tokio::test]
async fn the_servers_own_limit_counts_too() {
    let shop = shop().await;
    shop.exec(GATED).await;
    let held = shop.held("index", "public.t", &["--rebuild", "--max-slot-wal", "1TB"]).await;
    // A slot is lost only at a checkpoint.
    shop.exec("ALTER SYSTEM SET max_slot_wal_keep_size = 0").await;
    shop.exec("SELECT pg_reload_conf()").await;
    let set = "SELECT current_setting('max_slot_wal_keep_size') = '0'";
    wait_for_sql(&shop.client, "the server has its limit", set).await;
    let output = held.finish().await.expect_code(0);
    assert!(output.stderr.contains("index part is built CONCURRENTLY"), "{output}");
}

#[tokio::test]
async fn builds_that_get_along_with_nobody_go_one_by_one_and_say_whom_they_wait_for() {
    let shop = shop().await;
    shop.exec(GATED).await;
    shop.exec("ALTER TABLE public.t ADD CONSTRAINT apart EXCLUDE (n WITH =)").await;
    let before = shop.definition("public.t").await;
    let limits = ["--rebuild", "--max-slot-wal", "64kB", "--index-jobs", "4"];
    let mut held = shop.held("index", "public.t", &limits).await;
    let reader = shop.session().await;
    exec(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.t").await;
    held.release().await;
    held.run.wait_for_saying("built CONCURRENTLY, waits for the transaction of pid").await;
    exec(&reader, "COMMIT").await;
    let output = held.run.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("apart cannot be built CONCURRENTLY"), "{output}");
    assert_same(&shop.definition("public.t").await, &before, "built one by one");
}

#[tokio::test]
async fn duplicates_are_named_and_leave_no_broken_index() {
    let shop = shop().await;
    shop.exec(GATED).await;
    shop.exec("UPDATE public.t SET n = 7 WHERE id IN (5000, 6000); DROP INDEX public.gated").await;
    let change = ["--alter", "ADD CONSTRAINT one UNIQUE (n)", "--max-slot-wal", "64kB"];
    let output = shop.run("public.t", &change).await.expect_code(4);
    assert!(output.stderr.contains("index one is built CONCURRENTLY"), "{output}");
    assert!(
        output.stderr.contains("unique index or constraint one, for instance the rows with keys")
    );
    assert!(["5000", "6000"].iter().all(|key| output.stderr.contains(key)), "{output}");
    let built = indexes(&shop, "public.t_v2").await;
    assert!(built.contains_key("u_v2") && !built.contains_key("one_v2"), "{built:?}");
}

#[tokio::test]
async fn a_limit_that_is_no_size_is_refused() {
    let shop = shop().await;
    let output = shop.run("public.t", &["--rebuild", "--max-slot-wal", "10gb"]).await;
    assert!(output.expect_code(2).stderr.contains("units B, kB, MB, GB, TB"));
}
