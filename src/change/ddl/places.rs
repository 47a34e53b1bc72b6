//! Rows for which the file has no partition: where there may be some, and whether there are.

use std::time::Duration;

use crate::catalog::Table;
use crate::change::Projected;
use crate::change::partition::missing::taken;
use crate::change::partition::{Partition, Partitioning};
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, Session, quote_ident, quote_literal};

/// To look for such a row may take so long. Where rows are all in their places, each is read for it.
const LOOK: Duration = Duration::from_secs(2);

/// The tables of a divided one that have no partition for some rows, each with what is missing; of those that have
/// partitions for all rows, as far as that can be seen from their bounds, none.
pub(super) fn missing(root: &str, divided: &Partitioning) -> Vec<String> {
    let partitions = divided.partitions.all();
    let below = partitions.iter().filter_map(|p| Some((p.name.as_str(), p.by.as_deref()?)));
    let whole = std::iter::once((root, divided.by.as_str()));
    let named = |(name, by): (&str, &str)| {
        let of = (name != root).then_some(name);
        let parts: Vec<&Partition> =
            partitions.iter().filter(|part| part.of.as_deref() == of).collect();
        let what = lack(by, &parts)?;
        Some(format!("{} has {what}", quote_ident(name)))
    };
    whole.chain(below).filter_map(named).collect()
}

fn lack(by: &str, parts: &[&Partition]) -> Option<String> {
    if !by.starts_with("HASH") {
        let catches_all = parts.iter().any(|part| part.bound == "DEFAULT");
        return (!catches_all).then(|| "no default partition".to_owned());
    }
    // PostgreSQL lets no two of them overlap: so they are all there if their shares add up to the whole.
    let moduli: Vec<u128> = parts.iter().filter_map(|part| modulus(&part.bound)).collect();
    // Each is a factor of the next larger one.
    let largest = moduli.iter().copied().max().unwrap_or(1);
    let there: u128 = moduli.iter().map(|modulus| largest / modulus).sum();
    (there < largest)
        .then(|| format!("{} of its {largest} remainders in no partition", largest - there))
}

/// Of `FOR VALUES WITH (modulus 4, remainder 1)`.
fn modulus(bound: &str) -> Option<u128> {
    let (_, behind) = bound.split_once("modulus ")?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|n| *n > 0)
}

/// Refuses a file that has no partition for a row that is found in a short look. What is not found is for the copy to
/// say, hours later. The file's table is there, as `made`; `from` is what follows FROM where rows are read.
pub(in crate::change) async fn try_rows(
    session: &Session,
    (source, from): (&Table, &str),
    made: &QualifiedName,
    projection: &[Projected],
) -> Result<()> {
    let Some(places) = taken(session, made).await? else { return Ok(()) };
    let Ok(key) = source.key() else { return Ok(()) };
    let values = projection.iter().filter_map(|p| {
        let expression = p.expression.as_ref()?;
        Some(format!("CAST({expression} AS {}) AS {}", p.type_sql, quote_ident(&p.column)))
    });
    let named = key.columns.iter().map(|c| {
        let name = quote_ident(&c.name);
        format!("pg_catalog.concat({}, s.{name})", quote_literal(&format!("{} = ", c.name)))
    });
    let named: Vec<String> = named.collect();
    let sql = format!(
        "SELECT q.pgwraith_key FROM (SELECT pg_catalog.concat_ws(', ', {}) AS pgwraith_key, {} FROM {from} AS s) AS q \
         WHERE ({places}) IS NOT TRUE LIMIT 1",
        named.join(", "),
        values.collect::<Vec<_>>().join(", "),
    );
    let limit = LOOK.as_millis();
    let look = async {
        session.batch(&format!("SET LOCAL statement_timeout = {limit}")).await?;
        session.maybe(&sql, &[]).await
    };
    match session.undone(look).await {
        Ok(Some(row)) => Err(Error::new(
            Kind::DataDiffers,
            format!(
                "--shadow-ddl: the row with key {} has no partition in the new table",
                row.get::<_, &str>(0)
            ),
        )
        .next("Give the file a partition for it, or one for whatever has no other (DEFAULT)")),
        Err(e) if e.is_connection_lost() => Err(e),
        // Not found in that time; or a row cannot be converted, which the copy says with its key.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_counted() {
        let lacks = |by: &str, bounds: &[(u32, u32)]| {
            let parts: Vec<Partition> = bounds
                .iter()
                .map(|(m, r)| format!("FOR VALUES WITH (modulus {m}, remainder {r})"))
                .map(|bound| Partition::of_rows("p", bound))
                .collect();
            lack(by, &parts.iter().collect::<Vec<_>>())
        };
        assert_eq!(lacks("HASH (id)", &[(2, 0), (2, 1)]), None);
        assert_eq!(lacks("HASH (id)", &[(2, 0), (4, 1), (4, 3)]), None);
        let told = lacks("HASH (id)", &[(2, 0), (4, 1)]);
        assert_eq!(told.as_deref(), Some("1 of its 4 remainders in no partition"));
        assert!(lacks("HASH (id)", &[]).is_some());
        assert!(lacks("RANGE (id)", &[]).is_some());
        assert_eq!(lack("LIST (id)", &[&Partition::of_rows("p", "DEFAULT")]), None);
    }
}
