//! Empty relations that stand for others while a change is tried: nothing that is in use is touched,
//! or locked against anybody.

use super::clone::{about_the_change, set_role};
use super::retarget::retarget;
use crate::catalog::Partner;
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
}

impl<'a> StandIns<'a> {
    /// `clone` stands for `source`.
    pub(super) fn new(
        session: &'a Session,
        source: &QualifiedName,
        clone: &QualifiedName,
    ) -> StandIns<'a> {
        StandIns {
            session,
            schemas: vec![(source.schema.clone(), clone.schema.clone())],
            moves: vec![(source.clone(), clone.clone())],
        }
    }

    /// What stands for `real`.
    pub(super) async fn of(&mut self, real: &Partner) -> Result<QualifiedName> {
        let name = real.qualified();
        if let Some((_, stand_in)) = self.moves.iter().find(|(from, _)| *from == name) {
            return Ok(stand_in.clone());
        }
        let stand_in = QualifiedName::new(self.schema(&real.schema).await?, &real.name);
        self.make(real, &stand_in).await.map_err(|e| cannot(e, &name))?;
        self.moves.push((name, stand_in.clone()));
        Ok(stand_in)
    }

    /// By the tool's role, for its owner: he may lack a right on what is his (that to see its schema, or
    /// to use a column's type), which he does not need for what follows. So the columns' types are all
    /// that is named.
    async fn make(&self, real: &Partner, stand_in: &QualifiedName) -> Result<()> {
        let row = self.session.one(COLUMNS, &[&real.oid]).await?;
        let (kind, body) = match real.kind {
            'v' => ("VIEW", format!("AS SELECT {}", row.get::<_, &str>(1))),
            _ => ("TABLE", format!("({})", row.get::<_, &str>(0))),
        };
        let owner = quote_ident(&real.owner);
        set_role(self.session, None).await?;
        let mut make = format!("CREATE {kind} {stand_in} {body}; ");
        // A view may group by it, and select what depends on it.
        if let Some(key) = row.get::<_, Option<&str>>(2) {
            make.push_str(&format!("ALTER TABLE {stand_in} ADD {key}; "));
        }
        make.push_str(&format!("ALTER {kind} {stand_in} OWNER TO {owner}"));
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

    /// What `stand_in` stands for.
    pub(super) fn original(&self, stand_in: &QualifiedName) -> Option<&QualifiedName> {
        self.moves.iter().find(|(_, to)| to == stand_in).map(|(from, _)| from)
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
