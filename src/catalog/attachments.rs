//! What hangs on a table and is not carried through a swap by this version.
//!
//! Two nets: one query per kind of object with its name and mend, and below them `pg_depend`,
//! which knows every dependency, also of kinds nobody here has heard of.

use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::Statement;

use super::naming;
use super::parts;
use super::passing;
use super::read::parse;
use crate::error::{Error, Kind, Result};
use crate::pg::{Session, quote_ident};

/// One thing that would be lost or left behind.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Attachment {
    /// The kind of object, as a DBA calls it: `trigger`, `view`.
    pub kind: String,
    /// Its name, as `pg_describe_object` or the object itself says it.
    pub name: String,
}

/// Everything hung on the table `oid` that this version cannot carry over.
pub async fn attachments(session: &Session, oid: u32) -> Result<Vec<Attachment>> {
    parse(session.one(&sql(), &[&oid]).await?.get::<_, Value>(0))
}

fn sql() -> String {
    let parts = parts::tree("toid");
    format!(
        "WITH t AS (SELECT c.*, c.oid AS toid FROM pg_catalog.pg_class c WHERE c.oid = $1) \
         SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', kind, 'name', name) \
         ORDER BY kind, name), '[]') FROM (SELECT DISTINCT kind, name FROM ({}) u) x",
        KINDS
            .join(" UNION ALL ")
            .replace("FOLLOWS", FOLLOWS)
            .replace("PASSING", passing::OBJECTS)
            .replace("EXPRESSIONS", naming::EXPRESSIONS)
            .replace("OWN", naming::OWN)
            .replace("IS_INVALID", IS_INVALID)
            .replace(
                "PARTS",
                &format!("LATERAL (SELECT b.oid FROM {parts} b WHERE b.level > 0) p")
            )
    )
}

/// The same again and again: to plan it takes longer than to run it.
pub struct AttachmentsReader(Statement);

impl AttachmentsReader {
    /// Prepares the reading in `session`.
    pub async fn prepare(session: &Session) -> Result<Self> {
        Ok(AttachmentsReader(session.prepare(&sql()).await?))
    }

    /// [`check_attachments`], in the session that prepared it.
    pub async fn check(&self, session: &Session, oid: u32) -> Result<()> {
        let rows = session.run(&self.0, &[&oid]).await?;
        let row = rows.first().ok_or_else(|| Error::failed("PostgreSQL returned no row"))?;
        none_came(session, oid, &parse::<Vec<Attachment>>(row.get(0))?).await
    }
}

/// Voids a migration to whose source such a thing came in mid-run.
pub async fn check_attachments(session: &Session, oid: u32) -> Result<()> {
    none_came(session, oid, &attachments(session, oid).await?).await
}

async fn none_came(session: &Session, oid: u32, all: &[Attachment]) -> Result<()> {
    let came =
        all.iter().filter(|a| a.kind != INVALID_INDEX).map(|a| format!("{} {}", a.kind, a.name));
    let fed = subscriptions(session, oid).await?;
    let fed = fed.iter().map(|name| format!("subscription {}", quote_ident(name)));
    let came: Vec<String> = came.chain(fed).collect();
    if came.is_empty() {
        return Ok(());
    }
    let what =
        format!("this came to the table in mid-run and cannot follow it: {}", came.join(", "));
    Err(Error::new(Kind::NotResumable, what)
        .next("Drop it, and start again once what is left is removed"))
}

/// Indexes that are not valid: of a REINDEX CONCURRENTLY that is under way, or that failed. They pass, or
/// somebody drops them. A query of its own: it is asked in front of each attempt of the cutover.
pub async fn invalid_indexes(session: &Session, oid: u32) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT i.indexrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_index i \
         WHERE i.indrelid = $1 AND {IS_INVALID} ORDER BY 1"
    );
    let rows = session.query(&sql, &[&oid]).await?;
    Ok(rows.iter().map(|row| format!("{INVALID_INDEX} {}", row.get::<_, &str>(0))).collect())
}

/// As it is called below.
const INVALID_INDEX: &str = "invalid index";
const IS_INVALID: &str = "NOT (i.indisvalid AND i.indisready AND i.indislive)";

/// The subscriptions that feed the table `oid`: after a change of names their workers would skip every
/// change without a word.
pub async fn subscriptions(session: &Session, oid: u32) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT DISTINCT s.subname::pg_catalog.text FROM pg_catalog.pg_subscription_rel r
               JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid
               WHERE r.srrelid IN (SELECT b.oid FROM {} b) ORDER BY 1",
        parts::tree("$1::pg_catalog.oid")
    );
    Ok(session.query(&sql, &[&oid]).await?.iter().map(|row| row.get(0)).collect())
}

const KINDS: &[&str] = &[
    "SELECT 'foreign key of a partitioned table' AS kind, pg_catalog.format('%I on %s', k.conname, k.conrelid::pg_catalog.regclass) AS name
     FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid, t
     WHERE k.contype = 'f' AND k.confrelid = toid AND k.conparentid = 0 AND c.relkind = 'p'",
    "SELECT 'foreign key whose triggers are not the usual ones', pg_catalog.format('%I on %s', k.conname, k.conrelid::pg_catalog.regclass)
     FROM pg_catalog.pg_constraint k, t WHERE k.contype = 'f' AND toid IN (k.conrelid, k.confrelid)
       AND EXISTS (SELECT 1 FROM pg_catalog.pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgenabled <> 'O')",
    "SELECT 'materialized view', v.oid::pg_catalog.regclass::pg_catalog.text
     FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite w ON d.objid = w.oid
     JOIN pg_catalog.pg_class v ON v.oid = w.ev_class, t
     WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = toid AND v.relkind = 'm'",
    "SELECT 'inheritance', pg_catalog.format('%s under %s', i.inhrelid::pg_catalog.regclass, i.inhparent::pg_catalog.regclass)
     FROM pg_catalog.pg_inherits i, t WHERE i.inhrelid = toid OR i.inhparent = toid AND t.relkind <> 'p'",
    "SELECT 'constraint of a kind this version does not know', k.conname FROM pg_catalog.pg_constraint k, t
     WHERE k.conrelid = toid AND k.contype NOT IN ('p', 'u', 'c', 'n', 'f', 'x', 't')",
    "SELECT 'constraint trigger that names the table in its FROM', pg_catalog.format('%I on %s', g.tgname, g.tgrelid::pg_catalog.regclass)
     FROM pg_catalog.pg_trigger g, t WHERE g.tgconstrrelid = toid AND g.tgrelid <> toid AND NOT g.tgisinternal",
    "SELECT 'invalid index', i.indexrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_index i, t
     WHERE i.indrelid = toid AND IS_INVALID",
    "SELECT 'privilege of a kind this version does not know', a.privilege_type FROM t, pg_catalog.aclexplode(t.relacl) a
     WHERE a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')",
    "SELECT 'security label', l.label FROM pg_catalog.pg_seclabel l, t
     WHERE l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objoid = toid",
    "SELECT 'typed table', t.reloftype::pg_catalog.regtype::pg_catalog.text FROM t WHERE t.reloftype <> 0",
    "SELECT 'extension membership', pg_catalog.format('of %s in %s', pg_catalog.pg_describe_object(d.classid, d.objid, 0),
       pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)) FROM pg_catalog.pg_depend d, t
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('e', 'x')
       AND (d.objid = toid OR d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = toid
         UNION ALL SELECT i.objid FROM pg_catalog.pg_depend i WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
           AND i.refobjid = toid AND i.deptype = 'i' AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass))
     UNION ALL SELECT 'extension membership', pg_catalog.format('of %s in %s', pg_catalog.pg_describe_object(d.classid, d.objid, 0),
       pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)) FROM pg_catalog.pg_depend d, t
     WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND d.deptype = 'x'
       AND d.objid IN (SELECT g.oid FROM pg_catalog.pg_trigger g WHERE g.tgrelid = toid)",
    "SELECT 'privileges on the row type', t.relname::pg_catalog.text FROM t JOIN pg_catalog.pg_type y ON y.oid = t.reltype
     WHERE y.typacl IS NOT NULL",
    // Expressions that name the table itself, or what of its the new one gets under the same name, mean the
    // old ones wherever they are copied to.
    "SELECT 'expression that names the table or its own, in ' || e.kind, e.name FROM t, LATERAL (EXPRESSIONS) e
     WHERE e.tree OPERATOR(pg_catalog.~) ':varattno 0 ' OR e.tree OPERATOR(pg_catalog.~) ':consttype 2205 ' AND EXISTS (
       SELECT 1 FROM (OWN) o WHERE pg_catalog.strpos(e.text, '''' || pg_catalog.replace(
         o.oid::pg_catalog.regclass::pg_catalog.text, '''', '''''') || '''::regclass') > 0)",
    "SELECT 'identity sequence of another kind than its column', s.seqrelid::pg_catalog.regclass::pg_catalog.text
     FROM t JOIN pg_catalog.pg_depend d ON d.refobjid = toid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.deptype = 'i' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
     JOIN pg_catalog.pg_attribute a ON a.attrelid = toid AND a.attnum = d.refobjsubid
     WHERE s.seqtypid <> a.atttypid OR c.relpersistence <> t.relpersistence",
    // Whatever names one of its indexes ('t_pkey'::regclass): that goes with the old table, and nothing
    // says it again. Foreign keys are about the columns, and the table's own expressions are above.
    "SELECT 'use of an index by name', pg_catalog.format('%s by %s', x.indexrelid::pg_catalog.regclass,
       pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid))
     FROM t JOIN pg_catalog.pg_index x ON x.indrelid = toid
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = x.indexrelid
     WHERE d.deptype = 'n' AND (d.classid, d.objid) NOT IN (SELECT p.classid, p.objid FROM (PASSING) p)
       AND NOT (d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid IN (
         SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' OR k.conrelid = toid))
       AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid IN (
         SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = toid))
       AND NOT (d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND d.objid IN (
         SELECT s.oid FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = toid))
       AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f
         JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
         WHERE f.adrelid = toid AND a.attgenerated <> ''))",
    // What a partition has, or is named by, of its own: nothing of the new table is that partition.
    "SELECT 'trigger of a partition', pg_catalog.format('%I on %s', g.tgname, g.tgrelid::pg_catalog.regclass)
     FROM t, PARTS JOIN pg_catalog.pg_trigger g ON g.tgrelid = p.oid WHERE g.tgparentid = 0 AND NOT g.tgisinternal",
    "SELECT 'index of a partition', ic.oid::pg_catalog.regclass::pg_catalog.text
     FROM t, PARTS JOIN pg_catalog.pg_index i ON i.indrelid = p.oid JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
     WHERE NOT ic.relispartition AND i.indisvalid AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
       WHERE k.conindid = ic.oid AND k.contype IN ('p', 'u', 'x'))",
    "SELECT CASE k.contype WHEN 'f' THEN 'foreign key of a partition' ELSE 'constraint of a partition' END,
       pg_catalog.format('%I on %s', k.conname, k.conrelid::pg_catalog.regclass)
     FROM t, PARTS JOIN pg_catalog.pg_constraint k ON k.conrelid = p.oid
     WHERE k.contype = 'f' AND k.conparentid = 0 OR k.contype = 'c' AND k.coninhcount = 0
       OR k.contype IN ('p', 'u', 'x') AND NOT (SELECT ic.relispartition FROM pg_catalog.pg_class ic WHERE ic.oid = k.conindid)",
    "SELECT 'NOT NULL of a partition', pg_catalog.format('column %I of %s', a.attname, p.oid::pg_catalog.regclass)
     FROM t, PARTS JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid AND a.attnum > 0 AND a.attnotnull,
       pg_catalog.pg_attribute r WHERE r.attrelid = toid AND r.attname = a.attname AND NOT r.attnotnull",
    "SELECT 'foreign key to a partition', pg_catalog.format('%I on %s', k.conname, k.conrelid::pg_catalog.regclass)
     FROM t, PARTS JOIN pg_catalog.pg_constraint k ON k.confrelid = p.oid WHERE k.contype = 'f' AND k.conparentid = 0",
    "SELECT 'row security of a partition', p.oid::pg_catalog.regclass::pg_catalog.text FROM t, PARTS
     WHERE (SELECT c.relrowsecurity FROM pg_catalog.pg_class c WHERE c.oid = p.oid)
       OR EXISTS (SELECT 1 FROM pg_catalog.pg_policy y WHERE y.polrelid = p.oid)",
    "SELECT 'rule of a partition', pg_catalog.format('%I on %s', w.rulename, p.oid::pg_catalog.regclass)
     FROM t, PARTS JOIN pg_catalog.pg_rewrite w ON w.ev_class = p.oid",
    "SELECT 'extended statistics of a partition', pg_catalog.format('%s.%I', s.stxnamespace::pg_catalog.regnamespace, s.stxname)
     FROM t, PARTS JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = p.oid",
    "SELECT 'publication of a partition', pg_catalog.format('%s in %I', p.oid::pg_catalog.regclass, b.pubname)
     FROM t, PARTS JOIN pg_catalog.pg_publication_rel r ON r.prrelid = p.oid JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
     WHERE b.pubname OPERATOR(pg_catalog.!~) '^pgwraith_[0-9]+$'",
    "SELECT 'use of a partition by name', pg_catalog.format('%s by %s', p.oid::pg_catalog.regclass,
       pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid))
     FROM t, PARTS JOIN pg_catalog.pg_class c ON c.oid = p.oid JOIN pg_catalog.pg_depend d ON d.deptype = 'n' AND (
       d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = p.oid
       OR d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid = c.reltype)
     WHERE d.classid NOT IN ('pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass,
         'pg_catalog.pg_publication_rel'::pg_catalog.regclass)
       AND (d.classid, d.objid) NOT IN (SELECT g.classid, g.objid FROM (PASSING) g)
       AND NOT (d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
         AND d.objid IN (SELECT g.oid FROM pg_catalog.pg_trigger g WHERE g.tgrelid = p.oid))
       AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
         AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = p.oid))
       AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
         AND d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = p.oid))",
    // The nets below: whatever refers to the row type, which no other table can have;
    "SELECT 'dependent object', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d, t
     WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
       AND d.refobjid IN (SELECT y.oid FROM pg_catalog.pg_type y WHERE y.oid = t.reltype
         OR y.oid = (SELECT z.typarray FROM pg_catalog.pg_type z WHERE z.oid = t.reltype))
       AND NOT (d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'i')",
    // whatever refers to the table and is neither one of its own parts that the model carries
    // (defaults, constraints, indexes, owned sequences, statistics, toast) nor of a kind that follows it;
    "SELECT 'dependent object', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d, t
     WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = toid
       AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = toid)
       AND NOT (d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'i')
       AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
         AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = toid))
       AND NOT (d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
         AND d.objid IN (SELECT k.oid FROM pg_catalog.pg_constraint k WHERE toid IN (k.conrelid, k.confrelid)))
       AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
         AND (d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = toid)
           OR d.objid = t.reltoastrelid
           OR d.deptype IN ('a', 'i') AND d.objid IN (SELECT s.seqrelid FROM pg_catalog.pg_sequence s)
           OR d.objid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = toid)))
       AND NOT (d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
         AND d.objid IN (SELECT g.oid FROM pg_catalog.pg_trigger g WHERE toid IN (g.tgrelid, g.tgconstrrelid)))
       AND NOT (FOLLOWS)
       AND NOT (d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
         AND d.objid IN (SELECT x.oid FROM pg_catalog.pg_statistic_ext x WHERE x.stxrelid = toid))
       AND NOT (d.classid = 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
         AND d.objid IN (SELECT r.oid FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = toid))
       AND d.classid <> 'pg_catalog.pg_rewrite'::pg_catalog.regclass",
    // and whatever calls the sequence of an identity column, since the shadow gets one of its own. A
    // serial's moves.
    "SELECT 'use of an identity sequence', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
     FROM t JOIN pg_catalog.pg_depend i ON i.refobjid = toid AND i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND i.deptype = 'i' AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     JOIN pg_catalog.pg_sequence s ON s.seqrelid = i.objid
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = s.seqrelid
     WHERE NOT (d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'i')
       AND NOT (FOLLOWS)
       AND NOT (d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid IN (SELECT w.oid FROM pg_catalog.pg_rewrite w
         JOIN pg_catalog.pg_class v ON v.oid = w.ev_class WHERE v.relkind <> 'm'))
       AND NOT (d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
         AND d.objid IN (SELECT g.oid FROM pg_catalog.pg_trigger g WHERE g.tgrelid = toid))",
];

/// What [`super::carried`] replaces by itself: functions, policies, defaults.
const FOLLOWS: &str = "
  d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    AND d.objid IN (SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.prokind <> 'a')
  OR d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
  OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f
    JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum WHERE a.attgenerated = '')";
