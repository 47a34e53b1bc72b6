//! Wrong input and data that does not fit: one clear paragraph, the right exit code, the source
//! untouched, what is left named.

use crate::harness;
use crate::scene::{Shop, shop};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, name text, n int);
    INSERT INTO t SELECT g, 'name ' || g, g % 900 FROM generate_series(1, 1000) g;
    UPDATE t SET name = NULL WHERE id = 700;";

/// Runs and checks the code, what is said, and that the source is as it was.
async fn refused(shop: &Shop, change: &[&str], code: i32, told: &[&str]) {
    let before = shop.rows("t").await;
    let output = shop.run("t", change).await;
    assert_eq!(output.code, Some(code), "{change:?}: {output}");
    for text in told {
        assert!(output.stderr.contains(text), "{change:?}: {text:?} is not told: {output}");
    }
    assert_eq!(shop.rows("t").await, before, "{change:?}");
    if code == 4 {
        // The data may be corrected, and the run go on.
        assert!(output.stderr.contains("`pgwraith resume t` goes on"), "{output}");
        assert_eq!(shop.held_back().await.len(), 2, "{change:?}");
        harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
    }
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0], "{change:?}");
}

#[tokio::test]
async fn a_change_that_makes_no_sense_is_refused_before_anything_is_made() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    for (change, told) in [
        (&["--alter", "ADD COLUMN"][..], &["ADD COLUMN", "syntax"][..]),
        (&["--alter", "DROP COLUMN nothing"], &["nothing"]),
        (&["--alter", "ADD COLUMN x nosuchtype"], &["nosuchtype"]),
        (&["--alter", "ADD COLUMN x int; DROP TABLE t"], &["more than one statement"]),
        (&["--alter", "RENAME TO u"], &["may not rename"]),
        (&["--alter", "SET SCHEMA pg_temp"], &["--alter"]),
        (&["--alter", "DROP COLUMN id"], &["drops key column \"id\""]),
        (&["--alter", "ADD COLUMN x int NOT NULL"], &["NOT NULL and has no default", "--map"]),
        (&["--alter", "ALTER COLUMN name TYPE int"], &["name"]),
        (&["--map", "nothing = 1"], &["\"nothing\"", "id, name, n"]),
        (&["--map", "n = clock_timestamp()::text::int"], &["volatile"]),
        (&["--map", "n = (SELECT 1)"], &["reads other rows"]),
        (&["--map", "n = 1) FROM t; DROP TABLE t; --"], &["--map", "n"]),
        (&["--map", "n"], &["column = expression"]),
        (&["--map", "id = n"], &["depends on columns outside the key"]),
        (&[], &["no change was asked for"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        if change.first() == Some(&"--map") && change[1].contains("DROP") {
            refused(&shop, change, 2, &["not valid"]).await;
            continue;
        }
        refused(&shop, change, 2, told).await;
    }
}

#[tokio::test]
async fn a_table_that_is_not_there() {
    let shop = shop().await;
    for name in ["nothing", "no.such", "a.b.c.d", "\"", ""] {
        let output = shop.run(name, &["--rebuild"]).await;
        assert_eq!(output.code, Some(2), "{name:?}: {output}");
    }
    harness::run(["abort", "nothing", "-d", &shop.dsn]).await.expect_code(2);
    shop.exec("CREATE SCHEMA other; CREATE TABLE other.aside (id int PRIMARY KEY)").await;
    let output = shop.run("aside", &["--rebuild"]).await.expect_code(2);
    assert!(output.stderr.contains("Did you mean other.aside?"), "{output}");
}

/// Whoever reads the one object on standard output finds it whatever was wrong.
#[tokio::test]
async fn an_error_is_an_object_too() {
    for arguments in [
        &["run", "t", "--json", "-d", "foo", "--rebuild"][..],
        &["run", "t", "--json", "-d", "host=127.0.0.1 port=abc", "--rebuild"],
        &["run", "t", "--json"],
        &["abort", "t", "--json", "-d", "foo"],
    ] {
        let output = harness::run(arguments).await.expect_code(2);
        assert_eq!(output.json()["exit_code"], 2, "{arguments:?}: {output}");
        assert_eq!(output.json()["outcome"], "failed", "{arguments:?}: {output}");
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_are_named_by_their_key() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    for (change, told) in [
        ("ALTER COLUMN name SET NOT NULL", &["id = 700"][..]),
        ("ALTER COLUMN name TYPE varchar(7)", &["id = 100", "too long"]),
        ("ADD CONSTRAINT small CHECK (n < 899)", &["id = 899", "small"]),
        ("ADD CONSTRAINT once UNIQUE (n)", &["once", "with keys", "Key (n)="]),
        (
            "ALTER COLUMN id TYPE smallint USING (id + 32000)::smallint",
            &["id = 768", "out of range"],
        ),
    ] {
        // One worker: of two, either may be the first to meet a row that does not fit.
        let change = ["--alter", change, "--chunk-rows", "300", "--workers", "1"];
        refused(&shop, &change, 4, told).await;
    }
}

/// So says a function of the operator's own; which one, and on which row.
#[tokio::test]
async fn rows_that_a_function_refuses_are_named_by_their_key() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec(
        "CREATE FUNCTION picky(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
           IF n = 899 THEN RAISE 'not this one'; END IF; RETURN n; END $$",
    )
    .await;
    let told = &["id = 899", "not this one", "in PL/pgSQL function public.picky(integer)"];
    refused(&shop, &["--map", "n = public.picky(n)", "--workers", "1"], 4, told).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached() {
    let shop = shop().await;
    let port = shop.cluster.port();
    for (dsn, code) in [
        (format!("postgres://postgres@127.0.0.1:{port}/nothing"), 1),
        (format!("postgres://nobody_at_all@127.0.0.1:{port}/shop"), 1),
        ("postgres://postgres@127.0.0.1:1/shop".to_owned(), 1),
        ("host=127.0.0.1 nonsense=1".to_owned(), 2),
        ("postgres://a@b:c/d".to_owned(), 2),
    ] {
        let output = harness::run(["run", "t", "--rebuild", "-d", &dsn]).await;
        assert_eq!(output.code, Some(code), "{dsn}: {output}");
        assert!(output.stderr.contains("pgwraith: "), "{dsn}: {output}");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_in_mid_run() {
    let mut shop = shop().await;
    shop.exec(TABLE).await;
    let held = shop.held("verify", "t", &["--rebuild", "--retry-for", "0s"]).await;
    shop.cluster.crash().await.unwrap();
    let output = held.run.finish(crate::scene::SOON).await;
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("pgwraith abort"), "{output}");
    shop.cluster.restart().await.unwrap();
    shop.client = shop.session().await;
    harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
    shop.exec("DROP FUNCTION IF EXISTS public.gate() CASCADE").await;
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0]);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t").await, 1000);
}

/// It takes connections, and says nothing: the first Ctrl-C is enough.
#[tokio::test]
async fn a_server_that_never_answers_can_be_left() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dsn = format!(
        "postgres://postgres@127.0.0.1:{}/shop?sslmode=disable",
        silent.local_addr().unwrap().port()
    );
    for command in [&["run", "t", "--rebuild"][..], &["resume", "t"]] {
        let arguments: Vec<&str> = command.iter().copied().chain(["-d", &dsn]).collect();
        let run = harness::Background::start(&arguments);
        let _open = silent.accept().await.unwrap();
        run.signal(libc::SIGINT);
        let output = run.finish(std::time::Duration::from_secs(10)).await.expect_code(5);
        assert!(output.stderr.contains("stopped"), "{output}");
    }
}
