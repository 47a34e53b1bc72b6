//! Changes limits of a migration, from any host: the run reads them from the state.

use serde_json::Value;

use super::copy::CopySettings;
use super::store::Stored;
use super::{liveness, resume, row, store};
use crate::cutover::Window;
use crate::error::{Error, Result};
use crate::pg::{Connector, Session, shell_word};
use crate::preflight;

/// Who notices what was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notices {
    /// A run, at once.
    Run,
    /// Whoever resumes.
    Resume,
    /// Nobody: a dry run that is dead is not gone on with.
    NobodyDryRun,
    /// Nobody: its last run ended for good.
    NobodyGivenUp,
}

/// Sets flags of the unfinished migration of `table`, and notes who did; `what` he did is the event's name.
pub async fn set(
    connector: &Connector,
    table: &str,
    flags: &Value,
    what: &str,
    typed: &str,
) -> Result<Notices> {
    let session = connector.session("set").await?;
    let found = resume::find(&session, table).await?;
    if what == "cutover" && found.is_dry_run() {
        return Err(no_swap(&found));
    }
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
    row::take(&session, &found).await?;
    store::set_options(&session, found.id, flags).await?;
    store::event(&session, found.id, what, typed).await?;
    session.batch("COMMIT").await?;
    who_notices(&session, &found).await
}

async fn who_notices(session: &Session, found: &Stored) -> Result<Notices> {
    Ok(match liveness::run_by(session, found).await? {
        Some(_) => Notices::Run,
        None if found.is_dry_run() => Notices::NobodyDryRun,
        None if store::is_given_up(session, found.id).await? => Notices::NobodyGivenUp,
        None => Notices::Resume,
    })
}

fn no_swap(found: &Stored) -> Error {
    let (name, word) = (&found.names.source, shell_word(&found.names.source.to_string()));
    Error::usage(format!("what there is of {name} is a dry run, which never swaps"))
        .state("Nothing was changed")
        .next(format!(
            "It removes itself when it is over; `pgwraith abort {word}` removes it now, and `pgwraith run` begins a migration"
        ))
}
