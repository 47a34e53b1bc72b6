//! Arguments as typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

use crate::throttle::critical::Critical;
use crate::throttle::limits::size;

/// Online schema change for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "pgwraith", version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Write a log to standard error, as detailed as `debug` or a filter like `pgwraith=trace`
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn")]
    pub log: String,
    /// Standard error as lines for people, or as one JSON object a line
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// How standard error looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Migrate a table
    Run(RunArgs),
    /// What would be done: the way that is recommended, every statement and lock; nothing is changed
    Plan(PlanArgs),
    /// Rehearse a migration on a part of the rows: what it would take, need and meet
    DryRun(DryRunArgs),
    /// Go on with an unfinished migration, from any host
    Resume(ResumeArgs),
    /// Where the migrations of the database stand
    Status(StatusArgs),
    /// Change limits of an unfinished migration, also while it runs
    Set(SetArgs),
    /// Swap the names now, of a migration that was postponed
    Cutover(CutoverArgs),
    /// Undo an unfinished migration: slot, publication, shadow, state
    Abort(AbortArgs),
    /// List what dead runs have left in the database; remove it with --yes
    Cleanup(CleanupArgs),
    /// A private PostgreSQL, a table, live traffic, a migration, a report
    Demo(DemoArgs),
}

impl Command {
    /// The table that it is about, as typed.
    pub fn table(&self) -> Option<&str> {
        match self {
            Command::Run(args) => Some(&args.table),
            Command::Plan(args) => Some(&args.table),
            Command::DryRun(args) => Some(&args.table),
            Command::Resume(args) => Some(&args.table),
            Command::Status(args) => args.table.as_deref(),
            Command::Set(args) => Some(&args.table),
            Command::Cutover(args) => Some(&args.table),
            Command::Abort(args) => Some(&args.table),
            Command::Cleanup(_) | Command::Demo(_) => None,
        }
    }
}

/// How to reach the database.
#[derive(Debug, Args)]
pub struct Connection {
    /// Connection string: URI or key=value; what it leaves out comes from the libpq environment
    #[arg(short, long, value_name = "CONNINFO")]
    pub dsn: Option<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Go on with the same change where it is unfinished: for schedulers
    #[arg(long)]
    pub or_resume: bool,
    /// Copy the table also where PostgreSQL makes the change in place, in a moment
    #[arg(long)]
    pub force_copy: bool,
    /// Alter the table itself: at once where that takes a moment, else in the careful steps that plan shows; never
    /// by a copy
    #[arg(long, conflicts_with = "force_copy")]
    pub in_place: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

/// What is to become of the table.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// What would follow ALTER TABLE name; may be repeated, applied in order
    #[arg(long, value_name = "CLAUSES", allow_hyphen_values = true)]
    pub alter: Vec<String>,
    /// Fill a column from an expression over the row: "column = expression"; may be repeated
    #[arg(long, value_name = "COLUMN=EXPRESSION")]
    pub map: Vec<String>,
    /// Rewrite the table in its present shape, without bloat
    #[arg(long)]
    pub rebuild: bool,
    /// Write the rows in the order of this index of the table, as CLUSTER does
    #[arg(long, value_name = "INDEX", requires = "rebuild", conflicts_with_all = ["alter", "map", "column_order", "partition_by", "shadow_ddl"])]
    pub order_by: Option<String>,
    /// Put these columns first, in this order; the others follow as they are: "tenant_id, id"
    #[arg(long, value_name = "COLUMNS")]
    pub column_order: Option<String>,
    /// Keep only the rows for which this is true: "created_at > '2020-01-01'"
    #[arg(long = "where", value_name = "CONDITION", allow_hyphen_values = true)]
    pub keep: Option<String>,
    /// Make it a partitioned table: "RANGE (created_at)", "LIST (region)", "HASH (id)"; or an ordinary one of a partitioned
    /// one: none
    #[arg(long, value_name = "STRATEGY (COLUMN)")]
    pub partition_by: Option<String>,
    /// What one partition of a RANGE spans: "1 month", "1 day", or a number
    #[arg(long, value_name = "SPAN", requires = "partition_by", allow_hyphen_values = true)]
    pub partition_every: Option<String>,
    /// Partitions of a RANGE beyond the last row, and beyond today [default: 4]
    #[arg(long, value_name = "N", requires = "partition_by", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub partition_premake: Option<u32>,
    /// Partitions of a HASH
    #[arg(long, value_name = "N", requires = "partition_by", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: Option<u32>,
    /// A partition for the rows that have no other; without it, a row that has none while the run lasts gets one
    /// [default: on]
    #[arg(long, value_name = "ON|OFF", requires = "partition_by", value_parser = switch)]
    pub partition_default: Option<bool>,
    /// The new table as a file of your own: CREATE TABLE {shadow} (…), its partitions {shadow_2024} and theirs, its
    /// indexes; columns are filled by their names and --map
    #[arg(long, value_name = "FILE", conflicts_with_all = ["alter", "column_order", "partition_by"])]
    pub shadow_ddl: Option<PathBuf>,
    /// Agree that rows for which --where is not true, and columns that --shadow-ddl does not name, are left behind
    /// in the old table
    #[arg(long)]
    pub yes: bool,
    /// Build indexes after the copy, at full speed; or have them there before it, so that the copy, slower but
    /// held back where standbys lag, fills them. Not to be changed later on [default: after]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub index_build: Option<IndexBuild>,
    /// Start although event triggers fire on the statements of the run
    #[arg(long)]
    pub allow_event_triggers: bool,
}

/// When indexes are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IndexBuild {
    After,
    Before,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Write a runbook as Markdown there too
    #[arg(long, value_name = "FILE")]
    pub runbook: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DryRunArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub change: ChangeArgs,
    /// How long rows are copied at most [default: 60s, with --share 1h]
    #[arg(long = "for", value_parser = duration)]
    pub time: Option<Duration>,
    /// Copy this share of the rows, like 5%
    #[arg(long, value_parser = share)]
    pub share: Option<f64>,
    /// Make no publication and no slot: nothing is known of changes, verification and cutover then
    #[arg(long)]
    pub no_capture: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

/// Limits, with the same names everywhere. What is not given is what the run before had, or the default.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
pub struct LimitArgs {
    /// Copy, sync and verification sessions [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// What one chunk of the copy should take [default: 500ms]
    #[arg(long, value_parser = duration)]
    pub chunk_time: Option<Duration>,
    /// Rows of the first chunk, before their speed is known [default: 5000]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub chunk_rows: Option<i64>,
    /// From the cutover's first lock request to its COMMIT [default: 500ms]
    #[arg(long, value_parser = duration)]
    pub max_lock_hold: Option<Duration>,
    /// How long the cutover waits for its lock, with the application queueing behind it [default: 250ms]
    #[arg(long, value_parser = duration)]
    pub lock_timeout: Option<Duration>,
    /// How long the cutover goes on trying [default: 30min]
    #[arg(long, value_parser = duration)]
    pub cutover_patience: Option<Duration>,
    /// No snapshot of pgwraith's lives longer [default: 30s]
    #[arg(long, value_parser = duration)]
    pub max_snapshot_age: Option<Duration>,
    /// Changed keys kept in memory; more are stored in the database [default: 50000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..))]
    pub max_keys_in_memory: Option<u32>,
    /// maintenance_work_mem for building indexes, like 512MB [default: the server's]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub maintenance_work_mem: Option<String>,
    /// Indexes built at a time [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub index_jobs: Option<u16>,
    /// Parallel workers of one index build, for idle servers [default: 0]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub index_workers: Option<u32>,
    /// WAL that the slot may hold back, like 10GB or 512MB: an index whose build could hold back more is
    /// built CONCURRENTLY [default: 10GB, or half of max_slot_wal_keep_size where that is less]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_slot_wal: Option<u64>,
    /// How far a standby may be behind [default: 2s]
    #[arg(long, value_parser = duration)]
    pub max_lag: Option<Duration>,
    /// The same in bytes of WAL [default: 256MB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_lag_bytes: Option<u64>,
    /// Standbys that may be behind as they like, by application_name; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub ignore_standby: Option<Vec<String>>,
    /// A standby that the server cannot see (one of a standby, one fed from the archive), asked itself; a connection
    /// string without a password; may be repeated
    #[arg(long, value_name = "CONNINFO")]
    pub replica: Option<Vec<String>>,
    /// WAL that a subscriber in use may have to read still [default: 1GB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_subscriber_lag: Option<u64>,
    /// WAL that the whole server may write a second
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_wal_rate: Option<u64>,
    /// Complete WAL segments that may wait for being archived [default: 1GB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_archive_lag: Option<u64>,
    /// Other sessions that may have been waiting for a lock for more than a second [default: 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_lock_waiters: Option<u32>,
    /// Other sessions that may be at work at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_active_sessions: Option<u32>,
    /// How many times as many other sessions as in calm times may be at work at a time [default: 1.5]
    #[arg(long, value_parser = factor)]
    pub max_active_factor: Option<f64>,
    /// How many times as many transactions as beside the copy may be done while it rests [default: 1.25]
    #[arg(long, value_parser = factor)]
    pub max_backlog_factor: Option<f64>,
    /// How many times as long as in calm times a read of a row by its key may take [default: 2.5]
    #[arg(long, value_parser = factor)]
    pub max_probe_factor: Option<f64>,
    /// How long it may take at all, in place of all that is held against calm times
    #[arg(long, value_parser = duration)]
    pub max_probe_latency: Option<Duration>,
    /// A limit that stops the run where a signal is over it for five seconds, like lag=30s; may be repeated
    #[arg(long, value_name = "NAME=LIMIT", value_delimiter = ',', value_parser = critical)]
    pub critical: Option<Vec<String>>,
    /// A query: while the number that it gives is greater than zero, the copy rests
    #[arg(long, value_name = "SQL")]
    pub throttle_query: Option<String>,
    /// Rest until `pgwraith set TABLE pause=off` [default: off]
    #[arg(long, num_args = 0..=1, default_missing_value = "on", require_equals = true, value_name = "ON|OFF", value_parser = switch)]
    pub pause: Option<bool>,
    /// Do everything but the swap, and wait in sync until `pgwraith cutover TABLE` [default: off]
    #[arg(long, num_args = 0..=1, default_missing_value = "on", require_equals = true, value_name = "ON|OFF", value_parser = switch)]
    pub postpone_cutover: Option<bool>,
    /// Swap only in these hours of the server's day, or of a time zone: "02:00-04:00 Europe/Berlin"
    #[arg(long, value_name = "HOURS", value_parser = window)]
    pub cutover_window: Option<String>,
    /// How long to go on trying while the server cannot be reached [default: 30min]
    #[arg(long, value_parser = patience)]
    pub retry_for: Option<Duration>,
    /// Give the slot up when the run is stopped (`resume` then takes --recover) [default: off]
    #[arg(long, num_args = 0..=1, default_missing_value = "on", require_equals = true, value_name = "ON|OFF", value_parser = switch)]
    pub drop_slot_on_stop: Option<bool>,
}

/// What concerns this process and its host alone: it is not kept for whoever resumes.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Answer GET /metrics, /status and /health at this address; of a port alone, on 127.0.0.1
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = listen)]
    pub listen: Option<SocketAddr>,
    /// A folder of programs to call when something happens: before-start, ready, before-cutover, after-cutover,
    /// stopped, failed, throttled
    #[arg(long, value_name = "DIR")]
    pub hooks: Option<PathBuf>,
    /// How long a hook may take, before it is killed
    #[arg(long, value_parser = duration, default_value = "60s")]
    pub hook_timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    /// Cut off a run of this migration that is alive elsewhere, or whose sessions the server still has
    #[arg(long)]
    pub take_over: bool,
    /// Where the replication slot is lost: make a new one, compare every row, copy again what differs
    #[arg(long)]
    pub recover: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The table; without it, all of the database
    pub table: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
    /// Show it again every two seconds
    #[arg(long)]
    pub watch: bool,
    /// Print JSON objects on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    /// Limits by the names of `pgwraith run`'s flags: workers=4 max-lag=500ms pause=on; without a value, as in
    /// max-wal-rate=, the default holds again, or none
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub limits: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CutoverArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
}

/// The limits of [`SetArgs`], as flags.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct SetLimits {
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The table; may be schema-qualified and quoted
    pub table: String,
    #[command(flatten)]
    pub connection: Connection,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub connection: Connection,
    /// Remove it
    #[arg(long)]
    pub yes: bool,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Rows of the table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Sessions of the live traffic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub sessions: u16,
    /// Writes per second of the whole traffic
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
}

/// As it is typed, too.
fn critical(text: &str) -> Result<String, String> {
    text.parse::<Critical>().map(|_| text.to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (1.1..=1000.0).contains(&factor) => Ok(factor),
        _ => Err("it is a number from 1.1 to 1000".into()),
    }
}

/// An address other than this host's own is only where it is written out.
fn listen(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse().map_err(|_| {
            "it is a port, or an IP address and a port, as in 127.0.0.1:9187 or [::1]:9187".into()
        }),
    }
}

/// As it is typed: that is how it is kept.
fn window(text: &str) -> Result<String, String> {
    text.parse::<crate::cutover::Window>().map(|_| text.to_owned())
}

/// As PostgreSQL reads booleans.
fn switch(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("it is on or off".into()),
    }
}

/// Of the whole, in percent.
fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').ok_or("it is a number of percent, as in 5%")?;
    match number.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err("it is more than 0 % and no more than 100 %".into()),
    }
}

/// Of patience there may be none.
fn patience(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}, as in 0s or 10min"))
}

/// As PostgreSQL reads a size of memory; kept as it was typed.
fn memory(text: &str) -> Result<String, String> {
    let wrong = || "it must be from 1024kB to 2147483647kB, as in 512MB or 2GB".to_owned();
    let text = text.trim();
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "kB"),
    };
    let unit = match unit {
        "kB" => 1.0,
        "MB" => 1024.0,
        "GB" => 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{}; the units are kB, MB, GB and TB", wrong())),
    };
    let size = number.trim_end().parse::<f64>().map_err(|_| wrong())? * unit;
    if (1024.0..=f64::from(i32::MAX)).contains(&size) { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|e| format!("{e}, as in 500ms or 2s"))?;
    if parsed < Duration::from_millis(1) {
        return Err("it must be at least 1ms".into());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_more_than_nothing() {
        assert_eq!(factor("2.5"), Ok(2.5));
        for bad in ["1", "0", "-3", "1e300", "inf", "NaN", "x", ""] {
            assert!(factor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_what_the_server_takes() {
        for good in ["1024", "1024kB", "64MB", "1.5GB", "2 GB", "1TB", "2147483647kB"] {
            assert_eq!(memory(good).as_deref(), Ok(good));
        }
        for bad in
            ["1", "1023kB", "abc", "", "GB", "-5GB", "2048GB", "9999TB", "64mb", "64MB x", "NaN"]
        {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_in_percent() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share(" 100 %"), Ok(1.0));
        for bad in ["5", "0%", "101%", "x%", "-1%", "NaN%", ""] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_an_address_only_this_host_is_answered() {
        assert_eq!(listen("9187").unwrap().to_string(), "127.0.0.1:9187");
        assert_eq!(listen("0.0.0.0:9187").unwrap().to_string(), "0.0.0.0:9187");
        assert_eq!(listen("[::1]:1").unwrap().to_string(), "[::1]:1");
        for bad in ["", ":9187", "*:9187", "localhost", "127.0.0.1", "99999"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }
}
