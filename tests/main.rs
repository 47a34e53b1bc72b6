//! The integration tests, all in one binary: one link, one place to look.

mod cluster;
mod harness;
mod keys;
mod oracle;
mod preflight;
mod races;
mod takeover;
mod traffic;
