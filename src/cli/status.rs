//! `pgwraith status`: its first lines answer whether the application is hurt, whether anybody is needed, whether
//! the run may be stopped, and what it holds.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::StatusArgs;
use super::resolve;
use super::run::failure;
use crate::error::{Error, Kind, Result};
use crate::migration::{self, Status};
use crate::pg::shell_word;
use crate::say;

/// How often it is shown anew.
const EVERY: Duration = Duration::from_secs(2);

pub(super) async fn status(args: StatusArgs) -> Result<()> {
    let told = tell(&args).await;
    if let (true, Err(e)) = (args.json, &told) {
        say::out_line(failed(&args, e));
    }
    told
}

fn failed(args: &StatusArgs, e: &Error) -> Value {
    let mut object = failure("", e);
    object["table"] = json!(args.table);
    object
}

async fn tell(args: &StatusArgs) -> Result<()> {
    let connector = resolve::connector(&args.connection)?;
    let mut seen = false;
    loop {
        let heard = match migration::status(&connector, args.table.as_deref()).await {
            Ok(all) => {
                seen |= !all.is_empty();
                show(&all, args.json)
            }
            // Whoever watches it to its end has seen that.
            Err(e) if args.watch && seen && e.kind() == Kind::Usage => {
                match args.json {
                    true => show(&[], true),
                    false => say::out_line(
                        "it is not under way any more: see pgwraith.migration, or the run's report",
                    ),
                };
                return Ok(());
            }
            // The run goes on by itself, too.
            Err(e) if args.watch && e.is_connection_lost() => match args.json {
                true => say::out_line(failed(args, &e)),
                false => say::out_line(format_args!("{e}")),
            },
            Err(e) => return Err(e),
        };
        // As in `… --watch | head`: whoever wanted to know has seen enough.
        if !args.watch || !heard {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Returns whether anybody heard it.
fn show(all: &[Status], as_json: bool) -> bool {
    if as_json {
        let all: Vec<Value> = all.iter().map(as_value).collect();
        return say::out_line(json!({ "migrations": all }));
    }
    match all.is_empty() {
        true => say::out_line("no migration is under way in this database"),
        false => all.iter().all(|status| say::out_line(as_text(status))),
    }
}

/// The same for programs, with what follows from it in words.
fn as_value(s: &Status) -> Value {
    let mut value = json!(s);
    value["needs_you"] = json!(needed(s, &shell_word(&s.source)));
    value["application"] = json!(application(s));
    value["converges"] = json!(convergence(s));
    value
}

fn as_text(s: &Status) -> String {
    let table = shell_word(&s.source);
    let percent = s.percent.map(|p| format!(" {p:.0} %")).unwrap_or_default();
    let stop = match s.phase.as_str() {
        "done" => "the names are swapped",
        "in place" => "table in use: safe to stop",
        _ => "old table in use: safe to stop",
    };
    let application = application(s);
    let shadow = s.shadow.as_ref().map(|shadow| format!(" → {shadow}")).unwrap_or_default();
    let at = s.step.as_ref().map(|step| format!(" step {} of {}", step.number, step.of));
    let mut lines = vec![format!(
        "{}{shadow}   {}{}{percent}   {application}   {stop}",
        s.source,
        s.phase.to_uppercase(),
        at.unwrap_or_default()
    )];
    lines.extend(s.step.as_ref().map(|step| format!("step: {}", step.sql)));
    lines.push(format!("needs you: {}", needed(s, &table)));
    lines.push(match &s.run_by {
        Some(by) => format!("run by {by}"),
        None => "nobody runs it".to_owned(),
    });
    if s.run_by.is_some() {
        let reason = s.reason.as_deref().unwrap_or("why it is not faster is unknown");
        let eta = match (s.percent, &s.eta) {
            (None, _) => String::new(),
            (_, Some(eta)) => format!("; ETA of the phase {eta}"),
            (_, None) => "; ETA unknown".to_owned(),
        };
        lines.push(format!("{:.0} rows/s in the last minute; {reason}{eta}", s.rows_per_second));
    }
    lines.push(format!("we hold: {}", held(s)));
    lines.extend(keys(s));
    lines.extend(disk(s));
    lines.extend(next(s, &table));
    if let Some(event) = &s.last_event {
        lines.push(format!("last: {event}"));
    }
    let pause = if s.paused { "off" } else { "on" };
    lines.push(format!(
        "pause: pgwraith set {table} pause={pause}    abort: pgwraith abort {table}"
    ));
    lines.join("\n  ") + "\n"
}

/// Signals that tell how the application fares.
const OF_APPLICATION: [&str; 5] =
    ["probe", "probe-commit", "average-active", "backlog", "lock-waiters"];

/// Whether it is hurt: it waits for a lock of ours, or is slower than it may be.
fn application(s: &Status) -> String {
    if s.blocks {
        return "APPLICATION WAITS FOR US".to_owned();
    }
    let fresh = s.signals_are_fresh && s.run_by.is_some();
    let over = s
        .signals
        .iter()
        .filter(|x| {
            OF_APPLICATION.contains(&x.signal.as_str()) && x.share.is_some_and(|n| n >= 1.0)
        })
        .max_by(|a, b| a.share.unwrap_or(0.0).total_cmp(&b.share.unwrap_or(0.0)));
    let probed = s.signals.iter().any(|x| x.signal == "probe");
    match over {
        Some(signal) if fresh => {
            format!("application SLOWED ({}: {})", signal.signal, signal.text)
        }
        _ if fresh && !probed => "application OK (not probed)".to_owned(),
        _ => "application OK".to_owned(),
    }
}

/// How the changed keys stand, and whether that comes to an end.
fn keys(s: &Status) -> Option<String> {
    let waiting = s.keys.waiting?;
    let mut line = format!("changed keys: {waiting} wait");
    if let (Some(come), Some(go)) = (s.keys.in_per_second, s.keys.out_per_second) {
        line.push_str(&format!(", {come:.0}/s come, {go:.0}/s are applied"));
    }
    line.extend(convergence(s).map(|told| format!(": {told}")));
    Some(line)
}

/// Whether keys are applied faster than they come, where that is a question.
fn convergence(s: &Status) -> Option<String> {
    let waiting = s.keys.waiting.filter(|n| *n > FEW && s.run_by.is_some())?;
    match s.phase.as_str() {
        "index" => Some("they are applied once the first indexes are there".to_owned()),
        "catch up" | "verify" | "cutover" => {
            let faster = s.keys.out_per_second? - s.keys.in_per_second?;
            Some(match faster > 0.0 {
                true => format!("converges in {:.0} s", waiting as f64 / faster),
                false => "does NOT converge; more workers, or a calmer time".to_owned(),
            })
        }
        // Nobody applies them yet.
        _ => None,
    }
}

/// So few keys come and go all the time.
const FEW: i64 = 1000;

fn disk(s: &Status) -> Option<String> {
    let migration::Disk { shadow: now, source: end, .. } = s.disk?;
    Some(format!(
        "disk: the new table has {} now, at the end about {}; how much is free is unknown",
        say::bytes(now),
        say::bytes(end.max(now))
    ))
}

/// What comes behind the phase.
fn next(s: &Status, table: &str) -> Option<String> {
    let order = ["copy", "index", "catch up", "verify", "cutover"];
    let at = order.iter().position(|phase| *phase == s.phase)?;
    let mut steps: Vec<String> = order[at + 1..]
        .iter()
        .filter(|phase| **phase != "cutover" && **phase != "catch up")
        .map(|phase| match *phase {
            "index" => index(s),
            other => match s.verify_seconds {
                Some(seconds) => format!("{other} about {}", say::time(seconds)),
                None => other.to_owned(),
            },
        })
        .collect();
    steps.push(match (s.postponed, &s.cutover_window) {
        (true, _) => format!("waits for `pgwraith cutover {table}`"),
        (_, Some(window)) => format!("swaps in {window}"),
        _ => "swaps".to_owned(),
    });
    Some(format!("next: {}", steps.join(", then ")))
}

fn index(s: &Status) -> String {
    let time = s.index_seconds.map(|seconds| format!(" about {}", say::time(seconds)));
    let time = time.unwrap_or_else(|| ", for how long is unknown".to_owned());
    match (s.indexes_before, s.disk) {
        (true, _) => format!("VACUUM{time} (cannot pause; the indexes are there)"),
        (_, Some(disk)) => {
            format!("index{time} (cannot pause, about {} of WAL)", say::bytes(disk.indexes))
        }
        (_, None) => format!("index{time} (cannot pause)"),
    }
}

fn needed(s: &Status, table: &str) -> String {
    if s.run_by.is_none() {
        return unattended(s, table);
    }
    match (s.blocked_by.split_first(), &s.lock_waits) {
        (Some((first, _)), _) => format!("{first} keeps it waiting"),
        _ if s.silent_seconds.is_some() => silent(s),
        _ if s.paused => "it is paused".to_owned(),
        _ if s.postponed && s.phase == "cutover" => {
            format!("it waits for `pgwraith cutover {table}`")
        }
        (None, Some(why)) => why.clone(),
        (None, None) => "nothing".to_owned(),
    }
}

/// A process that is there and does nothing: stopped, or on a machine that is.
fn silent(s: &Status) -> String {
    let by = match (s.process, &s.host) {
        (Some(process), Some(host)) => format!("process {process} on {host}"),
        _ => "its process".to_owned(),
    };
    format!("the run has said nothing for {} s: look at {by}", s.silent_seconds.unwrap_or_default())
}

/// What to do with one that nobody runs.
fn unattended(s: &Status, table: &str) -> String {
    let lost = match &s.slot {
        Some(slot) => slot.lost,
        // It has none yet, or none any more.
        None => !matches!(s.phase.as_str(), "prepare" | "in place" | "done"),
    };
    match () {
        () if s.dry_run => {
            format!(
                "nobody runs it: a dry run that was cut off; `pgwraith abort {table}` removes it"
            )
        }
        () if s.given_up => {
            format!(
                "nobody runs it, and it cannot go on: `pgwraith abort {table}` removes what is left"
            )
        }
        () if lost => format!(
            "nobody runs it, and its slot is gone: `pgwraith resume {table} --recover` compares and goes on"
        ),
        () => format!("nobody runs it: `pgwraith resume {table}` goes on"),
    }
}

fn held(s: &Status) -> String {
    let slot = match &s.slot {
        Some(slot) if slot.lost => format!("slot {}, which is lost", slot.name),
        Some(slot) => {
            let until = match slot.safe_bytes {
                Some(safe) => format!("{} until the server gives it up", say::bytes(safe.max(0))),
                None if s.run_by.is_none() => {
                    "without limit while nobody runs it (max_slot_wal_keep_size = -1)".to_owned()
                }
                None => "after which the run gives it up".to_owned(),
            };
            let limit = say::bytes(i64::try_from(slot.limit_bytes).unwrap_or(i64::MAX));
            let xmin = slot.xmin_age.map(|age| format!(", catalog xmin of {age} transactions ago"));
            format!(
                "slot {}: {} of {limit} of WAL, {until}{}",
                slot.name,
                say::bytes(slot.bytes),
                xmin.unwrap_or_default()
            )
        }
        None => "no slot".to_owned(),
    };
    let locks =
        if s.blocks { "a lock that others wait for" } else { "no lock that anybody waits for" };
    let snapshot = match s.snapshot_seconds {
        Some(seconds) => format!("a snapshot of {seconds} s"),
        None => "no snapshot".to_owned(),
    };
    format!("{slot}; {snapshot}; {locks}")
}
