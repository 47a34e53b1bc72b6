//! What a run tells of itself: how long things took, its log, its metrics.

use std::os::fd::{FromRawFd, OwnedFd};

use pgwraith::demo::orders::create_orders;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{self, Background};
use crate::scene::{SOON, exec, shop, value};

fn of<'a>(times: &'a Value, what: &str, number: &str) -> &'a Value {
    &times[what][number]
}

/// Every kind of thing that a run does is timed, and the cutover's stall is the one that the report tells.
#[tokio::test]
async fn the_report_tells_how_long_things_took() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let held = shop.held("catch up", "orders", &["--rebuild", "--chunk-rows", "300"]).await;
    shop.exec("UPDATE orders SET note = 'changed' WHERE id <= 10").await;
    let done = held.finish().await.expect_code(0);
    let report = done.json();
    let times = &report["times"];
    for what in ["chunk", "sync", "verify", "fence", "stall"] {
        let number = |name: &str| of(times, what, name).as_f64().unwrap();
        assert!(number("count") >= 1.0, "{what}: {times}");
        assert!(number("p50_ms") > 0.0, "{what}: {times}");
        let order = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(number);
        assert!(order.is_sorted(), "{what}: {times}");
    }
    assert_eq!(of(times, "chunk", "count"), &report["chunks"]);
    assert_eq!(of(times, "stall", "count"), &report["cutover"]["attempts"]);
    let stall = report["cutover"]["stall_ms"].as_f64().unwrap();
    let longest = of(times, "stall", "max_ms").as_f64().unwrap();
    assert!(longest > 0.99 * stall, "{report}");

    shop.exec("DROP TABLE orders_old").await;
    let text = harness::run(["run", "orders", "-d", &shop.dsn, "--rebuild"]).await.expect_code(0);
    let line = text.stdout.lines().find(|line| line.trim_start().starts_with("stall "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert_eq!(line.split_whitespace().count(), 6, "{line}");
}

/// Every line on standard error is an object, with what it is about and nothing of the connection's secrets.
#[tokio::test]
async fn the_log_is_one_object_a_line_and_tells_no_password() {
    const SECRET: &str = "hush-4711-hush";
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let dsn = shop.dsn.replace("postgres@", &format!("postgres:{SECRET}@"));
    assert_ne!(dsn, shop.dsn);
    let arguments = ["run", "orders", "-d", &dsn, "--rebuild", "--json"];
    let more = ["--log-format", "json", "--log", "trace", "--listen", "0", "--chunk-rows", "300"];
    let done = harness::run(arguments.iter().chain(&more)).await.expect_code(0);
    let events: Vec<Value> = done
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for event in &events {
        for field in ["time", "level", "event", "message"] {
            assert!(event[field].is_string(), "{field}: {event}");
        }
    }
    let all = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let phases: Vec<&str> = all("phase").map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["prepare", "copy", "index", "catch up", "verify", "cutover"]);
    let notes: Vec<&Value> = all("note").collect();
    assert!(!notes.is_empty() && notes.iter().all(|note| note["table"] == "orders"), "{notes:?}");
    assert!(all("progress").all(|event| event["progress"]["rows_estimated"].is_number()));
    assert!(all("progress").count() > 0 && all("log").count() > 0);
    assert!(!done.stderr.contains(SECRET) && !done.stdout.contains(SECRET), "{done}");

    let failed = harness::run(["run", "nowhere", "-d", &dsn, "--rebuild", "--log-format", "json"]);
    let failed = failed.await.expect_code(2);
    let last: Value = serde_json::from_str(failed.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"failed".into(), &2.into()), "{failed}");
    assert!(!failed.stderr.contains(SECRET), "{failed}");
}

/// Asks as a client would that knows nothing but sockets; the whole answer.
async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // One that is cut off may be reset.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: &str, path: &str) -> (u16, String) {
    let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of one metric, of the line that begins like this.
fn metric(text: &str, begins: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(begins))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Where the run is answering.
async fn address(run: &mut Background) -> String {
    run.wait_for_saying(" answers GET /metrics").await;
    let said = run.said();
    let at = said.split("http://").nth(1).unwrap();
    at.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn whoever_asks_is_told_how_it_stands_and_can_change_nothing() {
    let shop = shop().await;
    let standby = shop.cluster.standby(&[]).await.unwrap();
    create_orders(&shop.client, 20_000).await.unwrap();
    let change = ["--rebuild", "--chunk-rows", "300", "--postpone-cutover", "--listen", "0"];
    let mut run = Background::start(shop.arguments("orders", &change));
    let address = address(&mut run).await;
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    let known = async || {
        let (code, text) = get(&address, "/metrics").await;
        assert_eq!(code, 200);
        let (_, status) = get(&address, "/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        let lag = metric(&text, "pgwraith_replication_lag_seconds{table=\"orders\",standby=");
        // That it is postponed is said beforehand.
        status["phase"] == "cutover"
            && metric(&text, "pgwraith_slot_retained_bytes").is_some()
            && metric(&text, "pgwraith_lock_waits").is_some()
            && lag.is_some_and(|lag| lag < 60.0)
            && metric(&text, "pgwraith_rows_copied_total") == Some(20_000.0)
            && metric(&text, "pgwraith_throttled{table=\"orders\",reason=\"free\"}").is_some()
            && metric(&text, "pgwraith_chunk_duration_seconds_count").is_some_and(|n| n > 0.0)
    };
    harness::wait_until("all is measured", SOON, known).await;
    let (code, status) = get(&address, "/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, &status["phase"]), (200, &"cutover".into()), "{status}");
    assert_eq!((&status["rows_copied"], &status["postponed"]), (&20_000.into(), &true.into()));
    assert_eq!(get(&address, "/health").await.0, 200);
    assert_eq!(get(&address, "/elsewhere").await.0, 404);

    // Nothing but GET, whatever it would be for.
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let answer = ask(&address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
        assert!(answer.to_lowercase().contains("\r\nallow: get\r\n"), "{answer}");
    }
    // Heads that are no HTTP, or too large, are refused.
    assert!(ask(&address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let large = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(64 << 10));
    assert!(!ask(&address, &large).await.contains(" 200 "));

    // More clients that say nothing than are answered at a time: they are cut off, and the next one has its turn.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(get(&address, "/health").await.0, 200);
    drop(silent);

    // Somebody else may not have the port, and nothing is begun.
    let arguments = ["run", "orders", "-d", &shop.dsn, "--rebuild", "--listen", &address];
    let refused = harness::run(arguments).await.expect_code(3);
    assert!(refused.stderr.contains(&format!("--listen {address} is not to be had")), "{refused}");

    let swapped = harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert!(!swapped.stdout.contains("nobody runs it"), "{swapped}");
    run.finish(SOON).await.expect_code(0);
}

/// A run that waits for somebody's lock is stuck, and says for whom but not what he does.
#[tokio::test]
async fn a_run_that_waits_for_a_lock_is_not_well() {
    let shop = shop().await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let change = ["--rebuild", "--postpone-cutover", "--listen", "0"];
    let mut held = shop.held("copy", "orders", &change).await;
    let address = address(&mut held.run).await;
    let other = shop.session().await;
    exec(&other, "BEGIN; LOCK TABLE orders /* not for everybody */").await;
    held.release().await;
    let stuck = async || get(&address, "/health").await.0 == 503;
    harness::wait_until("it is stuck", SOON, stuck).await;
    let (_, why) = get(&address, "/health").await;
    let pid: i32 = value(&other, "SELECT pg_backend_pid()").await;
    assert!(why.contains(&format!("for pid {pid} postgres (")), "{why}");
    assert!(!why.contains("not for everybody"), "{why}");
    let (_, text) = get(&address, "/metrics").await;
    assert_eq!(metric(&text, "pgwraith_healthy"), Some(0.0));
    let waits = metric(&text, "pgwraith_lock_waits{table=\"orders\",by=\"run\"}");
    assert!(waits >= Some(1.0), "{text}");
    exec(&other, "COMMIT").await;
    let well = async || get(&address, "/health").await.0 == 200;
    harness::wait_until("it is well again", SOON, well).await;
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    held.run.finish(SOON).await.expect_code(0);
}

/// A terminal, as the program sees one: what it writes there is read at the other end.
fn terminal() -> (std::fs::File, OwnedFd) {
    let size = libc::winsize { ws_row: 50, ws_col: 250, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut here, mut there) = (0, 0);
    // SAFETY: openpty fills in both descriptors, or fails; nobody else has them.
    unsafe {
        let name = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut here, &mut there, name, std::ptr::null(), &size), 0);
        (std::fs::File::from_raw_fd(here), OwnedFd::from_raw_fd(there))
    }
}

/// On a terminal there is a bar, with percent, rate and the time that is left.
#[tokio::test]
async fn a_terminal_shows_a_bar() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    harness::make_state(&shop.dsn, &shop.client).await;
    let failpoint = harness::Failpoint::at_chunk(&shop.client, shop.session().await, 5).await;
    let (mut screen, there) = terminal();
    let mut command = harness::pgwraith();
    command.args(["run", "orders", "-d", &shop.dsn, "--rebuild", "--workers", "1"]);
    command.args(["--chunk-rows", "300"]).stderr(there).stdout(std::process::Stdio::null());
    let mut run = command.spawn().unwrap();
    // Its end of the terminal is open for as long as it runs, and no longer.
    drop(command);
    let (seen, mut shown) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = std::io::Read::read(&mut screen, &mut bytes) {
            let _ = seen.send(String::from_utf8_lossy(&bytes[..n]).into_owned());
        }
    });
    let mut text = String::new();
    let left = async {
        while !text.contains(", ETA ") {
            text.push_str(&shown.recv().await.expect("the run ended"));
        }
    };
    tokio::time::timeout(SOON, left).await.unwrap_or_else(|_| panic!("{text}"));
    assert!(text.contains("] orders: copy, ") && text.contains(" rows/s"), "{text}");
    assert!(text.contains(" %, "), "{text}");
    failpoint.open().await;
    let code = tokio::task::spawn_blocking(move || run.wait().unwrap()).await.unwrap();
    assert!(code.success(), "{code}");
}

/// Who waits for a lock that a chunk has, and nobody who waits for somebody else's on the same table.
#[tokio::test]
async fn those_who_wait_for_us_are_counted() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    harness::make_state(&shop.dsn, &shop.client).await;
    let failpoint = harness::Failpoint::at_chunk(&shop.client, shop.session().await, 5).await;
    let change = ["--rebuild", "--workers", "1", "--chunk-rows", "300", "--listen", "0"];
    let mut run = Background::start(shop.arguments("orders", &change));
    let address = address(&mut run).await;
    failpoint.wait_for_somebody().await;
    const BESIDE_READING: &str = "orders IN SHARE ROW EXCLUSIVE MODE";
    shop.exec(&format!("BEGIN; LOCK TABLE {BESIDE_READING}")).await;
    let waits = |waiter, table: &str| {
        let sql = format!("BEGIN; LOCK TABLE {table}; COMMIT");
        tokio::spawn(async move { exec(&waiter, &sql).await })
    };
    let waiters =
        [waits(shop.session().await, "orders"), waits(shop.session().await, BESIDE_READING)];
    let counted = async || {
        let (_, text) = get(&address, "/metrics").await;
        metric(&text, "pgwraith_lock_waits{table=\"orders\",by=\"others\"}") == Some(1.0)
    };
    let both =
        "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
    let observer = shop.session().await;
    harness::wait_for_sql(&observer, "both wait", both).await;
    harness::wait_until("one of them waits for us", SOON, counted).await;
    shop.exec("COMMIT").await;
    failpoint.open().await;
    for waiter in waiters {
        waiter.await.unwrap();
    }
    run.finish(SOON).await.expect_code(0);
}
