//! Takes away the shadow of a migration that is undone: the very table that the run made, whatever it is
//! called now, and nobody else's.

use serde_json::Value;

use super::store::{self, Stored};
use crate::catalog::{self, Table};
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session, shell_word};

/// What became of it.
#[derive(Debug)]
pub enum Shadow {
    /// It was not made yet, or is gone.
    NotThere,
    /// Dropped, under the name it had.
    Dropped(QualifiedName),
    /// A table that may be somebody else's was left: what, and why.
    Left(String),
}

/// Drops it.
///
/// The oid says which table it is. Alone it does not prove that: oids come around again in the end, and a
/// state that was restored from a dump names tables by the oids of another database. So it has the recorded
/// name too, or, where somebody renamed or moved it, the columns that the run gave it.
pub(super) async fn drop_shadow(session: &Session, stored: &Stored) -> Result<Shadow> {
    let shadow = &stored.names.shadow;
    let there = match stored.shadow_oid {
        Some(oid) if oid != stored.source_oid => catalog::read(session, oid).await?,
        _ => None,
    };
    let Some(there) = there else {
        let other = catalog::read_named(session, shadow).await?.is_some();
        return Ok(match other {
            true => Shadow::Left(format!(
                "A table {shadow} is there that is not the one the run made: it is left"
            )),
            false => Shadow::NotThere,
        });
    };
    let name = there.qualified();
    if name != *shadow && !has_its_columns(session, stored, &there).await? {
        return Ok(Shadow::Left(format!(
            "{name} has the oid of the unfinished shadow {shadow}, but neither its name nor its columns: it is \
             left. If it is the shadow: DROP TABLE {name}"
        )));
    }
    match session.batch(&format!("DROP TABLE {name}")).await {
        Ok(()) => Ok(Shadow::Dropped(name)),
        Err(e) => Err(cannot_drop(e, &name, &stored.names.source)),
    }
}

/// The slot went before: whatever is in the way of the table holds no WAL back.
fn cannot_drop(e: Error, shadow: &QualifiedName, source: &QualifiedName) -> Error {
    let again = format!("`pgwraith abort {}`", shell_word(&source.to_string()));
    let dependents = match e.sqlstate() {
        Some("2BP01") => e.db().and_then(|db| db.detail()).map(|detail| detail.replace('\n', ", ")),
        _ => None,
    };
    let (e, next) = match dependents {
        Some(dependents) => (
            Error::failed(format!(
                "the unfinished shadow {shadow} cannot be dropped: {dependents}"
            ))
            .source(e),
            format!("Drop what depends on it, then {again}"),
        ),
        None => (
            e.context(format!("dropping the unfinished shadow {shadow}")),
            format!("When that is mended: {again}"),
        ),
    };
    e.state("Slot and publication are gone, nothing holds WAL back any more; the shadow and the state are left")
        .next(next)
}

/// Whether the table has the columns that the run gave its shadow, as far as the state knows them.
async fn has_its_columns(session: &Session, stored: &Stored, table: &Table) -> Result<bool> {
    let Some(kept) = store::kept(session, stored.id).await? else { return Ok(false) };
    // An index has no type.
    let is_column = |part: &&Value| part[1] != "";
    let made: Vec<&Value> = kept.shape.as_array().into_iter().flatten().filter(is_column).collect();
    let shape = serde_json::to_value(table.shape()).unwrap_or_default();
    let has: Vec<&Value> = shape.as_array().into_iter().flatten().filter(is_column).collect();
    Ok(!made.is_empty() && made == has)
}
