//! Keys that become wider, longer, shorter, others.

use super::{CASE, Case};

const SERIAL: &str = "ALTER TABLE t ALTER id DROP IDENTITY; CREATE SEQUENCE orders_id_seq AS int OWNED BY t.id;
    SELECT setval('orders_id_seq', (SELECT max(id) FROM t)); ALTER TABLE t ALTER id SET DEFAULT nextval('orders_id_seq')";

/// Rows that refer to it go along where keys change, and where rows go.
const REFERRING: &str = "CREATE TABLE lines (order_id int CONSTRAINT of_order REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE, n int,
      PRIMARY KEY (order_id, n));
    INSERT INTO lines SELECT id, n FROM t, generate_series(1, 2) n WHERE id % 4 = 0;
    CREATE TABLE refunds (order_id int CONSTRAINT of_order REFERENCES t ON UPDATE CASCADE ON DELETE SET NULL);
    INSERT INTO refunds SELECT id FROM t WHERE id % 5 = 0; CREATE INDEX ON refunds (order_id)";

#[tokio::test]
async fn a_number_that_others_refer_to_becomes_wider() {
    let case = Case {
        before: &[REFERRING],
        alters: &["ALTER COLUMN id TYPE bigint"],
        others: &["lines", "refunds"],
        ..CASE
    };
    case.holds().await;
    Case {
        before: &[SERIAL, REFERRING],
        twin: "ALTER SEQUENCE twin.orders_id_seq AS bigint",
        ..case
    }
    .holds()
    .await;
}

const LONGER: &str = "ALTER TABLE t DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (customer_id, id)";

#[tokio::test]
async fn the_key_becomes_part_of_a_longer_one() {
    let alters =
        &["DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (customer_id, id)"];
    Case { alters, ..CASE }.holds().await;
}

#[tokio::test]
async fn the_key_becomes_part_of_a_longer_one_and_wider() {
    let alters = &[
        "ALTER COLUMN id TYPE bigint",
        "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (id, created_at)",
    ];
    Case { alters, ..CASE }.holds().await;
}

/// The old key's columns stay, in no index at all.
#[tokio::test]
async fn a_key_gives_way_to_an_identity() {
    let alters = &[
        "DROP CONSTRAINT orders_pkey",
        "ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ];
    Case { alters, given: &["number"], ..CASE }.holds().await;
}

#[tokio::test]
async fn a_composite_key_gives_way_to_a_uuid() {
    let before = &[LONGER];
    let alters = &[
        "DROP CONSTRAINT t_pkey, ADD COLUMN name uuid NOT NULL DEFAULT gen_random_uuid()",
        "ADD PRIMARY KEY (name)",
    ];
    Case { before, alters, given: &["name"], ..CASE }.holds().await;
}

#[tokio::test]
async fn a_composite_key_becomes_one_column_and_another_order() {
    let before = &[LONGER];
    let single = &["DROP CONSTRAINT t_pkey", "ADD PRIMARY KEY (id)"];
    Case { before, alters: single, ..CASE }.holds().await;
    let turned = &["DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, customer_id)"];
    Case { before, alters: turned, ..CASE }.holds().await;
}

/// The word follows the number, as an application's would, so that the traffic changes the key.
#[tokio::test]
async fn a_natural_key_gives_way_to_a_number() {
    let before = &["ALTER TABLE t DROP CONSTRAINT orders_pkey; ALTER TABLE t ADD COLUMN code text;
        ALTER TABLE t ALTER COLUMN code TYPE text USING 'No. ' || id; ALTER TABLE t ADD CONSTRAINT orders_pkey PRIMARY KEY (code);
        CREATE UNIQUE INDEX orders_id_idx ON t (id);
        CREATE FUNCTION spell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.code := 'No. ' || NEW.id; RETURN NEW; END $$;
        CREATE TRIGGER spelt BEFORE INSERT OR UPDATE OF id ON t FOR EACH ROW EXECUTE FUNCTION spell()"];
    let alters = &[
        "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT by_code UNIQUE (code)",
        "ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ];
    Case { before, alters, given: &["number"], ..CASE }.holds().await;
}
