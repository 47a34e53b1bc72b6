//! Where ranges of a time or a number begin and end.

use tokio_postgres::types::ToSql;

use super::bounds::{Divided, is_of};
use super::names::Naming;
use super::{Asked, Partition};
use crate::catalog::Column;
use crate::error::{Error, Kind, Result};
use crate::pg::{Session, quote_literal};

/// More are as good as none: each costs every plan, and locks.
pub(super) const MOST: i64 = 2_000;
/// As many as pg_partman makes ahead.
const PREMAKE: u32 = 4;

pub(super) async fn range(
    session: &Session,
    by: &Divided<'_>,
    naming: &mut Naming<'_>,
    asked: &Asked,
) -> Result<Vec<Partition>> {
    let every = asked.every.as_deref().unwrap_or("");
    let ahead = i64::from(asked.premake.unwrap_or(PREMAKE));
    let grid = Grid::of(session, by.column, every).await?;
    if asked.has_no_default() {
        refuse_placeless(session, by, &grid).await?;
    }
    let ends = grid.ends(session, by, (every, ahead)).await?;
    let edges = grid.edges(session, (&ends.0, &ends.1), ahead).await?;
    let default = (!asked.has_no_default()).then(|| naming.default());
    let ranges: Vec<Partition> =
        edges.windows(2).map(|pair| between_edges(naming, &pair[0], &pair[1])).collect();
    Ok(ranges.into_iter().chain(default).collect())
}

/// The partition from one edge to the next.
pub(super) fn between_edges(naming: &mut Naming<'_>, from: &Edge, to: &Edge) -> Partition {
    let bound = format!("FOR VALUES FROM ({}) TO ({})", from.literal, to.literal);
    naming.partition(&format!("_p{}", from.name), bound)
}

/// No range has them, now or later: better said before the copy than in it.
async fn refuse_placeless(session: &Session, by: &Divided<'_>, grid: &Grid) -> Result<()> {
    let no_place = |what: &str| {
        Err(Error::usage(format!(
            "--partition-default off: the column {:?} {what}, and no range has a place for such a row",
            by.name()
        ))
        .next("Leave the default partition, or mend that before; with --alter, or --map for what the rows have"))
    };
    if !by.column.not_null {
        return no_place("may be NULL");
    }
    let sql = format!(
        "SELECT COALESCE({} AND {}, true) FROM {} AS e",
        grid.is_finite("e.low"),
        grid.is_finite("e.high"),
        by.ends("")
    );
    match session.one(&sql, &[]).await?.get(0) {
        true => Ok(()),
        false => no_place("has a value that is infinite, or no number"),
    }
}

/// Where one range ends and the next begins.
pub(super) struct Edge {
    /// As part of a name.
    name: String,
    literal: String,
}

/// The edges of all ranges, those that there are and those that may be.
pub(super) enum Grid {
    Numbers(Numbers),
    Times(Clock),
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

impl Grid {
    /// The grid that is asked for, of a column of a type that has one.
    pub(super) async fn of(session: &Session, column: &Column, every: &str) -> Result<Grid> {
        if is_of(column, &["int2", "int4", "int8", "numeric"]) {
            return Numbers::of(session, column, every).await.map(Grid::Numbers);
        }
        if is_of(column, &["date", "timestamp", "timestamptz"]) {
            return clock(session, column, every).await.map(Grid::Times);
        }
        Err(Error::usage(format!(
            "--partition-by RANGE ({}): the column is of type {}; ranges are of a time or of a number",
            column.name, column.type_sql
        ))
        .next("Divide by HASH or LIST, or by another column"))
    }

    /// Whether `x`, SQL for a value of the column, has a place in it; NULL where that is NULL.
    pub(super) fn is_finite(&self, x: &str) -> String {
        match self {
            Grid::Numbers(numbers) if numbers.integer => format!("({x} IS NOT NULL OR NULL)"),
            Grid::Numbers(_) => {
                format!(
                    "({x} > '-Infinity'::pg_catalog.numeric AND {x} < 'Infinity'::pg_catalog.numeric)"
                )
            }
            Grid::Times(_) => format!("pg_catalog.isfinite({x})"),
        }
    }

    /// The edge at or before `x`, as text that [`Grid::edges`] takes.
    pub(super) fn floor_of(&self, x: &str) -> String {
        match self {
            Grid::Numbers(Numbers { every, .. }) => {
                let every = format!("{}::pg_catalog.numeric", quote_literal(every));
                let floor = multiple(&format!("{x}::pg_catalog.numeric"), &every);
                format!("pg_catalog.trim_scale({floor})::pg_catalog.text")
            }
            Grid::Times(clock) => {
                let local = clock.local.replace('@', x);
                format!("({})::pg_catalog.text", clock.floor.replace('@', &local))
            }
        }
    }

    /// The least and the greatest value of the rows, as text.
    async fn ends(
        &self,
        session: &Session,
        by: &Divided<'_>,
        asked: (&str, i64),
    ) -> Result<(String, String)> {
        match self {
            Grid::Numbers(numbers) => numbers.ends(session, by, asked).await,
            Grid::Times(clock) => clock.ends(session, by, asked).await,
        }
    }

    /// The edges around these values and all between, and so many beyond.
    pub(super) async fn edges(
        &self,
        session: &Session,
        ends: (&str, &str),
        ahead: i64,
    ) -> Result<Vec<Edge>> {
        match self {
            Grid::Numbers(numbers) => numbers.edges(session, ends, ahead).await,
            Grid::Times(clock) => clock.edges(session, ends, ahead).await,
        }
    }
}

/// Multiples of a number. The last partition of a type that ends there is open above, the first one below.
pub(super) struct Numbers {
    every: String,
    integer: bool,
    /// What the type ends with.
    least: &'static str,
    most: &'static str,
}

impl Numbers {
    async fn of(session: &Session, column: &Column, every: &str) -> Result<Numbers> {
        let integer = !is_of(column, &["numeric"]);
        let bad = || {
            Error::usage(format!(
                "--partition-every {every:?} is not a {}number greater than zero",
                if integer { "whole " } else { "" }
            ))
            .next(format!("{:?} is of type {}", column.name, column.type_sql))
        };
        let valid = "SELECT $1::pg_catalog.text::pg_catalog.numeric > 0 AND $1::pg_catalog.text::pg_catalog.numeric < 'Infinity' \
                     AND (NOT $2 OR $1::pg_catalog.text::pg_catalog.numeric % 1 = 0)";
        match session.one(valid, &[&every, &integer]).await {
            Ok(row) if row.get(0) => {}
            Err(e) if e.db().is_none() => return Err(e),
            _ => return Err(bad()),
        }
        let (least, most) = match column.type_name.as_str() {
            "int2" => ("-32768", "32767"),
            "int4" => ("-2147483648", "2147483647"),
            "int8" => ("-9223372036854775808", "9223372036854775807"),
            _ => ("'-Infinity'", "'Infinity'"),
        };
        Ok(Numbers { every: every.to_owned(), integer, least, most })
    }

    async fn ends(
        &self,
        session: &Session,
        by: &Divided<'_>,
        (every, ahead): (&str, i64),
    ) -> Result<(String, String)> {
        // A numeric may be NaN or infinite; those rows have no range.
        let ends = match self.integer {
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
        let end = |n: usize| row.get::<_, Option<String>>(n).unwrap_or_else(|| "0".into());
        Ok((end(0), end(1)))
    }

    async fn edges(
        &self,
        session: &Session,
        (low, high): (&str, &str),
        ahead: i64,
    ) -> Result<Vec<Edge>> {
        let (least, most) = (self.least, self.most);
        let series = format!(
            "SELECT x.edge::pg_catalog.text, x.edge > {most}::pg_catalog.numeric, \
             x.edge < ({least})::pg_catalog.numeric FROM (SELECT pg_catalog.trim_scale(g) AS edge \
             FROM (SELECT $1::pg_catalog.text::pg_catalog.numeric AS every) AS p, LATERAL pg_catalog.generate_series(\
               {}, {} + ({ahead} + 1) * p.every, p.every) AS g) AS x ORDER BY x.edge",
            multiple("$2::pg_catalog.text::pg_catalog.numeric", "p.every"),
            multiple("$3::pg_catalog.text::pg_catalog.numeric", "p.every")
        );
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.every, &low, &high];
        let mut edges = Vec::new();
        for row in session.query(&series, &parameters).await? {
            let name: String = row.get(0);
            let (beyond, below): (bool, bool) = (row.get(1), row.get(2));
            let literal = match (beyond, below) {
                (true, _) => "MAXVALUE".to_owned(),
                (_, true) => "MINVALUE".to_owned(),
                _ => quote_literal(&name),
            };
            edges.push(Edge { name, literal });
            if beyond {
                break;
            }
        }
        Ok(edges)
    }
}

/// The multiple of `every` at or before `x`. Not by division, which rounds what has many digits.
fn multiple(x: &str, every: &str) -> String {
    format!("({x} - (({x} % {every}) + {every}) % {every})")
}

/// A range would end behind what its type holds.
fn beyond_time(type_sql: &str, e: Error) -> Error {
    match e.sqlstate() {
        Some("22008") => Error::new(
            Kind::DataDiffers,
            format!("a row is so near the end of what a {type_sql} holds that its range would end behind it"),
        )
        .next("Mend the row, or keep it out with --where")
        .source(e),
        _ => e,
    }
}

/// How a time is cut, in SQL over `@`, a timestamp without time zone: months, days, or parts of a day, by the calendar
/// and clock of the session; months since the year 0, days since a Monday.
pub(super) struct Clock {
    /// The column's type.
    type_sql: String,
    /// What makes such a timestamp of a value.
    local: String,
    /// And a value of that.
    back: String,
    /// The edge at or before it.
    floor: String,
    step: String,
    name: &'static str,
}

impl Clock {
    async fn ends(
        &self,
        session: &Session,
        by: &Divided<'_>,
        (every, ahead): (&str, i64),
    ) -> Result<(String, String)> {
        let (type_sql, step) = (&self.type_sql, &self.step);
        let none = [format!("'-infinity'::{type_sql}"), format!("'infinity'::{type_sql}")];
        let ends = by.ends(&between(by, &none[0], &none[1]));
        let to_local = |x: &str| self.local.replace('@', x);
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
        let row = session.one(&counted, &[]).await;
        let row = row.map_err(|e| beyond_time(&self.type_sql, e))?;
        refuse_too_many(by, every, &row)?;
        Ok((row.get(0), row.get(1)))
    }

    async fn edges(
        &self,
        session: &Session,
        (low, high): (&str, &str),
        ahead: i64,
    ) -> Result<Vec<Edge>> {
        let Clock { back, floor, step, name, .. } = self;
        let at =
            |x: &str| floor.replace('@', &format!("{x}::pg_catalog.text::pg_catalog.timestamp"));
        let series = format!(
            "SELECT pg_catalog.to_char(x.edge, '{name}'), x.edge::pg_catalog.text FROM (SELECT {} AS edge, g \
             FROM pg_catalog.generate_series({}, {} + {step} * {}, {step}) AS g) AS x ORDER BY x.g",
            back.replace('@', "g"),
            at("$1"),
            at("$2"),
            ahead + 1
        );
        let rows = session.query(&series, &[&low, &high]).await;
        let rows = rows.map_err(|e| beyond_time(&self.type_sql, e))?;
        let edge = |row: &tokio_postgres::Row| Edge {
            name: row.get(0),
            literal: quote_literal(row.get(1)),
        };
        Ok(rows.iter().map(edge).collect())
    }
}

async fn clock(session: &Session, column: &Column, every: &str) -> Result<Clock> {
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
    let type_sql = column.base_type_sql.clone();
    // The clock of the session, which is the database's: as `date_trunc` reads it.
    let local = "(@)::pg_catalog.timestamp".to_owned();
    let back = format!("(@)::{type_sql}");
    let origin = "timestamp '2001-01-01'";
    match (months, days, seconds) {
        (1.., 0, 0.0) => Ok(Clock {
            type_sql,
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
            type_sql,
            local,
            back,
            floor: format!(
                "pg_catalog.date_bin(pg_catalog.make_interval(days => {days}), @, {origin})"
            ),
            step: format!("pg_catalog.make_interval(days => {days})"),
            name: "YYYYMMDD",
        }),
        // By UTC: where clocks are put forward an hour has no beginning.
        (0, 0, 1.0..) if !is_of(column, &["date"]) => {
            let zoned = is_of(column, &["timestamptz"]);
            let utc = "(@) AT TIME ZONE 'UTC'".to_owned();
            let step = format!("pg_catalog.make_interval(secs => {seconds})");
            Ok(Clock {
                type_sql,
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

/// Between two values that are none.
fn between(by: &Divided<'_>, low: &str, high: &str) -> String {
    format!(" WHERE {0} > {low} AND {0} < {high}", by.value)
}
