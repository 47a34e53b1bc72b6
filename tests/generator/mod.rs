//! Random tables are defined after `--rebuild` as before it, and hold the same rows. What fails is
//! made small and printed as a script.
//!
//! `PGWRAITH_GENERATED_CASES` says how many tables, `PGWRAITH_GENERATED_SEED` from which seed on.

mod grammar;
mod hung;
mod shrink;

use crate::definition::{database, positions};
use crate::harness;
use crate::scene::{Shop, shop};
use grammar::Case;
use shrink::shrunk;

const CASES: u64 = 12;
/// So many scripts are tried at most to make a failing one smaller, and so many are made smaller: the
/// time of a test is limited.
const TRIES: usize = 60;
const SHRUNK: usize = 2;

/// What stands for a migration.
#[derive(Clone, Copy, PartialEq)]
enum Migration {
    Rebuild,
    /// PostgreSQL's own way to write a table anew.
    VacuumFull,
    /// One that loses the comment.
    Careless,
}

#[derive(Debug)]
enum Outcome {
    /// PostgreSQL itself refuses the script.
    NoScript(String),
    Passes,
    Fails(String),
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn seeds() -> std::ops::Range<u64> {
    let cases = from_environment("PGWRAITH_GENERATED_CASES").unwrap_or(CASES);
    // The same ones unless told otherwise: a suite that gates changes fails for a reason.
    let first = from_environment("PGWRAITH_GENERATED_SEED").unwrap_or(1000);
    println!("PGWRAITH_GENERATED_SEED={first} PGWRAITH_GENERATED_CASES={cases}");
    first..first + cases
}

/// Runs scripts, each in a database of its own in one cluster.
struct Trials {
    shop: Shop,
    count: u32,
}

impl Trials {
    async fn new() -> Trials {
        let shop = shop().await;
        shop.exec(grammar::ROLES).await;
        Trials { shop, count: 0 }
    }

    async fn run(&mut self, case: &Case, statements: &[String], by: Migration) -> Outcome {
        self.count += 1;
        let name = format!("trial{}", self.count);
        self.shop.move_to(&name).await;
        let outcome = self.outcome(case, statements, by).await;
        let admin = harness::connect(&self.shop.cluster.dsn("postgres")).await;
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
        outcome
    }

    async fn outcome(&self, case: &Case, statements: &[String], by: Migration) -> Outcome {
        for statement in statements {
            if let Err(e) = self.shop.client.batch_execute(statement).await {
                let e = e.as_db_error().map_or(e.to_string(), |e| e.to_string());
                return Outcome::NoScript(format!("{statement}: {e}"));
            }
        }
        let table = format!("SELECT to_regclass('{}') IS NOT NULL", case.table.replace('\'', "''"));
        if !self.shop.value::<bool>(&table).await {
            return Outcome::NoScript("there is no table".into());
        }
        let before = self.state(case, &[]).await;
        if let Err(told) = self.migrate(case, by).await {
            return Outcome::Fails(told);
        }
        let swapped = self.state(case, &[&case.retired]).await;
        if let Some(told) = difference(&before, &swapped) {
            return Outcome::Fails(told);
        }
        let drop = format!("DROP TABLE {}", case.retired);
        if let Err(e) = self.shop.client.batch_execute(&drop).await {
            return Outcome::Fails(format!("{drop}: {:?}", e.as_db_error()));
        }
        match difference(&before, &self.state(case, &[]).await) {
            Some(told) => Outcome::Fails(told),
            None => Outcome::Passes,
        }
    }

    async fn migrate(&self, case: &Case, by: Migration) -> Result<(), String> {
        let table = &case.table;
        let careless =
            format!("COMMENT ON TABLE {table} IS NULL; CREATE TABLE {} ()", case.retired);
        match by {
            Migration::Rebuild => {
                let output = self.shop.run(table, &["--rebuild"]).await;
                if output.code != Some(0) {
                    return Err(output.to_string());
                }
            }
            Migration::VacuumFull => {
                self.shop.exec(&format!("VACUUM FULL {table}")).await;
                self.shop.exec(&format!("CREATE TABLE {} ()", case.retired)).await;
            }
            Migration::Careless => self.shop.exec(&careless).await,
        }
        Ok(())
    }

    /// Definition, positions of sequences, rows.
    async fn state(&self, case: &Case, retired: &[&str]) -> Vec<String> {
        let mut lines = database(&self.shop, retired).await.lines();
        lines.extend(positions(&self.shop.session().await, retired).await);
        lines.extend(self.shop.rows(&case.table).await);
        lines
    }

    /// Runs the seeds' scripts; what fails is made small and told.
    async fn all(&mut self, seeds: std::ops::Range<u64>, by: Migration) {
        let mut told = Vec::new();
        for seed in seeds {
            let case = grammar::case(seed);
            match self.run(&case, &case.statements, by).await {
                Outcome::Passes => {}
                Outcome::NoScript(why) => {
                    told.push(format!("seed {seed}: PostgreSQL refuses {why}"))
                }
                Outcome::Fails(why) if told.len() >= SHRUNK => {
                    told.push(format!("seed {seed} fails too, by {why}"));
                }
                Outcome::Fails(why) => told.push(self.told(seed, &case, by, why).await),
            }
        }
        assert!(told.is_empty(), "{}", told.join("\n\n"));
    }

    async fn told(&mut self, seed: u64, case: &Case, by: Migration, mut why: String) -> String {
        let small = shrunk(&case.statements, TRIES, async |script| {
            match self.run(case, script, by).await {
                Outcome::Fails(told) => {
                    why = told;
                    true
                }
                _ => false,
            }
        })
        .await;
        format!("seed {seed}, {} fails after\n{};\nby {why}", case.table, small.join(";\n"))
    }
}

/// The lines in which two states differ.
fn difference(was: &[String], is: &[String]) -> Option<String> {
    let only = |of: &[String], other: &[String]| -> String {
        of.iter().filter(|line| !other.contains(line)).map(|line| format!("\n  {line}")).collect()
    };
    (was != is).then(|| format!("a difference\nis{}\nwas{}", only(is, was), only(was, is)))
}

#[tokio::test]
async fn random_tables_are_rebuilt_as_they_were() {
    Trials::new().await.all(seeds(), Migration::Rebuild).await;
}

/// The grammar makes scripts that PostgreSQL takes, and a table that is merely written anew compares
/// equal.
#[tokio::test]
async fn random_scripts_are_scripts() {
    let seeds = seeds();
    let more = seeds.start..seeds.start + 2 * (seeds.end - seeds.start);
    Trials::new().await.all(more, Migration::VacuumFull).await;
}

/// A loss is found in a long script, and the short one that is told has nothing else in it.
#[tokio::test]
async fn what_fails_is_made_small() {
    let mut trials = Trials::new().await;
    let lost = |seed: &u64| {
        grammar::case(*seed).statements.iter().any(|s| s.starts_with("COMMENT ON TABLE"))
    };
    let seed = (1..).find(lost).unwrap();
    let case = grammar::case(seed);
    let outcome = trials.run(&case, &case.statements, Migration::Careless).await;
    let Outcome::Fails(why) = outcome else { panic!("the loss is not found: {outcome:?}") };
    let told = trials.told(seed, &case, Migration::Careless, why).await;
    let script = told.split("\nby ").next().unwrap();
    assert!(script.contains("COMMENT ON TABLE"), "{told}");
    assert!(script.lines().count() <= 4 && case.statements.len() > 10, "{told}");
    assert!(told.contains("the table"), "{told}");
}
