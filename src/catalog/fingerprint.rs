//! What must not change while a migration runs: the source's shape and our own publication.
//!
//! Invariant 1 leans on this: after `ALTER PUBLICATION … DROP TABLE` fences still return while
//! changes no longer do, so the fingerprint is read before each verification and under the cutover
//! lock, and any difference voids the migration. A rewriting ALTER (`TYPE text USING upper(v)`)
//! may leave the same catalog text: it still writes a new `pg_attribute` row and a new file. Neither
//! alone says anything: GRANT and SET STATISTICS write such rows too, and are carried; `VACUUM FULL`
//! and `TRUNCATE` change the file, the one harmless and the other told by the stream. Of both together the
//! catalogs do not say which it was. So whatever shows nothing is what the next look is compared with
//! ([`Baseline`]): a GRANT today and a `TRUNCATE` tomorrow are two looks, and harmless each. Only what comes
//! between two looks, or while no tool is there, is taken for the worst.
//!
//! What a run carries (privileges, comments, views, foreign keys) is not in here: it is read behind
//! the cutover's first lock as it is by then.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio_postgres::Statement;

use super::parts;
use crate::error::{Error, Kind, Result};
use crate::pg::Session;

/// The file numbers of the table, or of its partitions, by their object ids.
const FILE: &str = "file";

/// The partitions, by their object ids.
const PARTITION: &str = "partition";
/// How a difference begins that is about one of them.
const OF_PARTITION: &str = "partition, ";

/// The functions that make the rows' values, by their signatures.
const FUNCTION: &str = "function";

/// Our publication.
const PUBLICATION: &str = "publication";

/// How a difference begins that is about it: all of ours are named so.
const OURS: &str = "publication, pgwraith_";

/// How columns are called in a difference.
const COLUMN: &str = "column, ";
const ALTERED: &str = " was altered";
/// Of a column whose row alone is another one, as is the table's file.
const REWRITTEN: &str = " was altered, and the table written anew";
const UNSURE: &str = " (that may have been ALTER COLUMN … TYPE … USING; or a GRANT or SET STATISTICS and, at about the \
                      same time, TRUNCATE or VACUUM FULL, which look the same afterwards)";

/// The catalogs' words on one source and its publication.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint(Value);

impl Fingerprint {
    /// One that was kept.
    pub fn of_json(value: Value) -> Fingerprint {
        Fingerprint(value)
    }

    /// To be kept.
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// The functions that make the rows' values, by their signatures.
    pub fn functions(&self) -> Vec<String> {
        let functions = self.0.get(FUNCTION).and_then(Value::as_object);
        functions.map_or_else(Vec::new, |all| all.keys().cloned().collect())
    }

    /// Whether the source is what it was, whatever became of our publication.
    pub fn same_source(&self, now: &Fingerprint) -> bool {
        let without = |fingerprint: &Fingerprint| {
            let mut value = fingerprint.0.clone();
            if let Some(all) = value.as_object_mut() {
                all.remove(PUBLICATION);
            }
            Fingerprint(value)
        };
        without(self).differences(&without(now)).is_empty()
    }

    /// What differs between two readings, in the catalogs' own terms; empty where nothing does.
    pub fn differences(&self, now: &Fingerprint) -> Vec<String> {
        let rewritten = self.is_rewritten(now);
        let (was, mut is) = (self.telling(rewritten), now.telling(rewritten));
        let came = now.came_since(self);
        if let Some(Value::Object(parts)) = is.get_mut(PARTITION) {
            parts.retain(|oid, _| !came.contains(oid));
        }
        // An older program that took the one looked at less.
        if let (Some(was), Some(is)) = (was.as_object(), is.as_object_mut()) {
            is.retain(|key, _| was.contains_key(key));
        }
        let mut out = Vec::new();
        differences("", &was, &is, &mut out);
        out
    }

    /// The partitions that are there now and were not `before`. They void nothing: the publication covers them, and
    /// what was in them as they were attached can be read.
    pub fn new_partitions(&self, before: &Fingerprint) -> Vec<u32> {
        self.came_since(before).iter().filter_map(|oid| oid.parse().ok()).collect()
    }

    /// The same, knowing no other partitions than these.
    pub fn knowing(&self, oids: &[u32]) -> Fingerprint {
        self.retaining(|oid| oids.contains(&oid))
    }

    /// The same, not knowing these partitions.
    pub fn not_knowing(&self, oids: &[u32]) -> Fingerprint {
        self.retaining(|oid| !oids.contains(&oid))
    }

    fn retaining(&self, keep: impl Fn(u32) -> bool) -> Fingerprint {
        let mut value = self.0.clone();
        if let Some(Value::Object(parts)) = value.get_mut(PARTITION) {
            parts.retain(|oid, _| oid.parse().is_ok_and(&keep));
        }
        Fingerprint(value)
    }

    /// What the partition of that number is called and how it is attached, by the row of the catalogs that says so;
    /// None where it is none. If that is the same twice, it was one all the while.
    pub fn partition(&self, oid: u32) -> Option<&str> {
        self.0.get(PARTITION)?.get(oid.to_string())?.as_str()
    }

    /// Whether a partition of that number is there.
    pub fn has_partition(&self, oid: u32) -> bool {
        self.partition(oid).is_some()
    }

    fn came_since(&self, before: &Fingerprint) -> Vec<String> {
        let of = |fingerprint: &Fingerprint| match fingerprint.0.get(PARTITION) {
            Some(Value::Object(parts)) => parts.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let known = of(before);
        of(self).into_iter().filter(|oid| !known.contains(oid)).collect()
    }

    /// The same with the partitions, and nothing else, of another.
    fn with_partitions_of(&self, other: &Fingerprint) -> Fingerprint {
        let mut value = self.0.clone();
        if let (Some(all), Some(parts)) = (value.as_object_mut(), other.0.get(PARTITION)) {
            all.insert(PARTITION.to_owned(), parts.clone());
        }
        Fingerprint(value)
    }

    /// Whether a file that was there before is another one now.
    fn is_rewritten(&self, now: &Fingerprint) -> bool {
        match (self.0.get(FILE), now.0.get(FILE)) {
            (Some(Value::Object(was)), Some(Value::Object(is))) => {
                was.iter().any(|(oid, file)| is.get(oid).is_some_and(|now| now != file))
            }
            (was, is) => was != is,
        }
    }

    /// Row versions of columns count only where the file is another one, and the file never alone.
    fn telling(&self, rewritten: bool) -> Value {
        let mut value = self.0.clone();
        let Some(all) = value.as_object_mut() else { return value };
        all.remove(FILE);
        // None at all is told one by one, too.
        for list in [PUBLICATION, PARTITION] {
            let list = all.entry(list).or_insert(Value::Null);
            if list.is_null() {
                *list = Value::Object(serde_json::Map::new());
            }
        }
        if let (false, Some(Value::Object(columns))) = (rewritten, all.get_mut("column")) {
            for column in columns.values_mut() {
                *column = column.as_str().map(without_xmin).into();
            }
        }
        value
    }

    /// The error that voids a migration whose source or publication changed.
    pub fn check(&self, now: &Fingerprint, table: &str) -> Result<()> {
        let differences = self.differences(now);
        if differences.is_empty() {
            return Ok(());
        }
        if now.0.get("table").is_none_or(Value::is_null) {
            let what = format!("{table} was dropped while the migration ran");
            return Err(Error::new(Kind::NotResumable, what));
        }
        // Those of others that have all tables are in there too.
        let ours = |text: &String| text.starts_with(OURS);
        let told = differences.join("; ");
        if differences.iter().all(ours) {
            return Err(Error::new(
                Kind::Unproven,
                format!(
                    "pgwraith's publication was altered or dropped while the migration ran, and what the \
                     application changed since is not known ({told})"
                ),
            ));
        }
        let unsure = if differences.iter().any(|d| d.ends_with(REWRITTEN)) { UNSURE } else { "" };
        let unsure = match differences.iter().any(|d| d.starts_with(OF_PARTITION)) {
            true => " (rows that go or come with a partition are not told by the log)",
            false => unsure,
        };
        Err(Error::new(
            Kind::NotResumable,
            format!("{table} was changed while the migration ran: {told}{unsure}"),
        )
        .next("The copy can no longer be trusted: start again once what is left is removed"))
    }
}

/// What the source was at the last look that showed no change.
pub struct Baseline(Mutex<Fingerprint>);

impl Baseline {
    pub fn new(fingerprint: Fingerprint) -> Baseline {
        Baseline(Mutex::new(fingerprint))
    }

    /// The error that voids a migration, or goes on from `now`. Looks of several sessions may come in another
    /// order than they were taken: against an older one there is only more to be seen.
    pub fn check(&self, now: &Fingerprint, table: &str) -> Result<()> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.check(now, table)?;
        *last = now.with_partitions_of(&last);
        Ok(())
    }

    /// The partitions that came since the last look, as long as nobody has taken them in.
    pub fn new_partitions(&self, now: &Fingerprint) -> Vec<u32> {
        now.new_partitions(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whatever was in the new partitions of `now` as they came is known to be dirty: from here on they are as the others.
    pub fn take_in(&self, now: &Fingerprint) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.with_partitions_of(now);
    }

    /// What it will be once those of `now` are taken in.
    pub fn with_partitions_of(&self, now: &Fingerprint) -> Fingerprint {
        self.current().with_partitions_of(now)
    }

    /// As it is to be kept.
    pub fn current(&self) -> Fingerprint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What must not change.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    pub table: u32,
    pub publication: &'a str,
    /// Signatures of those that make the rows' values: what is copied after one was replaced would be other rows.
    pub functions: &'a [String],
}

/// Reads the fingerprint.
pub async fn fingerprint(session: &Session, watched: Watched<'_>) -> Result<Fingerprint> {
    FingerprintReader::prepare(session).await?.read(session, watched).await
}

/// The reading, prepared: under the cutover lock there is no time to plan it.
pub struct FingerprintReader(Statement);

impl FingerprintReader {
    /// Prepares the reading in `session`.
    pub async fn prepare(session: &Session) -> Result<Self> {
        Ok(FingerprintReader(session.prepare(&sql()).await?))
    }

    /// Reads the fingerprint in the session that prepared it.
    pub async fn read(
        &self,
        session: &Session,
        Watched { table, publication, functions }: Watched<'_>,
    ) -> Result<Fingerprint> {
        let rows = session.run(&self.0, &[&table, &publication, &functions]).await?;
        let row =
            rows.first().ok_or_else(|| Error::failed("PostgreSQL returned no fingerprint"))?;
        Ok(Fingerprint(row.get(0)))
    }
}

fn differences(path: &str, was: &Value, is: &Value, out: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}, {key}") };
                let null = Value::Null;
                differences(&path, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), out);
            }
        }
        _ if was == is => {}
        (Value::String(was), Value::String(is)) if without_xmin(was) == without_xmin(is) => {
            let how = if path.starts_with(COLUMN) { REWRITTEN } else { ALTERED };
            // By its number alone nobody knows one.
            let named =
                path.starts_with(OF_PARTITION).then(|| told(" (", &Value::from(is.as_str()), ")"));
            let path = format!("{path}{}", named.unwrap_or_default());
            out.push(format!("{path}{how}"));
        }
        (Value::Null, _) => out.push(format!("{path} appeared{}", told(": ", is, ""))),
        (_, Value::Null) => out.push(format!("{path} is gone{}", told(" (was ", was, ")"))),
        _ => out.push(format!("{path} was {}, is {}", told("", was, ""), told("", is, ""))),
    }
}

/// A value for a message, between two texts; nothing where it is nothing but a row's version.
fn told(before: &str, value: &Value, after: &str) -> String {
    match value.as_str().map(without_xmin) {
        Some("") => String::new(),
        Some(text) => format!("{before}{text}{after}"),
        None => format!("{before}{value}{after}"),
    }
}

/// Row versions tell that something changed, but nobody what.
fn without_xmin(text: &str) -> &str {
    text.split("xmin ").next().unwrap_or(text).trim_end()
}

// REINDEX CONCURRENTLY writes the row of a constraint over an index anew.
// An index that is not valid is of a REINDEX CONCURRENTLY that is under way, or of one that failed: it
// counts once it is valid, and the swap waits until it is gone.
// Of foreign keys and constraint triggers there is none here: they are carried as they are at the swap.
fn sql() -> String {
    SQL.replace("TREE", &parts::tree("$1::pg_catalog.oid")).replace("IDENTITY", parts::IDENTITY)
}

// A partition that is truncated is told by the log, under its own name.
const SQL: &str = "SELECT pg_catalog.jsonb_build_object(
  'file', (SELECT pg_catalog.jsonb_object_agg(c.oid, c.relfilenode::int8) FROM TREE t
      JOIN pg_catalog.pg_class c ON c.oid = t.oid),
  'partition', (SELECT pg_catalog.jsonb_object_agg(c.oid, pg_catalog.concat_ws(' ', pg_catalog.format('%I.%I', n.nspname, c.relname),
      'of', i.inhparent::pg_catalog.regclass, 'known by',
      CASE c.relkind WHEN 'r' THEN pg_catalog.array_to_string(IDENTITY, ', ') END, c.relkind, c.relpersistence, 'xmin', i.xmin))
    FROM TREE t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid WHERE t.level > 0),
  'table', (SELECT pg_catalog.jsonb_build_object('schema', c.relnamespace::pg_catalog.regnamespace, 'name', c.relname,
      'owner', c.relowner::pg_catalog.regrole, 'persistence', c.relpersistence, 'replica identity', c.relreplident,
      'forced row security', c.relrowsecurity AND c.relforcerowsecurity, 'partition', c.relispartition,
      'access method', (SELECT m.amname FROM pg_catalog.pg_am m WHERE m.oid = c.relam),
      'tablespace', (SELECT s.spcname FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace))
    FROM pg_catalog.pg_class c WHERE c.oid = $1),
  'column', (SELECT pg_catalog.jsonb_object_agg(a.attname, pg_catalog.concat_ws(' ',
      pg_catalog.format_type(a.atttypid, a.atttypmod), 'collate ' || NULLIF(a.attcollation, 0)::pg_catalog.regcollation,
      'identity ' || NULLIF(a.attidentity::pg_catalog.text, ''), 'generated ' || NULLIF(a.attgenerated::pg_catalog.text, ''),
      CASE WHEN a.attnotnull THEN 'not null' END, 'number', a.attnum, 'xmin', a.xmin))
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0),
  'default of column', (SELECT pg_catalog.jsonb_object_agg(a.attname, 'xmin ' || d.xmin)
      FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
      WHERE d.adrelid = $1),
  'constraint', (SELECT pg_catalog.jsonb_object_agg(k.conname, pg_catalog.concat_ws(' ',
      CASE k.contype WHEN 'c' THEN 'check' WHEN 'n' THEN 'not null' WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique'
        WHEN 'x' THEN 'exclusion' ELSE k.contype::pg_catalog.text END, CASE WHEN NOT k.convalidated THEN 'not valid' END,
      CASE WHEN k.condeferrable THEN 'deferrable' END, CASE WHEN k.condeferred THEN 'initially deferred' END,
      'number', k.oid, CASE WHEN k.contype NOT IN ('p', 'u', 'x') THEN 'xmin ' || k.xmin END))
      FROM pg_catalog.pg_constraint k
      WHERE k.conrelid = $1 AND k.contype NOT IN ('f', 't')),
  'index', (SELECT pg_catalog.jsonb_object_agg(c.relname, pg_catalog.concat_ws(' ', CASE WHEN i.indisprimary THEN 'primary' END,
      CASE WHEN i.indisreplident THEN 'replica identity' END, CASE WHEN NOT i.indimmediate THEN 'deferrable' END,
      CASE WHEN NOT i.indisready THEN 'not ready' END, 'on columns number', i.indkey::pg_catalog.text))
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisvalid),
  'definition of index', (SELECT pg_catalog.jsonb_object_agg(c.relname, 'xmin ' || pg_catalog.md5(pg_catalog.concat_ws(' ', c.relam,
      i.indisunique, i.indnullsnotdistinct, i.indnkeyatts, i.indclass::pg_catalog.text, i.indcollation::pg_catalog.text,
      i.indoption::pg_catalog.text, pg_catalog.pg_get_expr(i.indexprs, i.indrelid), pg_catalog.pg_get_expr(i.indpred, i.indrelid))))
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisvalid),
  'function', (SELECT pg_catalog.jsonb_object_agg(f.name, 'xmin ' || pg_catalog.md5(pg_catalog.concat_ws(' ', p.prolang, p.prosrc,
      p.probin, p.prosqlbody::pg_catalog.text, p.proconfig::pg_catalog.text)))
      FROM pg_catalog.unnest($3::pg_catalog.text[]) f (name)
      JOIN pg_catalog.pg_proc p ON p.oid = pg_catalog.to_regprocedure(f.name)),
  'use of the row type', (SELECT pg_catalog.jsonb_object_agg(pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype)
      FROM pg_catalog.pg_type y JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
        AND d.refobjid IN (y.oid, y.typarray)
      WHERE y.typrelid = $1 AND NOT (d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = y.typarray)),
  'inheritance', (SELECT pg_catalog.jsonb_object_agg(pg_catalog.format('%s under %s',
      i.inhrelid::pg_catalog.regclass, i.inhparent::pg_catalog.regclass), i.inhseqno)
      FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
      WHERE $1 = i.inhrelid OR $1 = i.inhparent AND p.relkind <> 'p'),
  'extension', (SELECT pg_catalog.jsonb_object_agg(d.refobjid::pg_catalog.text, d.deptype) FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = $1 AND d.deptype IN ('e', 'x')),
  'security label', (SELECT pg_catalog.jsonb_object_agg(pg_catalog.concat_ws(' ', l.provider, l.objsubid), l.label)
      FROM pg_catalog.pg_seclabel l WHERE l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objoid = $1),
  'publication', (SELECT pg_catalog.jsonb_object_agg(p.pubname, pg_catalog.concat_ws(' ', p.oid, p.xmin, p.puballtables,
      p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, r.oid, r.xmin, r.prattrs::pg_catalog.text,
      CASE WHEN r.prqual IS NOT NULL THEN 'filtered' END))
      FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = $1
      WHERE p.pubname = $2 OR p.puballtables),
  'publication of schema', (SELECT pg_catalog.jsonb_object_agg(s.pnpubid, s.xmin) FROM pg_catalog.pg_publication_namespace s
      WHERE s.pnnspid = (SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = $1)))";
