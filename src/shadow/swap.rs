//! The statements of the cutover that exchange the names and move what moves with them.

use std::collections::{HashMap, HashSet};

use super::create::not_valid_checks;
use super::{grant_statements, index_plans};
use crate::catalog::{Carried, Column, Sequence, Table};
use crate::pg::name::free_name;
use crate::pg::{QualifiedName, quote_ident};

/// The names of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub source: QualifiedName,
    pub shadow: QualifiedName,
    pub retired: QualifiedName,
}

impl Names {
    /// `orders` → `orders_v2` and `orders_old`, whatever is taken: preflight refuses collisions.
    pub fn of(source: &QualifiedName) -> Self {
        let derived = |suffix| source.sibling(crate::pg::name::derived_name(&source.name, suffix));
        Names { source: source.clone(), shadow: derived("_v2"), retired: derived("_old") }
    }
}

/// One swap, worked out beforehand as far as it can be.
pub struct Swap<'a> {
    pub names: &'a Names,
    /// The source as it is now.
    pub source: &'a Table,
    /// The future table as rehearsed.
    pub target: &'a Table,
    /// The shadow as it is now.
    pub shadow: &'a Table,
    /// What follows the source.
    pub carried: &'a [Carried],
    /// Names in use in the schema.
    pub taken: &'a HashSet<String>,
}

impl Swap<'_> {
    /// All statements in order. To be run as the owner, with every lock held.
    pub fn statements(&self) -> Vec<String> {
        let mut pool = self.taken.clone();
        let mut out = self.identity_sequences(&mut pool);
        out.extend(self.by_their_owners(|c| &c.unbind));
        out.extend(self.retire(&mut pool));
        out.extend(self.promote());
        out.extend(self.serial_sequences());
        out.extend(self.by_their_owners(|c| &c.bind));
        out
    }

    /// Statements of all that follows, each run by whom it belongs to; the table's owner again in the
    /// end.
    fn by_their_owners(&self, statements: impl Fn(&Carried) -> &[String]) -> Vec<String> {
        let role = |name: &str| format!("SET LOCAL ROLE {}", quote_ident(name));
        let mut out = Vec::new();
        let mut acting = &self.source.owner;
        for thing in self.carried {
            let own = statements(thing);
            if !own.is_empty() && acting != &thing.role {
                acting = &thing.role;
                out.push(role(acting));
            }
            out.extend_from_slice(own);
        }
        if acting != &self.source.owner {
            out.push(role(&self.source.owner));
        }
        out
    }

    /// The old sequence is renamed first: that locks it, so the position read after it is final and
    /// no value is handed out twice.
    fn identity_sequences(&self, pool: &mut HashSet<String>) -> Vec<String> {
        let mut out = Vec::new();
        for (old, new) in self.identity_pairs() {
            let old_name = QualifiedName::new(&old.schema, &old.name);
            let new_name = QualifiedName::new(&new.schema, &new.name);
            let retired = old_name.sibling(retired_name(&old.name, pool));
            out.push(format!("ALTER SEQUENCE {old_name} RENAME TO {}", quote_ident(&retired.name)));
            out.push(format!(
                "SELECT pg_catalog.setval({}::pg_catalog.regclass, s.last_value, s.is_called) FROM {retired} AS s",
                crate::pg::quote_literal(&new_name.to_string())
            ));
            out.push(format!("ALTER SEQUENCE {new_name} RENAME TO {}", quote_ident(&old.name)));
            out.extend(grant_statements(
                &format!("SEQUENCE {old_name}"),
                &self.source.owner,
                new.grants.as_deref(),
                old.grants.as_deref(),
            ));
        }
        out
    }

    fn identity_pairs(&self) -> Vec<(&Sequence, &Sequence)> {
        let old = self.source.sequences.iter().filter(|s| s.identity);
        old.filter_map(|old| {
            let column = self.surviving(old.attnum)?;
            let own = self.shadow.column_named(&column.name)?.attnum;
            let new = self.shadow.sequences.iter().find(|s| s.identity && s.attnum == own)?;
            Some((old, new))
        })
        .collect()
    }

    /// The target's column that comes from the source's column `attnum`.
    fn surviving(&self, attnum: i16) -> Option<&Column> {
        let position = self.source.columns.iter().position(|c| c.attnum == attnum)? as i16 + 1;
        self.target.columns.iter().find(|c| c.attnum == position)
    }

    fn retire(&self, pool: &mut HashSet<String>) -> Vec<String> {
        let names = self.names;
        let mut out = vec![rename_table(&names.source, &names.retired)];
        for index in &self.source.indexes {
            let old = retired_name(&index.name, pool);
            out.push(rename_index(&names.source.sibling(&index.name), &old));
        }
        // Writes that still reach the old table must fail loudly, not vanish.
        out.push(format!(
            "CREATE TRIGGER pgwraith_retired BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION pgwraith.refuse_write()",
            names.retired
        ));
        out
    }

    fn promote(&self) -> Vec<String> {
        let names = self.names;
        let mut out = vec![rename_table(&names.shadow, &names.source)];
        let temporary = temporary_names(self.target);
        for index in index_plans(self.target, &names.shadow, |n| temporary(n)) {
            out.push(rename_index(&names.source.sibling(&index.temporary), &index.name));
        }
        for column in self.target.columns.iter().filter(|c| c.identity == "a") {
            out.push(format!(
                "ALTER TABLE {} ALTER COLUMN {} SET GENERATED ALWAYS",
                names.source,
                quote_ident(&column.name)
            ));
        }
        out.extend(not_valid_checks(self.target, &names.source));
        out.extend(grant_statements(
            &format!("TABLE {}", names.source),
            &self.source.owner,
            self.shadow.grants.as_deref(),
            self.source.grants.as_deref(),
        ));
        out
    }

    /// A serial's sequence moves with its column, and widens with it.
    fn serial_sequences(&self) -> Vec<String> {
        let mut out = Vec::new();
        for sequence in self.source.sequences.iter().filter(|s| !s.identity) {
            let Some(column) = self.surviving(sequence.attnum) else { continue };
            let name = QualifiedName::new(&sequence.schema, &sequence.name);
            let owner = format!("{}.{}", self.names.source, quote_ident(&column.name));
            out.push(format!("ALTER SEQUENCE {name} OWNED BY {owner}"));
            let old_type = self.source.column(sequence.attnum).map(|c| c.type_sql.as_str());
            if sequence.type_sql != "bigint"
                && old_type == Some(sequence.type_sql.as_str())
                && column.type_sql == "bigint"
            {
                out.push(format!("ALTER SEQUENCE {name} AS pg_catalog.int8"));
            }
        }
        out
    }
}

/// What each index of the shadow is called until the swap; no two alike, also where names of 63
/// bytes are cut to the same beginning.
pub fn temporary_names(target: &Table) -> impl Fn(&str) -> String {
    let mut names: HashMap<String, String> = HashMap::new();
    for index in &target.indexes {
        let taken = |n: &str| {
            names.values().any(|used| used == n) || target.indexes.iter().any(|i| i.name == n)
        };
        let temporary = free_name(&index.name, "_v2", taken);
        names.insert(index.name.clone(), temporary);
    }
    move |name| names.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

fn retired_name(name: &str, pool: &mut HashSet<String>) -> String {
    let retired = free_name(name, "_old", |n| pool.contains(n));
    pool.insert(retired.clone());
    retired
}

fn rename_table(from: &QualifiedName, to: &QualifiedName) -> String {
    format!("ALTER TABLE {from} RENAME TO {}", quote_ident(&to.name))
}

fn rename_index(from: &QualifiedName, to: &str) -> String {
    format!("ALTER INDEX {from} RENAME TO {}", quote_ident(to))
}
