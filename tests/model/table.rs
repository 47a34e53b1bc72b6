//! What is known of the table: its columns, its key, how its rows are divided.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// So many rows it begins with.
pub(super) const ROWS: u32 = 3_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Type {
    Int,
    Big,
    Text,
    Number,
}

impl Type {
    pub(super) const ALL: [Type; 4] = [Type::Int, Type::Big, Type::Text, Type::Number];

    pub(super) fn sql(self) -> &'static str {
        match self {
            Type::Int => "int",
            Type::Big => "bigint",
            Type::Text => "text",
            Type::Number => "numeric(12,3)",
        }
    }

    /// A value, from the row's `id`.
    pub(super) fn value(self, n: u32) -> String {
        match self {
            Type::Int | Type::Big => format!("(id::bigint * {n} % 9973)::int"),
            Type::Text => format!("(id::bigint * {n} % 977)::text"),
            Type::Number => format!("(id::bigint * {n} % 99991)::numeric / 1000"),
        }
    }
}

pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Type,
    pub(super) not_null: bool,
}

/// How rows are divided.
pub(super) struct Division {
    /// By this column.
    pub(super) by: String,
    /// Partitions have partitions.
    pub(super) deep: bool,
}

/// What is known of the table. `id` is unique by itself, whatever the key is.
pub(super) struct Model {
    pub(super) random: StdRng,
    /// Those that may be anything.
    pub(super) columns: Vec<Column>,
    /// A time and one of five words: what rows may be divided by besides `id`. They are never NULL, and may get
    /// other names.
    pub(super) at: String,
    pub(super) word: String,
    /// The columns of the primary key, `id` among them.
    pub(super) key: Vec<String>,
    pub(super) division: Option<Division>,
    /// Those of columns that were dropped too.
    pub(super) checks: Vec<String>,
    /// The column that has the index `t_a`, as long as it is there.
    pub(super) indexed: Option<String>,
    names: u32,
    rows: u32,
    moves: u32,
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind, not_null: false };
        Model {
            random: StdRng::seed_from_u64(seed),
            columns: vec![column("a", Type::Int), column("b", Type::Text)],
            at: "at".to_owned(),
            word: "word".to_owned(),
            key: vec!["id".to_owned()],
            division: None,
            checks: Vec::new(),
            indexed: Some("a".to_owned()),
            names: 0,
            rows: ROWS,
            moves: 0,
        }
    }

    /// Makes it in the schema `{s}`.
    pub(super) fn made() -> String {
        format!(
            "CREATE SCHEMA {{s}}; CREATE TABLE {{s}}.t (id bigint CONSTRAINT pk PRIMARY KEY, a int, b text, \
               at timestamptz NOT NULL, word text NOT NULL); \
             INSERT INTO {{s}}.t SELECT i, i % 100, 'b' || i, {}, {} FROM generate_series(1, {ROWS}) i; \
             CREATE INDEX t_a ON {{s}}.t (a); CREATE INDEX t_at ON {{s}}.t (at, id)",
            time("i", 1),
            word("i", 1)
        )
    }

    pub(super) fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    pub(super) fn any(&mut self) -> usize {
        self.random.random_range(0..self.columns.len())
    }

    pub(super) fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.random.random_ratio(of_a_hundred, 100)
    }

    /// It is neither in the key nor what rows are divided by.
    pub(super) fn is_free(&self, name: &str) -> bool {
        !self.key.iter().any(|column| column == name)
    }

    /// The greatest `id` there may be.
    pub(super) fn greatest(&self) -> u64 {
        u64::from(self.moves) * 1_000_000 + u64::from(self.rows)
    }

    /// One statement on the table in the schema `{s}`, of which `leaves` hold rows. A large part of them moves rows
    /// between partitions and changes keys.
    pub(super) fn write(&mut self, leaves: &[String]) -> String {
        let n = self.any();
        let (from, prime) =
            (self.random.random_range(0..self.rows), self.random.random_range(1..97));
        let some = format!("id BETWEEN {from} AND {}", from + self.random.random_range(0..40));
        let kind = self.random.random_range(0..8);
        let Column { name, kind: of_type, not_null } = &self.columns[n];
        match kind {
            0 => format!("DELETE FROM {{s}}.t WHERE {some}"),
            1 => {
                self.rows += 20;
                let filled = self.columns.iter().filter(|c| c.not_null);
                let (names, values): (Vec<String>, Vec<String>) = filled
                    .map(|c| (format!(", {}", c.name), format!(", {}", c.kind.value(prime))))
                    .unzip();
                format!(
                    "INSERT INTO {{s}}.t (id, {}, {}{}) SELECT id, {}, {}{} FROM generate_series({}, {}) id",
                    self.at,
                    self.word,
                    names.concat(),
                    time("id", prime),
                    word("id", prime),
                    values.concat(),
                    self.rows - 19,
                    self.rows
                )
            }
            2 if !not_null => format!("UPDATE {{s}}.t SET {name} = NULL WHERE {some}"),
            3 => {
                // To where no row is.
                self.moves += 1;
                format!("UPDATE {{s}}.t SET id = id + {}000000 WHERE {some}", self.moves)
            }
            4 => format!("UPDATE {{s}}.t SET {} = {} WHERE {some}", self.at, time("id", prime)),
            5 => format!("UPDATE {{s}}.t SET {} = {} WHERE {some}", self.word, word("id", prime)),
            // By a partition's own name.
            6 if !leaves.is_empty() && !self.key.contains(name) => {
                let leaf = &leaves[self.random.random_range(0..leaves.len())];
                format!("UPDATE {{s}}.{leaf} SET {name} = {} WHERE {some}", of_type.value(prime))
            }
            _ => format!("UPDATE {{s}}.t SET {name} = {} WHERE {some}", of_type.value(prime)),
        }
    }
}

/// A time within a year, from the column `id`.
pub(super) fn time(id: &str, n: u32) -> String {
    format!("timestamptz '2026-01-01 00:00:00+00' + {id}::bigint * {n} % 8760 * interval '1 hour'")
}

/// One of five words.
fn word(id: &str, n: u32) -> String {
    format!("'w' || {id}::bigint * {n} % 5")
}
