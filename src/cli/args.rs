//! Arguments as typed.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Online schema change for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "pgwraith", version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Write a log to standard error, as detailed as `debug` or a filter like `pgwraith=trace`
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn")]
    pub log: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Migrate a table
    Run(RunArgs),
    /// Undo an unfinished migration: slot, publication, shadow, state
    Abort(AbortArgs),
    /// A private PostgreSQL, a table, live traffic, a migration, a report
    Demo(DemoArgs),
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
    /// What would follow ALTER TABLE name; may be repeated, applied in order
    #[arg(long, value_name = "CLAUSES", allow_hyphen_values = true)]
    pub alter: Vec<String>,
    /// Fill a column from an expression over the row: "column = expression"; may be repeated
    #[arg(long, value_name = "COLUMN=EXPRESSION")]
    pub map: Vec<String>,
    /// Rewrite the table in its present shape, without bloat
    #[arg(long)]
    pub rebuild: bool,
    /// Start although event triggers fire on the statements of the run
    #[arg(long)]
    pub allow_event_triggers: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,
}

/// Limits, with the same names everywhere.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Copy, sync and verification sessions
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// What one chunk of the copy should take
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub chunk_time: Duration,
    /// Rows of the first chunk, before their speed is known
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(i64).range(1..))]
    pub chunk_rows: i64,
    /// From the cutover's first lock request to its COMMIT
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub max_lock_hold: Duration,
    /// How long the cutover waits for its lock, with the application queueing behind it
    #[arg(long, default_value = "250ms", value_parser = duration)]
    pub lock_timeout: Duration,
    /// How long the cutover goes on trying
    #[arg(long, default_value = "30min", value_parser = duration)]
    pub cutover_patience: Duration,
    /// No snapshot of pgwraith's lives longer
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub max_snapshot_age: Duration,
    /// Changed keys kept in memory; more are stored in the database
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..))]
    pub max_keys_in_memory: u32,
    /// maintenance_work_mem for building indexes
    #[arg(long, value_name = "SIZE")]
    pub maintenance_work_mem: Option<String>,
    /// Indexes built at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub index_jobs: u16,
    /// Parallel workers of one index build, for idle servers
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub index_workers: u32,
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

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|e| format!("{e}, as in 500ms or 2s"))?;
    if parsed < Duration::from_millis(1) {
        return Err("it must be at least 1ms".into());
    }
    Ok(parsed)
}
