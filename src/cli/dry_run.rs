//! `pgwraith dry-run`.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::DryRunArgs;
use super::run::failure;
use super::{resolve, signals};
use crate::error::{Error, Kind, Result};
use crate::hooks::Hooks;
use crate::migration::{
    Changes, Extent, Forecast, Live, MAX_SLOT_WAL, Rehearsed, Run, Seen, Span, Supervisor,
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
    let (rows, passed) = (seen.wanted(), copied.passed as f64);
    let mut lines = vec![format!(
        "  copied    {} of about {} rows ({:.1} %) from {} places of the key space in {:.1} s",
        thousands(copied.rows),
        thousands(rows as u64),
        passed * 100.0 / seen.rows.max(passed).max(1.0),
        copied.places,
        copied.seconds
    )];
    if let (Some(rows), Some(bytes)) = (copied.rows_per_second, copied.bytes_per_second) {
        let ms = |time: Option<f64>| time.unwrap_or_default();
        lines.push(format!(
            "            {} rows/s, {}/s; chunks p50 {:.0}, p90 {:.0}, p99 {:.0}, longest {:.0} ms",
            thousands(rows as u64),
            size(bytes),
            ms(copied.p50_ms),
            ms(copied.p90_ms),
            ms(copied.p99_ms),
            ms(copied.max_ms)
        ));
    }
    lines
}

fn phases(forecast: &Forecast) -> Vec<String> {
    let Some(total) = &forecast.total else {
        return vec![
            "  no rows were copied: what the whole table would take and need is unknown".to_owned(),
        ];
    };
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
    lines.push(line("in all", total));
    lines
}

fn needs(seen: &Seen, forecast: &Forecast) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(table), Some(indexes), Some(wal)) =
        (forecast.table_bytes, forecast.index_bytes, forecast.wal_bytes)
    {
        lines.push(format!(
            "  disk      {}: {} of rows, {} of indexes; {} of WAL besides, as much on each standby",
            size(table + indexes),
            size(table),
            size(indexes),
            size(wal)
        ));
    }
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
    told_of(&changes, forecast.converges)
}

fn told_of(changes: &Changes, converges: Option<bool>) -> String {
    let come = match changes.in_per_second {
        none if none <= 0.0 => "  changes   none came".to_owned(),
        few if few < 1.0 => "  changes   less than one key/s comes".to_owned(),
        some => format!("  changes   {} keys/s come", thousands(some.round() as u64)),
    };
    let applied = match (changes.out_per_second, converges) {
        (Some(out), Some(true)) => {
            format!(", {} keys/s are applied: it catches up", thousands(out as u64))
        }
        (Some(out), Some(false)) => format!(
            ", only {} keys/s are applied: it will NOT catch up; more --workers, or a calmer time",
            thousands(out as u64)
        ),
        // Nothing was copied.
        (Some(out), None) => format!(", {} keys/s are applied", thousands(out as u64)),
        (None, Some(_)) => {
            ", and all that had come were applied: it keeps up (they were too few to tell how many more it could)"
                .to_owned()
        }
        (None, None) if changes.in_per_second <= 0.0 => {
            ": how fast they are applied is unknown".to_owned()
        }
        (None, None) => format!(
            ", and {} that waited were not applied yet when the time for that was over (the throttle held it back, or \
             they clash): whether it catches up is unknown",
            thousands(changes.left)
        ),
    };
    come + &applied
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_copied_foretells_nothing() {
        let forecast = Forecast::default();
        let seen = Seen { rows: 1_000.0, ..Seen::default() };
        let rehearsed = Rehearsed { table: "t".to_owned(), seen, forecast };
        let text = as_text(&rehearsed);
        assert!(text.contains("what the whole table would take and need is unknown"), "{text}");
        assert!(!text.contains("disk") && !text.contains("rows/s"), "{text}");
        let json = as_json(&rehearsed);
        for unknown in ["total", "table_bytes", "index_bytes", "wal_bytes", "converges"] {
            assert_eq!(json["forecast"].get(unknown), Some(&Value::Null), "{unknown}: {json}");
        }
        assert_eq!(json["seen"]["copied"].get("rows_per_second"), Some(&Value::Null), "{json}");
    }

    #[test]
    fn it_says_why_it_cannot_say() {
        let text = |in_per_second, out_per_second, left, converges| {
            told_of(&Changes { in_per_second, out_per_second, left }, converges)
        };
        assert!(text(500.0, Some(9_000.0), 0, Some(true)).ends_with("it catches up"));
        assert!(text(500.0, Some(90.0), 0, Some(false)).contains("NOT catch up"));
        assert!(text(50.0, None, 0, Some(true)).contains("50 keys/s come, and all that had come"));
        assert!(text(0.3, None, 0, Some(true)).contains("less than one key/s comes, and all"));
        assert!(text(50.0, None, 7, None).contains("7 that waited were not applied"));
        assert!(text(0.0, None, 0, None).contains("none came: how fast"));
    }
}
