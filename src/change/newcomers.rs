//! What rows that are there get in a column that is added: what it says when it comes. A later clause that gives it
//! another default is about rows to come, as with plain ALTER TABLE; so columns are looked at when they come.

use std::collections::HashMap;

use super::alter::attempt;
use super::clauses::{about_values, adds, clauses};
use super::clone::Clone;
use super::stand_in::StandIns;
use crate::catalog::Column;
use crate::error::{Error, Result};
use crate::pg::Session;

/// Where a column gets its values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Says {
    /// As text, and as the server keeps it.
    default: Option<(String, String)>,
    generated: bool,
    identity: bool,
    type_sql: String,
}

impl Says {
    /// Whatever its type is: a default is converted with the column.
    fn gives(&self) -> (Option<&str>, bool, bool) {
        (self.default.as_ref().map(|(text, _)| text.as_str()), self.generated, self.identity)
    }
}

/// What a row that is there gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// What the column says now.
    AsNow,
    /// This default, as text and as the server keeps it; or that of its type, or none.
    Default(Option<(String, String)>),
    /// That cannot be worked out: why.
    Unclear(&'static str),
}

/// New columns of a clone, by their number: as they came, and as they are.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    came: HashMap<i16, (Says, Says)>,
    /// Some clause is about what a column gets, and not about its type.
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
        let changed = all.iter().any(|clause| about_values(clause));
        self.values_are_changed |= changed;
        let added: Vec<&str> = all.into_iter().filter(|clause| adds(clause)).collect();
        if !changed || added.is_empty() {
            return Ok(());
        }
        let added = added.join(", ");
        let looked = async {
            match attempt(session, &made.name, &added, stand_ins).await? {
                Ok(()) => says(session, made.oid, known).await.map(Some),
                Err(_) => Ok(None),
            }
        };
        let Some(said) = session.undone(looked).await? else {
            return Err(Error::usage(format!(
                "--alter {text:?} adds columns and changes defaults at once, and what it adds cannot be tried without the rest"
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
            () if first.gives() == now.gives() || retyped && !self.values_are_changed => {
                First::AsNow
            }
            () if first.generated => {
                First::Unclear("comes as a generated column, and then is none")
            }
            () if first.identity && now.identity => First::AsNow,
            () if first.identity => First::Unclear("comes as an identity column, and then is none"),
            () if retyped => {
                First::Unclear("is given another type and another default after it came")
            }
            () => First::Default(first.default.clone()),
        }
    }
}

/// What columns behind the first `known` say.
async fn says(session: &Session, clone: u32, known: usize) -> Result<HashMap<i16, Says>> {
    let sql = "SELECT a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid), d.adbin::pg_catalog.text, a.attgenerated <> '', \
               a.attidentity <> '', pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
               LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
               WHERE a.attrelid = $1 AND a.attnum > $2 AND NOT a.attisdropped";
    let known = i16::try_from(known).unwrap_or(i16::MAX);
    let rows = session.query(sql, &[&clone, &known]).await?;
    let says = |row: &tokio_postgres::Row| Says {
        default: row.get::<_, Option<String>>(1).zip(row.get(2)),
        generated: row.get(3),
        identity: row.get(4),
        type_sql: row.get(5),
    };
    Ok(rows.iter().map(|row| (row.get(0), says(row))).collect())
}
