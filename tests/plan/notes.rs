//! What plan has to say of its steps besides.

use super::{make_ground, plan};
use crate::scene::shop;

#[tokio::test]
async fn what_steps_do_to_the_application_is_told() {
    let shop = shop().await;
    make_ground(&shop, "ALTER TABLE s.t ADD CONSTRAINT late CHECK (e > 5) NOT VALID").await;
    let filled = "ADD COLUMN n uuid DEFAULT gen_random_uuid()";
    let refused = ["violates late", "VALIDATE CONSTRAINT before"];
    for (alter, told, not_told) in [
        ("ADD UNIQUE (a) DEFERRABLE", &["DEFERRABLE, its index alone is not"][..], &[][..]),
        ("ADD UNIQUE (a)", &[], &["DEFERRABLE"]),
        (filled, &["40001", "violates late", "VALIDATE CONSTRAINT before"], &[]),
        (
            "VALIDATE CONSTRAINT late, ADD COLUMN n uuid DEFAULT gen_random_uuid()",
            &["40001"],
            &refused,
        ),
    ] {
        let output = plan(&shop, &["--alter", alter]).await.expect_code(0);
        let notes = output.json()["in_place"]["steps"].to_string();
        for told in told {
            assert!(notes.contains(told), "{alter}: {told}: {notes}");
        }
        for told in not_told {
            assert!(!notes.contains(told), "{alter}: {told}: {notes}");
        }
    }
    let text = crate::harness::run(["plan", "s.t", "-d", &shop.dsn, "--alter", filled]).await;
    assert!(text.stdout.contains("VALIDATE the constraint that the UPDATE may fail at"), "{text}");
}
