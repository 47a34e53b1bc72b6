//! A new foreign key is tried without a lock that the writers of the table at its other end would wait for.

use pgwraith::change::trial::Lock;

use super::cases::{CASES, FAR};
use super::{make_ground, plan, session, trial};
use crate::harness;
use crate::scene::{exec, shop};

/// Whoever has written holds a lock until his transaction ends, that no stronger one comes beside.
#[tokio::test]
async fn no_writer_of_the_other_table_waits() {
    let shop = shop().await;
    make_ground(&shop, FAR).await;
    let writer = shop.session().await;
    let written = "BEGIN; LOCK TABLE s.p, s.\"P q\", s.pair, s.parted, s.t IN ROW EXCLUSIVE MODE";
    exec(&writer, written).await;
    let ours = session(&shop).await;
    for case in CASES.iter().filter(|case| case.before == FAR) {
        trial(&ours, case.alter).await.unwrap_or_else(|e| panic!("{}: {e}", case.alter));
    }
    let parted = trial(&ours, "ADD FOREIGN KEY (k) REFERENCES parted NOT VALID").await.unwrap();
    let locked: Vec<(&str, Lock)> =
        parted.observed.others.iter().map(|o| (o.table.as_str(), o.lock)).collect();
    let both = ["\"s\".\"parted\"", "\"s\".\"parted_0\""];
    assert_eq!(locked, both.map(|table| (table, Lock::ShareRowExclusive)));
    // The copy is rehearsed with it too.
    for alter in [
        "ADD FOREIGN KEY (k) REFERENCES parted NOT VALID",
        "ADD FOREIGN KEY (k) REFERENCES t NOT VALID",
    ] {
        let planned = plan(&shop, &["--alter", alter]).await.expect_code(0);
        assert!(planned.json()["copy"].is_object(), "{planned}");
    }
    exec(&writer, "COMMIT").await;
}

/// What PostgreSQL says of the real one it says of what stands for it.
#[tokio::test]
async fn what_the_owner_may_not_refer_to_is_said() {
    let shop = shop().await;
    make_ground(&shop, FAR).await;
    shop.exec(
        "CREATE ROLE app; CREATE ROLE boss; CREATE ROLE dba LOGIN; GRANT app TO dba; GRANT USAGE, CREATE ON SCHEMA s TO app; \
         GRANT CREATE ON DATABASE shop TO dba; ALTER TABLE s.t OWNER TO app; ALTER TABLE s.p OWNER TO boss; \
         ALTER TABLE s.pair OWNER TO boss; CREATE VIEW s.v AS SELECT id FROM s.p",
    )
    .await;
    let dsn = shop.dsn.replacen("postgres@", "dba@", 1);
    let info = pgwraith::conninfo::ConnInfo::resolve(Some(&dsn)).unwrap();
    let ours = pgwraith::pg::Connector::new(info).session("trial").await.unwrap();
    let key = "ADD FOREIGN KEY (k) REFERENCES s.p";
    for (alter, why) in [
        (key, "permission denied for table p"),
        ("ADD FOREIGN KEY (k) REFERENCES s.nothing", "\"s.nothing\" does not exist"),
        ("ADD FOREIGN KEY (k) REFERENCES s.v", "\"v\" is not a table"),
        ("ADD FOREIGN KEY (k) REFERENCES s.t (a)", "no unique constraint"),
        ("ADD FOREIGN KEY (k) REFERENCES elsewhere.s.p", "cross-database"),
        ("ADD FOREIGN KEY (k) REFERENCES U&\"p\"", "Unicode escapes"),
    ] {
        let e = trial(&ours, alter).await.unwrap_err().to_string();
        assert!(e.contains(why), "{alter}: {e}");
    }
    shop.exec("GRANT REFERENCES (id) ON s.p TO app; GRANT REFERENCES ON s.pair TO app").await;
    trial(&ours, key).await.unwrap();
    trial(&ours, "ADD FOREIGN KEY (k, e) REFERENCES s.pair (x, y) NOT VALID").await.unwrap();
    let wrong = "ADD FOREIGN KEY (k) REFERENCES s.pair (x)";
    assert!(trial(&ours, wrong).await.is_err());
    drop(ours);
    harness::wait_for_sql(
        &shop.client,
        "nothing is left",
        "SELECT NOT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname LIKE 'pgwraith%')",
    )
    .await;
}
