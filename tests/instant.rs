//! A change that PostgreSQL makes in its catalogs alone is made in place, with the cutover's locks.

#[cfg(feature = "failpoints")]
use pgwraith::demo::traffic::Traffic;

use crate::harness::{ANY_WAY, Background, Output, Proxy, When, run};
#[cfg(feature = "failpoints")]
use crate::scene::dies_at;
use crate::scene::{SOON, Shop, exec, shop, wait_for};
use crate::twins;

const COLUMN: [&str; 2] = ["--alter", "ADD COLUMN note text NOT NULL DEFAULT ''"];
const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, CONSTRAINT a_there CHECK (a IS NOT NULL)); \
    INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n";

async fn table() -> Shop {
    let shop = shop().await;
    shop.exec(ROWS).await;
    shop
}

fn arguments(shop: &Shop, change: &[&str]) -> Vec<String> {
    let mut all = shop.arguments("t", change);
    all.push(ANY_WAY.to_owned());
    all
}

async fn altered(shop: &Shop) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'note')";
    shop.value(sql).await
}

/// It was in place, and nothing else was made.
async fn in_place(shop: &Shop, file: u32, output: &Output) {
    let json = output.json();
    assert_eq!(
        (json["way"].as_str(), json["outcome"].as_str()),
        (Some("instant"), Some("altered"))
    );
    assert!(altered(shop).await, "{output}");
    assert_eq!(shop.value::<u32>("SELECT pg_relation_filenode('t')").await, file);
    assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await);
    assert_eq!(
        shop.value::<i64>("SELECT count(*) FROM pg_class WHERE relname ~ '^t_(v2|old)'").await,
        0
    );
}

#[tokio::test]
async fn the_catalogs_alone_change_and_the_lock_is_short() {
    let shop = table().await;
    let file = shop.value("SELECT pg_relation_filenode('t')").await;
    let output = run(arguments(&shop, &COLUMN)).await.expect_code(0);
    in_place(&shop, file, &output).await;
    assert!(output.stderr.contains("instant"), "{output}");
    let cutover = &output.json()["cutover"];
    assert_eq!(cutover["attempts"], 1);
    assert!(cutover["stall_ms"].as_f64().unwrap() < 500.0, "{output}");

    let again = run(arguments(&shop, &COLUMN)).await.expect_code(2);
    assert!(again.stderr.contains("already exists"), "{again}");
    let copy = ["--force-copy", "--alter", "ADD COLUMN more int"];
    let output = run(arguments(&shop, &copy)).await.expect_code(0);
    assert_eq!(
        (&output.json()["way"], &output.json()["outcome"]),
        (&"copy".into(), &"swapped".into())
    );
}

/// Several flags are one transaction: the first is gone where the second is refused.
#[tokio::test]
async fn all_of_it_or_nothing() {
    let shop = table().await;
    shop.exec("CREATE VIEW v AS SELECT a FROM t").await;
    let both = ["--alter", "ADD COLUMN note text", "--alter", "DROP COLUMN a CASCADE"];
    let output = run(arguments(&shop, &both)).await.expect_code(3);
    assert!(output.stderr.contains("view"), "what hangs on the column is not dropped: {output}");
    assert!(
        !altered(&shop).await && shop.value::<bool>("SELECT to_regclass('v') IS NOT NULL").await
    );
}

/// A table without a key cannot be copied, and can be altered.
#[tokio::test]
async fn what_a_copy_needs_is_not_needed() {
    let shop = table().await;
    shop.exec("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    run(arguments(&shop, &COLUMN)).await.expect_code(0);
    let refused = ["--alter", "ALTER COLUMN a TYPE bigint"];
    run(arguments(&shop, &refused)).await.expect_code(3);
}

#[tokio::test]
async fn it_queues_behind_nobody_and_says_who_is_in_the_way() {
    let shop = table().await;
    let file = shop.value("SELECT pg_relation_filenode('t')").await;
    let (holder, reader) = (shop.session().await, shop.session().await);
    exec(&holder, "BEGIN; SELECT count(*) FROM t").await;
    let long = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' \
                AND xact_start < clock_timestamp() - interval '1100 ms')";
    let mut waiting = Background::start(arguments(&shop, &COLUMN));
    wait_for(&shop.client, &mut waiting, "the transaction is long", long).await;
    waiting.wait_for_saying("the change waits: ").await;
    assert!(waiting.said().contains("idle in transaction"), "{}", waiting.said());
    // Whoever comes meanwhile does not wait for us.
    exec(&reader, "SET lock_timeout = '1s'; UPDATE t SET a = 7 WHERE id = 1").await;
    assert!(!altered(&shop).await);
    exec(&holder, "COMMIT").await;
    let output = waiting.finish(SOON).await.expect_code(0);
    in_place(&shop, file, &output).await;

    exec(&holder, "BEGIN; SELECT count(*) FROM t").await;
    let hasty = ["--cutover-patience", "1s", "--alter", "ADD COLUMN more int"];
    let output = run(arguments(&shop, &hasty)).await.expect_code(1);
    assert!(output.stderr.contains("did not get its lock"), "{output}");
    assert!(output.stderr.contains("Nothing was changed"), "{output}");
}

/// SET NOT NULL reads no row where a check proves it; the check goes while the change waits for its lock.
#[tokio::test]
async fn what_was_instant_is_looked_at_again_once_nobody_can_change_it() {
    let shop = table().await;
    let holder = shop.session().await;
    exec(&holder, "BEGIN; LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE").await;
    let change = ["--alter", "ALTER COLUMN a SET NOT NULL"];
    let mut waiting = Background::start(arguments(&shop, &change));
    waiting.wait_for_saying("the change is instant").await;
    exec(&holder, "ALTER TABLE t DROP CONSTRAINT a_there; COMMIT").await;
    let output = waiting.finish(SOON).await.expect_code(1);
    assert!(output.stderr.contains("is not any more"), "{output}");
    let not_null =
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'";
    assert!(!shop.value::<bool>(not_null).await);
}

#[tokio::test]
async fn there_is_nothing_to_postpone() {
    let shop = table().await;
    let postponed: Vec<&str> = COLUMN.iter().copied().chain(["--postpone-cutover"]).collect();
    let output = run(arguments(&shop, &postponed)).await.expect_code(2);
    assert!(output.stderr.contains("--force-copy"), "{output}");
    assert!(!altered(&shop).await);
}

/// At COMMIT nobody knows what became of it: it is looked up, and tried again only where it was undone.
#[tokio::test]
async fn a_commit_without_an_answer_is_looked_up() {
    let mut shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    for (n, when) in [When::Before, When::After].into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec(ROWS).await;
        let file = shop.value("SELECT pg_relation_filenode('t')").await;
        let mut through = arguments(&shop, &COLUMN);
        through[3] = proxy.dsn(&shop.dsn);
        let fault = proxy.cut_at("alter", "*/ COMMIT", when);
        let waiting = Background::start(through);
        fault.struck().await;
        let output = waiting.finish(SOON).await.expect_code(0);
        in_place(&shop, file, &output).await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn whenever_it_is_killed_there_is_nothing_to_undo() {
    let shop = table().await;
    for point in pgwraith::failpoint::IN_PLACE {
        let chosen = format!("{point}=return");
        let killed = Background::start_with(&[("FAILPOINTS", &chosen)], arguments(&shop, &COLUMN));
        let output = killed.finish(SOON).await;
        assert_eq!(output.signal, Some(9), "{point}: {output}");
        assert!(!altered(&shop).await, "{point}");
        exec(&shop.client, "SET lock_timeout = '5s'; UPDATE t SET a = a").await;
    }
    run(arguments(&shop, &COLUMN)).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t WHERE note = ''").await, 1000);
}

/// Under live traffic whose sessions also change keys.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_large_table_is_in_use_meanwhile() {
    let shop = shop().await;
    crate::changes::make(&shop, "ours", crate::scene::many_rows(), "").await;
    crate::changes::make(&shop, "twin", 0, "").await;
    let traffic = Traffic::start(&shop.dsn, "ours.t", crate::scene::mix()).await.unwrap();
    let clauses = [
        "ADD COLUMN region text NOT NULL DEFAULT 'eu', ALTER COLUMN status SET DEFAULT 'new'",
        "ALTER COLUMN amount TYPE numeric(14,2), ALTER COLUMN customer_id DROP NOT NULL",
        "RENAME COLUMN created_at TO placed_at",
    ];
    let change: Vec<&str> = clauses.iter().flat_map(|clause| ["--alter", clause]).collect();
    let mut arguments = shop.arguments("ours.t", &change);
    arguments.push(ANY_WAY.to_owned());
    dies_at("alter locked", 1, arguments.clone()).await;
    let output = run(&arguments).await.expect_code(0);
    assert_eq!(output.json()["way"], "instant", "{output}");
    let report = traffic.stop().await.unwrap();
    assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{report:?}");
    let oracle = report.verify(&shop.client, "ours.t").await.unwrap();
    assert!(oracle.is_ok(), "{oracle:?}");
    shop.exec(
        "INSERT INTO twin.t OVERRIDING SYSTEM VALUE \
         SELECT id, customer_id, status, amount, note, placed_at FROM ours.t",
    )
    .await;
    for clause in clauses {
        shop.exec(&format!("ALTER TABLE twin.t {clause}")).await;
    }
    twins::same_definition(&shop, "in use").await;
    let differ = "SELECT count(*) FROM ((TABLE ours.t EXCEPT ALL TABLE twin.t) \
                  UNION ALL (TABLE twin.t EXCEPT ALL TABLE ours.t)) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
}

/// Each begins where the one before it has left the table.
const ALL_KINDS: [&[&str]; 4] = [
    &[
        "ADD COLUMN n int DEFAULT 5, ADD COLUMN at timestamptz, ADD COLUMN p_id int REFERENCES {s}.p",
        "RENAME COLUMN b TO bb",
        "RENAME CONSTRAINT a_pos TO a_is_pos",
        "ALTER COLUMN c TYPE varchar(80), ALTER COLUMN d TYPE numeric(12,2), ALTER COLUMN bb TYPE varchar",
        "ALTER COLUMN k SET NOT NULL, DROP COLUMN gone",
    ],
    &[
        "ALTER COLUMN a SET DEFAULT 3, ALTER COLUMN a DROP NOT NULL",
        "ALTER COLUMN bb SET STORAGE EXTERNAL, ALTER COLUMN bb SET COMPRESSION pglz, \
         ALTER COLUMN bb SET STATISTICS 500, ALTER COLUMN bb SET (n_distinct = 7)",
        "SET (fillfactor = 70, toast.autovacuum_enabled = off), CLUSTER ON t_b",
        "ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (START WITH 500)",
    ],
    &[
        "ADD CONSTRAINT of_p FOREIGN KEY (k) REFERENCES {s}.p NOT VALID, ALTER CONSTRAINT of_c DEFERRABLE",
        "ADD CONSTRAINT d_pos CHECK (d > 0) NOT VALID, ADD CONSTRAINT once UNIQUE USING INDEX t_e",
        "DROP CONSTRAINT a_is_pos, SET WITHOUT CLUSTER",
    ],
    &[
        "DROP CONSTRAINT t_pkey, ALTER COLUMN id DROP IDENTITY, RESET (fillfactor)",
        "REPLICA IDENTITY FULL, DROP CONSTRAINT of_c",
        "ENABLE ROW LEVEL SECURITY",
    ],
];

#[tokio::test]
async fn the_table_is_as_a_plain_alter_makes_it() {
    let shop = shop().await;
    let ground = "CREATE SCHEMA {s}; CREATE TABLE {s}.p (id int PRIMARY KEY); INSERT INTO {s}.p SELECT generate_series(1, 50);
        CREATE TABLE {s}.t (id int PRIMARY KEY, a int NOT NULL, b text, c varchar(50), d numeric(10,2), e bigint, k int, gone text,
          CONSTRAINT a_pos CHECK (a > 0), CONSTRAINT k_there CHECK (k IS NOT NULL), CONSTRAINT of_c FOREIGN KEY (k) REFERENCES {s}.p);
        INSERT INTO {s}.t SELECT n, n, n, n, n, n, n % 50 + 1, 'x' FROM generate_series(1, 300) n;
        CREATE INDEX t_b ON {s}.t (b); CREATE UNIQUE INDEX t_e ON {s}.t (e)";
    twins::twins(&shop, ground).await;
    for clauses in ALL_KINDS {
        let mut change = Vec::new();
        for clause in clauses {
            shop.exec(&format!("ALTER TABLE twin.t {}", clause.replace("{s}", "twin"))).await;
            change.extend(["--alter".to_owned(), clause.replace("{s}", "ours")]);
        }
        let change: Vec<&str> = change.iter().map(String::as_str).collect();
        let mut arguments = shop.arguments("ours.t", &change);
        arguments.push(ANY_WAY.to_owned());
        let output = run(&arguments).await.expect_code(0);
        assert_eq!(output.json()["way"], "instant", "{output}");
        twins::same(&shop, &format!("{clauses:?}")).await;
    }
}

/// The rights of README.md do: the owner may create nothing in the database, and what is added is his.
#[tokio::test]
async fn no_superuser_is_needed() {
    let shop = table().await;
    shop.exec(
        "CREATE ROLE app; GRANT USAGE, CREATE ON SCHEMA public TO app; ALTER TABLE t OWNER TO app; \
         CREATE ROLE dba LOGIN REPLICATION; GRANT app TO dba; GRANT pg_read_all_stats TO dba; \
         GRANT CREATE ON DATABASE shop TO dba",
    )
    .await;
    let mut all =
        arguments(&shop, &["--alter", "ADD COLUMN note text, ADD UNIQUE (id) NOT DEFERRABLE"]);
    all[3] = shop.dsn.replacen("postgres@", "dba@", 1);
    // It builds an index: that is not instant, and is copied.
    let output = run(&all).await.expect_code(0);
    assert_eq!(output.json()["way"], "copy", "{output}");
    let mut all = arguments(&shop, &["--alter", "ADD COLUMN more int DEFAULT 1"]);
    all[3] = shop.dsn.replacen("postgres@", "dba@", 1);
    let output = run(&all).await.expect_code(0);
    assert_eq!(output.json()["way"], "instant", "{output}");
    let sql = "SELECT count(*) FROM t WHERE more = 1";
    assert_eq!(shop.value::<i64>(sql).await, 1000);
}
