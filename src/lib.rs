//! pgwraith: online schema change for PostgreSQL.
//!
//! A table gets a new shape while the application keeps reading and writing it. A *shadow* is built
//! beside the *source*; rows are copied in *chunks*; logical replication tells which keys changed
//! meanwhile; both are proven equal; then the names are swapped under one short lock.
//!
//! The idea that carries everything: **the log says which keys changed, the source says what they
//! hold.** The publication lists only the key's columns. Copying, applying changes and repairing are
//! the same projection, executed by the server, over a key range or a set of keys. Row data never
//! leaves the server, and the tool's memory depends on the number of changed keys alone.
//!
//! What must hold whatever else changes, and where it is upheld:
//!
//! | invariant | where |
//! |---|---|
//! | 1 capture: nothing that our snapshots miss is missing from the stream | [`migration`] (prepare), [`catalog::fingerprint`] |
//! | 2 coverage: chunks cover the key space, proven positively | [`flow::chunk::Planner`] |
//! | 3 dirty until proven: a key is cleared only by a snapshot that sees its change | [`flow::dirty::DirtySet::finish`] |
//! | 4 no older snapshot writes after a newer one | [`flow::write::Door`], [`flow::dirty::DirtySet::select`], [`flow::truncate`] |
//! | 5 durability: the slot advances only past what is synced or stored | [`flow::keeper`], [`flow::dirty::DirtySet::confirmable`] |
//! | 6 exactly the source at S | [`flow::sync::Syncer::full`] |
//! | 7 cutover: one transaction, a deadline that the server enforces | [`cutover`] |
//! | 8 verified before swapped | [`flow::verify`] |
//! | 9 one writer run | [`flow::write::Writer`], [`migration`] (store) |
//!
//! The rooms: [`conninfo`] and [`pg`] reach the server, [`wal`] reads its log, [`catalog`] knows a
//! table and all that hangs on it, [`preflight`] refuses what cannot go well, [`change`] turns what
//! was asked for into a projection, [`shadow`] renders DDL, [`flow`] moves rows and proves them equal,
//! [`cutover`] swaps, [`migration`] runs the phases in order, [`throttle`] sees that they take no more than is free, [`telemetry`] shows them, [`hooks`] calls the operator's programs, [`cli`] is the
//! command line, [`demo`] a private server with traffic. Arrows point one way: `cli → migration →
//! cutover, preflight → flow → throttle, shadow, change → catalog → pg → wal, conninfo`.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod catalog;
pub mod change;
pub mod cli;
pub mod conninfo;
pub mod cutover;
pub mod demo;
pub mod error;
pub mod failpoint;
pub mod flow;
pub mod hooks;
pub mod migration;
pub mod pg;
pub mod preflight;
pub mod say;
pub mod shadow;
pub mod telemetry;
pub mod throttle;
pub mod wal;
