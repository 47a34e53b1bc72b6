//! Protects the application and the standbys: what presses is read ([`signals`]), the copy goes as fast as
//! that allows ([`controller`]), and its workers obey, between two ranges and within one ([`valve`]).

pub mod account;
pub mod controller;
pub mod critical;
pub mod hush;
pub mod limits;
pub mod presence;
pub mod replica;
pub mod signals;
pub mod valve;
