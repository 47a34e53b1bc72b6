//! What a dry run says a run will take, against what the run then takes: in total and by phase, as ratios,
//! and their medians. One idle private server.
//!
//!     cargo bench --bench forecast -- [--rows 5000000] [--rounds 3] [--percent 10]

mod tool;

use std::collections::BTreeMap;

use pgwraith::demo::orders::create_orders;
use serde_json::Value;
use tool::{Outcome, flag, median, migrate, rehearse, server};

const CHANGE: [&str; 2] = ["--alter", "ALTER COLUMN customer_id TYPE bigint"];

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, rounds) = (flag("--rows", 5_000_000), flag("--rounds", 3));
    let share = format!("{}%", flag("--percent", 10));
    let (cluster, client) = server(&[("maintenance_work_mem", "256MB")]).await?;
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        client.batch_execute("DROP TABLE IF EXISTS public.orders_old, public.orders").await?;
        create_orders(&client, rows).await?;
        client.batch_execute("CHECKPOINT").await?;
        let change = CHANGE.map(str::to_owned).to_vec();
        let all: Vec<String> =
            change.iter().cloned().chain(["--share".to_owned(), share.clone()]).collect();
        let dry = rehearse(&cluster, "public.orders", &all).await?;
        client.batch_execute("CHECKPOINT").await?;
        let run = migrate(&cluster, "public.orders", &change).await?;
        println!("round {round}, {share} of {rows} rows:");
        let (mut foretold, mut taken) = (0.0, 0.0);
        for (phase, span) in dry["forecast"]["phases"].as_object().into_iter().flatten() {
            let said = span["seconds"].as_f64().unwrap_or(f64::NAN);
            let took = run.number(&format!("/phases/{phase}"));
            let least = span["least"].as_f64().unwrap_or(f64::NAN);
            let most = span["most"].as_f64().unwrap_or(f64::NAN);
            println!("  {phase:<8} said {said:6.1} s ({least:.1} to {most:.1}), took {took:6.1} s");
            ratios.entry(phase.clone()).or_default().push(said / took);
            (foretold, taken) = (foretold + said, taken + took);
        }
        let others = run.json["phases"].as_object().into_iter().flatten();
        let whole: f64 = others.filter_map(|(_, seconds)| Value::as_f64(seconds)).sum();
        println!(
            "  in all   said {foretold:6.1} s, took {whole:6.1} s ({taken:.1} in these phases)"
        );
        println!("  the run took {:.0} MB of memory at most", run.peak_mb);
        ratios.entry("in all".to_owned()).or_default().push(foretold / whole);
        let lock = dry["seen"]["cutover"]["lock_ms"].as_f64().unwrap_or(f64::NAN);
        println!(
            "  lock     said {lock:6.1} ms, held {:.1} ms",
            run.number("/cutover/lock_held_ms")
        );
    }
    for (phase, all) in ratios {
        println!("median of said to taken, {phase}: {:.2}", median(all));
    }
    Ok(())
}
