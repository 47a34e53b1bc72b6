//! The server knows the time zone of `--cutover-window`: one that is mistyped would be noticed only when hours of copying
//! are over, and the swap never comes.

use super::{Finding, Result, Subject};
use crate::cutover::KNOWN_ZONES;
use crate::error::Kind;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let Some(window) = subject.window else { return Ok(vec![]) };
    match window.check(subject.session).await {
        Err(e) if e.kind() == Kind::Usage => {
            Ok(vec![Finding::refuse(e.what().to_owned(), KNOWN_ZONES)])
        }
        checked => checked.map(|()| vec![]),
    }
}
