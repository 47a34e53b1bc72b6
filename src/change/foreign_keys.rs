//! Foreign keys in a rehearsal: with stand-ins for the tables at their other ends they are on the clone
//! while the change is tried, so that PostgreSQL itself says what becomes of them.

use super::Request;
use super::clone::set_role;
use super::stand_in::StandIns;
use crate::catalog::{ForeignKey, Partner, Table};
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::shadow;

/// Puts every foreign key of the source on the clone.
pub(super) async fn put_on(
    session: &Session,
    source: &Table,
    stand_ins: &mut StandIns<'_>,
) -> Result<()> {
    let mut keyed: Vec<(u32, &str)> = Vec::new();
    for key in &source.foreign_keys {
        let from = stand_ins.of(&key.from).await?;
        let to = stand_ins.of(&key.to).await?;
        // The rights of two owners are needed.
        set_role(session, None).await?;
        // The primary key is there already.
        let is_there = key.to_key_is_constraint && key.to_key.starts_with("PRIMARY KEY");
        if key.to.oid != source.oid && !is_there && !keyed.contains(&(key.to.oid, &key.to_key)) {
            let number = keyed.len();
            keyed.push((key.to.oid, &key.to_key));
            session.batch(&referenced_key(key, &to, number)).await?;
        }
        let name = quote_ident(&key.name);
        session.batch(&add(key, &from, stand_ins)).await?;
        if key.comment.is_some() {
            let on = format!("{name} ON {from}");
            session.batch(&shadow::comment("CONSTRAINT", &on, &key.comment)).await?;
        }
    }
    set_role(session, Some(&source.owner)).await
}

/// The key, on the clone or stand-in `from`.
fn add(key: &ForeignKey, from: &QualifiedName, stand_ins: &StandIns<'_>) -> String {
    let (name, definition) = (quote_ident(&key.name), stand_ins.staged(&key.definition));
    format!("ALTER TABLE {from} ADD CONSTRAINT {name} {definition}")
}

/// The key that is referred to, on the stand-in `to`.
fn referenced_key(key: &ForeignKey, to: &QualifiedName, number: usize) -> String {
    let name = quote_ident(&format!("pgwraith_{number}"));
    match key.to_key_is_constraint {
        true => format!("ALTER TABLE {to} ADD CONSTRAINT {name} {}", key.to_key),
        false => format!("CREATE UNIQUE INDEX {name} ON {to} {}", key.to_key),
    }
}

/// Puts those of `target` on its clone, which was made anew and lost them; what they refer to is there.
pub(super) async fn put_again(
    session: &Session,
    target: &Table,
    stand_ins: &mut StandIns<'_>,
) -> Result<()> {
    for key in &target.foreign_keys {
        let from = stand_ins.of(&key.from).await?;
        set_role(session, None).await?;
        session.batch(&add(key, &from, stand_ins)).await?;
    }
    set_role(session, Some(&target.owner)).await
}

/// Puts every foreign key of the source on its clone, which was made anew and lost them; what they refer to is there.
pub(super) async fn put_back(
    session: &Session,
    source: &Table,
    stand_ins: &StandIns<'_>,
) -> Result<()> {
    set_role(session, None).await?;
    for key in &source.foreign_keys {
        let from = stand_ins.stand_in(key.from.oid);
        let from = from.ok_or_else(|| Error::failed("a table of the trial vanished"))?;
        session.batch(&add(key, from, stand_ins)).await?;
    }
    set_role(session, Some(&source.owner)).await
}

/// The foreign keys that the altered clone has, about the tables that the stand-ins stand for.
pub(super) fn unstaged(
    keys: Vec<ForeignKey>,
    source: &Table,
    stand_ins: &StandIns<'_>,
) -> Vec<ForeignKey> {
    let original = |partner: Partner| match stand_ins.original(&partner.qualified()) {
        Some(real) => real.clone(),
        None if stand_ins.is_clone(&partner.qualified()) => Partner {
            oid: source.oid,
            schema: source.schema.clone(),
            name: source.name.clone(),
            ..partner
        },
        None => partner,
    };
    keys.into_iter()
        .map(|key| ForeignKey {
            definition: stand_ins.unstaged(&key.definition),
            from: original(key.from),
            to: original(key.to),
            ..key
        })
        .collect()
}

/// A plain ALTER would look at every row before it says yes; here the rows would be looked at only when
/// the names are swapped.
pub(super) fn refuse_new(source: &Table, target: &Table) -> Result<()> {
    let known = |key: &&ForeignKey| source.foreign_keys.iter().any(|k| is_like(source, k, key));
    match target.foreign_keys.iter().filter(|key| key.validated).find(|key| !known(key)) {
        None => Ok(()),
        Some(key) => Err(Error::usage(format!(
            "--alter adds the foreign key {:?}, and whether rows fulfil it would be found out only after the swap",
            key.name
        ))
        .next("Add it NOT VALID, and VALIDATE CONSTRAINT after the swap; or leave it out, and add it then")),
    }
}

/// What CASCADE takes along, for the operator: PostgreSQL would only tell him of it.
pub fn lost_by_cascade(source: &Table, target: &Table, request: &Request) -> Vec<String> {
    let stays = |key: &&ForeignKey| target.foreign_keys.iter().any(|new| is_like(source, key, new));
    let lost = source.foreign_keys.iter().filter(|key| request.cascades() && !stays(key));
    lost.map(|key| {
        let (from, to) = (key.from.qualified(), key.to.qualified());
        format!("the foreign key {:?} from {from} to {to} goes with the change: CASCADE takes it along, or it is dropped by name", key.name)
    })
    .collect()
}

/// Whether `new`, which the altered clone has, says of rows what `old` says of them: whatever it is called
/// (RENAME CONSTRAINT), and whatever it does on DELETE.
fn is_like(source: &Table, old: &ForeignKey, new: &ForeignKey) -> bool {
    if (old.from.oid, old.to.oid) != (new.from.oid, new.to.oid) {
        return false;
    }
    if old.from.oid != source.oid {
        return old.name == new.name;
    }
    let becomes = |columns: &[i16]| -> Option<Vec<i16>> {
        columns.iter().map(|&n| source.position(n)).collect()
    };
    let same_far_end = match old.to.oid == source.oid {
        true => becomes(&old.to_columns).as_ref() == Some(&new.to_columns),
        // A stand-in has its columns numbered anew.
        false => old.to_names == new.to_names,
    };
    let stricter = |key: &ForeignKey| ["MATCH FULL", "PERIOD "].map(|s| key.definition.contains(s));
    same_far_end
        && becomes(&old.columns).as_ref() == Some(&new.columns)
        && stricter(old) == stricter(new)
        && (old.validated || old.name == new.name)
}
