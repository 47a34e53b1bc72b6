//! `pgwraith dry-run`.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::DryRunArgs;
use super::run::failure;
use super::{resolve, signals};
use crate::error::{Error, Kind, Result};
use crate::hooks::Hooks;
use crate::migration::{
    Extent, Forecast, Live, MAX_SLOT_WAL, Rehearsed, Run, Seen, Span, Supervisor,
};
use crate::pg::shell_word;
use crate::say;
use crate::say::{bytes, time};
use crate::telemetry::{Show, Telemetry, thousands};

/// So long rows are copied where nothing else is said.
const TIME: Duration = Duration::from_secs(60);
/// What presses may hold a share up for as long as it likes.
const TIME_FOR_A_SHARE: Duration = Duration::from_secs(3600);

pub(super) async fn dry_run(args: DryRunArgs) -> Result<()> {
    let done = rehearse(&args).await;
    let told = match &done {
        Ok(rehearsed) if args.json => as_json(rehearsed).to_string() + "\n",
        Ok(rehearsed) => as_text(rehearsed),
        Err(e) if args.json => failure(&args.table, e).to_string() + "\n",
        Err(_) => String::new(),
    };
    say::out(told);
    match done?.seen.misfits.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(Kind::DataDiffers, format!("a run would fail: {first}"))
            .state("Nothing was changed; everything of the dry run is removed")
            .next("Correct the data or the change (USING, --map, a default)")),
    }
}

async fn rehearse(args: &DryRunArgs) -> Result<Rehearsed> {
    let supervisor = Supervisor::default();
    let left = format!("`pgwraith abort {}` removes what is left", shell_word(&args.table));
    // They are for migrations.
    let hooks = Hooks::default();
    signals::watch(&supervisor, &left, &hooks)?;
    let request = resolve::request(&args.change)?;
    let connector = resolve::connector(&args.connection)?;
    let mut limits = args.limits.clone();
    limits.max_slot_wal = limits.max_slot_wal.or(Some(MAX_SLOT_WAL));
    let options = resolve::kept(&limits)?;
    let settings = resolve::settings(&limits, resolve::consent(&args.change));
    let telemetry = Telemetry::start(&args.table, Show::Progress);
    let run = Run {
        connector: &connector,
        table: &args.table,
        settings: &settings,
        options: &options,
        live: Live::new(settings.clone(), options.clone(), resolve::reread),
        meter: telemetry.meter(),
        supervisor,
        hooks,
    };
    let usual = if args.share.is_some() { TIME_FOR_A_SHARE } else { TIME };
    let extent = Extent { time: args.time.unwrap_or(usual), share: args.share };
    let done = run.rehearse(&request, extent, !args.no_capture).await;
    telemetry.finish();
    done
}

fn as_json(rehearsed: &Rehearsed) -> Value {
    let Rehearsed { table, seen, forecast } = rehearsed;
    let phases: serde_json::Map<String, Value> =
        forecast.phases.iter().map(|(name, span)| ((*name).to_owned(), json!(span))).collect();
    let mut forecast = json!(forecast);
    forecast["phases"] = json!(phases);
    json!({"table": table, "outcome": "rehearsed", "seen": seen, "forecast": forecast})
}

fn as_text(rehearsed: &Rehearsed) -> String {
    let Rehearsed { table, seen, forecast } = rehearsed;
    let mut lines = vec![format!("{table}: rehearsed, nothing was changed, everything is removed")];
    lines.extend(copied(seen));
    lines.extend(phases(forecast));
    lines.extend(needs(seen, forecast));
    lines.extend(protection(seen));
    lines.push(changes(seen, forecast));
    lines.extend(lock(seen));
    lines.extend(seen.misfits.iter().map(|what| format!("  does not fit: {what}")));
    lines.extend(seen.warnings.iter().map(|what| format!("  note: {what}")));
    lines.join("\n") + "\n"
}

fn copied(seen: &Seen) -> Vec<String> {
    let copied = &seen.copied;
    let rows = seen.rows.max(copied.rows as f64);
    vec![
        format!(
            "  copied    {} of about {} rows ({:.1} %) from {} places of the key space in {:.1} s",
            thousands(copied.rows),
            thousands(rows as u64),
            copied.rows as f64 * 100.0 / rows.max(1.0),
            copied.places,
            copied.seconds
        ),
        format!(
            "            {} rows/s, {}/s; chunks p50 {:.0}, p90 {:.0}, p99 {:.0}, longest {:.0} ms",
            thousands(copied.rows_per_second as u64),
            size(copied.bytes_per_second),
            copied.p50_ms,
            copied.p90_ms,
            copied.p99_ms,
            copied.max_ms
        ),
    ]
}

fn phases(forecast: &Forecast) -> Vec<String> {
    if forecast.phases.is_empty() {
        return vec!["  no rows were copied: nothing can be said of the time".to_owned()];
    }
    let line = |name: &str, span: &Span| {
        format!(
            "  {name:<9} about {} ({} to {})",
            time(span.seconds),
            time(span.least),
            time(span.most)
        )
    };
    let mut lines = vec!["  the whole table would take".to_owned()];
    lines.extend(forecast.phases.iter().map(|(name, span)| line(name, span)));
    lines.push(line("in all", &forecast.total));
    lines
}

fn needs(seen: &Seen, forecast: &Forecast) -> Vec<String> {
    let mut lines = vec![format!(
        "  disk      {}: {} of rows, {} of indexes; {} of WAL besides, as much on each standby",
        size(forecast.table_bytes + forecast.index_bytes),
        size(forecast.table_bytes),
        size(forecast.index_bytes),
        size(forecast.wal_bytes)
    )];
    if let Some(held) = forecast.slot_bytes {
        lines.push(format!(
            "  slot      holds back about {} at most, while the largest index is built ({}/s of WAL were \
             written without us)",
            size(held),
            size(seen.wal_per_second)
        ));
    }
    lines
}

fn protection(seen: &Seen) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut lines: Vec<String> = seen
        .signals
        .iter()
        .map(|s| {
            format!(
                "  {}: at most {} before, {} during the copy",
                s.name,
                text(&s.before),
                text(&s.during)
            )
        })
        .collect();
    if !seen.signals.iter().any(|s| s.name == "probe") {
        lines.push("  probe     none: a table of less than 64 MB is copied in seconds".to_owned());
    }
    lines.extend(seen.throttled.iter().map(|(by, share)| {
        format!("  throttle  {:.0} % of the time was given to {by}", share * 100.0)
    }));
    if seen.throttled.is_empty() {
        lines.push("  throttle  nothing held the copy back".to_owned());
    }
    lines
}

fn changes(seen: &Seen, forecast: &Forecast) -> String {
    let Some(changes) = seen.changes else {
        return "  changes   not captured: nothing is known of catching up, verification and the cutover"
            .to_owned();
    };
    let come = thousands(changes.in_per_second.round() as u64);
    match (changes.out_per_second, forecast.converges) {
        (Some(out), Some(true)) => {
            format!(
                "  changes   {come} keys/s come, {} keys/s are applied: it catches up",
                thousands(out as u64)
            )
        }
        (Some(out), _) => format!(
            "  changes   {come} keys/s come, only {} keys/s are applied: it will NOT catch up; more --workers, or \
             a calmer time",
            thousands(out as u64)
        ),
        (None, _) => {
            format!("  changes   {come} keys/s come: too few to say how fast they can be applied")
        }
    }
}

fn lock(seen: &Seen) -> Vec<String> {
    let Some(cutover) = &seen.cutover else { return Vec::new() };
    if let Some(obstacle) = &cutover.obstacle {
        return vec![format!("  cutover   would have had to wait: {obstacle}")];
    }
    let mut lines = vec![format!(
        "  cutover   lock of {:.0} ms or somewhat more with nobody in the way (fence p50 {:.1}, longest {:.1} ms; {} statements), \
         taken in this order:",
        cutover.lock_ms, cutover.fence_p50_ms, cutover.fence_max_ms, cutover.statements
    )];
    lines.extend(cutover.locks.iter().map(|sql| format!("            {sql}")));
    lines
}

/// Of an estimate.
fn size(n: f64) -> String {
    bytes(n as i64)
}
