//! `pgwraith plan`.

use std::collections::HashSet;

use serde_json::json;

use super::args::PlanArgs;
use super::run::failure;
use super::{resolve, runbook};
use crate::change::trial::{Does, How, Step, Way};
use crate::error::{Error, Kind, Result};
use crate::migration::{CopyWay, Planned};
use crate::say;
use crate::say::bytes;
use crate::telemetry::thousands;

pub(super) async fn plan(args: PlanArgs) -> Result<()> {
    let done = look(&args).await;
    match &done {
        Ok(planned) if args.json => drop(say::out_line(json!(planned))),
        Ok(planned) => drop(say::out(as_text(planned))),
        Err(e) if args.json => drop(say::out_line(failure(&args.table, e))),
        Err(_) => {}
    }
    let planned = done?;
    if planned.is_open() {
        return Ok(());
    }
    let refused: String = planned.refused.iter().map(|why| format!("\n  {why}")).collect();
    Err(Error::new(
        Kind::Refused,
        format!(
            "{} cannot be changed so by a copy; in the way: {}{refused}\nNothing was changed",
            planned.table,
            planned.refused.len()
        ),
    ))
}

async fn look(args: &PlanArgs) -> Result<Planned> {
    let request = resolve::request(&args.change)?;
    let connector = resolve::connector(&args.connection)?;
    let event_triggers = resolve::consent(&args.change).event_triggers;
    let planned = Planned::of(&connector, &args.table, &request, event_triggers).await?;
    if let Some(file) = &args.runbook {
        let text = runbook::markdown(&planned, args);
        std::fs::write(file, text).map_err(|e| {
            Error::usage(format!("the runbook cannot be written to {}: {e}", file.display()))
        })?;
    }
    Ok(planned)
}

fn as_text(planned: &Planned) -> String {
    let size = &planned.size;
    let mut out = vec![
        format!("{}: {}", planned.table, planned.way.as_str()),
        format!("  because   {}", planned.why),
        format!(
            "  size      about {} rows, {} and {} of indexes",
            thousands(size.rows.max(0.0) as u64),
            bytes(size.table_bytes),
            bytes(size.index_bytes)
        ),
    ];
    out.push("  as a plain ALTER TABLE".to_owned());
    out.push(format!("            {}", plain(planned)));
    if let Some(trial) = planned.in_place.as_ref().filter(|trial| !trial.steps.is_empty()) {
        out.push("  in place  each statement for itself; those that keep somebody out with a short lock_timeout, repeated until granted".to_owned());
        out.extend(trial.steps.iter().flat_map(|step| step_lines(planned, step)));
    }
    if planned.way != Way::Instant {
        out.extend(planned.copy.iter().flat_map(copy_lines));
    }
    out.extend(planned.refused.iter().map(|why| format!("  a copy is refused: {}", indented(why))));
    out.extend(planned.clients.iter().map(|what| format!("  clients   {what}")));
    let notes = planned.notes.iter().filter(|_| planned.way != Way::Instant);
    out.extend(notes.map(|what| format!("  note: {}", indented(what))));
    out.push(format!("  next      {}", next(planned)));
    out.join("\n") + "\n"
}

/// What the ALTER as typed would take.
pub(super) fn plain(planned: &Planned) -> String {
    let Some(trial) = &planned.in_place else {
        return planned.not_in_place.clone().unwrap_or_default();
    };
    let (seen, size) = (&trial.observed, &planned.size);
    let takes = match () {
        () if seen.rewritten => {
            format!("{}: the table and its indexes are written anew", about(size.rewrite_seconds()))
        }
        () if !seen.built.is_empty() => format!(
            "{}: {} built",
            about(size.read_seconds() * 2.0 * seen.built.len() as f64),
            seen.built.join(", ")
        ),
        () if seen.scans > 0 => format!("{}: all rows are read", about(size.read_seconds())),
        () => "a moment".to_owned(),
    };
    let mut text =
        format!("{} on {} for {takes}; {}", seen.lock.sql(), planned.table, seen.lock.effect());
    for other in &seen.others {
        let rows = if other.scanned { ", whose rows are read" } else { "" };
        text.push_str(&format!("; {} on {}{rows}", other.lock.sql(), other.table));
    }
    text
}

fn step_lines(planned: &Planned, step: &Step) -> Vec<String> {
    let mut out = vec![format!("            {};", step.sql)];
    out.push(format!("              {}", step_lock(planned, step)));
    if !step.note.is_empty() {
        out.push(format!("              {}", step.note));
    }
    out
}

/// The locks of a step and for how long.
pub(super) fn step_lock(planned: &Planned, step: &Step) -> String {
    let time = match step.takes.as_str() {
        "" => "for a moment".to_owned(),
        takes => {
            let seconds = match step.how() {
                How::Fill => planned.size.rewrite_seconds(),
                _ if part_of(step).is_some() => planned.size.read_seconds() / parts(planned) as f64,
                _ => planned.size.read_seconds(),
            };
            format!("for {} ({takes})", about(seconds))
        }
    };
    let others = step.others.iter().map(|o| format!(", {} on {}", o.lock.sql(), o.table));
    let others: String = others.collect();
    format!("{}{others} {time}; {}", step.lock.sql(), step.lock.effect())
}

/// In how many partitions steps are made.
fn parts(planned: &Planned) -> usize {
    let steps = planned.in_place.iter().flat_map(|trial| &trial.steps);
    steps.filter_map(part_of).collect::<HashSet<u32>>().len().max(1)
}

/// The partition that alone is read.
fn part_of(step: &Step) -> Option<u32> {
    match step.does {
        Does::BuildPart { part, .. } | Does::ReferPart { part, .. } => Some(part),
        _ => None,
    }
}

fn copy_lines(copy: &CopyWay) -> Vec<String> {
    let estimate = &copy.estimate;
    let mut out = vec![
        format!("  a copy    {}; the old table is kept as {}", copy.shadow, copy.retired),
        format!(
            "            about {} (copy {}, indexes {}, verification {}), by size alone: `pgwraith dry-run` measures",
            about(estimate.seconds()),
            about(estimate.copy_seconds),
            about(estimate.index_seconds),
            about(estimate.verify_seconds)
        ),
        format!(
            "            {} of disk, {} more while indexes are sorted; {} of WAL, as much on each standby",
            bytes(estimate.disk_bytes),
            bytes(estimate.sort_bytes),
            bytes(estimate.wal_bytes)
        ),
    ];
    for phase in &copy.phases {
        if phase.sql.is_empty() && phase.locks.is_empty() {
            continue;
        }
        out.push(format!("  {:<9} {}", phase.phase, phase.note));
        out.extend(phase.locks.iter().map(|lock| format!("            lock: {lock}")));
        out.extend(phase.sql.iter().map(|sql| format!("            {};", indented(sql))));
    }
    out.push("  locks     of the cutover, in this order, for less than --max-lock-hold (500 ms) together:".to_owned());
    out.extend(copy.locks.iter().map(|sql| format!("            {sql};")));
    out.extend(copy.follows.iter().map(|what| format!("  follows   {what}")));
    out
}

/// Whether somebody has to fill rows by hand.
fn leaves_rows_empty(planned: &Planned) -> bool {
    let mut steps = planned.in_place.iter().flat_map(|trial| &trial.steps);
    steps.any(|step| matches!(step.does, Does::Fill { by_default: false, .. }))
}

/// Whether a constraint that is NOT VALID may keep rows from being filled.
fn rows_may_refuse(planned: &Planned) -> bool {
    let mut steps = planned.in_place.iter().flat_map(|trial| &trial.steps);
    steps.any(|step| matches!(&step.does, Does::Fill { refused_by, .. } if !refused_by.is_empty()))
}

/// What to do with the plan.
pub(super) fn next(planned: &Planned) -> &'static str {
    match planned.way {
        Way::Instant => "`pgwraith run` makes the change in place, with lock_timeout and retries",
        Way::Online | Way::Careful if leaves_rows_empty(planned) => {
            "run the statements one by one and fill the rows; `pgwraith run --in-place` needs a DEFAULT for them, `pgwraith run` copies the table"
        }
        Way::Online | Way::Careful if rows_may_refuse(planned) => {
            "VALIDATE the constraint that the UPDATE may fail at, `pgwraith run --in-place` refuses until then; `pgwraith run` copies the table"
        }
        Way::Online | Way::Careful => {
            "`pgwraith run --in-place` makes these steps, `pgwraith run` without it copies the table"
        }
        Way::ShadowCopy if planned.refused.is_empty() => {
            "`pgwraith dry-run` rehearses the copy, `pgwraith run` makes it"
        }
        Way::ShadowCopy => "mend what refuses the copy",
        Way::Unknown => "mend what is in the way, and ask again",
    }
}

/// Lines that follow the first.
fn indented(text: &str) -> String {
    text.replace('\n', "\n            ")
}

/// An estimate for people.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "less than a second".to_owned(),
        s => format!("about {}", say::time(s)),
    }
}
