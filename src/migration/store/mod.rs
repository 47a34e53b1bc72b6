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
    StoredStep, begin_step, claim_step, finish_in_place, record_steps, steps, still_mine,
    unmake_steps,
};

use crate::error::Result;
use crate::pg::Session;

/// Whether a call of this hook is among the migration's events.
pub(super) async fn was_called(session: &Session, id: i64, hook: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pgwraith.event e WHERE e.migration_id = $1 AND e.what = 'hook' \
               AND pg_catalog.starts_with(e.detail, $2))";
    Ok(session.one(sql, &[&id, &format!("{hook}: ")]).await?.get(0))
}

/// Who asked for what, or what happened, when.
pub(super) async fn event(session: &Session, id: i64, what: &str, detail: &str) -> Result<()> {
    let sql = "INSERT INTO pgwraith.event (migration_id, what, detail) VALUES ($1, $2, $3)";
    session.execute(sql, &[&id, &what, &detail]).await?;
    Ok(())
}
