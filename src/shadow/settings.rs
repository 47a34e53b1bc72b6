//! Everything about a table that is neither its shape nor its rows: storage parameters, what is set
//! for columns and indexes, the CLUSTER mark, extended statistics, comments.
//!
//! Written as differences, so that the same text makes the rehearsal's clone like the source, the new
//! shadow like the future table, and under the cutover's lock carries what somebody changed meanwhile.

use super::Step;
use crate::catalog::{Column, Index, Statistics, Table};
use crate::pg::{QualifiedName, quote_ident, quote_literal};

/// Gives the table `now` what `wanted` has. Both name indexes and statistics alike; what is not there
/// yet, of indexes and constraints, is left out.
pub fn settings(now: &Table, wanted: &Table) -> Vec<Step> {
    let table = now.qualified();
    let mut out = Vec::new();
    let set = |options: &str| format!("ALTER TABLE {table} {options}");
    out.extend(options("", &now.options, &wanted.options).iter().map(|o| set(o)));
    out.extend(options("toast.", &now.toast_options, &wanted.toast_options).iter().map(|o| set(o)));
    for (was, is) in columns(now, wanted) {
        let column = quote_ident(&is.name);
        let changes = column_settings(was, is);
        out.extend(changes.iter().map(|c| set(&format!("ALTER COLUMN {column} {c}"))));
    }
    for (was, is) in indexes(now, wanted) {
        out.extend(index_settings(&table.sibling(&is.name), was, is));
    }
    out.extend(cluster_mark(&table, now, wanted));
    let mut out: Vec<Step> = out.into_iter().map(|sql| Step::by(&now.owner, sql)).collect();
    out.extend(statistics(&table, now, wanted));
    out.extend(comments(&table, now, wanted).into_iter().map(|sql| Step::by(&now.owner, sql)));
    out
}

fn columns<'a>(
    now: &'a Table,
    wanted: &'a Table,
) -> impl Iterator<Item = (&'a Column, &'a Column)> {
    wanted.columns.iter().filter_map(|is| Some((now.column_named(&is.name)?, is)))
}

fn indexes<'a>(now: &'a Table, wanted: &'a Table) -> impl Iterator<Item = (&'a Index, &'a Index)> {
    let named = |name: &str| now.indexes.iter().find(|i| i.name == name);
    wanted.indexes.iter().filter_map(move |is| Some((named(&is.name)?, is)))
}

/// `RESET (…)` and `SET (…)`; `space` is `toast.` for those of the TOAST table. From the first that
/// differs on all are set again, so that they end in the same order.
fn options(space: &str, was: &[String], is: &[String]) -> Vec<String> {
    let same = was.iter().zip(is).take_while(|(was, is)| was == is).count();
    let split = |option: &String| -> (String, String) {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        (format!("{space}{}", quote_ident(name)), quote_literal(value))
    };
    let gone: Vec<String> = was[same..].iter().map(|o| split(o).0).collect();
    let new: Vec<String> =
        is[same..].iter().map(split).map(|(n, v)| format!("{n} = {v}")).collect();
    let gone = (!gone.is_empty()).then(|| format!("RESET ({})", gone.join(", ")));
    let new = (!new.is_empty()).then(|| format!("SET ({})", new.join(", ")));
    gone.into_iter().chain(new).collect()
}

fn column_settings(was: &Column, is: &Column) -> Vec<String> {
    let mut out = Vec::new();
    if was.storage != is.storage {
        let storage = match is.storage {
            'p' => "PLAIN",
            'e' => "EXTERNAL",
            'm' => "MAIN",
            _ => "EXTENDED",
        };
        out.push(format!("SET STORAGE {storage}"));
    }
    if was.compression != is.compression {
        let method = match is.compression.as_str() {
            "p" => "pglz",
            "l" => "lz4",
            _ => "default",
        };
        out.push(format!("SET COMPRESSION {method}"));
    }
    out.extend(target(was.statistics_target, is.statistics_target));
    out.extend(options("", &was.options, &is.options));
    out
}

/// `SET STATISTICS`, where the target differs.
fn target(was: Option<i32>, is: Option<i32>) -> Option<String> {
    (was != is).then(|| format!("SET STATISTICS {}", is.unwrap_or(-1)))
}

fn index_settings(name: &QualifiedName, was: &Index, is: &Index) -> Vec<String> {
    let changes = options("", &was.options, &is.options);
    let mut out: Vec<_> = changes.iter().map(|o| format!("ALTER INDEX {name} {o}")).collect();
    let of = |index: &Index, column| {
        index.statistics_targets.iter().find(|(n, _)| *n == column).map(|(_, target)| *target)
    };
    let mut columns: Vec<i16> =
        was.statistics_targets.iter().chain(&is.statistics_targets).map(|(n, _)| *n).collect();
    columns.sort_unstable();
    columns.dedup();
    out.extend(columns.into_iter().filter_map(|column| {
        let change = target(of(was, column), of(is, column))?;
        Some(format!("ALTER INDEX {name} ALTER COLUMN {column} {change}"))
    }));
    out
}

fn cluster_mark(table: &QualifiedName, now: &Table, wanted: &Table) -> Option<String> {
    let marked = |t: &'_ Table| t.indexes.iter().find(|i| i.clustered).map(|i| i.name.clone());
    let (was, is) = (marked(now), marked(wanted));
    match is {
        _ if was == is => None,
        Some(index) => {
            let there = now.indexes.iter().any(|i| i.name == index);
            there.then(|| format!("ALTER TABLE {table} CLUSTER ON {}", quote_ident(&index)))
        }
        None => Some(format!("ALTER TABLE {table} SET WITHOUT CLUSTER")),
    }
}

/// Made by the table's owner, as they must be, and then given to whom they belong.
fn statistics(table: &QualifiedName, now: &Table, wanted: &Table) -> Vec<Step> {
    let mut out = Vec::new();
    let of = |t: &'_ Table, s: &Statistics| {
        t.statistics.iter().find(|other| other.qualified() == s.qualified()).cloned()
    };
    // Another definition under the same name is another object.
    let same = |a: &Statistics, b: &Statistics| a.definition == b.definition;
    for was in &now.statistics {
        if !of(wanted, was).is_some_and(|is| same(was, &is)) {
            out.push(Step::by(&was.owner, format!("DROP STATISTICS {}", was.qualified())));
        }
    }
    for is in &wanted.statistics {
        let name = is.qualified();
        let was = of(now, is).filter(|was| same(was, is));
        if was.is_none() {
            let sql = format!("CREATE STATISTICS {name} {} FROM {table}", is.definition);
            out.push(Step::by(&now.owner, sql));
        }
        let owner = was.as_ref().map_or(&now.owner, |was| &was.owner);
        if was.as_ref().and_then(|was| was.target) != is.target {
            let target = is.target.unwrap_or(-1);
            let sql = format!("ALTER STATISTICS {name} SET STATISTICS {target}");
            out.push(Step::by(owner, sql));
        }
        if was.as_ref().and_then(|was| was.comment.as_ref()) != is.comment.as_ref() {
            out.push(Step::by(owner, comment("STATISTICS", &name.to_string(), &is.comment)));
        }
        if *owner != is.owner {
            let to = quote_ident(&is.owner);
            out.push(Step::by_tool(format!("ALTER STATISTICS {name} OWNER TO {to}")));
        }
    }
    out
}

fn comments(table: &QualifiedName, now: &Table, wanted: &Table) -> Vec<String> {
    let mut all = vec![
        ("TABLE", table.to_string(), &now.comment, &wanted.comment),
        ("TYPE", table.to_string(), &now.type_comment, &wanted.type_comment),
    ];
    for (was, is) in columns(now, wanted) {
        let name = format!("{table}.{}", quote_ident(&is.name));
        all.push(("COLUMN", name, &was.comment, &is.comment));
    }
    for (was, is) in indexes(now, wanted) {
        all.push(("INDEX", table.sibling(&is.name).to_string(), &was.comment, &is.comment));
    }
    for is in &wanted.constraints {
        let was = now.constraints.iter().find(|c| c.name == is.name);
        let Some(was) = was else { continue };
        let name = format!("{} ON {table}", quote_ident(&is.name));
        all.push(("CONSTRAINT", name, &was.comment, &is.comment));
    }
    let differing = all.into_iter().filter(|(_, _, was, is)| was != is);
    differing.map(|(kind, name, _, is)| comment(kind, &name, is)).collect()
}

/// COMMENT ON.
pub fn comment(kind: &str, name: &str, text: &Option<String>) -> String {
    let text = text.as_deref().map_or("NULL".to_owned(), quote_literal);
    format!("COMMENT ON {kind} {name} IS {text}")
}
