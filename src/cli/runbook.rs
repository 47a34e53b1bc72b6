//! The plan as Markdown, to hang on a ticket: what to do in which order, how to go back, what to look at.

use super::args::{ChangeArgs, IndexBuild};
use super::plan::{about, next, plain, step_lock};
use crate::change::trial::Way;
use crate::migration::{CopyWay, Planned};
use crate::pg::shell_word;
use crate::say::bytes;

pub(super) fn markdown(planned: &Planned, change: &ChangeArgs) -> String {
    let mut out = format!("# {}: {}\n\n", planned.table, planned.way.as_str());
    let flags = flags(change);
    let word = shell_word(&planned.table);
    line(&mut out, &format!("Change: `{flags}`"));
    line(&mut out, &format!("Why this way: {}.", planned.why));
    line(&mut out, &format!("As a plain ALTER TABLE: {}.", plain(planned)));
    line(&mut out, &format!("Next: {}.", next(planned)));
    section(&mut out, "Before", &before(planned));
    match planned.way {
        Way::Instant => instant(&mut out, &word, &flags),
        Way::Online | Way::Careful => in_place(&mut out, planned, &word, &flags),
        Way::ShadowCopy => {
            if let Some(copy) = &planned.copy {
                by_copy(&mut out, copy, &word, &flags);
            }
        }
    }
    section(&mut out, "What clients should know", &planned.clients);
    if !planned.refused.is_empty() {
        section(&mut out, "What refuses a copy", &planned.refused);
    }
    out
}

fn before(planned: &Planned) -> Vec<String> {
    let mut out = Vec::new();
    if planned.way == Way::ShadowCopy {
        out.extend(planned.refused.iter().map(|why| format!("**mend first:** {why}")));
        if let Some(copy) = &planned.copy {
            let e = &copy.estimate;
            out.push(format!(
                "free on disk: {} and {} more while indexes are sorted, {} of WAL, on each standby too",
                bytes(e.disk_bytes),
                bytes(e.sort_bytes),
                bytes(e.wal_bytes)
            ));
            out.push(format!(
                "time: {}, by size alone; `pgwraith dry-run` measures",
                about(e.seconds())
            ));
        }
        out.extend(planned.notes.iter().cloned());
    }
    out.push("no other DDL on the table is under way or planned meanwhile".to_owned());
    out.push("who uses the table in long transactions is known, and when they run".to_owned());
    out
}

fn instant(out: &mut String, word: &str, flags: &str) {
    phase(out, "1. The change", &[&format!("pgwraith run {word} {flags}")], "sh");
    let checks = [
        "it says who is in the way, and waits for nobody with the application behind it",
        "exit code 0: done; anything else: nothing was changed",
    ];
    line(out, "Check:");
    list(out, &checks);
    line(
        out,
        "Rollback lever: Ctrl-C until it is done; afterwards the ALTER TABLE that undoes it.",
    );
}

fn in_place(out: &mut String, planned: &Planned, word: &str, flags: &str) {
    let steps = planned.in_place.iter().flat_map(|trial| &trial.steps);
    let run = format!("pgwraith run {word} {flags} --in-place");
    phase(out, "All of it", &[&run, &format!("pgwraith status {word} --watch")], "sh");
    line(
        out,
        &format!(
            "Check: exit code 0; `pgwraith resume {word}` goes on with what is left. Rollback lever: `pgwraith set {word} pause=on` rests, `pgwraith abort {word}` takes back the steps that are made."
        ),
    );
    line(
        out,
        "By hand it is this. Each statement for itself, outside of a transaction. Before those that keep somebody out: `SET lock_timeout = '250ms'`; where the lock is not granted, wait a moment and repeat it. Before the others: `SET lock_timeout = 0`, since one that is cut short leaves something half done.",
    );
    for (n, step) in steps.enumerate() {
        phase(out, &format!("{}. Step", n + 1), &[&format!("{};", step.sql)], "sql");
        line(out, &format!("Lock: {}.", step_lock(planned, step)));
        if !step.note.is_empty() {
            line(out, &format!("Note: {}.", step.note));
        }
    }
    line(
        out,
        "Rollback lever: what is added is dropped again (DROP CONSTRAINT, DROP INDEX CONCURRENTLY, DROP COLUMN); each a moment under ACCESS EXCLUSIVE.",
    );
    line(
        out,
        "Check after each step: `\\d` of the table has it; no invalid index (`SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid`).",
    );
}

fn by_copy(out: &mut String, copy: &CopyWay, word: &str, flags: &str) {
    let rehearse = format!("pgwraith dry-run {word} {flags} --for 60s");
    phase(out, "1. Rehearse", &[&rehearse], "sh");
    line(
        out,
        "Check: it catches up, nothing does not fit, the forecast suits the hour. Rollback lever: it removes everything itself.",
    );
    let run = format!("pgwraith run {word} {flags} --postpone-cutover");
    phase(
        out,
        "2. Copy, and stay in sync",
        &[&run, &format!("pgwraith status {word} --watch")],
        "sh",
    );
    line(
        out,
        "Check: standbys keep up, the slot holds back little, the application's latency is as before.",
    );
    line(
        out,
        &format!(
            "Rollback lever: `pgwraith set {word} pause=on` rests, `pgwraith abort {word}` undoes all of it. The table is only read until the cutover."
        ),
    );
    for phase_sql in
        copy.phases.iter().filter(|phase| !phase.sql.is_empty() && phase.phase != "validate")
    {
        let sql: Vec<String> = phase_sql.sql.iter().map(|sql| format!("{sql};")).collect();
        let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
        line(out, &format!("SQL of \"{}\" ({}):", phase_sql.phase, phase_sql.note));
        code(out, &sql, "sql");
        if !phase_sql.locks.is_empty() {
            line(out, &format!("Locks: {}.", phase_sql.locks.join("; ")));
        }
    }
    phase(out, "3. Cutover", &[&format!("pgwraith cutover {word}")], "sh");
    line(
        out,
        "Locks, all ACCESS EXCLUSIVE, in this order, for less than `--max-lock-hold` (500 ms) together:",
    );
    let locks: Vec<String> = copy.locks.iter().map(|sql| format!("{sql};")).collect();
    code(out, &locks.iter().map(String::as_str).collect::<Vec<_>>(), "sql");
    line(
        out,
        "Check: the report's lock and stall; errors of the application (`cached plan must not change result type`, once a statement).",
    );
    line(
        out,
        &format!(
            "Rollback lever: until COMMIT every failure leaves the old table in use. After it {} keeps the rows of that moment and refuses writes: what is written since is in the new table alone.",
            copy.retired
        ),
    );
    let afterwards = copy.phases.iter().find(|phase| phase.phase == "validate");
    let afterwards: Vec<String> =
        afterwards.iter().flat_map(|phase| &phase.sql).map(|sql| format!("{sql};")).collect();
    if !afterwards.is_empty() {
        line(out, "Afterwards the run executes, and nobody waits for it:");
        code(out, &afterwards.iter().map(String::as_str).collect::<Vec<_>>(), "sql");
    }
    section(out, "What follows the table", &copy.follows);
    phase(out, "4. Contract", &[&format!("DROP TABLE {};", copy.retired)], "sql");
    line(
        out,
        "Only once nothing needs it: plans, dashboards and jobs have been looked at under full load.",
    );
}

/// The change as it was typed.
fn flags(change: &ChangeArgs) -> String {
    let quoted = |text: &String| format!("'{}'", text.replace('\'', "'\\''"));
    let texts = [
        ("--alter", change.alter.iter().collect::<Vec<_>>()),
        ("--map", change.map.iter().collect()),
        ("--where", change.keep.iter().collect()),
        ("--column-order", change.column_order.iter().collect()),
        ("--order-by", change.order_by.iter().collect()),
        ("--partition-by", change.partition_by.iter().collect()),
        ("--partition-every", change.partition_every.iter().collect()),
    ];
    let file = change.shadow_ddl.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let numbers =
        [("--partition-premake", change.partition_premake), ("--partitions", change.partitions)];
    let switches = [
        ("--yes", change.keep.is_some() || change.yes),
        ("--rebuild", change.rebuild),
        ("--partition-default on", change.partition_default == Some(true)),
        ("--partition-default off", change.partition_default == Some(false)),
        ("--index-build before", change.index_build == Some(IndexBuild::Before)),
        ("--allow-event-triggers", change.allow_event_triggers),
    ];
    let texts = texts.into_iter().flat_map(|(flag, values)| {
        values.into_iter().map(move |value| format!("{flag} {}", quoted(value)))
    });
    let numbers = numbers.into_iter().filter_map(|(flag, n)| Some(format!("{flag} {}", n?)));
    let switches = switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned());
    let file = file.iter().map(|path| format!("--shadow-ddl {}", quoted(path)));
    texts.chain(file).chain(numbers).chain(switches).collect::<Vec<_>>().join(" ")
}

fn section(out: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        out.push_str(&format!("## {title}\n\n"));
        list(out, items);
    }
}

fn list(out: &mut String, items: &[impl AsRef<str>]) {
    for item in items {
        out.push_str(&format!("- {}\n", item.as_ref().replace('\n', "\n  ")));
    }
    out.push('\n');
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push_str("\n\n");
}

fn phase(out: &mut String, title: &str, commands: &[&str], language: &str) {
    out.push_str(&format!("## {title}\n\n"));
    code(out, commands, language);
}

fn code(out: &mut String, lines: &[&str], language: &str) {
    out.push_str(&format!("```{language}\n{}\n```\n\n", lines.join("\n")));
}
