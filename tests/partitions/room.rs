//! Tables without a default partition: what comes for which there is none gets one, whenever it comes.

use std::time::{Duration, Instant};

use super::{TABLE, make};
use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop};

/// By status, with what has to be with it.
const BY_STATUS: [&str; 6] = [
    "--alter",
    "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (status, id)",
    "--partition-by",
    "LIST (status)",
    "--partition-default",
    "off",
];
const BY_MONTH: [&str; 8] = [
    "--alter",
    "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, created_at)",
    "--partition-by",
    "RANGE (created_at)",
    "--partition-every",
    "1 month",
    "--partition-default",
    "off",
];

/// A foreign key and a unique index, which each partition must have its part of.
const HUNG: &str = "CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c SELECT DISTINCT customer_id FROM orders; \
    ALTER TABLE orders ADD CONSTRAINT of_c FOREIGN KEY (customer_id) REFERENCES c; \
    CREATE UNIQUE INDEX orders_status_note_id ON orders (status, note, id) WITH (fillfactor = 70); \
    ALTER TABLE orders SET (fillfactor = 80), ALTER note SET STATISTICS 7";

/// So long a transaction is in nobody's way.
const YOUNG: Duration = Duration::from_millis(800);

async fn insert(shop: &Shop, status: &str) {
    shop.exec(&format!(
        "INSERT INTO ours.orders (customer_id, status, amount) SELECT customer_id, '{status}', 1 FROM ours.orders LIMIT 3"
    ))
    .await;
}

/// What the rows hold.
async fn rows(shop: &Shop) -> Vec<String> {
    shop.rows("(SELECT id, customer_id, status, amount, note, created_at FROM ours.orders)").await
}

/// The partitions that there are, those of the state, and what each has, are alike.
async fn all_alike(shop: &Shop, partitions: i64, what: &str) {
    let kept = "SELECT (SELECT array_agg(p->>'name' ORDER BY 1) FROM pgwraith.flow, jsonb_array_elements(partitions) p)
        = (SELECT array_agg(c.relname::text ORDER BY 1) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'ours.orders'::regclass)";
    assert!(shop.value::<bool>(kept).await, "{what}");
    let kinds = "SELECT count(DISTINCT x), sum(n)::int8 FROM (SELECT ROW(
        (SELECT array_agg((replace(ic.relname, c.relname, ''), i.indisvalid, i.indisunique, ic.reloptions)::text ORDER BY 1)
           FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_inherits h ON h.inhrelid = ic.oid WHERE i.indrelid = c.oid),
        (SELECT array_agg((k.conname !~ c.relname, k.contype, k.convalidated, k.conparentid <> 0)::text ORDER BY 1)
           FROM pg_constraint k WHERE k.conrelid = c.oid),
        (SELECT array_agg((a.attname, a.attnotnull, a.attislocal, a.attidentity, a.attstattarget)::text ORDER BY a.attnum)
           FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0), c.reloptions, c.relacl)::text AS x, count(*) AS n
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ours.orders'::regclass GROUP BY 1) q";
    let row = shop.client.query_one(kinds, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, partitions), "{what}");
}

/// In the copy, where several meet it, among the indexes, and behind all of them.
#[tokio::test]
async fn rows_without_a_partition_may_come_at_any_time() {
    let mut shop = shop().await;
    for (n, phase) in ["copy", "index", "catch up", "verify", "cutover"].into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        make(&shop, "ours", 3_000, HUNG).await;
        let held = shop.held(phase, TABLE, &BY_STATUS).await;
        for status in ["here", "There", "there", "it''s", "null"] {
            insert(&shop, status).await;
        }
        shop.exec("UPDATE ours.orders SET status = 'all over' WHERE id % 10 = 3").await;
        let before = rows(&shop).await;
        let output = held.finish().await.expect_code(0);
        assert!(output.stderr.contains("rows came that had no partition: made "), "{output}");
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
        assert!(rows(&shop).await == before, "{phase}");
        all_alike(&shop, 10, phase).await;
        assert_eq!(shop.held_back().await, [""; 0], "{phase}");
    }
}

/// It is committed when the lock is already asked for: there is no time to make a partition then.
#[tokio::test]
async fn a_row_that_comes_under_the_lock_puts_it_off() {
    let shop = shop().await;
    make(&shop, "ours", 1_000, "").await;
    let patient = ["--postpone-cutover", "--max-lock-hold", "20s", "--lock-timeout", "10s"];
    let mut run = Background::start(shop.arguments(TABLE, &[&BY_STATUS[..], &patient].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    let (mut writer, mut next) = (shop.session().await, shop.session().await);
    let insert = |status: &str| {
        format!("INSERT INTO ours.orders (customer_id, status, amount) VALUES (1, '{status}', 1)")
    };
    let begin = format!("BEGIN; {}", insert("new"));
    writer.batch_execute(&begin).await.unwrap();
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let asked = "SELECT EXISTS (SELECT 1 FROM pg_locks l WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock'
                 AND l.relation = 'ours.orders'::regclass)";
    let mut young = Instant::now() + YOUNG;
    while !shop.value::<bool>(asked).await {
        run.expect_running();
        // Nobody queues behind a transaction that is older than a second. There is always one in the way.
        if Instant::now() >= young {
            next.batch_execute(&begin).await.unwrap();
            young = Instant::now() + YOUNG;
            writer.batch_execute("COMMIT").await.unwrap();
            std::mem::swap(&mut writer, &mut next);
        }
    }
    // It has the table already: only others wait behind who asks for all of it.
    writer.batch_execute(&insert("late")).await.unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    let rows = shop.rows(TABLE).await.len();
    let output = run.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("for which a partition is to be made"), "{output}");
    assert_eq!(shop.rows(TABLE).await.len(), rows);
    // From here on PostgreSQL says so.
    let refused = "INSERT INTO ours.orders (customer_id, status, amount) VALUES (1, 'new here', 1)";
    let error = shop.client.batch_execute(refused).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("23514"));
}

/// In the copy, and behind it: then the partition has its part of each index, and of the key to another table.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_where_a_partition_is_made_is_gone_on_from() {
    let mut shop = shop().await;
    let cases =
        pgwraith::failpoint::OF_ROOM.iter().flat_map(|point| [(point, true), (point, false)]);
    for (n, (point, in_the_copy)) in cases.enumerate() {
        let what = format!("{point}, in the copy: {in_the_copy}");
        shop.move_to(&format!("case{n}")).await;
        make(&shop, "ours", 2_000, HUNG).await;
        shop.exec("CREATE TABLE public.elsewhere (n int)").await;
        let writer = shop.session().await;
        writer.batch_execute("BEGIN; INSERT INTO public.elsewhere VALUES (1)").await.unwrap();
        let arguments = shop.arguments(TABLE, &[&BY_STATUS[..], &["--postpone-cutover"]].concat());
        let action = format!("{point}=return");
        let mut run = Background::start_with(&[("FAILPOINTS", &action)], arguments);
        // The partitions that there are at first are known then.
        let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks w JOIN pg_stat_activity a USING (pid)
                     WHERE NOT w.granted AND a.application_name LIKE 'pgwraith/%/stream')";
        crate::scene::wait_for(&shop.client, &mut run, "it waits for its slot", waits).await;
        if in_the_copy {
            insert(&shop, "here").await;
        }
        writer.batch_execute("COMMIT").await.unwrap();
        if !in_the_copy {
            run.wait_for_saying("postponed until `pgwraith cutover`").await;
            insert(&shop, "here").await;
        }
        let dead = run.finish(SOON).await;
        assert_eq!(dead.signal, Some(libc::SIGKILL), "{what}: it was never reached: {dead}");
        let rows = rows(&shop).await;
        let resume = ["resume", TABLE, "-d", &shop.dsn, "--take-over", "--postpone-cutover=off"];
        harness::run(resume).await.expect_code(0);
        assert!(self::rows(&shop).await == rows, "{what}");
        all_alike(&shop, 5, &what).await;
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }
}

/// NULL is a value of a LIST, and of no RANGE.
#[tokio::test]
async fn what_no_partition_can_have_is_named() {
    let shop = shop().await;
    shop.exec("CREATE TABLE n (id int PRIMARY KEY, kind text, at timestamptz); INSERT INTO n SELECT g, 'a' || g % 3 FROM generate_series(1, 100) g").await;
    let by_kind = [
        "--alter",
        "DROP CONSTRAINT n_pkey",
        "--partition-by",
        "LIST (kind)",
        "--partition-default=off",
    ];
    let held = shop.held("verify", "n", &by_kind).await;
    shop.exec("INSERT INTO n VALUES (101), (102)").await;
    held.finish().await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM ONLY n_null").await, 2);

    make(&shop, "ours", 1_000, "").await;
    for (change, told) in [
        (
            &["--partition-by", "HASH (id)", "--partitions", "2", "--partition-default", "off"][..],
            "--partition-default",
        ),
        (&["--partition-by", "none", "--partition-default", "on"], "nothing else to say"),
        (&["--partition-by", "LIST (id)", "--partition-default", "maybe"], "it is on or off"),
        (
            &[
                "--partition-by",
                "RANGE (n)",
                "--partition-every",
                "1",
                "--partition-default=off",
                "--alter",
                "DROP CONSTRAINT orders_pkey, ADD COLUMN n int DEFAULT 1",
            ],
            "\"n\" may be NULL",
        ),
    ] {
        let output = shop.run(TABLE, change).await.expect_code(2);
        assert!(output.stderr.contains(told), "{change:?}: {output}");
    }
    shop.exec("UPDATE ours.orders SET created_at = 'infinity' WHERE id = 17").await;
    let output = shop.run(TABLE, &BY_MONTH).await.expect_code(2);
    assert!(output.stderr.contains("infinite"), "{output}");
    shop.exec("UPDATE ours.orders SET created_at = '2024-02-01' WHERE id = 17").await;
    for phase in ["copy", "verify"] {
        let held = shop.held(phase, TABLE, &BY_MONTH).await;
        shop.exec(
            "UPDATE ours.orders SET created_at = 'infinity' WHERE id = 17; \
                   UPDATE ours.orders SET created_at = '1999-02-03' WHERE id = 16",
        )
        .await;
        let output = held.finish().await.expect_code(4);
        assert!(
            output.stderr.contains("id = 17") && output.stderr.contains("no range has a place"),
            "{output}"
        );
        harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        shop.exec("UPDATE ours.orders SET created_at = '2024-02-01' WHERE id IN (16, 17)").await;
    }
    let output = harness::run([&["plan", TABLE, "-d", &shop.dsn][..], &BY_MONTH[..]].concat())
        .await
        .expect_code(0);
    assert!(output.stdout.contains("no default partition (--partition-default off)"), "{output}");
}

/// What is called as the table's own index would be gets a number.
#[tokio::test]
async fn a_value_may_be_what_an_index_is_called_by() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int, kind text NOT NULL, PRIMARY KEY (id, kind)); CREATE INDEX ON t (kind); \
         INSERT INTO t VALUES (1, 'pkey'), (2, 'kind_idx'), (3, 'x')",
    )
    .await;
    shop.run("t", &["--partition-by", "LIST (kind)"]).await.expect_code(0);
    let parts = "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid::regclass::text COLLATE \"C\") \
                 FROM pg_inherits WHERE inhparent = 't'::regclass";
    assert_eq!(shop.value::<String>(parts).await, "t_default t_kind_idx1 t_pkey1 t_x");
    let indexes = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) \
                   FROM pg_index WHERE indrelid = 't'::regclass";
    assert_eq!(shop.value::<String>(indexes).await, "t_kind_idx t_pkey");
}
