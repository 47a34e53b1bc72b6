//! `--rebuild --order-by INDEX`: rows stand in the order of an index, and those that move in it while they are
//! copied are neither lost nor there twice.

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::Traffic;
use tokio_postgres::Client;

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, die_in_the_copy, exec, many_rows, mix, shop, value, wait_for};

/// How many rows stand behind one that should come after them.
async fn out_of_order(shop: &Shop, table: &str, order: &str, down: bool) -> i64 {
    let wrong = if down { ">" } else { "<" };
    let sql = format!(
        "SELECT count(*) FROM (SELECT ROW({order}) AS here, lag(ROW({order})) OVER (ORDER BY ctid) AS before FROM {table}) r
         WHERE here {wrong} before"
    );
    shop.value(&sql).await
}

#[tokio::test]
async fn rows_stand_in_the_order_of_the_index() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    shop.exec(
        "CREATE SCHEMA \"S 1\"; CREATE TABLE \"S 1\".\"T\" (\"Id\" text COLLATE \"C\" PRIMARY KEY, \"At\" numeric NOT NULL, b uuid NOT NULL);
         INSERT INTO \"S 1\".\"T\" SELECT 'n' || n, n * 7919 % 311, gen_random_uuid() FROM generate_series(1, 5000) n;
         CREATE INDEX \"By At\" ON \"S 1\".\"T\" (\"At\" DESC, b DESC);
         CREATE INDEX orders_status_id ON orders (status, id); ANALYZE",
    )
    .await;
    // PostgreSQL puts a small row into what a page before has left, if that is wide enough: of these, into few.
    for (table, index, order, down, gaps) in [
        ("orders", "public.orders_created_at_idx", "created_at, id", false, 20),
        ("orders", "orders_status_id", "status, id", false, 20),
        ("\"S 1\".\"T\"", "\"S 1\".\"By At\"", "\"At\", b, \"Id\"", true, 0),
    ] {
        assert!(out_of_order(&shop, table, order, down).await > 0, "{index}");
        let before = shop.rows(table).await;
        let small = ["--chunk-rows", "500", "--chunk-time", "5ms", "--workers", "3"];
        let change: Vec<&str> =
            ["--rebuild", "--order-by", index].into_iter().chain(small).collect();
        shop.run(table, &change).await.expect_code(0);
        let wrong = out_of_order(&shop, table, order, down).await;
        assert!(wrong <= gaps, "{index}: {wrong}");
        assert_eq!(shop.rows(table).await, before, "{index}");
        let old = if table == "orders" { "orders_old" } else { "\"S 1\".\"T_old\"" };
        shop.exec(&format!("DROP TABLE {old}")).await;
    }
}

#[tokio::test]
async fn an_order_that_cannot_be_copied_in_is_refused_by_name() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    shop.exec(
        "CREATE INDEX a_hash ON orders USING hash (id); CREATE INDEX a_part ON orders (created_at) WHERE id > 5;
         CREATE INDEX an_expression ON orders (lower(status)); CREATE INDEX both_ways ON orders (status, created_at DESC);
         CREATE INDEX nulls ON orders (note); CREATE INDEX a_class ON orders (status text_pattern_ops);
         CREATE INDEX few ON orders (status); ANALYZE orders",
    )
    .await;
    for (index, why) in [
        ("another.few", "no index of \"public\".\"orders\""),
        ("nothing", "no index of \"public\".\"orders\""),
        ("a_hash", "no btree"),
        ("a_part", "partial"),
        ("an_expression", "an expression"),
        ("both_ways", "down by another"),
        ("nulls", "\"note\", which may be NULL"),
        ("a_class", "operator class"),
        ("a, b", "no index's name"),
    ] {
        let output = shop.run("orders", &["--rebuild", "--order-by", index]).await.expect_code(2);
        assert!(output.stderr.contains(why), "{index}: {output}");
    }
    for (more, why) in [
        (&["--order-by", "few"][..], "--rebuild"),
        (&["--rebuild", "--order-by", "few", "--alter", "DROP note"], "cannot be used with"),
        (&["--rebuild", "--order-by", "few", "--index-build", "before"], "--index-build before"),
    ] {
        let output = shop.run("orders", more).await.expect_code(2);
        assert!(output.stderr.contains(why), "{more:?}: {output}");
    }
    shop.exec("UPDATE pg_class SET reltuples = 1000000 WHERE oid = 'orders'::regclass").await;
    let output = shop.run("orders", &["--rebuild", "--order-by", "few"]).await.expect_code(2);
    assert!(
        output.stderr.contains("rows of one value")
            && output.stderr.contains("(\"status\", \"id\")"),
        "{output}"
    );
    assert_eq!(shop.held_back().await, [""; 0]);
}

const GATE: i64 = 4712;

/// A run over `t` whose copy is held before its fourth range, and who lets it go on.
async fn held_in_the_copy(shop: &Shop, failpoint: Option<&str>) -> (Background, Client) {
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, at int NOT NULL, v text);
         INSERT INTO t SELECT n, n * 7919 % 1000, 'v' || n FROM generate_series(1, 1000) n; CREATE INDEX t_at ON t (at); ANALYZE t;
         CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;
         CREATE TRIGGER gate BEFORE INSERT ON pgwraith.chunk FOR EACH ROW WHEN (NEW.kind = 'copy' AND NEW.number = 3) EXECUTE FUNCTION gate()"
    ))
    .await;
    let gate = shop.session().await;
    exec(&gate, &format!("SELECT pg_advisory_lock({GATE})")).await;
    let change = [
        "--rebuild",
        "--order-by",
        "t_at",
        "--chunk-rows",
        "100",
        "--chunk-time",
        "1ms",
        "--max-keys-in-memory",
        "10",
    ];
    let arguments = shop.arguments("t", &change);
    let mut run = match failpoint {
        None => Background::start(arguments),
        Some(point) => {
            Background::start_with(&[("FAILPOINTS", &format!("{point}=return"))], arguments)
        }
    };
    let held = format!(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted)"
    );
    wait_for(&shop.client, &mut run, "three ranges are copied", &held).await;
    (run, gate)
}

/// The race: what is copied has at < 300. Rows go from there to what is not copied, and from there to here; some
/// change their keys with that, or are gone and come again.
async fn move_rows(shop: &Shop) {
    for sql in [
        "UPDATE t SET at = at + 100000 WHERE at BETWEEN 10 AND 29",
        "UPDATE t SET at = -at WHERE at BETWEEN 500 AND 519",
        "UPDATE t SET id = id + 100000, at = at + 200000 WHERE at BETWEEN 50 AND 54",
        "UPDATE t SET id = -id, at = -at WHERE at BETWEEN 600 AND 604",
        "DELETE FROM t WHERE at BETWEEN 700 AND 704",
        "INSERT INTO t SELECT id, 300000, v FROM t WHERE false",
        "BEGIN; UPDATE t SET at = 400000 WHERE at = 5; UPDATE t SET at = 5 WHERE at = 400000; COMMIT",
        "CREATE TEMP TABLE away AS SELECT * FROM t WHERE at BETWEEN 60 AND 64; DELETE FROM t WHERE at BETWEEN 60 AND 64",
        "INSERT INTO t SELECT id, at + 300000, 'again' FROM away",
    ] {
        shop.exec(sql).await;
    }
}

async fn same_rows(shop: &Shop) {
    let differ = "SELECT count(*) FROM ((TABLE t EXCEPT ALL TABLE t_old) UNION ALL (TABLE t_old EXCEPT ALL TABLE t)) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t").await, 995);
    // Those that nobody touched.
    let order = "SELECT count(*) FROM (SELECT at, lag(at) OVER (ORDER BY ctid) AS before FROM t WHERE at BETWEEN 100 AND 499) r WHERE at < before";
    assert_eq!(shop.value::<i64>(order).await, 0);
}

#[tokio::test]
async fn rows_that_move_between_copied_and_not_yet_copied_ranges() {
    let shop = shop().await;
    let (run, gate) = held_in_the_copy(&shop, None).await;
    move_rows(&shop).await;
    exec(&gate, &format!("SELECT pg_advisory_unlock({GATE})")).await;
    let output = run.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("rows are copied again"), "{output}");
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    same_rows(&shop).await;
}

/// The race: the copy is done, and the stream is behind it. Whoever took out what is known by then would leave rows
/// that are there twice.
#[tokio::test]
async fn what_the_stream_has_not_told_yet_is_waited_for() {
    let shop = shop().await;
    let (mut run, gate) = held_in_the_copy(&shop, None).await;
    let walsender =
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/stream'";
    let walsender: i32 = shop.value(walsender).await;
    // SAFETY: kill takes plain numbers.
    let signal = |signal| unsafe { libc::kill(walsender, signal) };
    signal(libc::SIGSTOP);
    move_rows(&shop).await;
    exec(&gate, &format!("SELECT pg_advisory_unlock({GATE})")).await;
    let waits = "SELECT count(*) = 2 FROM pg_stat_activity WHERE state = 'idle' AND (application_name LIKE 'pgwraith/%/moved' \
                 OR application_name LIKE 'pgwraith/%/fence' AND query LIKE '%pg_logical_emit_message%')";
    wait_for(&shop.client, &mut run, "the copy is done and a fence is written", waits).await;
    signal(libc::SIGCONT);
    let output = run.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("rows are copied again"), "{output}");
    same_rows(&shop).await;
}

/// Killed where their rows are taken out, before and after that is committed, and gone on with.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_where_moved_rows_are_taken_out_is_gone_on_from() {
    let mut shop = shop().await;
    for (n, point) in pgwraith::failpoint::OF_ORDER.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let (run, gate) = held_in_the_copy(&shop, Some(point)).await;
        move_rows(&shop).await;
        exec(&gate, &format!("SELECT pg_advisory_unlock({GATE})")).await;
        let output = run.finish(SOON).await;
        assert_eq!(output.signal, Some(libc::SIGKILL), "{point} was never reached: {output}");
        let ours = "SELECT count(*) FROM pg_class WHERE relname LIKE 'moved%'";
        let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
        harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
        assert_eq!(shop.value::<i64>(ours).await, 0, "{point}");
        let output =
            harness::run(["resume", "t", "-d", &shop.dsn, "--take-over"]).await.expect_code(0);
        assert!(
            output.stderr.contains("rows are copied again") || *point == "moved rows gone",
            "{output}"
        );
        same_rows(&shop).await;
    }
}

/// Its slot gets lost meanwhile: what moved is not told, and found all the same.
#[tokio::test]
async fn a_lost_slot_is_recovered_from() {
    let shop = shop().await;
    let (run, gate) = held_in_the_copy(&shop, None).await;
    run.signal(libc::SIGKILL);
    exec(&gate, &format!("SELECT pg_advisory_unlock({GATE})")).await;
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
    shop.exec("SELECT pg_drop_replication_slot(slot) FROM pgwraith.flow").await;
    move_rows(&shop).await;
    harness::run(["resume", "t", "-d", &shop.dsn, "--recover", "--take-over"]).await.expect_code(0);
    same_rows(&shop).await;
}

/// Under traffic that moves rows everywhere in the order, killed once in the copy and resumed.
#[tokio::test]
async fn an_order_that_is_written_to_all_the_time() {
    let shop = shop().await;
    let rows = many_rows();
    create_orders(&shop.client, rows).await.unwrap();
    let untouched: String = shop.value("SELECT pg_current_xact_id()::text").await;
    let traffic = Traffic::start(&shop.dsn, "orders", mix()).await.unwrap();
    let client = shop.session().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mover = tokio::spawn(async move {
        let mut moved = 0;
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
        while stopped.try_recv().is_err() {
            tick.tick().await;
            let sql = format!(
                "UPDATE orders SET created_at = timestamptz '2024-01-01' + random() * interval '730 days' \
                 WHERE id = ANY (SELECT (1 + random() * {rows})::int FROM generate_series(1, 5))"
            );
            moved += client.execute(&sql, &[]).await.unwrap();
        }
        moved
    });
    let change = [
        "--rebuild",
        "--order-by",
        "orders_created_at_idx",
        "--chunk-rows",
        "1000",
        "--chunk-time",
        "20ms",
        "--postpone-cutover",
    ];
    die_in_the_copy(&shop, shop.arguments("orders", &change)).await;
    let again = ["resume", "orders", "-d", &shop.dsn, "--json"].map(str::to_owned);
    let mut run = Background::start(again);
    run.wait_for_saying("rows are copied again").await;
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    let _ = stop.send(());
    let moved = mover.await.unwrap();
    assert!(moved > 100, "only {moved} rows were moved");
    let report = traffic.stop().await.unwrap();
    assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{report:?}");
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    let output = run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    let differ = "SELECT count(*) FROM ((TABLE orders EXCEPT ALL TABLE orders_old) UNION ALL (TABLE orders_old EXCEPT ALL TABLE orders)) d";
    assert_eq!(value::<i64>(&shop.client, differ).await, 0);
    let oracle = report.verify(&shop.client, "orders").await.unwrap();
    assert!(oracle.is_ok(), "{oracle:?}");
    let untouched = format!(
        "(SELECT n.ctid, n.id, n.created_at FROM orders n JOIN orders_old o USING (id) WHERE o.xmin::text::int8 < {untouched}) u"
    );
    let (count, wrong) = (
        shop.value::<i64>(&format!("SELECT count(*) FROM {untouched}")).await,
        out_of_order(&shop, &untouched, "created_at, id", false).await,
    );
    // The ranges that were begun when it died were copied once more, behind the others.
    assert!(count > 1000 && wrong < count / 100, "{wrong} of {count}");
    assert_eq!(shop.held_back().await, [""; 0]);
}
