//! What cannot be written changes nothing of what was done: neither that, nor the exit code.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness;
use crate::scene::{SOON, Shop, shop};

/// A stream that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    OwnedFd::from(writer).into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The exit code, and what was said on standard error where somebody reads it.
async fn run(shop: &Shop, given: &[&str], streams: (Stdio, Stdio)) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::from(harness::pgwraith());
    command.args(given).args(["-d", &shop.dsn]).stdout(streams.0).stderr(streams.1);
    let output = command.spawn().unwrap().wait_with_output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `pgwraith status --watch | head`.
#[tokio::test]
async fn a_watch_ends_once_nobody_reads_it() {
    let shop = shop().await;
    shop.exec("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let held = shop.held("verify", "a", &["--rebuild"]).await;
    for more in [&[][..], &["--json"], &["nothing"]] {
        let given: Vec<&str> = ["status", "--watch"].iter().chain(more).copied().collect();
        let code = if more == ["nothing"] { 2 } else { 0 };
        let ended = tokio::time::timeout(SOON, run(&shop, &given, (closed(), Stdio::piped())));
        let (is, said) = ended.await.expect("it goes on for ever");
        assert_eq!(is, Some(code), "{given:?}: {said}");
    }
    // Somebody reads a line of it.
    let mut command = tokio::process::Command::from(harness::pgwraith());
    command.args(["status", "--watch", "-d", &shop.dsn]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut watch = command.spawn().unwrap();
    let mut read = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = read.next_line().await.unwrap().unwrap();
    assert!(first.contains("VERIFY"), "{first}");
    drop(read);
    let ended = tokio::time::timeout(SOON, watch.wait()).await.expect("it goes on for ever");
    assert_eq!(ended.unwrap().code(), Some(0));
    held.finish().await.expect_code(0);
}

#[tokio::test]
async fn a_result_that_nobody_reads_is_the_same() {
    let shop = shop().await;
    let again = "DROP TABLE IF EXISTS a_old, a; CREATE TABLE a (id int PRIMARY KEY); \
                 INSERT INTO a SELECT generate_series(1, 1000)";
    let rebuild = ["run", "a", "--rebuild"];
    for more in [&[][..], &["--json"]] {
        let given: Vec<&str> = rebuild.iter().chain(more).copied().collect();
        shop.exec(again).await;
        let (code, said) = run(&shop, &given, (closed(), Stdio::piped())).await;
        assert_eq!((code, said.contains("panicked")), (Some(0), false), "{said}");
        shop.exec(again).await;
        let (code, said) = run(&shop, &given, (full(), Stdio::piped())).await;
        assert_eq!((code, said.contains("panicked")), (Some(0), false), "{said}");
        assert!(said.contains("cannot be written to standard output: No space left"), "{said}");
        // It tells of its phases, too, and of what it logs.
        shop.exec(again).await;
        let loud: Vec<&str> = ["--log", "trace"].iter().chain(&given).copied().collect();
        for stderr in [closed(), full()] {
            shop.exec(again).await;
            assert_eq!(run(&shop, &loud, (closed(), stderr)).await.0, Some(0), "{loud:?}");
            assert_eq!(shop.value::<i64>("SELECT count(*) FROM a_old").await, 1000);
        }
    }
    for stderr in [closed(), full()] {
        assert_eq!(run(&shop, &["abort", "a"], (closed(), stderr)).await.0, Some(2));
    }
    for (given, code) in
        [(&["cleanup"][..], 0), (&["cleanup", "--json"], 0), (&["abort", "a", "--json"], 2)]
    {
        assert_eq!(run(&shop, given, (full(), full())).await.0, Some(code), "{given:?}");
    }
}
