//! The operator's clauses, run on the clone.

use super::clauses::{fires, inherits};
use super::clone::about_the_change;
use super::references;
use super::stand_in::StandIns;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session};

/// Runs one ALTER TABLE with the operator's clauses on the clone.
pub(super) async fn alter(
    session: &Session,
    clone: &QualifiedName,
    clauses: &str,
    stand_ins: &StandIns<'_>,
) -> Result<()> {
    let done = attempt(session, clone, clauses, stand_ins).await?;
    done.map_err(|e| not_possible(clauses, e, stand_ins))
}

/// The same; the inner error is PostgreSQL's, of the statement.
pub(super) async fn attempt(
    session: &Session,
    clone: &QualifiedName,
    clauses: &str,
    stand_ins: &StandIns<'_>,
) -> Result<Result<()>> {
    refuse_by_name(clauses)?;
    let staged = references::staged(session, clauses, stand_ins).await?;
    // The operator's own search path; the rollback brings the pinned one back.
    // A clone has no rows to hide, and a foreign key on one whose row security is forced looks for some.
    session.batch("RESET search_path; SET LOCAL row_security = on").await?;
    if let Err(e) = session.execute(&format!("ALTER TABLE {clone} {staged}\n"), &[]).await {
        return Ok(Err(e));
    }
    let back = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off";
    session.batch(back).await.map(Ok)
}

/// What a clone cannot tell: it has neither triggers nor parents.
pub(super) fn refuse_by_name(clauses: &str) -> Result<()> {
    if let Some(what) = fires(clauses) {
        return Err(Error::usage(format!("--alter may not change whether {what} fire"))
            .next("Do that before or after, it takes PostgreSQL a millisecond"));
    }
    if inherits(clauses) {
        let what = "--alter may not change what the table inherits from (INHERIT, NO INHERIT): pgwraith does not change inheritance";
        return Err(Error::usage(what).next(
            "Do that by hand, it takes PostgreSQL a moment: SET lock_timeout = '1s'; ALTER TABLE …, and again where that runs out",
        ));
    }
    Ok(())
}

/// What PostgreSQL has against the clauses.
pub(super) fn not_possible(clauses: &str, e: Error, stand_ins: &StandIns<'_>) -> Error {
    match e.db() {
        Some(db) if db.code().code() == "42601" && db.message().contains("multiple commands") => {
            Error::usage(format!("--alter {clauses:?} holds more than one statement"))
                .next("Give only what would follow ALTER TABLE name; repeat --alter for more")
        }
        Some(_) if about_the_change(&e) => {
            let what = stand_ins.told(e.what());
            Error::usage(format!("--alter {clauses:?} is not possible: {what}"))
                .next("Nothing was changed. Correct the clauses and start again")
        }
        _ => e,
    }
}
