//! Which partitions there have to be for the rows that are there. The server reads, orders, aligns and prints:
//! what a month or a number is, it knows.

use super::names::{Naming, suffix_of_value};
use super::ranges::range;
use super::{Asked, By, Partition, Strategy};
use crate::catalog::{Column, Table, scanned};
use crate::change::as_text::as_text;
use crate::change::rehearse::{Rows, rows_of};
use crate::change::{Plan, Projected};
use crate::error::{Error, Result};
use crate::pg::{Connector, GivesWay, QualifiedName, Ran, Session, quote_ident, quote_literal};
use crate::shadow::{self, Names, set_role};

/// Of a LIST.
const MOST_VALUES: i64 = 200;

/// The partitions for the rows of `source` as they are now. Reads the smallest and the greatest value of the
/// column, or all values of a LIST: by an index where there is one; else all rows, and gives way to who wants a lock
/// on the table that readers would wait behind.
pub(super) async fn derive(
    (connector, session): (&Connector, &Session),
    source: &Table,
    names: &Names,
    plan: &Plan,
    asked: &Asked,
) -> Result<Vec<Partition>> {
    let Some(partitioning) = &plan.partitioning else { return Ok(Vec::new()) };
    let by = &By::of(asked)?;
    let naming = || {
        let mut naming = Naming::of(names, &source.parts);
        // A value may be what an index is called by, as in orders_pkey.
        naming.reserve(source.indexes.iter().map(|index| index.name.clone()));
        naming.reserve(source.sequences.iter().map(|sequence| sequence.name.clone()));
        naming
    };
    if by.strategy == Strategy::Hash {
        return Ok(hash(&mut naming(), asked.partitions.unwrap_or(1)));
    }
    let read = async || {
        let mut naming = naming();
        session.batch("BEGIN").await?;
        let partitions = async {
            let column = Divided::of(session, source, plan, (by, &partitioning.like)).await?;
            let read = async {
                match by.strategy {
                    Strategy::List => list(session, &column, &mut naming, asked).await,
                    _ => range(session, &column, &mut naming, asked).await,
                }
            };
            as_text(session, column.column, read).await
        };
        let partitions = partitions.await;
        session.rollback().await;
        partitions
    };
    let watcher = connector.session("bounds watch").await?;
    let mut ways = GivesWay::new("reading the bounds of the partitions");
    loop {
        match ways.run(&watcher, session.pid(), read()).await? {
            Ran::Done(partitions) => return Ok(partitions),
            Ran::GaveWay(why) => tracing::warn!("{why}"),
        }
    }
}

/// What to say where bounds follow from rows and no index leads to them: all of them are read, before anything else.
pub fn reads_all_rows(source: &Table, plan: &Plan, asked: &Asked) -> Result<Option<String>> {
    if plan.partitioning.is_none() {
        return Ok(None);
    }
    let by = By::of(asked)?;
    let column = by.columns.first().map_or("", String::as_str);
    let projected = plan.projection.iter().find(|p| p.column == column);
    let Some(expression) = projected.and_then(|p| p.expression.as_ref()) else { return Ok(None) };
    let reads = by.strategy != Strategy::Hash && !is_indexed(source, expression);
    Ok(reads.then(|| {
        format!(
            "the bounds of the partitions follow from the values of {column:?}, and no index of {} begins with what gives them: \
             all its rows are read for them first",
            source.qualified()
        )
    }))
}

/// Whether an index of the source knows the order of what `expression` gives.
fn is_indexed(source: &Table, expression: &str) -> bool {
    source.indexes.iter().any(|index| {
        let first = index.attnums.first().and_then(|&n| source.column(n));
        let ordered = index.definition.starts_with("USING btree ") && !index.partial;
        ordered && first.is_some_and(|c| *expression == format!("s.{}", quote_ident(&c.name)))
    })
}

fn hash(naming: &mut Naming<'_>, count: u32) -> Vec<Partition> {
    let one = |n| {
        let bound = format!("FOR VALUES WITH (MODULUS {count}, REMAINDER {n})");
        naming.partition(&format!("_p{n}"), bound)
    };
    (0..count).map(one).collect()
}

/// The column that rows are divided by, as it will be.
pub(super) struct Divided<'a> {
    pub(super) column: &'a Column,
    /// Its value for a row of the source, as `s`.
    pub(super) value: String,
    /// What follows FROM where those rows are read.
    pub(super) rows: String,
    /// Whether an index of the source knows its order.
    is_indexed: bool,
}

impl<'a> Divided<'a> {
    /// From here on the session acts as the owner: expressions never run with the tool's rights.
    async fn of(
        session: &Session,
        source: &Table,
        plan: &Plan,
        (by, like): (&By, &'a Table),
    ) -> Result<Divided<'a>> {
        let name = by.columns.first().map_or("", String::as_str);
        let gone = || Error::failed(format!("the column {name:?} to partition by is gone"));
        let column = like.column_named(name).ok_or_else(gone)?;
        let projected = plan.projection.iter().find(|p| p.column == name).ok_or_else(gone)?;
        let Projected { expression: Some(expression), type_sql, .. } = projected else {
            return Err(Error::usage(format!(
                "--partition-by names the column {name:?}, whose value the server gives as a row is written: \
                 no bounds follow from the rows"
            ))
            .next(format!("Give it a value that follows from the row: --map \"{name} = expression\"")));
        };
        let scratch = QualifiedName::new(format!("pgwraith_bounds_{}", session.pid()), "rows");
        let owner = quote_ident(&source.owner);
        let schema = quote_ident(&scratch.schema);
        // Only where there is to be a view: this transaction may read for hours, and one that wrote has a number, which
        // keeps back every slot meanwhile.
        if shadow::needs_rows_view(source, plan.keep.is_some()) {
            session.batch(&format!("CREATE SCHEMA {schema} AUTHORIZATION {owner}; GRANT ALL ON SCHEMA {schema} TO PUBLIC")).await?;
        }
        let rows = Rows { source, keep: plan.keep.as_deref() };
        let rows = scanned(&rows_of(session, rows, &scratch).await?, source.is_partitioned());
        session.batch(&set_role(Some(&source.owner))).await?;
        let value = format!("CAST({expression} AS {type_sql})");
        Ok(Divided { column, value, rows, is_indexed: is_indexed(source, expression) })
    }

    pub(super) fn name(&self) -> &str {
        &self.column.name
    }

    /// The smallest and the greatest value.
    pub(super) fn ends(&self, condition: &str) -> String {
        let (value, rows) = (&self.value, &self.rows);
        format!(
            "(SELECT pg_catalog.min({value}) AS low, pg_catalog.max({value}) AS high FROM {rows} AS s{condition})"
        )
    }
}

/// Whether it is of one of these types of PostgreSQL's own.
pub(super) fn is_of(column: &Column, types: &[&str]) -> bool {
    column.type_schema == "pg_catalog" && types.contains(&column.type_name.as_str())
}

async fn list(
    session: &Session,
    by: &Divided<'_>,
    naming: &mut Naming<'_>,
    asked: &Asked,
) -> Result<Vec<Partition>> {
    let (value, rows) = (&by.value, &by.rows);
    let limit = MOST_VALUES + 1;
    // From one value to the next, where an index leads there.
    let values = match by.is_indexed && !is_of(by.column, &["bool"]) {
        true => format!(
            "WITH RECURSIVE v AS ((SELECT {value} AS v FROM {rows} AS s ORDER BY 1 LIMIT 1) UNION ALL \
             SELECT (SELECT {value} FROM {rows} AS s WHERE {value} > v.v ORDER BY 1 LIMIT 1) FROM v \
             WHERE v.v IS NOT NULL) SELECT v::pg_catalog.text FROM v WHERE v IS NOT NULL LIMIT {limit}"
        ),
        false => format!(
            "SELECT q.v::pg_catalog.text FROM (SELECT DISTINCT {value} AS v FROM {rows} AS s \
             WHERE {value} IS NOT NULL LIMIT {limit}) AS q ORDER BY q.v"
        ),
    };
    let values: Vec<String> =
        session.query(&values, &[]).await?.iter().map(|row| row.get(0)).collect();
    if values.len() as i64 > MOST_VALUES {
        return Err(Error::usage(format!(
            "--partition-by LIST ({}): the column has more than {MOST_VALUES} values, and each would be a partition",
            by.name()
        ))
        .next("Divide by HASH, or by another column"));
    }
    let default = (!asked.has_no_default()).then(|| naming.default());
    let lists: Vec<Partition> = values.iter().map(|value| of_value(naming, Some(value))).collect();
    Ok(lists.into_iter().chain(default).collect())
}

/// The partition of one value of a LIST; None is NULL.
pub(super) fn of_value(naming: &mut Naming<'_>, value: Option<&str>) -> Partition {
    match value {
        Some(value) => {
            let bound = format!("FOR VALUES IN ({})", quote_literal(value));
            naming.partition(&suffix_of_value(value), bound)
        }
        None => naming.partition("_null", "FOR VALUES IN (NULL)"),
    }
}
