//! What cannot work is said in one paragraph, with the right exit code; the source is untouched and
//! nothing holds WAL back.

use crate::harness::{self, Output};
use crate::scene::{Shop, shop};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, n int, ts timestamptz);
    INSERT INTO t SELECT g, 'v' || g, g, '2024-01-01' FROM generate_series(1, 3000) g;
    UPDATE t SET n = NULL WHERE id = 1234; UPDATE t SET v = 'much too long' WHERE id = 2345;
    UPDATE t SET v = 'v99' WHERE id = 1001;
    CREATE TABLE other (id int PRIMARY KEY);";

/// The message: one paragraph, at the end of stderr.
fn message(output: &Output) -> &str {
    output.stderr.lines().rev().find(|l| l.starts_with("pgwraith: ")).unwrap_or_default()
}

#[track_caller]
fn told(output: &Output, texts: &[&str], what: &str) {
    let message = message(output);
    assert_eq!(output.stderr.matches("pgwraith: ").count(), 1, "{what}: {output}");
    assert!(message.ends_with('.'), "{what}: {output}");
    for text in texts {
        assert!(message.contains(text), "{what}: {text:?} is not told: {output}");
    }
    for odd in ["..", "Error {", "Some(", "panicked", "db error", "rehearsal"] {
        assert!(!message.contains(odd), "{what}: {odd:?} is told: {output}");
    }
}

/// Everything a failed run may not have changed.
async fn untouched(shop: &Shop) -> (Vec<String>, u32, Vec<String>) {
    let (rows, oid) = (shop.rows("t").await, shop.value("SELECT 't'::regclass::oid").await);
    (rows, oid, shop.definition("t"))
}

#[tokio::test]
async fn a_request_that_cannot_work_is_refused_before_anything_is_made() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("CREATE FUNCTION shaky(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1'").await;
    let before = untouched(&shop).await;
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("nothing_here", &["--rebuild"], &["there is no table nothing_here"]),
        ("a b c", &["--rebuild"], &["a b c", "not a table's name"]),
        ("t", &[], &["no change was asked for", "--rebuild"]),
        ("t", &["--alter", " "], &["is empty"]),
        ("t", &["--map", "nix = 1"], &["nix", "it will have id, v, n, ts"]),
        ("t", &["--map", "nix"], &["column = expression"]),
        ("t", &["--map", "v = nix + 1"], &["nix"]),
        ("t", &["--map", "v = 1), (2"], &["v"]),
        ("t", &["--map", "v = 'a'; DROP TABLE other"], &["DROP TABLE other"]),
        ("t", &["--alter", "ADD x int; DROP TABLE other"], &["more than one statement"]),
        ("t", &["--alter", "ADDD x int"], &["syntax error"]),
        ("t", &["--alter", "ALTER nix TYPE int"], &["column \"nix\"", "does not exist"]),
        ("t", &["--alter", "ALTER v TYPE nix"], &["type \"nix\" does not exist"]),
        ("t", &["--alter", "ALTER v TYPE int"], &["cannot be cast automatically"]),
        ("t", &["--alter", "ADD r float DEFAULT random()"], &["\"r\"", "volatile"]),
        ("t", &["--alter", "ADD r int NOT NULL"], &["\"r\"", "no default"]),
        ("t", &["--alter", "ADD r int GENERATED ALWAYS AS IDENTITY"], &["\"r\"", "identity"]),
        ("t", &["--map", "n = shaky(n)"], &["volatile"]),
        ("t", &["--map", "v = random()::text"], &["volatile"]),
        ("t", &["--map", "ts = now()"], &["another moment"]),
        ("t", &["--map", "n = (SELECT max(id) FROM other)"], &["other rows"]),
        ("t", &["--alter", "DROP COLUMN id"], &["drops key column \"id\""]),
        ("t", &["--alter", "RENAME TO nix"], &["rename"]),
        ("t", &["--alter", "SET SCHEMA pg_temp"], &["--alter"]),
        ("t", &["--alter", "OWNER TO pg_monitor"], &["--alter"]),
        ("t", &["--alter", "DROP CONSTRAINT t_pkey"], &["key"]),
        ("t", &["--alter", "REPLICA IDENTITY FULL"], &["replica identity"]),
        ("t", &["--alter", "ADD FOREIGN KEY (n) REFERENCES other"], &["foreign key"]),
        ("t", &["--alter", "ENABLE ROW LEVEL SECURITY"], &["row security"]),
        ("t", &["--alter", "SET UNLOGGED"], &["--alter"]),
        ("t", &["--alter", "SET (fillfactor = 50)"], &["fillfactor"]),
    ];
    for (table, change, texts) in cases {
        let output = shop.run(table, change).await;
        assert_eq!(output.code, Some(2), "{change:?}: {output}");
        told(&output, texts, &format!("{change:?}"));
    }
    assert_eq!(untouched(&shop).await, before);
    let made = harness::leftovers(&shop.client).await;
    assert!(made.iter().all(|l| l.starts_with("session")), "{made:?}");
    assert!(shop.value::<bool>("SELECT to_regclass('other') IS NOT NULL").await);
}

#[tokio::test]
async fn rows_that_do_not_fit_are_named_by_key() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let before = untouched(&shop).await;
    let cases: &[(&[&str], &[&str])] = &[
        (&["--alter", "ALTER n SET NOT NULL"], &["id = 1234"]),
        (&["--alter", "ALTER v TYPE varchar(8)"], &["id = 2345", "too long"]),
        (&["--alter", "ADD CONSTRAINT no_777 CHECK (id <> 777)"], &["id = 777", "no_777"]),
        (&["--alter", "ADD CONSTRAINT one_v UNIQUE (v)"], &["one_v", "99", "1001"]),
        (&["--alter", "ALTER n TYPE int USING 1 / (id - 42)"], &["id = 42", "division by zero"]),
        (&["--map", "n = (v || '')::int"], &["id = 1 does", "invalid input syntax"]),
    ];
    for (change, texts) in cases {
        let output = shop.run("t", change).await;
        assert_eq!(output.code, Some(4), "{change:?}: {output}");
        told(&output, texts, &format!("{change:?}"));
        told(&output, &["is untouched and in use", "pgwraith abort"], &format!("{change:?}"));
        assert_eq!(shop.held_back().await, [""; 0], "{change:?}");
        harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
        assert_eq!(untouched(&shop).await, before, "{change:?}");
    }
}

/// A row that fitted when it was copied and is changed afterwards.
#[tokio::test]
async fn a_row_that_stops_fitting_is_named_too() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("UPDATE t SET n = 0 WHERE n IS NULL; UPDATE t SET v = 'v' || id").await;
    for (clauses, write, texts) in [
        ("ALTER n SET NOT NULL", "UPDATE t SET n = NULL WHERE id = 77", ["id = 77", "null"]),
        ("ALTER n SET NOT NULL", "UPDATE t SET n = NULL WHERE id = 77", ["id = 77", "null"]),
        ("ADD UNIQUE (v)", "UPDATE t SET v = 'v5' WHERE id = 88", ["88", "v5"]),
    ] {
        let held = shop.held("verify", "t", &["--alter", clauses]).await;
        shop.exec(write).await;
        let output = held.finish().await.expect_code(4);
        told(&output, &texts, write);
        told(&output, &["is untouched and in use"], write);
        assert_eq!(shop.held_back().await, [""; 0], "{write}");
        harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
        shop.exec("UPDATE t SET n = 0 WHERE n IS NULL; UPDATE t SET v = 'v' || id").await;
    }
}

#[tokio::test]
async fn a_wrong_connection_string_is_told() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("CREATE ROLE locked PASSWORD 'right'").await;
    let port = shop.cluster.port();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases = [
        (format!("postgresql://postgres@nowhere.invalid:{port}/shop"), 1, "nowhere.invalid"),
        (format!("postgresql://postgres@127.0.0.1:{free}/shop"), 1, "onnection refused"),
        (
            format!("postgresql://postgres@127.0.0.1:{port}/nix"),
            1,
            "database \"nix\" does not exist",
        ),
        (format!("postgresql://nix@127.0.0.1:{port}/shop"), 1, "role \"nix\" does not exist"),
        (format!("postgresql://locked@127.0.0.1:{port}/shop"), 1, "not permitted to log in"),
        ("postgresql://postgres@127.0.0.1:port/shop".to_owned(), 2, "port"),
        ("nonsense".to_owned(), 2, "neither a URI nor"),
        (format!("host=127.0.0.1 port={port} user=postgres dbname=shop nix=1"), 2, "nix"),
    ];
    for (dsn, code, text) in cases {
        let output = harness::run(["run", "t", "-d", &dsn, "--rebuild"]).await;
        assert_eq!(output.code, Some(code), "{dsn}: {output}");
        told(&output, &[text], &dsn);
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_repeated() {
    let mut shop = shop().await;
    shop.exec("CREATE ROLE app LOGIN PASSWORD 'right'").await;
    let hba = shop.cluster.folder().join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all app 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    shop.cluster.stop_fast().await.unwrap();
    shop.cluster.restart().await.unwrap();
    let dsn = format!("postgresql://app:wr0ng-s3cret@127.0.0.1:{}/shop", shop.cluster.port());
    let output = harness::run(["run", "t", "-d", &dsn, "--rebuild"]).await.expect_code(1);
    told(&output, &["password authentication failed"], "password");
    assert!(!format!("{output}").contains("wr0ng-s3cret"), "{output}");
}

#[tokio::test]
async fn a_server_that_goes_away_is_told() {
    let mut shop = shop().await;
    shop.exec(TABLE).await;
    let before = shop.rows("t").await;
    let held = shop.held("verify", "t", &["--rebuild"]).await;
    shop.cluster.crash().await.unwrap();
    let output = held.run.finish(crate::scene::SOON).await.expect_code(1);
    told(&output, &["\"public\".\"t\" is", "slot", "pgwraith abort"], "crash");

    shop.cluster.restart().await.unwrap();
    shop.client = shop.session().await;
    assert_eq!(shop.rows("t").await, before);
    harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
    assert_eq!(shop.held_back().await, [""; 0]);
    shop.exec("UPDATE t SET n = 5").await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense() {
    for args in [
        &["run"][..],
        &["run", "t", "--workers", "0"],
        &["run", "t", "--max-lock-hold", "5"],
        &["run", "t", "--nix"],
        &["nix"],
    ] {
        let output = harness::run(args).await.expect_code(2);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}: {output}");
    }
}
