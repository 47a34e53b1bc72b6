//! Where ranges of a time or a number begin and end.

use tokio_postgres::types::ToSql;

use super::bounds::Divided;
use super::names::Naming;
use super::{Asked, Partition};
use crate::error::{Error, Result};
use crate::pg::{Session, quote_literal};

/// More are as good as none: each costs every plan, and locks.
const MOST: i64 = 2_000;
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

/// Multiples of a number. The last partition of a type that ends there is open above, the first one below.
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
    let (least, most) = match by.column.type_name.as_str() {
        "int2" => ("-32768", "32767"),
        "int4" => ("-2147483648", "2147483647"),
        "int8" => ("-9223372036854775808", "9223372036854775807"),
        _ => ("'-Infinity'", "'Infinity'"),
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
        "SELECT x.edge::pg_catalog.text, x.edge > {most}::pg_catalog.numeric, \
         x.edge < ({least})::pg_catalog.numeric FROM (SELECT pg_catalog.trim_scale(g) AS edge \
         FROM (SELECT $1::pg_catalog.text::pg_catalog.numeric AS every) AS p, LATERAL pg_catalog.generate_series(\
           pg_catalog.floor($2::pg_catalog.text::pg_catalog.numeric / p.every) * p.every, \
           (pg_catalog.floor($3::pg_catalog.text::pg_catalog.numeric / p.every) + {ahead} + 1) * p.every, p.every) AS g) AS x ORDER BY x.edge"
    );
    let parameters: [&(dyn ToSql + Sync); 3] = [&every, &low, &high];
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

/// Between two values that are none.
fn between(by: &Divided<'_>, low: &str, high: &str) -> String {
    format!(" WHERE {0} > {low} AND {0} < {high}", by.value)
}
