//! The end of a run, whatever it is: what holds the server back goes, and the operator is told what
//! became of the table.

use super::run::{EPOCH, Known, Run};
use super::{store, teardown};
use crate::catalog;
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::flow::write::superseded;
use crate::pg::QualifiedName;

impl Run<'_> {
    /// Whatever happened: the slot and the publication go, since without a tool to read it the slot
    /// would only hold back WAL.
    pub(super) async fn end<T>(&self, known: &Known, flow: &Flow, done: Result<T>) -> Result<T> {
        let cleaned = self.clean(known, flow, done.as_ref().err()).await;
        // Whatever went wrong here is the echo of being superseded, and nothing here is ours.
        if let (Err(error), Err(superseded)) = (&done, &cleaned)
            && superseded.kind() == Kind::NotResumable
        {
            tracing::debug!("superseded: {error}");
            return cleaned.and(done);
        }
        let error = match (done, &cleaned) {
            (Ok(report), Ok(_)) => return Ok(report),
            (Ok(report), Err(e)) => {
                self.meter.note(format!("the swap is done, but cleaning up failed: {e}"));
                return Ok(report);
            }
            (Err(error), _) => error,
        };
        let (source, shadow) = (&known.names.source, &known.names.shadow);
        let left = match cleaned {
            Ok(Source::Swapped) => {
                let state =
                    format!("The names were swapped before that: {source} has its new shape");
                return Err(error
                    .and_then_state(state, format!("the old table is {}", known.names.retired)));
            }
            Ok(Source::Gone) => {
                format!("slot and publication are dropped; the unfinished shadow {shadow} is left")
            }
            Ok(Source::InUse(name)) => format!(
                "{name} is untouched and in use; slot and publication are dropped; the unfinished \
                 shadow {shadow} is left"
            ),
            Err(e) => format!(
                "{source} is in use; the slot {} may still hold WAL back ({})",
                flow.slot,
                e.what()
            ),
        };
        let next = format!("`pgwraith abort {source}` removes what is left");
        Err(error.and_then_state(left, next))
    }

    /// Takes away what holds the server back, unless somebody else runs the migration now
    /// (`NotResumable`); says what became of the source.
    async fn clean(&self, known: &Known, flow: &Flow, error: Option<&Error>) -> Result<Source> {
        let session = self.connector.session("cleanup").await?;
        if !store::hold_epoch(&session, known.migration, EPOCH).await? {
            return Err(superseded());
        }
        teardown::end_sessions(&session, known.migration).await?;
        teardown::drop_slot(&session, &flow.slot).await?;
        teardown::drop_publication(&session, &flow.publication).await?;
        if flow.captured.view().is_some() {
            teardown::drop_rows_view(&session, known.migration).await?;
        }
        let (what, detail) = match error {
            None => ("finished", String::new()),
            Some(e) if e.kind() == Kind::Stopped => ("stopped", e.to_string()),
            Some(e) => ("failed", e.to_string()),
        };
        store::event(&session, known.migration, what, &detail).await?;
        // Under whatever name: somebody may have renamed it.
        let there = catalog::name_of(&session, known.source.oid).await?;
        let became = match (store::is_swapped(&session, known.migration).await?, there) {
            (true, _) => Source::Swapped,
            (false, Some(name)) => Source::InUse(name),
            (false, None) => Source::Gone,
        };
        session.batch("COMMIT").await?;
        Ok(became)
    }
}

/// What became of the source in the end.
enum Source {
    Swapped,
    /// By this name.
    InUse(QualifiedName),
    /// Somebody dropped it.
    Gone,
}
