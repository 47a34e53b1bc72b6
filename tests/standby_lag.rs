//! No standby falls further behind than it may: a slow one, a frozen one, one that the server does not see.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use pgwraith::pg::Lsn;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::{self, Background, Proxy, Toward, wait_for_phase};
use crate::scene::{Held, SOON, Shop, shop, shop_with, value, wait_for};

/// `--max-lag` where nothing is said.
const MAX_LAG: Duration = Duration::from_secs(2);
/// What the slow standby is sent a second.
const RATE: u64 = 6 << 20;
const ROW: u64 = 1000;

/// A standby at one moment, as the test itself measures it.
#[derive(Debug, Clone)]
struct Sample {
    phase: String,
    at: Instant,
    lag: Duration,
    written: u64,
    replayed: u64,
}

/// Measures all the time: when the primary had written what the standby has not replayed yet.
struct Lags {
    samples: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
}

impl Drop for Lags {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lags {
    async fn of(primary: &Shop, standby: &Cluster) -> Lags {
        let here = primary.session().await;
        let there = harness::connect(&standby.dsn("postgres")).await;
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let all = Arc::clone(&samples);
        let task = tokio::spawn(async move {
            let mut written: Vec<(Instant, u64)> = Vec::new();
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tick.tick().await;
                let row = here.query_one("SELECT pg_current_wal_lsn()", &[]).await;
                let Ok(row) = row else { return };
                let end = row.get::<_, Lsn>(0).0;
                written.push((Instant::now(), end));
                let row = there.query_one("SELECT pg_last_wal_replay_lsn()", &[]).await;
                let Ok(row) = row else { return };
                let (at, replayed) = (Instant::now(), row.get::<_, Lsn>(0).0);
                let beyond = written.iter().find(|(_, lsn)| *lsn > replayed);
                let lag = beyond.map_or(Duration::ZERO, |(since, _)| at.duration_since(*since));
                let phase = harness::phase(&here, "orders").await.unwrap_or_default();
                all.lock().unwrap().push(Sample { phase, at, lag, written: end, replayed });
            }
        });
        Lags { samples, task }
    }

    fn in_phases(&self, phases: &[&str]) -> Vec<Sample> {
        let all = self.samples.lock().unwrap();
        all.iter().filter(|s| phases.contains(&s.phase.as_str())).cloned().collect()
    }

    /// In these phases the lag is within `allowed` at least 95 % of the time. What index builds and VACUUM wrote, which
    /// cannot be throttled, has to be replayed first, and what stood behind it in the line.
    #[track_caller]
    fn assert_within(&self, allowed: Duration, phases: &[&str]) {
        let mut samples = self.in_phases(phases);
        let before = self.in_phases(&["index"]).last().map_or(0, |s| s.written);
        let throttled = |s: &Sample| s.replayed >= before && s.lag <= allowed;
        let from = if phases == ["copy"] { Some(0) } else { samples.iter().position(throttled) };
        let samples = samples.split_off(from.expect("it is never within that"));
        let mut lags: Vec<Duration> = samples.iter().map(|s| s.lag).collect();
        lags.sort();
        let within = lags.iter().filter(|lag| **lag <= allowed).count();
        let told = format!(
            "{phases:?}: {within} of {} samples within {allowed:?}; p50 {:?}, p95 {:?}, longest {:?}; {}",
            lags.len(),
            lags[lags.len() / 2],
            lags[lags.len() * 95 / 100],
            lags[lags.len() - 1],
            course(&samples)
        );
        eprintln!("{told}");
        assert!(within * 100 >= lags.len() * 95, "{told}");
    }
}

/// The lag in milliseconds, twice a second.
fn course(samples: &[Sample]) -> String {
    let mut told: Vec<String> = Vec::new();
    for sample in samples {
        let half_seconds = sample.at.duration_since(samples[0].at).as_millis() / 500;
        if half_seconds >= told.len() as u128 {
            told.push(sample.lag.as_millis().to_string());
        }
    }
    told.join(" ")
}

/// Rows of which each writes about as much log as it has bytes.
async fn wide_orders(shop: &Shop, rows: u64) {
    shop.exec(&format!(
        "CREATE TABLE orders (id int PRIMARY KEY, filler text); \
         ALTER TABLE orders ALTER filler SET STORAGE plain; \
         INSERT INTO orders SELECT i, repeat('f', {ROW}) FROM generate_series(1, {rows}) i"
    ))
    .await;
    shop.exec("VACUUM (ANALYZE) orders").await;
}

/// Updates that write so many bytes of log a second, until it is aborted.
async fn traffic(shop: &Shop, rows: u64, bytes_per_second: u64) -> JoinHandle<()> {
    const AT_ONCE: u64 = 20;
    let client = shop.session().await;
    let update = format!(
        "UPDATE orders SET filler = repeat(chr(97 + (random() * 25)::int), {ROW}) WHERE id = ANY (ARRAY( \
         SELECT 1 + (random() * ({rows} - 1))::int FROM generate_series(1, {AT_ONCE})))"
    );
    let pause = Duration::from_secs_f64((ROW * AT_ONCE) as f64 / bytes_per_second as f64);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(pause);
        loop {
            tick.tick().await;
            client.batch_execute(&update).await.unwrap();
        }
    })
}

/// The application alone takes a quarter of what the standby can take; with the sync a half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_standby_is_used_and_not_overrun() {
    const ROWS: u64 = 100_000;
    let quiet =
        [("full_page_writes", "off"), ("checkpoint_timeout", "1h"), ("max_wal_size", "8GB")];
    let shop = shop_with(&quiet).await;
    wide_orders(&shop, ROWS).await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    let standby = shop.cluster.standby_through(proxy.port(), &[]).await.unwrap();
    standby.caught_up_with(&shop.cluster).await.unwrap();
    let limit = proxy.limit("walreceiver", Toward::Client, RATE);
    let lags = Lags::of(&shop, &standby).await;
    // The test's own machine is nobody's application.
    let more = ["--rebuild", "--postpone-cutover", "--max-probe-latency", "1h"];
    let mut run = Background::start(shop.arguments("orders", &more));
    wait_for_phase(&shop.client, &mut run, "orders", "copy").await;
    wait_for(&shop.client, &mut run, "most of it is copied", &copied(ROWS * 4 / 5)).await;
    let chunk = chunk_worth(&shop).await;
    let writes = traffic(&shop, ROWS, RATE / 4).await;
    run.wait_for_saying("the cutover waits: postponed").await;
    let waits = Instant::now();
    let long_enough = async || waits.elapsed() > Duration::from_secs(6);
    harness::wait_until("it stays in sync for a while", SOON, long_enough).await;
    writes.abort();
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    assert!(limit.count() > 0);

    let copy = lags.in_phases(&["copy"]);
    let (last, settled) = (copy.last().unwrap(), copy[0].at + Duration::from_secs(5));
    let first = copy.iter().find(|s| s.at >= settled).unwrap();
    let took = last.at.duration_since(first.at).as_secs_f64();
    let got = (last.replayed - first.replayed) as f64 / took / RATE as f64;
    eprintln!(
        "the copy took {took:.1} s and {:.0} % of what the standby takes; a chunk's worth is {chunk:?}",
        got * 100.0
    );
    lags.assert_within(MAX_LAG + chunk, &["copy"]);
    lags.assert_within(MAX_LAG + chunk, &["catch up", "cutover"]);
    lags.assert_within(MAX_LAG + chunk, &["verify"]);
    assert!(took > 5.0 && got >= 0.8, "it got {got} in {took} s");
}

fn copied(rows: u64) -> String {
    format!(
        "SELECT COALESCE(sum(rows), 0) >= {rows} FROM pgwraith.chunk WHERE kind = 'copy' AND done"
    )
}

/// The time for which the slow standby is busy with the largest chunk.
async fn chunk_worth(shop: &Shop) -> Duration {
    let rows = "SELECT max(rows) FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    let rows: i64 = shop.value(rows).await;
    Duration::from_secs_f64(rows as f64 * ROW as f64 / RATE as f64)
}

/// Many small ranges, so that it takes some seconds.
const SLOW: [&str; 7] =
    ["--rebuild", "--chunk-rows", "300", "--chunk-time", "3ms", "--workers", "1"];

/// Processes that are stopped, until this is dropped.
pub struct Frozen(Vec<i32>);

impl Frozen {
    pub async fn processes(of: &Cluster, which: &str) -> Frozen {
        let there = harness::connect(&of.dsn("postgres")).await;
        let sql =
            format!("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {which}");
        let pids: Vec<i32> =
            there.query(&sql, &[]).await.unwrap().iter().map(|r| r.get(0)).collect();
        assert!(!pids.is_empty(), "nobody is {which}");
        pids.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
        Frozen(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, libc::SIGCONT));
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes plain numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Lets the copy begin, and freezes these in the middle of it; no range is done later than two seconds after
/// that, with the limits that are standard.
async fn stops_and_goes_on(shop: &Shop, mut held: Held, (of, which): (&Cluster, &str), told: &str) {
    held.release().await;
    let begun = "SELECT count(*) >= 3 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    wait_for(&shop.client, &mut held.run, "it copies", begun).await;
    let frozen = Frozen::processes(of, which).await;
    let at: String = shop.value("SELECT clock_timestamp()::text").await;
    held.run.wait_for_saying(told).await;
    let late = format!(
        "SELECT COALESCE(max(extract(epoch FROM finished_at - '{at}')), 0)::float8 FROM pgwraith.chunk \
         WHERE kind = 'copy' AND done"
    );
    let late: f64 = shop.value(&late).await;
    eprintln!("the last range was done {late:.2} s after the freeze");
    assert!(late <= 2.0, "a range was done {late} s later");
    drop(frozen);
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

async fn frozen(which: &str) {
    let shop = shop().await;
    let standby = shop.cluster.standby(&[]).await.unwrap();
    create_orders(&shop.client, 60_000).await.unwrap();
    let held = shop.held("copy", "orders", &SLOW).await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    stops_and_goes_on(&shop, held, (&standby, which), "it waits for standby walreceiver: ").await;
}

#[tokio::test]
async fn one_whose_replay_is_frozen_stops_the_copy() {
    frozen("backend_type = 'startup'").await;
}

#[tokio::test]
async fn one_whose_receiver_is_frozen_stops_the_copy() {
    frozen("backend_type = 'walreceiver'").await;
}

#[tokio::test]
async fn one_that_is_late_on_purpose_is_ignored_by_its_name() {
    let shop = shop().await;
    let delayed = [("recovery_min_apply_delay", "1h"), ("cluster_name", "delayed")];
    let standby = shop.cluster.standby(&delayed).await.unwrap();
    create_orders(&shop.client, 20_000).await.unwrap();
    let output = shop.run("orders", &["--rebuild", "--ignore-standby", "delayed"]).await;
    assert!(!output.stderr.contains("it waits"), "{output}");
    output.expect_code(0);
    let there = harness::connect(&standby.dsn("shop")).await;
    let nothing = "SELECT to_regclass('public.orders') IS NULL";
    assert!(value::<bool>(&there, nothing).await, "it is late");
}

/// Nobody is in the way of the cutover but us.
#[tokio::test]
async fn patience_does_not_run_out_while_a_standby_holds_changed_keys_back() {
    let shop = shop().await;
    let standby = shop.cluster.standby(&[]).await.unwrap();
    create_orders(&shop.client, 20_000).await.unwrap();
    let more = ["--rebuild", "--postpone-cutover", "--cutover-patience", "3s"];
    let mut run = Background::start(shop.arguments("orders", &more));
    run.wait_for_saying("the cutover waits: postponed").await;
    let frozen = Frozen::processes(&standby, "backend_type = 'startup'").await;
    shop.exec("CREATE TABLE elsewhere (n int)").await;
    run.wait_for_saying("it waits for standby walreceiver: ").await;
    shop.exec("UPDATE orders SET note = 'changed'").await;
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    // It looks for five seconds, and would have given up then.
    run.wait_for_saying("changed keys wait to be applied").await;
    drop(frozen);
    run.finish(SOON).await.expect_code(0);
    assert_eq!(
        shop.value::<i64>("SELECT count(*) FROM orders WHERE note = 'changed'").await,
        20_000
    );
}

/// A standby of a standby: the server does not know of it.
struct Leaf {
    shop: Shop,
    _middle: Cluster,
    leaf: Cluster,
    dsn: String,
    name: String,
}

async fn leaf(rows: u64) -> Leaf {
    let shop = shop().await;
    let middle = shop.cluster.standby(&[]).await.unwrap();
    let leaf = shop.cluster.standby_through(middle.port(), &[]).await.unwrap();
    create_orders(&shop.client, rows).await.unwrap();
    leaf.caught_up_with(&shop.cluster).await.unwrap();
    let seen = "SELECT count(*) FROM pg_stat_replication";
    assert_eq!(shop.value::<i64>(seen).await, 1);
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", leaf.port());
    let name = format!("replica 127.0.0.1:{}", leaf.port());
    Leaf { shop, _middle: middle, leaf, dsn, name }
}

/// What its signal is now: its share, or why there is none.
async fn share(client: &Client, name: &str) -> Result<f64, String> {
    let sql = "SELECT (s->>'share')::float8, s->>'text' FROM pgwraith.progress, \
               jsonb_array_elements(facts->'signals') s WHERE s->>'signal' = $1";
    let row = client.query_one(sql, &[&name]).await.unwrap();
    row.get::<_, Option<f64>>(0).ok_or(row.get(1))
}

#[tokio::test]
async fn one_that_the_server_does_not_see_is_asked_itself() {
    let Leaf { shop, _middle, leaf, dsn, name } = leaf(60_000).await;
    let flags: Vec<&str> = SLOW.iter().copied().chain(["--replica", &dsn]).collect();
    let held = shop.held("copy", "orders", &flags).await;
    // Nobody writes but the run, which tells how it stands.
    let known = format!(
        "SELECT EXISTS (SELECT 1 FROM pgwraith.progress, jsonb_array_elements(facts->'signals') s \
         WHERE s->>'signal' = '{name}' AND s->>'share' IS NOT NULL)"
    );
    harness::wait_for_sql(&shop.client, "it answers", &known).await;
    let since = Instant::now();
    let idle = async || {
        let share = share(&shop.client, &name).await;
        assert!(
            share.as_ref().is_ok_and(|share| *share < 0.5),
            "an idle primary is no lag: {share:?}"
        );
        since.elapsed() > Duration::from_secs(4)
    };
    harness::wait_until("some seconds are over", SOON, idle).await;
    let told = format!("it waits for {name}: it has replayed nothing for ");
    stops_and_goes_on(&shop, held, (&leaf, "backend_type = 'startup'"), &told).await;
}

#[tokio::test]
async fn one_that_cannot_be_asked_holds_the_copy_up_until_it_is_taken_away() {
    let Leaf { shop, _middle, mut leaf, dsn, name } = leaf(20_000).await;
    let mut held = shop.held("copy", "orders", &SLOW).await;
    let set = async |limit: String| {
        harness::run(["set", "orders", "-d", &shop.dsn, &limit]).await.expect_code(0)
    };
    set(format!("replica={dsn}")).await;
    held.run.wait_for_saying("set: ").await;
    leaf.promote().await.unwrap();
    let promoted = format!("{name} cannot be measured: it is no standby: it takes writes itself");
    held.run.wait_for_saying(&promoted).await;
    leaf.stop_fast().await.unwrap();
    let gone =
        async || share(&shop.client, &name).await.is_err_and(|e| e.contains("cannot connect"));
    harness::wait_until("it is not reached", SOON, gone).await;
    held.release().await;
    let released = Instant::now();
    let rests = async || {
        let copied = "SELECT count(*) FROM pgwraith.chunk WHERE kind = 'copy' AND done";
        assert_eq!(shop.value::<i64>(copied).await, 0);
        released.elapsed() > Duration::from_secs(2)
    };
    harness::wait_until("it rests for a while", SOON, rests).await;
    set("replica=".to_owned()).await;
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn what_is_no_standby_of_this_server_is_refused() {
    let Leaf { shop, _middle, leaf: _leaf, dsn, name } = leaf(1_000).await;
    let other = harness::cluster().await;
    let run = async |replicas: &[&str]| {
        let flags = replicas.iter().flat_map(|dsn| ["--replica", dsn]);
        shop.run("orders", &["--rebuild"].into_iter().chain(flags).collect::<Vec<_>>()).await
    };
    let (primary, elsewhere) = (shop.cluster.dsn("postgres"), other.dsn("postgres"));
    let refused = run(&[&dsn, &primary, &elsewhere, "host=127.0.0.1 port=1"]).await.expect_code(3);
    for (port, why) in [
        (shop.cluster.port(), "it is no standby: it takes writes itself"),
        (other.port(), "it is no standby of this server: its system identifier is "),
        (1, "cannot connect to "),
    ] {
        let told = format!("replica 127.0.0.1:{port} cannot be measured: {why}");
        assert!(refused.stderr.contains(&told), "{told}: {refused}");
    }
    assert!(!refused.stderr.contains(&name), "{refused}");
    let secret = run(&["postgresql://postgres:hunter2@127.0.0.1/postgres"]).await.expect_code(2);
    assert!(secret.stderr.contains("\"password\" may not be given here"), "{secret}");
    assert!(!secret.stderr.contains("hunter2"), "{secret}");

    let rehearsed =
        ["dry-run", "orders", "-d", &shop.dsn, "--rebuild", "--for", "1s", "--replica", &dsn];
    let rehearsed = harness::run(rehearsed).await.expect_code(0);
    assert!(rehearsed.stdout.contains(&format!("{name}: at most ")), "{rehearsed}");
    run(&[&dsn]).await.expect_code(0);
}
