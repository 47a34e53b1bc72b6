//! Nothing is lost in the swap: a database is defined after a migration as before it, whatever hangs
//! on the table, while everything that hangs on it is used.

mod change;
mod copies;
mod meanwhile;
mod races;
mod refusals;
mod sessions;
mod since_18;
mod ties;
mod traffic;

use crate::cases;
use crate::definition::{assert_same, database, positions};
use crate::harness::Background;
use crate::scene::{SOON, Shop, shop};
use traffic::{Script, Traffic};

/// A database to rebuild a table in.
struct Zoo {
    table: &'static str,
    /// As the definitions name it.
    retired: &'static str,
    /// Its rows, and those of a table that gets the same writes.
    rows: &'static str,
    twin: &'static str,
    traffic: &'static [Script],
    /// Foreign keys that are not valid before, and stay so.
    not_valid: &'static [&'static str],
}

impl Zoo {
    /// Rebuilds it under traffic, and then once more in peace.
    async fn rebuild(&self, shop: &Shop) -> Vec<u64> {
        let before = database(shop, &[]).await;
        let traffic = Traffic::start(shop, self.traffic).await;
        traffic.some_more(5).await;
        let source: u32 = self.oid(shop).await;
        let run = Background::start(shop.arguments(self.table, &["--rebuild"]));
        let output = run.finish(2 * SOON).await;
        traffic.some_more(5).await;
        let rounds = traffic.stop().await;
        let output = output.expect_code(0);
        assert_ne!(self.oid(shop).await, source, "nothing was swapped: {output}");
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
        let after = database(shop, &[self.retired]).await;
        assert_same(&after.lines(), &before.lines(), "rebuilt under traffic");
        self.same_rows(shop).await;
        self.drop_retired(shop).await;
        assert_same(&database(shop, &[]).await.lines(), &before.lines(), "the old table dropped");

        let session = shop.session().await;
        let stood = positions(&session, &[]).await;
        shop.run(self.table, &["--rebuild"]).await.expect_code(0);
        assert_eq!(positions(&session, &[self.retired]).await, stood);
        let again = database(shop, &[self.retired]).await;
        assert_same(&again.lines(), &before.lines(), "rebuilt again");
        self.same_rows(shop).await;
        self.drop_retired(shop).await;
        rounds
    }

    async fn oid(&self, shop: &Shop) -> u32 {
        shop.value(&format!("SELECT '{}'::regclass::oid", self.table)).await
    }

    async fn same_rows(&self, shop: &Shop) {
        let (is, wanted) = (shop.rows(self.rows).await, shop.rows(self.twin).await);
        assert!(!is.is_empty());
        let differing = is.iter().zip(&wanted).find(|(is, wanted)| is != wanted);
        assert_eq!(differing, None);
        assert_eq!(is.len(), wanted.len());
    }

    /// Nothing needs it any more, and no foreign key is left unproven.
    async fn drop_retired(&self, shop: &Shop) {
        shop.exec(&format!("DROP TABLE {}", self.retired)).await;
        let sql = "SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND NOT convalidated ORDER BY 1";
        let left = shop.client.query(sql, &[]).await.unwrap();
        let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
        assert_eq!(left, self.not_valid);
        assert_eq!(shop.held_back().await, [""; 0]);
    }
}

const ZOO: Zoo = Zoo {
    table: "zoo",
    retired: "public.zoo_old",
    rows: "zoo",
    twin: "twin",
    not_valid: &[],
    traffic: &[
        // A row of its own comes, is changed through table and view, and goes with its parent.
        Script {
            role: "postgres",
            sql: "INSERT INTO parent VALUES (1000 + {n}); \
              INSERT INTO zoo (pid, name, email, amount) VALUES (1000 + {n}, 'w', 'w{n}', 6); \
              INSERT INTO twin SELECT * FROM zoo WHERE email = 'w{n}'; \
              UPDATE zoo SET amount = 7 WHERE email = 'w{n}'; UPDATE s.zoo_v2 SET name = 'v' WHERE email = 'w{n}'; \
              UPDATE twin SET amount = 7, name = 'v', gen = 14.00 WHERE email = 'w{n}'; \
              DELETE FROM parent WHERE pid = 1000 + {n} AND {n} % 3 = 0; \
              DELETE FROM twin WHERE pid = 1000 + {n} AND {n} % 3 = 0; \
              SELECT 1 / (count(*) = least(1, {n} % 3))::int FROM zoo WHERE pid = 1000 + {n}",
        },
        // Its children follow a row to another key, and the row that refers to it too.
        Script {
            role: "postgres",
            sql: "INSERT INTO zoo (id, pid, email) VALUES (2000000 + {n}, 9, 'c{n}'); \
              INSERT INTO child VALUES (-{n}, 2000000 + {n}); \
              UPDATE zoo SET id = -2000000 - {n} WHERE id = 2000000 + {n}; \
              SELECT 1 / count(*) FROM child WHERE cid = -{n} AND zid = -2000000 - {n}; \
              INSERT INTO twin SELECT * FROM zoo WHERE id = -2000000 - {n}; \
              DELETE FROM child WHERE cid = -{n}; \
              DELETE FROM zoo WHERE id = -2000000 - {n}; \
              SELECT 1 / count(*) FROM zoo WHERE id = -2000000 - {n}",
        },
        Script {
            role: "postgres",
            sql: "UPDATE zoo SET self = id, big = repeat('{n}', 900) WHERE id = 5000 + {n} % 50 * 5; \
              UPDATE twin SET self = id, big = repeat('{n}', 900) WHERE id = 5000 + {n} % 50 * 5",
        },
        // Rows that nobody changes are seen by everything at every moment.
        Script {
            role: "postgres",
            sql: "SELECT 1 / (count(*) = 100)::int FROM zoo WHERE id BETWEEN 100 AND 595; \
              SELECT 1 / (count(*) = 100)::int FROM s.zoo_v2 WHERE id BETWEEN 100 AND 595; \
              SELECT 1 / (count(*) >= 50)::int FROM zoo_v3 v RIGHT JOIN parent USING (pid); \
              SELECT 1 / (zoo_count() >= 2000)::int; \
              SELECT 1 / count(*) FROM child JOIN zoo ON zid = id",
        },
        // The policies show some rows, and nobody more than those.
        Script {
            role: "app",
            sql: "SELECT 1 / (count(*) = 0)::int FROM zoo WHERE pid <= 3; \
              SELECT 1 / (count(*) > 50)::int FROM zoo WHERE id BETWEEN 100 AND 595; \
              SELECT 1 / (count(*) = 0)::int FROM zoo_v; SELECT nextval('zoo_ser_seq'); \
              UPDATE zoo SET name = 'never' WHERE id = 100",
        },
    ],
};

const ZOO_TWIN: &str = "CREATE TABLE twin AS TABLE zoo;
    CREATE TABLE fired (tg text);
    CREATE OR REPLACE FUNCTION trgf() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
      INSERT INTO fired VALUES (TG_NAME || ' ' || TG_OP || ' ' || TG_RELID::regclass); RETURN new; END$$;";

#[tokio::test]
async fn the_zoo_is_rebuilt_under_traffic() {
    let shop = shop().await;
    cases::zoo(&shop).await;
    shop.exec(ZOO_TWIN).await;
    let rounds = ZOO.rebuild(&shop).await;
    // Each trigger fired for each row that was written, whenever that was; what is disabled did not.
    let (first, second, third) = (rounds[0], rounds[1], rounds[2]);
    let updates = 2 * first + second + third;
    let fired = "SELECT tg || ' ' || count(*) FROM fired GROUP BY tg ORDER BY tg COLLATE \"C\"";
    let fired = shop.client.query(fired, &[]).await.unwrap();
    let fired: Vec<String> = fired.iter().map(|row| row.get(0)).collect();
    let expected = [
        format!("t_alw UPDATE zoo {updates}"),
        format!("t_b INSERT zoo {}", first + second),
        format!("t_b UPDATE zoo {updates}"),
    ];
    assert_eq!(fired, expected);
}

const MORE: Zoo = Zoo {
    table: cases::MORE,
    retired: "\"Größe\".order_old",
    rows: cases::MORE,
    twin: "twin",
    not_valid: &["never", "up_country"],
    traffic: &[
        // Through a view's rule, which logs; through the view that is checked; by cascade.
        Script {
            role: "postgres",
            sql: "UPDATE renamed SET \"order\" = 1 + {n} % 40 WHERE ident = 15000 + {n} % 50 * 10; \
              UPDATE twin SET \"order\" = 1 + {n} % 40 WHERE id = 15000 + {n} % 50 * 10; \
              SELECT 1 / (count(*) = {n})::int FROM log WHERE what = 'update'; \
              UPDATE other.cascaded SET country = NULL WHERE id = 10000 AND {n} < 0; \
              INSERT INTO log VALUES (-{n}, 'count'); SELECT 1 / (count(*) = {n})::int FROM tally WHERE n > 0",
        },
        Script {
            role: "postgres",
            sql: "INSERT INTO other.region VALUES ('w', 1000 + {n}, 'w{n}'); \
              INSERT INTO \"Größe\".\"order\" (\"select\", country, region, p) VALUES ('w{n}', 'w', 1000 + {n}, 5); \
              UPDATE other.region SET code = -code WHERE code = 1000 + {n}; \
              SELECT 1 / count(*) FROM \"Größe\".\"All\" WHERE region = -1000 - {n}; \
              INSERT INTO twin SELECT * FROM \"Größe\".\"order\" WHERE \"select\" = 'w{n}'; \
              DELETE FROM other.region WHERE code = -1000 - {n}; \
              UPDATE twin SET country = NULL, region = NULL WHERE \"select\" = 'w{n}'; \
              SELECT 1 / count(*) FROM \"Größe\".\"order\" WHERE \"select\" = 'w{n}' AND country IS NULL AND region IS NULL",
        },
        // Deleted with its children.
        Script {
            role: "postgres",
            sql: "INSERT INTO \"Größe\".\"order\" (id, \"select\", region) OVERRIDING SYSTEM VALUE VALUES (4000000 + {n}, 'c{n}', NULL); \
              INSERT INTO other.child (id, of) VALUES (-{n}, 4000000 + {n}); \
              DELETE FROM \"Größe\".\"order\" WHERE id = 4000000 + {n}; \
              SELECT 1 / (count(*) = 0)::int FROM other.child WHERE id = -{n}",
        },
        Script {
            role: "postgres",
            sql: "SELECT 1 / (count(*) = 100)::int FROM \"Größe\".\"All\" WHERE id BETWEEN 1000 AND 1990; \
              SELECT 1 / (count(*) = 0)::int FROM grouped; SELECT 1 / (how_many() >= 2000)::int; \
              SELECT 1 / (count(*) = 100)::int FROM other.cascaded WHERE id BETWEEN 1000 AND 1990; \
              SELECT count(*) FROM on_views; SELECT twice_as_many(); INSERT INTO other.counted DEFAULT VALUES",
        },
        Script {
            role: "reader",
            sql: "SELECT 1 / (count(*) = 100)::int FROM \"Größe\".\"order\" WHERE id BETWEEN 1000 AND 1990; \
              SELECT 1 / (count(*) > 0)::int FROM renamed; SELECT how_many(3); \
              SELECT nextval('\"Größe\".order_id_seq')",
        },
    ],
};

#[tokio::test]
async fn what_the_zoo_leaves_out_is_rebuilt_under_traffic() {
    let shop = shop().await;
    cases::zoo_more(&shop).await;
    shop.exec(&format!("CREATE TABLE twin AS TABLE {}", cases::MORE)).await;
    MORE.rebuild(&shop).await;
}

/// The comparison finds what a migration by hand loses: it can fail.
#[tokio::test]
async fn a_migration_that_loses_things_is_found_out() {
    let shop = shop().await;
    cases::zoo(&shop).await;
    let before = database(&shop, &[]).await;
    shop.exec(
        "BEGIN; CREATE TABLE zoo_v2 (LIKE zoo INCLUDING ALL); INSERT INTO zoo_v2 OVERRIDING SYSTEM VALUE \
           SELECT id, ser, pid, self, name, email, amount FROM zoo; \
         ALTER TABLE zoo RENAME TO zoo_old; ALTER TABLE zoo_v2 RENAME TO zoo; COMMIT",
    )
    .await;
    let after = database(&shop, &[ZOO.retired]).await;
    for lost in [
        "view public.zoo_v ",
        "constraint zoo_pid_fk",
        "constraint child_zid_fk",
        "published p1",
        "policy public.parent",
        "policy public.zoo ",
        "relation public.zoo owner1",
        "function CREATE OR REPLACE FUNCTION public.zoo_count",
        "trigger CREATE TRIGGER t_alw",
        "rule CREATE RULE zoo_r",
        "comment trigger t_b on public.zoo",
    ] {
        let of = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|l| l.starts_with(lost)).cloned().collect()
        };
        let (is, was) = (of(&after.catalog), of(&before.catalog));
        assert!(!was.is_empty(), "{lost}: {:#?}", before.catalog);
        assert_ne!(is, was, "{lost}");
    }
}
