//! Sessions that were there before the swap, with statements, plans and cursors, go on as after a
//! plain ALTER TABLE.

use tokio_postgres::error::SqlState;

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, exec, shop, value};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
    INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 3000) g;
    CREATE VIEW seen AS SELECT id, v, n FROM t;
    CREATE FUNCTION plain(k int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN
      SELECT v || n INTO r FROM t WHERE id = k; UPDATE t SET n = n + 1 WHERE id = k; RETURN r; END $$;
    CREATE FUNCTION typed(k int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r t%ROWTYPE; w t; x t.v%TYPE; BEGIN
      SELECT * INTO r FROM t WHERE id = k; w := r; x := w.v; RETURN x || r.n; END $$;
    CREATE FUNCTION looped() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; s int := 0; BEGIN
      FOR r IN SELECT * FROM seen LOOP s := s + 1; END LOOP; RETURN s; END $$;";

/// More often than it takes for a plan that does not know the values to be kept.
const OFTEN: i32 = 8;

#[tokio::test]
async fn prepared_statements_go_on_and_mean_the_new_table() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let session = shop.session().await;
    let read = session.prepare("SELECT v, n FROM t WHERE id = $1").await.unwrap();
    let all = session.prepare("SELECT * FROM t WHERE id = $1").await.unwrap();
    let through = session.prepare("SELECT n FROM seen WHERE id = $1").await.unwrap();
    let write = session.prepare("UPDATE t SET n = n + 1 WHERE id = $1").await.unwrap();
    let add = session.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    let used = async |from: i32| {
        for k in from..from + OFTEN {
            let row = session.query_one(&read, &[&k]).await.unwrap();
            assert_eq!((row.get(0), row.get(1)), (format!("v{k}"), 0));
            assert_eq!(session.execute(&write, &[&k]).await.unwrap(), 1);
            assert_eq!(session.query_one(&all, &[&k]).await.unwrap().get::<_, i32>(2), 1);
            assert_eq!(session.query_one(&through, &[&k]).await.unwrap().get::<_, i32>(0), 1);
            assert_eq!(session.execute(&add, &[&-k, &"new"]).await.unwrap(), 1);
        }
    };
    used(1).await;
    let kept = "SELECT count(*) FROM pg_prepared_statements WHERE generic_plans > 0";
    assert!(value::<i64>(&session, kept).await >= 3, "the plans are no kept ones");
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    used(100).await;
    let written = "SELECT count(*) FROM t WHERE n = 1 OR id < 0";
    assert_eq!(shop.value::<i64>(written).await, i64::from(4 * OFTEN));
    shop.exec("DROP TABLE t_old").await;
    used(200).await;
}

/// PostgreSQL itself refuses them once; then they are prepared again.
#[tokio::test]
async fn prepared_statements_of_another_result_fail_as_after_alter_table() {
    let mut shop = shop().await;
    let mut told = Vec::new();
    for by_the_tool in [false, true] {
        shop.move_to(&format!("by_the_tool_{by_the_tool}")).await;
        shop.exec(&TABLE[..TABLE.find("CREATE VIEW").unwrap()]).await;
        let session = shop.session().await;
        let sql = "SELECT n FROM t WHERE id = $1";
        let read = session.prepare(sql).await.unwrap();
        session.query_one(&read, &[&1i32]).await.unwrap();
        if by_the_tool {
            shop.run("t", &["--alter", "ALTER n TYPE bigint"]).await.expect_code(0);
        } else {
            shop.exec("ALTER TABLE t ALTER n TYPE bigint").await;
        }
        let error = session.query_one(&read, &[&1i32]).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code(), &SqlState::FEATURE_NOT_SUPPORTED);
        told.push(error.message().to_owned());
        let read = session.prepare(sql).await.unwrap();
        assert_eq!(session.query_one(&read, &[&1i32]).await.unwrap().get::<_, i64>(0), 0);
    }
    assert_eq!(told[0], "cached plan must not change result type");
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn functions_with_kept_plans_go_on() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let session = shop.session().await;
    let call = async |round: i32| {
        for k in 1..=OFTEN {
            let is: String = value(&session, &format!("SELECT plain({k})")).await;
            assert_eq!(is, format!("v{k}{round}"));
            let is: String = value(&session, &format!("SELECT typed({k})")).await;
            assert_eq!(is, format!("v{k}{}", round + 1));
        }
        assert_eq!(value::<i32>(&session, "SELECT looped()").await, 3000);
    };
    call(0).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    call(1).await;
    let written = format!("SELECT count(*) FROM t WHERE n = 2 AND id <= {OFTEN}");
    assert_eq!(shop.value::<i64>(&written).await, i64::from(OFTEN));
    shop.exec("DROP TABLE t_old").await;
    call(2).await;
}

#[tokio::test]
async fn a_cursor_that_holds_its_rows_goes_on() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let session = shop.session().await;
    exec(&session, "DECLARE held CURSOR WITH HOLD FOR SELECT id, v FROM t ORDER BY id").await;
    let fetch = async |n: i32| -> Vec<i32> {
        let rows = session.query(&format!("FETCH {n} FROM held"), &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(fetch(1000).await, (1..=1000).collect::<Vec<_>>());
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DELETE FROM t WHERE id > 2000; DROP TABLE t_old").await;
    assert_eq!(fetch(3000).await, (1001..=3000).collect::<Vec<_>>());
    exec(&session, "CLOSE held").await;
}

/// The swap waits for it, and does not make others wait behind itself for long.
#[tokio::test]
async fn a_cursor_in_an_open_transaction_is_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let session = shop.session().await;
    exec(&session, "BEGIN; DECLARE open CURSOR FOR SELECT id FROM t ORDER BY id").await;
    assert_eq!(fetched(&session, 1000).await, 1000);
    let mut run = Background::start(shop.arguments("t", &["--rebuild"]));
    harness::wait_for_phase(&shop.client, &mut run, "t", "cutover").await;
    shop.exec("UPDATE t SET v = 'meanwhile' WHERE id = 1").await;
    assert_eq!(fetched(&session, 5000).await, 2000);
    run.expect_running();
    assert_eq!(oid(&shop, "t").await, value::<u32>(&session, "SELECT 't'::regclass::oid").await);
    exec(&session, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
    assert_eq!(shop.value::<String>("SELECT v FROM t WHERE id = 1").await, "meanwhile");
    assert_ne!(oid(&shop, "t").await, oid(&shop, "t_old").await);
}

async fn fetched(session: &tokio_postgres::Client, n: i32) -> usize {
    session.query(&format!("FETCH {n} FROM open"), &[]).await.unwrap().len()
}

async fn oid(shop: &Shop, table: &str) -> u32 {
    shop.value(&format!("SELECT '{table}'::regclass::oid")).await
}
