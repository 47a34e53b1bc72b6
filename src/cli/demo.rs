//! `pgwraith demo`: everything at once, on a private server.

use super::args::DemoArgs;
use super::{resolve, run, signals};
use crate::change::Request;
use crate::conninfo::ConnInfo;
use crate::demo::cluster::{Cluster, ServerBinaries};
use crate::demo::orders::create_orders;
use crate::demo::traffic::{Mix, Report as TrafficReport, Traffic};
use crate::error::{Error, Kind, Result};
use crate::hooks::Hooks;
use crate::migration::{Live, Run, Settings, Supervisor};
use crate::pg::Connector;
use crate::say;
use crate::telemetry::{Show, Telemetry};

const TABLE: &str = "public.orders";
const CHANGES: [&str; 2] =
    ["ALTER COLUMN id TYPE bigint", "ADD COLUMN region text NOT NULL DEFAULT 'eu'"];

pub(super) async fn demo(args: DemoArgs) -> Result<()> {
    let supervisor = Supervisor::default();
    signals::watch(&supervisor, &signals::left_behind(TABLE), &Hooks::default())?;
    let binaries = ServerBinaries::find()?;
    say::out_line(format!("starting a private PostgreSQL {}", binaries.major()));
    // Real disk writes, as on a real server.
    let settings = [("fsync", "on"), ("max_wal_size", "8GB"), ("shared_buffers", "512MB")];
    let cluster = supervisor.guard(Cluster::start(&binaries, &settings)).await?;
    let shown = supervisor.guard(show(&args, &cluster, &supervisor)).await;
    // Stops the server and removes its folder; blocking, so off the runtime's threads.
    let stopped = tokio::task::spawn_blocking(move || drop(cluster)).await;
    if stopped.is_err() {
        say::err("the private server could not be stopped");
    }
    shown
}

async fn show(args: &DemoArgs, cluster: &Cluster, supervisor: &Supervisor) -> Result<()> {
    let dsn = cluster.dsn("postgres");
    let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    say::out_line(format!("loading {} orders with three secondary indexes", args.rows));
    create_orders(&client, args.rows).await?;
    say::out_line(format!(
        "live traffic: {} sessions, about {} writes/s",
        args.sessions, args.rate
    ));
    let mix = Mix {
        sessions: usize::from(args.sessions),
        rate: Some(f64::from(args.rate) / f64::from(args.sessions)),
        ..Mix::default()
    };
    let traffic = Traffic::start(&dsn, TABLE, mix).await?;
    say::out_line(format!(
        "pgwraith run {TABLE} --alter \"{}\" --alter \"{}\"",
        CHANGES[0], CHANGES[1]
    ));
    say::out_line(
        "(sessions with a prepared SELECT * will once see PostgreSQL's own \"cached plan must not change result type\")",
    );
    let migrated = migrate(&dsn, supervisor).await;
    let report = traffic.stop().await?;
    say::out_line(migrated?);
    judge(&report, &client).await
}

async fn migrate(dsn: &str, supervisor: &Supervisor) -> Result<String> {
    let connector = Connector::new(ConnInfo::resolve(Some(dsn))?);
    let request = Request { alters: CHANGES.map(str::to_owned).to_vec(), ..Request::default() };
    let settings = Settings::default();
    let telemetry = Telemetry::start(TABLE, Show::Progress);
    let run = Run {
        connector: &connector,
        table: TABLE,
        settings: &settings,
        options: &serde_json::Value::Null,
        live: Live::new(settings.clone(), serde_json::Value::Null, resolve::reread),
        meter: telemetry.meter(),
        supervisor: supervisor.clone(),
        hooks: Hooks::default(),
    };
    let done = run.migrate(&request).await;
    let summary = telemetry.finish();
    done.map(|report| run::as_text(&report, &summary))
}

/// What the traffic saw, and whether every acknowledged write is there.
async fn judge(report: &TrafficReport, client: &tokio_postgres::Client) -> Result<()> {
    say::out_line(format!(
        "traffic: {} writes, {:.0}/s; p50 {:.1} ms, p99 {:.1} ms, longest stall {:.1} ms",
        report.writes,
        report.writes_per_second(),
        report.p50.as_secs_f64() * 1000.0,
        report.p99.as_secs_f64() * 1000.0,
        report.longest_stall.duration.as_secs_f64() * 1000.0
    ));
    say::out_line(format!(
        "         {} errors, {} times \"cached plan must not change result type\" (retried)",
        report.error_count, report.cached_plan_errors
    ));
    let oracle = report.verify(client, TABLE).await?;
    if oracle.is_ok() && report.anomaly_count == 0 && report.error_count == 0 {
        say::out_line(format!(
            "oracle:  {} touched rows checked, every acknowledged write is there",
            oracle.checked
        ));
        return Ok(());
    }
    for line in oracle.lost.iter().chain(&oracle.unexpected).chain(&report.anomalies).take(10) {
        say::err(format!("oracle: {line}"));
    }
    for error in report.errors.iter().take(10) {
        say::err(format!("traffic error: {} ({})", error.message, error.statement));
    }
    Err(Error::new(Kind::DataDiffers, "the traffic's oracle found something wrong"))
}
