//! The end of a change in place that did not come to its end: which steps are made, and the ways on.

use std::time::Duration;

use tokio::time::timeout;

use super::undo;
use crate::change::trial::Does;
use crate::error::{Error, Kind, Result};
use crate::migration::run::Run;
use crate::migration::store;
use crate::pg::sqlstate::classify;
use crate::pg::{Session, shell_word};

/// A server that does not answer at the end is not waited for: nothing that is left is lost.
const LIMIT: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// The error, with the state that things are in and the ways on.
    pub(in crate::migration) async fn end_in_place(
        &self,
        migration: i64,
        epoch: i64,
        error: Error,
    ) -> Error {
        let told = match timeout(LIMIT, self.settle_in_place(migration, epoch, &error)).await {
            Ok(Ok(told)) => told,
            // Whatever went wrong here is the echo of being superseded, and nothing here is ours.
            Ok(Err(e)) if e.kind() == Kind::NotResumable => return e,
            Ok(Err(e)) => self.unknown(e.what()),
            Err(_) => self.unknown("the server does not answer"),
        };
        let error = match classify(&error).advice() {
            Some(advice) if error.kind() == Kind::Failed => error.next(advice),
            _ => error,
        };
        error.and_then_state(told.0, told.1)
    }

    fn unknown(&self, why: &str) -> (String, String) {
        let state = format!("which steps are made in {} could not be asked ({why})", self.table);
        (state, ways_on(self.table))
    }

    async fn settle_in_place(
        &self,
        migration: i64,
        epoch: i64,
        error: &Error,
    ) -> Result<(String, String)> {
        let (holder, session, stored) = self.end_all(migration, epoch, error).await?;
        holder.rollback().await;
        if stored.options["abort"] == true {
            let undone = undo(self.connector, &session, &stored, epoch, &self.meter).await?;
            store::forget(&session, migration).await?;
            let state = match undone.left.as_slice() {
                [] => format!("{} is as it was before", self.table),
                left => format!("What was typed stays in {}: {}", self.table, left.join("; ")),
            };
            return Ok((state, "`pgwraith run` begins another".to_owned()));
        }
        let state = state_of(&session, migration, self.table).await?;
        let next = match error.kind() {
            Kind::NotResumable => {
                format!("`pgwraith abort {}` removes what is left", shell_word(self.table))
            }
            _ => ways_on(self.table),
        };
        Ok((state, next))
    }
}

fn ways_on(table: &str) -> String {
    let word = shell_word(table);
    format!(
        "`pgwraith resume {word}` goes on with the steps that are left, `pgwraith abort {word}` takes back those that are made"
    )
}

/// Which steps are made.
async fn state_of(session: &Session, migration: i64, table: &str) -> Result<String> {
    let steps = store::steps(session, migration).await?;
    let all = steps.len();
    let done: Vec<&str> =
        steps.iter().filter(|s| s.done).map(|stored| stored.step.sql.as_str()).collect();
    let mut state = match done.as_slice() {
        [] => format!("{table} is in use, and nothing is changed in it yet"),
        done => format!(
            "{table} is in use; {} of {all} steps are made in it: {}",
            done.len(),
            done.join("; ")
        ),
    };
    let half = steps.iter().find(|stored| stored.began && !stored.done);
    match half.map(|stored| &stored.step.does) {
        Some(Does::Fill { column, .. }) => {
            state.push_str(&format!(". Column {column:?} is filled in part, and NULL elsewhere"));
        }
        Some(Does::BuildIndex { name, .. }) => {
            let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                         JOIN pgwraith.migration m ON m.source_oid = i.indrelid \
                       WHERE m.id = $1 AND c.relname = $2 AND NOT i.indisvalid)";
            if session.one(sql, &[&migration, name]).await?.get(0) {
                state.push_str(&format!(". An invalid index {name:?} is left, which may refuse rows: going on drops it first"));
            }
        }
        _ => {}
    }
    Ok(state)
}
