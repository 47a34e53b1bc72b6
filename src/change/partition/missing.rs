//! The partitions that rows lack which have come since the bounds were derived, where there is no default one.
//!
//! Bounds are those that would have been derived had the rows been there from the beginning: of a RANGE all lie on one
//! grid, of a LIST each value has its own. So no new partition overlaps another one.

use tokio_postgres::types::ToSql;

use super::bounds::of_value;
use super::names::Naming;
use super::ranges::{Grid, MOST, between_edges};
use super::{Asked, By, Partition, Partitioning, Strategy};
use crate::catalog::{Column, Table};
use crate::change::Projected;
use crate::change::as_text::as_text;
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::shadow::Names;

/// How a table is divided to which partitions come.
pub struct Divides<'a> {
    pub asked: &'a Asked,
    pub partitioning: &'a Partitioning,
    pub projection: &'a [Projected],
    pub source: &'a Table,
    pub names: &'a Names,
}

/// Rows of the source, as `s`.
pub struct Rows<'a> {
    /// What follows FROM.
    pub from: &'a str,
    pub parameters: &'a [&'a (dyn ToSql + Sync)],
}

impl Divides<'_> {
    /// The partitions that these rows lack of `root`, as that is now. In the session's open transaction, which acts as
    /// the owner: expressions never run with the tool's rights.
    ///
    /// Which rows have none the server's own constraints of the partitions say: what is one value, and what lies between
    /// two bounds, is not for us to know.
    pub async fn missing(
        &self,
        session: &Session,
        root: &QualifiedName,
        rows: Rows<'_>,
    ) -> Result<Vec<Partition>> {
        let by = By::of(self.asked)?;
        let column = self.column(&by)?;
        as_text(session, column, self.lacking(session, root, rows, (&by, column))).await
    }

    async fn lacking(
        &self,
        session: &Session,
        root: &QualifiedName,
        rows: Rows<'_>,
        (by, column): (&By, &Column),
    ) -> Result<Vec<Partition>> {
        let name = format!("q.{}", quote_ident(&column.name));
        let (grid, found) = match by.strategy {
            Strategy::List => (None, format!("{name}::pg_catalog.text")),
            _ => {
                let every = self.asked.every.as_deref().unwrap_or("");
                let grid = Grid::of(session, column, every).await?;
                let (finite, floor) = (grid.is_finite(&name), grid.floor_of(&name));
                (Some(grid), format!("CASE WHEN {finite} THEN {floor} END"))
            }
        };
        let taken = taken(session, root).await?.unwrap_or_else(|| "false".to_owned());
        let sql = format!(
            "SELECT DISTINCT {found} FROM (SELECT {} AS {} FROM {}) AS q WHERE ({taken}) IS NOT TRUE ORDER BY 1 LIMIT {MOST}",
            self.value(column)?,
            quote_ident(&column.name),
            rows.from,
        );
        let found = session.query(&sql, rows.parameters).await?;
        let found: Vec<Option<String>> = found.iter().map(|row| row.get(0)).collect();
        let mut naming = self.naming(session, root).await?;
        let mut partitions = Vec::new();
        for value in &found {
            match (&grid, value) {
                (None, value) => partitions.push(of_value(&mut naming, value.as_deref())),
                (Some(grid), Some(floor)) => {
                    let edges = grid.edges(session, (floor.as_str(), floor.as_str()), 0).await?;
                    let pairs = edges.windows(2);
                    partitions
                        .extend(pairs.map(|pair| between_edges(&mut naming, &pair[0], &pair[1])));
                }
                // The others first: then it is alone, and can be named.
                (Some(_), None) if found.len() > 1 => {}
                (Some(_), None) => return Err(placeless(column)),
            }
        }
        self.refuse_too_many(partitions.len())?;
        Ok(partitions)
    }

    fn column(&self, by: &By) -> Result<&Column> {
        let name = by.columns.first().map_or("", String::as_str);
        let column = self.partitioning.like.column_named(name);
        column.ok_or_else(|| Error::failed(format!("the column {name:?} to partition by is gone")))
    }

    /// Its value for a row `s`, as it is written.
    fn value(&self, column: &Column) -> Result<String> {
        let projected = self.projection.iter().find(|p| p.column == column.name);
        let expression = projected.and_then(|p| p.expression.as_ref()).ok_or_else(|| {
            Error::failed(format!("the values of column {:?} do not follow from rows", column.name))
        })?;
        let collation = column.collation.as_ref().map(|c| format!(" COLLATE {c}"));
        Ok(format!("CAST({expression} AS {}){}", column.type_sql, collation.unwrap_or_default()))
    }

    /// Names of whatever is there, and of indexes that are still to be built.
    async fn naming(&self, session: &Session, root: &QualifiedName) -> Result<Naming<'_>> {
        let mut naming = Naming::of(self.names, &self.source.parts);
        let partitions = self.partitioning.partitions.all();
        let tables = self.partitioning.tables_of(&partitions, root);
        naming
            .reserve(partitions.into_iter().flat_map(|p| std::iter::once(p.name).chain(p.becomes)));
        naming.reserve(
            tables.into_iter().flat_map(|table| table.indexes.into_iter().map(|i| i.name)),
        );
        let sql = "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
                   WHERE c.relnamespace = pg_catalog.to_regnamespace($1)";
        let there = session.query(sql, &[&quote_ident(&root.schema)]).await?;
        naming.reserve(there.iter().map(|row| row.get(0)));
        Ok(naming)
    }

    fn refuse_too_many(&self, more: usize) -> Result<()> {
        let all = self.partitioning.partitions.count() + more;
        if all as i64 <= MOST {
            return Ok(());
        }
        Err(Error::new(
            Kind::DataDiffers,
            format!("rows that came meanwhile need more partitions than the {MOST} that are made at most"),
        )
        .next("Let a partition span more, or divide by another column; then start again"))
    }
}

/// What is true of a row that has a partition of `root`, or of one of those, in SQL; None where there are none.
pub(in crate::change) async fn taken(
    session: &Session,
    root: &QualifiedName,
) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.string_agg('(' || pg_catalog.pg_get_partition_constraintdef(t.relid) || ')', ' OR ') \
               FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) t WHERE t.isleaf AND t.level > 0";
    Ok(session.one(sql, &[&root.to_string()]).await?.get(0))
}

fn placeless(column: &Column) -> Error {
    Error::new(
        Kind::DataDiffers,
        format!(
            "what it has in {:?}, by which the new table is divided, is NULL, infinite or no number, and no range has a place \
             for that",
            column.name
        ),
    )
    .next("Correct the row, and go on; or start again with a default partition")
}
