//! The table, and statements over it that say what they did.

use std::collections::HashMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::ROWS;

/// How the table identifies its rows. A row is known to the sessions by its number.
#[derive(Clone, Copy)]
pub enum Shape {
    Int,
    Composite,
}

impl Shape {
    pub fn create(self) -> String {
        let key = match self {
            Shape::Int => "id int PRIMARY KEY",
            Shape::Composite => "region text COLLATE \"C\", id int, PRIMARY KEY (region, id)",
        };
        format!(
            "CREATE TABLE t ({key}, u int UNIQUE, tokens text, note text, big text, n int NOT NULL DEFAULT 0) WITH (fillfactor = 10);
             CREATE TABLE touched (number int, relation oid);
             INSERT INTO t ({columns}, u, tokens, note, big)
               SELECT {values}, i, 'i' || i, CASE WHEN i % 3 = 0 THEN 'note' END,
                 CASE WHEN i % 100 = 0 THEN (SELECT string_agg(md5(i || ' ' || n), '') FROM generate_series(1, 800) n) END
               FROM generate_series(1, {ROWS}) i;
             ALTER TABLE t RESET (fillfactor)",
            columns = self.columns(),
            values = self.values("i"),
        )
    }

    fn columns(self) -> &'static str {
        match self {
            Shape::Int => "id",
            Shape::Composite => "region, id",
        }
    }

    fn values(self, number: &str) -> String {
        match self {
            Shape::Int => number.to_owned(),
            Shape::Composite => format!("'region ' || {number} % 7, {number}"),
        }
    }

    /// The row of that number.
    pub fn is(self, number: u64) -> String {
        match self {
            Shape::Int => format!("id = {number}"),
            Shape::Composite => format!("region = 'region {}' AND id = {number}", number % 7),
        }
    }

    /// Gives the row another number.
    fn becomes(self, number: u64) -> String {
        match self {
            Shape::Int => format!("id = {number}"),
            Shape::Composite => format!("region = 'region {}', id = {number}", number % 7),
        }
    }
}

/// What the acknowledged transactions wrote: how often each token must be in the table.
pub type Expected = HashMap<String, i64>;

/// Statements that note in `touched` which rows of which relation they changed, and return what
/// that does to the tokens: `+` or `-`, tokens, how many rows.
pub struct Script {
    shape: Shape,
    sql: String,
}

impl Script {
    pub fn new(shape: Shape) -> Self {
        Script { shape, sql: String::new() }
    }

    pub fn raw(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self.sql.push(';');
        self
    }

    /// `change` has to be a statement without its RETURNING.
    pub fn noted(&mut self, change: &str, also: Option<u64>, result: &str) -> &mut Self {
        let also =
            also.map_or(String::new(), |n| format!(" UNION ALL SELECT {n}, tableoid FROM w"));
        self.raw(&format!(
            "WITH w AS ({change} RETURNING id, tableoid, tokens), \
             j AS (INSERT INTO touched SELECT id, tableoid FROM w{also}) {result}"
        ))
    }

    pub fn update(&mut self, number: u64, set: &str) -> &mut Self {
        let change = format!("UPDATE t SET {set} WHERE {}", self.shape.is(number));
        self.noted(&change, None, "SELECT '', '', 0 FROM w")
    }

    pub fn append(&mut self, number: u64, token: &str) -> &mut Self {
        let set = format!("tokens = concat_ws(' ', tokens, '{token}'), n = n + 1");
        let change = format!("UPDATE t SET {set} WHERE {}", self.shape.is(number));
        self.noted(&change, None, &format!("SELECT '+', '{token}', 1 FROM w"))
    }

    /// Appends a token that a rollback takes back.
    pub fn append_in_vain(&mut self, number: u64, token: &str) -> &mut Self {
        let set = format!("tokens = concat_ws(' ', tokens, '{token}')");
        self.update(number, &set)
    }

    pub fn insert(&mut self, number: u64, token: &str) -> &mut Self {
        let change = format!(
            "INSERT INTO t ({}, u, tokens) SELECT {}, {number}, '{token}' WHERE NOT EXISTS \
             (SELECT 1 FROM t WHERE u = {number})",
            self.shape.columns(),
            self.shape.values(&number.to_string())
        );
        self.noted(&change, None, &format!("SELECT '+', '{token}', 1 FROM w"))
    }

    pub fn delete(&mut self, number: u64) -> &mut Self {
        let change = format!("DELETE FROM t WHERE {}", self.shape.is(number));
        self.noted(&change, None, "SELECT '-', tokens, 1 FROM w")
    }

    /// Fails where the other number is taken.
    pub fn renumber(&mut self, number: u64, to: u64) -> &mut Self {
        let change =
            format!("UPDATE t SET {} WHERE {}", self.shape.becomes(to), self.shape.is(number));
        self.noted(&change, Some(number), "SELECT '', '', 0 FROM w")
    }

    /// Two rows exchange their unique values, by way of a value that nobody has.
    pub fn swap_unique(&mut self, a: u64, b: u64) -> &mut Self {
        let (first, second) = (self.shape.is(a), self.shape.is(b));
        let note = |is: &str| format!("INSERT INTO touched SELECT id, tableoid FROM t WHERE {is}");
        self.raw(&format!(
            "DO $$ DECLARE ua int; ub int; BEGIN \
               SELECT u INTO ua FROM t WHERE {first} FOR UPDATE; \
               SELECT u INTO ub FROM t WHERE {second} FOR UPDATE; \
               IF ua IS NULL OR ub IS NULL OR ua = ub THEN RETURN; END IF; \
               UPDATE t SET u = -ua WHERE {first}; UPDATE t SET u = ua WHERE {second}; \
               UPDATE t SET u = ub WHERE {first}; {}; {}; END $$",
            note(&first),
            note(&second)
        ))
    }

    /// Runs it in one transaction; None where it was refused and left nothing.
    pub async fn run(&self, client: &Client) -> Option<Vec<(String, String, i64)>> {
        let sql = format!("BEGIN; {} COMMIT", self.sql);
        let messages = match client.simple_query(&sql).await {
            Ok(messages) => messages,
            Err(e) => {
                client.batch_execute("ROLLBACK").await.unwrap();
                let code = e.code().unwrap_or_else(|| panic!("{e:?}")).code().to_owned();
                // Unique violation, deadlock: an application's own fault. Nothing else may happen.
                assert!(["23505", "40P01"].contains(&code.as_str()), "{e:?}: {sql}");
                return None;
            }
        };
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |i| row.get(i).unwrap_or_default().to_owned();
                Some((text(0), text(1), text(2).parse().unwrap()))
            }
            _ => None,
        });
        Some(rows.collect())
    }
}
