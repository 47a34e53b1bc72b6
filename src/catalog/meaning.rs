//! What definitions mean, by what PostgreSQL says they depend on.
//!
//! A definition travels as the text that PostgreSQL prints of it, and not everything in it is printed:
//! `IS DISTINCT FROM`, `NULLIF`, `CASE x WHEN` and `JOIN … USING` leave out which `=` they mean, and it is
//! looked up again where they are read again. Between types of an extension that may be another one. So
//! what is read again is compared with what was printed, by the objects both depend on; functions also by how often
//! they use their arguments, which are printed like columns of a table that has the function's name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::carried::Carried;
use super::read::parse;
use crate::error::Result;
use crate::pg::{QualifiedName, Session};

/// What an object depends on, as PostgreSQL describes it.
pub type Meaning = Vec<String>;

/// The meaning of every constraint, index, default and extended statistics of the table `oid`, by kind and name. Each of `moves` is a relation that stands for another.
pub async fn parts(
    session: &Session,
    oid: u32,
    moves: &[(QualifiedName, QualifiedName)],
) -> Result<BTreeMap<String, Meaning>> {
    let sql = format!(
        "WITH {MOVED}, part AS ({PARTS}) SELECT COALESCE(pg_catalog.jsonb_object_agg(part.name, {}), '{{}}') FROM part",
        meaning("part.classid", "part.oid")
    );
    let (from, to) = texts(moves);
    parse(session.one(&sql, &[&from, &to, &oid]).await?.get::<_, Value>(0))
}

/// The meaning of one object of the catalog `class` (`pg_policy`).
pub async fn of(
    session: &Session,
    class: &str,
    oid: u32,
    moves: &[(QualifiedName, QualifiedName)],
) -> Result<Meaning> {
    let class_oid = "$3::pg_catalog.text::pg_catalog.regclass";
    let sql = format!("WITH {MOVED} SELECT {}", meaning(class_oid, "$4::pg_catalog.oid"));
    let (from, to) = texts(moves);
    let class = format!("pg_catalog.{class}");
    parse(session.one(&sql, &[&from, &to, &class, &oid]).await?.get::<_, Value>(0))
}

/// The object that was made from `thing` on what stands for its relation, or in the schema of a trial.
pub async fn copy_of(
    session: &Session,
    thing: &Carried,
    stand_in: &QualifiedName,
) -> Result<Option<u32>> {
    let on_relation = |relation: &str, name: &str| {
        format!(
            "SELECT o.oid FROM pg_catalog.{class} o JOIN pg_catalog.{class} r ON r.oid = $1 AND r.{name} = o.{name} \
             WHERE o.{relation} = pg_catalog.to_regclass($2)",
            class = thing.class
        )
    };
    let relation = stand_in.to_string();
    let (sql, place) = match thing.class.as_str() {
        "pg_trigger" => (on_relation("tgrelid", "tgname"), &relation),
        "pg_policy" => (on_relation("polrelid", "polname"), &relation),
        "pg_rewrite" => (on_relation("ev_class", "rulename"), &relation),
        "pg_proc" => (FUNCTION.to_owned(), &stand_in.schema),
        // A default has no column to compare with; what row security is has no text.
        _ => return Ok(None),
    };
    let row = session.maybe(&sql, &[&thing.oid, place]).await?;
    Ok(row.map(|row| row.get(0)))
}

const FUNCTION: &str = "
  SELECT o.oid FROM pg_catalog.pg_proc o
  JOIN pg_catalog.pg_proc r ON r.oid = $1 AND r.proname = o.proname AND r.proargtypes = o.proargtypes
  WHERE o.pronamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident($2))";

/// Whether a statement makes what mentions every column of a table that it writes, whatever it is about: those
/// of EXCLUDED. What a column was added to since is read again with that column.
pub fn mentions_whole_rows(sql: &[String]) -> bool {
    sql.iter().any(|sql| sql.contains(" DO UPDATE SET "))
}

/// What of `was` is not in `is`, for a message; None where they are the same, but for `more_columns` of
/// relations that both are about. Elsewhere another column is another meaning: of `t.x` in a function `t` with
/// an argument `x`, once the table has a column of that name.
pub fn lost(was: &Meaning, is: &Meaning, more_columns: bool) -> Option<String> {
    let only = |a: &Meaning, b: &Meaning| -> Vec<String> {
        a.iter().filter(|x| !b.contains(x)).cloned().collect()
    };
    let gone = only(was, is);
    let about = |text: &str| {
        text.strip_prefix("column ").and_then(|t| t.rsplit_once("of ")).map(|(_, of)| of.to_owned())
    };
    let known: Vec<_> = was.iter().filter_map(|text| about(text)).collect();
    // The table as a whole goes without saying where a column is mentioned; on a clone, which names the table
    // itself besides, it is said.
    let more = |text: &String| {
        let whole = |of: &String| *text == format!("column of {of}");
        about(text).is_some_and(|of| known.contains(&of) && (more_columns || whole(&of)))
    };
    let new: Vec<String> =
        only(is, was).into_iter().filter(|text| !gone.is_empty() || !more(text)).collect();
    let told =
        |list: Vec<String>| if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
    (!gone.is_empty() || !new.is_empty()).then(|| {
        format!(
            "the text that PostgreSQL prints of it means something else when it is read again: {} \
             instead of {}",
            told(new),
            told(gone)
        )
    })
}

fn texts(moves: &[(QualifiedName, QualifiedName)]) -> (Vec<String>, Vec<String>) {
    moves.iter().map(|(real, stand_in)| (stand_in.to_string(), real.to_string())).unzip()
}

const MOVED: &str = "
moved AS (SELECT pg_catalog.to_regclass(m.stand_in)::pg_catalog.oid AS stand_in, pg_catalog.to_regclass(m.real)::pg_catalog.oid AS real
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) m (stand_in, real))";

/// Foreign keys are PostgreSQL's own affair on both sides.
const PARTS: &str = "
  SELECT 'constraint ' || k.conname AS name, 'pg_catalog.pg_constraint'::pg_catalog.regclass AS classid, k.oid
  FROM pg_catalog.pg_constraint k WHERE k.conrelid = $3 AND k.contype NOT IN ('f', 't')
  UNION ALL SELECT 'index ' || c.relname, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $3
  UNION ALL SELECT 'statistics on ' || pg_catalog.pg_get_statisticsobjdef_columns(x.oid),
    'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, x.oid FROM pg_catalog.pg_statistic_ext x WHERE x.stxrelid = $3
  UNION ALL SELECT 'default of column ' || a.attname, 'pg_catalog.pg_attrdef'::pg_catalog.regclass, f.oid
  FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
  WHERE f.adrelid = $3";

fn meaning(class: &str, oid: &str) -> String {
    format!(
        "(SELECT COALESCE(pg_catalog.jsonb_agg(DISTINCT r.text ORDER BY r.text), '[]') FROM (
    SELECT CASE d.refclassid
      WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN pg_catalog.concat_ws(' ', 'column', a.attname, 'of',
        pg_catalog.pg_describe_object(d.refclassid, COALESCE(m.real, d.refobjid), 0))
      WHEN 'pg_catalog.pg_type'::pg_catalog.regclass THEN
        CASE WHEN t.real IS NULL THEN pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0) ELSE 'row of ' || t.real END
      WHEN 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN pg_catalog.concat_ws(' ', 'key',
        (SELECT pg_catalog.string_agg(ka.attname, ', ' ORDER BY u.n) FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u (attnum, n)
         JOIN pg_catalog.pg_attribute ka ON ka.attrelid = k.conrelid AND ka.attnum = u.attnum),
        'of', pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, COALESCE(mk.real, k.conrelid), 0))
      ELSE pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) END AS text
    FROM pg_catalog.pg_depend d
    LEFT JOIN moved m ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.stand_in = d.refobjid
    LEFT JOIN pg_catalog.pg_attribute a ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
    LEFT JOIN pg_catalog.pg_type y ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND y.oid = d.refobjid
    LEFT JOIN moved t ON t.stand_in = y.typrelid
    LEFT JOIN pg_catalog.pg_constraint k ON d.refclassid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.refobjid
    LEFT JOIN moved mk ON mk.stand_in = k.conrelid
    WHERE d.classid = {class} AND d.objid = {oid} AND d.deptype = 'n'
      AND d.refclassid NOT IN ('pg_catalog.pg_namespace'::pg_catalog.regclass, 'pg_catalog.pg_extension'::pg_catalog.regclass)
    UNION ALL SELECT (pg_catalog.length(p.body) - pg_catalog.length(pg_catalog.replace(p.body, '{{PARAM ', ''))) / 7 || ' places with its arguments'
    FROM (SELECT f.prosqlbody::pg_catalog.text AS body FROM pg_catalog.pg_proc f
      WHERE {class} = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.oid = {oid} AND f.prosqlbody IS NOT NULL) p) r)"
    )
}
