//! The process dies at every place where it changes something, and another goes on.

use crate::harness::{Background, Proxy, When};
use crate::scene::SOON;

use super::{alter_the_twin, arguments, as_its_twin, table};

/// At a COMMIT that nobody heard the answer of, the run goes on by itself, with what became of it.
#[tokio::test]
async fn a_commit_without_an_answer_is_looked_up() {
    let mut shop = table().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    let places = [("alter", 0), ("step", 0), ("fill 1", 1)];
    let alters = ["ADD CHECK (a > 0)", "ADD COLUMN token uuid DEFAULT gen_random_uuid()"];
    for (n, (role, change)) in places.into_iter().enumerate() {
        for when in [When::Before, When::After] {
            let (what, alter) = (format!("{role} {when:?}"), alters[change]);
            shop.move_to(&format!("case{n}{when:?}").to_lowercase()).await;
            crate::twins::twins(&shop, super::ROWS).await;
            let mut through = arguments(&shop, alter, &[]);
            through[3] = proxy.dsn(&shop.dsn);
            let fault = proxy.cut_at(role, "*/ COMMIT", when);
            let run = Background::start(through);
            fault.struck().await;
            run.finish(SOON).await.expect_code(0);
            alter_the_twin(&shop, alter).await;
            crate::twins::same_definition(&shop, &what).await;
            if change == 1 {
                as_its_twin(&shop, &what).await;
            }
        }
    }
}

#[cfg(feature = "failpoints")]
mod dying {
    use pgwraith::failpoint;

    use super::super::resume;
    use super::*;
    use crate::scene::Shop;

    /// Each run goes a little further than the one before it.
    #[tokio::test]
    async fn at_every_place_one_run_after_the_other() {
        let shop = table().await;
        let again = ["alter locked", "altered", "step made"];
        let built = failpoint::IN_STEPS.iter().position(|point| *point == "step read").unwrap();
        let (before, behind) = failpoint::IN_STEPS.split_at(built);
        let order = before.iter().chain(&again).chain(behind);
        for (n, point) in order.enumerate() {
            let arguments = match n {
                0 => arguments(&shop, crate::in_place::ALL_KINDS, &[]),
                _ => arguments_to_resume(&shop),
            };
            let action = format!("{point}=return");
            let dying = Background::start_with(&[("FAILPOINTS", &action)], arguments);
            let output = dying.finish(SOON).await;
            assert_eq!(output.signal, Some(libc::SIGKILL), "{point}: {output}");
        }
        // All is done, and only nobody was told.
        resume(&shop, &["--take-over"]).await.expect_code(2);
        let twice =
            "SELECT count(*) - count(DISTINCT number) FROM pgwraith.chunk WHERE kind = 'fill'";
        assert_eq!(shop.value::<i64>(twice).await, 0);
        let undone = "SELECT count(*) FROM pgwraith.step WHERE done_at IS NULL";
        assert_eq!(shop.value::<i64>(undone).await, 0);
        alter_the_twin(&shop, crate::in_place::ALL_KINDS).await;
        as_its_twin(&shop, "killed").await;
    }

    /// What the first run filled and what the second one fills are alike, whatever the server says by then.
    #[tokio::test]
    async fn rows_are_filled_by_the_settings_of_the_beginning() {
        let shop = table().await;
        shop.exec("ALTER ROLE postgres SET timezone = 'UTC'").await;
        let alter = "ADD COLUMN zone text DEFAULT to_char(clock_timestamp(), 'TZ')";
        let point = [("FAILPOINTS", "fill committed=return")];
        let dying = Background::start_with(&point, arguments(&shop, alter, &["--workers", "1"]));
        let output = dying.finish(SOON).await;
        assert_eq!(output.signal, Some(libc::SIGKILL), "{output}");
        shop.exec("ALTER ROLE postgres SET timezone = 'Asia/Tokyo'").await;
        resume(&shop, &[]).await.expect_code(0);
        let zones = "SELECT count(*)::text || string_agg(DISTINCT zone, ',') FROM ours.t";
        assert_eq!(shop.value::<String>(zones).await, "1000UTC");
    }

    fn arguments_to_resume(shop: &Shop) -> Vec<String> {
        let given = ["resume", "ours.t", "-d", &shop.dsn, "--take-over"];
        given.iter().map(|s| (*s).to_owned()).collect()
    }
}
