//! What the application feels of a migration: pgbench at a fixed rate, about half of what the machine can do, on
//! tables of which the largest is rebuilt meanwhile. Prints the 99th percentile of its latency during the copy as
//! a ratio to that without a migration, with the throttle, without it, and for pg_repack where it is
//! installed; and how fast the copy went. Medians of several rounds, in each of which all are run.
//!
//! The server has been at work for a while, as any that somebody cares for: it has log files to use again. A new
//! one has to fill each of its first with zeros, 16 MB that every commit waits for, whoever writes. With
//! `--new-log 1` it is such a one.
//!
//!     cargo bench --bench application -- [--scale 40] [--rounds 3] [--seconds 20] [--new-log 0]

mod tool;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwraith::demo::cluster::{Cluster, ServerBinaries};
use tokio_postgres::Client;
use tool::{Outcome, flag, median, migrate, server};

const TABLE: &str = "public.pgbench_accounts";
const CLIENTS: &str = "4";
/// No signal presses.
const UNTHROTTLED: [&str; 2] = ["--max-probe-latency", "1h"];

/// A time span of the wall clock, in seconds.
type Span = (f64, f64);

struct Bench {
    cluster: Cluster,
    client: Client,
    programs: PathBuf,
    folder: tempfile::TempDir,
    rate: u64,
}

/// Ratios of one way, of each round.
#[derive(Default)]
struct Ratios {
    p99: Vec<f64>,
    rows_per_second: Vec<f64>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let (scale, rounds, seconds) =
        (flag("--scale", 40), flag("--rounds", 3), flag("--seconds", 20));
    let settings = [("maintenance_work_mem", "256MB"), ("min_wal_size", "6GB")];
    let (cluster, client) = server(&settings).await?;
    if flag("--new-log", 0) == 0 {
        wear_in(&client).await?;
    }
    let programs = ServerBinaries::find()?.folder().join("pgbench");
    let folder = tempfile::tempdir()?;
    let mut bench = Bench { cluster, client, programs, folder, rate: 0 };
    bench.pgbench(&["-i", "-q", "-s", &scale.to_string()])?.wait()?;
    bench.rate = bench.most(seconds)? / 2;
    println!("pgbench, scale {scale}, {CLIENTS} clients, {} transactions a second", bench.rate);
    let (mut with, mut without, mut repack) =
        (Ratios::default(), Ratios::default(), Ratios::default());
    for round in 1..=rounds {
        let calm = bench.calm(seconds).await?;
        println!("round {round}: calm p99 {calm:.1} ms");
        for (name, args, ratios) in
            [("throttled", &[][..], &mut with), ("unthrottled", &UNTHROTTLED, &mut without)]
        {
            let (p99, speed) = bench.migrated(args).await?;
            println!(
                "  {name}: p99 {p99:.1} ms in the copy, {:.2} of calm; {speed:.0} rows/s",
                p99 / calm
            );
            ratios.p99.push(p99 / calm);
            ratios.rows_per_second.push(speed);
        }
        match bench.repacked().await? {
            None => println!("  pg_repack: SKIPPED, it is not installed (postgresql-15-repack)"),
            Some(p99) => {
                println!("  pg_repack: p99 {p99:.1} ms in all of it, {:.2} of calm", p99 / calm);
                repack.p99.push(p99 / calm);
            }
        }
    }
    let share = median(with.rows_per_second) / median(without.rows_per_second);
    println!(
        "median p99 to calm: throttled {:.2}, unthrottled {:.2}",
        median(with.p99),
        median(without.p99)
    );
    if !repack.p99.is_empty() {
        println!("median p99 to calm: pg_repack {:.2}", median(repack.p99));
    }
    println!("median speed of the copy, throttled to unthrottled: {share:.2}");
    Ok(())
}

/// Writes log until there are files of it to use again, for all that follows.
async fn wear_in(client: &Client) -> Outcome<()> {
    client.batch_execute("CREATE TABLE public.worn (t text)").await?;
    for _ in 0..20 {
        let rows =
            "INSERT INTO public.worn SELECT repeat('x', 900) FROM generate_series(1, 200000)";
        client.batch_execute(rows).await?;
        client.batch_execute("TRUNCATE public.worn").await?;
    }
    client.batch_execute("DROP TABLE public.worn").await?;
    client.batch_execute("CHECKPOINT").await?;
    // The files of before the last checkpoint but one are free.
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

impl Bench {
    fn pgbench(&self, args: &[&str]) -> Outcome<Child> {
        let mut command = Command::new(&self.programs);
        command.args(args).arg(self.cluster.dsn("postgres"));
        command.current_dir(self.folder.path());
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
    }

    /// Transactions a second, as fast as they go.
    fn most(&self, seconds: u64) -> Outcome<u64> {
        let time = seconds.to_string();
        let output = self.pgbench(&["-n", "-c", CLIENTS, "-T", &time])?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("tps = "));
        let tps: f64 = line.and_then(|l| l.split(' ').next()).unwrap_or("").parse()?;
        Ok(tps as u64)
    }

    /// At the fixed rate, each transaction logged, until it is ended.
    fn steady(&self, log: &str, seconds: u64) -> Outcome<Child> {
        let (rate, time) = (self.rate.to_string(), seconds.to_string());
        let prefix = format!("--log-prefix={log}");
        self.pgbench(&["-n", "-c", CLIENTS, "-T", &time, "--rate", &rate, "-l", &prefix])
    }

    /// What was done before is on disk first: it is not what calm is about.
    async fn calm(&self, seconds: u64) -> Outcome<f64> {
        self.client.batch_execute("CHECKPOINT").await?;
        self.forget_logs()?;
        self.steady("calm", seconds)?.wait()?;
        percentile(self.folder.path(), "calm", (0.0, f64::MAX))
    }

    /// The percentile during the copy, and the copy's rows a second.
    async fn migrated(&self, more: &[&str]) -> Outcome<(f64, f64)> {
        self.forget_logs()?;
        let mut load = self.steady("run", 3600)?;
        let args: Vec<String> =
            ["--rebuild"].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let run = migrate(&self.cluster, TABLE, &args).await;
        let end = now();
        load.kill()?;
        load.wait()?;
        let run = run?;
        let after: f64 = ["index", "catch_up", "verify", "cutover", "validate"]
            .map(|phase| run.number(&format!("/phases/{phase}")))
            .into_iter()
            .filter(|seconds| seconds.is_finite())
            .sum();
        let (copy_end, copy) = (end - after, run.number("/phases/copy"));
        let p99 = percentile(self.folder.path(), "run", (copy_end - copy, copy_end))?;
        self.client.batch_execute("DROP TABLE public.pgbench_accounts_old; CHECKPOINT").await?;
        Ok((p99, run.number("/rows_copied") / copy))
    }

    async fn repacked(&self) -> Outcome<Option<f64>> {
        let program = self.programs.with_file_name("pg_repack");
        if !program.exists() {
            return Ok(None);
        }
        self.client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_repack").await?;
        self.forget_logs()?;
        let mut load = self.steady("repack", 3600)?;
        let began = now();
        let mut command = Command::new(program);
        // It takes no connection string.
        let port = self.cluster.port().to_string();
        command.args([
            "--table",
            "pgbench_accounts",
            "--host",
            "127.0.0.1",
            "--username",
            "postgres",
        ]);
        command.args(["--dbname", "postgres", "--port", &port]);
        let output = command.stdin(Stdio::null()).output()?;
        let span = (began, now());
        load.kill()?;
        load.wait()?;
        if !output.status.success() {
            return Err(format!("pg_repack: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        percentile(self.folder.path(), "repack", span).map(Some)
    }

    fn forget_logs(&self) -> Outcome<()> {
        for entry in std::fs::read_dir(self.folder.path())? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// In milliseconds, of the transactions that ended in the span: from when each should have begun, so that one
/// that had to wait for another counts as long as its user waited.
fn percentile(folder: &Path, log: &str, span: Span) -> Outcome<f64> {
    let mut times = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(log)) {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            // client, transaction, microseconds, script, second, microsecond, microseconds late.
            let fields: Vec<f64> = line.split(' ').filter_map(|f| f.parse().ok()).collect();
            let [_, _, took, _, second, micro, ..] = fields[..] else { continue };
            let end = second + micro / 1e6;
            if end >= span.0 && end <= span.1 {
                times.push(took / 1000.0);
            }
        }
    }
    times.sort_by(f64::total_cmp);
    let at = times.len() * 99 / 100;
    times.get(at).copied().ok_or_else(|| "no transaction was logged".into())
}
