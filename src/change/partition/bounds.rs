//! Which partitions there have to be for the rows that are there. The server reads, orders, aligns and prints:
//! what a month or a number is, it knows.

use tokio_postgres::types::ToSql;

use super::names::{Naming, suffix_of_value};
use super::{Asked, Partition, Partitioning, Strategy};
use crate::catalog::{Column, Table};
use crate::change::rehearse::{Rows, rows_of};
use crate::change::{Plan, Projected};
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session, quote_ident, quote_literal};
use crate::shadow::{Names, set_role};

/// More are as good as none: each costs every plan, and locks.
const MOST: i64 = 2_000;
/// Of a LIST.
const MOST_VALUES: i64 = 200;
/// As many as pg_partman makes ahead.
const PREMAKE: u32 = 4;

/// The partitions for the rows of `source` as they are now. Reads the smallest and the greatest value of the
/// column, or all values of a LIST: by an index where there is one.
pub(super) async fn derive(
    session: &Session,
    source: &Table,
    names: &Names,
    plan: &Plan,
    asked: &Asked,
) -> Result<Vec<Partition>> {
    let Some(partitioning) = &plan.partitioning else { return Ok(Vec::new()) };
    let by = &partitioning.by;
    let mut naming = Naming::of(names);
    if by.strategy == Strategy::Hash {
        return Ok(hash(&mut naming, asked.partitions.unwrap_or(1)));
    }
    session.batch("BEGIN").await?;
    let read = async {
        let column = Divided::of(session, source, plan, partitioning).await?;
        session.batch("SET LOCAL \"DateStyle\" = 'ISO'").await?;
        match by.strategy {
            Strategy::List => list(session, &column, &mut naming).await,
            _ => range(session, &column, &mut naming, asked).await,
        }
    };
    let partitions = read.await;
    session.rollback().await;
    partitions
}

fn hash(naming: &mut Naming<'_>, count: u32) -> Vec<Partition> {
    let one = |n| {
        let bound = format!("FOR VALUES WITH (MODULUS {count}, REMAINDER {n})");
        naming.partition(&format!("_p{n}"), bound)
    };
    (0..count).map(one).collect()
}

/// The column that rows are divided by, as it will be.
struct Divided<'a> {
    column: &'a Column,
    /// Its value for a row of the source, as `s`.
    value: String,
    /// Where those rows are read.
    rows: QualifiedName,
    /// Whether an index of the source knows its order.
    is_indexed: bool,
}

impl<'a> Divided<'a> {
    /// From here on the session acts as the owner: expressions never run with the tool's rights.
    async fn of(
        session: &Session,
        source: &Table,
        plan: &Plan,
        partitioning: &'a Partitioning,
    ) -> Result<Divided<'a>> {
        let name = partitioning.by.columns.first().map_or("", String::as_str);
        let gone = || Error::failed(format!("the column {name:?} to partition by is gone"));
        let column = partitioning.like.column_named(name).ok_or_else(gone)?;
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
        session.batch(&format!("CREATE SCHEMA {schema} AUTHORIZATION {owner}; GRANT ALL ON SCHEMA {schema} TO PUBLIC")).await?;
        let rows = Rows { source, keep: plan.keep.as_deref() };
        let rows = rows_of(session, rows, &scratch).await?;
        session.batch(&set_role(Some(&source.owner))).await?;
        let by_index = source.indexes.iter().any(|index| {
            let first = index.attnums.first().and_then(|&n| source.column(n));
            let ordered = index.definition.starts_with("USING btree ") && !index.partial;
            ordered && first.is_some_and(|c| *expression == format!("s.{}", quote_ident(&c.name)))
        });
        let value = format!("CAST({expression} AS {type_sql})");
        Ok(Divided { column, value, rows, is_indexed: by_index })
    }

    fn is_of(&self, types: &[&str]) -> bool {
        self.column.type_schema == "pg_catalog" && types.contains(&self.column.type_name.as_str())
    }

    fn name(&self) -> &str {
        &self.column.name
    }

    /// The smallest and the greatest value.
    fn ends(&self, condition: &str) -> String {
        let (value, rows) = (&self.value, &self.rows);
        format!(
            "(SELECT pg_catalog.min({value}) AS low, pg_catalog.max({value}) AS high FROM ONLY {rows} AS s{condition})"
        )
    }
}

/// Between two values that are none.
fn between(by: &Divided<'_>, low: &str, high: &str) -> String {
    format!(" WHERE {0} > {low} AND {0} < {high}", by.value)
}

async fn list(
    session: &Session,
    by: &Divided<'_>,
    naming: &mut Naming<'_>,
) -> Result<Vec<Partition>> {
    let (value, rows) = (&by.value, &by.rows);
    let limit = MOST_VALUES + 1;
    // From one value to the next, where an index leads there.
    let values = match by.is_indexed && !by.is_of(&["bool"]) {
        true => format!(
            "WITH RECURSIVE v AS ((SELECT {value} AS v FROM ONLY {rows} AS s ORDER BY 1 LIMIT 1) UNION ALL \
             SELECT (SELECT {value} FROM ONLY {rows} AS s WHERE {value} > v.v ORDER BY 1 LIMIT 1) FROM v \
             WHERE v.v IS NOT NULL) SELECT v::pg_catalog.text FROM v WHERE v IS NOT NULL LIMIT {limit}"
        ),
        false => format!(
            "SELECT q.v::pg_catalog.text FROM (SELECT DISTINCT {value} AS v FROM ONLY {rows} AS s \
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
    let default = naming.default();
    let one = |value: &String| {
        let bound = format!("FOR VALUES IN ({})", quote_literal(value));
        naming.partition(&suffix_of_value(value), bound)
    };
    Ok(values.iter().map(one).chain([default.clone()]).collect())
}

async fn range(
    session: &Session,
    by: &Divided<'_>,
    naming: &mut Naming<'_>,
    asked: &Asked,
) -> Result<Vec<Partition>> {
    let every = asked.every.as_deref().unwrap_or("");
    let ahead = i64::from(asked.premake.unwrap_or(PREMAKE));
    let edges = if by.is_of(&["int2", "int4", "int8", "numeric"]) {
        numbers(session, by, every, ahead).await?
    } else if by.is_of(&["date", "timestamp", "timestamptz"]) {
        times(session, by, every, ahead).await?
    } else {
        return Err(Error::usage(format!(
            "--partition-by RANGE ({}): the column is of type {}; ranges are of a time or of a number",
            by.name(),
            by.column.type_sql
        ))
        .next("Divide by HASH or LIST, or by another column"));
    };
    let default = naming.default();
    let one = |pair: &[Edge]| {
        let bound = format!("FOR VALUES FROM ({}) TO ({})", pair[0].literal, pair[1].literal);
        naming.partition(&format!("_p{}", pair[0].name), bound)
    };
    Ok(edges.windows(2).map(one).chain([default.clone()]).collect())
}

/// Where one range ends and the next begins.
struct Edge {
    /// As part of a name.
    name: String,
    literal: String,
}

/// What is needed of edges that the server counted: `low`, `high` and how many ranges lie between.
fn refuse_too_many(by: &Divided<'_>, every: &str, row: &tokio_postgres::Row) -> Result<()> {
    let ranges: f64 = row.get(2);
    if ranges <= MOST as f64 {
        return Ok(());
    }
    let end = |n: usize| row.get::<_, Option<String>>(n).unwrap_or_default();
    Err(Error::usage(format!(
        "--partition-every {every:?} makes {ranges:.0} partitions of {:?}, whose values go from {} to {}; no more \
         than {MOST} are made",
        by.name(),
        end(0),
        end(1)
    ))
    .next("Let a partition span more; or mend the few rows that are far from all others, if there are such"))
}

/// Multiples of a number. The last partition of a type that ends there is open above.
async fn numbers(
    session: &Session,
    by: &Divided<'_>,
    every: &str,
    ahead: i64,
) -> Result<Vec<Edge>> {
    let integer = !by.is_of(&["numeric"]);
    let bad = || {
        Error::usage(format!(
            "--partition-every {every:?} is not a {}number greater than zero",
            if integer { "whole " } else { "" }
        ))
        .next(format!("{:?} is of type {}", by.name(), by.column.type_sql))
    };
    let valid = "SELECT $1::pg_catalog.text::pg_catalog.numeric > 0 AND $1::pg_catalog.text::pg_catalog.numeric < 'Infinity' \
                 AND (NOT $2 OR $1::pg_catalog.text::pg_catalog.numeric % 1 = 0)";
    match session.one(valid, &[&every, &integer]).await {
        Ok(row) if row.get(0) => {}
        Err(e) if e.db().is_none() => return Err(e),
        _ => return Err(bad()),
    }
    let most = match by.column.type_name.as_str() {
        "int2" => "32767",
        "int4" => "2147483647",
        "int8" => "9223372036854775807",
        _ => "'Infinity'",
    };
    // A numeric may be NaN or infinite; those rows have no range.
    let ends = match integer {
        true => by.ends(""),
        false => by.ends(&between(by, "'-Infinity'::numeric", "'Infinity'::numeric")),
    };
    let counted = format!(
        "SELECT e.low::pg_catalog.text, e.high::pg_catalog.text, \
         COALESCE((e.high::pg_catalog.numeric - e.low::pg_catalog.numeric) / $1::pg_catalog.text::pg_catalog.numeric, 0)::pg_catalog.float8 + {ahead} + 1 \
         FROM {ends} AS e"
    );
    let row = session.one(&counted, &[&every]).await?;
    refuse_too_many(by, every, &row)?;
    let (low, high): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    let (low, high) = (low.unwrap_or_else(|| "0".into()), high.unwrap_or_else(|| "0".into()));
    let series = format!(
        "SELECT x.edge::pg_catalog.text, x.edge > {most}::pg_catalog.numeric FROM (SELECT pg_catalog.trim_scale(g) AS edge \
         FROM (SELECT $1::pg_catalog.text::pg_catalog.numeric AS every) AS p, LATERAL pg_catalog.generate_series(\
           pg_catalog.floor($2::pg_catalog.text::pg_catalog.numeric / p.every) * p.every, \
           (pg_catalog.floor($3::pg_catalog.text::pg_catalog.numeric / p.every) + {ahead} + 1) * p.every, p.every) AS g) AS x ORDER BY x.edge"
    );
    let parameters: [&(dyn ToSql + Sync); 3] = [&every, &low, &high];
    let mut edges = Vec::new();
    for row in session.query(&series, &parameters).await? {
        let name: String = row.get(0);
        let beyond: bool = row.get(1);
        let literal = if beyond { "MAXVALUE".to_owned() } else { quote_literal(&name) };
        edges.push(Edge { name, literal });
        if beyond {
            break;
        }
    }
    Ok(edges)
}

/// How a time is cut, in SQL over `x`, a timestamp without time zone.
struct Clock {
    /// What makes such a timestamp of a value.
    local: String,
    /// And a value of that.
    back: String,
    /// The edge at or before it.
    floor: String,
    step: String,
    name: &'static str,
}

/// Months, days, or parts of a day, by the calendar and clock of the session: months since the year 0, days
/// since a Monday.
async fn times(session: &Session, by: &Divided<'_>, every: &str, ahead: i64) -> Result<Vec<Edge>> {
    let clock = clock(session, by, every).await?;
    let Clock { local, back, floor, step, name } = &clock;
    let type_sql = &by.column.base_type_sql;
    let none = [format!("'-infinity'::{type_sql}"), format!("'infinity'::{type_sql}")];
    let ends = by.ends(&between(by, &none[0], &none[1]));
    let to_local = |x: &str| local.replace('@', x);
    // What is written from here on comes now, however old the last row is.
    let now = to_local(&format!("CAST(pg_catalog.now() AS {type_sql})"));
    let (first, last) = (to_local("e.low"), to_local("e.high"));
    let span = format!(
        "SELECT COALESCE({first}, {now}) AS low, GREATEST({last}, {now}) AS high FROM {ends} AS e"
    );
    let counted = format!(
        "SELECT q.low::pg_catalog.text, q.high::pg_catalog.text, (EXTRACT(epoch FROM q.high - q.low) / \
         EXTRACT(epoch FROM {step}))::pg_catalog.float8 + {ahead} + 1 FROM ({span}) AS q"
    );
    let row = session.one(&counted, &[]).await?;
    refuse_too_many(by, every, &row)?;
    let (low, high): (String, String) = (row.get(0), row.get(1));
    let at = |x: &str| floor.replace('@', &format!("{x}::pg_catalog.text::pg_catalog.timestamp"));
    let series = format!(
        "SELECT pg_catalog.to_char(x.edge, '{name}'), x.edge::pg_catalog.text FROM (SELECT {} AS edge, g \
         FROM pg_catalog.generate_series({}, {} + {step} * {}, {step}) AS g) AS x ORDER BY x.g",
        back.replace('@', "g"),
        at("$1"),
        at("$2"),
        ahead + 1
    );
    let rows = session.query(&series, &[&low, &high]).await?;
    let edge =
        |row: &tokio_postgres::Row| Edge { name: row.get(0), literal: quote_literal(row.get(1)) };
    Ok(rows.iter().map(edge).collect())
}

async fn clock(session: &Session, by: &Divided<'_>, every: &str) -> Result<Clock> {
    let bad = |why: &str| {
        Error::usage(format!("--partition-every {every:?} {why}"))
            .next("Give months (\"1 month\", \"1 year\"), days (\"1 day\", \"1 week\") or parts of a day (\"1 hour\")")
    };
    let sql = "SELECT (EXTRACT(year FROM i) * 12 + EXTRACT(month FROM i))::pg_catalog.int8, EXTRACT(day FROM i)::pg_catalog.int8, \
               EXTRACT(epoch FROM i - pg_catalog.date_trunc('day', i))::pg_catalog.float8 \
               FROM (SELECT $1::pg_catalog.text::pg_catalog.interval AS i) AS x";
    let row = match session.one(sql, &[&every]).await {
        Ok(row) => row,
        Err(e) if e.db().is_some() => return Err(bad("is not an interval")),
        Err(e) => return Err(e),
    };
    let (months, days, seconds): (i64, i64, f64) = (row.get(0), row.get(1), row.get(2));
    let type_sql = &by.column.base_type_sql;
    // The clock of the session, which is the database's: as `date_trunc` reads it.
    let local = "(@)::pg_catalog.timestamp".to_owned();
    let back = format!("(@)::{type_sql}");
    let origin = "timestamp '2001-01-01'";
    match (months, days, seconds) {
        (1.., 0, 0.0) => Ok(Clock {
            local,
            back,
            floor: format!(
                "(pg_catalog.date_trunc('month', @) - pg_catalog.make_interval(months => ((EXTRACT(year FROM @) * 12 \
                 + EXTRACT(month FROM @) - 1)::pg_catalog.int8 % {months})::pg_catalog.int4))"
            ),
            step: format!("pg_catalog.make_interval(months => {months})"),
            name: "YYYYMMDD",
        }),
        (0, 1.., 0.0) => Ok(Clock {
            local,
            back,
            floor: format!(
                "pg_catalog.date_bin(pg_catalog.make_interval(days => {days}), @, {origin})"
            ),
            step: format!("pg_catalog.make_interval(days => {days})"),
            name: "YYYYMMDD",
        }),
        // By UTC: where clocks are put forward an hour has no beginning.
        (0, 0, 1.0..) if !by.is_of(&["date"]) => {
            let zoned = by.is_of(&["timestamptz"]);
            let utc = "(@) AT TIME ZONE 'UTC'".to_owned();
            let step = format!("pg_catalog.make_interval(secs => {seconds})");
            Ok(Clock {
                local: if zoned { utc.clone() } else { local },
                back: if zoned { utc } else { back },
                floor: format!("pg_catalog.date_bin({step}, @, {origin})"),
                step,
                name: "YYYYMMDD_HH24MISS",
            })
        }
        (0, 0, 1.0..) => Err(bad("is less than a day, and the column is a date")),
        _ => Err(bad("is not a span of one kind, greater than zero")),
    }
}
