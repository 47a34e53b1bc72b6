//! The integration tests, all in one binary: one link, one place to look.

mod bad_input;
mod cluster;
mod cutover;
mod harness;
mod objects;
mod preflight;
mod sabotage;
mod scene;
mod settings;
mod traffic;
mod verification;
