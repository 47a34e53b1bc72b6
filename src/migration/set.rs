//! Changes limits of a migration, from any host: the run reads them from the state.

use serde_json::Value;

use super::copy::CopySettings;
use super::{liveness, resume, store};
use crate::cutover::Window;
use crate::error::Result;
use crate::pg::Connector;
use crate::preflight;

/// Sets flags of the unfinished migration of `table`, and notes who did; `what` he did is the event's name.
/// Returns whether somebody runs it who will notice.
pub async fn set(
    connector: &Connector,
    table: &str,
    flags: &Value,
    what: &str,
    typed: &str,
) -> Result<bool> {
    let session = connector.session("set").await?;
    let found = resume::find(&session, table).await?;
    let window = flags["cutover_window"].as_str().and_then(|hours| hours.parse::<Window>().ok());
    if let Some(window) = window {
        window.check(&session).await?;
    }
    let workers = |flags: &Value| flags["workers"].as_i64();
    if let Some(wanted) = workers(flags) {
        let standard = i64::try_from(CopySettings::default().workers).unwrap_or(0);
        let now = workers(&found.options).unwrap_or(standard);
        preflight::refuse_workers(&session, wanted - now).await?;
    }
    store::ensure(&session).await?;
    session.batch("BEGIN").await?;
    store::set_options(&session, found.id, flags).await?;
    store::event(&session, found.id, what, typed).await?;
    session.batch("COMMIT").await?;
    Ok(liveness::run_by(&session, &found).await?.is_some())
}
