//! Comparing both sides byte for byte, inside the server.
//!
//! A row's hash is 64 bits over its columns: types whose equal values have equal bytes go in as
//! they are, all others as what `record_send` makes of them, since they compare and hash alike
//! where they differ (numeric scale, -0, citext). `hash_record_extended` combines its columns
//! linearly, so a sum of such hashes would not notice two rows that exchanged a value: the row's
//! hash is hashed again, as bytes, before it is summed.

use super::Flow;
use super::chunk::Kind;
use super::sql::{Bounds, collated, row, where_all};
use crate::change::Projected;
use crate::pg::quote_ident;

/// FROM clauses of what is compared.
struct Sides {
    /// A WITH clause for key sets, or nothing.
    keys: String,
    captured: String,
    root: String,
}

impl Flow {
    /// `(rows, hash sum)` of the captured side and of the target, over a range and without a set of
    /// keys; and of each partition of the target, where it has some, as three arrays: names, rows, sums.
    /// Parameters: the key set's arrays if `except`, then the bounds.
    pub fn checksums(&self, bounds: Bounds, except: bool) -> String {
        let Sides { keys, captured, root } = self.sides(bounds, except);
        let target_hash = self.hash(|p| format!("t.{}", quote_ident(&p.column)));
        let target = match self.target.is_partitioned() {
            false => format!(
                "(SELECT pg_catalog.count(*) AS n, COALESCE(pg_catalog.sum({target_hash}), 0) AS h {root})"
            ),
            true => format!(
                "(SELECT COALESCE(pg_catalog.sum(p.n), 0)::pg_catalog.int8 AS n, COALESCE(pg_catalog.sum(p.h), 0) AS h, \
                 pg_catalog.array_agg(p.name) AS names, pg_catalog.array_agg(p.n) AS counts, \
                 pg_catalog.array_agg(p.h::pg_catalog.text) AS sums FROM (SELECT (SELECT c.relname::pg_catalog.text \
                   FROM pg_catalog.pg_class c WHERE c.oid = r.tableoid) AS name, r.n, r.h FROM (\
                   SELECT t.tableoid, pg_catalog.count(*) AS n, pg_catalog.sum({target_hash}) AS h {root} \
                   GROUP BY t.tableoid) AS r) AS p)"
            ),
        };
        let parts = match self.target.is_partitioned() {
            false => "",
            true => ", b.names, b.counts, b.sums",
        };
        format!(
            "{keys}SELECT a.n, a.h::pg_catalog.text, b.n, b.h::pg_catalog.text{parts} FROM \
             (SELECT pg_catalog.count(*) AS n, COALESCE(pg_catalog.sum({source_hash}), 0) AS h {captured}) AS a, \
             {target} AS b",
            source_hash = self.hash(|p| self.cast(p)),
        )
    }

    /// The rows of a range that differ, without a set of keys. Parameters as for `checksums`.
    pub fn differing_rows(&self, bounds: Bounds, except: bool) -> String {
        let sides = self.sides(bounds, except);
        self.differences(&sides)
    }

    /// Both sides of a range, without a set of keys.
    fn sides(&self, bounds: Bounds, except: bool) -> Sides {
        let skip = if except { self.key.len() } else { 0 };
        let not_in_k = except
            .then(|| format!("NOT EXISTS (SELECT 1 FROM k WHERE {})", self.same_key("k", "s")));
        let not_in_m = except
            .then(|| format!("NOT EXISTS (SELECT 1 FROM m WHERE {})", self.target_is_mapped("m")));
        let source =
            where_all([self.source_range(&self.course(Kind::Verify), bounds, skip), not_in_k]);
        let target = where_all([self.target_range(bounds, skip), not_in_m]);
        Sides {
            keys: if except { self.key_set() } else { String::new() },
            captured: format!("FROM {} AS s{source}", self.captured.scanned()),
            root: format!("FROM {} AS t{target}", self.target.root),
        }
    }

    /// The key set as captured (`k`) and as the target's key (`m`).
    fn key_set(&self) -> String {
        format!(
            "WITH k AS MATERIALIZED ({}), m AS MATERIALIZED (SELECT {} FROM k AS s) ",
            self.keys(),
            self.mapped_key()
        )
    }

    /// The rows of a set of keys that differ. Parameters: the key set's arrays.
    pub fn differing_keys(&self) -> String {
        let same = self.same_key("s", "k");
        self.differences(&Sides {
            keys: self.key_set(),
            captured: format!("FROM k JOIN {} AS s ON {same}", self.captured.scanned()),
            root: format!(
                "FROM m JOIN {} AS t ON {}",
                self.target.root,
                self.target_is_mapped("m")
            ),
        })
    }

    /// Columns of each result row: the captured key's columns (binary), the key as text, whether it
    /// is missing from the target, whether it is there alone, the columns that differ.
    fn differences(&self, sides: &Sides) -> String {
        let Sides { keys, captured, root } = sides;
        let columns: Vec<&Projected> = self.written().collect();
        let select = |value: &dyn Fn(&Projected) -> String| {
            let items: Vec<_> =
                columns.iter().enumerate().map(|(i, p)| format!("{} AS c{i}", value(p))).collect();
            items.join(", ")
        };
        let source = select(&|p| self.cast(p));
        let target = select(&|p| format!("t.{}", quote_ident(&p.column)));
        let at =
            |k: usize| columns.iter().position(|p| p.column == self.key[k].target).unwrap_or(k);
        let width = self.key.len();
        let join: Vec<_> = (0..width).map(|k| format!("a.c{0} = b.c{0}", at(k))).collect();
        // An extra row's key goes back the way it came; where it does not fit, the cast says so.
        let key: Vec<_> = (0..width)
            .map(|k| {
                let c = at(k);
                let ty = &self.key[k].source_type_sql;
                format!("COALESCE(a.s{k}, CAST(b.c{c} AS {ty}))")
            })
            .collect();
        let text: Vec<_> = (0..width)
            .map(|k| format!("COALESCE(a.s{k}::pg_catalog.text, b.c{}::pg_catalog.text)", at(k)))
            .collect();
        let source_key: Vec<_> = self
            .key
            .iter()
            .enumerate()
            .map(|(k, c)| format!("s.{} AS s{k}", quote_ident(&c.source)))
            .collect();
        let all = |side: &str| {
            let items: Vec<_> = (0..columns.len()).map(|i| format!("{side}.c{i}")).collect();
            items.join(", ")
        };
        let differing: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let name = crate::pg::quote_literal(&p.column);
                format!("CASE WHEN ROW(a.c{i})::record OPERATOR(pg_catalog.*<>) ROW(b.c{i})::record THEN {name} END")
            })
            .collect();
        format!(
            "{keys}SELECT {key}, ARRAY[{text}]::pg_catalog.text[], b.there IS NULL, a.there IS NULL, \
             pg_catalog.array_remove(ARRAY[{differing}]::pg_catalog.text[], NULL) FROM \
             (SELECT true AS there, {source_key}, {source} {captured}) AS a FULL JOIN \
             (SELECT true AS there, {target} {root}) AS b ON {join} \
             WHERE a.there IS NULL OR b.there IS NULL \
             OR ROW({left})::record OPERATOR(pg_catalog.*<>) ROW({right})::record LIMIT 1000",
            key = key.join(", "),
            text = text.join(", "),
            differing = differing.join(", "),
            source_key = source_key.join(", "),
            join = join.join(" AND "),
            left = all("a"),
            right = all("b"),
        )
    }

    /// The projected value as the target's type, as the assignment made it.
    pub(super) fn cast(&self, p: &Projected) -> String {
        let cast = format!("CAST({} AS {})", p.expression.as_deref().unwrap_or("NULL"), p.type_sql);
        collated(cast, p.collation.as_deref())
    }

    fn hash(&self, value: impl Fn(&Projected) -> String) -> String {
        let (exact, other): (Vec<_>, Vec<_>) = self.written().partition(|p| p.canonical);
        let mut parts: Vec<String> = exact.into_iter().map(&value).collect();
        if !other.is_empty() {
            let other: Vec<_> = other.into_iter().map(&value).collect();
            parts.push(format!("pg_catalog.record_send(ROW({}))", other.join(", ")));
        }
        format!(
            "pg_catalog.hash_record_extended(ROW(pg_catalog.int8send(\
             pg_catalog.hash_record_extended(ROW({}), 0))), 0)",
            parts.join(", ")
        )
    }

    fn target_is_mapped(&self, mapped: &str) -> String {
        format!("{} = {}", row(self.target_key("t")), row(self.numbered(mapped)))
    }
}
