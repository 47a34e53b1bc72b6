//! Random sequences of changes and writes, on a table that the tool migrates and on its twin that plain statements
//! change: equal after each step. The same writes reach both; those of the first are made while it is migrated, by a
//! run that is killed now and then and gone on with.
//!
//! `PGWRAITH_MODEL_STEPS` says how many steps, `PGWRAITH_MODEL_SEED` which sequence, `PGWRAITH_MODEL_SEEDS` how many of
//! them from there on. The same sequence makes the same changes and writes; what of them comes when is the machine's.

mod change;
mod table;
mod twin;

use std::io::Write;
use std::time::{Duration, Instant};

use rand::RngExt;
use tempfile::NamedTempFile;

use crate::harness::{self, Background};
use crate::scene::{Shop, shop};
use crate::twins;
use change::Change;
use table::Model;

const STEPS: u64 = 8;
const SEEDS: u64 = 1;
const LIMIT: Duration = Duration::from_secs(60);
const WRITES: usize = 120;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Writes to one of the two.
async fn write(shop: &Shop, schema: &str, all: &[String]) {
    for sql in all {
        shop.exec(&sql.replace("{s}", schema)).await;
    }
}

/// The run of a change over `ours.t`.
struct Ours<'a> {
    shop: &'a Shop,
    change: &'a Change,
    file: Option<NamedTempFile>,
}

impl Ours<'_> {
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut all =
            self.shop.arguments("ours.t", &["--chunk-rows", "100", "--chunk-time", "3ms"]);
        all.extend(self.change.arguments.iter().cloned());
        if let Some(file) = &self.file {
            all.extend(["--shadow-ddl".to_owned(), file.path().to_str().unwrap().to_owned()]);
        }
        all.extend(more.iter().map(|s| (*s).to_owned()));
        all
    }

    /// Its steps are over when they are; it is killed when so many are made.
    async fn in_place(&self, writes: &[String], killed_after: i64) {
        let mut run = Background::start(self.arguments(&[]));
        let (before, behind) = writes.split_at(WRITES / 2);
        write(self.shop, "ours", before).await;
        self.has_made(&mut run, killed_after).await;
        run.signal_if_running(libc::SIGKILL);
        let output = run.finish(LIMIT).await;
        if output.signal.is_none() {
            output.expect_code(0);
            return write(self.shop, "ours", behind).await;
        }
        self.its_sessions_end().await;
        let unfinished =
            "SELECT EXISTS (SELECT 1 FROM pgwraith.migration WHERE finished_at IS NULL)";
        if !self.shop.value::<bool>(unfinished).await {
            // It had only to say so.
            return write(self.shop, "ours", behind).await;
        }
        println!("gone on with after {killed_after} steps");
        let run = Background::start(self.arguments(&["--or-resume"]));
        write(self.shop, "ours", behind).await;
        run.finish(LIMIT).await.expect_code(0);
    }

    /// So many steps are made, or all of them.
    async fn has_made(&self, run: &mut Background, steps: i64) {
        let made = format!(
            "SELECT count(*) FILTER (WHERE done_at IS NOT NULL) >= {steps} FROM pgwraith.step \
             JOIN pgwraith.migration m ON m.id = migration_id AND m.finished_at IS NULL HAVING count(*) > 0"
        );
        let has = async |run: &mut Background| {
            let row = self.shop.client.query_opt(&made, &[]).await.ok().flatten();
            row.is_some_and(|row| row.get(0)) || run.has_ended()
        };
        let began = Instant::now();
        while !has(run).await {
            assert!(began.elapsed() < LIMIT, "it does not make {steps} steps: {}", run.said());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn its_sessions_end(&self) {
        let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
        harness::wait_for_sql(&self.shop.client, "its sessions end", gone).await;
    }

    /// It goes up to the swap, which comes when all is written; it is killed in a phase, where it is to be.
    async fn by_a_copy(&self, writes: &[String], killed_in: Option<&str>) {
        let postponed = ["--postpone-cutover"];
        let mut run = Background::start(self.arguments(&postponed));
        let (before, behind) = writes.split_at(WRITES / 2);
        write(self.shop, "ours", before).await;
        if let Some(phase) = killed_in {
            self.comes_to(&mut run, phase).await;
            run.signal(libc::SIGKILL);
            run.finish(LIMIT).await;
            self.its_sessions_end().await;
            run = Background::start(self.arguments(&["--postpone-cutover", "--or-resume"]));
        }
        write(self.shop, "ours", behind).await;
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        harness::run(["cutover", "ours.t", "-d", &self.shop.dsn]).await.expect_code(0);
        let output = run.finish(LIMIT).await.expect_code(0);
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
        self.shop.exec("DROP TABLE ours.t_old").await;
    }

    async fn comes_to(&self, run: &mut Background, phase: &str) {
        let place = |phase: &str| PHASES.iter().position(|known| *known == phase);
        let began = Instant::now();
        loop {
            let now = harness::phase(&self.shop.client, "t").await;
            if now.is_some_and(|now| place(&now) >= place(phase)) {
                return;
            }
            run.expect_running();
            assert!(began.elapsed() < LIMIT, "it does not come to {phase}: {}", run.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// In their order; it waits in the last one.
const PHASES: [&str; 6] = ["prepare", "copy", "index", "catch up", "verify", "cutover"];

async fn step(shop: &Shop, model: &mut Model, what: &str) {
    let leaves = twin::leaves(shop).await;
    let writes: Vec<String> = (0..WRITES).map(|_| model.write(&leaves)).collect();
    let change = model.change();
    let killed = model.chance(50).then(|| PHASES[model.random.random_range(0..PHASES.len())]);
    // Whatever fails: this tells how to come to it again.
    println!("{what}: {}, killed in {killed:?}", change.told());
    let file = change.file.as_ref().map(|text| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    });
    let ours = Ours { shop, change: &change, file };
    if change.in_place {
        // Often it has made all of them by then.
        let steps = model.random.random_range(0..4);
        ours.in_place(&writes, steps).await;
    } else {
        ours.by_a_copy(&writes, killed).await;
    }
    write(shop, "twin", &writes).await;
    change.twin.make(shop).await;
    twin::same(shop, &format!("{what}: {}", change.told())).await;
}

#[tokio::test]
async fn random_changes_and_writes_end_as_plain_ones_do() {
    let (seed, steps) = (setting("PGWRAITH_MODEL_SEED", 1), setting("PGWRAITH_MODEL_STEPS", STEPS));
    let seeds = setting("PGWRAITH_MODEL_SEEDS", SEEDS);
    let mut shop = shop().await;
    for seed in seed..seed + seeds {
        shop.move_to(&format!("seed{seed}")).await;
        shop.exec(
            "CREATE FUNCTION public.seven() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN 7; END $$",
        )
        .await;
        twins::twins(&shop, &Model::made()).await;
        let mut model = Model::new(seed);
        for n in 1..=steps {
            let what = format!("PGWRAITH_MODEL_SEED={seed} PGWRAITH_MODEL_STEPS={steps}, step {n}");
            step(&shop, &mut model, &what).await;
        }
    }
}
