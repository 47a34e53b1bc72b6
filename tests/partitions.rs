//! An ordinary table becomes a partitioned one, under live traffic whose updates move rows between partitions and
//! change keys, killed once in the copy and resumed: it is what plain statements make of the same rows.

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use crate::definition::assert_same;
use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop, wait_for};

/// The traffic writes here too.
const TABLE: &str = "ours.orders";

/// One way to partition.
struct Case {
    /// What is done to a table like `orders` before.
    before: &'static str,
    change: &'static [&'static str],
    /// What would follow ALTER TABLE, as in `change`.
    alter: &'static str,
    /// What follows CREATE TABLE by plain statements.
    by: &'static str,
}

async fn make(shop: &Shop, schema: &str, rows: u64, before: &str) {
    shop.exec(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await;
    create_orders(&shop.client, rows).await.unwrap();
    shop.exec(&format!("{before}; SET search_path = public; ANALYZE {schema}.orders")).await;
}

impl Case {
    fn arguments(&self, shop: &Shop, command: &str) -> Vec<String> {
        let mut all: Vec<&str> = vec![command, TABLE, "-d", &shop.dsn, "--json"];
        if command == "run" {
            all.extend(["--postpone-cutover", "--chunk-rows", "1000", "--chunk-time", "20ms"]);
            all.extend(self.change);
        }
        all.into_iter().map(str::to_owned).collect()
    }

    async fn holds(&self, rows: u64) -> Shop {
        let what = format!("{:?}", self.change);
        let shop = shop().await;
        make(&shop, "ours", rows, self.before).await;
        let mix = Mix { sessions: 3, rate: Some(300.0), ..Mix::default() };
        let traffic = Traffic::start(&shop.dsn, TABLE, mix).await.unwrap();
        let mover = Mover::start(&shop).await;

        self.dies_in_the_copy(&shop).await;
        let mut run = Background::start(self.arguments(&shop, "resume"));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        let moved = mover.stop().await;
        assert!(moved > 10, "{what}: only {moved} rows were moved");
        let report = traffic.stop().await.unwrap();
        assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{what}: {report:?}");

        self.make_the_twin(&shop).await;
        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        let output = run.finish(SOON).await.expect_code(0);
        let verify = &output.json()["verify"];
        assert_eq!(verify["mismatches"], 0, "{what}: {output}");
        same_partitions(&shop, &what).await;
        same_rows(&shop, &what).await;
        let compared: i64 = verify["partitions"]
            .as_object()
            .map(|all| all.values().filter_map(|one| one["rows"].as_i64()).sum())
            .unwrap_or(0);
        assert_eq!(verify["rows"].as_i64(), Some(compared), "{what}: {output}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
        let helpers = "SELECT count(*) FROM pg_class WHERE relname LIKE '%pgwraith_key%'";
        assert_eq!(shop.value::<i64>(helpers).await, 0, "{what}");
        shop
    }

    async fn dies_in_the_copy(&self, shop: &Shop) {
        let mut run = Background::start(self.arguments(shop, "run"));
        let made = "SELECT to_regclass('pgwraith.chunk') IS NOT NULL";
        wait_for(&shop.client, &mut run, "it begins", made).await;
        let some = "SELECT count(*) > 3 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
        wait_for(&shop.client, &mut run, "some ranges are copied", some).await;
        let copying = "SELECT phase = 'copy' FROM pgwraith.migration";
        assert!(shop.value::<bool>(copying).await, "it is over before it could die");
        run.signal(libc::SIGKILL);
        assert_eq!(run.finish(SOON).await.signal, Some(libc::SIGKILL));
        let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
        harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
    }

    /// Nobody writes any more, and the names are not swapped yet. The bounds are those that the run derived.
    async fn make_the_twin(&self, shop: &Shop) {
        make(shop, "twin", 0, self.before).await;
        shop.exec(&format!("ALTER TABLE twin.orders {}", self.alter)).await;
        shop.exec(&format!(
            "ALTER TABLE twin.orders RENAME TO plain; ALTER SEQUENCE twin.orders_id_seq RENAME TO plain_id_seq;
             CREATE TABLE twin.orders (LIKE twin.plain INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING CONSTRAINTS) PARTITION BY {}",
            self.by
        ))
        .await;
        let partitions: String = shop
            .value(
                "SELECT string_agg(format('CREATE TABLE twin.%I PARTITION OF twin.orders %s', p->>'name', p->>'bound'), '; ')
                 FROM pgwraith.flow, jsonb_array_elements(partitions) p",
            )
            .await;
        shop.exec(&partitions).await;
        shop.exec("INSERT INTO twin.orders OVERRIDING SYSTEM VALUE SELECT * FROM ours.orders")
            .await;
        // In the order in which the table has its own.
        let indexes: String = shop
            .value(
                "SELECT string_agg(sql, '; ' ORDER BY primary_key DESC, oid) FROM (
                   SELECT i.indexrelid AS oid, i.indisprimary AS primary_key, CASE WHEN k.oid IS NULL
                     THEN replace(pg_get_indexdef(i.indexrelid), ' ON twin.plain ', ' ON twin.orders ')
                     ELSE format('ALTER TABLE twin.orders ADD CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)) END AS sql
                   FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
                   WHERE i.indrelid = 'twin.plain'::regclass) x",
            )
            .await;
        shop.exec("ALTER TABLE twin.plain SET SCHEMA public").await;
        shop.exec(&indexes.replace("twin.plain", "twin.orders")).await;
        shop.exec(
            "DROP TABLE public.plain;
             SELECT setval(pg_get_serial_sequence('twin.orders', 'id'), s.last_value, s.is_called) FROM ours.orders_id_seq s",
        )
        .await;
    }
}

/// Rows of the mover's own.
const MOVED: i64 = 5_000;

/// A session that moves rows of its own to other times, states and keys.
struct Mover {
    stop: tokio::sync::oneshot::Sender<()>,
    moved: tokio::task::JoinHandle<u64>,
}

impl Mover {
    async fn start(shop: &Shop) -> Mover {
        // Their keys come before all others, so that they are copied at once.
        shop.exec(&format!(
            "INSERT INTO {TABLE} (id, customer_id, status, amount, created_at) OVERRIDING SYSTEM VALUE \
             SELECT -n, n, 'new', n, timestamptz '2024-01-15' + n * interval '50 minutes' FROM generate_series(1, {MOVED}) n"
        ))
        .await;
        let client = shop.session().await;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let moved = tokio::spawn(async move {
            let mut moved = 0;
            for n in 0i64.. {
                if stopped.try_recv().is_ok() {
                    break;
                }
                let row = format!("id = {}", -(n * 7919 % MOVED) - 1);
                let set = match n % 4 {
                    0 => "created_at = created_at + interval '61 days'",
                    1 => "created_at = created_at - interval '35 days', status = 'moved'",
                    2 => "id = id - 1000000, created_at = created_at + interval '40 days'",
                    _ => "status = CASE status WHEN 'new' THEN 'paid' ELSE 'new' END",
                };
                let sql = format!("UPDATE {TABLE} SET {set} WHERE {row}");
                moved += client.execute(&sql, &[]).await.unwrap();
            }
            moved
        });
        Mover { stop, moved }
    }

    async fn stop(self) -> u64 {
        let _ = self.stop.send(());
        self.moved.await.unwrap()
    }
}

/// Root and partitions are the same, by the catalogs and by pg_dump.
async fn same_partitions(shop: &Shop, what: &str) {
    let leaves = "SELECT array_agg(c.relname::text ORDER BY 1) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                  WHERE i.inhparent = to_regclass('@.orders')";
    let of = async |schema: &str| shop.value::<Vec<String>>(&leaves.replace('@', schema)).await;
    let names = of("ours").await;
    assert_eq!(names, of("twin").await, "{what}");
    for name in names.iter().map(String::as_str).chain(["orders"]) {
        let ours = shop.definition(&format!("ours.{name}")).await;
        let mut ours: Vec<String> =
            ours.into_iter().map(|line| line.replace("ours", "twin")).collect();
        ours.sort();
        // Parts are known by an oid.
        let told = |lines: &[String]| -> Vec<String> {
            let mut all: Vec<String> = lines.iter().map(|line| without_oids(line)).collect();
            all.sort();
            all
        };
        let twin = shop.definition(&format!("twin.{name}")).await;
        assert_same(&told(&ours), &told(&twin), &format!("{what}: {name}"));
    }
}

/// Without where in a statement a bound was written, and which oid the whole has that something is a part of; and
/// without a flag of partitions' keys that says how they were made, for tables below them, which they have none.
fn without_oids(line: &str) -> String {
    let (location, _) = without_numbers(line, ":location ");
    let (parent, parts) = without_numbers(&location, "\"conparentid\": \"");
    match parts {
        0 => parent,
        _ => parent.replace("\"connoinherit\": true", "\"connoinherit\": false"),
    }
}

/// The line without the numbers but 0 behind `label`, and how many there were.
fn without_numbers(line: &str, label: &str) -> (String, usize) {
    let mut out = String::new();
    let mut count = 0;
    for (n, part) in line.split(label).enumerate() {
        if n == 0 {
            out.push_str(part);
            continue;
        }
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let is_zero = &part[..end] == "0";
        count += usize::from(!is_zero);
        out.push_str(label);
        out.push_str(if is_zero { "0" } else { "n" });
        out.push_str(&part[end..]);
    }
    (out, count)
}

async fn same_rows(shop: &Shop, what: &str) {
    let differ = "SELECT count(*) FROM (\
                    (SELECT tableoid::regclass::text AS of, * FROM twin.orders EXCEPT ALL \
                     SELECT replace(tableoid::regclass::text, 'ours', 'twin'), * FROM ours.orders) UNION ALL \
                    (SELECT replace(tableoid::regclass::text, 'ours', 'twin') AS of, * FROM ours.orders EXCEPT ALL \
                     SELECT tableoid::regclass::text, * FROM twin.orders)) d";
    assert_eq!(shop.value::<i64>(differ).await, 0, "{what}");
}

/// Rows that come for a month that has no partition yet are in the default partition.
#[tokio::test]
async fn a_table_becomes_partitioned_by_month() {
    let alter =
        "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at)";
    let shop = Case {
        before: "",
        change: &[
            "--alter",
            "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at)",
            "--partition-by",
            "RANGE (created_at)",
            "--partition-every",
            "1 month",
            "--partition-premake",
            "2",
        ],
        alter,
        by: "RANGE (created_at)",
    }
    .holds(200_000)
    .await;
    let bounds = "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = 'ours.orders_p20240201'::regclass";
    let bound = shop.value::<String>(bounds).await;
    assert!(
        bound.starts_with("FOR VALUES FROM ('2024-02-01 00:00:00")
            && bound.contains("TO ('2024-03-01"),
        "{bound}"
    );
    // Nothing is written before that.
    assert_eq!(
        shop.value::<i64>(
            "SELECT count(*) FROM ours.orders_default WHERE created_at >= '2023-12-01'"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn a_table_becomes_partitioned_by_hash() {
    Case {
        before: "CREATE UNIQUE INDEX orders_id_note_idx ON orders (id, note) WITH (fillfactor = 70)",
        change: &["--partition-by", "HASH (id)", "--partitions", "5"],
        alter: "ALTER COLUMN amount SET NOT NULL",
        by: "HASH (id)",
    }
    .holds(200_000)
    .await;
}

/// No index begins with the key's column: there is one of ours until the swap.
#[tokio::test]
async fn a_table_becomes_partitioned_by_list() {
    Case {
        before: "",
        change: &[
            "--alter",
            "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (status, id)",
            "--partition-by",
            "LIST (status)",
        ],
        alter: "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (status, id)",
        by: "LIST (status)",
    }
    .holds(200_000)
    .await;
}

/// What has to be decided is said at once, with what mends it.
#[tokio::test]
async fn what_cannot_be_partitioned_so_is_refused_by_name() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "CREATE UNIQUE INDEX orders_once ON orders (customer_id, id)").await;
    let month = ["--partition-by", "RANGE (created_at)", "--partition-every", "1 month"];
    let key = "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, created_at)";
    for (change, code, told) in [
        (&["--partition-by", "RANGE (created_at)"][..], 2, "--partition-every"),
        (
            &["--partition-by", "RANGE (lower(status))", "--partition-every", "1"],
            2,
            "not understood",
        ),
        (&["--partition-by", "RANGE (gone)", "--partition-every", "1"], 2, "\"gone\""),
        (&["--partition-by", "HASH (id)"], 2, "--partitions"),
        (&["--partition-by", "HASH (id)", "--partitions", "0"], 2, "--partitions"),
        (&["--rebuild", "--partition-every", "1 day"], 2, "--partition-by"),
        (&month, 2, "orders_pkey, orders_once"),
        (&month, 2, "PRIMARY KEY (id, created_at)"),
        (
            &[
                "--partition-by",
                "RANGE (created_at)",
                "--partition-every",
                "1 month 1 day",
                "--alter",
                key,
                "--alter",
                "ADD COLUMN x int",
            ],
            2,
            "orders_once",
        ),
    ] {
        let output = shop.run(TABLE, change).await.expect_code(code);
        assert!(output.stderr.contains(told), "{change:?}: {output}");
    }
    shop.exec("DROP INDEX ours.orders_once").await;
    for (span, told) in [
        ("1 month 1 day", "span of one kind"),
        ("-1 day", "span of one kind"),
        ("x", "not an interval"),
        ("1 second", "no more than 2000"),
    ] {
        let change =
            ["--partition-by", "RANGE (created_at)", "--partition-every", span, "--alter", key];
        let output = shop.run(TABLE, &change).await.expect_code(2);
        assert!(output.stderr.contains(told), "{span}: {output}");
    }
    let by_text = [
        "--partition-by",
        "RANGE (note)",
        "--partition-every",
        "1",
        "--alter",
        "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, note)",
        "--map",
        "note = coalesce(note, '')",
    ];
    let output = shop.run(TABLE, &by_text).await.expect_code(2);
    assert!(output.stderr.contains("of type text"), "{output}");
    let by_customer = [
        "--partition-by",
        "LIST (customer_id)",
        "--alter",
        "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, customer_id)",
    ];
    let output = shop.run(TABLE, &by_customer).await.expect_code(2);
    assert!(output.stderr.contains("more than 200 values"), "{output}");

    shop.exec(
        "CREATE TABLE ours.orders_p20240201 (); CREATE PUBLICATION feed FOR TABLE ours.orders",
    )
    .await;
    let ready: Vec<&str> = month.into_iter().chain(["--alter", key]).collect();
    let output = shop.run(TABLE, &ready).await.expect_code(3);
    assert!(output.stderr.contains("publish_via_partition_root"), "{output}");
    shop.exec("ALTER PUBLICATION feed SET (publish_via_partition_root = true)").await;
    let output = shop.run(TABLE, &ready).await.expect_code(3);
    assert!(output.stderr.contains("orders_p20240201"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// Foreign keys both ways, triggers, privileges, settings: on the root, and on partitions what is theirs.
#[tokio::test]
async fn what_hangs_on_it_is_on_the_partitioned_table() {
    let shop = shop().await;
    make(
        &shop,
        "ours",
        3_000,
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, created_at);
         ALTER TABLE orders SET (fillfactor = 80, toast.autovacuum_enabled = off), ALTER note SET STORAGE EXTERNAL,
           ALTER note SET COMPRESSION pglz, ALTER status SET STATISTICS 77, ALTER customer_id SET (n_distinct = 50);
         CREATE TABLE customers (id int PRIMARY KEY);
         INSERT INTO customers SELECT DISTINCT customer_id FROM orders;
         ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;
         COMMENT ON CONSTRAINT of_customer ON orders IS 'whose';
         CREATE TABLE items (order_id int, at timestamptz, FOREIGN KEY (order_id, at) REFERENCES orders);
         INSERT INTO items SELECT id, created_at FROM orders WHERE id < 100;
         CREATE TABLE log (id int);
         CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO ours.log VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER noted AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_it();
         CREATE STATISTICS of_both ON customer_id, status FROM orders;
         CREATE VIEW fresh AS SELECT * FROM orders WHERE status = 'new';
         CREATE ROLE app; GRANT USAGE ON SCHEMA ours TO app; GRANT SELECT, UPDATE ON orders TO app;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON orders TO app USING (id < 10);
         ALTER DEFAULT PRIVILEGES IN SCHEMA ours GRANT SELECT ON TABLES TO PUBLIC;
         COMMENT ON TABLE orders IS 'all of them'; COMMENT ON COLUMN orders.id IS 'number';
         COMMENT ON INDEX orders_created_at_idx IS 'when'",
    )
    .await;
    let before = shop.rows(TABLE).await;
    let change = ["--partition-by", "RANGE (created_at)", "--partition-every", "3 months"];
    let output = shop.run(TABLE, &change).await.expect_code(0);
    assert_eq!(shop.rows(TABLE).await, before);
    assert_eq!(output.json()["verify"]["rows"], 3_000, "{output}");

    let holds = async |what: &str| {
        assert!(shop.value::<bool>(&format!("SELECT {what}")).await, "{what}: {output}");
    };
    holds("relkind = 'p' AND relrowsecurity AND obj_description(oid) = 'all of them' FROM pg_class WHERE oid = 'ours.orders'::regclass").await;
    holds("count(*) > 5 AND bool_and(c.reloptions = '{fillfactor=80}' AND c.relacl IS DISTINCT FROM ARRAY['=r/postgres']::aclitem[] AND NOT EXISTS (
             SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner))
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ours.orders'::regclass").await;
    holds("bool_and(t.reloptions = '{autovacuum_enabled=off}') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_class t ON t.oid = c.reltoastrelid WHERE i.inhparent = 'ours.orders'::regclass").await;
    holds("count(*) = count(*) FILTER (WHERE a.attstorage = 'e' AND a.attcompression = 'p') FROM pg_attribute a
           JOIN pg_inherits i ON i.inhrelid = a.attrelid WHERE i.inhparent = 'ours.orders'::regclass AND a.attname = 'note'").await;
    holds("count(*) > 5 AND bool_and(a.attoptions = '{n_distinct=50}') FROM pg_attribute a
           JOIN pg_inherits i ON i.inhrelid = a.attrelid WHERE i.inhparent = 'ours.orders'::regclass AND a.attname = 'customer_id'").await;
    // Each part of the key is proven, and a part of the table's.
    holds("count(*) > 5 AND bool_and(convalidated) AND count(*) FILTER (WHERE conparentid = 0) = 1 AND bool_or(obj_description(oid) = 'whose')
           FROM pg_constraint WHERE conname = 'of_customer'").await;
    holds("convalidated FROM pg_constraint WHERE conrelid = 'ours.items'::regclass AND conparentid = 0").await;
    holds("NOT EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'f' AND 'ours.orders_old'::regclass IN (conrelid, confrelid))").await;
    holds("count(*) > 5 FROM pg_trigger WHERE tgname = 'noted'").await;
    holds("has_table_privilege('app', 'ours.orders', 'UPDATE') AND NOT has_table_privilege('public', 'ours.orders', 'SELECT')").await;
    holds("pg_get_indexdef('ours.orders_created_at_idx'::regclass) LIKE '%ON ONLY ours.orders %' AND obj_description('ours.orders_created_at_idx'::regclass) = 'when'").await;
    holds("stxrelid = 'ours.orders'::regclass FROM pg_statistic_ext WHERE stxname = 'of_both'")
        .await;
    holds("bool_and(indisvalid) FROM pg_index WHERE indrelid = 'ours.orders'::regclass").await;
    shop.exec("UPDATE ours.orders SET note = 'x' WHERE id = 5").await;
    holds("count(*) = 1 FROM ours.log").await;
    shop.exec("SET ROLE app").await;
    holds("count(*) = 9 FROM ours.orders").await;
    shop.exec("RESET ROLE; DROP TABLE ours.orders_old").await;
    // The foreign keys work.
    let stray = "INSERT INTO ours.items VALUES (-1, now())";
    assert!(shop.client.execute(stray, &[]).await.is_err());
    let stray = "UPDATE ours.orders SET customer_id = -1 WHERE id = 7";
    assert!(shop.client.execute(stray, &[]).await.is_err());
}

/// What a dead run leaves goes with all its partitions; a number, and what is written beyond the last of them.
#[tokio::test]
async fn ranges_of_numbers_and_what_is_left_of_them() {
    let shop = shop().await;
    make(&shop, "ours", 3_500, "UPDATE orders SET id = -id WHERE id % 1000 = 7").await;
    let change =
        ["--partition-by", "RANGE (id)", "--partition-every", "1000", "--partition-premake", "0"];
    let held = shop.held("verify", TABLE, &change).await;
    shop.exec(
        "INSERT INTO ours.orders (id, customer_id, status, amount) VALUES (100000, 1, 'new', 1)",
    )
    .await;
    shop.exec("UPDATE ours.orders SET id = 200000 WHERE id = 17").await;
    held.finish().await.expect_code(0);
    let names: Vec<String> = shop
        .value("SELECT array_agg(inhrelid::regclass::text ORDER BY 1) FROM pg_inherits WHERE inhparent = 'ours.orders'::regclass")
        .await;
    let wanted: Vec<String> =
        ["default", "p-1000", "p-2000", "p-3000", "p-4000", "p0", "p1000", "p2000", "p3000"]
            .iter()
            .map(|end| {
                if end.contains('-') {
                    format!("ours.\"orders_{end}\"")
                } else {
                    format!("ours.orders_{end}")
                }
            })
            .collect();
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(sorted(names), sorted(wanted));
    let beyond: Vec<i32> =
        shop.value("SELECT array_agg(id ORDER BY id) FROM ours.orders_default").await;
    assert_eq!(beyond, [100_000, 200_000]);

    shop.exec("DROP TABLE ours.orders, ours.orders_old").await;
    shop.exec("SET search_path = ours").await;
    create_orders(&shop.client, 2_000).await.unwrap();
    shop.exec("RESET search_path").await;
    let held = shop.held("verify", TABLE, &change).await;
    held.run.signal(libc::SIGKILL);
    held.release().await;
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
    harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let left =
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'orders\\_%' AND relkind IN ('r', 'p')";
    assert_eq!(shop.value::<i64>(left).await, 0);
}
