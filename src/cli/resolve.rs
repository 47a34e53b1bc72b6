//! Arguments as resolved: what the flags mean to the phases.

use std::time::Duration;

use super::args::{Connection, RunArgs};
use crate::change::Request;
use crate::conninfo::ConnInfo;
use crate::cutover;
use crate::error::{Error, Result};
use crate::flow::keeper::Limits;
use crate::migration::{CopySettings, IndexSettings, Settings};
use crate::pg::Connector;
use crate::preflight::EventTriggers;

/// The database to talk to.
pub(super) fn connector(connection: &Connection) -> Result<Connector> {
    Ok(Connector::new(ConnInfo::resolve(connection.dsn.as_deref())?))
}

/// The change asked for; there must be one.
pub(super) fn request(args: &RunArgs) -> Result<Request> {
    if args.alter.is_empty() && args.map.is_empty() && !args.rebuild {
        return Err(Error::usage("no change was asked for")
            .next("Give --alter \"CLAUSES\", --map \"column = expression\" or --rebuild"));
    }
    if let Some(empty) = args.alter.iter().find(|a| a.trim().is_empty()) {
        return Err(Error::usage(format!("--alter {empty:?} is empty")));
    }
    let maps = args.map.iter().map(|m| map(m)).collect::<Result<_>>()?;
    Ok(Request { alters: args.alter.clone(), maps })
}

/// `column = expression`, the column perhaps quoted.
fn map(text: &str) -> Result<(String, String)> {
    let bad = || Error::usage(format!("--map {text:?} is not of the form \"column = expression\""));
    let trimmed = text.trim_start();
    let (column, rest) = if let Some(quoted) = trimmed.strip_prefix('"') {
        let end = closing_quote(quoted).ok_or_else(bad)?;
        (quoted[..end].replace("\"\"", "\""), &quoted[end + 1..])
    } else {
        let (name, _) = trimmed.split_once('=').ok_or_else(bad)?;
        (name.trim().to_lowercase(), &trimmed[name.len()..])
    };
    let expression = rest.trim_start().strip_prefix('=').ok_or_else(bad)?.trim();
    if column.is_empty() || expression.is_empty() {
        return Err(bad());
    }
    Ok((column, expression.to_owned()))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        if c == '"' && chars.next_if(|&(_, next)| next == '"').is_none() {
            return Some(i);
        }
    }
    None
}

/// Limits for the phases, and what the operator takes upon himself.
pub(super) fn settings(args: &RunArgs) -> Settings {
    let limits = &args.limits;
    let keys = limits.max_keys_in_memory as usize;
    Settings {
        copy: CopySettings {
            workers: usize::from(limits.workers),
            chunk_time: limits.chunk_time,
            first_chunk: limits.chunk_rows,
        },
        index: IndexSettings {
            memory: limits.maintenance_work_mem.clone(),
            jobs: usize::from(limits.index_jobs),
            parallel_workers: limits.index_workers,
            max_slot_wal: limits.max_slot_wal,
        },
        keeper: Limits { spill_keys: keys, most_keys: keys * 2, ..Limits::default() },
        cutover: cutover::Limits {
            max_lock_hold: limits.max_lock_hold,
            lock_timeout: limits.lock_timeout.min(limits.max_lock_hold),
            patience: limits.cutover_patience.max(Duration::from_secs(1)),
        },
        max_snapshot_age: limits.max_snapshot_age,
        event_triggers: match args.allow_event_triggers {
            true => EventTriggers::Allow,
            false => EventTriggers::Refuse,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_name_a_column_and_an_expression() {
        let ok = |m: &str| map(m).map_err(|e| e.to_string());
        assert_eq!(ok("Total = a = b"), Ok(("total".into(), "a = b".into())));
        assert_eq!(ok("\"A=\"\"b\" = 1"), Ok(("A=\"b".into(), "1".into())));
        for bad in ["", "a", "= 1", "a =", "\"a = 1", "\"a\" 1"] {
            assert!(map(bad).is_err(), "{bad}");
        }
    }
}
