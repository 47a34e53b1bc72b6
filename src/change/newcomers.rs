//! What rows that are there get in a column that is added: what it says when it comes. A later clause that gives it
//! another default is about rows to come, as with plain ALTER TABLE; so columns are looked at when they come.

use std::collections::HashMap;

use super::alter::attempt;
use super::clauses::{added, clauses, revalued};
use super::clone::Clone;
use super::stand_in::StandIns;
use crate::catalog::Column;
use crate::error::{Error, Result};
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};

/// A default as text, and as the server keeps it.
type Default = (String, String);

/// Where a column gets its values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Says {
    default: Option<Default>,
    /// That of its domain, or of the domain which that is over.
    of_type: Option<Default>,
    generated: bool,
    identity: bool,
    type_sql: String,
}

impl Says {
    /// Whatever its type is: a default of its own is converted with the column.
    fn gives(&self) -> (Option<&str>, bool, bool) {
        (self.default.as_ref().map(|(text, _)| text.as_str()), self.generated, self.identity)
    }

    fn is_bare(&self) -> bool {
        self.gives() == (None, false, false)
    }
}

/// What a row that is there gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// What the column says now.
    AsNow,
    /// This default, or none.
    Default(Option<Default>),
    /// That cannot be worked out: why.
    Unclear(&'static str),
}

/// New columns of a clone, by their number: as they came, and as they are.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    came: HashMap<i16, (Says, Says)>,
    /// Some clause gives a column another default, expression or identity.
    values_are_changed: bool,
}

impl Newcomers {
    /// Before one ALTER TABLE. What is added and given another default by the same statement is looked at in between.
    pub(super) async fn foresee(
        &mut self,
        session: &Session,
        made: &Clone,
        (text, known): (&str, usize),
        stand_ins: &StandIns<'_>,
    ) -> Result<()> {
        let all = clauses(text);
        let changed: Vec<String> = all.iter().filter_map(|clause| revalued(clause)).collect();
        self.values_are_changed |= !changed.is_empty();
        let comes = |clause: &&str| added(clause).is_some();
        let twice = |clause: &&str| added(clause).is_some_and(|name| changed.contains(&name));
        if !all.iter().any(twice) {
            return Ok(());
        }
        let columns: Vec<&str> = all.into_iter().filter(comes).collect();
        let columns = columns.join(", ");
        let looked = async {
            match attempt(session, &made.name, &columns, stand_ins).await? {
                Ok(()) => says(session, made.oid, known).await.map(Some),
                Err(e) if e.db().is_some() && classify(&e) == Class::Definite => Ok(None),
                Err(e) => Err(e),
            }
        };
        let Some(said) = session.undone(looked).await? else {
            return Err(Error::usage(format!(
                "--alter {text:?} adds columns and changes their defaults at once, and what it adds cannot be tried without the rest"
            ))
            .next("Say it in two: --alter with what is added, --alter with what is changed"));
        };
        for (number, said) in said {
            self.came.entry(number).or_insert_with(|| (said.clone(), said));
        }
        Ok(())
    }

    /// Behind one ALTER TABLE; the clone had so many columns in the beginning.
    pub(super) async fn look(
        &mut self,
        session: &Session,
        made: &Clone,
        known: usize,
    ) -> Result<()> {
        for (number, said) in says(session, made.oid, known).await? {
            let (_, now) = self.came.entry(number).or_insert_with(|| (said.clone(), said.clone()));
            *now = said;
        }
        Ok(())
    }

    /// What rows that are there get in a new column.
    pub(super) fn first(&self, column: &Column) -> First {
        let Some((first, now)) = self.came.get(&column.attnum) else { return First::AsNow };
        let retyped = first.type_sql != now.type_sql;
        match () {
            () if first.gives() == now.gives()
                && (!first.is_bare() || first.of_type == now.of_type) =>
            {
                First::AsNow
            }
            () if first.is_bare() => First::Default(first.of_type.clone()),
            () if retyped && !self.values_are_changed => First::AsNow,
            () if first.generated => {
                First::Unclear("comes as a generated column, and then is none")
            }
            () if first.identity && now.identity => First::AsNow,
            () if first.identity => First::Unclear("comes as an identity column, and then is none"),
            () if retyped => {
                First::Unclear("is given another type and another default after it came")
            }
            () => First::Default(first.default.clone().or_else(|| first.of_type.clone())),
        }
    }
}

/// What columns behind the first `known` say.
async fn says(session: &Session, clone: u32, known: usize) -> Result<HashMap<i16, Says>> {
    let sql = format!(
        "SELECT a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid), d.adbin::pg_catalog.text, a.attgenerated <> '', \
         a.attidentity <> '', pg_catalog.format_type(a.atttypid, a.atttypmod), t.text, t.tree FROM pg_catalog.pg_attribute a \
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         LEFT JOIN LATERAL ({}) t ON true WHERE a.attrelid = $1 AND a.attnum > $2 AND NOT a.attisdropped",
        default_of_type("a.atttypid")
    );
    let known = i16::try_from(known).unwrap_or(i16::MAX);
    let rows = session.query(&sql, &[&clone, &known]).await?;
    let says = |row: &tokio_postgres::Row| Says {
        default: row.get::<_, Option<String>>(1).zip(row.get(2)),
        of_type: row.get::<_, Option<String>>(6).zip(row.get(7)),
        generated: row.get(3),
        identity: row.get(4),
        type_sql: row.get(5),
    };
    Ok(rows.iter().map(|row| (row.get(0), says(row))).collect())
}

/// Reads the default of the type that an expression is the number of, as text and as the server keeps it: that of a
/// domain, or of the domain which that is over.
pub(super) fn default_of_type(oid: &str) -> String {
    format!(
        "WITH RECURSIVE d AS (SELECT t.*, 0 AS depth FROM pg_catalog.pg_type t WHERE t.oid = {oid} \
         UNION ALL SELECT b.*, d.depth + 1 FROM d JOIN pg_catalog.pg_type b ON b.oid = d.typbasetype WHERE d.typtype = 'd') \
         SELECT pg_catalog.pg_get_expr(d.typdefaultbin, 0) AS text, d.typdefaultbin::pg_catalog.text AS tree FROM d \
         WHERE d.typtype = 'd' AND d.typdefaultbin IS NOT NULL ORDER BY d.depth LIMIT 1"
    )
}
