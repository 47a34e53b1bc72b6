//! The statements of the cutover that exchange the names and move what moves with them.

use std::collections::{HashMap, HashSet};

use super::create::{added_later, not_valid_constraints, sequence_options};
use super::settings::comment;
use super::{Privileges, Renamed, Step, foreign_keys, grant_steps, index_plans, settings};
use crate::catalog::{Carried, Constraint, Part, Sequence, Statistics, Table};
use crate::pg::name::free_name;
use crate::pg::{QualifiedName, quote_ident, quote_literal};

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
    /// The partitions of the shadow, where it has some.
    pub leaves: &'a [QualifiedName],
    /// Those of them that get their names after the swap.
    pub renamed: &'a [Renamed],
    /// The server's.
    pub version: i32,
    /// Names in use, of relations in the schema and of statistics anywhere.
    pub taken: &'a HashSet<String>,
}

impl Swap<'_> {
    /// All statements in order, to be run with every lock held.
    pub fn steps(&self) -> Vec<Step> {
        let mut pool = self.pool();
        let mut out = self.identity_sequences(&mut pool);
        out.extend(self.new_identities(&mut pool));
        out.extend(foreign_keys::unbind(self.source));
        out.extend(self.carried.iter().flat_map(|c| steps_of(c, &c.unbind)));
        out.extend(self.retire(&mut pool));
        out.extend(self.promote());
        out.extend(self.own_defaults());
        out.extend(foreign_keys::bind(self.target, self.leaves, self.version));
        out.extend(self.carried.iter().flat_map(|c| steps_of(c, &c.bind)));
        out.extend(self.privileges());
        out
    }

    fn pool(&self) -> HashSet<String> {
        let mut pool = self.taken.clone();
        // Names that are only given at the end are none for what is put aside.
        pool.extend(self.target.indexes.iter().map(|i| i.name.clone()));
        pool
    }

    /// What is done after COMMIT, without the locks: a serial's sequence takes a lock that whoever called
    /// it holds until his transaction ends, and he may be waiting for the table; to validate takes time.
    pub fn afterwards(&self) -> Vec<Step> {
        // Sequences last: they may have to wait for a long transaction.
        let last = |leaf: &QualifiedName| {
            self.renamed
                .iter()
                .find(|r| r.from == *leaf)
                .map_or_else(|| leaf.clone(), |r| r.to.clone())
        };
        let leaves: Vec<QualifiedName> = self.leaves.iter().map(last).collect();
        let validations = foreign_keys::validations(self.target, &leaves, self.version);
        let renames = self.partition_names();
        renames.into_iter().chain(validations).chain(self.serial_sequences()).collect()
    }

    /// The same, and what may take the place of some: a partition that could not be renamed is validated by the
    /// name that it has. Of both the one is left whose name there is; before the renames, in this order, the first.
    pub fn to_do(&self) -> Vec<Step> {
        // Those that are divided themselves have none of their own to be proven.
        let with_rows =
            self.renamed.iter().map(|r| &r.from).filter(|from| self.leaves.contains(from));
        let from: Vec<QualifiedName> = with_rows.cloned().collect();
        let mut out = foreign_keys::validations_of_leaves(self.target, &from, self.version);
        out.extend(self.afterwards());
        out
    }

    /// A partition gets its name from one of the old table, and so do its indexes. Each in a transaction of its own,
    /// however many there are; and done again it finds nothing to do. Only what is still the old table's gives its
    /// name away: that may be dropped or renamed by then. Where somebody else has the name, the step fails, and tells
    /// of it; so it does where that is dropped between the look and the rename, but then not again.
    fn partition_names(&self) -> Vec<Step> {
        let mut pool = self.pool();
        // What the swap gives out.
        let _ = (
            self.identity_sequences(&mut pool),
            self.new_identities(&mut pool),
            self.retire(&mut pool),
        );
        let beside = |part: &&Part| part.schema == self.names.source.schema;
        let parts: Vec<&Part> = self.source.parts.iter().filter(beside).collect();
        let mut out = Vec::new();
        for renamed in self.renamed {
            let mut sql = Vec::new();
            let wanted = |name: &String| {
                *name == renamed.to.name || renamed.indexes.iter().any(|(_, to)| to == name)
            };
            for part in &parts {
                for held in part.relations.iter().filter(|name| wanted(name)) {
                    let (old, name) =
                        (retired_name(held, &mut pool), part.qualified().sibling(held));
                    let there = to_regclass(&name);
                    sql.push(match *held == part.name {
                        true => format!(
                            "IF {there}::pg_catalog.oid = {} THEN {}; END IF",
                            part.oid,
                            rename_table(&name, &part.qualified().sibling(&old))
                        ),
                        false => format!(
                            "IF EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indexrelid = {there} \
                             AND i.indrelid = {}) THEN {}; END IF",
                            part.oid,
                            rename_index(&name, &old)
                        ),
                    });
                }
            }
            sql.push(rename_table(&renamed.from, &renamed.to));
            sql.extend(renamed.indexes.iter().map(|(from, to)| {
                let from = renamed.from.sibling(from);
                let rename = rename_index(&from, to);
                format!("IF {} IS NOT NULL THEN {rename}; END IF", to_regclass(&from))
            }));
            let body = format!(
                "BEGIN IF {} IS NOT NULL THEN {}; END IF; END",
                to_regclass(&renamed.from),
                sql.join("; ")
            );
            out.push(self.own(format!("DO {}", quote_literal(&body))));
        }
        out
    }

    fn own(&self, sql: impl Into<String>) -> Step {
        Step::by(&self.source.owner, sql)
    }

    /// The old sequence is renamed first: that locks it, so the position read after it is final and
    /// no value is handed out twice.
    fn identity_sequences(&self, pool: &mut HashSet<String>) -> Vec<Step> {
        let mut out = Vec::new();
        for Identity { old, new, wanted } in self.identities() {
            let old_name = QualifiedName::new(&old.schema, &old.name);
            let new_name = QualifiedName::new(&new.schema, &new.name);
            let retired = old_name.sibling(retired_name(&old.name, pool));
            let rename = |from, to: &str| {
                self.own(format!("ALTER SEQUENCE {from} RENAME TO {}", quote_ident(to)))
            };
            out.push(rename(&old_name, &retired.name));
            let options = sequence_options(wanted);
            if options != sequence_options(new) {
                out.push(self.own(format!("ALTER SEQUENCE {new_name} {options} RESTART")));
            }
            out.push(self.own(format!(
                "SELECT pg_catalog.setval({}::pg_catalog.regclass, s.last_value, s.is_called) FROM {retired} AS s",
                quote_literal(&new_name.to_string())
            )));
            out.push(rename(&new_name, &old.name));
            out.extend(grant_steps(
                &format!("SEQUENCE {old_name}"),
                &self.source.owner,
                &Privileges::on_sequence(new.grants.as_deref()),
                &Privileges::on_sequence(old.grants.as_deref()),
            ));
            if new.comment != old.comment {
                out.push(self.own(comment("SEQUENCE", &old_name.to_string(), &old.comment)));
            }
        }
        out
    }

    /// The sequence of an identity column that the change makes is named as PostgreSQL names it, or as the
    /// operator said.
    fn new_identities(&self, pool: &mut HashSet<String>) -> Vec<Step> {
        let known: Vec<u32> = self.identities().iter().map(|i| i.wanted.oid).collect();
        let made = self.target.sequences.iter().filter(|s| s.identity && !known.contains(&s.oid));
        made.filter_map(|wanted| {
            let column = self.target.column(wanted.attnum)?;
            let new = self.shadow.identity_of(self.shadow.column_named(&column.name)?)?;
            let name = free_name(&wanted.name, "", |n| pool.contains(n));
            pool.insert(name.clone());
            let from = QualifiedName::new(&new.schema, &new.name);
            let sql = format!("ALTER SEQUENCE {from} RENAME TO {}", quote_ident(&name));
            let rename = (new.name != name).then(|| self.own(sql));
            // Whoever inserts waits for the table, and takes his number from the new one then.
            let position = wanted.goes_on_from.as_ref().map(|old| {
                let new = quote_literal(&QualifiedName::new(&new.schema, &name).to_string());
                self.own(format!(
                    "SELECT pg_catalog.setval({new}::pg_catalog.regclass, s.last_value, s.is_called) FROM {old} AS s"
                ))
            });
            Some(rename.into_iter().chain(position))
        })
        .flatten()
        .collect()
    }

    fn identities(&self) -> Vec<Identity<'_>> {
        let old = self.source.sequences.iter().filter(|s| s.identity);
        old.filter_map(|old| {
            let column = self.source.becomes(old.attnum, self.target)?;
            let new = self.shadow.identity_of(self.shadow.column_named(&column.name)?)?;
            let wanted = self.target.identity_of(column)?;
            Some(Identity { old, new, wanted })
        })
        .collect()
    }

    fn retire(&self, pool: &mut HashSet<String>) -> Vec<Step> {
        let names = self.names;
        let mut out = vec![self.own(rename_table(&names.source, &names.retired))];
        for index in &self.source.indexes {
            let old = retired_name(&index.name, pool);
            out.push(self.own(rename_index(&names.source.sibling(&index.name), &old)));
        }
        for statistics in &self.source.statistics {
            let old = retired_name(&statistics.name, pool);
            out.push(rename_statistics(statistics, &statistics.name, &old));
        }
        if self.source.grants.is_some() {
            // The owner may have taken it from himself.
            let owner = quote_ident(&self.source.owner);
            out.push(self.own(format!("GRANT TRIGGER ON TABLE {} TO {owner}", names.retired)));
        }
        // Writes that still reach the old table must fail loudly, not vanish.
        out.push(self.own(format!(
            "CREATE TRIGGER pgwraith_retired BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION pgwraith.refuse_write()",
            names.retired
        )));
        if self.source.is_partitioned() {
            // Whoever writes to a partition by its own name does not come by there.
            out.push(self.own(format!(
                "CREATE TRIGGER pgwraith_retired_row BEFORE INSERT OR UPDATE OR DELETE ON {} \
                 FOR EACH ROW EXECUTE FUNCTION pgwraith.refuse_write()",
                names.retired
            )));
        }
        out
    }

    fn promote(&self) -> Vec<Step> {
        let names = self.names;
        let temporary = TemporaryNames::of(self.target);
        let mut out = vec![self.own(rename_table(&names.shadow, &names.source))];
        for index in index_plans(self.target, &names.shadow, |n| temporary.until_swap(n)) {
            let from = names.source.sibling(&index.temporary);
            out.push(self.own(match index.index.until_swap {
                // Its files go after COMMIT, when the locks are given back.
                true => format!("DROP INDEX {from}"),
                false => rename_index(&from, &index.name),
            }));
        }
        for statistics in &self.shadow.statistics {
            let name = temporary.after_swap(&statistics.name);
            if name != statistics.name {
                out.push(rename_statistics(statistics, &statistics.name, &name));
            }
        }
        for column in self.target.columns.iter().filter(|c| c.identity == "a") {
            out.push(self.own(format!(
                "ALTER TABLE {} ALTER COLUMN {} SET GENERATED ALWAYS",
                names.source,
                quote_ident(&column.name)
            )));
        }
        let constraints = not_valid_constraints(self.target, &names.source);
        out.extend(constraints.into_iter().map(|sql| self.own(sql)));
        out.extend(settings(&self.promoted(&temporary), self.target));
        out
    }

    /// The shadow once it has its names and all its constraints.
    fn promoted(&self, temporary: &TemporaryNames) -> Table {
        let shadow = self.shadow.clone();
        let mut now = shadow.renamed(&self.names.source, |name| temporary.after_swap(name));
        let added = self.target.constraints.iter().filter(|c| added_later(c)).cloned();
        now.constraints.extend(added.map(|c| Constraint { comment: None, ..c }));
        now
    }

    /// Last: the owner may have taken a privilege from himself that it takes to put a trigger on.
    fn privileges(&self) -> Vec<Step> {
        let object = format!("TABLE {}", self.names.source);
        let now = Privileges::on_table(self.shadow);
        grant_steps(&object, &self.source.owner, &now, &Privileges::on_table(self.target))
    }

    /// Until here a default of the table that names the table itself, or calls the sequence of one of its
    /// identity columns, meant the old ones.
    fn own_defaults(&self) -> Vec<Step> {
        let stale = self.target.columns.iter().filter(|c| c.default_names_table);
        let said = stale.filter_map(|column| {
            let (table, name) = (&self.names.source, quote_ident(&column.name));
            let default = column.default.as_ref().filter(|_| column.generated.is_empty())?;
            Some(self.own(format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {default}")))
        });
        said.collect()
    }

    /// A serial's sequence moves with its column, and widens with it.
    fn serial_sequences(&self) -> Vec<Step> {
        let mut out = Vec::new();
        for sequence in self.source.sequences.iter().filter(|s| !s.identity) {
            let Some(column) = self.source.becomes(sequence.attnum, self.target) else { continue };
            if self.target.identity_of(column).is_some_and(|new| new.goes_on_from.is_some()) {
                continue;
            }
            let name = QualifiedName::new(&sequence.schema, &sequence.name);
            let owner = format!("{}.{}", self.names.source, quote_ident(&column.name));
            out.push(self.own(format!("ALTER SEQUENCE {name} OWNED BY {owner}")));
            let old_type = self.source.column(sequence.attnum).map(|c| c.type_sql.as_str());
            if sequence.type_sql != "bigint"
                && old_type == Some(sequence.type_sql.as_str())
                && column.type_sql == "bigint"
            {
                out.push(self.own(format!("ALTER SEQUENCE {name} AS pg_catalog.int8")));
            }
        }
        out
    }
}

/// The sequence of an identity column: the old one, the new one, and how that is to be.
struct Identity<'a> {
    old: &'a Sequence,
    new: &'a Sequence,
    wanted: &'a Sequence,
}

fn steps_of<'a>(thing: &'a Carried, statements: &'a [String]) -> impl Iterator<Item = Step> + 'a {
    statements.iter().map(|sql| Step { role: thing.role.clone(), sql: sql.clone() })
}

/// What indexes and statistics of the shadow are called until the swap; no two alike, also where
/// names of 63 bytes are cut to the same beginning.
pub struct TemporaryNames(HashMap<String, String>);

impl TemporaryNames {
    pub fn of(target: &Table) -> Self {
        let indexes = target.indexes.iter().map(|i| &i.name);
        let own: Vec<&String> = indexes.chain(target.statistics.iter().map(|s| &s.name)).collect();
        let mut names: HashMap<String, String> = HashMap::new();
        for name in &own {
            let taken =
                |n: &str| names.values().any(|used| used == n) || own.iter().any(|name| *name == n);
            if !names.contains_key(*name) {
                let temporary = free_name(name, "_v2", taken);
                names.insert((*name).clone(), temporary);
            }
        }
        TemporaryNames(names)
    }

    /// The name until the swap of what is called `name` afterwards.
    pub fn until_swap(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    /// The name after the swap of what is called `name` until then.
    pub fn after_swap(&self, name: &str) -> String {
        let found = self.0.iter().find(|(_, temporary)| *temporary == name);
        found.map_or_else(|| name.to_owned(), |(own, _)| own.clone())
    }
}

fn retired_name(name: &str, pool: &mut HashSet<String>) -> String {
    let retired = free_name(name, "_old", |n| pool.contains(n));
    pool.insert(retired.clone());
    retired
}

/// The relation of that name; NULL where there is none.
fn to_regclass(name: &QualifiedName) -> String {
    format!("pg_catalog.to_regclass({})", quote_literal(&name.to_string()))
}

fn rename_table(from: &QualifiedName, to: &QualifiedName) -> String {
    format!("ALTER TABLE {from} RENAME TO {}", quote_ident(&to.name))
}

fn rename_index(from: &QualifiedName, to: &str) -> String {
    format!("ALTER INDEX {from} RENAME TO {}", quote_ident(to))
}

fn rename_statistics(statistics: &Statistics, from: &str, to: &str) -> Step {
    let name = QualifiedName::new(&statistics.schema, from);
    Step::by(&statistics.owner, format!("ALTER STATISTICS {name} RENAME TO {}", quote_ident(to)))
}
