//! The plan as Markdown, to hang on a ticket: what to do in which order, how to go back, what to look at.

use super::args::{ChangeArgs, IndexBuild, PlanArgs};
use super::plan::{about, next, plain, step_lock};
use crate::change::trial::Way;
use crate::conninfo;
use crate::migration::{CopyWay, PhaseSql, Planned};
use crate::pg::{shell_quoted, shell_word};
use crate::say::bytes;

pub(super) fn markdown(planned: &Planned, args: &PlanArgs) -> String {
    let mut out = format!("# {}: {}\n\n", planned.table, planned.way.as_str());
    let commands = Commands::of(planned, args);
    line(&mut out, &format!("Change: `{}`", commands.change));
    line(&mut out, &format!("Why this way: {}.", planned.why));
    line(&mut out, &format!("As a plain ALTER TABLE: {}.", plain(planned)));
    line(&mut out, &format!("Next: {}.", next(planned)));
    if commands.database == SECRET {
        line(
            &mut out,
            "`$DSN` is the connection string: it has a password, and is not put down here.",
        );
    }
    section(&mut out, "Before", &before(planned));
    match planned.way {
        Way::Instant => instant(&mut out, &commands),
        Way::Online | Way::Careful => in_place(&mut out, planned, &commands),
        Way::ShadowCopy => {
            if let Some(copy) = &planned.copy {
                by_copy(&mut out, copy, &commands);
            }
        }
        Way::Unknown => {}
    }
    section(&mut out, "What clients should know", &planned.clients);
    if !planned.refused.is_empty() {
        section(&mut out, "What refuses a copy", &planned.refused);
    }
    out
}

/// In place of a connection string that nobody may read.
const SECRET: &str = " -d \"$DSN\"";

/// Commands about the table, as they can be pasted into a shell.
struct Commands {
    table: String,
    /// With its flag and a blank before it; nothing where the environment says it.
    database: String,
    /// The change as it was typed.
    change: String,
}

impl Commands {
    fn of(planned: &Planned, args: &PlanArgs) -> Commands {
        let database = match &args.connection.dsn {
            None => String::new(),
            Some(dsn) if conninfo::refuse_secrets(dsn).is_ok() => {
                format!(" -d {}", shell_quoted(dsn))
            }
            Some(_) => SECRET.to_owned(),
        };
        let change = flags(&args.change);
        Commands { table: shell_word(&planned.table), database, change }
    }

    /// One that only names the table.
    fn of_table(&self, command: &str) -> String {
        format!("pgwraith {command} {}{}", self.table, self.database)
    }

    /// One that says the change, and `more` behind it.
    fn of_change(&self, command: &str, more: &str) -> String {
        format!("{} {}{more}", self.of_table(command), self.change)
    }
}

fn before(planned: &Planned) -> Vec<String> {
    let mut out = Vec::new();
    if matches!(planned.way, Way::ShadowCopy | Way::Unknown) {
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

fn instant(out: &mut String, commands: &Commands) {
    phase(out, "1. The change", &[&commands.of_change("run", "")], "sh");
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

fn in_place(out: &mut String, planned: &Planned, commands: &Commands) {
    let steps = planned.in_place.iter().flat_map(|trial| &trial.steps);
    let run = commands.of_change("run", " --in-place");
    phase(out, "All of it", &[&run, &(commands.of_table("status") + " --watch")], "sh");
    line(
        out,
        &format!(
            "Check: exit code 0; `{}` goes on with what is left. Rollback lever: `{} pause=on` rests, `{}` takes back the steps that are made.",
            commands.of_table("resume"),
            commands.of_table("set"),
            commands.of_table("abort")
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

fn by_copy(out: &mut String, copy: &CopyWay, commands: &Commands) {
    let rehearse = commands.of_change("dry-run", " --for 60s");
    phase(out, "1. Rehearse", &[&rehearse], "sh");
    line(
        out,
        "Check: it catches up, nothing does not fit, the forecast suits the hour. Rollback lever: it removes everything itself.",
    );
    let run = commands.of_change("run", " --postpone-cutover");
    let watch = commands.of_table("status") + " --watch";
    phase(out, "2. Copy, and stay in sync", &[&run, &watch], "sh");
    line(
        out,
        "Check: standbys keep up, the slot holds back little, the application's latency is as before.",
    );
    line(
        out,
        &format!(
            "Rollback lever: `{} pause=on` rests, `{}` undoes all of it. The table is only read until the cutover.",
            commands.of_table("set"),
            commands.of_table("abort")
        ),
    );
    let (swaps, before): (Vec<&PhaseSql>, Vec<&PhaseSql>) = copy
        .phases
        .iter()
        .filter(|phase| !phase.sql.is_empty() && phase.phase != "validate")
        .partition(|phase| phase.phase == "cutover");
    before.into_iter().for_each(|phase| statements(out, phase));
    phase(out, "3. Cutover", &[&commands.of_table("cutover")], "sh");
    line(
        out,
        "Locks, all ACCESS EXCLUSIVE, in this order, for less than `--max-lock-hold` (500 ms) together:",
    );
    sql(out, &copy.locks);
    swaps.into_iter().for_each(|phase| statements(out, phase));
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
    if let Some(afterwards) = afterwards.filter(|phase| !phase.sql.is_empty()) {
        line(out, "Afterwards the run executes, and nobody waits for it:");
        sql(out, &afterwards.sql);
    }
    section(out, "What follows the table", &copy.follows);
    phase(out, "4. Contract", &[&format!("DROP TABLE {};", copy.retired)], "sql");
    line(
        out,
        "Only once nothing needs it: plans, dashboards and jobs have been looked at under full load.",
    );
}

fn statements(out: &mut String, phase: &PhaseSql) {
    line(out, &format!("SQL of \"{}\" ({}):", phase.phase, phase.note));
    sql(out, &phase.sql);
    if !phase.locks.is_empty() {
        line(out, &format!("Locks: {}.", phase.locks.join("; ")));
    }
}

/// The change as it was typed.
fn flags(change: &ChangeArgs) -> String {
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
        values.into_iter().map(move |value| format!("{flag} {}", shell_quoted(value)))
    });
    let numbers = numbers.into_iter().filter_map(|(flag, n)| Some(format!("{flag} {}", n?)));
    let switches = switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned());
    let file = file.iter().map(|path| format!("--shadow-ddl {}", shell_quoted(path)));
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

fn sql(out: &mut String, statements: &[String]) {
    let ended: Vec<String> = statements.iter().map(|sql| format!("{sql};")).collect();
    code(out, &ended.iter().map(String::as_str).collect::<Vec<_>>(), "sql");
}

fn code(out: &mut String, lines: &[&str], language: &str) {
    out.push_str(&format!("```{language}\n{}\n```\n\n", lines.join("\n")));
}
