//! Event triggers fire on our DDL too, also on the swap's, under the cutover's lock: whether they let it
//! pass, and how fast, only who wrote them knows.

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

/// What becomes of event triggers that fire on a run's statements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EventTriggers {
    /// They stand in the way.
    #[default]
    Refuse,
    /// The operator knows that they let the statements pass and are quick.
    Allow,
}

/// The command tags of what a run does to objects of these kinds: its own, and those that follow the
/// table.
const VERBS: [&str; 3] = ["CREATE", "ALTER", "DROP"];
const KINDS: [&str; 11] = [
    "SCHEMA",
    "TABLE",
    "INDEX",
    "VIEW",
    "TRIGGER",
    "POLICY",
    "RULE",
    "SEQUENCE",
    "FUNCTION",
    "PUBLICATION",
    "STATISTICS",
];
const OTHERS: [&str; 3] = ["COMMENT", "GRANT", "REVOKE"];

/// A table_rewrite cannot meet us, who never rewrite one, nor a login DDL; a trigger that is enabled
/// for replicas alone does not fire in our sessions.
const FIRING: &str = "
  SELECT e.evtname::pg_catalog.text, e.evtevent::pg_catalog.text,
    e.evtfoid::pg_catalog.regproc::pg_catalog.text, pg_catalog.array_to_string(e.evttags, ', ')
  FROM pg_catalog.pg_event_trigger e
  WHERE e.evtenabled IN ('O', 'A') AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop')
    AND (e.evttags IS NULL OR e.evttags OPERATOR(pg_catalog.&&) $1)
  ORDER BY e.evtname";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let rows = subject.session.query(FIRING, &[&tags()]).await?;
    Ok(rows.iter().map(|row| finding(row, subject.event_triggers)).collect())
}

fn finding(row: &tokio_postgres::Row, decision: EventTriggers) -> Finding {
    let name = quote_ident(row.get(0));
    let (event, function, tags): (&str, &str, Option<&str>) = (row.get(1), row.get(2), row.get(3));
    let on = tags.map_or(event.to_owned(), |tags| format!("{event} of {tags}"));
    let what = format!(
        "event trigger {name} ({on}) runs {function} on the statements of the run, also under the cutover's lock"
    );
    let disable = format!("ALTER EVENT TRIGGER {name} DISABLE meanwhile");
    match decision {
        EventTriggers::Refuse => Finding::refuse(
            what,
            format!(
                "{disable}; or run with --allow-event-triggers, if it lets them pass and is quick"
            ),
        ),
        EventTriggers::Allow => {
            Finding::warn(what, format!("See that it lets them pass and is quick; or {disable}"))
        }
    }
}

fn tags() -> Vec<String> {
    let made = KINDS.iter().flat_map(|kind| VERBS.map(|verb| format!("{verb} {kind}")));
    made.chain(OTHERS.map(str::to_owned)).collect()
}
