//! The integration tests, all in one binary: one link, one place to look.

mod bad_input;
mod carried;
mod cases;
mod cluster;
mod cutover;
mod definition;
mod forced_rls;
mod generator;
mod harness;
mod keys;
mod lost_reply;
mod objects;
mod oracle;
mod preflight;
mod races;
mod sabotage;
mod scene;
mod settings;
mod several_hosts;
mod since_18;
mod takeover;
mod traffic;
mod twins;
mod verification;
mod zoo;
