//! Whether what hangs on the table can follow it: every statement of the swap is tried on the altered
//! clone.

use super::clone::{Clone, about_the_change, set_role};
use super::stand_in::StandIns;
use crate::catalog::{Carried, Column, Partner, Table, meaning};
use crate::error::{Error, Kind, Result};
use crate::pg::Session;

/// Refuses a change that something cannot follow; each such thing is named, with the reason.
pub(super) async fn try_all(
    session: &Session,
    source: &Table,
    target: &Table,
    carried: &[Carried],
    clone: &Clone,
    stand_ins: &mut StandIns<'_>,
) -> Result<()> {
    let mut refused = Vec::new();
    for thing in carried {
        let (kind, name) = (&thing.kind, &thing.name);
        if let Some(why) =
            lost_column(source, target, thing).or_else(|| lost_identity(source, target, thing))
        {
            refused.push(format!("{kind} {name} {why}"));
            continue;
        }
        session.batch("SAVEPOINT thing").await?;
        let tried = async {
            try_one(session, thing, clone, stand_ins).await?;
            other_meaning(session, source, target, thing, clone, stand_ins).await
        };
        let tried = tried.await;
        if tried.is_ok() {
            // Functions of many schemas are tried in one, where two of them may have one name.
            let undo = if thing.class == "pg_proc" { "ROLLBACK TO SAVEPOINT thing; " } else { "" };
            session.batch(&format!("{undo}RELEASE SAVEPOINT thing")).await?;
        }
        match tried {
            Ok(Some(why)) => refused.push(format!("{kind} {name}: {why}")),
            Ok(None) => {}
            Err(e) if about_the_change(&e) => {
                session.batch("ROLLBACK TO SAVEPOINT thing").await?;
                refused.push(format!("{kind} {name}: {}", stand_ins.told(e.what())));
            }
            Err(e) => return Err(e),
        }
    }
    set_role(session, Some(&source.owner)).await?;
    if refused.is_empty() {
        return Ok(());
    }
    let list: String = refused.iter().map(|r| format!("\n  {r}")).collect();
    Err(Error::new(
        Kind::Refused,
        format!("what hangs on {} cannot all follow the change:{list}", source.qualified()),
    )
    .state("Nothing was touched")
    .next("Drop these before and create them anew afterwards, or leave that clause out"))
}

async fn try_one(
    session: &Session,
    thing: &Carried,
    clone: &Clone,
    stand_ins: &mut StandIns<'_>,
) -> Result<()> {
    if let Some(relation) = &thing.relation {
        stand_ins.of(relation).await?;
    }
    let about = thing.relation.as_ref().map(Partner::qualified);
    set_role(session, thing.role.as_deref()).await?;
    let statements = if thing.trial.is_empty() { &thing.bind } else { &thing.trial };
    for sql in statements {
        session.batch(&clone.tried(&stand_ins.staged_about(sql, about.as_ref()))).await?;
    }
    Ok(())
}

/// Whether the thing means something else on the clone than on the source. Where a column that it uses
/// has another type it may well do so.
async fn other_meaning(
    session: &Session,
    source: &Table,
    target: &Table,
    thing: &Carried,
    clone: &Clone,
    stand_ins: &mut StandIns<'_>,
) -> Result<Option<String>> {
    let mut used =
        thing.uses.iter().filter_map(|&n| Some((source.column(n)?, source.becomes(n, target)?)));
    if used.any(|(was, is)| retyped(was, is)) {
        return Ok(None);
    }
    // A function, which is part of no relation, is tried in the clone's schema.
    let on = match &thing.relation {
        Some(relation) => stand_ins.of(relation).await?,
        None => clone.name.clone(),
    };
    // Names of relations are looked up, in schemas that the thing's owner may not even see.
    set_role(session, None).await?;
    let Some(copy) = meaning::copy_of(session, thing, &on).await? else { return Ok(None) };
    let was = meaning::of(session, &thing.class, thing.oid, stand_ins.moves()).await?;
    let is = meaning::of(session, &thing.class, copy, stand_ins.moves()).await?;
    Ok(meaning::lost(&was, &is, meaning::mentions_whole_rows(&thing.bind)))
}

fn retyped(was: &Column, is: &Column) -> bool {
    (&is.type_sql, &is.collation) != (&was.type_sql, &was.collation)
}

/// What is put on by its text names columns, and another column may have the name by then. A view, what
/// is more, has the columns that it was made with: PostgreSQL itself refuses to alter those below it.
fn lost_column(source: &Table, target: &Table, thing: &Carried) -> Option<String> {
    let of_view = thing.relation.is_some() && matches!(thing.kind.as_str(), "view" | "rule");
    let mut used =
        thing.uses.iter().filter_map(|&n| Some((source.column(n)?, source.becomes(n, target))));
    used.find_map(|(was, is)| {
        let name = &was.name;
        match is {
            None => Some(format!("uses column {name:?}, which the change drops")),
            Some(is) if is.name != was.name => {
                Some(format!("uses column {name:?}, which the change renames"))
            }
            Some(is) if of_view && retyped(was, is) => Some(format!(
                "uses column {name:?}, whose type the change alters from {} to {}",
                was.type_sql, is.type_sql
            )),
            Some(_) => None,
        }
    })
}

/// Whoever calls a sequence cannot follow it where it does not go on.
fn lost_identity(source: &Table, target: &Table, thing: &Carried) -> Option<String> {
    let survives =
        |attnum| source.becomes(attnum, target).is_some_and(|column| !column.identity.is_empty());
    let mut called =
        source.sequences.iter().filter(|s| s.identity && thing.calls.contains(&s.attnum));
    let lost = called.find(|s| !survives(s.attnum))?;
    Some(format!(
        "calls the sequence {:?} of an identity column that the change takes away",
        lost.name
    ))
}
