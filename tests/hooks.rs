//! The operator's programs are called when they should be, and cannot hold up anybody but the run.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgwraith::demo::orders::create_orders;
use tempfile::TempDir;

use crate::harness::{self, Background, leftovers};
use crate::scene::{SOON, Shop, shop, wait_for};

/// A folder of hooks. Each writes to `log` that it was called, and then does what its script says.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn hook(self, name: &str, script: &str) -> Folder {
        let path = self.path(name);
        let text = format!(
            "#!/bin/sh\nread -r facts\nprintf '%s %s\\n' \"$PGWRAITH_EVENT\" \"$facts\" >> '{}'\n{script}\n",
            self.path("log").display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Each call: the event, and what it was told.
    fn calls(&self) -> Vec<(String, serde_json::Value)> {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let call = |line: &str| {
            let (event, facts) = line.split_once(' ').unwrap();
            (event.to_owned(), serde_json::from_str(facts).unwrap())
        };
        log.lines().map(call).collect()
    }

    fn events(&self) -> Vec<String> {
        self.calls().into_iter().map(|(event, _)| event).collect()
    }

    /// A run over orders with these hooks.
    fn run(&self, shop: &Shop, more: &[&str]) -> Background {
        let hooks = self.0.path().display().to_string();
        let change: Vec<&str> =
            ["--rebuild", "--hooks", &hooks].iter().chain(more).copied().collect();
        Background::start(shop.arguments("orders", &change))
    }
}

async fn shop_with_orders(rows: u64) -> Shop {
    let shop = shop().await;
    create_orders(&shop.client, rows).await.unwrap();
    shop
}

/// Until the test says so.
fn wait_for_go(folder: &Folder) -> String {
    let (here, go) = (folder.text("here-$PGWRAITH_EVENT"), folder.text("go-$PGWRAITH_EVENT"));
    format!("touch {here}; while ! test -e {go}; do sleep 0.05; done")
}

/// The locks that our sessions have on the table, beyond what reading takes.
const LOCKS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE a.application_name LIKE 'pgwraith/%' AND l.relation IN ('orders'::regclass, to_regclass('orders_v2')) \
    AND l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')";

/// All that a run without trouble calls, in order; while one runs nobody waits for us.
#[tokio::test]
async fn hooks_are_called_in_order_and_under_no_lock() {
    let shop = shop_with_orders(2_000).await;
    let mut folder = Folder::new();
    let go = wait_for_go(&folder);
    let in_order = ["before-start", "ready", "before-cutover", "after-cutover"];
    for name in in_order {
        folder = folder.hook(name, &format!("echo \"says $PGWRAITH_EVENT\"; {go}"));
    }
    let mut run = folder.run(&shop, &[]);
    for name in in_order {
        let here = folder.path(&format!("here-{name}"));
        harness::wait_until(name, SOON, async || here.exists()).await;
        assert_eq!(shop.value::<i64>(LOCKS).await, 0, "{name}");
        shop.exec("UPDATE orders SET note = 'meanwhile' WHERE id = 5").await;
        if name == "before-start" {
            assert!(leftovers(&shop.client).await.is_empty(), "nothing is made before that");
        }
        if name == "after-cutover" {
            let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots)";
            wait_for(&shop.client, &mut run, "the slot is gone", gone).await;
        }
        std::fs::write(folder.path(&format!("go-{name}")), "").unwrap();
    }
    let done = run.finish(SOON).await.expect_code(0);
    assert_eq!(folder.events(), in_order);
    for (event, facts) in folder.calls() {
        assert_eq!((&facts["event"], &facts["table"]), (&event.clone().into(), &"orders".into()));
        assert!(done.stderr.contains(&format!("hook {event}: says {event}\n")), "{done}");
        assert_eq!(facts["migration"].is_number(), event != "before-start", "{facts}");
    }
    let last = &folder.calls()[3].1;
    assert_eq!(last["stall_ms"], done.json()["cutover"]["stall_ms"], "{last}");
    assert_eq!(last["retired"], "\"public\".\"orders_old\"");
    let kept =
        "SELECT string_agg(detail, '; ' ORDER BY id) FROM pgwraith.event WHERE what = 'hook'";
    let kept: String = shop.value(kept).await;
    for name in &in_order {
        assert!(kept.contains(&format!("{name}: exit code 0 after ")), "{kept}");
    }
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders WHERE note = 'meanwhile'").await, 1);
}

#[tokio::test]
async fn before_start_refuses_a_run_before_anything_is_made() {
    let shop = shop_with_orders(10).await;
    let folder = Folder::new()
        .hook("before-start", "echo 'a freeze, until monday' >&2; exit 9")
        .hook("failed", "test \"$PGWRAITH_EXIT_CODE\" = 3 || exit 1");
    let refused = folder.run(&shop, &[]).finish(SOON).await.expect_code(3);
    assert!(refused.stderr.contains("hook before-start: a freeze, until monday\n"), "{refused}");
    assert!(refused.stderr.contains("hook before-start: exit code 9 after "), "{refused}");
    assert!(refused.stderr.contains("hook failed: exit code 0 after "), "{refused}");
    assert!(leftovers(&shop.client).await.is_empty());
    assert_eq!(folder.events(), ["before-start", "failed"]);

    // What preflight refuses is not asked for.
    let folder = folder.hook("before-start", "");
    shop.exec("CREATE TABLE orders_v2 (n int)").await;
    folder.run(&shop, &[]).finish(SOON).await.expect_code(3);
    assert_eq!(folder.events(), ["before-start", "failed", "failed"]);
}

/// The swap is put off, and comes once the hook agrees.
#[tokio::test]
async fn before_cutover_puts_the_swap_off() {
    let shop = shop_with_orders(100).await;
    let folder = Folder::new();
    let script = format!("test -e {} || exit 7", folder.text("agrees"));
    let folder = folder.hook("before-cutover", &script);
    let mut run = folder.run(&shop, &[]);
    run.wait_for_saying("the cutover waits: hook before-cutover: exit code 7 after ").await;
    assert_eq!(shop.value::<i64>(LOCKS).await, 0);
    shop.exec("UPDATE orders SET note = 'late' WHERE id = 5").await;
    let synced = "SELECT note = 'late' FROM orders_v2 WHERE id = 5";
    wait_for(&shop.client, &mut run, "the new table follows", synced).await;
    std::fs::write(folder.path("agrees"), "").unwrap();
    run.finish(SOON).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders WHERE note = 'late'").await, 1);
}

/// A hook that takes too long is a failure. After that `resume` goes on, without hooks unless they are given.
#[tokio::test]
async fn a_hook_that_never_agrees_ends_the_run_with_its_state_kept() {
    let shop = shop_with_orders(100).await;
    let folder = Folder::new().hook("before-cutover", "exec sleep 1000").hook("failed", "");
    let more = ["--cutover-patience", "1s", "--hook-timeout", "300ms"];
    let failed = folder.run(&shop, &more).finish(SOON).await.expect_code(1);
    assert!(failed.stderr.contains("hook before-cutover: killed after 0."), "{failed}");
    assert!(failed.stderr.contains("(--cutover-patience)"), "{failed}");
    assert!(failed.stderr.contains("`pgwraith resume orders` goes on"), "{failed}");
    let calls = folder.calls();
    let (event, facts) = calls.last().unwrap();
    assert_eq!((event.as_str(), &facts["exit_code"]), ("failed", &1.into()));
    assert!(facts["error"].as_str().unwrap().contains("hook before-cutover"), "{facts}");
    let called = folder.events().len();
    harness::run(["resume", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert_eq!(folder.events().len(), called, "the flag is not kept");
}

/// Nothing there to resume is a mistake of whoever typed it.
#[tokio::test]
async fn a_resume_of_nothing_calls_nobody() {
    let shop = shop_with_orders(10).await;
    let folder = Folder::new().hook("failed", "");
    let hooks = folder.0.path().display().to_string();
    harness::run(["resume", "orders", "-d", &shop.dsn, "--hooks", &hooks]).await.expect_code(2);
    assert_eq!(folder.events(), [""; 0]);
}

/// Over SQL or from the command line: it is as failed, and nobody misses the state that is gone.
#[tokio::test]
async fn an_abort_is_told_once_and_not_missed_in_the_state() {
    for by_sql in [true, false] {
        let shop = shop_with_orders(2_000).await;
        let folder = Folder::new().hook("failed", "").hook("stopped", "");
        let mut run = folder.run(&shop, &["--pause", "--chunk-rows", "100"]);
        run.wait_for_saying("paused by the operator").await;
        match by_sql {
            true => shop.exec("SELECT pgwraith.abort('orders')").await,
            false => {
                harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
            }
        }
        let aborted = run.finish(SOON).await.expect_code(6);
        assert_eq!(folder.events(), ["failed"], "{aborted}");
        assert!(!aborted.stderr.contains("is not in pgwraith.event"), "{aborted}");
    }
}

/// What a hook does is no reason not to stop; and nothing of it is left.
#[tokio::test]
async fn a_stop_ends_a_hook_that_hangs() {
    let shop = shop_with_orders(100).await;
    let folder = Folder::new();
    let script = format!("sleep 1000 & echo $! > {}; wait", folder.text("pid"));
    let folder = folder.hook("ready", &script).hook("stopped", "exit 1");
    let run = folder.run(&shop, &[]);
    let written =
        || std::fs::read_to_string(folder.path("pid")).is_ok_and(|pid| pid.ends_with('\n'));
    harness::wait_until("it hangs", SOON, async || written()).await;
    run.signal(libc::SIGTERM);
    let stopped = run.finish(SOON).await.expect_code(5);
    assert_eq!(folder.events(), ["ready", "stopped"]);
    assert!(stopped.stderr.contains("hook stopped: exit code 1 after "), "{stopped}");
    let pid = std::fs::read_to_string(folder.path("pid")).unwrap();
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    };
    let gone = async || state().is_none_or(|state| state == 'Z');
    harness::wait_until("what it started is gone", SOON, gone).await;
    let kept = "SELECT count(*) FROM pgwraith.event WHERE what = 'hook' AND detail LIKE 'stopped: exit code 1 %'";
    assert_eq!(shop.value::<i64>(kept).await, 1);
}

/// The copy rests, and the governor goes on, however long the hook takes.
#[tokio::test]
async fn a_run_that_waits_tells_why() {
    let shop = shop_with_orders(2_000).await;
    let folder = Folder::new().hook("throttled", "exec sleep 1000");
    let more = ["--throttle-query", "SELECT 1", "--chunk-rows", "100"];
    let mut run = folder.run(&shop, &more);
    harness::wait_until("it is called", SOON, async || !folder.calls().is_empty()).await;
    let (event, facts) = folder.calls().remove(0);
    assert_eq!(event, "throttled");
    assert!(facts["reason"].as_str().unwrap().contains("throttle-query: 1"), "{facts}");
    harness::run(["set", "orders", "-d", &shop.dsn, "throttle-query=SELECT 0"])
        .await
        .expect_code(0);
    run.wait_for_saying("it goes on").await;
    run.finish(SOON).await.expect_code(0);
    assert_eq!(folder.events(), ["throttled"]);
}

/// Before anything else, the server's address included.
#[tokio::test]
async fn hooks_that_can_never_be_called_are_refused() {
    let folder = Folder::new();
    let hooks = folder.0.path().display().to_string();
    let nowhere = format!("{hooks}/nowhere");
    let arguments = |hooks: &str| {
        ["run", "t", "-d", "host=127.0.0.1 port=1", "--rebuild", "--hooks", hooks]
            .map(str::to_owned)
    };
    let missing = harness::run(arguments(&nowhere)).await.expect_code(3);
    assert!(missing.stderr.contains(&nowhere), "{missing}");
    std::fs::write(folder.path("after-cutover"), "#!/bin/sh\n").unwrap();
    let refused = harness::run(arguments(&hooks)).await.expect_code(3);
    assert!(refused.stderr.contains("/after-cutover cannot be executed"), "{refused}");
}

/// Somebody who died between the swap and the hook leaves it to whoever goes on, and it is called once.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn after_cutover_is_called_by_whoever_goes_on() {
    let shop = shop_with_orders(100).await;
    let folder = Folder::new().hook("after-cutover", "");
    let hooks = folder.0.path().display().to_string();
    let arguments = shop.arguments("orders", &["--rebuild", "--hooks", &hooks]);
    let run = Background::start_with(&[("FAILPOINTS", "cutover committed=return")], arguments);
    let died = run.finish(SOON).await;
    assert_ne!(died.code, Some(0), "{died}");
    assert!(folder.events().is_empty());
    let resume = ["resume", "orders", "-d", &shop.dsn, "--hooks", &hooks];
    harness::run(resume).await.expect_code(0);
    assert_eq!(folder.events(), ["after-cutover"]);
}
