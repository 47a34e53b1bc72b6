//! What an ALTER may do that the clone's shape does not show: things that follow by other ways, or that
//! a clone does not have. They are put on the clone, looked at after the change, and taken off again.

use super::clone::Clone;
use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session};

/// An identity column's sequence.
#[derive(PartialEq)]
struct Position {
    oid: u32,
    attnum: i32,
    /// Whether START says another number than it would begin with anyhow.
    says_start: bool,
    last_value: i64,
    is_called: bool,
}

const TRIGGER: &str = "pgwraith_probe";

/// How things stood before the change.
pub(super) struct Probe {
    /// Identity sequences, where they stand, and whether they gave that number out.
    positions: Vec<Position>,
}

/// Puts the probes on the clone.
pub(super) async fn set(session: &Session, source: &Table, clone: &Clone) -> Result<Probe> {
    let name = &clone.name;
    let enable = if source.row_security { "ENABLE" } else { "DISABLE" };
    let force = if source.force_row_security { "FORCE" } else { "NO FORCE" };
    session
        .batch(&format!(
            "ALTER TABLE {name} {enable} ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY; \
             CREATE TRIGGER {TRIGGER} BEFORE UPDATE ON {name} FOR EACH ROW \
             EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
        ))
        .await?;
    // As if each had given a number out: RESTART says that it has not.
    let used = format!(
        "SELECT pg_catalog.setval(d.objid::pg_catalog.regclass, s.seqstart, true) {IDENTITIES}"
    );
    session.query(&used, &[&clone.oid]).await?;
    Ok(Probe { positions: positions(session, clone).await? })
}

/// Refuses what the change did to them and a run would not, and takes them off.
pub(super) async fn check(
    session: &Session,
    source: &Table,
    clone: &Clone,
    before: &Probe,
) -> Result<()> {
    let sql = "SELECT c.relrowsecurity, c.relforcerowsecurity, (SELECT g.tgenabled = 'O' FROM pg_catalog.pg_trigger g \
               WHERE g.tgrelid = c.oid AND g.tgname = $2) FROM pg_catalog.pg_class c WHERE c.oid = $1";
    let Some(row) = session.maybe(sql, &[&clone.oid, &TRIGGER]).await? else { return Ok(()) };
    let refuse = |what: &str| {
        Err(Error::usage(format!("--alter may not change {what}"))
            .next("Do that before or after, it takes PostgreSQL a millisecond"))
    };
    if (row.get(0), row.get(1)) != (source.row_security, source.force_row_security) {
        return refuse("row security");
    }
    if row.get::<_, Option<bool>>(2) != Some(true) {
        return refuse("whether triggers fire");
    }
    let now = positions(session, clone).await?;
    let moved = |was: &Position| now.iter().any(|is| is.oid == was.oid && is != was);
    // It goes on from where the old one stands, so that no number comes twice.
    let anew = |was: &Position| {
        let mut of_column = now.iter().filter(|is| is.attnum == was.attnum);
        of_column.any(|is| is.oid != was.oid && is.says_start)
    };
    if before.positions.iter().any(moved) {
        return refuse("where a sequence stands (RESTART)");
    }
    if before.positions.iter().any(anew) {
        return refuse(
            "where the sequence of an identity column that there is stands (DROP IDENTITY with ADD GENERATED … START)",
        );
    }
    let name = &clone.name;
    session
        .batch(&format!(
            "DROP TRIGGER {TRIGGER} ON {name}; \
             ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
        ))
        .await
}

/// A sequence that goes on where the old one stood must allow that position; PostgreSQL would say so only at
/// the swap.
pub(super) async fn positions_fit(session: &Session, source: &Table, target: &Table) -> Result<()> {
    for old in source.sequences.iter().filter(|sequence| sequence.identity) {
        let becomes = source.becomes(old.attnum, target);
        let Some(new) = becomes.and_then(|column| target.identity_of(column)) else { continue };
        let name = QualifiedName::new(&old.schema, &old.name);
        let sql = format!("SELECT last_value FROM {name}");
        let position: i64 = session.one(&sql, &[]).await?.get(0);
        if !(new.min..=new.max).contains(&position) {
            return Err(Error::usage(format!(
                "the change bounds the sequence {name} to {} to {}, and it stands at {position}",
                new.min, new.max
            )));
        }
    }
    Ok(())
}

/// The sequences of the identity columns of the table $1.
const IDENTITIES: &str = "FROM pg_catalog.pg_depend d \
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid JOIN pg_catalog.pg_class c ON c.oid = d.objid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1 AND d.deptype = 'i'";

async fn positions(session: &Session, clone: &Clone) -> Result<Vec<Position>> {
    let sql = format!(
        "SELECT s.seqrelid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, d.refobjsubid, \
           s.seqstart <> CASE WHEN s.seqincrement > 0 THEN s.seqmin ELSE s.seqmax END {IDENTITIES}"
    );
    let mut out = Vec::new();
    for row in session.query(&sql, &[&clone.oid]).await? {
        let name = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let sql = format!("SELECT last_value, is_called FROM {name}");
        let position = session.one(&sql, &[]).await?;
        out.push(Position {
            oid: row.get(0),
            attnum: row.get(3),
            says_start: row.get(4),
            last_value: position.get(0),
            is_called: position.get(1),
        });
    }
    Ok(out)
}
