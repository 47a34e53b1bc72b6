//! Whether two keys of the source can become one key of the new table, or one can become two: pure.
//!
//! Rows are followed by their key. A row that is gone is known by its old key alone, and what it became is taken out by
//! what that maps to: were that another living row's key too, that row would go, or be written over. So a mapping of
//! the key must be known to tell all keys apart, whatever keys come later (**Invariants 2 and 3**). And where one key is
//! written in several ways (`Ab` and `ab` under a collation that takes them for one), a row that is written another
//! way keeps its key: as several keys of the new table it would be there twice.

use super::expression;
use crate::catalog::Column;

const INTEGERS: [&str; 3] = ["int2", "int4", "int8"];
const TEXTS: [&str; 2] = ["text", "varchar"];

/// Whether the column `to`, filled by `fill` (over `from` as `s`), has another value for each value of `from`.
pub(super) fn tells_apart(from: &Column, to: &Column, fill: &str) -> bool {
    if !is_plain(&from.name, &to.type_sql, fill) {
        let of_integers =
            |column: &Column| is_of_server(column) && INTEGERS.contains(&column.type_name.as_str());
        return of_integers(from) && of_integers(to) && is_shifted(&from.name, fill);
    }
    // By another collation two texts may be the same.
    let is_deterministic = from.collation_deterministic && to.collation_deterministic;
    if !is_deterministic && from.collation != to.collation {
        return false;
    }
    if from.type_sql == to.type_sql || from.base_type_sql == to.type_sql && !is_limited(to) {
        return true;
    }
    if !is_of_server(to) || !(is_of_server(from) || from.type_kind == 'e') {
        return false;
    }
    let (was, is) = (from.type_name.as_str(), to.type_name.as_str());
    let (limit, new_limit) = (modifiers(&from.type_sql), modifiers(&to.type_sql));
    match (was, is) {
        // Narrower ones refuse what they cannot hold.
        _ if INTEGERS.contains(&was) && INTEGERS.contains(&is) => true,
        _ if INTEGERS.contains(&was) && is == "numeric" => new_limit.is_empty(),
        _ if TEXTS.contains(&was) && TEXTS.contains(&is) => is_wider(&limit, &new_limit),
        // Blanks at the end count for nothing before, and are gone behind.
        ("bpchar", _) if TEXTS.contains(&is) => is_wider(&limit, &new_limit),
        ("uuid", _) if TEXTS.contains(&is) => new_limit.is_empty(),
        _ if INTEGERS.contains(&was) && TEXTS.contains(&is) => new_limit.is_empty(),
        _ if from.type_kind == 'e' && TEXTS.contains(&is) => new_limit.is_empty(),
        ("numeric", "numeric") => match (limit.as_slice(), new_limit.as_slice()) {
            (_, []) => true,
            ([_, scale], [_, new]) => new >= scale,
            _ => false,
        },
        ("timestamp", "timestamp") | ("timestamptz", "timestamptz") => is_wider(&limit, &new_limit),
        ("date", "timestamp") => true,
        _ => false,
    }
}

/// Whether `fill` is the column itself, or that as `type_sql`. Anything else may be the same for two values.
fn is_plain(name: &str, type_sql: &str, fill: &str) -> bool {
    let own = expression::column(name);
    // PostgreSQL prints a name quoted only where that is needed.
    [own.clone(), format!("s.{name}")].iter().any(|column| {
        let cast = format!("({column})::{type_sql}");
        fill == own || fill == format!("({column})") || fill == format!("({cast})")
    })
}

/// Whether it is the column and a number added, in whatever integers: what does not fit them is refused.
fn is_shifted(name: &str, fill: &str) -> bool {
    let casts = ["(", ")", "::smallint", "::integer", "::bigint"];
    let bare = casts.iter().fold(fill.to_owned(), |text, cast| text.replace(cast, ""));
    let columns = [expression::column(name), format!("s.{name}")];
    let rest = columns.iter().find_map(|column| bare.strip_prefix(column.as_str()));
    let by = rest.and_then(|rest| rest.strip_prefix(" + ").or(rest.strip_prefix(" - ")));
    by.map(|by| by.trim_matches('\''))
        .is_some_and(|by| !by.is_empty() && by.bytes().all(|b| b.is_ascii_digit()))
}

fn is_of_server(column: &Column) -> bool {
    column.type_schema == "pg_catalog"
}

fn is_limited(column: &Column) -> bool {
    !modifiers(&column.type_sql).is_empty()
}

/// Those in the parentheses of a type.
fn modifiers(type_sql: &str) -> Vec<i64> {
    let inside = type_sql.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let inside = inside.map_or("", |(inside, _)| inside);
    inside.split(',').filter_map(|n| n.trim().parse().ok()).collect()
}

/// What is wider, or without a limit, cuts nothing off.
fn is_wider(limit: &[i64], new_limit: &[i64]) -> bool {
    match (limit, new_limit) {
        (_, []) => true,
        ([old], [new]) => new >= old,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(type_name: &str, type_sql: &str) -> Column {
        let kind = if type_name == "mood" { "e" } else { "b" };
        let schema = if kind == "e" { "public" } else { "pg_catalog" };
        let base = type_sql.split('(').next().unwrap().trim();
        serde_json::from_value(serde_json::json!({
            "attnum": 1, "name": "Id", "type_oid": 1, "type_sql": type_sql, "base_type_sql": base,
            "type_schema": schema, "type_name": type_name, "type_kind": kind, "type_category": "S",
            "has_binary": true, "collation": null, "collation_deterministic": true, "operator_schema": "pg_catalog",
            "not_null": true, "default": null, "default_names_table": false, "generated": "", "identity": "",
            "storage": "x", "compression": "", "statistics_target": null, "options": [], "grants": null, "comment": null
        }))
        .unwrap()
    }

    fn plain(from: (&str, &str), to: (&str, &str)) -> bool {
        tells_apart(&column(from.0, from.1), &column(to.0, to.1), "s.\"Id\"")
    }

    #[test]
    fn only_what_loses_nothing_tells_keys_apart() {
        const TEXT: (&str, &str) = ("text", "text");
        const INT: (&str, &str) = ("int4", "integer");
        for (from, to) in [
            (INT, ("int8", "bigint")),
            (("int8", "bigint"), INT),
            (INT, ("numeric", "numeric")),
            (INT, TEXT),
            (("varchar", "character varying(10)"), ("varchar", "character varying(20)")),
            (("varchar", "character varying(10)"), TEXT),
            (("bpchar", "character(3)"), TEXT),
            (("uuid", "uuid"), TEXT),
            (("mood", "public.mood"), TEXT),
            (("numeric", "numeric(10,2)"), ("numeric", "numeric(12,3)")),
            (
                ("timestamptz", "timestamp(3) with time zone"),
                ("timestamptz", "timestamp with time zone"),
            ),
            (("date", "date"), ("timestamp", "timestamp without time zone")),
        ] {
            assert!(plain(from, to), "{from:?} {to:?}");
        }
        for (from, to) in [
            (TEXT, ("uuid", "uuid")),
            (TEXT, INT),
            (TEXT, ("varchar", "character varying(3)")),
            (TEXT, ("bpchar", "character(30)")),
            (("varchar", "character varying(10)"), ("varchar", "character varying(9)")),
            (("numeric", "numeric"), INT),
            (("numeric", "numeric(10,2)"), ("numeric", "numeric(10,1)")),
            (("numeric", "numeric"), ("numeric", "numeric(10,1)")),
            (INT, ("numeric", "numeric(10,-2)")),
            (
                ("timestamptz", "timestamp with time zone"),
                ("timestamptz", "timestamp(0) with time zone"),
            ),
            // An hour in spring, or in autumn.
            (
                ("timestamp", "timestamp without time zone"),
                ("timestamptz", "timestamp with time zone"),
            ),
            (
                ("timestamptz", "timestamp with time zone"),
                ("timestamp", "timestamp without time zone"),
            ),
            (("timestamptz", "timestamp with time zone"), ("date", "date")),
        ] {
            assert!(!plain(from, to), "{from:?} {to:?}");
        }
    }

    #[test]
    fn what_is_computed_may_be_the_same_for_two() {
        let (from, to) = (column("int4", "integer"), column("int8", "bigint"));
        for fill in [
            "s.\"Id\"",
            "(s.\"Id\")",
            "((s.\"Id\")::bigint)",
            "(s.\"Id\" + 5)",
            "(((s.\"Id\" - 32000))::smallint)",
            "((s.\"Id\")::bigint + '3000000000'::bigint)",
        ] {
            assert!(tells_apart(&from, &to, fill), "{fill}");
        }
        for fill in [
            "(s.\"Id\" / 2)",
            "(s.\"Id\" + s.other)",
            "(s.\"Id\" + 5 / 2)",
            "(5 - s.\"Id\" + )",
            "(abs(s.\"Id\"))",
            "(((s.\"Id\")::smallint)::bigint)",
            "(s.other)",
        ] {
            assert!(!tells_apart(&from, &to, fill), "{fill}");
        }
        let nocase = Column {
            collation: Some("public.nocase".to_owned()),
            collation_deterministic: false,
            ..column("text", "text")
        };
        assert!(!tells_apart(&column("text", "text"), &nocase, "s.\"Id\""));
        assert!(tells_apart(&nocase, &nocase, "s.\"Id\""));
        assert!(!tells_apart(&nocase, &column("text", "text"), "s.\"Id\""), "one key would be two");
    }
}
