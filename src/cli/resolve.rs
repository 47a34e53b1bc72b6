//! Arguments as resolved: what the flags mean to the phases.

use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde_json::{Map, Value};

use super::args::{ChangeArgs, Connection, IndexBuild, LimitArgs, SetLimits};
use crate::change::Request;
use crate::change::partition::{Asked, By};
use crate::conninfo::{self, ConnInfo};
use crate::cutover;
use crate::error::{Error, Result};
use crate::flow::keeper::Limits;
use crate::migration::{Consent, CopySettings, IndexSettings, Settings};
use crate::pg::Connector;
use crate::preflight::EventTriggers;
use crate::throttle;

/// No new table is said in more.
const LARGEST_FILE: usize = 4 << 20;

/// The database to talk to.
pub(super) fn connector(connection: &Connection) -> Result<Connector> {
    Ok(Connector::new(ConnInfo::resolve(connection.dsn.as_deref())?))
}

/// The change asked for; there must be one.
pub(super) fn request(args: &ChangeArgs) -> Result<Request> {
    if let Some(empty) = args.alter.iter().find(|a| a.trim().is_empty()) {
        return Err(Error::usage(format!("--alter {empty:?} is empty")));
    }
    let order = args.column_order.as_deref().map(names).transpose()?;
    let request = Request {
        alters: args.alter.clone(),
        maps: args.map.iter().map(|m| map(m)).collect::<Result<_>>()?,
        keep: args.keep.clone(),
        column_order: order.unwrap_or_default(),
        indexes_before: false,
        partition: partition(args)?,
        order_by: args.order_by.as_deref().map(one_name).transpose()?,
        shadow_ddl: args.shadow_ddl.as_deref().map(file).transpose()?,
        anew: args.rebuild && !args.alter.is_empty(),
        in_place: false,
    };
    if request == Request::default() && !args.rebuild {
        return Err(Error::usage("no change was asked for").next(
            "Give --alter \"CLAUSES\", --map \"column = expression\", --where \"condition\", --partition-by \"RANGE (column)\", --shadow-ddl FILE, --column-order or --rebuild",
        ));
    }
    let indexes_before = args.index_build == Some(IndexBuild::Before);
    if request.order_by.is_some() && indexes_before {
        return Err(Error::usage(
            "--order-by does not go with --index-build before: a row may be read twice, which its key's index would refuse",
        )
        .next("Leave one of the two out"));
    }
    Ok(Request { indexes_before, ..request })
}

/// The change asked for, to be made in the table itself; what needs a copy is refused by name.
pub(super) fn request_in_place(args: &ChangeArgs) -> Result<Request> {
    let flags = [
        (args.rebuild, "--rebuild"),
        (!args.map.is_empty(), "--map"),
        (args.keep.is_some(), "--where"),
        (args.column_order.is_some(), "--column-order"),
        (args.partition_by.is_some(), "--partition-by"),
        (args.shadow_ddl.is_some(), "--shadow-ddl"),
        (args.index_build.is_some(), "--index-build"),
    ];
    if let Some((_, flag)) = flags.into_iter().find(|(given, _)| *given) {
        return Err(Error::usage(format!(
            "{flag} is of a copy, and --in-place alters the table itself"
        ))
        .next("Leave one of them out"));
    }
    Ok(Request { in_place: true, ..request(args)? })
}

/// What the table is to be partitioned by, if that is consistent in itself.
fn partition(args: &ChangeArgs) -> Result<Option<Asked>> {
    let Some(by) = &args.partition_by else { return Ok(None) };
    let asked = Asked {
        by: by.clone(),
        every: args.partition_every.clone(),
        premake: args.partition_premake,
        partitions: args.partitions,
        default: args.partition_default,
    };
    if !asked.is_none() {
        By::of(&asked)?;
    } else if asked != (Asked { by: by.clone(), ..Asked::default() }) {
        return Err(Error::usage(
            "--partition-by none makes an ordinary table: there is nothing else to say of its partitions",
        ));
    }
    Ok(Some(asked))
}

/// The text of the new table's file. It is kept in the state: whoever goes on needs no file.
fn file(path: &Path) -> Result<String> {
    let bad = |why: String| {
        Error::usage(format!("--shadow-ddl {}: {why}", path.display())).state("Nothing was touched")
    };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    if bytes.len() > LARGEST_FILE {
        return Err(bad(format!("it is larger than {} MB", LARGEST_FILE >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("it is no UTF-8".to_owned()))?;
    // In no text of PostgreSQL's, and so in no state.
    match text.contains('\0') {
        true => Err(bad("it is no text".to_owned())),
        false => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
    }
}

/// What the operator takes upon himself.
pub(super) fn consent(args: &ChangeArgs) -> Consent {
    let event_triggers = match args.allow_event_triggers {
        true => EventTriggers::Allow,
        false => EventTriggers::Refuse,
    };
    Consent { event_triggers, data_goes: args.yes }
}

/// Of a migration that has begun: it was asked then.
pub(super) const AGREED: Consent =
    Consent { event_triggers: EventTriggers::Allow, data_goes: true };

/// `column = expression`, the column perhaps quoted.
fn map(text: &str) -> Result<(String, String)> {
    let bad = || Error::usage(format!("--map {text:?} is not of the form \"column = expression\""));
    let (column, rest) = name(text, '=').ok_or_else(bad)?;
    let expression = rest.strip_prefix('=').ok_or_else(bad)?.trim();
    if column.is_empty() || expression.is_empty() {
        return Err(bad());
    }
    Ok((column, expression.to_owned()))
}

/// `"B"` or `s."B"`: one name, perhaps with the schema before it.
fn one_name(text: &str) -> Result<String> {
    let bad = || Error::usage(format!("--order-by {text:?} is no index's name"));
    let (first, behind) = name(text, '.').ok_or_else(bad)?;
    let name = match behind.strip_prefix('.') {
        Some(index) => names(index)
            .map(|all| all.into_iter().map(|index| format!("{first}.{index}")).collect()),
        None => names(text),
    };
    match name.as_deref() {
        Ok([one]) if !first.is_empty() => Ok(one.clone()),
        _ => Err(bad()),
    }
}

/// `a, "B"`: a list of names.
fn names(text: &str) -> Result<Vec<String>> {
    let bad =
        || Error::usage(format!("--column-order {text:?} is no list of columns, as in \"a, b\""));
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (found, behind) =
            name(rest, ',').filter(|(found, _)| !found.is_empty()).ok_or_else(bad)?;
        names.push(found);
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if behind.is_empty() => return Ok(names),
            None => return Err(bad()),
        }
    }
}

/// A name as PostgreSQL reads it, folded to lower case unless it is quoted, up to `end` or the end of the text;
/// and what is behind it.
fn name(text: &str, end: char) -> Option<(String, &str)> {
    let text = text.trim_start();
    match text.strip_prefix('"') {
        Some(quoted) => {
            let close = closing_quote(quoted)?;
            Some((quoted[..close].replace("\"\"", "\""), quoted[close + 1..].trim_start()))
        }
        None => {
            let (name, rest) = text.split_at(text.find(end).unwrap_or(text.len()));
            Some((name.trim().to_ascii_lowercase(), rest))
        }
    }
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

/// What is given, and for the rest what the run before was given.
pub(super) fn over(given: &LimitArgs, before: &Value) -> Result<LimitArgs> {
    let unreadable = |e| Error::failed(format!("the stored limits cannot be read: {e}"));
    let mut all = match before {
        Value::Object(before) => before.clone(),
        _ => Map::new(),
    };
    if let Value::Object(given) = self::given(given)? {
        all.extend(given);
    }
    serde_json::from_value(Value::Object(all)).map_err(unreadable)
}

/// Only what is given, as it is kept.
pub(super) fn given(limits: &LimitArgs) -> Result<Value> {
    let mut all = kept(limits)?;
    if let Some(all) = all.as_object_mut() {
        all.retain(|_, value| !value.is_null());
    }
    Ok(all)
}

/// As they are kept for whoever resumes. Whoever may read the state reads them, and `set` shows them: there is
/// no password in them. Whoever goes on, on whatever host, takes it from there.
pub(super) fn kept(limits: &LimitArgs) -> Result<Value> {
    for dsn in limits.replica.iter().flatten() {
        conninfo::refuse_secrets(dsn).map_err(|e| e.context("--replica"))?;
    }
    serde_json::to_value(limits)
        .map_err(|e| Error::failed(format!("the limits cannot be stored: {e}")))
}

/// Limits for the phases, and what the operator takes upon himself.
pub(super) fn settings(limits: &LimitArgs, consent: Consent) -> Settings {
    let standard = Settings::default();
    let (copy, cutover) = (standard.copy, standard.cutover);
    let keys = limits.max_keys_in_memory.map_or(standard.keeper.spill_keys, |keys| keys as usize);
    let max_lock_hold = limits.max_lock_hold.unwrap_or(cutover.max_lock_hold);
    let patience = limits.cutover_patience.unwrap_or(cutover.patience);
    Settings {
        copy: CopySettings {
            workers: limits.workers.map_or(copy.workers, usize::from),
            chunk_time: limits.chunk_time.unwrap_or(copy.chunk_time),
            first_chunk: limits.chunk_rows.unwrap_or(copy.first_chunk),
        },
        index: IndexSettings {
            memory: limits.maintenance_work_mem.clone(),
            jobs: limits.index_jobs.map_or(standard.index.jobs, usize::from),
            parallel_workers: limits.index_workers.unwrap_or(standard.index.parallel_workers),
            max_slot_wal: limits.max_slot_wal,
        },
        keeper: Limits { spill_keys: keys, most_keys: keys * 2, ..standard.keeper },
        cutover: cutover::Limits {
            max_lock_hold,
            lock_timeout: limits.lock_timeout.unwrap_or(cutover.lock_timeout).min(max_lock_hold),
            patience: patience.max(Duration::from_secs(1)),
        },
        throttle: throttle(limits),
        // They were understood when they were typed.
        critical: limits.critical.iter().flatten().filter_map(|one| one.parse().ok()).collect(),
        paused: limits.pause.unwrap_or(standard.paused),
        window: limits.cutover_window.as_deref().and_then(|window| window.parse().ok()),
        postponed: limits.postpone_cutover.unwrap_or(standard.postponed),
        max_snapshot_age: limits.max_snapshot_age.unwrap_or(standard.max_snapshot_age),
        consent,
        retry_for: limits.retry_for.unwrap_or(standard.retry_for),
        drop_slot_on_stop: limits.drop_slot_on_stop.unwrap_or(standard.drop_slot_on_stop),
    }
}

fn throttle(limits: &LimitArgs) -> throttle::limits::Limits {
    let standard = throttle::limits::Limits::default();
    let lag = limits.max_lag.unwrap_or(standard.lag);
    let mut replicas: Vec<String> = Vec::new();
    // An empty one is how to say that there is none any more.
    for dsn in limits.replica.iter().flatten().filter(|dsn| !dsn.trim().is_empty()) {
        if !replicas.contains(dsn) {
            replicas.push(dsn.clone());
        }
    }
    throttle::limits::Limits {
        lag,
        standstill: throttle::limits::standstill(lag),
        replicas,
        lag_bytes: limits.max_lag_bytes.unwrap_or(standard.lag_bytes),
        ignored: limits.ignore_standby.clone().unwrap_or(standard.ignored),
        subscriber_bytes: limits.max_subscriber_lag.unwrap_or(standard.subscriber_bytes),
        wal_rate: limits.max_wal_rate,
        archive_bytes: limits.max_archive_lag.unwrap_or(standard.archive_bytes),
        lock_waiters: limits.max_lock_waiters.or(standard.lock_waiters),
        active: limits.max_active_sessions.or(standard.active),
        active_factor: limits.max_active_factor.unwrap_or(standard.active_factor),
        backlog_factor: limits.max_backlog_factor.unwrap_or(standard.backlog_factor),
        probe_factor: limits.max_probe_factor.unwrap_or(standard.probe_factor),
        probe_latency: limits.max_probe_latency.or(standard.probe_latency),
        query: limits.throttle_query.clone().filter(|sql| !sql.trim().is_empty()),
    }
}

/// What kept flags mean to a run that is under way.
pub(super) fn reread(kept: &Value) -> Result<Settings> {
    let limits = over(&LimitArgs::default(), kept)?;
    Ok(settings(&limits, AGREED))
}

/// `name=value`, each as the flag of that name, as it is kept. One without a value is taken back: its default holds
/// again.
pub(super) fn assignments(typed: &[String]) -> Result<Value> {
    let name = |one: &str| one.split_once('=').map_or(one, |(name, _)| name).to_owned();
    let is_empty =
        |one: &str| one.split_once('=').is_some_and(|(_, value)| value.trim().is_empty());
    let (back, set): (Vec<&String>, Vec<&String>) = typed.iter().partition(|one| is_empty(one));
    let parsed = SetLimits::try_parse_from(set.iter().map(|one| format!("--{one}")));
    let limits = parsed.map_err(|e| {
        let text = e.to_string();
        not_set(typed, text.lines().next().unwrap_or_default().trim_start_matches("error: "))
    })?;
    let mut flags = given(&limits.limits)?;
    for name in back.into_iter().map(|one| name(one)) {
        let limits = SetLimits::command();
        if !limits.get_arguments().any(|limit| limit.get_long() == Some(&name)) {
            return Err(not_set(typed, &format!("there is no limit {name:?}")));
        }
        let before =
            flags.as_object_mut().and_then(|all| all.insert(name.replace('-', "_"), Value::Null));
        if before.is_some() {
            return Err(not_set(typed, &format!("{name} is there twice")));
        }
    }
    Ok(flags)
}

fn not_set(typed: &[String], why: &str) -> Error {
    // A password that somebody gave is not shown even here.
    let shown = |one: &String| match one.split_once('=') {
        Some((name @ "replica", _)) => format!("{name}=…"),
        _ => one.clone(),
    };
    let typed = typed.iter().map(shown).collect::<Vec<_>>().join(" ");
    Error::usage(format!("{typed}: {why}")).next(
        "Give NAME=VALUE, with the names of the limits in `pgwraith run --help`; NAME= takes one back",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_as_it_was_before() {
        let before = LimitArgs { workers: Some(7), index_jobs: Some(3), ..LimitArgs::default() };
        let given = LimitArgs { workers: Some(1), ..LimitArgs::default() };
        let all = over(&given, &kept(&before).unwrap()).unwrap();
        assert_eq!((all.workers, all.index_jobs, all.chunk_rows), (Some(1), Some(3), None));
        assert_eq!(over(&given, &Value::Null).unwrap().index_jobs, None);
        let settings = settings(&all, Consent::default());
        assert_eq!((settings.copy.workers, settings.index.jobs), (1, 3));
    }

    #[test]
    fn limits_are_set_by_the_names_of_their_flags() {
        let set = |all: &[&str]| {
            let typed: Vec<String> = all.iter().map(|one| (*one).to_owned()).collect();
            let flags = assignments(&typed).map_err(|e| e.to_string())?;
            over(&LimitArgs::default(), &flags).map_err(|e| e.to_string())
        };
        let limits =
            set(&["workers=4", "max-lag=500ms", "pause=on", "ignore-standby=a,b"]).unwrap();
        assert_eq!((limits.workers, limits.pause), (Some(4), Some(true)));
        assert_eq!(limits.max_lag, Some(Duration::from_millis(500)));
        assert_eq!(limits.ignore_standby, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(set(&["pause=off"]).unwrap().pause, Some(false));
        for (bad, told) in [
            ("speed=4", "--speed"),
            ("workers=no", "workers"),
            ("workers", "workers"),
            ("4", "--4"),
            ("speed=", "speed"),
        ] {
            let error = set(&[bad]).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
        let reread = reread(&kept(&limits).unwrap()).unwrap();
        assert!(reread.paused && reread.throttle.lag == Duration::from_millis(500));
    }

    #[test]
    fn every_limit_can_be_taken_back() {
        let names = SetLimits::command();
        let names: Vec<&str> = names.get_arguments().filter_map(|limit| limit.get_long()).collect();
        assert!(names.contains(&"throttle-query") && names.len() > 25, "{names:?}");
        let before = serde_json::json!({
            "max_wal_rate": 1, "critical": ["lag=3s"], "throttle_query": "SELECT 1", "pause": true,
            "cutover_window": "02:00-04:00", "workers": 9, "replica": ["host=a"],
        });
        let back: Vec<String> = names.iter().map(|name| format!("{name}=")).collect();
        let mut now = before.as_object().unwrap().clone();
        now.extend(assignments(&back).unwrap().as_object().unwrap().clone());
        let standard = format!("{:?}", settings(&LimitArgs::default(), AGREED));
        assert_eq!(format!("{:?}", reread(&Value::Object(now)).unwrap()), standard);
        let twice = ["workers=2".to_owned(), "workers=".to_owned()];
        assert!(assignments(&twice).unwrap_err().to_string().contains("workers is there twice"));
        // As an older state may have it.
        let empty = serde_json::json!({"throttle_query": ""});
        assert_eq!(reread(&empty).unwrap().throttle.query, None);
    }

    #[test]
    fn replicas_are_kept_without_a_password() {
        let set = |all: &[&str]| {
            let typed: Vec<String> = all.iter().map(|one| (*one).to_owned()).collect();
            assignments(&typed)
        };
        let kept =
            set(&["replica=host=a,b", "replica=postgresql://c/d", "replica=host=a,b"]).unwrap();
        let replicas = |kept: &Value| reread(kept).unwrap().throttle.replicas;
        assert_eq!(replicas(&kept), ["host=a,b", "postgresql://c/d"]);
        assert_eq!(replicas(&set(&["replica="]).unwrap()), [""; 0]);
        for bad in [
            &["replica=postgresql://u:hunter2@a/d"][..],
            &["replica=host=a password=hunter2", "workers=no"],
        ] {
            let error = set(bad).unwrap_err().to_string();
            assert!(error.contains("replica") && !error.contains("hunter2"), "{error}");
        }
        assert!(set(&["replica=hots=a"]).unwrap_err().to_string().contains("hots"));
    }

    #[test]
    fn maps_name_a_column_and_an_expression() {
        let ok = |m: &str| map(m).map_err(|e| e.to_string());
        assert_eq!(ok("Total = a = b"), Ok(("total".into(), "a = b".into())));
        assert_eq!(ok("\"A=\"\"b\" = 1"), Ok(("A=\"b".into(), "1".into())));
        for bad in ["", "a", "= 1", "a =", "\"a = 1", "\"a\" 1"] {
            assert!(map(bad).is_err(), "{bad}");
        }
        let index = |typed: &str| one_name(typed).map_err(|e| e.to_string());
        assert_eq!(index("By_At"), Ok("by_at".into()));
        assert_eq!(index("\"S 1\".\"By.At\""), Ok("S 1.By.At".into()));
        assert_eq!(index("Public.i"), Ok("public.i".into()));
        for bad in ["", "a, b", "a.", ".a", "a.b, c", "\"a", "\"a\"b"] {
            assert!(index(bad).is_err(), "{bad}");
        }
        let list = names("Id , \"A,b\"\"\" ,c").unwrap();
        assert_eq!(list, ["id", "A,b\"", "c"]);
        for bad in ["", ",", "a,", ",a", "a,,b", "\"a", "\"a\" b", "\"\""] {
            assert!(names(bad).is_err(), "{bad}");
        }
    }
}
