//! The statements over a flow, as text. The captured row always has the alias `s`; key sets are
//! array parameters (`$1`, `$2`, … one a key column), ranges are bounds (first the lower bound's
//! columns, then the upper's).

use super::Flow;
use super::chunk::Kind;
use crate::change::{Course, CourseColumn, KeyColumn, Projected};
use crate::pg::{QualifiedName, quote_ident};

/// Which bounds a range has: lower exclusive, upper inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub lower: bool,
    pub upper: bool,
}

impl Bounds {
    /// How many of them there are: each has as many parameters as the course has columns.
    pub(super) fn sides(self) -> usize {
        usize::from(self.lower) + usize::from(self.upper)
    }
}

impl Flow {
    /// Copies a range into an empty part of the target; in the order that was asked for, where one was.
    pub fn copy_range(&self, bounds: Bounds) -> String {
        let course = self.course(Kind::Copy);
        let order = match self.order {
            Some(_) => format!(" ORDER BY {}", in_order(&course)),
            None => String::new(),
        };
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s{}{order}",
            self.target.root,
            self.columns(""),
            self.expressions(),
            self.captured.scanned(),
            where_all([self.source_range(&course, bounds, 0)])
        )
    }

    /// Copies those rows of a range that no unique index of the target speaks against.
    pub fn copy_what_fits(&self, bounds: Bounds) -> String {
        format!("{} ON CONFLICT DO NOTHING", self.copy_range(bounds))
    }

    /// The keys of a range whose rows the target should have and has not (binary, key order): the first so
    /// many, by the parameter behind the bounds.
    pub fn absent_in_range(&self, bounds: Bounds) -> String {
        let absent = format!(
            "NOT EXISTS (SELECT 1 FROM {} AS t WHERE {} = {})",
            self.target.root,
            row(self.target_key("t")),
            row(self.numbered("m"))
        );
        let key = self.source_key("s");
        format!(
            "SELECT {key} FROM {} AS s CROSS JOIN LATERAL (SELECT {}) AS m{} ORDER BY {key} LIMIT ${}",
            self.captured.scanned(),
            self.mapped_key(),
            where_all([self.source_range(&self.course(Kind::Verify), bounds, 0), Some(absent)]),
            bounds.sides() * self.key.len() + 1
        )
    }

    /// Locks those rows of a range that have no value in a column, and tells where they are: in which table (schema and
    /// name), at which places (one array, as text), how many. At most as many as the parameter behind the bounds
    /// says, and none that somebody else has locked.
    pub fn lock_unfilled_range(&self, bounds: Bounds, column: &str) -> String {
        let unfilled = Some(format!("s.{} IS NULL", quote_ident(column)));
        let from = format!("FROM {} AS s", self.captured.itself());
        let limit = format!(" LIMIT ${}", bounds.sides() * self.key.len() + 1);
        let rows = where_all([self.source_range(&self.course(Kind::Verify), bounds, 0), unfilled]);
        lock_places("", &format!("{from}{rows}{limit}"))
    }

    /// The same of those of the key set.
    pub fn lock_unfilled_keys(&self, column: &str) -> String {
        let keys = format!("k AS MATERIALIZED ({}), ", self.keys());
        let (rows, same) = (self.captured.itself(), self.same_key("s", "q"));
        let unfilled = format!("s.{} IS NULL", quote_ident(column));
        let rows = format!("FROM k AS q JOIN {rows} AS s ON {same} WHERE {unfilled}");
        lock_places(&keys, &rows)
    }

    /// Gives the rows at those places of `table`, the relation or a partition, the column's default: how many there
    /// were, and in how many it is NULL.
    pub fn fill(table: &QualifiedName, column: &str) -> String {
        let column = quote_ident(column);
        format!(
            "WITH filled AS (UPDATE ONLY {table} AS u SET {column} = DEFAULT \
               WHERE u.ctid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text::pg_catalog.tid[]) \
               RETURNING u.{column} IS NULL AS without) \
             SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE f.without) FROM filled AS f"
        )
    }

    /// How many rows have no value in a column.
    pub fn count_unfilled(&self, column: &str) -> String {
        let (rows, column) = (self.captured.itself(), quote_ident(column));
        format!("SELECT pg_catalog.count(*) FROM {rows} AS s WHERE s.{column} IS NULL")
    }

    /// The keys of the first so many rows that have no value in a column, in whatever order.
    pub fn unfilled(&self, column: &str) -> String {
        format!(
            "SELECT {} FROM {} AS s WHERE s.{} IS NULL LIMIT $1",
            self.source_key("s"),
            self.captured.itself(),
            quote_ident(column)
        )
    }

    /// The number of rows in a range of the copy.
    pub fn count_range(&self, bounds: Bounds) -> String {
        self.count(&self.captured.scanned(), bounds)
    }

    /// The number of keys in a range of the copy, also of rows that are not wanted.
    pub fn count_keys_in_range(&self, bounds: Bounds) -> String {
        self.count(&self.captured.keys_scanned(), bounds)
    }

    fn count(&self, from: &str, bounds: Bounds) -> String {
        let range = where_all([self.source_range(&self.course(Kind::Copy), bounds, 0)]);
        format!("SELECT pg_catalog.count(*) FROM {from} AS s{range}")
    }

    /// Places all over what a course goes along, about `$2` of them, in its order: of one row in so many of those in `$1`
    /// percent of the table's pages, whichever those are.
    pub fn sample_keys(&self, course: &Course) -> String {
        let key = in_order(course);
        let numbered: Vec<_> = course.columns.iter().enumerate().collect();
        let named: Vec<_> =
            numbered.iter().map(|(i, k)| format!("s.{} AS k{i}", quote_ident(&k.source))).collect();
        let picked: Vec<_> = numbered.iter().map(|(i, _)| format!("q.k{i}")).collect();
        format!(
            "SELECT {} FROM (SELECT {}, pg_catalog.row_number() OVER (ORDER BY {key}) AS n, \
             pg_catalog.count(*) OVER () AS rows FROM {} AS s TABLESAMPLE SYSTEM ($1)) AS q \
             WHERE q.n % GREATEST(q.rows / $2, 1) = 0 ORDER BY q.n",
            picked.join(", "),
            named.join(", "),
            self.captured.itself()
        )
    }

    /// The place behind so many rows of a range, where a chunk of it ends: parameters are the bounds, then the
    /// rows before it.
    pub fn bound_in_range(&self, course: &Course, bounds: Bounds) -> String {
        self.nth_in_range(&self.captured.keys_scanned(), course, bounds)
    }

    /// The same, of the rows that are wanted.
    pub fn key_in_range(&self, course: &Course, bounds: Bounds) -> String {
        self.nth_in_range(&self.captured.scanned(), course, bounds)
    }

    fn nth_in_range(&self, from: &str, course: &Course, bounds: Bounds) -> String {
        let key = named(&course.columns, "s").join(", ");
        format!(
            "SELECT {key} FROM {from} AS s{} ORDER BY {} OFFSET ${} LIMIT 1",
            where_all([self.source_range(course, bounds, 0)]),
            in_order(course),
            bounds.sides() * course.columns.len() + 1
        )
    }

    /// Reads one row by its key, all of it but what is stored out of line.
    pub fn probe(&self) -> String {
        let key: Vec<_> = (0..self.key.len())
            .map(|i| format!("${}::{}", i + 1, self.key[i].source_type_sql))
            .collect();
        format!(
            "SELECT pg_catalog.pg_column_size(s) FROM {} AS s WHERE {} = {}",
            self.captured.scanned(),
            row(self.key.iter().map(|k| format!("s.{}", quote_ident(&k.source))).collect()),
            row(key)
        )
    }

    /// How many places of the set are not behind the place of the parameters that follow.
    pub fn passed_keys(course: &Course) -> String {
        let columns = &course.columns;
        let place = columns.iter().enumerate();
        let place =
            place.map(|(i, c)| format!("${}::{}", columns.len() + i + 1, c.source_type_sql));
        format!(
            "SELECT pg_catalog.count(*) FROM ({}) AS k WHERE {} {} {}",
            set_of(columns),
            row(named(columns, "k")),
            if course.descending { ">=" } else { "<=" },
            row(place.collect())
        )
    }

    /// Bounds as text, for the state and for messages.
    pub fn bound_text(course: &Course) -> String {
        let items = course.columns.iter().enumerate();
        let items =
            items.map(|(i, c)| format!("(${}::{})::pg_catalog.text", i + 1, c.source_type_sql));
        format!("SELECT ARRAY[{}]", items.collect::<Vec<_>>().join(", "))
    }

    /// Removes the target's rows whose keys are in the set and no longer in the captured relation.
    pub fn sync_delete(&self) -> String {
        format!(
            "WITH k AS MATERIALIZED ({keys}), gone AS MATERIALIZED (SELECT {mapped} FROM k AS s \
             WHERE NOT EXISTS (SELECT 1 FROM {captured} AS c WHERE {same})) \
             DELETE FROM {root} AS t USING gone AS g WHERE {target_key} = {gone_key}",
            keys = self.keys(),
            mapped = self.mapped_key(),
            captured = self.captured.scanned(),
            same = self.same_key("c", "s"),
            root = self.target.root,
            target_key = row(self.target_key("t")),
            gone_key = row(self.numbered("g")),
        )
    }

    /// Removes every row of the target whose key the captured relation has not.
    pub fn delete_absent(&self) -> String {
        let mapped: Vec<_> = self
            .key
            .iter()
            .map(|k| match k.keeps_order {
                // As it is, so that an index finds it: between such types there is an operator.
                true => format!("s.{}", quote_ident(&k.source)),
                false => mapped(k),
            })
            .collect();
        format!(
            "DELETE FROM {} AS t WHERE NOT EXISTS (SELECT 1 FROM {} AS s WHERE {} = {})",
            self.target.root,
            self.captured.scanned(),
            row(mapped),
            row(self.target_key("t"))
        )
    }

    /// Whether the captured relation has any row.
    pub fn has_rows(&self) -> String {
        format!("SELECT EXISTS (SELECT 1 FROM {} AS s)", self.captured.scanned())
    }

    /// Writes the rows of the key set; rows already the same byte for byte are left alone, and so are the large
    /// values of others.
    pub fn sync_upsert(&self) -> String {
        let set: Vec<_> = self
            .written()
            .map(|p| format!("{} = {}", quote_ident(&p.column), changed_value(p)))
            .collect();
        format!(
            "{insert} ON CONFLICT ({key}) DO UPDATE SET {set} \
             WHERE ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record",
            insert = self.insert_keys(),
            key = self.target_key("").join(", "),
            set = set.join(", "),
            old = self.columns("t."),
            new = self.columns("EXCLUDED."),
        )
    }

    /// Removes the target's rows of the key set that are not, byte for byte, what the captured relation holds
    /// for their key: of a row that moved to another partition, the one it was.
    pub fn delete_stale(&self) -> String {
        let width = self.key.len();
        let named: Vec<_> =
            (0..width).map(|i| format!("s.{} AS s{i}", quote_ident(&self.key[i].source))).collect();
        let same: Vec<_> = (0..width)
            .map(|i| format!("s.{} = g.s{i}", quote_ident(&self.key[i].source)))
            .collect();
        let wanted: Vec<_> = self.written().map(|p| self.cast(p)).collect();
        format!(
            "WITH k AS MATERIALIZED ({keys}), m AS MATERIALIZED (SELECT {named}, {mapped} FROM k AS s) \
             DELETE FROM {root} AS t USING m AS g WHERE {target_key} = {key} AND NOT EXISTS (\
             SELECT 1 FROM {captured} AS s WHERE {same} \
             AND ROW({wanted})::record OPERATOR(pg_catalog.*=) ROW({is})::record)",
            keys = self.keys(),
            named = named.join(", "),
            mapped = self.mapped_key(),
            root = self.target.root,
            target_key = row(self.target_key("t")),
            key = row(self.numbered("g")),
            captured = self.captured.scanned(),
            same = same.join(" AND "),
            wanted = wanted.join(", "),
            is = self.columns("t."),
        )
    }

    /// Inserts the rows of the key set whose keys the target does not have.
    pub fn insert_missing(&self) -> String {
        let mapped: Vec<_> = self.key.iter().map(mapped).collect();
        format!(
            "{insert} WHERE NOT EXISTS (SELECT 1 FROM {root} AS o WHERE {target_key} = {mapped})",
            insert = self.insert_keys(),
            root = self.target.root,
            target_key = row(self.target_key("o")),
            mapped = row(mapped),
        )
    }

    /// The same of those that no unique index of the target speaks against.
    pub fn insert_missing_that_fit(&self) -> String {
        format!("{} ON CONFLICT DO NOTHING", self.insert_missing())
    }

    /// Removes every row of the key set from the target.
    pub fn delete_keys(&self) -> String {
        format!(
            "WITH k AS MATERIALIZED ({keys}), m AS MATERIALIZED (SELECT {mapped} FROM k AS s) \
             DELETE FROM {root} AS t USING m AS g WHERE {target_key} = {key}",
            keys = self.keys(),
            mapped = self.mapped_key(),
            root = self.target.root,
            target_key = row(self.target_key("t")),
            key = row(self.numbered("g")),
        )
    }

    /// Inserts every row of the key set that no unique index of the target speaks against; which
    /// those are, `missing_keys` tells.
    pub fn insert_what_fits(&self) -> String {
        format!("{} ON CONFLICT DO NOTHING", self.insert_keys())
    }

    /// The keys of the set whose rows the target should have and has not (binary, key order).
    pub fn missing_keys(&self) -> String {
        format!(
            "WITH k AS MATERIALIZED ({keys}) SELECT {key} FROM k AS q JOIN {captured} AS s \
             ON {same} CROSS JOIN LATERAL (SELECT {mapped}) AS m \
             WHERE NOT EXISTS (SELECT 1 FROM {root} AS t WHERE {target_key} = {mapped_key})",
            keys = self.keys(),
            key = self.source_key("s"),
            captured = self.captured.scanned(),
            same = self.same_key("s", "q"),
            mapped = self.mapped_key(),
            root = self.target.root,
            target_key = row(self.target_key("t")),
            mapped_key = row(self.numbered("m")),
        )
    }

    /// Inserts every row of the key set; none may be there.
    pub fn insert_keys(&self) -> String {
        format!(
            "WITH k AS MATERIALIZED ({keys}) INSERT INTO {root} AS t ({columns}) OVERRIDING SYSTEM VALUE \
             SELECT {expressions} FROM k AS q JOIN {captured} AS s ON {same}",
            keys = self.keys(),
            root = self.target.root,
            columns = self.columns(""),
            expressions = self.expressions(),
            captured = self.captured.scanned(),
            same = self.same_key("s", "q"),
        )
    }

    /// The columns that are written, each under `prefix`.
    fn columns(&self, prefix: &str) -> String {
        let columns: Vec<_> =
            self.written().map(|p| format!("{prefix}{}", quote_ident(&p.column))).collect();
        columns.join(", ")
    }

    fn expressions(&self) -> String {
        let all: Vec<_> = self.written().filter_map(|p| p.expression.as_deref()).collect();
        all.join(", ")
    }

    /// The columns that are not generated by the server.
    pub(super) fn written(&self) -> impl Iterator<Item = &Projected> {
        self.projection.iter().filter(|p| p.expression.is_some())
    }

    /// The key set in the parameters, each key once by the server's `=`.
    pub(super) fn keys(&self) -> String {
        set_of(&Course::of_key(&self.key).columns)
    }

    /// The captured key's columns under `alias`.
    pub(super) fn source_key(&self, alias: &str) -> String {
        let columns: Vec<_> =
            self.key.iter().map(|k| format!("{alias}.{}", quote_ident(&k.source))).collect();
        columns.join(", ")
    }

    /// The target's key columns under `alias`, or bare.
    pub(super) fn target_key(&self, alias: &str) -> Vec<String> {
        let dot = if alias.is_empty() { "" } else { "." };
        self.key.iter().map(|k| format!("{alias}{dot}{}", quote_ident(&k.target))).collect()
    }

    /// The captured key (alias `s`) as the target's key: columns `k1`, `k2`, ….
    pub(super) fn mapped_key(&self) -> String {
        let mapped: Vec<_> = self
            .key
            .iter()
            .enumerate()
            .map(|(i, k)| format!("{} AS k{}", mapped(k), i + 1))
            .collect();
        mapped.join(", ")
    }

    pub(super) fn numbered(&self, alias: &str) -> Vec<String> {
        (1..=self.key.len()).map(|i| format!("{alias}.k{i}")).collect()
    }

    pub(super) fn same_key(&self, a: &str, b: &str) -> String {
        let pairs: Vec<_> = self
            .key
            .iter()
            .map(|k| {
                let column = quote_ident(&k.source);
                format!("{a}.{column} = {b}.{column}")
            })
            .collect();
        pairs.join(" AND ")
    }

    /// The range over the captured relation's columns; its parameters start behind `skip` others.
    pub(super) fn source_range(
        &self,
        course: &Course,
        bounds: Bounds,
        skip: usize,
    ) -> Option<String> {
        let (after, until) = if course.descending { ("<", ">=") } else { (">", "<=") };
        let place = row(named(&course.columns, "s"));
        let types: Vec<_> = course.columns.iter().map(|c| c.source_type_sql.as_str()).collect();
        let bound = |from| {
            row(types
                .iter()
                .enumerate()
                .map(|(i, ty)| format!("${}::{ty}", from + i + 1))
                .collect())
        };
        range(&place, (after, until), types.len(), bounds, skip, bound)
    }

    /// The same range over the target's key (alias `t`); only where the mapping keeps the order.
    pub(super) fn target_range(&self, bounds: Bounds, skip: usize) -> Option<String> {
        let place = row(self.target_key("t"));
        let bound = |from: usize| {
            let values = self.key.iter().enumerate().map(|(i, k)| {
                format!("CAST(${}::{} AS {})", from + i + 1, k.source_type_sql, k.target_type_sql)
            });
            row(values.collect())
        };
        range(&place, (">", "<="), self.key.len(), bounds, skip, bound)
    }
}

/// `bound` says one bound, whose parameters start behind so many.
fn range(
    place: &str,
    (after, until): (&str, &str),
    width: usize,
    bounds: Bounds,
    skip: usize,
    bound: impl Fn(usize) -> String,
) -> Option<String> {
    let mut parts = Vec::new();
    if bounds.lower {
        parts.push(format!("{place} {after} {}", bound(skip)));
    }
    if bounds.upper {
        let from = skip + if bounds.lower { width } else { 0 };
        parts.push(format!("{place} {until} {}", bound(from)));
    }
    (!parts.is_empty()).then(|| parts.join(" AND "))
}

/// The columns under `alias`.
fn named(columns: &[CourseColumn], alias: &str) -> Vec<String> {
    columns.iter().map(|c| format!("{alias}.{}", quote_ident(&c.source))).collect()
}

/// What follows ORDER BY, of the captured row.
fn in_order(course: &Course) -> String {
    let down = if course.descending { " DESC" } else { "" };
    let columns = named(&course.columns, "s").into_iter().map(|column| format!("{column}{down}"));
    columns.collect::<Vec<_>>().join(", ")
}

/// The set in the parameters, each value once by the server's `=`.
fn set_of(columns: &[CourseColumn]) -> String {
    let names: Vec<_> = columns.iter().map(|k| quote_ident(&k.source)).collect();
    let arrays: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(i, k)| format!("pg_catalog.unnest(${}::{}[])", i + 1, k.source_type_sql))
        .collect();
    // Parameters have no collation, and it says which keys are one key.
    let values: Vec<_> = columns
        .iter()
        .zip(&names)
        .map(|(k, name)| match &k.source_collation {
            Some(collation) => format!("u.{name} COLLATE {collation} AS {name}"),
            None => format!("u.{name}"),
        })
        .collect();
    let (names, values) = (names.join(", "), values.join(", "));
    format!("SELECT DISTINCT {values} FROM ROWS FROM ({}) AS u({names})", arrays.join(", "))
}

/// What an upsert makes of a column. A large value that is the same stays where it is: the server keeps what the
/// old version of the row refers to (heap_toast_insert_or_update), and would write any other once more, whole.
fn changed_value(projected: &Projected) -> String {
    let column = quote_ident(&projected.column);
    if !projected.toasted {
        return format!("EXCLUDED.{column}");
    }
    format!(
        "CASE WHEN ROW(t.{column})::record OPERATOR(pg_catalog.*=) ROW(EXCLUDED.{column})::record \
         THEN t.{column} ELSE EXCLUDED.{column} END"
    )
}

/// The captured key's column (alias `s`) as the target's.
fn mapped(k: &KeyColumn) -> String {
    let cast = format!("CAST({} AS {})", k.expression, k.target_type_sql);
    collated(cast, k.target_collation.as_deref())
}

/// The value under that collation, whatever it would have.
pub(super) fn collated(value: String, collation: Option<&str>) -> String {
    match collation {
        Some(collation) => format!("({value} COLLATE {collation})"),
        None => value,
    }
}

/// A row value; a single column stays a plain value, which more plans know.
pub(super) fn row(parts: Vec<String>) -> String {
    match parts.as_slice() {
        [one] => one.clone(),
        _ => format!("({})", parts.join(", ")),
    }
}

/// `mine`: the rows that were locked; whoever updates them is the same transaction. Nobody renames their tables
/// meanwhile: those are locked too.
fn lock_places(with: &str, rows: &str) -> String {
    format!(
        "WITH {with}mine AS MATERIALIZED (SELECT s.tableoid AS t, s.ctid AS at {rows} FOR NO KEY UPDATE OF s SKIP LOCKED), \
         places AS MATERIALIZED (SELECT m.t, pg_catalog.array_agg(m.at)::pg_catalog.text AS at, pg_catalog.count(*) AS n \
           FROM mine AS m GROUP BY m.t) \
         SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, p.at, p.n FROM places AS p \
           JOIN pg_catalog.pg_class AS c ON c.oid = p.t JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    )
}

/// A WHERE clause of those conditions that are there.
pub(super) fn where_all(conditions: impl IntoIterator<Item = Option<String>>) -> String {
    let all: Vec<_> = conditions.into_iter().flatten().collect();
    if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
}
