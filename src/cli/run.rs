//! `pgwraith run`.

use serde_json::json;

use super::args::RunArgs;
use super::{resolve, signals};
use crate::change::Request;
use crate::error::{Error, Result};
use crate::migration::{Report, Run, Supervisor};
use crate::pg::Connector;
use crate::telemetry::{Show, Summary, Telemetry};

pub(super) async fn run(args: RunArgs) -> Result<()> {
    let prepared = prepare(&args);
    if let (true, Err(e)) = (args.json, &prepared) {
        println!("{}", failure(&args.table, e));
    }
    let (request, connector, supervisor) = prepared?;
    let settings = resolve::settings(&args);
    let telemetry = Telemetry::start(&args.table, Show::Progress);
    let run = Run {
        connector: &connector,
        table: &args.table,
        request: &request,
        settings: &settings,
        meter: telemetry.meter(),
        supervisor,
    };
    let done = run.migrate().await;
    let summary = telemetry.finish();
    if args.json {
        println!("{}", as_json(&args.table, &done, &summary));
    } else if let Ok(report) = &done {
        print!("{}", as_text(report, &summary));
    }
    done.map(drop)
}

/// What can be wrong before anything is asked of a server.
fn prepare(args: &RunArgs) -> Result<(Request, Connector, Supervisor)> {
    let request = resolve::request(args)?;
    let connector = resolve::connector(&args.connection)?;
    let supervisor = Supervisor::default();
    signals::watch(&supervisor)?;
    Ok((request, connector, supervisor))
}

/// The machine-readable word on an error.
pub(super) fn failure(table: &str, e: &Error) -> serde_json::Value {
    json!({
        "table": table, "outcome": "failed", "exit_code": e.kind().exit_code(), "error": e.to_string(),
    })
}

/// The machine-readable result: one object.
fn as_json(table: &str, done: &Result<Report>, summary: &Summary) -> serde_json::Value {
    let phases: serde_json::Map<String, serde_json::Value> = summary
        .phases
        .iter()
        .map(|(name, seconds)| (name.replace(' ', "_"), json!(seconds)))
        .collect();
    match done {
        Ok(report) => json!({
            "table": report.table, "outcome": "swapped", "retired": report.retired,
            "rows_copied": summary.rows_copied, "keys_synced": report.keys_synced,
            "chunks": summary.chunks, "chunk_p50_ms": summary.chunk_p50_ms,
            "chunk_p99_ms": summary.chunk_p99_ms,
            "phases": phases, "cutover": report.cutover, "verify": report.verify,
            "foreign_keys": report.foreign_keys,
        }),
        Err(e) => {
            let mut object = failure(table, e);
            object["rows_copied"] = json!(summary.rows_copied);
            object["phases"] = json!(phases);
            object
        }
    }
}

/// The same for people.
pub(super) fn as_text(report: &Report, summary: &Summary) -> String {
    let mut out = format!(
        "{} has its new shape; the old table is kept as {}\n",
        report.table, report.retired
    );
    for (phase, seconds) in &summary.phases {
        out.push_str(&format!("  {phase:<9} {seconds:8.1} s\n"));
    }
    let copy = summary.phases.iter().find(|(name, _)| *name == "copy").map_or(0.0, |p| p.1);
    out.push_str(&format!(
        "  copied    {} rows in {} chunks, {:.0} rows/s; chunk p50 {:.0} ms, p99 {:.0} ms\n",
        summary.rows_copied,
        summary.chunks,
        summary.rows_copied as f64 / copy.max(0.001),
        summary.chunk_p50_ms,
        summary.chunk_p99_ms
    ));
    out.push_str(&format!("  synced    {} changed keys\n", report.keys_synced));
    out.push_str(&format!(
        "  verified  {} rows in {} ranges, {} differed and were repaired\n",
        report.verify.rows, report.verify.ranges, report.verify.mismatches
    ));
    out.push_str(&format!(
        "  cutover   attempt {}, lock held {:.1} ms, application stalled at most {:.1} ms\n",
        report.cutover.attempts, report.cutover.lock_held_ms, report.cutover.stall_ms
    ));
    let steps = &report.cutover.steps;
    out.push_str(&format!(
        "            locks {:.1}, fence and look {:.1}, final sync {:.1}, names {:.1}, commit {:.1} ms\n",
        steps.lock_ms, steps.look_ms, steps.sync_ms, steps.rename_ms, steps.commit_ms
    ));
    if report.foreign_keys > 0 {
        out.push_str(&format!("  validated {} foreign keys\n", report.foreign_keys));
    }
    out
}
