//! The operator's own CREATE TABLE: what the future table is, the file says, and PostgreSQL what that is.
//!
//! The statements are run in the rehearsal, in place of an ALTER, under the clone's name; what they made is read
//! into the model that everything else works with. So the shadow is made of that as of any other change: without
//! indexes until the rows are in, under names that are exchanged in the end. Columns are the present ones where
//! they have their names.

mod adopt;
mod places;
mod read;
mod script;
mod tried;

pub use adopt::{dropped, left_out};
pub(super) use places::try_rows;

use super::clone::{self, Clone, about_the_change, set_role};
use super::foreign_keys;
use super::partition::{self, Partitioning};
use super::stand_in::StandIns;
use crate::catalog::{self, Carried, Table};
use crate::error::{Error, Kind, Result};
use crate::pg::Session;
use crate::shadow;

/// Whoever is subscribed to the table's updates is told them by a key; without one PostgreSQL would refuse the
/// application's updates from the swap on.
pub(super) fn refuse_unidentified(target: &Table, carried: &[Carried]) -> Result<()> {
    let publication = carried.iter().find(|thing| thing.kind == "publication");
    let identified = match target.replica_identity {
        'd' => target.indexes.iter().any(|index| index.primary),
        other => other != 'n',
    };
    match publication {
        Some(publication) if !identified => {
            Err(Error::usage(format!(
                "--shadow-ddl: the new table has no primary key, and publication {} could send no update of it",
                publication.name
            ))
            .state("Nothing was touched")
            .next("Give it one, or a REPLICA IDENTITY: ALTER TABLE {shadow} REPLICA IDENTITY …"))
        }
        _ => Ok(()),
    }
}

/// Puts what the file makes in the clone's place, under its name, with all that follows from the source on it.
/// Returns the future table, and how it is partitioned where it is.
pub(super) async fn replace(
    session: &Session,
    source: &Table,
    made: &mut Clone,
    text: &str,
    stand_ins: &mut StandIns<'_>,
) -> Result<(Table, Option<Partitioning>)> {
    let statements = script::statements(text, &made.name)?;
    set_role(session, Some(&source.owner)).await?;
    // With the foreign keys between it and the stand-ins.
    session.batch(&format!("DROP TABLE {} CASCADE", made.name)).await?;
    let before = read::relations(session, made).await?;
    tried::run(session, &made.name, &statements).await?;
    let now = catalog::read_named(session, &made.name).await?.ok_or_else(|| {
        Error::usage("--shadow-ddl: in the end there is no table of that name any more")
            .state("Nothing was touched")
            .next("It cannot be renamed or moved in the file")
    })?;
    made.oid = now.oid;
    read::refuse_others(session, source, (made, &before), &now).await?;
    let mut target = adopt::adopt(source, &now);
    let partitioning = match now.kind {
        'p' => Some(read::partitioning(session, source, made, &mut target).await?),
        _ => None,
    };
    read::mark_defaults(session, source, &now, &mut target).await?;
    clone::dress(session, &target, &made.name, &now).await?;
    if let Some(sql) = shadow::replica_identity(&target, &made.name, str::to_owned) {
        session.batch(&sql).await?;
    }
    if partitioning.is_some() {
        partition::refuse_publications(session, &target).await?;
    }
    foreign_keys::put_again(session, &target, stand_ins).await.map_err(
        |e| match about_the_change(&e) {
            true => Error::new(
                Kind::Refused,
                format!(
                    "a foreign key cannot follow to the new table: {}",
                    stand_ins.told(e.what())
                ),
            )
            .state("Nothing was touched")
            .next("Give the new table what the key needs, or drop the key before"),
            false => e,
        },
    )?;
    Ok((target, partitioning))
}
