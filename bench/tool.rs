//! What the benches share: a private server, the program with its result and peak memory, medians.

use std::process::{Command, Stdio};

use pgwraith::demo::cluster::{Cluster, ServerBinaries};
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One run of `pgwraith run … --json`.
pub struct ToolRun {
    pub json: Value,
    /// Peak resident memory of the program, in MB.
    #[allow(dead_code, reason = "not every bench prints it")]
    pub peak_mb: f64,
}

impl ToolRun {
    /// A number of the result, by its path.
    pub fn number(&self, pointer: &str) -> f64 {
        self.json.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }
}

/// A server that writes to disk as a real one does.
pub async fn server(settings: &[(&str, &str)]) -> Outcome<(Cluster, Client)> {
    let mut all = vec![("fsync", "on"), ("shared_buffers", "1GB"), ("max_wal_size", "8GB")];
    all.extend_from_slice(settings);
    let cluster = Cluster::start(&ServerBinaries::find()?, &all).await?;
    let (client, connection) = tokio_postgres::connect(&cluster.dsn("postgres"), NoTls).await?;
    tokio::spawn(connection);
    Ok((cluster, client))
}

/// Migrates a table and waits for it.
pub async fn migrate(cluster: &Cluster, table: &str, args: &[String]) -> Outcome<ToolRun> {
    let run = program(cluster, "run", table, args).await?;
    if run.json["outcome"] != "swapped" {
        return Err(format!("the run failed: {}", run.json).into());
    }
    Ok(run)
}

/// Rehearses that; the result's one object.
#[allow(dead_code, reason = "not every bench does")]
pub async fn rehearse(cluster: &Cluster, table: &str, args: &[String]) -> Outcome<Value> {
    let run = program(cluster, "dry-run", table, args).await?;
    if run.json["outcome"] != "rehearsed" {
        return Err(format!("the dry run failed: {}", run.json).into());
    }
    Ok(run.json)
}

async fn program(
    cluster: &Cluster,
    command: &str,
    table: &str,
    args: &[String],
) -> Outcome<ToolRun> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pgwraith"));
    program.args([command, table, "--json", "-d", &cluster.dsn("postgres")]).args(args);
    program.stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || run_measured(program)).await??)
}

fn run_measured(mut command: Command) -> std::io::Result<ToolRun> {
    let mut child = command.spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kb = 0.0;
    // The kernel keeps the peak itself; it is read until the process is gone.
    let watcher = std::thread::spawn(move || {
        while let Ok(text) = std::fs::read_to_string(&status) {
            let Some(kb) = peak_of(&text) else { break };
            peak_kb = kb;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        peak_kb
    });
    let mut stdout = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        std::io::Read::read_to_string(&mut pipe, &mut stdout)?;
    }
    child.wait()?;
    let peak_mb = watcher.join().unwrap_or(f64::NAN) / 1024.0;
    let json = stdout.lines().last().and_then(|l| serde_json::from_str(l).ok());
    Ok(ToolRun { json: json.unwrap_or(Value::Null), peak_mb })
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Where the time of the cutover's last attempt went.
#[allow(dead_code, reason = "not every bench prints it")]
pub const STEPS: [&str; 5] = ["lock", "look", "sync", "rename", "commit"];

/// The middle of the values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value of `--name VALUE` among the bench's own arguments.
pub fn flag(name: &str, default: u64) -> u64 {
    let mut args = std::env::args();
    args.find(|a| a == name);
    args.next().and_then(|v| v.parse().ok()).unwrap_or(default)
}
