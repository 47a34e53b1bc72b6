//! Expressions as the server understands them: fully qualified text, and how far it can be trusted
//! to give the same value twice.

use super::clauses::tokens;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session, quote_ident};

/// One expression over the source's row.
pub(super) struct Expression {
    /// Deparsed by the server, names qualified, columns under the alias `s`.
    pub sql: String,
    /// Attribute numbers of the source's columns it reads.
    pub columns: Vec<i16>,
    /// Whether it calls what reads settings of the session.
    pub by_settings: bool,
    /// Signatures of the functions that it calls, but for PostgreSQL's own.
    pub functions: Vec<String>,
}

impl Expression {
    /// One that reads no column.
    pub(super) fn constant(sql: String, functions: Vec<String>) -> Self {
        Expression { sql, columns: Vec::new(), by_settings: false, functions }
    }
}

/// What an expression calls.
pub(super) struct Calls {
    pub stability: Stability,
    pub functions: Vec<String>,
}

/// How an expression's value may vary.
#[derive(Debug, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
pub(super) enum Stability {
    Immutable,
    /// The same under the same settings.
    Stable,
    /// Follows the clock or the user.
    Moment,
    Volatile,
    Subquery,
}

/// What the operator typed, and what is made of it; messages quote the first.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub typed: &'a str,
    pub sql: &'a str,
}

/// Lets the server parse an expression over `source` and gives back what it understood.
/// The view that does it lives in `scratch` and ends with the caller's transaction.
pub(super) async fn understand(
    session: &Session,
    source: (u32, &QualifiedName),
    scratch: &str,
    Typed { typed, sql: expression }: Typed<'_>,
) -> Result<Expression> {
    let (source_oid, source) = source;
    refuse_open_ends(typed)?;
    let view = QualifiedName::new(scratch, "expression");
    let refuse = |e: Error| match e.db() {
        Some(db) => {
            Error::usage(format!("the expression {typed:?} is not valid: {}", db.message()))
                .next("It may use the table's present columns, functions and operators")
        }
        None => e,
    };
    // Prepared on its own, so that `typed` cannot smuggle in a second statement. Where a view reads but one relation,
    // its columns are printed without the alias from 16 on; in statements that read the keys too, those would be
    // ambiguous.
    let sql = format!(
        "CREATE VIEW {view} AS SELECT ({expression}\n) AS pgwraith_value FROM ONLY {source} AS s, \
         (VALUES (1)) AS pgwraith_another (pgwraith_nothing)"
    );
    // Parsed under the operator's own search path, printed under the pinned one, so qualified.
    session.batch("RESET search_path").await?;
    session.execute(&sql, &[]).await.map_err(refuse)?;
    session.batch("SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let row = session
        .one(
            "SELECT pg_catalog.pg_get_viewdef($1::pg_catalog.text::pg_catalog.regclass), w.ev_action::pg_catalog.text, \
             ARRAY(SELECT DISTINCT d.refobjsubid::pg_catalog.int2 FROM pg_catalog.pg_depend d \
               WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid \
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $2 \
                 AND d.refobjsubid > 0) \
             FROM pg_catalog.pg_rewrite w WHERE w.ev_class = $1::pg_catalog.text::pg_catalog.regclass",
            &[&view.to_string(), &source_oid],
        )
        .await?;
    session.batch(&format!("DROP VIEW {view}")).await?;
    let text = value_of_view(row.get(0)).ok_or_else(|| {
        Error::usage(format!("the expression {typed:?} is more than one value of one row"))
    })?;
    let tree: String = row.get(1);
    refuse_other_shapes(typed, &tree)?;
    let Calls { stability, functions } = calls(session, &tree).await?;
    refuse_unstable(typed, stability)?;
    Ok(Expression {
        sql: format!("({text})"),
        columns: row.get(2),
        by_settings: stability == Stability::Stable,
        functions,
    })
}

/// Whether it is NULL or one string, whose type follows from where it goes.
pub(super) fn has_no_type(typed: &str) -> bool {
    match tokens(typed).as_slice() {
        [only] => only.is("null") || only.text.starts_with(['\'', '$']),
        // With escapes.
        [e, string] => e.is("e") && string.text.starts_with('\'') && string.start == e.end(),
        _ => false,
    }
}

fn refuse_unstable(typed: &str, stability: Stability) -> Result<()> {
    let why = match stability {
        Stability::Immutable | Stability::Stable => return Ok(()),
        Stability::Moment => "gives another value at another moment or for another user",
        Stability::Volatile => "is volatile: it gives another value each time",
        Stability::Subquery => "reads other rows, and their changes would not be followed",
    };
    Err(Error::usage(format!("the expression {typed:?} {why}")).next(
        "A row may be copied more than once, and verification computes it again: use an expression \
         over the row's own columns that always gives the same value",
    ))
}

/// What closes a parenthesis that it has not opened would mean another thing where it is put between some, as
/// `a) OR (b` would.
fn refuse_open_ends(typed: &str) -> Result<()> {
    let mut open = Vec::new();
    let ends = |sign: &str| if sign == "(" { ")" } else { "]" };
    for token in tokens(typed) {
        match token {
            t if t.is_sign("(") || t.is_sign("[") => open.push(ends(t.text)),
            t if (t.is_sign(")") || t.is_sign("]")) && open.pop() != Some(t.text) => {
                return Err(Error::usage(format!(
                    "the expression {typed:?} is not valid: it closes a {:?} that it has not opened",
                    t.text
                )));
            }
            _ => {}
        }
    }
    match open.pop() {
        Some(sign) => Err(Error::usage(format!(
            "the expression {typed:?} is not valid: it has no {sign:?} at its end"
        ))),
        None => Ok(()),
    }
}

/// What is no value of one row of the source, whatever PostgreSQL takes in a SELECT.
fn refuse_other_shapes(typed: &str, tree: &str) -> Result<()> {
    const SHAPES: [(&str, &str); 5] = [
        ("{AGGREF ", "is an aggregate: it is one value of many rows"),
        ("{WINDOWFUNC ", "is a window function: it depends on other rows"),
        (":funcretset true", "may be several values of one row"),
        (":opretset true", "may be several values of one row"),
        (
            ":varattno -",
            "reads a system column (ctid, xmin, tableoid …), of which the new row has its own",
        ),
    ];
    match SHAPES.iter().find(|(node, _)| tree.contains(node)) {
        None => Ok(()),
        Some((_, why)) => Err(Error::usage(format!("the expression {typed:?} {why}"))
            .next("Use an expression that has one value, of the row's own columns")),
    }
}

/// Cuts `expr` out of ` SELECT expr AS pgwraith_value\n   FROM …`; a CASE begins on a line of its own.
fn value_of_view(definition: &str) -> Option<String> {
    let body = definition.trim_start().strip_prefix("SELECT")?.trim_start();
    let (value, rest) = body.rsplit_once(" AS pgwraith_value\n")?;
    rest.trim_start().starts_with("FROM ONLY ").then(|| value.to_owned())
}

/// Reads a stored node tree (`pg_rewrite.ev_action`, `pg_attrdef.adbin`) for everything it calls.
pub(super) async fn calls(session: &Session, tree: &str) -> Result<Calls> {
    let shape = if tree.contains("{SUBLINK") {
        Stability::Subquery
    } else if tree.contains("{NEXTVALUEEXPR") {
        Stability::Volatile
    } else if tree.contains("{SQLVALUEFUNCTION") || reads_the_clock(tree) {
        Stability::Moment
    } else if tree.contains("{COERCEVIAIO") {
        // How a value is written may be a setting's, and its type's functions are not named.
        Stability::Stable
    } else {
        Stability::Immutable
    };
    let row = session
        .one(
            "SELECT COALESCE(pg_catalog.max(CASE WHEN p.provolatile = 'v' THEN 3 \
               WHEN p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp', 'pg_current_xact_id', \
                 'txid_current', 'pg_backend_pid', 'current_setting', 'inet_client_addr', 'inet_client_port', \
                 'pg_postmaster_start_time', 'current_query', 'txid_current_snapshot', 'pg_current_snapshot') \
                 AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace THEN 2 \
               WHEN p.proname = 'age' AND p.pronargs = 1 \
                 AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace THEN 2 \
               WHEN p.provolatile = 's' THEN 1 ELSE 0 END), 0), \
             pg_catalog.array_agg(DISTINCT p.oid::pg_catalog.regprocedure::pg_catalog.text) FILTER ( \
               WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace) \
             FROM (SELECT m[1]::pg_catalog.oid AS f FROM pg_catalog.regexp_matches($1, \
                 ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') m \
               UNION SELECT o.oprcode::pg_catalog.oid FROM pg_catalog.regexp_matches($1, ':opno ([0-9]+)', 'g') m \
                 JOIN pg_catalog.pg_operator o ON o.oid = m[1]::pg_catalog.oid) x \
             JOIN pg_catalog.pg_proc p ON p.oid = x.f",
            &[&tree],
        )
        .await?;
    let called = match row.get::<_, i32>(0) {
        0 => Stability::Immutable,
        1 => Stability::Stable,
        2 => Stability::Moment,
        _ => Stability::Volatile,
    };
    let functions = row.get::<_, Option<Vec<String>>>(1).unwrap_or_default();
    Ok(Calls { stability: shape.max(called), functions })
}

/// A text that is there and not a column's, made a time: it may be 'now' or 'yesterday', and no function of the tree
/// says so.
fn reads_the_clock(tree: &str) -> bool {
    const TIMES: [&str; 5] = ["1082", "1083", "1114", "1184", "1266"];
    let of_constant = tree.split("{COERCEVIAIO :arg {CONST ").skip(1);
    let mut types = of_constant.filter_map(|rest| rest.split_once("} :resulttype "));
    types.any(|(_, rest)| TIMES.contains(&rest.split(' ').next().unwrap_or_default()))
}

/// A column of the source as an expression.
pub(super) fn column(name: &str) -> String {
    format!("s.{}", quote_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_value_has_no_type() {
        for bare in ["NULL", " null ", "'5'", "E'a\\nb'", "'it''s'", "$$x$$"] {
            assert!(has_no_type(bare), "{bare}");
        }
        for typed in ["5", "e", "s.e", "'5'::int", "'a' || 'b'", "", "nullif(a, b)"] {
            assert!(!has_no_type(typed), "{typed}");
        }
    }

    #[test]
    fn parentheses_are_closed_where_they_were_opened() {
        for whole in
            ["a", "(a) + (b[1])", "')' || a", "\")\" + 1", "a /* ) */", "$$)$$", "f(a, (b))"]
        {
            assert!(refuse_open_ends(whole).is_ok(), "{whole}");
        }
        for open in ["a) OR (b", "(a", "a]", "(a]", "f(a))", "b[1"] {
            assert!(refuse_open_ends(open).is_err(), "{open}");
        }
    }

    #[test]
    fn the_value_is_cut_out_of_the_view() {
        let view = " SELECT (s.a || ' AS pgwraith_value'::text) AS pgwraith_value\n   FROM ONLY public.t s;";
        assert_eq!(value_of_view(view).as_deref(), Some("(s.a || ' AS pgwraith_value'::text)"));
        let case = " SELECT\n        CASE\n            WHEN (s.a > 5) THEN 1\n            ELSE 2\n        END AS pgwraith_value\n   FROM ONLY public.t s;";
        assert!(value_of_view(case).is_some_and(|v| v.starts_with("CASE") && v.ends_with("END")));
        assert_eq!(value_of_view(" SELECT 1 AS x\n   FROM ONLY t s;"), None);
    }
}
