//! The tables that new foreign keys refer to. ADD FOREIGN KEY locks the table that it names against writers until the
//! transaction is over, so the change is tried with stand-ins there as well, by whatever name the operator calls
//! the real ones.

use super::alter::not_possible;
use super::clauses::{Token, tokens};
use super::clone::set_role;
use super::stand_in::StandIns;
use crate::catalog::{Partner, Table};
use crate::error::{Error, Result};
use crate::pg::{Session, quote_ident};

/// Makes stand-ins for the tables that the clauses refer to. The session acts as the source's owner afterwards.
pub(super) async fn stand_in(
    session: &Session,
    source: &Table,
    alters: &[String],
    stand_ins: &mut StandIns<'_>,
) -> Result<()> {
    for clauses in alters {
        for named in named(clauses)? {
            set_role(session, Some(&source.owner)).await?;
            let meant = meant(session, &named).await;
            let meant = meant.map_err(|e| not_possible(clauses, e, stand_ins))?;
            if let Some(Meant { real, unlogged }) = meant {
                stand_ins.referenced(&real, unlogged, source).await?;
            }
        }
    }
    set_role(session, Some(&source.owner)).await
}

/// The clauses, about stand-ins.
pub(super) async fn staged(
    session: &Session,
    clauses: &str,
    stand_ins: &StandIns<'_>,
) -> Result<String> {
    let mut out = clauses.to_owned();
    for named in named(clauses)?.iter().rev() {
        let meant = meant(session, named).await;
        let meant = meant.map_err(|e| not_possible(clauses, e, stand_ins))?;
        // PostgreSQL says what is wrong with it, before it takes a lock.
        let Some(Meant { real, .. }) = meant else { continue };
        let Some(to) = stand_ins.stand_in(real.oid) else {
            let what = format!("{} came while the change was tried", real.qualified());
            return Err(Error::failed(what).state("Nothing was touched").next("Start again"));
        };
        out.replace_range(named.start..named.end, &to.to_string());
    }
    Ok(out)
}

/// A table as clauses name it, and where.
#[derive(Debug, PartialEq)]
struct Named {
    parts: Vec<String>,
    start: usize,
    end: usize,
}

/// The table that is meant.
struct Meant {
    real: Partner,
    unlogged: bool,
}

/// None where it is no table that a key may refer to. The name means what it means to the operator's own session.
async fn meant(session: &Session, named: &Named) -> Result<Option<Meant>> {
    let sql = "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, r.rolname::pg_catalog.text, c.relkind::pg_catalog.text, \
                 c.relrowsecurity AND c.relforcerowsecurity, c.relpersistence = 'u' \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner \
               WHERE c.oid = $1 AND c.relkind IN ('r', 'p') AND n.nspname <> 'pg_catalog'";
    let name: Vec<String> = named.parts.iter().map(|part| quote_ident(part)).collect();
    session.batch("RESET search_path").await?;
    let found = session
        .one("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[&name.join(".")])
        .await?;
    session.batch("SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let Some(oid) = found.get::<_, Option<u32>>(0) else { return Ok(None) };
    let row = session.maybe(sql, &[&oid]).await?;
    Ok(row.map(|row| Meant {
        real: Partner {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            owner: row.get(3),
            kind: row.get::<_, &str>(4).chars().next().unwrap_or('r'),
            forces_row_security: row.get(5),
        },
        unlogged: row.get(6),
    }))
}

/// What REFERENCES names in the clauses of one ALTER TABLE. The word is reserved: outside of parentheses it is
/// nothing else, but for a column behind a dot.
fn named(clauses: &str) -> Result<Vec<Named>> {
    let tokens = tokens(clauses);
    let is_it = |at: usize| {
        let after_dot = at > 0 && tokens[at - 1].is_sign(".");
        tokens[at].is("references") && tokens[at].is_outside() && !after_dot
    };
    let all = (0..tokens.len()).filter(|at| is_it(*at));
    all.filter_map(|at| name(&tokens[at + 1..]).transpose()).collect()
}

/// The name that the tokens begin with; None where they begin with none.
fn name(tokens: &[Token<'_>]) -> Result<Option<Named>> {
    let Some(first) = tokens.first() else { return Ok(None) };
    let (mut parts, mut end) = (Vec::new(), first.start);
    for pair in tokens.chunks(2) {
        let Some(part) = pair[0].identifier() else { break };
        parts.push(part);
        end = pair[0].end();
        match pair.get(1) {
            Some(dot) if dot.is_sign(".") => {}
            Some(sign) if sign.is_sign("&") => {
                let what = "--alter names the table behind REFERENCES by Unicode escapes (U&\"…\")";
                return Err(
                    Error::usage(what).next("Say its name as it is, quoted where it has to be")
                );
            }
            _ => break,
        }
    }
    Ok((!parts.is_empty()).then_some(Named { parts, start: first.start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(clauses: &str) -> Vec<(Vec<String>, &str)> {
        let all = named(clauses).unwrap();
        all.into_iter().map(|n| (n.parts, &clauses[n.start..n.end])).collect()
    }

    #[test]
    fn the_table_behind_references_is_found_and_nothing_else() {
        let one =
            |parts: &[&str], text| vec![(parts.iter().map(|p| (*p).to_owned()).collect(), text)];
        assert_eq!(found("ADD FOREIGN KEY (a) REFERENCES P (x)"), one(&["p"], "P"));
        assert_eq!(
            found("ADD a int references\"S.\" . \"P\"\"x\"(x) ON DELETE CASCADE"),
            one(&["S.", "P\"x"], "\"S.\" . \"P\"\"x\"")
        );
        assert_eq!(found("ADD b int REFERENCES db.s.p"), one(&["db", "s", "p"], "db.s.p"));
        assert_eq!(found("ADD a int REFERENCES p, ADD b int REFERENCES s.q(y)").len(), 2);
        for none in [
            "ADD \"references\" int",
            "ALTER a TYPE int USING t.references",
            "ADD a text DEFAULT 'x REFERENCES p'",
            "SET (references = 1) -- REFERENCES p",
            "ADD a int REFERENCES",
            "ADD a int REFERENCES (x)",
        ] {
            assert_eq!(found(none), [], "{none}");
        }
        assert!(named("ADD a int REFERENCES U&\"p\"").is_err());
    }
}
