//! The changes: what the tool is told, and what becomes of the model by it.

use rand::RngExt;

use super::table::{Column, Division, Model, Type};
use super::twin::Twin;
use crate::harness::ANY_WAY;

/// One change.
pub(super) struct Change {
    /// Of the command line.
    pub(super) arguments: Vec<String>,
    /// The text for `--shadow-ddl`.
    pub(super) file: Option<String>,
    /// It is made in the table itself, and cannot be put off.
    pub(super) in_place: bool,
    /// What makes the same of the twin.
    pub(super) twin: Twin,
}

impl Change {
    fn new(arguments: &[&str], twin: Twin) -> Change {
        let arguments = arguments.iter().map(|s| (*s).to_owned()).collect();
        Change { arguments, file: None, in_place: false, twin }
    }

    fn altered(clauses: &str) -> Change {
        let twin = Twin::Altered(format!("ALTER TABLE twin.t {clauses}"));
        Change::new(&["--alter", clauses], twin)
    }

    pub(super) fn told(&self) -> String {
        format!("{:?}{}", self.arguments, self.file.as_deref().unwrap_or_default())
    }
}

impl Model {
    /// A change, of the model too.
    pub(super) fn change(&mut self) -> Change {
        loop {
            let (divided, deep) =
                (self.division.is_some(), self.division.as_ref().is_some_and(|d| d.deep));
            let kind = self.random.random_range(0..14);
            match kind {
                0..=2 if !deep => return Change::altered(&self.clauses()),
                3 if !divided => return self.in_place(),
                4 if !deep => return self.fewer_rows(),
                5 if !deep => return self.filled(),
                6 if !divided => {
                    let change = ["--rebuild", "--order-by", "t_at"];
                    return Change::new(&change, Twin::Altered(String::new()));
                }
                7 if !deep => return Change::altered(&self.another_key()),
                8..=10 => return self.divided(),
                11 if divided => {
                    self.division = None;
                    let twin = Twin::Anew { first: vec![], key: self.key.clone(), by: None };
                    return Change::new(&["--partition-by", "none"], twin);
                }
                12 => return self.by_file(),
                13 if !divided => {
                    let n = self.any();
                    let first = vec![self.columns[n].name.clone(), self.at.clone()];
                    let order = first.join(", ");
                    let twin = Twin::Anew { first, key: self.key.clone(), by: None };
                    return Change::new(&["--column-order", &order], twin);
                }
                _ => {}
            }
        }
    }

    /// What would follow ALTER TABLE.
    fn clauses(&mut self) -> String {
        loop {
            let n = self.any();
            let kind = self.random.random_range(0..8);
            let free = self.is_free(&self.columns[n].name);
            match kind {
                0 => {
                    let (name, kind) = (self.name("c"), Type::ALL[self.random.random_range(0..4)]);
                    let not_null = self.chance(50);
                    let constant = if kind == Type::Text { "'x'" } else { "7" };
                    let given = if not_null { " NOT NULL" } else { "" };
                    let clause =
                        format!("ADD COLUMN {name} {}{given} DEFAULT {constant}", kind.sql());
                    self.columns.push(Column { name, kind, not_null });
                    return clause;
                }
                1 if free && self.columns.len() > 2 => {
                    let gone = self.columns.remove(n).name;
                    self.indexed.take_if(|column| *column == gone);
                    return format!("DROP COLUMN {gone}");
                }
                2 => return self.renamed(n),
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
                5 if self.columns[n].kind != Type::Text => return self.check(n),
                6 if !self.checks.is_empty() => {
                    let check = self.checks.remove(0);
                    return format!("DROP CONSTRAINT IF EXISTS {check}");
                }
                _ => {}
            }
        }
    }

    /// Another name for a column: for the `n`th, or one of those that rows may be divided by.
    fn renamed(&mut self, n: usize) -> String {
        let to = self.name("r");
        let from = match self.random.random_range(0..4) {
            0 => std::mem::replace(&mut self.at, to.clone()),
            1 => std::mem::replace(&mut self.word, to.clone()),
            _ => std::mem::replace(&mut self.columns[n].name, to.clone()),
        };
        let by = self.division.as_mut().map(|division| &mut division.by);
        let others = self.key.iter_mut().chain(self.indexed.as_mut()).chain(by);
        for name in others.filter(|name| **name == from) {
            *name = to.clone();
        }
        format!("RENAME COLUMN {from} TO {to}")
    }

    fn check(&mut self, n: usize) -> String {
        let name = self.name("k");
        let column = &self.columns[n].name;
        let clause = format!("ADD CONSTRAINT {name} CHECK ({column} IS NULL OR {column} <> -1)");
        self.checks.push(name);
        clause
    }

    /// Steps that read all rows, or fill them.
    fn in_place(&mut self) -> Change {
        let numbers = self.columns.iter().position(|column| column.kind != Type::Text);
        let mut clauses = Vec::new();
        if let Some(n) = numbers.filter(|_| self.chance(60)) {
            clauses.push(self.check(n));
        }
        if clauses.is_empty() || self.chance(60) {
            let (name, not_null) = (self.name("c"), self.chance(50));
            let given = if not_null { " NOT NULL" } else { "" };
            // Volatile by its word alone, so that both have the same values.
            clauses.push(format!("ADD COLUMN {name} int{given} DEFAULT public.seven()"));
            self.columns.push(Column { name, kind: Type::Int, not_null });
        }
        let clauses = clauses.join(", ");
        let twin = Twin::Altered(format!("ALTER TABLE twin.t {clauses}"));
        let change = Change::new(&["--in-place", "--alter", &clauses, ANY_WAY], twin);
        Change { in_place: true, ..change }
    }

    fn fewer_rows(&mut self) -> Change {
        let n = self.any();
        let Column { name, kind, .. } = &self.columns[n];
        let condition = match (self.random.random_range(0..4), kind) {
            (0, _) => format!("{} > '2026-01-20 00:00:00+00'", self.at),
            (1, _) => format!("{} <> 'w3' OR id % 2 = 0", self.word),
            (2, Type::Int | Type::Big) => format!("{name} IS NULL OR {name} % 11 <> 3"),
            _ => "id % 13 <> 5".to_owned(),
        };
        let gone = format!("DELETE FROM twin.t WHERE ({condition}) IS NOT TRUE");
        Change::new(&["--where", &condition, "--yes"], Twin::Altered(gone))
    }

    /// A new column, or one that is there, gets what an expression gives.
    fn filled(&mut self) -> Change {
        let prime = self.random.random_range(2..97);
        let n = self.any();
        let Column { name, kind, .. } = &self.columns[n];
        if self.is_free(name) && self.random.random_ratio(1, 2) {
            let (map, set) = (format!("{name} = {}", kind.value(prime)), name.clone());
            let twin = format!("UPDATE twin.t SET {set} = {}", kind.value(prime));
            return Change::new(&["--map", &map], Twin::Altered(twin));
        }
        let new = self.name("m");
        let value = format!("{} || '/' || id", self.word);
        let alter = format!("ADD COLUMN {new} text");
        let map = format!("{new} = {value}");
        let twin = format!("ALTER TABLE twin.t {alter}; UPDATE twin.t SET {new} = {value}");
        self.columns.push(Column { name: new, kind: Type::Text, not_null: false });
        Change::new(&["--alter", &alter, "--map", &map], Twin::Altered(twin))
    }

    /// Another primary key that has what rows are divided by.
    fn another_key(&mut self) -> String {
        let by = self.division.as_ref().map(|division| division.by.clone());
        self.key_with(by.as_deref());
        format!("DROP CONSTRAINT pk, ADD CONSTRAINT pk PRIMARY KEY ({})", self.key.join(", "))
    }

    /// Of `id`, this column and perhaps another, in whatever order.
    fn key_with(&mut self, by: Option<&str>) {
        let mut key = vec!["id".to_owned()];
        key.extend(by.filter(|by| *by != "id").map(str::to_owned));
        let n = self.any();
        if self.columns[n].not_null && self.chance(40) {
            key.push(self.columns[n].name.clone());
        }
        if self.chance(30) && !key.contains(&self.word) {
            key.push(self.word.clone());
        }
        let turned = self.random.random_range(0..key.len());
        key.rotate_left(turned);
        self.key = key;
    }

    /// By flags.
    fn divided(&mut self) -> Change {
        let (by, flags): (String, Vec<String>) = match self.random.random_range(0..4) {
            0 => (self.at.clone(), vec!["--partition-every".to_owned(), "3 months".to_owned()]),
            1 => {
                let every = (self.greatest() / 6 + 1).to_string();
                ("id".to_owned(), vec!["--partition-every".to_owned(), every])
            }
            2 => (self.word.clone(), vec![]),
            _ => ("id".to_owned(), vec!["--partitions".to_owned(), "3".to_owned()]),
        };
        let method = match flags.first().map(String::as_str) {
            Some("--partition-every") => format!("RANGE ({by})"),
            Some(_) => format!("HASH ({by})"),
            None => format!("LIST ({by})"),
        };
        let mut arguments = vec!["--partition-by".to_owned(), method.clone()];
        arguments.extend(flags);
        if !self.key.contains(&by) {
            self.key_with(Some(&by));
            let key = self.key.join(", ");
            arguments.push("--alter".to_owned());
            arguments.push(format!("DROP CONSTRAINT pk, ADD CONSTRAINT pk PRIMARY KEY ({key})"));
        }
        self.division = Some(Division { by, deep: false });
        let twin = Twin::Anew { first: vec![], key: self.key.clone(), by: Some(method) };
        Change { arguments, file: None, in_place: false, twin }
    }

    /// By a file: an ordinary table, or one whose partitions have partitions. Its columns are in another order.
    fn by_file(&mut self) -> Change {
        let deep = self.chance(60);
        let shift = self.random.random_range(0..self.columns.len());
        self.columns.rotate_left(shift);
        let at = self.at.clone();
        self.key_with(deep.then_some(&*at));
        self.checks.clear();
        let column = |c: &Column| {
            let not_null = if c.not_null { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", c.name, c.kind.sql())
        };
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        let mut file = format!(
            "CREATE TABLE {{shadow}} ({at} timestamptz NOT NULL, {}, id bigint NOT NULL, {} text NOT NULL, \
             CONSTRAINT pk PRIMARY KEY ({}))",
            columns.join(", "),
            self.word,
            self.key.join(", ")
        );
        if deep {
            // Their names are final from the beginning, so those that are there cannot be had.
            let early = format!("{{shadow}}_{}", self.name("e"));
            file += &format!(
                " PARTITION BY RANGE ({at});
                 CREATE TABLE {early} PARTITION OF {{shadow}} FOR VALUES FROM (MINVALUE) TO ('2026-06-01 00:00:00+00')
                   PARTITION BY HASH (id);
                 CREATE TABLE {early}_0 PARTITION OF {early} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE {early}_1 PARTITION OF {early} FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                 CREATE TABLE {early}_rest PARTITION OF {{shadow}} DEFAULT"
            );
        }
        if let Some(column) = &self.indexed {
            file += &format!("; CREATE INDEX t_a ON {{shadow}} ({column})");
        }
        file += &format!("; CREATE INDEX t_at ON {{shadow}} ({at}, id)");
        self.division = deep.then(|| Division { by: at.clone(), deep });
        let mut names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        names.extend(["id".to_owned(), at, self.word.clone()]);
        let twin = Twin::ByFile { file: file.clone(), columns: names.join(", ") };
        Change { arguments: Vec::new(), file: Some(file), in_place: false, twin }
    }
}
