//! How one must be connected, and as whom.

use pgwraith::preflight::Severity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{findings, refusal, refusals, refusing, run_mend, the};
use crate::harness;

const LEAST: &str = "
  CREATE ROLE \"the Owner\"; CREATE ROLE \"App user\" LOGIN;
  CREATE SCHEMA sales; GRANT USAGE ON SCHEMA sales TO \"App user\";
  CREATE TABLE sales.orders (id int PRIMARY KEY);
  ALTER TABLE sales.orders OWNER TO \"the Owner\";
  REVOKE ALL ON SCHEMA sales FROM \"the Owner\";";

/// Nothing at first; each mend is run as it stands, and then the role has what it needs.
#[tokio::test]
async fn each_missing_privilege_is_told_as_the_statement_that_gives_it() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "my \"db").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(LEAST).await.unwrap();
    let as_app = dsn.replace("postgres@", "App%20user@");

    let found = findings(&as_app, "sales.orders").await;
    let owner = refusal(&found, "privileges", "cannot act as \"the Owner\"");
    assert!(owner.mend.starts_with("GRANT \"the Owner\" TO \"App user\""), "{owner}");
    let create = refusal(&found, "privileges", "may not create in database");
    assert_eq!(create.mend, "GRANT CREATE ON DATABASE \"my \"\"db\" TO \"App user\"");
    let [uses, creates] = ["USAGE", "CREATE"].map(|privilege| {
        let lacks = format!("lacks {privilege} on the table's schema \"sales\"");
        let schema = refusal(&found, "privileges", &lacks);
        assert_eq!(schema.mend, format!("GRANT {privilege} ON SCHEMA \"sales\" TO \"the Owner\""));
        schema
    });
    let stats = refusal(&found, "privileges", "may not see other sessions");
    assert_eq!(stats.mend, "GRANT pg_read_all_stats TO \"App user\"");
    let replicate = refusal(&found, "replication_connection", "42501");
    let first = replicate.mend.split_once("; on managed services").unwrap().0;
    assert_eq!(first, "ALTER ROLE \"App user\" REPLICATION");
    assert_eq!(refusals(&found).len(), 6, "{found:#?}");

    for (n, mend) in [&*owner.mend, &create.mend, &uses.mend, &creates.mend, &stats.mend, first]
        .iter()
        .enumerate()
    {
        run_mend(&client, mend).await;
        let left = refusals(&findings(&as_app, "sales.orders").await).len();
        assert_eq!(left, 5 - n, "{mend}");
    }
}

#[tokio::test]
async fn a_role_with_the_documented_privileges_passes() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(LEAST).await.unwrap();
    client
        .batch_execute(
            "GRANT \"the Owner\" TO \"App user\"; GRANT CREATE ON DATABASE d TO \"App user\";
             GRANT USAGE, CREATE ON SCHEMA sales TO \"the Owner\";
             GRANT pg_read_all_stats TO \"App user\"; ALTER ROLE \"App user\" REPLICATION;",
        )
        .await
        .unwrap();
    let as_app = dsn.replace("postgres@", "App%20user@");
    let found = findings(&as_app, "sales.orders").await;
    assert_eq!(refusing(&found), [].into(), "{found:#?}");
    assert!(!found.iter().any(|f| f.check == "privileges"), "{found:#?}");

    if cluster.major() < 16 {
        client.batch_execute("ALTER ROLE \"App user\" NOINHERIT").await.unwrap();
        let found = findings(&as_app, "sales.orders").await;
        let owner = refusal(&found, "privileges", "cannot act as");
        assert_eq!(owner.mend, "ALTER ROLE \"App user\" INHERIT");
        run_mend(&client, &owner.mend).await;
        assert_eq!(refusing(&findings(&as_app, "sales.orders").await), [].into());
    }

    client.batch_execute("ALTER ROLE \"App user\" CONNECTION LIMIT 5").await.unwrap();
    let found = findings(&as_app, "sales.orders").await;
    refusal(&found, "connections", "the connection limit of role \"App user\" (5)");
    client.batch_execute("ALTER ROLE \"App user\" CONNECTION LIMIT -1").await.unwrap();

    // A state schema of somebody else, whose migrations could not even be looked at.
    client
        .batch_execute("CREATE SCHEMA pgwraith; CREATE TABLE pgwraith.migration (id bigint)")
        .await
        .unwrap();
    let found = findings(&as_app, "sales.orders").await;
    let state = refusal(&found, "another_migration", "belongs to \"postgres\"");
    assert!(state.mend.contains("GRANT \"postgres\" TO \"App user\""), "{state}");
    assert_eq!(refusing(&found).len(), 1, "{found:#?}");

    // A table of a shape that the check does not understand: it says so, and the others go on.
    let found = findings(&dsn, "sales.orders").await;
    let unknown = refusal(&found, "another_migration", "could not be found out");
    assert!(unknown.what.contains("42703"), "{unknown}");
    the(&found, "disk", Severity::Note, "WAL");
}

#[tokio::test]
async fn a_transaction_that_may_not_be_seen_counts_as_long() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(LEAST).await.unwrap();
    let writer = harness::connect(&dsn).await;
    writer.batch_execute("BEGIN; INSERT INTO sales.orders VALUES (1)").await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);

    let found = findings(&dsn, "sales.orders").await;
    assert!(!found.iter().any(|f| f.check == "long_transactions"), "a young one: {found:#?}");
    let found = findings(&dsn.replace("postgres@", "App%20user@"), "sales.orders").await;
    let long = the(&found, "long_transactions", Severity::Warn, "not allowed to see");
    assert!(long.mend.contains(&format!("pg_terminate_backend({pid})")), "{long}");
}

/// Something in between that takes the startup options away, as poolers do.
#[tokio::test]
async fn a_pooler_that_drops_the_startup_options_is_noticed() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    harness::connect(&dsn)
        .await
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = listener.local_addr().unwrap().port();
    let server = cluster.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(without_options(client, server));
        }
    });
    let dsn = dsn.replace(&format!(":{server}/"), &format!(":{through}/")) + "?sslmode=disable";
    let found = findings(&dsn, "t").await;
    let pooled = refusal(&found, "direct_connection", "row_security did not arrive");
    assert!(pooled.mend.contains("PgBouncer"), "{pooled}");
    assert_eq!(refusing(&found), ["direct_connection"].into(), "{found:#?}");
}

/// Passes everything on but the startup message's `options`.
async fn without_options(mut client: TcpStream, server: u16) -> std::io::Result<()> {
    let length = client.read_u32().await? as usize;
    let mut body = vec![0; length - 4];
    client.read_exact(&mut body).await?;
    let (version, parameters) = body.split_at(4);
    let texts: Vec<&[u8]> = parameters.split(|b| *b == 0).collect();
    let mut kept = version.to_vec();
    for pair in texts.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options") {
        for text in pair {
            kept.extend_from_slice(text);
            kept.push(0);
        }
    }
    kept.push(0);
    let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
    upstream.write_u32(kept.len() as u32 + 4).await?;
    upstream.write_all(&kept).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}

/// With no session more than it says that it opens, it never has to wait for one. The table is large enough to be
/// probed, which takes one.
#[tokio::test]
async fn a_run_opens_no_more_sessions_than_it_says() {
    let shop = crate::scene::shop().await;
    shop.exec(
        "CREATE TABLE big (id int PRIMARY KEY, filler text); ALTER TABLE big ALTER filler SET STORAGE plain; \
         INSERT INTO big SELECT i, repeat('f', 2000) FROM generate_series(1, 40000) i; \
         CREATE ROLE app; GRANT USAGE, CREATE ON SCHEMA public TO app; ALTER TABLE big OWNER TO app; \
         CREATE ROLE dba LOGIN REPLICATION; GRANT app, pg_read_all_stats TO dba; \
         GRANT CREATE ON DATABASE shop TO dba",
    )
    .await;
    for (limit, workers) in [(18, "2"), (16, "1")] {
        shop.exec(&format!("ALTER ROLE dba CONNECTION LIMIT {limit}")).await;
        let mut all = shop.arguments("big", &["--rebuild", "--workers", workers]);
        all[3] = shop.dsn.replacen("postgres@", "dba@", 1);
        let output = crate::harness::run(&all).await.expect_code(0);
        assert!(!output.stderr.contains("too many connections"), "{output}");
        shop.exec("DROP TABLE big_old").await;
    }
}
