//! Whether anything that the swap's statements were rendered from was changed since.
//!
//! Behind the cutover's first lock nobody can alter the table itself. But GRANT takes no lock at all,
//! a view is made with one that we do not stop, and what hangs on the table (a policy of another table,
//! a function, a publication) is locked by nobody until the attempt, if ever. Every catalog row that was
//! read has a version; all of them together are compared under the lock. A GRANT on a column whose
//! transaction is still open has made no version that can be seen, and writes no row that the swap writes:
//! it shows by the old one's xmax, and is waited for.
//!
//! What those definitions mention (another table of a view, a function of a trigger) is locked by nobody
//! and known by its name alone until they are read again: after that the names must be what they were
//! ([`Mentions`]).

use tokio_postgres::Statement;

use crate::error::{Error, Result};
use crate::pg::Session;

/// The versions of the catalogs' rows about some tables and all that hangs on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(String);

/// The reading, prepared: under the cutover lock there is no time to plan it.
pub struct StampReader(Statement);

impl StampReader {
    /// Prepares the reading in `session`.
    pub async fn prepare(session: &Session) -> Result<Self> {
        Ok(StampReader(session.prepare(&format!("{HANGING} {VERSIONS}")).await?))
    }

    /// Reads the stamp of tables in the session that prepared it. What the backend `ours` has not committed
    /// does not count.
    pub async fn read(&self, session: &Session, tables: &[u32], ours: i32) -> Result<Stamp> {
        let rows = session.run(&self.0, &[&tables, &ours]).await?;
        let row = rows.first().ok_or_else(|| Error::failed("PostgreSQL returned no stamp"))?;
        Ok(Stamp(row.get(0)))
    }
}

/// What the definitions of all that hangs on a table mention.
#[derive(Debug, Clone)]
pub struct Mentions {
    relations: Vec<u32>,
    functions: Vec<u32>,
    types: Vec<u32>,
    operators: Vec<u32>,
    named: String,
}

/// The reading of the names, prepared.
pub struct MentionsReader(Statement);

impl MentionsReader {
    /// Prepares the reading in `session`.
    pub async fn prepare(session: &Session) -> Result<Self> {
        Ok(MentionsReader(session.prepare(NAMES).await?))
    }

    /// What hangs on `tables` mentions, with its names as they are now; the tables themselves left out, and
    /// what is ours.
    pub async fn read(&self, session: &Session, tables: &[u32]) -> Result<Mentions> {
        let row = session.one(&format!("{HANGING} {MENTIONED}"), &[&tables]).await?;
        let mut mentions = Mentions {
            relations: row.get(0),
            functions: row.get(1),
            types: row.get(2),
            operators: row.get(3),
            named: String::new(),
        };
        mentions.named = self.names(session, &mentions).await?;
        Ok(mentions)
    }

    /// Whether all of them have the names they had.
    pub async fn as_before(&self, session: &Session, mentions: &Mentions) -> Result<bool> {
        Ok(self.names(session, mentions).await? == mentions.named)
    }

    async fn names(&self, session: &Session, m: &Mentions) -> Result<String> {
        let rows =
            session.run(&self.0, &[&m.relations, &m.functions, &m.types, &m.operators]).await?;
        let row = rows.first().ok_or_else(|| Error::failed("PostgreSQL returned no names"))?;
        Ok(row.get(0))
    }
}

const MENTIONED: &str = ", mentioned AS (
  SELECT DISTINCT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
  JOIN object o ON o.classid = d.classid AND o.objid = d.objid WHERE d.refobjid <> ALL ($1) AND d.deptype = 'n')
SELECT ARRAY(SELECT refobjid FROM mentioned WHERE refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND refobjid NOT IN (SELECT own.oid FROM own)
    AND refobjid NOT IN (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgwraith')),
  ARRAY(SELECT refobjid FROM mentioned WHERE refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass),
  ARRAY(SELECT refobjid FROM mentioned WHERE refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass),
  ARRAY(SELECT refobjid FROM mentioned WHERE refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass)";

const NAMES: &str = "
SELECT pg_catalog.md5(COALESCE(pg_catalog.string_agg(pg_catalog.concat_ws(' ', x.of, x.oid, x.name, n.nspname), ',' ORDER BY x.of, x.oid, x.name), ''))
FROM (
  SELECT 'c' AS of, c.oid, c.relname::pg_catalog.text AS name, c.relnamespace AS namespace FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)
  UNION ALL SELECT 'a', a.attrelid, a.attnum || ' ' || a.attname, NULL FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0
  UNION ALL SELECT 'f', p.oid, p.proname, p.pronamespace FROM pg_catalog.pg_proc p WHERE p.oid = ANY ($2)
  UNION ALL SELECT 't', t.oid, t.typname, t.typnamespace FROM pg_catalog.pg_type t WHERE t.oid = ANY ($3)
  UNION ALL SELECT 'o', o.oid, o.oprname, o.oprnamespace FROM pg_catalog.pg_operator o WHERE o.oid = ANY ($4)) x
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = x.namespace";

// `own`: the tables, their indexes and sequences. `object`: what depends on those. `relation`: `own`, what
// rules, policies and defaults among the objects belong to, and the other ends of foreign keys.
const HANGING: &str = "
WITH own AS (
  SELECT t.oid FROM pg_catalog.unnest($1::pg_catalog.oid[]) t (oid)
  UNION SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = ANY ($1)
  UNION SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = ANY ($1)
      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')),
object AS (
  SELECT DISTINCT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN own ON own.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass)";

const VERSIONS: &str = ", relation AS (
  SELECT own.oid FROM own
  UNION SELECT w.ev_class FROM pg_catalog.pg_rewrite w JOIN object o ON o.objid = w.oid AND o.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
  UNION SELECT p.polrelid FROM pg_catalog.pg_policy p JOIN object o ON o.objid = p.oid AND o.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
  UNION SELECT e.oid FROM pg_catalog.pg_constraint k, LATERAL (VALUES (k.conrelid), (k.confrelid)) e (oid)
    WHERE k.contype = 'f' AND (k.conrelid = ANY ($1) OR k.confrelid = ANY ($1))
  UNION SELECT f.adrelid FROM pg_catalog.pg_attrdef f JOIN object o ON o.objid = f.oid AND o.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass),
version AS (
  SELECT 'c' AS of, r.oid, c.xmin::pg_catalog.text AS xmin FROM relation r JOIN pg_catalog.pg_class c ON c.oid = r.oid
  UNION ALL SELECT 'a', a.attrelid, a.attnum || ' ' || a.xmin || CASE WHEN a.xmax::pg_catalog.text <> '0' AND EXISTS (
      SELECT 1 FROM pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' AND l.transactionid = a.xmax AND l.granted AND l.pid IS DISTINCT FROM $2)
      THEN ' granted just now in ' || pg_catalog.clock_timestamp() ELSE '' END
    FROM own JOIN pg_catalog.pg_attribute a ON a.attrelid = own.oid
  UNION ALL SELECT 's', s.seqrelid, s.xmin::pg_catalog.text FROM own JOIN pg_catalog.pg_sequence s ON s.seqrelid = own.oid
  UNION ALL SELECT 'w', w.oid, w.xmin::pg_catalog.text FROM object o JOIN pg_catalog.pg_rewrite w ON w.oid = o.objid
    WHERE o.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
  UNION ALL SELECT 'p', p.oid, p.xmin::pg_catalog.text FROM object o JOIN pg_catalog.pg_policy p ON p.oid = o.objid
    WHERE o.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
  UNION ALL SELECT 'f', p.oid, p.xmin::pg_catalog.text FROM object o JOIN pg_catalog.pg_proc p ON p.oid = o.objid
    WHERE o.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
  UNION ALL SELECT 'd', f.oid, f.xmin::pg_catalog.text FROM object o JOIN pg_catalog.pg_attrdef f ON f.oid = o.objid
    WHERE o.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
  UNION ALL SELECT 'y', y.oid, y.xmin::pg_catalog.text FROM object o JOIN pg_catalog.pg_type y ON y.oid = o.objid
    WHERE o.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
  UNION ALL SELECT 'k', k.oid, k.xmin::pg_catalog.text FROM pg_catalog.pg_constraint k WHERE k.conrelid = ANY ($1) OR k.confrelid = ANY ($1)
  UNION ALL SELECT 't', g.oid, g.xmin::pg_catalog.text FROM pg_catalog.pg_trigger g WHERE g.tgrelid = ANY ($1)
  UNION ALL SELECT 'x', x.oid, x.xmin::pg_catalog.text FROM pg_catalog.pg_statistic_ext x WHERE x.stxrelid = ANY ($1)
  UNION ALL SELECT 'm', r.oid, r.xmin || ' ' || p.xmin || ' ' || p.pubname FROM pg_catalog.pg_publication_rel r
    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = ANY ($1)
  UNION ALL SELECT 'b', r.srsubid, NULL FROM pg_catalog.pg_subscription_rel r WHERE r.srrelid = ANY ($1)
  UNION ALL SELECT 'o', o.objid, o.classid::pg_catalog.text FROM object o
  UNION ALL SELECT 'n', n.objoid, n.objsubid || ' ' || n.xmin FROM pg_catalog.pg_description n
    WHERE (n.classoid, n.objoid) IN (SELECT o.classid, o.objid FROM object o
      UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, own.oid FROM own))
SELECT pg_catalog.md5(COALESCE(pg_catalog.string_agg(pg_catalog.concat_ws(' ', of, oid, xmin), ',' ORDER BY of, oid, xmin), ''))
FROM version";
