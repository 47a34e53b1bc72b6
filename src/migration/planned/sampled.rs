//! Rows from all over the table, tried on the new one before anybody relies on the plan.

use crate::catalog::Table;
use crate::error::Result;
use crate::flow::chunk::Kind;
use crate::flow::key::{Key, array_parameters, key_arrays};
use crate::flow::sync::describe_key;
use crate::flow::{Flow, sample};
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};
use crate::shadow::set_role;

/// About so many are tried.
const ROWS: i64 = 500;
/// So many that do not fit are named.
const NAMED: usize = 3;

/// What came of them, for people; None where they were not tried. In the open transaction that made the new table, which is
/// rolled back.
pub(super) async fn tried(
    session: &Session,
    source: &Table,
    target: &Table,
    flow: &Flow,
) -> Result<Option<String>> {
    // TABLESAMPLE does not go through a view; and what a default takes from a sequence would be gone.
    if flow.captured.view().is_some() || calls_defaults(flow, target) {
        return Ok(None);
    }
    let Some(percent) = sample::percent(session, flow).await? else { return Ok(None) };
    session.batch(&format!("SAVEPOINT sampled; {}", set_role(Some(&source.owner)))).await?;
    let found = Sample { session, flow }.misfits(percent).await;
    session.batch("ROLLBACK TO SAVEPOINT sampled; RELEASE SAVEPOINT sampled").await?;
    match found {
        Ok(found) => Ok(Some(told(&found))),
        // It takes too long, or is not for rows of a sample to say.
        Err(e) if e.db().is_some() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the server gives rows values that are neither of the new table's own sequence nor follow from the row.
fn calls_defaults(flow: &Flow, target: &Table) -> bool {
    flow.projection.iter().filter(|p| p.expression.is_none()).any(|p| {
        target
            .column_named(&p.column)
            .is_some_and(|c| c.generated.is_empty() && c.identity.is_empty())
    })
}

/// How many were tried, and of some that do not fit the key and why.
type Found = (usize, Vec<(String, String)>);

fn told((tried, misfits): &Found) -> String {
    let all: Vec<String> = misfits.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    match all.is_empty() {
        true => format!("{tried} rows from all over the table were tried: they fit the new one"),
        false => format!(
            "of {tried} rows from all over the table these, at least, do not fit the new one, and a run stops at them: {}. Mend \
             them, or say how they are to be converted (USING, --map)",
            all.join("; ")
        ),
    }
}

struct Sample<'a> {
    session: &'a Session,
    flow: &'a Flow,
}

impl Sample<'_> {
    async fn misfits(&self, percent: f32) -> Result<Found> {
        let (session, flow) = (self.session, self.flow);
        // Those of the key, whatever order rows are copied in.
        let course = flow.course(Kind::Verify);
        let rows = session.query(&flow.sample_keys(&course), &[&percent, &ROWS]).await?;
        let keys: Vec<Key> = rows.iter().map(|row| Key::of_row(row, flow.key.len())).collect();
        let (mut rest, mut misfits) = (vec![&keys[..]], Vec::new());
        while let Some(part) = rest.pop().filter(|_| misfits.len() < NAMED) {
            let why = match self.insert(part).await {
                Err(e) if classify(&e) == Class::RowsDoNotFit => e.what().to_owned(),
                done => {
                    done?;
                    continue;
                }
            };
            match part {
                [key] => misfits.push((describe_key(session, flow, key).await?, why)),
                part => {
                    let (first, second) = part.split_at(part.len() / 2);
                    rest.extend([second, first]);
                }
            }
        }
        Ok((keys.len(), misfits))
    }

    async fn insert(&self, keys: &[Key]) -> Result<()> {
        let arrays = key_arrays(self.flow.key_type_oids(), keys);
        self.session.batch("SAVEPOINT part").await?;
        let done = self.session.execute(&self.flow.insert_keys(), &array_parameters(&arrays)).await;
        self.session.batch("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
        done.map(drop)
    }
}
