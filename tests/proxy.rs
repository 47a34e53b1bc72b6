//! The proxy of the fault matrix does what its faults say, and nothing else.

use std::time::{Duration, Instant};

use pgwraith::demo::cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::harness::{self, Proxy, Toward, When};

const DELAY: Duration = Duration::from_millis(150);

struct Scene {
    proxy: Proxy,
    /// Not through the proxy.
    direct: Client,
    dsn: String,
    cluster: Cluster,
}

async fn scene() -> Scene {
    let cluster = harness::cluster().await;
    let direct = harness::connect(&cluster.dsn("postgres")).await;
    direct.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let proxy = Proxy::start(cluster.port()).await;
    let dsn = proxy.dsn(&cluster.dsn("postgres"));
    Scene { proxy, direct, dsn, cluster }
}

impl Scene {
    /// A session through the proxy.
    async fn session(&self, role: &str) -> Client {
        let client = self.try_session(role).await;
        client.unwrap_or_else(|e| panic!("{role} cannot connect: {e:?}"))
    }

    async fn try_session(&self, role: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config: Config = self.dsn.parse().unwrap();
        let (client, connection) =
            config.application_name(format!("pgwraith/7/{role}")).connect(NoTls).await?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    async fn rows(&self) -> i64 {
        self.direct.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
    }

    /// Waits until the server has no session of ours any more.
    async fn server_is_rid_of(&self, role: &str) {
        let gone = format!(
            "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity \
             WHERE application_name = 'pgwraith/7/{role}')"
        );
        harness::wait_for_sql(&self.direct, "the session ends", &gone).await;
    }
}

async fn works(client: &Client) -> bool {
    client.query_one("SELECT $1::int", &[&1]).await.is_ok()
}

#[tokio::test]
async fn without_a_fault_everything_passes() {
    let scene = scene().await;
    let client = scene.session("copy 1").await;
    scene.proxy.connected("copy *").await;
    assert_eq!(scene.proxy.names(), ["pgwraith/7/copy 1"]);
    // More than any buffer on the way holds, in both directions.
    let text = "x".repeat(5_000_000);
    let back = client.query_one("SELECT $1::text", &[&text]).await.unwrap();
    assert!(back.get::<_, &str>(0) == text);
    let notice = scene.proxy.notice("copy 1", "length(");
    client.query_one("SELECT length($1::text)", &[&"x"]).await.unwrap();
    client.batch_execute("SELECT length('x')").await.unwrap();
    assert_eq!(notice.count(), 2);
    assert!(client.batch_execute("SELECT 1/0").await.is_err() && works(&client).await);
    drop(client);
    scene.server_is_rid_of("copy 1").await;
    let none_left = async || scene.proxy.names().is_empty();
    harness::wait_until("the connection is forgotten", DELAY * 100, none_left).await;
}

#[tokio::test]
async fn a_cancel_request_is_passed_on() {
    let scene = scene().await;
    let client = scene.session("copy 1").await;
    let notice = scene.proxy.notice("copy 1", "pg_sleep");
    let cancel = async {
        notice.struck().await;
        let sleeps = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
        harness::wait_for_sql(&scene.direct, "it sleeps", sleeps).await;
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(60)"), cancel);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    assert!(works(&client).await);
}

/// Asked for encryption as libpq does it.
#[tokio::test]
async fn an_encrypted_connection_is_declined() {
    let scene = scene().await;
    let mut socket = TcpStream::connect(("127.0.0.1", scene.proxy.port())).await.unwrap();
    for code in [80_877_104_u32, 80_877_103] {
        let request = [8_u32.to_be_bytes(), code.to_be_bytes()].concat();
        socket.write_all(&request).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'N');
    }
    let mut config: Config = scene.dsn.parse().unwrap();
    config.ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect_raw(socket, NoTls).await.unwrap();
    tokio::spawn(async move { connection.await.ok() });
    assert!(works(&client).await);
}

#[tokio::test]
async fn a_cut_ends_the_connections_of_its_role_only() {
    let scene = scene().await;
    let copies = [scene.session("copy 1").await, scene.session("copy 2").await];
    let other = scene.session("cutover").await;
    copies[0].batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(scene.proxy.cut("copy *").await, 2);
    assert!(!works(&copies[0]).await && !works(&copies[1]).await && works(&other).await);
    scene.server_is_rid_of("copy 1").await;
    assert_eq!(scene.rows().await, 0);
    assert_eq!(scene.proxy.cut("copy *").await, 0);
    assert!(works(&scene.session("copy 1").await).await, "new ones pass");
}

/// The connection learns how it ended; its client only that it is closed.
#[tokio::test]
async fn a_reset_is_told_as_one_and_a_cut_is_not() {
    let scene = scene().await;
    let other = scene.session("plan").await;
    for (role, broken) in [("copy 1", true), ("copy 2", false)] {
        let mut config: Config = scene.dsn.parse().unwrap();
        config.application_name(format!("pgwraith/7/{role}"));
        let (_client, connection) = config.connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        scene.proxy.connected(role).await;
        let struck =
            if broken { scene.proxy.reset(role).await } else { scene.proxy.cut(role).await };
        assert_eq!(struck, 1);
        let end = format!("{:?}", connection.await.unwrap());
        assert_eq!(end.contains("ConnectionReset"), broken, "{role}: {end}");
        scene.server_is_rid_of(role).await;
    }
    assert!(works(&other).await);
}

#[tokio::test]
async fn a_stall_keeps_everything_for_later() {
    let scene = scene().await;
    let (copy, other) = (scene.session("copy 1").await, scene.session("copy 2").await);
    let stall = scene.proxy.stall("copy 1");
    let mut insert = std::pin::pin!(copy.batch_execute("INSERT INTO t VALUES (1)"));
    tokio::select! {
        _ = &mut insert => panic!("it was answered"),
        () = stall.struck() => {}
    }
    assert!(works(&other).await);
    assert_eq!(scene.rows().await, 0);
    drop(stall);
    insert.await.unwrap();
    assert_eq!(scene.rows().await, 1);
}

#[tokio::test]
async fn a_stall_holds_the_answers_and_new_connections_too() {
    let scene = scene().await;
    let copy = scene.session("copy 1").await;
    let notice = scene.proxy.notice("copy 1", "INSERT");
    scene.direct.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let mut insert = std::pin::pin!(copy.batch_execute("INSERT INTO t VALUES (1)"));
    let mut session = std::pin::pin!(scene.session("copy 2"));
    let stall = tokio::select! {
        _ = &mut insert => panic!("it was answered"),
        stall = async {
            notice.struck().await;
            // The server has it, so all that can be held back from now on is its answer.
            let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)";
            harness::wait_for_sql(&scene.direct, "the insert waits", waits).await;
            scene.proxy.stall("*")
        } => stall,
    };
    scene.direct.batch_execute("COMMIT").await.unwrap();
    tokio::select! {
        _ = &mut insert => panic!("it was answered"),
        _ = &mut session => panic!("it was let in"),
        () = async {
            stall.struck_times(2).await;
            harness::wait_until("the row", DELAY * 100, async || scene.rows().await == 1).await;
        } => {}
    }
    // A stalled connection can be cut all the same.
    assert!(scene.proxy.cut("copy 1").await == 1 && insert.await.is_err());
    drop(stall);
    assert!(works(&session.await).await);
}

#[tokio::test]
async fn a_delay_holds_in_each_direction() {
    let scene = scene().await;
    let (copy, other) = (scene.session("copy 1").await, scene.session("copy 2").await);
    let delay = scene.proxy.delay("copy 1", DELAY);
    let start = Instant::now();
    copy.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert!(start.elapsed() >= 2 * DELAY);
    assert_eq!(delay.count(), 2);
    // It is a delay of what is said, not of each piece of it: many answers come as late as one.
    let (start, rows) = (Instant::now(), "SELECT repeat('x', 1000000) FROM generate_series(1, 9)");
    copy.simple_query(rows).await.unwrap();
    assert!(start.elapsed() >= 2 * DELAY);
    let late = delay.count();
    assert!(works(&other).await);
    assert_eq!(delay.count(), late);
    drop(delay);
    assert!(works(&copy).await);
}

#[tokio::test]
async fn a_limit_holds_in_its_direction_and_for_its_role() {
    let scene = scene().await;
    let (copy, other) = (scene.session("copy 1").await, scene.session("copy 2").await);
    let limit = scene.proxy.limit("copy 1", Toward::Client, 1_000_000);
    let rows = "SELECT repeat('x', 1000000)";
    let took = async |client: &Client| {
        let start = Instant::now();
        client.simple_query(rows).await.unwrap();
        start.elapsed()
    };
    let start = Instant::now();
    copy.query_one("SELECT length($1::text)", &[&"x".repeat(1_000_000)]).await.unwrap();
    other.simple_query(rows).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    let slow = took(&copy).await;
    assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&slow), "{slow:?}");
    assert!(limit.count() > 0);
    drop(limit);
    assert!(took(&copy).await < Duration::from_millis(900));
}

#[tokio::test]
async fn refused_connections_are_closed_at_once() {
    let scene = scene().await;
    let present = scene.session("copy 1").await;
    let refusal = scene.proxy.refuse();
    assert!(scene.try_session("copy 2").await.is_err());
    refusal.struck().await;
    assert!(works(&present).await);
    drop(refusal);
    assert!(works(&scene.session("copy 2").await).await);
}

#[tokio::test]
async fn cut_before_a_commit_nothing_is_done() {
    let scene = scene().await;
    let (copy, other) = (scene.session("copy 1").await, scene.session("plan").await);
    let cut = scene.proxy.cut_at("copy *", "COMMIT", When::Before);
    copy.batch_execute("BEGIN").await.unwrap();
    copy.execute("INSERT INTO t VALUES ($1)", &[&1]).await.unwrap();
    other.batch_execute("BEGIN; COMMIT").await.unwrap();
    assert_eq!(cut.count(), 0);
    assert!(copy.batch_execute("/* tag */ COMMIT").await.is_err());
    cut.struck().await;
    scene.server_is_rid_of("copy 1").await;
    assert_eq!(scene.rows().await, 0);
    strikes_no_second_time(&scene).await;
}

#[tokio::test]
async fn cut_after_a_commit_it_is_done_and_not_told() {
    let scene = scene().await;
    let copy = scene.session("copy 1").await;
    let cut = scene.proxy.cut_at("copy *", "COMMIT", When::After);
    copy.batch_execute("BEGIN").await.unwrap();
    copy.execute("INSERT INTO t VALUES ($1)", &[&1]).await.unwrap();
    let error = copy.batch_execute("/* tag */ COMMIT").await.unwrap_err();
    assert!(error.code().is_none(), "{error:?}");
    cut.struck().await;
    assert_eq!(scene.rows().await, 1);
    strikes_no_second_time(&scene).await;
}

async fn strikes_no_second_time(scene: &Scene) {
    let again = scene.session("copy 1").await;
    again.batch_execute("BEGIN").await.unwrap();
    again.batch_execute("COMMIT").await.unwrap();
}

/// The answer is awaited however long the server takes, and what it said before is passed on: two
/// queries are under way at once, and a COPY has taken one Sync unanswered.
#[tokio::test]
async fn only_the_answer_to_the_statement_is_lost() {
    let scene = scene().await;
    let copy = scene.session("copy 1").await;
    let rows = copy.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    let mut rows = std::pin::pin!(rows);
    futures_util::SinkExt::send(&mut rows, "1\n2\n".into()).await.unwrap();
    assert_eq!(rows.finish().await.unwrap(), 2);

    let cut = scene.proxy.cut_at("copy 1", "INSERT", When::After);
    let (first, second) = tokio::join!(
        copy.simple_query("SELECT pg_sleep(0.1)"),
        copy.batch_execute("INSERT INTO t SELECT 3 FROM pg_sleep(0.1)")
    );
    assert!(first.is_ok() && second.is_err());
    cut.struck().await;
    assert_eq!(scene.rows().await, 3);
}

#[tokio::test]
async fn a_server_that_dies_instead_of_answering_is_a_strike_too() {
    let mut scene = scene().await;
    let copy = scene.session("copy 1").await;
    let cut = scene.proxy.cut_at("copy 1", "pg_sleep", When::After);
    let notice = scene.proxy.notice("copy 1", "pg_sleep");
    let crash = async {
        notice.struck().await;
        scene.cluster.crash().await.unwrap();
    };
    let (slept, ()) = tokio::join!(copy.batch_execute("SELECT pg_sleep(60)"), crash);
    assert!(slept.is_err());
    cut.struck().await;
    scene.cluster.restart().await.unwrap();
    assert!(works(&scene.session("copy 1").await).await, "it leads to the restarted server");
}

/// A whole run through the proxy: its connections have the roles the matrix will name.
#[tokio::test]
async fn the_program_runs_through_it() {
    let scene = scene().await;
    let sql = "ALTER TABLE t ADD PRIMARY KEY (n); INSERT INTO t SELECT generate_series(1, 1000)";
    scene.direct.batch_execute(sql).await.unwrap();
    let copies = scene.proxy.notice("copy *", "COMMIT");
    let swap = scene.proxy.notice("cutover", "COMMIT");
    let stream = scene.proxy.notice("stream", "START_REPLICATION");
    harness::run(["run", "t", "-d", &scene.dsn, "--rebuild"]).await.expect_code(0);
    assert!(copies.count() > 0 && swap.count() > 0 && stream.count() > 0);
    assert_eq!(scene.rows().await, 1000);
}
