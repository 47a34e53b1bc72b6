//! What may hang on a random table.

use super::grammar::{Class, Grammar};

impl Grammar {
    pub fn constraint(&mut self) {
        let (t, name, int) = (self.table.clone(), self.fresh("k"), self.int());
        let deferrable = self.pick(&["", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
        let range = self.column_of(Class::Range);
        let definition = match self.below(7) {
            0 => format!("CHECK ({int} > -5 AND g < 100000) NO INHERIT"),
            1 => format!("CHECK ({int} > 1000000) NOT VALID"),
            2 => format!("UNIQUE ({}){deferrable}", distinct(&int)),
            3 => {
                format!("UNIQUE NULLS NOT DISTINCT ({}) INCLUDE ({})", distinct(&int), self.key[0])
            }
            4 => match range {
                Some(range) => format!("EXCLUDE USING gist ({range} WITH &&){deferrable}"),
                None => "EXCLUDE (g WITH =) WHERE (g > 5)".into(),
            },
            5 => format!("UNIQUE ({}) WITH (fillfactor = 70)", distinct(&int)),
            _ => format!("CHECK ({int} IS NULL OR {int} < 1000000)"),
        };
        self.add(format!("ALTER TABLE {t} ADD CONSTRAINT {name} {definition}"));
        self.comment(&format!("CONSTRAINT {name} ON {t}"));
    }

    pub fn index(&mut self) {
        let (t, name, int) = (self.table.clone(), self.fresh("i"), self.int());
        let text = self.column_of(Class::Text).unwrap_or("(g::text)".into());
        let order = self.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let definition = match self.below(9) {
            0 => format!("({int}{order}) WHERE g > 10"),
            1 => format!("(lower({text}), ({int} * 2){order}) INCLUDE (g)"),
            2 => format!("({text} COLLATE \"C\" text_pattern_ops{order}, g)"),
            3 => format!("USING brin ({int}) WITH (pages_per_range = 16)"),
            4 => format!("USING hash ({int})"),
            5 => format!("({int}) WITH (fillfactor = 60)"),
            6 => "USING brin (g int4_minmax_multi_ops (values_per_range = 16))".into(),
            // The same twice.
            7 => {
                let twin = self.fresh("i");
                self.add(format!("CREATE INDEX {twin} ON {t} ({int}{order})"));
                format!("({int}{order})")
            }
            _ => format!("({int}{order}, {text})"),
        };
        self.add(format!("CREATE INDEX {name} ON {t} {definition}"));
        self.comment(&format!("INDEX {}.{name}", self.schema));
        if definition.starts_with("(lower") && self.chance(60) {
            self.add(format!(
                "ALTER INDEX {}.{name} ALTER COLUMN 2 SET STATISTICS 99",
                self.schema
            ));
        }
        if !definition.contains("USING") && !definition.contains("WHERE") && self.chance(15) {
            self.add(format!("ALTER TABLE {t} CLUSTER ON {name}"));
        }
    }

    pub fn foreign_key(&mut self) {
        let (t, name) = (self.table.clone(), self.fresh("fk"));
        let key = self.key.join(", ");
        let action =
            self.pick(&["", " ON DELETE CASCADE", " ON UPDATE CASCADE ON DELETE SET NULL"]);
        let deferrable = self.pick(&["", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
        let valid = self.pick(&["", "", " NOT VALID"]);
        let (on, definition) = match self.below(4) {
            0 => {
                let column = self.fresh("f");
                self.add(format!("ALTER TABLE {t} ADD COLUMN {column} int"));
                self.add(format!("UPDATE {t} SET {column} = g % 100"));
                (t, format!("FOREIGN KEY ({column}) REFERENCES parent"))
            }
            1 => {
                let (a, b) = (self.fresh("f"), self.fresh("f"));
                self.add(format!("ALTER TABLE {t} ADD COLUMN {a} int, ADD COLUMN {b} int"));
                self.add(format!("UPDATE {t} SET {a} = g % 100, {b} = g % 100"));
                (t, format!("FOREIGN KEY ({a}, {b}) REFERENCES parent (id, n) MATCH FULL"))
            }
            2 => {
                let child = self.fresh("child");
                self.add(format!("CREATE TABLE {child} AS SELECT {key}, g FROM {t} WHERE g < 50"));
                (child, format!("FOREIGN KEY ({key}) REFERENCES {t}"))
            }
            _ => {
                let (up, unique) = (self.fresh("up"), self.fresh("u"));
                self.add(format!("ALTER TABLE {t} ADD COLUMN {up} int"));
                self.add(format!("UPDATE {t} SET {up} = g / 2 WHERE g > 1"));
                self.add(format!("ALTER TABLE {t} ADD CONSTRAINT {unique} UNIQUE (g)"));
                (t.clone(), format!("FOREIGN KEY ({up}) REFERENCES {t} (g)"))
            }
        };
        self.add(format!(
            "ALTER TABLE {on} ADD CONSTRAINT {name} {definition}{action}{deferrable}{valid}"
        ));
        self.comment(&format!("CONSTRAINT {name} ON {on}"));
    }

    pub fn setting(&mut self) {
        let t = self.table.clone();
        match self.below(8) {
            0 => self.add(format!(
                "ALTER TABLE {t} SET (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.1)"
            )),
            1 => {
                // Without such a column there is nowhere to put what is said of TOAST.
                let wide = self.fresh("wide");
                self.add(format!("ALTER TABLE {t} ADD COLUMN {wide} text"));
                self.add(format!("ALTER TABLE {t} SET (toast.autovacuum_enabled = false, toast_tuple_target = 3000)"));
            }
            2 => self.add(format!("ALTER TABLE {t} OWNER TO g_owner")),
            3 => self.add(format!("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY")),
            4 => self.add(format!(
                "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
            )),
            5 => {
                let name = self.fresh("ri");
                self.add(format!("CREATE UNIQUE INDEX {name} ON {t} (g)"));
                self.add(format!("ALTER TABLE {t} REPLICA IDENTITY USING INDEX {name}"));
            }
            6 => self.add(format!("COMMENT ON TABLE {t} IS 'the table'")),
            _ => self.add(format!("ALTER TABLE {t} CLUSTER ON \"The key\"")),
        }
    }

    pub fn view(&mut self) {
        let (t, name, int) = (self.table.clone(), self.fresh("v"), self.int());
        let schema = self.pick(&["public", "\"Odd schema\""]);
        let above = self.chance(50);
        let of = self.views.last().filter(|_| above).unwrap_or(&t).clone();
        let with = self.pick(&[
            "",
            "",
            " WITH (security_barrier = true)",
            " WITH (security_invoker = true)",
            " WITH (check_option = local)",
        ]);
        let view = format!("{schema}.{name}");
        let columns =
            if of == t { format!("g, {int} AS \"Of it\", {}", self.key[0]) } else { "*".into() };
        let query = match self.below(4) {
            0 if with.is_empty() => format!(
                "SELECT v.g, count(*) AS n, max(o.n) AS m FROM {of} v LEFT JOIN public.parent o ON o.id = v.g GROUP BY 1"
            ),
            1 if of == t => format!("SELECT * FROM {t}"),
            _ => format!("SELECT {columns} FROM {of} WHERE g > 3"),
        };
        self.add(format!("CREATE VIEW {view}{with} AS {query}"));
        self.comment(&format!("VIEW {view}"));
        self.comment(&format!("COLUMN {view}.g"));
        if self.chance(30) {
            let to = self.grantee();
            self.add(format!("GRANT SELECT ON {view} TO {to}"));
        }
        if self.chance(20) {
            self.add(format!("ALTER VIEW {view} OWNER TO g_owner"));
        }
        if self.chance(20) {
            let rule = self.fresh("r");
            self.add(format!("CREATE RULE {rule} AS ON DELETE TO {view} DO INSTEAD DELETE FROM {t} WHERE g = old.g"));
        }
        if self.chance(20) {
            let trigger = self.fresh("tg");
            self.add(format!("CREATE TRIGGER {trigger} INSTEAD OF UPDATE ON {view} FOR EACH ROW EXECUTE FUNCTION public.tg('x')"));
        }
        self.views.push(view);
    }

    /// Triggers, rules, policies, functions, statistics, publications.
    pub fn hung(&mut self) {
        let (t, int) = (self.table.clone(), self.int());
        let name = self.fresh("h");
        match self.below(11) {
            0 => {
                let when = self.pick(&["", "WHEN (OLD.* IS DISTINCT FROM NEW.*) ", "WHEN (NEW.g > 5) "]);
                self.add(format!("CREATE TRIGGER {name} AFTER UPDATE OF g ON {t} FOR EACH ROW {when}EXECUTE FUNCTION tg('a', 'it''s')"));
                let state = self.pick(&["DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA", "ENABLE"]);
                self.add(format!("ALTER TABLE {t} {state} TRIGGER {name}"));
                self.comment(&format!("TRIGGER {name} ON {t}"));
            }
            1 => self.add(format!("CREATE TRIGGER {name} AFTER UPDATE ON {t} REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tg()")),
            2 => self.add(format!("CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tg()")),
            3 => {
                self.add(format!("CREATE RULE {name} AS ON DELETE TO {t} WHERE old.{int} < 0 DO INSTEAD NOTHING"));
                self.comment(&format!("RULE {name} ON {t}"));
            }
            4 => self.add(format!("CREATE RULE {name} AS ON INSERT TO other DO ALSO SELECT count({int}) FROM {t}")),
            5 => {
                let kind = self.pick(&["", "AS RESTRICTIVE "]);
                let to = self.grantee();
                self.add(format!("CREATE POLICY {name} ON {t} {kind}FOR UPDATE TO {to} USING ({int} > 1) WITH CHECK (g > 2)"));
                self.comment(&format!("POLICY {name} ON {t}"));
            }
            6 => self.add(format!("CREATE POLICY {name} ON parent USING (EXISTS (SELECT 1 FROM {t} WHERE {t}.{int} = parent.id))")),
            7 => {
                self.add(format!("CREATE FUNCTION {name}(lower_than int DEFAULT 0) RETURNS bigint STABLE BEGIN ATOMIC SELECT count({int}) FROM {t} x WHERE x.g > lower_than; END"));
                self.comment(&format!("FUNCTION {name}"));
            }
            8 => {
                let schema = self.pick(&["public", "\"Odd schema\""]);
                let of = if int == "g" { "(g * 2)".to_owned() } else { int };
                self.add(format!("CREATE STATISTICS {schema}.{name} (mcv, ndistinct) ON g, {of} FROM {t}"));
                self.add(format!("ALTER STATISTICS {schema}.{name} SET STATISTICS 55"));
                self.comment(&format!("STATISTICS {schema}.{name}"));
            }
            9 => {
                let list = format!("g, {}", self.key.join(", "));
                let columns = if self.chance(50) { format!(" ({list})") } else { String::new() };
                let filter = if self.chance(50) { " WHERE (g > 3)" } else { "" };
                self.add(format!("CREATE PUBLICATION {name} FOR TABLE parent, {t}{columns}{filter} WITH (publish = 'insert')"));
                self.comment(&format!("PUBLICATION {name}"));
            }
            _ => {
                let sequence = format!("{}.{name}", self.schema);
                self.add(format!("CREATE SEQUENCE {sequence} AS int MINVALUE -3 START 7 CYCLE"));
                self.add(by_owner(&t, &format!("ALTER SEQUENCE {sequence} OWNER TO %s")));
                self.add(format!("ALTER SEQUENCE {sequence} OWNED BY {t}.g"));
            }
        }
    }

    pub fn privilege(&mut self) {
        let t = self.table.clone();
        let column = self.columns.iter().find(|c| c.plain).map_or("g".into(), |c| c.name.clone());
        let to = self.grantee();
        match self.below(5) {
            0 => self.add(format!("GRANT SELECT, UPDATE ON {t} TO {to}")),
            1 => self.add(format!("GRANT SELECT ({column}), UPDATE (g) ON {t} TO {to}")),
            2 => self.add(format!("GRANT SELECT ON {t} TO g_reader WITH GRANT OPTION; SET ROLE g_reader; GRANT SELECT ON {t} TO \"g App\"; RESET ROLE")),
            3 => self.add(format!("GRANT UPDATE ({column}) ON {t} TO g_reader WITH GRANT OPTION; SET ROLE g_reader; GRANT UPDATE ({column}) ON {t} TO \"g App\"; RESET ROLE")),
            _ => self.add(by_owner(&t, &format!("REVOKE DELETE ON {t} FROM %s"))),
        }
    }
}

/// A statement with the owner of the table, whoever that is by then.
fn by_owner(table: &str, statement: &str) -> String {
    format!(
        "DO $$ BEGIN EXECUTE format('{statement}', \
         (SELECT relowner::regrole FROM pg_class WHERE oid = '{table}'::regclass)); END $$"
    )
}

/// The column with another, so that no two rows have both.
fn distinct(column: &str) -> String {
    if column == "g" { "g".into() } else { format!("{column}, g") }
}
