//! What must be so before anything is touched: small checks, all run, all findings shown together,
//! each with its mend.
//!
//! One check a file, and [`run`] is their list. A check looks and never changes: it reads catalogs,
//! and the two that try a connection close it again. What a check cannot find out counts as
//! standing in the way, since nobody can say that it does not.

mod another_migration;
mod attachments;
mod collation_versions;
mod connections;
mod cutover_window;
mod direct_connection;
mod disk;
mod encoding;
mod event_triggers;
mod finding;
mod followers;
mod isolation;
mod locks;
mod logical_decoding;
mod long_transactions;
mod names;
mod partitions;
mod prepared_transactions;
mod primary;
mod privileges;
mod publications;
mod replicas;
mod replication_connection;
mod replication_slots;
mod row_security;
mod server_version;
mod slot_limit;
mod source_parts;
mod standby_slots;
mod subscription;
mod swap_time;
mod table_kind;
mod usable_key;
mod walsenders;

use crate::catalog::Table;
use crate::cutover::Window;
use crate::error::{Error, Result};
use crate::pg::{Connector, Session};
use crate::shadow::Names;

pub use connections::refuse_workers;
pub use event_triggers::EventTriggers;
use finding::Report;
pub use finding::{Finding, Severity, refuse};
pub use names::refuse_taken;
pub use partitions::refuse_partitions;
pub use source_parts::refuse_parts;
pub use swap_time::long_swap;

/// What is to be migrated, and through what.
pub struct Subject<'a> {
    pub connector: &'a Connector,
    /// As connected: not `SET ROLE` to the owner.
    pub session: &'a Session,
    pub table: &'a Table,
    pub names: &'a Names,
    pub event_triggers: EventTriggers,
    /// The connection strings of standbys that are to be asked.
    pub replicas: &'a [String],
    /// Ranges that are copied at a time.
    pub workers: usize,
    /// The hours in which the names may be swapped.
    pub window: Option<&'a Window>,
}

/// The checks of what a trial on an empty clone, and a change in place, need: neither a slot nor a key. Fails only
/// where the session is lost.
pub async fn before_a_trial(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let s = subject;
    let mut report = Report::of(s.session);
    report.take("server_version", server_version::check(s).await).await?;
    report.take("primary", primary::check(s).await).await?;
    report.take("direct_connection", direct_connection::check(s).await).await?;
    report.take("privileges", privileges::before_a_trial(s).await).await?;
    report.take("table_kind", table_kind::in_place(s).await).await?;
    report.take("another_migration", another_migration::check(s).await).await?;
    report.take("event_triggers", event_triggers::check(s).await).await?;
    report.take("encoding", encoding::check(s).await).await?;
    report.take("cutover_window", cutover_window::check(s).await).await?;
    Ok(report.findings())
}

/// The checks of what careful steps in place need besides: they are throttled as a copy is, and wait for
/// whoever is in the way.
pub async fn in_place(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let s = subject;
    let mut report = Report::of(s.session);
    report.take("replicas", replicas::check(s).await).await?;
    report.take("prepared_transactions", prepared_transactions::check(s).await).await?;
    let indexes = privileges::creating(s).await.map(|found| found.into_iter().collect());
    report.take("privileges", indexes).await?;
    let mut all = before_a_trial(subject).await?;
    all.extend(report.findings());
    Ok(all)
}

/// Runs every check. Fails only where the session is lost.
pub async fn run(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let s = subject;
    let mut report = Report::of(s.session);
    // The server.
    report.take("server_version", server_version::check(s).await).await?;
    report.take("primary", primary::check(s).await).await?;
    report.take("logical_decoding", logical_decoding::check(s).await).await?;
    report.take("replication_slots", replication_slots::check(s).await).await?;
    report.take("standby_slots", standby_slots::check(s).await).await?;
    report.take("replicas", replicas::check(s).await).await?;
    report.take("walsenders", walsenders::check(s).await).await?;
    report.take("connections", connections::check(s).await).await?;
    report.take("replication_connection", replication_connection::check(s).await).await?;
    report.take("direct_connection", direct_connection::check(s).await).await?;
    report.take("privileges", privileges::check(s).await).await?;
    // The table.
    report.take("table_kind", table_kind::check(s).await).await?;
    if matches!(s.table.kind, 'r' | 'p') {
        // What else it is has been refused, and has no keys.
        report.take("usable_key", usable_key::check(s).await).await?;
    }
    report.take(source_parts::CHECK, source_parts::check(s).await).await?;
    report.take("row_security", row_security::check(s).await).await?;
    report.take("attachments", attachments::check(s).await).await?;
    report.take("followers", followers::check(s).await).await?;
    report.take("locks", locks::check(s).await).await?;
    report.take("names", names::check(s).await).await?;
    // What else is going on.
    report.take("publications", publications::check(s).await).await?;
    report.take("subscription", subscription::check(s).await).await?;
    report.take("another_migration", another_migration::check(s).await).await?;
    report.take("prepared_transactions", prepared_transactions::check(s).await).await?;
    report.take("long_transactions", long_transactions::check(s).await).await?;
    // What to know beforehand.
    report.take("slot_limit", slot_limit::check(s).await).await?;
    report.take("isolation", isolation::check(s).await).await?;
    report.take("event_triggers", event_triggers::check(s).await).await?;
    report.take("collation_versions", collation_versions::check(s).await).await?;
    report.take("encoding", encoding::check(s).await).await?;
    report.take("cutover_window", cutover_window::check(s).await).await?;
    report.take("disk", disk::check(s).await).await?;
    Ok(report.findings())
}
