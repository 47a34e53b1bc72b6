//! What hangs on a table follows it: definitions, states, comments, owners.

use crate::definition::assert_same;
use crate::scene::shop;

const TABLE: &str = r#"
    CREATE ROLE "Owner 1"; CREATE ROLE app; CREATE ROLE "bi ""x""";
    CREATE SCHEMA "S" AUTHORIZATION "Owner 1";
    CREATE FUNCTION "S".note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    SET ROLE "Owner 1";
    CREATE TABLE "S"."order" (id int PRIMARY KEY, "Größe" int NOT NULL DEFAULT 1, note text);
    CREATE TABLE "S".log (id int, note text);
    CREATE TRIGGER "B first" BEFORE INSERT OR UPDATE OF "Größe", note ON "S"."order" FOR EACH ROW
      WHEN (NEW."Größe" > 5) EXECUTE FUNCTION "S".note('it''s', 'S.order', '');
    CREATE TRIGGER disabled AFTER DELETE ON "S"."order" FOR EACH ROW EXECUTE FUNCTION "S".note();
    ALTER TABLE "S"."order" DISABLE TRIGGER disabled;
    CREATE TRIGGER always AFTER TRUNCATE ON "S"."order" EXECUTE FUNCTION "S".note();
    ALTER TABLE "S"."order" ENABLE ALWAYS TRIGGER always;
    CREATE TRIGGER replica AFTER INSERT ON "S"."order" FOR EACH ROW EXECUTE FUNCTION "S".note();
    ALTER TABLE "S"."order" ENABLE REPLICA TRIGGER replica;
    CREATE TRIGGER changes AFTER UPDATE ON "S"."order" REFERENCING OLD TABLE AS o NEW TABLE AS n
      FOR EACH STATEMENT EXECUTE FUNCTION "S".note();
    CREATE CONSTRAINT TRIGGER later AFTER INSERT ON "S"."order" DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION "S".note();
    COMMENT ON TRIGGER "B first" ON "S"."order" IS 'the ''first'' \ one';
    CREATE RULE "No" AS ON DELETE TO "S"."order" WHERE OLD.id < 0 DO INSTEAD NOTHING;
    CREATE RULE logged AS ON UPDATE TO "S"."order" WHERE NEW.note = 'log'
      DO ALSO INSERT INTO "S".log SELECT o.id, o.note FROM "S"."order" o WHERE o.id = NEW.id;
    ALTER TABLE "S"."order" ENABLE ALWAYS RULE logged;
    CREATE RULE off AS ON INSERT TO "S"."order" DO ALSO NOTHING;
    ALTER TABLE "S"."order" DISABLE RULE off;
    COMMENT ON RULE "No" ON "S"."order" IS 'no';
    ALTER TABLE "S"."order" ENABLE ROW LEVEL SECURITY;
    CREATE POLICY "See" ON "S"."order" FOR SELECT TO app, "bi ""x""" USING ("Größe" > 0);
    CREATE POLICY own ON "S"."order" AS RESTRICTIVE USING (note <> 'S.order')
      WITH CHECK (EXISTS (SELECT 1 FROM "S"."order" o WHERE o.id = "order".id) OR true);
    CREATE POLICY add ON "S"."order" FOR INSERT WITH CHECK (id > 0);
    COMMENT ON POLICY add ON "S"."order" IS 'add';
    GRANT USAGE ON SCHEMA "S" TO app; GRANT SELECT ON "S"."order" TO app;
    RESET ROLE;
    INSERT INTO "S"."order" SELECT g, g % 7, 'n' || g FROM generate_series(1, 500) g;"#;

const NAME: &str = r#""S"."order""#;

#[tokio::test]
async fn triggers_rules_and_policies_follow() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let (before, rows) = (shop.definition(NAME).await, shop.rows(NAME).await);
    shop.run(NAME, &["--rebuild"]).await.expect_code(0);
    assert_same(&shop.definition(NAME).await, &before, "rebuilt");
    assert_eq!(shop.rows(NAME).await, rows);

    shop.run(NAME, &["--alter", "ALTER id TYPE bigint"]).await.expect_code(3);
    shop.exec(r#"DROP TABLE "S".order_old"#).await;
    shop.run(NAME, &["--alter", "ALTER id TYPE bigint"]).await.expect_code(0);
    let (is, was) = (shop.definition(NAME).await, before);
    let changed: Vec<_> = is.iter().filter(|line| !was.contains(line)).collect();
    assert!(
        !changed.is_empty()
            && changed.iter().all(|l| l.contains("bigint") || l.contains("order_pkey")),
        "{changed:#?}"
    );
    // They work: the rule logs, the policy hides, the trigger on the old table is gone.
    shop.exec(r#"UPDATE "S"."order" SET note = 'log' WHERE id = 7"#).await;
    assert_eq!(shop.value::<i64>(r#"SELECT count(*) FROM "S".log"#).await, 1);
    shop.exec("SET ROLE app").await;
    let seen: i64 = shop.value(r#"SELECT count(*) FROM "S"."order" WHERE id % 7 = 0"#).await;
    assert_eq!(seen, 0, "\"Größe\" is 0 there");
    shop.exec("RESET ROLE").await;
    let left = r#"SELECT string_agg(tgname, ' ') FROM pg_trigger WHERE tgrelid = '"S".order_old'::regclass"#;
    assert_eq!(shop.value::<String>(left).await, "pgwraith_retired");
}

#[tokio::test]
async fn what_cannot_follow_the_change_is_named() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    for (alter, named) in [
        (
            "RENAME \"Größe\" TO size",
            "trigger B first uses column \"Größe\", which the change renames",
        ),
        ("ALTER note TYPE int USING 1", "rule logged: "),
    ] {
        let output = shop.run(NAME, &["--alter", alter]).await.expect_code(3);
        assert!(output.stderr.contains("cannot all follow the change"), "{output}");
        assert!(output.stderr.contains(&format!("  {named}")), "{output}");
    }
    assert_eq!(shop.held_back().await, [""; 0]);
}
