//! What every integration test needs: a cluster of its own, a connection, the program, a way to
//! wait for something.
//!
//! Not every helper is used by every stage of the suite, hence the `allow`.
#![allow(dead_code, unused_imports)]

mod background;
mod program;
mod proxy;
mod small_disk;
mod state;

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant};

use pgwraith::demo::cluster::{Cluster, ServerBinaries};
use tokio_postgres::{Client, NoTls};

pub use background::{Background, run, run_within};
pub use program::{ANY_WAY, Output, pgwraith};
pub use proxy::{Fault, Proxy, Toward, When};
pub use small_disk::SmallDisk;
pub use state::{Failpoint, leftovers, make_state, phase, wait_for_phase, wait_for_sql};

const POLL: Duration = Duration::from_millis(10);

/// A cluster for this test alone.
pub async fn cluster() -> Cluster {
    cluster_with(&[]).await
}

/// A cluster with more settings.
pub async fn cluster_with(settings: &[(&str, &str)]) -> Cluster {
    let binaries = ServerBinaries::find().unwrap_or_else(|e| panic!("{e}"));
    Cluster::start(&binaries, settings).await.unwrap_or_else(|e| panic!("{e}"))
}

/// A new database on the cluster; its connection string.
pub async fn database(cluster: &Cluster, name: &str) -> String {
    let admin = connect(&cluster.dsn("postgres")).await;
    let statement = format!("CREATE DATABASE {}", pgwraith::pg::quote_ident(name));
    admin.batch_execute(&statement).await.unwrap();
    cluster.dsn(name)
}

/// Whether the servers of this run are of version `major` or newer. Where they are not, says so, past
/// what captures a test's output: the caller's test then ends without having tested anything.
pub fn since(major: u32) -> bool {
    let found = ServerBinaries::find().unwrap_or_else(|e| panic!("{e}")).major();
    if found < major {
        skipped(&format!("needs PostgreSQL {major}, these servers are {found}"));
    }
    found >= major
}

/// Says, past what captures a test's output, that the calling test does not test anything.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let text = format!("SKIPPED: {name} {why}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// A session; its connection is served by a task and ends when the client is dropped.
pub async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls)
        .await
        .unwrap_or_else(|e| panic!("no connection to {dsn}: {e:?}"));
    tokio::spawn(async move { connection.await.ok() });
    client
}

/// A connection, where the server gives one.
pub async fn try_connect(dsn: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.ok()?;
    tokio::spawn(async move { connection.await.ok() });
    Some(client)
}

/// Polls `condition` until it holds; panics, saying `what` was waited for, after `limit`.
pub async fn wait_until<F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}
