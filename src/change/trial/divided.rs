//! A partitioned table is altered otherwise than an ordinary one: PostgreSQL refuses other things, does not take over the
//! indexes of partitions whose columns get another type, and partitions may have checks and indexes of their own. So
//! what is tried on the ordinary clone is tried on one that is divided as well, which has its name for as long.
//!
//! It has one partition that holds rows, with whatever any of the real ones has: what would be done to that is done to
//! one of them at least.

use std::collections::HashSet;

use super::likeness::likeness;
use super::observe::{Ground, Moment, Observer};
use super::observed::Observed;
use super::step::{How, Step};
use crate::catalog::{self, OwnKind, OwnOfPart, Table};
use crate::change::alter::attempt;
use crate::change::clone::{about_the_change, set_role};
use crate::change::foreign_keys;
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, quote_ident};
use crate::shadow;

/// The partition that holds rows and its indexes, each under the name of the table's that it is a part of.
const FILES: &str = "SELECT c.oid, (WITH RECURSIVE up (oid) AS (SELECT c.oid UNION ALL \
      SELECT h.inhparent FROM up JOIN pg_catalog.pg_inherits h ON h.inhrelid = up.oid) \
    SELECT r.relname::pg_catalog.text FROM up JOIN pg_catalog.pg_class r ON r.oid = up.oid \
    WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = r.oid)), \
    c.relfilenode, pg_catalog.pg_stat_get_xact_numscans(c.oid) \
  FROM pg_catalog.pg_class c WHERE c.oid = $1 OR c.oid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = $1)";

/// What relations of the divided clone begin with that have no name of the source's.
const OURS: &str = "pgwraith_";

/// The clone that is divided.
struct Divided {
    leaf: u32,
    /// What its names stand for, the longest first.
    names: Vec<(String, String)>,
    /// What partitions have of their own and it has not.
    unseen: Vec<OwnOfPart>,
}

/// What was seen of it.
enum Seen {
    Did {
        rewritten: bool,
        scans: i64,
        built: Vec<String>,
        unseen: Vec<OwnOfPart>,
    },
    /// By PostgreSQL.
    Refused(String),
}

impl Observer<'_> {
    /// What the clauses do to a table that is divided, as far as that is more than was seen of an ordinary one.
    pub(super) async fn divided(
        &self,
        on: &Ground<'_>,
        whole: &[&str],
        each: &[&str],
        observed: &mut Observed,
    ) -> Result<()> {
        match self.seen_in_parts(on, whole).await? {
            Seen::Refused(what) => {
                self.refuse_what_is_of_files(on, each).await?;
                let key = self.source.partition_key.as_deref().unwrap_or_default();
                observed.no_way = Some(format!(
                    "PostgreSQL refuses that in place, of a table that is divided by {key}: {what}"
                ));
            }
            Seen::Did { rewritten, scans, built, unseen } => {
                // A tablespace is where partitions that come later are put; those that there are stay.
                let elsewhere = observed
                    .becomes
                    .as_ref()
                    .is_some_and(|is| is.tablespace != self.source.tablespace);
                observed.rewritten = rewritten || observed.rewritten && !elsewhere;
                observed.scans = observed.scans.max(scans);
                observed.built.extend(built);
                observed.built.sort();
                observed.built.dedup();
                let retyped: Vec<&str> = observed
                    .retyped
                    .iter()
                    .filter_map(|n| self.source.column(*n).map(|column| column.name.as_str()))
                    .collect();
                observed.no_way = unseen.iter().find(|own| touches(own, &retyped)).map(|own| {
                    let (name, part) = (&own.name, &own.part);
                    format!("partition {part} has {name:?} of its own, and what a column's new type does to that cannot be tried")
                });
            }
        }
        Ok(())
    }

    /// A clause that changes nothing of a partitioned table but what only tables with files have: no copy of it has that
    /// either, so PostgreSQL's word is the last.
    async fn refuse_what_is_of_files(&self, on: &Ground<'_>, each: &[&str]) -> Result<()> {
        let divided = |table: &Table| likeness(&shadow::as_root(table));
        for clause in each {
            match self.tried(on, &[clause], None).await {
                Ok((_, Some((was, is)))) if divided(&was) == divided(&is) => {}
                Ok(_) => continue,
                Err(e) if e.kind() == Kind::Usage => continue,
                Err(e) => return Err(e),
            }
            if let Seen::Refused(what) = self.seen_in_parts(on, &[clause]).await? {
                return Err(Error::usage(format!(
                    "--alter {clause:?} is not possible for a partitioned table: {what}"
                ))
                .next("Nothing was changed. Leave it out; what is a matter of files is one of the partitions: alter those"));
            }
        }
        Ok(())
    }

    /// What the statements do to the divided clone, undone again.
    async fn seen_in_parts(&self, on: &Ground<'_>, statements: &[&str]) -> Result<Seen> {
        let session = self.session;
        let seen = async {
            let divided = self.divide(on).await?;
            let before = self.files_of(divided.leaf).await?;
            for text in statements {
                match attempt(session, &on.made.name, text, on.stand_ins).await? {
                    Ok(()) => {}
                    Err(e) if about_the_change(&e) => {
                        return Ok(Seen::Refused(divided.told(&on.stand_ins.told(e.what()))));
                    }
                    Err(e) => return Err(e),
                }
            }
            let after = self.files_of(divided.leaf).await?;
            let built = before.built_until(&after, divided.leaf);
            Ok(Seen::Did {
                rewritten: before.file(divided.leaf) != after.file(divided.leaf),
                scans: before.scans_until(&after),
                built: built.iter().map(|name| divided.told(name)).collect(),
                unseen: divided.unseen,
            })
        };
        session.undone(seen).await
    }

    /// Whether the steps that are said to take a moment do so in partitions, too.
    pub(super) async fn are_short_in_parts(&self, on: &Ground<'_>, steps: &[Step]) -> Result<bool> {
        let session = self.session;
        let short = async {
            let divided = self.divide(on).await?;
            for step in steps {
                let Some(clauses) = &step.clauses else { continue };
                let before = self.files_of(divided.leaf).await?;
                set_role(session, Some(&self.source.owner)).await?;
                match attempt(session, &on.made.name, clauses, on.stand_ins).await? {
                    Ok(()) => {}
                    Err(e) if about_the_change(&e) => {
                        tracing::debug!("no careful way for partitions: {}: {e}", step.sql);
                        return Ok(false);
                    }
                    Err(e) => return Err(e),
                }
                let after = self.files_of(divided.leaf).await?;
                let works = before.works_until(&after, divided.leaf);
                if works && step.how() == How::Short && !step.does.attaches() {
                    tracing::debug!("no careful way for partitions: {} takes long", step.sql);
                    return Ok(false);
                }
            }
            Ok(true)
        };
        session.undone(short).await
    }

    async fn files_of(&self, leaf: u32) -> Result<Moment> {
        let files = self.session.query(FILES, &[&leaf]).await?;
        let files = files.iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3))));
        Ok(Moment { files: files.collect(), ..Moment::default() })
    }

    /// The clone gives way to one that is divided.
    async fn divide(&self, on: &Ground<'_>) -> Result<Divided> {
        let (session, source, name) = (self.session, self.source, &on.made.name);
        let own = catalog::own_of_parts(session, source.oid).await?;
        let (statements, mut names) = tree(source, name);
        set_role(session, Some(&source.owner)).await?;
        let laid = async {
            for sql in &statements {
                session.batch(sql).await?;
            }
            foreign_keys::put_back(session, source, on.stand_ins).await
        };
        laid.await.map_err(|e| match about_the_change(&e) {
            true => Error::new(
                Kind::Refused,
                format!("{} cannot be tried as it is divided: {}", source.qualified(), e.what()),
            ),
            false => e,
        })?;
        let leaf = name.sibling(names.last().map_or("", |(ours, _)| ours));
        let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
        let found: Option<u32> = session.one(sql, &[&leaf.to_string()]).await?.get(0);
        let found = found.ok_or_else(|| Error::failed("a partition of the trial vanished"))?;
        let unseen = self.dress_leaf(&leaf, own, &mut names).await?;
        names.sort_by_key(|(ours, _)| std::cmp::Reverse(ours.len()));
        Ok(Divided { leaf: found, names, unseen })
    }

    /// Gives the partition what any of the real ones has of its own. Returns what it cannot have; `names` gets what the
    /// others stand for.
    async fn dress_leaf(
        &self,
        leaf: &QualifiedName,
        own: Vec<OwnOfPart>,
        names: &mut Vec<(String, String)>,
    ) -> Result<Vec<OwnOfPart>> {
        let mut used: HashSet<String> =
            self.source.constraints.iter().map(|c| c.name.clone()).collect();
        let (mut unseen, mut wanted) = (Vec::new(), Vec::new());
        for (n, own) in own.into_iter().enumerate() {
            // What the clauses say of a check's name they say of the partition's as well.
            let name = match own.kind == OwnKind::Check && used.insert(own.name.clone()) {
                true => own.name.clone(),
                false => format!("{OURS}own_{n}"),
            };
            match dressing(leaf, &own, &name) {
                Some(sql) => wanted.push((sql, name, own)),
                None => unseen.push(own),
            }
        }
        // One by one only where one of them is not possible: there may be hundreds.
        let whole: Vec<&str> = wanted.iter().map(|(sql, ..)| sql.as_str()).collect();
        let all = whole.is_empty() || self.is_possible(&whole.join("; ")).await?;
        for (sql, name, own) in wanted {
            if all || self.is_possible(&sql).await? {
                names.push((name, own.name));
            } else {
                unseen.push(own);
            }
        }
        Ok(unseen)
    }

    async fn is_possible(&self, sql: &str) -> Result<bool> {
        self.session.batch("SAVEPOINT own").await?;
        match self.session.batch(sql).await {
            Ok(()) => self.session.batch("RELEASE SAVEPOINT own").await.map(|()| true),
            Err(e) if about_the_change(&e) => {
                tracing::debug!("not tried: {sql}: {e}");
                let back = "ROLLBACK TO SAVEPOINT own; RELEASE SAVEPOINT own";
                self.session.batch(back).await.map(|()| false)
            }
            Err(e) => Err(e),
        }
    }
}

impl Divided {
    /// About the real ones.
    fn told(&self, message: &str) -> String {
        let ours = self.names.iter().filter(|(ours, _)| ours.starts_with(OURS));
        ours.fold(message.to_owned(), |text, (ours, real)| text.replace(ours, real))
    }
}

/// Whether it is about one of the columns; of what could not be put on nobody knows.
fn touches(own: &OwnOfPart, retyped: &[&str]) -> bool {
    match own.kind {
        OwnKind::ForeignKey => own.columns.iter().any(|column| retyped.contains(&column.as_str())),
        _ => !retyped.is_empty(),
    }
}

/// None where it cannot be put on. What is unique is so without being a constraint.
fn dressing(leaf: &QualifiedName, own: &OwnOfPart, name: &str) -> Option<String> {
    let (quoted, definition) = (quote_ident(name), &own.definition);
    match own.kind {
        _ if definition.is_empty() => None,
        OwnKind::ForeignKey => None,
        OwnKind::Check | OwnKind::Exclusion => {
            Some(format!("ALTER TABLE {leaf} ADD CONSTRAINT {quoted} {definition}"))
        }
        OwnKind::Index => Some(format!("CREATE INDEX {quoted} ON {leaf} {definition}")),
        OwnKind::UniqueIndex => {
            Some(format!("CREATE UNIQUE INDEX {quoted} ON {leaf} {definition}"))
        }
    }
}

/// The statements that make the clone `name` a divided one: by the table's key and, one below the other, by those of its
/// partitions; with the names of what is below it, and what they stand for. The last of them holds rows.
fn tree(source: &Table, name: &QualifiedName) -> (Vec<String>, Vec<(String, String)>) {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    let own = source.partition_key.as_deref().map(|key| (source.name.as_str(), key));
    let parts = source.parts.iter();
    let below = parts.filter_map(|p| Some((p.name.as_str(), p.partition_key.as_deref()?)));
    for (table, key) in own.into_iter().chain(below) {
        if !keys.iter().any(|(_, known)| *known == key) {
            keys.push((table, key));
        }
    }
    // An unlogged table refers to unlogged ones.
    let create = |sql: String| match source.persistence {
        'u' => sql.replacen("CREATE TABLE", "CREATE UNLOGGED TABLE", 1),
        _ => sql,
    };
    let root = shadow::as_root(source);
    let first = keys.first().map_or("", |(_, key)| key);
    let mut out = vec![
        // With the foreign keys between it and the stand-ins.
        format!("DROP TABLE {name} CASCADE"),
        create(shadow::clone_root(&root, name, first)),
    ];
    let leaf = source.leaves().next().map_or(source.name.as_str(), |part| part.name.as_str());
    let (mut names, mut above) = (Vec::new(), name.clone());
    for (n, (_, key)) in keys.iter().enumerate() {
        let ours = format!("{OURS}part_{n}");
        let all = match key.starts_with("HASH") {
            true => "FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            false => "DEFAULT",
        };
        let (real, by) = match keys.get(n + 1) {
            Some((table, key)) => (*table, format!(" PARTITION BY {key}")),
            None => (leaf, String::new()),
        };
        let part = name.sibling(&ours);
        out.push(create(format!("{}{by}", shadow::create_partition(&above, &part, all))));
        names.push((ours, real.to_owned()));
        above = part;
    }
    for index in &root.indexes {
        out.extend(shadow::create_whole_index(&root, index, name, &index.name));
    }
    out.extend(shadow::not_valid_constraints(&root, name));
    out.extend(shadow::replica_identity(&root, name, str::to_owned));
    (out, names)
}
