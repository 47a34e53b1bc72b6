//! Protects the application and the standbys: what presses is read, and the copy goes as fast as that
//! allows.

pub mod controller;
