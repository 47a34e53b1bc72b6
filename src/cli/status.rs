//! `pgwraith status`: its first lines answer whether the application is hurt, whether anybody is needed, whether
//! the run may be stopped, and what it holds.

use std::time::Duration;

use super::args::StatusArgs;
use super::resolve;
use crate::error::Result;
use crate::migration::{self, Status};
use crate::pg::shell_word;
use crate::say;

/// How often it is shown anew.
const EVERY: Duration = Duration::from_secs(2);

pub(super) async fn status(args: StatusArgs) -> Result<()> {
    let connector = resolve::connector(&args.connection)?;
    loop {
        let all = migration::status(&connector, args.table.as_deref()).await?;
        let heard = if args.json {
            say::out_line(serde_json::json!({ "migrations": all }))
        } else if all.is_empty() {
            say::out_line("no migration is under way in this database")
        } else {
            all.iter().all(|status| say::out_line(as_text(status)))
        };
        // As in `… --watch | head`: whoever wanted to know has seen enough.
        if !args.watch || !heard {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn as_text(s: &Status) -> String {
    let table = shell_word(&s.source);
    let percent = s.percent.map(|p| format!(" {p:.0} %")).unwrap_or_default();
    let stop = match s.phase.as_str() {
        "done" => "the names are swapped",
        "in place" => "table in use: safe to stop",
        _ => "old table in use: safe to stop",
    };
    let application = if s.blocks { "APPLICATION WAITS FOR US" } else { "application OK" };
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

/// How the changed keys stand, and whether that comes to an end.
fn keys(s: &Status) -> Option<String> {
    let waiting = s.keys.waiting?;
    let mut line = format!("changed keys: {waiting} wait");
    if let (Some(come), Some(go)) = (s.keys.in_per_second, s.keys.out_per_second) {
        line.push_str(&format!(", {come:.0}/s come, {go:.0}/s are applied"));
        // Before, nobody applies them.
        if s.phase != "copy" && waiting > FEW && s.run_by.is_some() {
            line.push_str(&match go - come {
                faster if faster > 0.0 => {
                    format!(": converges in {:.0} s", waiting as f64 / faster)
                }
                _ => ": does NOT converge; more workers, or a calmer time".to_owned(),
            });
        }
    }
    Some(line)
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
        return format!("nobody runs it: `pgwraith resume {table}` goes on");
    }
    match s.blocked_by.split_first() {
        Some((first, _)) => format!("{first} keeps it waiting"),
        None if s.paused => "it is paused".to_owned(),
        None if s.postponed && s.phase == "cutover" => {
            format!("it waits for `pgwraith cutover {table}`")
        }
        None => "nothing".to_owned(),
    }
}

fn held(s: &Status) -> String {
    let slot = match &s.slot {
        Some(slot) if slot.lost => format!("slot {}, which is lost", slot.name),
        Some(slot) => {
            let until = match slot.safe_bytes {
                Some(safe) => format!("{} until the server gives it up", say::bytes(safe.max(0))),
                None => "without limit".to_owned(),
            };
            let xmin = slot.xmin_age.map(|age| format!(", catalog xmin of {age} transactions ago"));
            format!(
                "slot {}: {} of WAL, {until}{}",
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
    format!("{slot}; {snapshot}; {locks} on {}", s.source)
}
