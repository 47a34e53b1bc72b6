//! Foreign keys of a partitioned table in steps: partition by partition, and then the table's own.

use super::partitioned::{partitions_are_as_their_twins, table};
use super::{abort, alter_the_twin, arguments, run};
use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, exec};

const KEY: &str = "ADD FOREIGN KEY (a) REFERENCES public.p ON DELETE CASCADE";

/// With a table that all rows refer to, which is divided itself or not.
async fn referring(divided: bool) -> Shop {
    let shop = table().await;
    let how = if divided { "PARTITION BY HASH (id)" } else { "" };
    shop.exec(&format!("CREATE TABLE public.p (id int PRIMARY KEY) {how}")).await;
    if divided {
        for n in 0..2 {
            let half = format!(
                "CREATE TABLE public.p_{n} PARTITION OF public.p FOR VALUES WITH (MODULUS 2, REMAINDER {n})"
            );
            shop.exec(&half).await;
        }
    }
    shop.exec("INSERT INTO public.p SELECT generate_series(1, 1000)").await;
    shop
}

/// Keys, and the triggers that see to them.
async fn keys_are_as_their_twins(shop: &Shop, what: &str) {
    partitions_are_as_their_twins(shop).await;
    let seen = |schema: &str| {
        format!(
            "SELECT array_agg(x ORDER BY x) FROM (SELECT concat_ws(' ', c.relname, t.tgenabled, t.tgtype, t.tgparentid <> 0, k.conname, k.conparentid <> 0) AS x \
               FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid JOIN pg_constraint k ON k.oid = t.tgconstraint \
               WHERE c.relnamespace = '{schema}'::regnamespace) d"
        )
    };
    let ours: Option<Vec<String>> = shop.value(&seen("ours")).await;
    assert_eq!(ours, shop.value(&seen("twin")).await, "{what}");
}

/// Who writes to one partition holds up that one alone; a partition that comes meanwhile is proven too.
#[tokio::test]
async fn they_are_proven_partition_by_partition() {
    for divided in [false, true] {
        let shop = referring(divided).await;
        let plan = ["plan", "ours.t", "-d", &shop.dsn, "--json", "--alter", KEY];
        let planned = harness::run(plan).await;
        assert_eq!(planned.json()["way"], "careful", "{planned}");
        let writer = shop.session().await;
        exec(&writer, "BEGIN; UPDATE ours.t_11 SET b = 'held'").await;
        let mut waiting = Background::start(arguments(&shop, KEY, &[]));
        waiting.wait_for_saying("the change waits: ").await;
        // Unlike CREATE TABLE … PARTITION OF that waits for nobody who writes.
        let young = "CREATE TABLE {s}.young (LIKE {s}.t INCLUDING ALL); ALTER TABLE {s}.t ATTACH PARTITION {s}.young FOR VALUES IN (9)";
        crate::twins::twins(&shop, young).await;
        let rows = "INSERT INTO {s}.t SELECT -n, n, 'young', 9 FROM generate_series(1, 50) n";
        crate::twins::twins(&shop, rows).await;
        exec(&writer, "COMMIT").await;
        let output = waiting.finish(SOON).await.expect_code(0);
        if shop.cluster.major() < 18 {
            assert!(output.stderr.contains("\"young\" came meanwhile"), "{output}");
        }
        shop.exec("UPDATE twin.t_11 SET b = 'held'").await;
        alter_the_twin(&shop, KEY).await;
        // That of a divided table is one for each part of it too, which the definition names by a number.
        if !divided {
            crate::twins::same(&shop, "altered").await;
        }
        keys_are_as_their_twins(&shop, &format!("altered, divided: {divided}")).await;
        let wrong = "INSERT INTO ours.t VALUES (5000, 5000, 'x', 9)";
        assert!(shop.client.batch_execute(wrong).await.is_err());
        shop.exec("DELETE FROM public.p WHERE id = 7").await;
        assert_eq!(shop.value::<i64>("SELECT count(*) FROM ours.t WHERE a = 7").await, 0);
    }
}

#[tokio::test]
async fn what_was_made_in_partitions_is_taken_back() {
    let shop = referring(false).await;
    crate::twins::twins(&shop, "UPDATE {s}.t SET a = -1 WHERE id IN (5, 6)").await;
    let output = run(&shop, KEY, &[]).await.expect_code(4);
    for told in ["t_a_fkey", "id = 6", "pgwraith abort"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
    keys_are_as_their_twins(&shop, "aborted").await;
    // Under the table's own they go with it.
    crate::twins::twins(&shop, "UPDATE {s}.t SET a = id").await;
    run(&shop, &format!("{KEY}, ADD CHECK (a > 9)"), &[]).await.expect_code(4);
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted once more").await;
    keys_are_as_their_twins(&shop, "aborted once more").await;
    // Somebody's own is not taken for ours.
    let own = "ALTER TABLE ours.t_11 ADD CONSTRAINT t_a_fkey FOREIGN KEY (a) REFERENCES public.p";
    shop.exec(own).await;
    let output = run(&shop, "ADD FOREIGN KEY (a) REFERENCES public.p", &[]).await;
    if shop.cluster.major() < 18 {
        let output = output.expect_code(3);
        assert!(output.stderr.contains("has a constraint \"t_a_fkey\""), "{output}");
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn whoever_goes_on_proves_what_is_left() {
    let shop = referring(false).await;
    if shop.cluster.major() >= 18 {
        return harness::skipped(
            "is of servers before 18: there the table's own is NOT VALID at first",
        );
    }
    let given = ["resume", "ours.t", "-d", &shop.dsn, "--take-over"];
    let resumed: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
    crate::scene::dies_at("reference made", 2, arguments(&shop, KEY, &[])).await;
    for (point, nth) in [("step read", 1), ("altered", 1), ("step made", 1), ("alter locked", 2)] {
        crate::scene::dies_at(point, nth, resumed.clone()).await;
    }
    super::resume(&shop, &["--take-over"]).await.expect_code(0);
    alter_the_twin(&shop, KEY).await;
    crate::twins::same(&shop, "went on").await;
    keys_are_as_their_twins(&shop, "went on").await;
}
