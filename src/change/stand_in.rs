//! Empty relations that stand for others while a change is tried: nothing that is in use is touched,
//! or locked against anybody.

use super::clone::{about_the_change, set_role};
use super::retarget::retarget;
use crate::catalog::{Partner, Table};
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, Session, quote_ident};

/// The columns of the relation $1: of a table like it, and of a view; and its primary key.
const COLUMNS: &str = "
SELECT COALESCE(pg_catalog.string_agg(pg_catalog.format('%I %s%s', name, type, coll), ', ' ORDER BY n), ''),
  COALESCE(pg_catalog.string_agg(pg_catalog.format('CAST(NULL AS %s)%s AS %I', type, coll, name), ', ' ORDER BY n), ''),
  (SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'p')
FROM (SELECT a.attnum AS n, a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
    CASE WHEN c.oid <> y.typcollation THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) ELSE '' END AS coll
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
  LEFT JOIN (pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace) ON c.oid = a.attcollation
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped) x";

/// The keys of the table $1 that a foreign key may refer to, but for the primary one: as constraints, or as what
/// follows the table's name in CREATE UNIQUE INDEX.
const KEYS: &str = "
SELECT u.oid IS NOT NULL, COALESCE(pg_catalog.pg_get_constraintdef(u.oid), pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid),
    pg_catalog.length(pg_catalog.format('CREATE UNIQUE INDEX %I ON %s%I.%I ', x.relname,
      CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END, n.nspname, c.relname)) + 1))
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_constraint u ON u.conindid = i.indexrelid AND u.conrelid = i.indrelid AND u.contype = 'u'
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND NOT i.indisprimary AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indexrelid";

/// Which columns of the table $1 the role $2 may read, and refer to.
const RIGHTS: &str = "
SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE
    pg_catalog.has_column_privilege($2::pg_catalog.name, a.attrelid, a.attnum, 'SELECT')),
  pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE
    pg_catalog.has_column_privilege($2::pg_catalog.name, a.attrelid, a.attnum, 'REFERENCES'))
FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

fn cannot(e: Error, real: &QualifiedName) -> Error {
    match about_the_change(&e) {
        true => Error::new(
            Kind::Refused,
            format!("what follows cannot be tried on a copy of {real}: {}", e.what()),
        )
        .state("Nothing was touched")
        .next("GRANT the connecting role what it lacks"),
        false => e,
    }
}

/// The stand-ins of one rehearsal, the clone first. Each has the name of what it stands for, since
/// expressions say that without its schema too; schemas stand for schemas.
pub(super) struct StandIns<'a> {
    session: &'a Session,
    schemas: Vec<(String, String)>,
    /// What stands for what.
    moves: Vec<(QualifiedName, QualifiedName)>,
    /// The source, whose clone is the first of `moves`.
    source: u32,
    /// What the others of `moves` stand for, in their order.
    partners: Vec<Partner>,
    /// Those that have all keys that one may refer to.
    keyed: Vec<u32>,
}

impl<'a> StandIns<'a> {
    /// `clone` stands for `source`.
    pub(super) fn new(session: &'a Session, source: &Table, clone: &QualifiedName) -> StandIns<'a> {
        StandIns {
            session,
            schemas: vec![(source.schema.clone(), clone.schema.clone())],
            moves: vec![(source.qualified(), clone.clone())],
            source: source.oid,
            partners: Vec::new(),
            keyed: Vec::new(),
        }
    }

    /// What stands for `real`.
    pub(super) async fn of(&mut self, real: &Partner) -> Result<QualifiedName> {
        self.made(real, "TABLE", Some(&real.owner)).await
    }

    /// What stands for a table that a new foreign key refers to: with every key that one may refer to, and the
    /// source's owner may do with it what he may do with the real one. Whoever refers to a table need not be a
    /// member of its owner's role, so that it may be the tool's own.
    pub(super) async fn referenced(
        &mut self,
        real: &Partner,
        unlogged: bool,
        source: &Table,
    ) -> Result<()> {
        if real.oid == self.source || self.keyed.contains(&real.oid) {
            return Ok(());
        }
        let mut ends = source.foreign_keys.iter().flat_map(|key| [&key.from, &key.to]);
        let owner = match ends.any(|end| end.oid == real.oid) || self.may_give(&real.owner).await? {
            true => Some(real.owner.as_str()),
            false => None,
        };
        let kind = if unlogged { "UNLOGGED TABLE" } else { "TABLE" };
        let stand_in = self.made(real, kind, owner).await?;
        let completed = self.complete(real, &stand_in, owner, &source.owner).await;
        completed.map_err(|e| cannot(e, &real.qualified()))?;
        self.keyed.push(real.oid);
        Ok(())
    }

    /// Whether the tool's role may give what is its own to `owner`, and go on with it.
    async fn may_give(&self, owner: &str) -> Result<bool> {
        let how = if self.session.version() >= 160_000 { "SET" } else { "MEMBER" };
        let sql = "SELECT pg_catalog.pg_has_role(session_user, $1::pg_catalog.name, 'USAGE') \
                     AND pg_catalog.pg_has_role(session_user, $1::pg_catalog.name, $2)";
        Ok(self.session.one(sql, &[&owner, &how]).await?.get(0))
    }

    async fn complete(
        &self,
        real: &Partner,
        stand_in: &QualifiedName,
        owner: Option<&str>,
        refers: &str,
    ) -> Result<()> {
        let session = self.session;
        set_role(session, None).await?;
        for (n, row) in session.query(KEYS, &[&real.oid]).await?.iter().enumerate() {
            let (name, key) = (quote_ident(&format!("pgwraith_key_{n}")), row.get::<_, &str>(1));
            let add = match row.get(0) {
                true => format!("ALTER TABLE {stand_in} ADD CONSTRAINT {name} {key}"),
                false => format!("CREATE UNIQUE INDEX {name} ON {stand_in} {key}"),
            };
            session.batch(&add).await?;
        }
        if owner.is_none() {
            // It may be the source's owner himself, who has no right on the real one but those below.
            session.batch(&format!("REVOKE ALL ON TABLE {stand_in} FROM CURRENT_USER")).await?;
        }
        let rights = session.one(RIGHTS, &[&real.oid, &refers]).await?;
        for (n, right) in ["SELECT", "REFERENCES"].into_iter().enumerate() {
            let Some(columns) = rights.get::<_, Option<&str>>(n) else { continue };
            let to = quote_ident(refers);
            session
                .batch(&format!("GRANT {right} ({columns}) ON TABLE {stand_in} TO {to}"))
                .await?;
        }
        Ok(())
    }

    async fn made(
        &mut self,
        real: &Partner,
        kind: &str,
        owner: Option<&str>,
    ) -> Result<QualifiedName> {
        let name = real.qualified();
        if let Some((_, stand_in)) = self.moves.iter().find(|(from, _)| *from == name) {
            return Ok(stand_in.clone());
        }
        let stand_in = QualifiedName::new(self.schema(&real.schema).await?, &real.name);
        self.make(real, &stand_in, kind, owner).await.map_err(|e| cannot(e, &name))?;
        self.moves.push((name, stand_in.clone()));
        self.partners.push(real.clone());
        Ok(stand_in)
    }

    /// By the tool's role, for its owner: he may lack a right on what is his (that to see its schema, or
    /// to use a column's type), which he does not need for what follows. So the columns' types are all
    /// that is named.
    async fn make(
        &self,
        real: &Partner,
        stand_in: &QualifiedName,
        kind: &str,
        owner: Option<&str>,
    ) -> Result<()> {
        let row = self.session.one(COLUMNS, &[&real.oid]).await?;
        let (kind, body) = match real.kind {
            'v' => ("VIEW", format!("AS SELECT {}", row.get::<_, &str>(1))),
            _ => (kind, format!("({})", row.get::<_, &str>(0))),
        };
        set_role(self.session, None).await?;
        let mut make = format!("CREATE {kind} {stand_in} {body}; ");
        // A view may group by it, and select what depends on it.
        if let Some(key) = row.get::<_, Option<&str>>(2) {
            make.push_str(&format!("ALTER TABLE {stand_in} ADD {key}; "));
        }
        if let Some(owner) = owner {
            let kind = if real.kind == 'v' { "VIEW" } else { "TABLE" };
            make.push_str(&format!("ALTER {kind} {stand_in} OWNER TO {}", quote_ident(owner)));
        }
        self.session.batch(&make).await
    }

    async fn schema(&mut self, real: &str) -> Result<String> {
        if let Some((_, schema)) = self.schemas.iter().find(|(from, _)| from == real) {
            return Ok(schema.clone());
        }
        let schema = format!("{}_{}", self.schemas[0].1, self.schemas.len());
        let quoted = quote_ident(&schema);
        set_role(self.session, None).await?;
        self.session
            .batch(&format!("CREATE SCHEMA {quoted}; GRANT ALL ON SCHEMA {quoted} TO PUBLIC"))
            .await?;
        self.schemas.push((real.to_owned(), schema.clone()));
        Ok(schema)
    }

    /// What stands for what: the real one first.
    pub(super) fn moves(&self) -> &[(QualifiedName, QualifiedName)] {
        &self.moves
    }

    /// The same statement about the stand-ins.
    pub(super) fn staged(&self, sql: &str) -> String {
        retarget(sql, &self.moves)
    }

    /// The same statement about the clone and the stand-in of `relation` alone. What it only reads stays
    /// the real one, as at the swap: a stand-in has neither its row type, which functions may take, nor
    /// its constraints, which ON CONFLICT may name.
    pub(super) fn staged_about(&self, sql: &str, relation: Option<&QualifiedName>) -> String {
        let about = |real: &QualifiedName| *real == self.moves[0].0 || Some(real) == relation;
        let moves: Vec<_> = self.moves.iter().filter(|(real, _)| about(real)).cloned().collect();
        retarget(sql, &moves)
    }

    /// The same about what they stand for.
    pub(super) fn unstaged(&self, sql: &str) -> String {
        let back: Vec<_> = self.moves.iter().map(|(a, b)| (b.clone(), a.clone())).collect();
        retarget(sql, &back)
    }

    /// Whether it stands for the source.
    pub(super) fn is_clone(&self, stand_in: &QualifiedName) -> bool {
        self.moves[0].1 == *stand_in
    }

    /// What else `stand_in` stands for.
    pub(super) fn original(&self, stand_in: &QualifiedName) -> Option<&Partner> {
        let mut others = self.moves[1..].iter().zip(&self.partners);
        others.find(|((_, to), _)| to == stand_in).map(|(_, real)| real)
    }

    /// What stands for the relation `real`, if anything does.
    pub(super) fn stand_in(&self, real: u32) -> Option<&QualifiedName> {
        let reals = [self.source].into_iter().chain(self.partners.iter().map(|real| real.oid));
        reals.zip(&self.moves).find(|(oid, _)| *oid == real).map(|(_, (_, to))| to)
    }

    /// A message about stand-ins, as one about what they stand for.
    pub(super) fn told(&self, message: &str) -> String {
        // Longer names first: they begin with the first.
        self.schemas.iter().rev().enumerate().fold(
            message.to_owned(),
            |text, (n, (real, schema))| {
                let own = n + 1 == self.schemas.len();
                let real = if own { String::new() } else { format!("{real}.") };
                text.replace(&format!("{schema}."), &real)
            },
        )
    }
}
