//! pgwraith: online schema change for PostgreSQL.

pub mod catalog;
pub mod change;
pub mod cli;
pub mod conninfo;
pub mod cutover;
pub mod demo;
pub mod error;
pub mod flow;
pub mod migration;
pub mod pg;
pub mod preflight;
pub mod shadow;
pub mod telemetry;
pub mod wal;
