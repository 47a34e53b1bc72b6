//! Random tables, as scripts of statements that each add one thing, so that a script stays one when
//! some of its statements are dropped.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Roles that scripts use; they are the cluster's.
pub const ROLES: &str = "CREATE ROLE g_owner; CREATE ROLE g_reader; CREATE ROLE \"g App\"";
const GRANTEES: [&str; 3] = ["g_reader", "\"g App\"", "PUBLIC"];

/// What a table is called: schema, name, and the name of the retired table.
const TABLES: [(&str, &str, &str); 4] = [
    ("public", "t", "t_old"),
    ("public", "\"order\"", "order_old"),
    ("\"Odd schema\"", "\"Tä\"\"ble\"", "\"Tä\"\"ble_old\""),
    ("\"Odd schema\"", "\"select\"", "select_old"),
];

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Class {
    Int,
    Text,
    Number,
    Range,
    Other,
}

pub struct Column {
    pub name: String,
    pub class: Class,
    /// It may be written.
    pub plain: bool,
}

/// A table that a script makes, and the script.
pub struct Case {
    pub table: String,
    pub retired: String,
    pub statements: Vec<String>,
}

/// The script of this seed.
pub fn case(seed: u64) -> Case {
    let mut random = StdRng::seed_from_u64(seed);
    let (schema, name, retired) = TABLES[random.random_range(0..TABLES.len())];
    let mut grammar = Grammar {
        random,
        table: format!("{schema}.{name}"),
        name,
        schema,
        key: Vec::new(),
        columns: Vec::new(),
        views: Vec::new(),
        statements: Vec::new(),
        names: 0,
    };
    grammar.script();
    let retired = format!("{schema}.{retired}");
    Case { table: grammar.table, retired, statements: grammar.statements }
}

pub struct Grammar {
    random: StdRng,
    pub table: String,
    pub name: &'static str,
    pub schema: &'static str,
    pub key: Vec<&'static str>,
    pub columns: Vec<Column>,
    pub views: Vec<String>,
    statements: Vec<String>,
    names: u32,
}

impl Grammar {
    pub fn add(&mut self, sql: impl Into<String>) {
        self.statements.push(sql.into());
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// A name that nothing has yet: plain, quoted, of other letters, or 63 bytes long.
    pub fn fresh(&mut self, kind: &str) -> String {
        self.names += 1;
        let n = self.names;
        match self.below(6) {
            0 => format!("\"{kind} \"\"{n}\"\"\""),
            1 => format!("\"{}{n}Ü\"", kind.to_uppercase()),
            2 => format!("\"{}\"", format!("{n}_{kind}_{}", "x".repeat(63)).split_at(63).0),
            _ => format!("{kind}{n}"),
        }
    }

    pub fn column_of(&mut self, class: Class) -> Option<String> {
        let of: Vec<String> =
            self.columns.iter().filter(|c| c.class == class).map(|c| c.name.clone()).collect();
        (!of.is_empty()).then(|| of[self.below(of.len())].clone())
    }

    /// A column of whole numbers: `g` if there is no other.
    pub fn int(&mut self) -> String {
        if self.chance(20) { "g".into() } else { self.column_of(Class::Int).unwrap_or("g".into()) }
    }

    pub fn grantee(&mut self) -> &'static str {
        self.pick(&GRANTEES)
    }

    pub fn comment(&mut self, on: &str) {
        if self.chance(30) {
            self.add(format!("COMMENT ON {on} IS 'it''s \\ {}'", on.replace('\'', "")));
        }
    }

    /// Each kind of thing a few times: columns and rows first, what may need or forbid them after that.
    fn script(&mut self) {
        self.base();
        self.times(2..7, Self::column);
        self.times(0..3, Self::foreign_key);
        self.times(1..5, Self::constraint);
        self.times(0..5, Self::index);
        self.times(0..4, Self::setting);
        self.times(0..3, Self::view);
        self.times(0..8, Self::hung);
        self.times(0..4, Self::privilege);
    }

    fn times(&mut self, range: std::ops::Range<u32>, one: fn(&mut Self)) {
        for _ in 0..self.random.random_range(range) {
            one(self);
        }
    }

    /// The table with its key and a number of each row, and what statements refer to.
    fn base(&mut self) {
        let t = self.table.clone();
        self.add(
            "CREATE SCHEMA \"Odd schema\"; GRANT ALL ON SCHEMA public, \"Odd schema\" TO g_owner; \
                  GRANT USAGE ON SCHEMA \"Odd schema\" TO PUBLIC",
        );
        self.add("CREATE TABLE parent (id int PRIMARY KEY, n int, UNIQUE (id, n)); INSERT INTO parent SELECT g, g FROM generate_series(0, 99) g");
        self.add("CREATE TABLE other (n bigint, what text)");
        self.add("CREATE FUNCTION tg() RETURNS trigger LANGUAGE plpgsql AS 'begin return coalesce(new, old); end'");
        let keys: [(&[&str], &str, &str); 6] = [
            (&["id"], "id int GENERATED BY DEFAULT AS IDENTITY", "g"),
            (&["id"], "id bigserial", "g"),
            (&["\"Id\""], "\"Id\" text COLLATE \"C\"", "'k' || g"),
            (&["id"], "id uuid", "md5(g::text)::uuid"),
            (&["a", "\"b c\""], "a int, \"b c\" varchar(30)", "g % 7, 'k' || g"),
            (&["id"], "id numeric", "g * 1.50"),
        ];
        let (key, columns, values) = keys[self.below(keys.len())];
        self.key = key.to_vec();
        let gone = if self.chance(40) { "gone int, " } else { "" };
        let list = key.join(", ");
        let include = if self.chance(20) { " INCLUDE (g)" } else { "" };
        self.add(format!(
            "CREATE TABLE {t} ({gone}{columns}, g int NOT NULL, CONSTRAINT \"The key\" PRIMARY KEY ({list}){include})"
        ));
        if !gone.is_empty() {
            self.add(format!("ALTER TABLE {t} DROP COLUMN gone"));
        }
        self.add(format!(
            "INSERT INTO {t} ({list}, g) SELECT {values}, g FROM generate_series(1, 300) g"
        ));
    }

    fn column(&mut self) {
        let t = self.table.clone();
        let name = self.column_name();
        let kinds: [(&str, Class, &str); 14] = [
            ("int", Class::Int, "g % 50"),
            ("bigint DEFAULT 7", Class::Int, "g % 90"),
            ("int CONSTRAINT {n} CHECK ({c} >= 0)", Class::Int, "nullif(g % 50, 3)"),
            ("text", Class::Text, "'x' || g"),
            ("varchar(40) COLLATE \"POSIX\" DEFAULT 'it''s'", Class::Text, "repeat('v', g % 30)"),
            ("text COLLATE \"C\"", Class::Text, "repeat(md5(g::text), g % 20)"),
            ("numeric(12, 3)", Class::Number, "g / 7.0"),
            ("double precision DEFAULT round(random())", Class::Number, "g * 0.1"),
            ("int4range", Class::Range, "int4range(g * 10, g * 10 + 5)"),
            ("jsonb DEFAULT '{}'", Class::Other, "jsonb_build_object('g', g)"),
            (
                "timestamptz(3) DEFAULT now()",
                Class::Other,
                "timestamptz '2024-01-01' + g * interval '1 h'",
            ),
            ("text[]", Class::Other, "ARRAY['a' || g, NULL]"),
            ("bytea", Class::Other, "decode(md5(g::text), 'hex')"),
            ("bool NOT NULL DEFAULT true", Class::Other, "g % 3 = 0"),
        ];
        match self.below(10) {
            0 => {
                self.add(format!("ALTER TABLE {t} ADD COLUMN {name} serial"));
                self.columns.push(Column { name: name.clone(), class: Class::Int, plain: false });
                let sequence = format!("pg_get_serial_sequence('{t}', '{}')", unquoted(&name));
                if self.chance(50) {
                    self.add(format!("DO $$ BEGIN EXECUTE format('ALTER SEQUENCE %s CYCLE CACHE 5 MAXVALUE 30000 INCREMENT 3', {sequence}); END $$"));
                }
                if self.chance(50) {
                    self.add(format!("DO $$ BEGIN EXECUTE format('ALTER TABLE other ALTER n SET DEFAULT nextval(%L)', {sequence}); END $$"));
                }
                if self.chance(30) {
                    self.add(format!("DO $$ BEGIN EXECUTE format('GRANT USAGE ON SEQUENCE %s TO g_reader WITH GRANT OPTION', {sequence}); END $$"));
                }
            }
            1 => {
                let kind = self.pick(&["ALWAYS", "BY DEFAULT"]);
                self.add(format!("ALTER TABLE {t} ADD COLUMN {name} bigint GENERATED {kind} AS IDENTITY (START 1000 INCREMENT 7 CACHE 3)"));
                self.columns.push(Column { name, class: Class::Int, plain: false });
            }
            2 => {
                self.add(format!(
                    "ALTER TABLE {t} ADD COLUMN {name} bigint GENERATED ALWAYS AS (g * 2) STORED"
                ));
                self.columns.push(Column { name, class: Class::Int, plain: false });
            }
            3 => {
                self.add(format!("ALTER TABLE {t} ADD COLUMN dropped{} text", self.names));
                self.add(format!("ALTER TABLE {t} DROP COLUMN dropped{}", self.names));
            }
            _ => {
                let (ty, class, value) = kinds[self.below(kinds.len())];
                let constraint = self.fresh("ok");
                let ty = ty.replace("{n}", &constraint).replace("{c}", &name);
                self.add(format!("ALTER TABLE {t} ADD COLUMN {name} {ty}"));
                self.comment(&format!("COLUMN {t}.{name}"));
                self.add(format!("UPDATE {t} SET {name} = {value}"));
                if self.chance(15) {
                    self.add(format!("ALTER TABLE {t} ALTER {name} SET STATISTICS 77"));
                }
                if class == Class::Text && self.chance(30) {
                    self.add(format!("ALTER TABLE {t} ALTER {name} SET STORAGE EXTERNAL, ALTER {name} SET (n_distinct = -0.3)"));
                }
                if class == Class::Text && self.chance(20) {
                    self.add(format!("ALTER TABLE {t} ALTER {name} SET COMPRESSION pglz"));
                }
                self.columns.push(Column { name, class, plain: true });
            }
        }
    }

    /// Now and then the table's own name.
    fn column_name(&mut self) -> String {
        let taken = self.columns.iter().any(|c| c.name == self.name);
        if !taken && self.chance(10) { self.name.to_owned() } else { self.fresh("c") }
    }
}

/// The name that quoted stands for.
pub fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}
