//! Random sequences of changes and writes, on a table that the tool migrates and on its twin that plain statements
//! change: equal after each step. The same writes reach both; those of the first are made while it is migrated.
//!
//! `PGWRAITH_MODEL_STEPS` says how many steps, `PGWRAITH_MODEL_SEED` which sequence.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::{self, Background};
use crate::scene::{Shop, shop};
use crate::twins;

const STEPS: u64 = 8;
const ROWS: u32 = 3_000;
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Int,
    Big,
    Text,
    Number,
}

impl Type {
    const ALL: [Type; 4] = [Type::Int, Type::Big, Type::Text, Type::Number];

    fn sql(self) -> &'static str {
        match self {
            Type::Int => "int",
            Type::Big => "bigint",
            Type::Text => "text",
            Type::Number => "numeric(12,3)",
        }
    }

    /// A value, from the row's `id`.
    fn value(self, n: u32) -> String {
        match self {
            Type::Int | Type::Big => format!("(id::bigint * {n} % 9973)::int"),
            Type::Text => format!("(id::bigint * {n} % 977)::text"),
            Type::Number => format!("(id::bigint * {n} % 99991)::numeric / 1000"),
        }
    }
}

struct Column {
    name: String,
    kind: Type,
    not_null: bool,
}

/// What is known of the table.
struct Model {
    random: StdRng,
    columns: Vec<Column>,
    /// Columns of the primary key besides `id`, and its name.
    key: Option<String>,
    /// Those of columns that were dropped too.
    checks: Vec<String>,
    names: u32,
    rows: u32,
    moves: u32,
}

impl Model {
    fn new(seed: u64) -> Self {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind, not_null: false };
        Model {
            random: StdRng::seed_from_u64(seed),
            columns: vec![column("a", Type::Int), column("b", Type::Text)],
            key: None,
            checks: Vec::new(),
            names: 0,
            rows: ROWS,
            moves: 0,
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn any(&mut self) -> usize {
        self.random.random_range(0..self.columns.len())
    }

    /// Clauses, and what becomes of the model by them.
    fn change(&mut self) -> String {
        loop {
            let n = self.any();
            let kind = self.random.random_range(0..9);
            let free = self.key.as_ref() != Some(&self.columns[n].name);
            match kind {
                0 => {
                    let (name, kind) = (self.name("c"), Type::ALL[self.random.random_range(0..4)]);
                    let not_null = self.random.random_bool(0.5);
                    let constant = if kind == Type::Text { "'x'" } else { "7" };
                    let given = if not_null { " NOT NULL" } else { "" };
                    let clause =
                        format!("ADD COLUMN {name} {}{given} DEFAULT {constant}", kind.sql());
                    self.columns.push(Column { name, kind, not_null });
                    return clause;
                }
                1 if free && self.columns.len() > 2 => {
                    return format!("DROP COLUMN {}", self.columns.remove(n).name);
                }
                2 => {
                    let to = self.name("r");
                    let from = std::mem::replace(&mut self.columns[n].name, to.clone());
                    if self.key.as_ref() == Some(&from) {
                        self.key = Some(to.clone());
                    }
                    return format!("RENAME COLUMN {from} TO {to}");
                }
                3 if free => {
                    let to = match self.columns[n].kind {
                        Type::Int => Type::Big,
                        Type::Big => Type::Number,
                        // A check compares numbers.
                        Type::Number if self.checks.is_empty() => Type::Text,
                        _ => continue,
                    };
                    self.columns[n].kind = to;
                    let name = &self.columns[n].name;
                    // A default of the old type need not fit.
                    return format!("ALTER {name} DROP DEFAULT, ALTER {name} TYPE {}", to.sql());
                }
                4 if self.columns[n].not_null && free => {
                    self.columns[n].not_null = false;
                    return format!("ALTER {} DROP NOT NULL", self.columns[n].name);
                }
                5 if self.columns[n].kind != Type::Text => {
                    let name = self.name("k");
                    let clause = format!(
                        "ADD CONSTRAINT {name} CHECK ({} IS NULL OR {0} <> -1)",
                        self.columns[n].name
                    );
                    self.checks.push(name);
                    return clause;
                }
                6 if !self.checks.is_empty() => {
                    let check = self.checks.remove(0);
                    return format!("DROP CONSTRAINT IF EXISTS {check}");
                }
                7 if self.key.is_none() && self.columns[n].not_null => {
                    let column = self.columns[n].name.clone();
                    self.key = Some(column.clone());
                    return format!(
                        "DROP CONSTRAINT pk, ADD CONSTRAINT pk PRIMARY KEY ({column}, id)"
                    );
                }
                8 if self.key.is_some() => {
                    self.key = None;
                    return "DROP CONSTRAINT pk, ADD CONSTRAINT pk PRIMARY KEY (id)".to_owned();
                }
                _ => {}
            }
        }
    }

    /// One statement on `{s}.t`.
    fn write(&mut self) -> String {
        let n = self.any();
        let (from, prime) =
            (self.random.random_range(0..self.rows), self.random.random_range(1..97));
        let some = format!("id BETWEEN {from} AND {}", from + self.random.random_range(0..40));
        let Column { name, kind, not_null } = &self.columns[n];
        match self.random.random_range(0..5) {
            0 => format!("DELETE FROM {{s}}.t WHERE {some}"),
            1 => {
                self.rows += 20;
                let filled = self.columns.iter().filter(|c| c.not_null);
                let (names, values): (Vec<String>, Vec<String>) = filled
                    .map(|c| (format!(", {}", c.name), format!(", {}", c.kind.value(prime))))
                    .unzip();
                format!(
                    "INSERT INTO {{s}}.t (id{}) SELECT id{} FROM generate_series({}, {}) id",
                    names.concat(),
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
            _ => format!("UPDATE {{s}}.t SET {name} = {} WHERE {some}", kind.value(prime)),
        }
    }
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// The writes of one step, to one of the two.
async fn write(shop: &Shop, schema: &str, all: &[String]) {
    for sql in all {
        shop.exec(&sql.replace("{s}", schema)).await;
    }
}

async fn step(shop: &Shop, model: &mut Model) -> String {
    let writes: Vec<String> = (0..120).map(|_| model.write()).collect();
    let clauses = model.change();
    let fixed = ["run", "ours.t", "-d", &shop.dsn, "--postpone-cutover", "--alter", &clauses];
    let small = ["--chunk-rows", "100", "--chunk-time", "3ms"];
    let mut run = Background::start(fixed.iter().chain(&small));
    write(shop, "ours", &writes).await;
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    harness::run(["cutover", "ours.t", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(LIMIT).await.expect_code(0);

    write(shop, "twin", &writes).await;
    shop.exec(&format!("ALTER TABLE twin.t {clauses}")).await;
    clauses
}

#[tokio::test]
async fn random_changes_and_writes_end_as_plain_ones_do() {
    let (seed, steps) = (setting("PGWRAITH_MODEL_SEED", 1), setting("PGWRAITH_MODEL_STEPS", STEPS));
    println!("PGWRAITH_MODEL_SEED={seed} PGWRAITH_MODEL_STEPS={steps}");
    let shop = shop().await;
    twins::twins(
        &shop,
        &format!(
            "CREATE SCHEMA {{s}}; CREATE TABLE {{s}}.t (id bigint CONSTRAINT pk PRIMARY KEY, a int, b text); \
             INSERT INTO {{s}}.t SELECT i, i % 100, 'b' || i FROM generate_series(1, {ROWS}) i; \
             CREATE INDEX t_a ON {{s}}.t (a)"
        ),
    )
    .await;
    let mut model = Model::new(seed);
    let mut done = Vec::new();
    for n in 1..=steps {
        done.push(step(&shop, &mut model).await);
        twins::same(&shop, &format!("step {n} of seed {seed}: {done:?}")).await;
        shop.exec("DROP TABLE ours.t_old").await;
    }
}
