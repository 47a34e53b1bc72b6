//! The state in the database: schema `pgwraith`, keyed by migration id and flow.

mod access;
mod after;
mod epoch;
mod flow;
mod progress;
mod record;
mod schema;
mod standing;
mod step;

pub(super) use after::{ToDo, What, all_done, left_to_do, left_to_validate, still_to_prove};
pub(super) use epoch::{hold_epoch, host, raise_epoch, silence};
pub(super) use flow::{
    Kept, dirty, keep_fingerprint, keep_partitions, kept, kept_key, mark_unproven, record_flow,
    record_slot,
};
pub(super) use progress::{copy_rate, keep_compared, keep_progress};
pub(super) use record::{
    DRY_RUN, Stored, all_unfinished, begin, enter, forget, is_finished, is_swapped, keep_options,
    load, options, record_shadow, set_options, swapped, swapped_by_name, unfinished,
    unfinished_by_name,
};
pub(super) use schema::{ensure, to_read};
pub(super) use step::{
    StoredStep, begin_step, claim_step, finish_in_place, keep_column, record_steps, steps,
    still_mine, unmake_steps,
};

use crate::error::Result;
use crate::pg::Session;

/// The event of a run that ended for good: nobody can go on with the migration.
pub(super) const GIVEN_UP: &str = "given up";

/// Whether the last run ended for good. What was asked for or told since does not change that.
pub(super) async fn is_given_up(session: &Session, id: i64) -> Result<bool> {
    let sql = "SELECT COALESCE((SELECT e.what = $2 FROM pgwraith.event e WHERE e.migration_id = $1 \
               AND e.what NOT IN ('set', 'cutover', 'abort', 'hook') ORDER BY e.id DESC LIMIT 1), false)";
    Ok(session.one(sql, &[&id, &GIVEN_UP]).await?.get(0))
}

/// Whether a call of this hook is among the migration's events.
pub(super) async fn was_called(session: &Session, id: i64, hook: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pgwraith.event e WHERE e.migration_id = $1 AND e.what = 'hook' \
               AND pg_catalog.starts_with(e.detail, $2))";
    Ok(session.one(sql, &[&id, &format!("{hook}: ")]).await?.get(0))
}

/// What was typed by those who changed limits, behind the event `after` and since the last resume; each with its event.
pub(super) async fn typed(session: &Session, id: i64, after: i64) -> Result<Vec<(i64, String)>> {
    let sql = "SELECT e.id, e.detail FROM pgwraith.event e WHERE e.migration_id = $1 AND e.what IN ('set', 'cutover') \
               AND e.id > GREATEST($2, (SELECT pg_catalog.max(r.id) FROM pgwraith.event r \
                 WHERE r.migration_id = $1 AND r.what = 'resumed')) ORDER BY e.id";
    let rows = session.query(sql, &[&id, &after]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Who asked for what, or what happened, when.
pub(super) async fn event(session: &Session, id: i64, what: &str, detail: &str) -> Result<()> {
    let sql = "INSERT INTO pgwraith.event (migration_id, what, detail) VALUES ($1, $2, $3)";
    session.execute(sql, &[&id, &what, &detail]).await?;
    Ok(())
}
