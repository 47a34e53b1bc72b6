//! Empty relations that stand for others while a change is tried: nothing that is in use is touched,
//! or locked against anybody.

use super::clone::set_role;
use super::retarget::retarget;
use crate::catalog::Partner;
use crate::error::Result;
use crate::pg::{QualifiedName, Session, quote_ident};

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
        set_role(self.session, Some(&real.owner)).await?;
        let make = match real.kind {
            'v' => format!("CREATE VIEW {stand_in} AS SELECT * FROM {name}"),
            _ => format!("CREATE TABLE {stand_in} (LIKE {name})"),
        };
        self.session.batch(&make).await?;
        self.moves.push((name, stand_in.clone()));
        Ok(stand_in)
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
