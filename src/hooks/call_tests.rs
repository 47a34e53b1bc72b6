//! Hooks that behave, and hooks that do not.

use std::sync::Mutex;

use super::*;

/// A folder with one hook, a shell script.
fn with(hook: Hook, script: &str, limit: Duration) -> (tempfile::TempDir, Hooks) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(hook.as_str());
    // Written by another process: one of ours that is forked meanwhile would keep it open for writing.
    let script = format!("cat > '{}' <<'END'\n#!/bin/sh\n{script}\nEND", path.display());
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = Hooks::find(folder.path(), limit).unwrap();
    (folder, hooks)
}

async fn call(hooks: &Hooks, hook: Hook, facts: Value) -> (Ended, Vec<String>) {
    let lines = Mutex::new(Vec::new());
    let facts = facts.as_object().cloned().unwrap();
    let ended = hooks.call(hook, &facts, |line| lines.lock().unwrap().push(line)).await;
    (ended.unwrap(), lines.into_inner().unwrap())
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_gets_what_it_should_know_and_is_heard() {
    let script = "cat; echo $PGWRAITH_EVENT $PGWRAITH_TABLE $PGWRAITH_PERCENT >&2; exit 3";
    let (_folder, hooks) = with(Hook::Failed, script, LIMIT);
    let facts = serde_json::json!({"table": "a b", "percent": 7});
    let (ended, mut lines) = call(&hooks, Hook::Failed, facts).await;
    lines.sort();
    assert!(!ended.is_good() && ended.to_string().starts_with("exit code 3 "), "{ended}");
    let sent = "hook failed: {\"event\":\"failed\",\"percent\":7,\"table\":\"a b\"}";
    assert_eq!(lines, ["hook failed: failed a b 7", sent]);
    assert!(hooks.call(Hook::Ready, &Map::new(), |_| ()).await.is_none());
}

/// It neither reads nor ends, and has started another that does not either.
#[tokio::test]
async fn after_its_time_it_is_killed_with_all_that_it_started() {
    let script = "sleep 1000 & echo $!; exec sleep 1000";
    let (_folder, hooks) = with(Hook::Ready, script, Duration::from_secs(1));
    let (ended, lines) = call(&hooks, Hook::Ready, serde_json::json!({})).await;
    assert!(ended.to_string().starts_with("killed after 1."), "{ended}");
    gone(lines[0].trim_start_matches("hook ready: ").parse().unwrap());
    assert!(hooks.running.lock().is_empty());
}

#[tokio::test]
async fn a_signal_is_no_success_and_what_it_started_does_not_keep_it() {
    let script = "sleep 1000 & echo $!; kill -9 $$";
    let (_folder, hooks) = with(Hook::Ready, script, LIMIT);
    let (ended, lines) = call(&hooks, Hook::Ready, serde_json::json!({})).await;
    assert!(!ended.is_good() && ended.to_string().starts_with("ended by signal 9 "), "{ended}");
    gone(lines[0].trim_start_matches("hook ready: ").parse().unwrap());
}

#[tokio::test]
async fn one_that_prints_without_end_does_not_fill_the_log() {
    let script = "yes | head -n 100000; head -c 100000 /dev/zero";
    let (_folder, hooks) = with(Hook::Ready, script, LIMIT);
    let (ended, lines) =
        call(&hooks, Hook::Ready, serde_json::json!({"big": "x".repeat(9999)})).await;
    assert!(ended.is_good(), "{ended}");
    assert_eq!(lines.len(), LINES + 1, "{lines:?}");
}

/// A process that was killed may be there for a moment yet, without doing anything.
fn gone(pid: i32) {
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while state().is_some_and(|state| state != 'Z') {
        assert!(Instant::now() < deadline, "{pid} goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_could_never_be_called_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let find = || Hooks::find(folder.path(), LIMIT).map_err(|e| e.to_string());
    assert!(find().unwrap().there.is_empty());
    std::fs::write(folder.path().join("readme"), "").unwrap();
    std::fs::write(folder.path().join("ready"), "").unwrap();
    assert!(find().unwrap_err().contains("/ready cannot be executed"));
    std::fs::remove_file(folder.path().join("ready")).unwrap();
    std::fs::create_dir(folder.path().join("stopped")).unwrap();
    assert!(find().unwrap_err().contains("/stopped cannot be executed"));
    std::fs::remove_dir(folder.path().join("stopped")).unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.path().join("failed")).unwrap();
    assert!(find().unwrap_err().contains("/failed cannot be executed"));
    let nowhere = Hooks::find(&folder.path().join("no"), LIMIT).unwrap_err();
    assert_eq!(nowhere.kind(), crate::error::Kind::Refused);
}
