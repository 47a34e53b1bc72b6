//! What follows the table may belong to many: the tool needs no superuser for it, but to be one of them
//! all, and says whom it cannot act as.

use crate::cases;
use crate::definition::{assert_same, database};
use crate::scene::shop;

/// Nothing belongs to a superuser any more.
const BELONGINGS: &str = "
    CREATE ROLE parents; CREATE ROLE children; CREATE ROLE \"View's\"; CREATE ROLE writer; CREATE ROLE publisher; CREATE ROLE counter;
    GRANT USAGE ON SCHEMA s TO \"View's\", owner1; GRANT CREATE ON SCHEMA s TO \"View's\"; GRANT CREATE ON SCHEMA public TO counter;
    GRANT CREATE ON DATABASE shop TO publisher;
    ALTER TABLE parent OWNER TO parents; ALTER TABLE child OWNER TO children; ALTER VIEW s.zoo_v2 OWNER TO \"View's\";
    ALTER VIEW zoo_v3 OWNER TO \"View's\"; ALTER FUNCTION zoo_count() OWNER TO writer; ALTER STATISTICS zoo_st OWNER TO counter;
    ALTER PUBLICATION p1 OWNER TO publisher; ALTER PUBLICATION p2 OWNER TO publisher;
    GRANT REFERENCES ON parent TO owner1; GRANT REFERENCES ON zoo TO children; GRANT SELECT ON zoo TO \"View's\", writer;
    GRANT DELETE ON zoo TO app WITH GRANT OPTION;
    SET ROLE app; GRANT DELETE ON zoo TO writer; RESET ROLE;
    CREATE ROLE tool LOGIN REPLICATION BYPASSRLS IN ROLE owner1, pg_read_all_stats; GRANT CREATE ON DATABASE shop TO tool;";

#[tokio::test]
async fn each_owner_of_what_follows_is_named_with_the_membership_it_takes() {
    let mut shop = shop().await;
    cases::zoo(&shop).await;
    shop.exec(BELONGINGS).await;
    let before = database(&shop, &[]).await;
    let as_superuser = shop.dsn.clone();
    shop.dsn = as_superuser.replace("postgres@", "tool@");

    let output = shop.run("zoo", &["--rebuild"]).await.expect_code(3);
    for (role, what) in [
        ("parents", "table \"public\".\"parent\" of foreign key \"zoo_pid_fk\""),
        ("children", "table \"public\".\"child\" of foreign key \"child_zid_fk\""),
        ("View's", "view s.zoo_v2"),
        ("writer", "function public.zoo_count()"),
        ("counter", "statistics \"public\".\"zoo_st\""),
        ("publisher", "publication p1, publication p2"),
        ("app", "grants on \"public\".\"zoo\""),
    ] {
        let told = format!("followers: \"tool\" cannot act as \"{role}\", to whom belongs");
        let line = output.stderr.lines().find(|line| line.contains(&told));
        let line = line.unwrap_or_else(|| panic!("{told}: {output}"));
        assert!(line.contains(what), "{line}");
        let mend = line.split_once(". GRANT ").unwrap().1.trim_end_matches('.');
        shop.exec(&format!("GRANT {mend}")).await;
    }
    // The function's owner may not make functions in its schema any more; the tool may.
    shop.run("zoo", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE zoo_old").await;
    shop.dsn = as_superuser;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt by no superuser");
    assert_eq!(shop.held_back().await, [""; 0]);
}
