//! What plan has to say of its steps besides.

use super::{make_ground, plan};
use crate::harness;
use crate::scene::{exec, shop};

#[tokio::test]
async fn what_steps_do_to_the_application_is_told() {
    let shop = shop().await;
    make_ground(&shop, "ALTER TABLE s.t ADD CONSTRAINT late CHECK (e > 5) NOT VALID").await;
    let filled = "ADD COLUMN n uuid DEFAULT gen_random_uuid()";
    let refused = ["violates late", "VALIDATE CONSTRAINT before"];
    for (alter, told, not_told) in [
        ("ADD UNIQUE (a) DEFERRABLE", &["DEFERRABLE, its index alone is not"][..], &[][..]),
        ("ADD UNIQUE (a)", &[], &["DEFERRABLE"]),
        (filled, &["40001", "violates late", "VALIDATE CONSTRAINT before"], &[]),
        (
            "VALIDATE CONSTRAINT late, ADD COLUMN n uuid DEFAULT gen_random_uuid()",
            &["40001"],
            &refused,
        ),
    ] {
        let output = plan(&shop, &["--alter", alter]).await.expect_code(0);
        let notes = output.json()["in_place"]["steps"].to_string();
        for told in told {
            assert!(notes.contains(told), "{alter}: {told}: {notes}");
        }
        for told in not_told {
            assert!(!notes.contains(told), "{alter}: {told}: {notes}");
        }
    }
    let text = harness::run(["plan", "s.t", "-d", &shop.dsn, "--alter", filled]).await;
    assert!(text.stdout.contains("VALIDATE the constraint that the UPDATE may fail at"), "{text}");
}

/// Where PostgreSQL could not be asked no way is recommended; and no more is asked for than a change in place takes.
#[tokio::test]
async fn a_way_that_nobody_knows_is_not_told() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    let app = "CREATE ROLE app LOGIN; GRANT pg_read_all_stats TO app; ALTER TABLE s.t OWNER TO app; GRANT USAGE ON SCHEMA s TO app";
    shop.exec(app).await;
    let as_app = shop.dsn.replace("postgres@", "app@");
    let change = ["s.t", "-d", &as_app, "--alter", "ADD COLUMN n int", "--json"];
    let planned = harness::run(["plan"].iter().chain(&change)).await.expect_code(3);
    assert_eq!(planned.json()["way"], "unknown", "{planned}");
    let why = planned.json()["why"].to_string();
    assert!(why.contains("was not asked") && why.contains("may not create in database"), "{why}");
    shop.exec(
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO app', current_database()); END $$",
    )
    .await;
    let planned = harness::run(["plan"].iter().chain(&change)).await.expect_code(0);
    assert_eq!(planned.json()["way"], "instant", "{planned}");
    let given = ["run", harness::ANY_WAY];
    let done = harness::run(given.iter().chain(&change)).await.expect_code(0);
    assert_eq!(done.json()["way"], "instant", "{done}");
}

#[tokio::test]
async fn who_keeps_a_plan_waiting_is_told() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    let other = shop.session().await;
    exec(&other, "BEGIN; LOCK TABLE s.t IN ACCESS EXCLUSIVE MODE").await;
    let output = plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(1);
    assert!(output.stderr.contains("could not be read within 10s; locked by pid"), "{output}");
    exec(&other, "COMMIT").await;
    plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(0);
}

#[tokio::test]
async fn what_cascade_takes_along_is_told() {
    let shop = shop().await;
    make_ground(
        &shop,
        "ALTER TABLE s.t ADD CONSTRAINT above FOREIGN KEY (a) REFERENCES s.t NOT VALID",
    )
    .await;
    let anew = "DROP CONSTRAINT t_pkey CASCADE, ADD PRIMARY KEY (id)";
    let output = plan(&shop, &["--alter", anew]).await.expect_code(0);
    let told = "the foreign key \\\"above\\\" from \\\"s\\\".\\\"t\\\" to \\\"s\\\".\\\"t\\\" goes with the change";
    assert!(output.json()["notes"].to_string().contains(told), "{output}");
    let kept = plan(&shop, &["--alter", "ALTER COLUMN id TYPE bigint"]).await.expect_code(0);
    assert!(!kept.json()["notes"].to_string().contains("goes with the change"), "{kept}");
}
