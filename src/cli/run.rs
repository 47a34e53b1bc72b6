//! `pgwraith run` and `pgwraith resume`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::{HostArgs, LimitArgs, ResumeArgs, RunArgs};
use super::{resolve, signals};
use crate::change::Request;
use crate::cutover::Altered;
use crate::error::{Error, Kind, Result};
use crate::hooks::Hooks;
use crate::migration::{
    self, Changed, Consent, How, InPlaceDone, Live, Outcome, Report, Run, Supervisor, Unfinished,
};
use crate::pg::{Connector, quote_ident, shell_word};
use crate::say;
use crate::telemetry::{Listener, Show, Summary, Telemetry};

pub(super) async fn run(args: RunArgs) -> Result<()> {
    let prepared = async {
        let mut request = match args.in_place {
            true => resolve::request_in_place(&args.change)?,
            false => resolve::request(&args.change)?,
        };
        let connector = resolve::connector(&args.connection)?;
        let before = match args.or_resume {
            true => migration::unfinished(&connector, &args.table).await?,
            false => None,
        };
        let consent = resolve::consent(&args.change);
        if let (Some(before), None) = (&before, args.change.index_build) {
            request.indexes_before = before.request.indexes_before;
        }
        let (work, options) = match before {
            None if args.force_copy || args.change.rebuild => (Work::Copy(request), Value::Null),
            None if args.in_place => (Work::InPlace(request), Value::Null),
            None => (Work::Begin(request), Value::Null),
            Some(Unfinished { request: begun, options }) if begun == request => {
                (Work::Resume(How::default()), options)
            }
            Some(Unfinished { request: begun, .. }) => {
                return Err(another_change(&args.table, &begun));
            }
        };
        let limits = resolve::over(&args.limits, &options)?;
        Ok((connector, work, limits, consent))
    };
    carry_out(&args.table, args.json, &args.host, prepared).await
}

pub(super) async fn resume(args: ResumeArgs) -> Result<()> {
    let prepared = async {
        let connector = resolve::connector(&args.connection)?;
        let before = migration::unfinished(&connector, &args.table).await?;
        let options = before.map_or(Value::Null, |before| before.options);
        let limits = resolve::over(&args.limits, &options)?;
        let how = How { take_over: args.take_over, recover: args.recover };
        Ok((connector, Work::Resume(how), limits, resolve::AGREED))
    };
    carry_out(&args.table, args.json, &args.host, prepared).await
}

/// What is to be done with the table.
enum Work {
    /// In place where that is instant.
    Begin(Request),
    Copy(Request),
    /// Never by a copy.
    InPlace(Request),
    Resume(How),
}

/// What came of it.
enum Done {
    Altered(Altered),
    Changed(Changed),
    Swapped(Box<Report>),
}

type Prepared = (Connector, Work, LimitArgs, Consent);

async fn carry_out(
    table: &str,
    as_object: bool,
    host: &HostArgs,
    prepared: impl Future<Output = Result<Prepared>>,
) -> Result<()> {
    let told = |e: Error| {
        if as_object {
            say::out_line(failure(table, &e));
        }
        e
    };
    let listener = host.listen.map(Listener::take).transpose().map_err(told)?;
    let hooks = host.hooks.as_deref().map(|folder| Hooks::find(folder, host.hook_timeout));
    let hooks = hooks.transpose().map_err(told)?.unwrap_or_default();
    let supervisor = Supervisor::default();
    signals::watch(&supervisor, &signals::left_behind(table), &hooks).map_err(told)?;
    let (connector, work, limits, consent) = supervisor.guard(prepared).await.map_err(told)?;
    let options = resolve::kept(&limits)?;
    let settings = resolve::settings(&limits, consent);
    let telemetry = Telemetry::start(table, Show::Progress);
    if let Some(listener) = listener {
        telemetry.answer(listener);
    }
    let run = Run {
        connector: &connector,
        table,
        settings: &settings,
        options: &options,
        live: Live::new(settings.clone(), options.clone(), resolve::reread),
        meter: telemetry.meter(),
        supervisor,
        hooks: hooks.clone(),
    };
    let done = carry(&run, work).await;
    hooks.kill();
    let summary = telemetry.finish();
    if as_object {
        say::out_line(as_json(table, &done, &summary));
    } else if let Ok(done) = &done {
        say::out(match done {
            Done::Swapped(report) => as_text(report, &summary),
            Done::Altered(altered) => altered_as_text(table, altered),
            Done::Changed(changed) => changed_as_text(changed, &summary),
        });
    }
    done.map(drop)
}

async fn carry(run: &Run<'_>, work: Work) -> Result<Done> {
    let swapped = |report| Done::Swapped(Box::new(report));
    let request = match work {
        Work::Resume(how) => {
            return Ok(match run.resume(how).await? {
                Outcome::Swapped(report) => Done::Swapped(report),
                Outcome::Changed(changed) => Done::Changed(changed),
            });
        }
        Work::InPlace(request) => {
            return Ok(match run.change_in_place(&request).await? {
                InPlaceDone::Altered(altered) => Done::Altered(altered),
                InPlaceDone::Changed(changed) => Done::Changed(changed),
            });
        }
        Work::Copy(request) => request,
        Work::Begin(request) => match run.alter_in_place(&request).await? {
            Some(altered) => return Ok(Done::Altered(altered)),
            None => request,
        },
    };
    run.migrate(&request).await.map(swapped)
}

fn another_change(table: &str, begun: &Request) -> Error {
    let alters = begun.alters.iter().map(|clauses| format!(" --alter {clauses:?}"));
    let maps =
        begun.maps.iter().map(|(column, map)| format!(" --map {:?}", format!("{column} = {map}")));
    let word = shell_word(table);
    let keep = begun.keep.iter().map(|condition| format!(" --where {condition:?}"));
    let order = (!begun.column_order.is_empty())
        .then(|| format!(" --column-order {:?}", begun.column_order.join(", ")));
    let partition = begun.partition.iter().map(|asked| {
        let every = asked.every.iter().map(|every| format!(" --partition-every {every:?}"));
        let premake = asked.premake.iter().map(|n| format!(" --partition-premake {n}"));
        let partitions = asked.partitions.iter().map(|n| format!(" --partitions {n}"));
        let default = asked
            .default
            .iter()
            .map(|on| format!(" --partition-default {}", if *on { "on" } else { "off" }));
        let rest: String = every.chain(premake).chain(partitions).chain(default).collect();
        format!(" --partition-by {:?}{rest}", asked.by)
    });
    let file = begun.shadow_ddl.iter().map(|text| {
        format!(
            " --shadow-ddl FILE (of {} lines, pgwraith.migration has them)",
            text.lines().count()
        )
    });
    let ordered = begun
        .order_by
        .iter()
        .map(|index| format!(" --rebuild --order-by '{}'", quote_ident(index)));
    let anew = begun.anew.then(|| " --rebuild".to_owned());
    let flags: String = alters
        .chain(maps)
        .chain(keep)
        .chain(order)
        .chain(partition)
        .chain(file)
        .chain(ordered)
        .chain(anew)
        .collect();
    let flags = if flags.is_empty() { " --rebuild".to_owned() } else { flags };
    let index_build = if begun.indexes_before { " --index-build before" } else { "" };
    let in_place = if begun.in_place { " --in-place" } else { "" };
    Error::new(
        Kind::Refused,
        format!(
            "{table} has an unfinished migration to another change:{flags}{index_build}{in_place}"
        ),
    )
    .state("Nothing was touched")
    .next(format!("`pgwraith resume {word}` goes on with that, `pgwraith abort {word}` undoes it"))
}

/// The machine-readable word on an error.
pub(super) fn failure(table: &str, e: &Error) -> serde_json::Value {
    json!({
        "table": table, "outcome": "failed", "exit_code": e.kind().exit_code(), "error": e.to_string(),
    })
}

/// The machine-readable result: one object.
fn as_json(table: &str, done: &Result<Done>, summary: &Summary) -> serde_json::Value {
    // Steps of one kind may come several times.
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    for (name, took) in &summary.phases {
        *seconds.entry(name.replace(' ', "_")).or_default() += took;
    }
    let phases = json!(seconds);
    match done {
        Ok(Done::Altered(altered)) => json!({
            "table": table, "way": "instant", "outcome": "altered", "cutover": altered, "phases": phases,
        }),
        Ok(Done::Changed(changed)) => json!({
            "table": changed.table, "way": changed.way, "outcome": "altered", "steps": changed.steps,
            "made": changed.made, "rows_filled": summary.rows_copied, "times": times(summary), "phases": phases,
        }),
        Ok(Done::Swapped(report)) => json!({
            "table": report.table, "way": "copy", "outcome": "swapped", "retired": report.retired,
            "rows_copied": summary.rows_copied, "keys_synced": report.keys_synced,
            "chunks": summary.chunks, "times": times(summary), "phases": phases, "cutover": report.cutover, "verify": report.verify,
            "foreign_keys": report.foreign_keys, "recovered": report.recovered,
        }),
        Err(e) => {
            let mut object = failure(table, e);
            object["rows_copied"] = json!(summary.rows_copied);
            object["times"] = times(summary);
            object["phases"] = phases;
            object
        }
    }
}

/// How long things took, by kind.
fn times(summary: &Summary) -> Value {
    summary.times.iter().map(|(what, times)| (what.as_str(), json!(times))).collect()
}

fn altered_as_text(table: &str, altered: &Altered) -> String {
    format!(
        "{table} is altered in place\n  attempt {}, lock held {:.1} ms, application stalled at most {:.1} ms\n",
        altered.attempts, altered.lock_held_ms, altered.stall_ms
    )
}

fn changed_as_text(changed: &Changed, summary: &Summary) -> String {
    let mut out = format!("{} is altered in place, in {} steps\n", changed.table, changed.steps);
    let before = changed.steps - changed.made.len();
    if before > 0 {
        out.push_str(&format!("  {before} of them were made before\n"));
    }
    for made in &changed.made {
        out.push_str(&format!("  {:8.1} s  {}\n", made.seconds, made.sql));
        if let Some(lock) = &made.lock {
            out.push_str(&format!(
                "              attempt {}, lock held {:.1} ms, application stalled at most {:.1} ms\n",
                lock.attempts, lock.lock_held_ms, lock.stall_ms
            ));
        }
        if let Some(rows) = made.rows {
            out.push_str(&format!(
                "              {rows} rows filled, in {} ranges by this run\n",
                summary.chunks
            ));
        }
    }
    out
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
        "  copied    {} rows in {} chunks, {:.0} rows/s\n",
        summary.rows_copied,
        summary.chunks,
        summary.rows_copied as f64 / copy.max(0.001),
    ));
    out.push_str(&format!("  synced    {} changed keys\n", report.keys_synced));
    out.push_str(&format!(
        "  verified  {} rows in {} ranges, {} differed and were repaired\n",
        report.verify.rows, report.verify.ranges, report.verify.mismatches
    ));
    if let Some(found) = &report.recovered {
        out.push_str(&format!(
            "  recovered {} of {} ranges differed, {} rows in them were copied again\n",
            found.differing_ranges, found.ranges, found.mismatches
        ));
    }
    if let Some(cutover) = &report.cutover {
        out.push_str(&format!(
            "  cutover   attempt {}, lock held {:.1} ms, application stalled at most {:.1} ms\n",
            cutover.attempts, cutover.lock_held_ms, cutover.stall_ms
        ));
        let steps = &cutover.steps;
        out.push_str(&format!(
            "            locks {:.1}, fence and look {:.1}, final sync {:.1}, names {:.1}, commit {:.1} ms\n",
            steps.lock_ms, steps.look_ms, steps.sync_ms, steps.rename_ms, steps.commit_ms
        ));
    }
    if report.foreign_keys > 0 {
        out.push_str(&format!("  validated {} foreign keys\n", report.foreign_keys));
    }
    out.push_str("  in ms          count      p50      p90      p99      max\n");
    for (what, t) in summary.times.iter().filter(|(_, times)| times.count > 0) {
        out.push_str(&format!(
            "    {:<8} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>8.1}\n",
            what.as_str(),
            t.count,
            t.p50_ms,
            t.p90_ms,
            t.p99_ms,
            t.max_ms
        ));
    }
    out
}
