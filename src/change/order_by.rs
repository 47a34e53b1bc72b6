//! The order that rows are written in: that of an index, as CLUSTER would.

use super::{Course, CourseColumn};
use crate::catalog::{Column, Index, Table};
use crate::error::{Error, Result};
use crate::pg::{Session, quote_ident};

/// So many rows of one value are read once for each range that they are copied in, and no more.
const MOST_ALIKE: f64 = 50_000.0;

/// What ranges go along, by an index of the source: its columns, and behind them those of the key that are not
/// among them, so that no two rows are alike.
pub(super) async fn course(session: &Session, source: &Table, named: &str) -> Result<Course> {
    let Some(index) = find(source, named) else {
        let all: Vec<&str> = source.indexes.iter().map(|i| i.name.as_str()).collect();
        return Err(refused(named, &format!("is no index of {}", source.qualified())).next(
            format!("It has {}", if all.is_empty() { "none".to_owned() } else { all.join(", ") }),
        ));
    };
    if source.is_partitioned() {
        return Err(refused(
            named,
            "is one of a partitioned table, whose rows are where their partition is",
        )
        .next("Give partitions, or an ordinary table made of them, their order later"));
    }
    let descending = direction(session, index).await?;
    let key = source.key().map_err(|why| refused(named, &format!("needs a key besides: {why}")))?;
    let mut columns = Vec::new();
    for &attnum in &index.attnums {
        // 0 is an expression.
        let column = source.column(attnum).ok_or_else(|| {
            refused(named, "has an expression, and rows are read in the order of columns alone")
        })?;
        columns.push(usable(named, column)?);
    }
    let more = key.columns.iter().filter(|column| !index.attnums.contains(&column.attnum));
    columns.extend(more.map(|column| along(column)));
    Ok(Course { columns, descending })
}

/// By its name, or that with the schema before it, which is the table's.
fn find<'a>(source: &'a Table, named: &str) -> Option<&'a Index> {
    let by_name = |index: &&Index| index.name == named;
    let with_schema = |index: &&Index| format!("{}.{}", source.schema, index.name) == named;
    source.indexes.iter().find(by_name).or_else(|| source.indexes.iter().find(with_schema))
}

fn refused(index: &str, what: &str) -> Error {
    Error::usage(format!("--order-by {}: it {what}", quote_ident(index)))
        .state("Nothing was touched")
}

/// Whether it is that from the greatest to the smallest.
async fn direction(session: &Session, index: &Index) -> Result<bool> {
    let refuse = |what| Err(refused(&index.name, what));
    if !index.definition.starts_with("USING btree ") {
        return refuse("is no btree index, and others have no order");
    }
    if index.partial || !index.valid {
        return refuse("is partial or not valid: not every row is in it");
    }
    if !index.plain_key {
        return refuse("has a collation or operator class that is not its column's own");
    }
    let sql = "SELECT pg_catalog.count(*) FILTER (WHERE (o & 1) = 1), pg_catalog.count(*) FROM pg_catalog.pg_index i, \
               pg_catalog.unnest(i.indoption::pg_catalog.int2[]) o WHERE i.indexrelid = $1";
    let row = session.one(sql, &[&index.oid]).await?;
    match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
        (0, _) => Ok(false),
        (down, all) if down == all => Ok(true),
        _ => refuse("goes up by one column and down by another, which no comparison of rows does"),
    }
}

fn usable(index: &str, column: &Column) -> Result<CourseColumn> {
    let name = &column.name;
    let refuse = |what: String| Err(refused(index, &format!("has the column {name:?}, {what}")));
    if !column.not_null {
        return refuse("which may be NULL: what comes before a NULL no comparison says".to_owned());
    }
    if column.operator_schema != "pg_catalog" {
        return refuse(format!(
            "whose type {} is not compared by PostgreSQL's own",
            column.type_sql
        ));
    }
    if matches!(column.type_category, 'A' | 'C') || !column.has_binary {
        return refuse(format!(
            "of the type {}, whose values cannot be bounds of ranges",
            column.type_sql
        ));
    }
    Ok(along(column))
}

fn along(column: &Column) -> CourseColumn {
    CourseColumn {
        source: column.name.clone(),
        source_type_oid: column.type_oid,
        source_type_sql: column.base_type_sql.clone(),
        source_collation: column.collation.clone(),
    }
}

/// Where many rows have one value in the index's columns, each range within them is found, and read, from the first
/// of them on: an index that goes on with the key is needed. As the server estimates it.
pub async fn refuse_crowds(
    session: &Session,
    source: &Table,
    named: &str,
    course: &Course,
) -> Result<()> {
    let Some(index) =
        find(source, named).filter(|index| index.attnums.len() < course.columns.len())
    else {
        return Ok(());
    };
    if source.estimated_rows <= 0.0 {
        return Ok(());
    }
    let quoted: Vec<String> = course.columns.iter().map(|c| quote_ident(&c.source)).collect();
    let own = quoted[..index.attnums.len().min(quoted.len())].join(", ");
    let from = source.qualified();
    let sql = format!("EXPLAIN (FORMAT JSON) SELECT DISTINCT {own} FROM ONLY {from}");
    let plan: serde_json::Value = session.one(&sql, &[]).await?.get(0);
    let different = plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(1.0).max(1.0);
    let alike = source.estimated_rows / different;
    if alike <= MOST_ALIKE {
        return Ok(());
    }
    let down = if course.descending { " DESC" } else { "" };
    let all: Vec<String> = quoted.iter().map(|column| format!("{column}{down}")).collect();
    Err(refused(
        named,
        &format!("has about {alike:.0} rows of one value, which would be read again for each range within them"),
    )
    .next(format!(
        "CREATE INDEX CONCURRENTLY … ON {from} ({}), and order by that; ANALYZE where the estimate is wrong",
        all.join(", ")
    )))
}
