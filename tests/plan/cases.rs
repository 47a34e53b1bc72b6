//! ALTERs of all kinds, and which way each goes.

use Way::{Careful, Instant, Online, ShadowCopy};
use pgwraith::change::trial::Way;

/// What is there before each: three thousand rows, and tables at the other ends of foreign keys.
pub const GROUND: &str = "
CREATE TABLE s.p (id int PRIMARY KEY, name text);
INSERT INTO s.p SELECT n, n FROM generate_series(1, 50) n;
CREATE TABLE s.t (id int PRIMARY KEY, a int NOT NULL, b text, c varchar(50), d numeric(10,2), ts timestamp, tz timestamptz,
  e bigint, k int, j jsonb, bits varbit(8), CONSTRAINT a_pos CHECK (a > 0), CONSTRAINT k_there CHECK (k IS NOT NULL));
INSERT INTO s.t SELECT n, n, n, n, n, now(), now(), n, n % 50 + 1, '{}', '101' FROM generate_series(1, 3000) n;
CREATE INDEX t_b ON s.t (b);
CREATE INDEX t_c ON s.t (c);
CREATE UNIQUE INDEX t_e ON s.t (e);
CREATE TABLE s.kid (id int PRIMARY KEY, t_id int);
INSERT INTO s.kid SELECT n, n FROM generate_series(1, 3000) n;
CREATE DOMAIN s.plain AS int;
CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
CREATE TYPE s.mood AS ENUM ('sad', 'glad');
CREATE COLLATION s.other (locale = 'C');
ANALYZE s.t; ANALYZE s.p; ANALYZE s.kid;";

/// One of them.
pub struct Case {
    /// What is done to the ground before.
    pub before: &'static str,
    /// The clauses.
    pub alter: &'static str,
    pub way: Way,
    /// The first version that knows it.
    pub since: u32,
}

const fn case(way: Way, alter: &'static str) -> Case {
    Case { before: "", alter, way, since: 15 }
}

const fn after(before: &'static str, way: Way, alter: &'static str) -> Case {
    Case { before, alter, way, since: 15 }
}

const fn since(since: u32, before: &'static str, way: Way, alter: &'static str) -> Case {
    Case { before, alter, way, since }
}

const NOT_VALID: &str = "ALTER TABLE s.t ADD CONSTRAINT late CHECK (e > 0) NOT VALID";
const KEY: &str = "ALTER TABLE s.t ADD CONSTRAINT t_k FOREIGN KEY (k) REFERENCES s.p";
const LATE_KEY: &str =
    "ALTER TABLE s.t ADD CONSTRAINT t_k FOREIGN KEY (k) REFERENCES s.p NOT VALID";
const KID: &str = "ALTER TABLE s.kid ADD CONSTRAINT kid_t FOREIGN KEY (t_id) REFERENCES s.t";
const SELF: &str = "ALTER TABLE s.t ADD CONSTRAINT t_self FOREIGN KEY (a) REFERENCES s.t";
const UTC: &str = "ALTER ROLE CURRENT_USER SET timezone = 'UTC'";
const BERLIN: &str = "ALTER ROLE CURRENT_USER SET timezone = 'Europe/Berlin'";
const GENERATED: &str = "ALTER TABLE s.t ADD COLUMN g int GENERATED ALWAYS AS (a * 2) STORED";
const STATISTICS: &str = "CREATE STATISTICS s.both ON a, d FROM s.t";
const UNLOGGED: &str = "ALTER TABLE s.t SET UNLOGGED";
const ON_EXPRESSION: &str = "CREATE INDEX t_lower ON s.t (lower(c))";
const PARTIAL: &str = "CREATE INDEX t_some ON s.t (c) WHERE c <> ''";
const KEYLESS: &str = "ALTER TABLE s.t DROP CONSTRAINT t_pkey";
const FIRES: &str = "CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; \
    CREATE TRIGGER seen BEFORE UPDATE ON s.t FOR EACH ROW EXECUTE FUNCTION s.f()";
const FORCED: &str = "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
/// What new foreign keys may refer to, and a search path to find it by.
pub const FAR: &str = "CREATE TABLE s.\"P q\" (\"Id\" int PRIMARY KEY); INSERT INTO s.\"P q\" SELECT generate_series(1, 50); \
    CREATE TABLE s.pair (z int PRIMARY KEY, x int, y bigint); CREATE UNIQUE INDEX ON s.pair (x, y); \
    INSERT INTO s.pair SELECT id, k, e FROM s.t; \
    CREATE TABLE s.parted (id int PRIMARY KEY) PARTITION BY HASH (id); \
    CREATE TABLE s.parted_0 PARTITION OF s.parted FOR VALUES WITH (MODULUS 1, REMAINDER 0); \
    INSERT INTO s.parted SELECT generate_series(1, 50); CREATE TABLE s.heir () INHERITS (s.p); \
    ALTER ROLE CURRENT_USER SET search_path = s, public";
const UNCHECKED: &str = "ALTER TABLE s.t DROP CONSTRAINT k_there";

pub const CASES: &[Case] = &[
    // New columns.
    case(Instant, "ADD COLUMN n int"),
    case(Instant, "ADD COLUMN n int DEFAULT 5"),
    case(Instant, "ADD COLUMN n text NOT NULL DEFAULT 'x'"),
    case(Instant, "ADD COLUMN n timestamptz DEFAULT now()"),
    case(Instant, "ADD COLUMN IF NOT EXISTS a int"),
    case(Careful, "ADD COLUMN n uuid DEFAULT gen_random_uuid()"),
    case(Careful, "ADD COLUMN n uuid NOT NULL DEFAULT gen_random_uuid()"),
    case(Careful, "ADD COLUMN n double precision DEFAULT random()"),
    case(Careful, "ADD COLUMN n double precision DEFAULT random() CHECK (n >= 0)"),
    case(Careful, "ADD COLUMN n uuid DEFAULT gen_random_uuid() UNIQUE"),
    case(ShadowCopy, "ADD COLUMN n s.positive DEFAULT 1 + random()::int"),
    after(KEYLESS, ShadowCopy, "ADD COLUMN n uuid DEFAULT gen_random_uuid()"),
    after(FIRES, ShadowCopy, "ADD COLUMN n uuid DEFAULT gen_random_uuid()"),
    after(FORCED, ShadowCopy, "ADD COLUMN n uuid DEFAULT gen_random_uuid()"),
    case(ShadowCopy, "ADD COLUMN n int GENERATED ALWAYS AS IDENTITY"),
    case(ShadowCopy, "ADD COLUMN n serial"),
    case(ShadowCopy, "ADD COLUMN n int GENERATED ALWAYS AS (a + 1) STORED"),
    since(18, "", Instant, "ADD COLUMN n int GENERATED ALWAYS AS (a + 1) VIRTUAL"),
    case(Careful, "ADD COLUMN n int CHECK (n > 0)"),
    case(Careful, "ADD COLUMN n int DEFAULT 5 CHECK (n > 0)"),
    case(Careful, "ADD COLUMN n int NOT NULL DEFAULT 5 CHECK (n > 0)"),
    case(Careful, "ADD COLUMN n int UNIQUE"),
    case(Instant, "ADD COLUMN n int REFERENCES s.p"),
    case(Careful, "ADD COLUMN n int DEFAULT 7 REFERENCES s.p"),
    case(Instant, "ADD COLUMN n s.plain"),
    case(Instant, "ADD COLUMN n s.mood DEFAULT 'sad'"),
    case(Instant, "ADD COLUMN n int, ADD COLUMN m int DEFAULT 1"),
    case(Instant, "DROP COLUMN b"),
    case(Instant, "DROP COLUMN k"),
    after(GENERATED, Instant, "DROP COLUMN g"),
    after(GENERATED, Instant, "ALTER COLUMN g DROP EXPRESSION"),
    case(Instant, "RENAME COLUMN b TO bb"),
    case(Instant, "RENAME CONSTRAINT a_pos TO a_is_pos"),
    // Types.
    case(Instant, "ALTER COLUMN c TYPE varchar(80)"),
    case(Instant, "ALTER COLUMN c TYPE varchar"),
    case(Instant, "ALTER COLUMN b TYPE varchar"),
    case(Instant, "ALTER COLUMN d TYPE numeric(12,2)"),
    case(Instant, "ALTER COLUMN d TYPE numeric"),
    case(Instant, "ALTER COLUMN bits TYPE varbit(16)"),
    case(ShadowCopy, "ALTER COLUMN k TYPE s.plain"),
    after(UNCHECKED, Instant, "ALTER COLUMN k TYPE s.plain"),
    case(Instant, "ALTER COLUMN b TYPE text"),
    case(ShadowCopy, "ALTER COLUMN c TYPE varchar(20)"),
    case(ShadowCopy, "ALTER COLUMN d TYPE numeric(12,3)"),
    case(ShadowCopy, "ALTER COLUMN d TYPE numeric(8,2)"),
    case(ShadowCopy, "ALTER COLUMN a TYPE bigint"),
    case(ShadowCopy, "ALTER COLUMN id TYPE bigint"),
    case(ShadowCopy, "ALTER COLUMN b TYPE int USING b::int"),
    case(ShadowCopy, "ALTER COLUMN a TYPE s.positive"),
    case(ShadowCopy, "ALTER COLUMN j TYPE json"),
    case(ShadowCopy, "ALTER COLUMN a TYPE int USING a + 1"),
    case(ShadowCopy, "ALTER COLUMN b TYPE text COLLATE s.other"),
    after("DROP INDEX s.t_b", Instant, "ALTER COLUMN b TYPE text COLLATE s.other"),
    after(UTC, Instant, "ALTER COLUMN ts TYPE timestamptz"),
    after(UTC, Instant, "ALTER COLUMN tz TYPE timestamp"),
    after(BERLIN, ShadowCopy, "ALTER COLUMN ts TYPE timestamptz"),
    after(ON_EXPRESSION, ShadowCopy, "ALTER COLUMN c TYPE varchar(70)"),
    after(PARTIAL, ShadowCopy, "ALTER COLUMN c TYPE varchar(70)"),
    after(STATISTICS, Instant, "ALTER COLUMN d TYPE numeric(12,2)"),
    after(STATISTICS, ShadowCopy, "ALTER COLUMN d TYPE bigint"),
    after(KEY, ShadowCopy, "ALTER COLUMN k TYPE bigint"),
    after(KID, ShadowCopy, "ALTER COLUMN id TYPE bigint"),
    // Defaults, storage, statistics, options.
    case(Instant, "ALTER COLUMN a SET DEFAULT 3"),
    case(Instant, "ALTER COLUMN a DROP DEFAULT"),
    case(Instant, "ALTER COLUMN b SET STORAGE EXTERNAL"),
    case(Instant, "ALTER COLUMN b SET COMPRESSION pglz"),
    case(Instant, "ALTER COLUMN b SET STATISTICS 500"),
    case(Instant, "ALTER COLUMN b SET (n_distinct = 7)"),
    case(Instant, "ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY"),
    case(Instant, "SET (fillfactor = 70)"),
    case(Instant, "SET (autovacuum_enabled = off)"),
    case(Instant, "SET (user_catalog_table = true)"),
    case(Instant, "RESET (fillfactor)"),
    case(Instant, "CLUSTER ON t_b"),
    case(Instant, "SET WITHOUT CLUSTER"),
    case(Instant, "REPLICA IDENTITY FULL"),
    case(Instant, "ENABLE ROW LEVEL SECURITY"),
    case(Instant, "ALTER COLUMN b SET STATISTICS 500, ALTER COLUMN a SET DEFAULT 3"),
    case(ShadowCopy, "SET UNLOGGED"),
    case(Instant, "SET LOGGED"),
    after(UNLOGGED, ShadowCopy, "SET LOGGED"),
    case(ShadowCopy, "SET TABLESPACE elsewhere"),
    case(Instant, "SET TABLESPACE pg_default"),
    // NOT NULL.
    case(Careful, "ALTER COLUMN b SET NOT NULL"),
    case(Instant, "ALTER COLUMN k SET NOT NULL"),
    case(Instant, "ALTER COLUMN a SET NOT NULL"),
    case(Instant, "ALTER COLUMN a DROP NOT NULL"),
    case(Careful, "ALTER COLUMN b SET NOT NULL, ALTER COLUMN a SET DEFAULT 3"),
    since(18, "", Instant, "ADD CONSTRAINT b_there NOT NULL b NOT VALID"),
    since(
        18,
        "ALTER TABLE s.t ADD CONSTRAINT b_there NOT NULL b NOT VALID",
        Online,
        "VALIDATE CONSTRAINT b_there",
    ),
    // Checks.
    case(Careful, "ADD CHECK (d > 0)"),
    case(Careful, "ADD CONSTRAINT d_pos CHECK (d > 0) NO INHERIT"),
    case(Instant, "ADD CONSTRAINT d_pos CHECK (d > 0) NOT VALID"),
    since(18, "", Instant, "ADD CONSTRAINT d_pos CHECK (d > 0) NOT ENFORCED"),
    after(NOT_VALID, Online, "VALIDATE CONSTRAINT late"),
    after(NOT_VALID, Instant, "DROP CONSTRAINT late"),
    case(Instant, "VALIDATE CONSTRAINT a_pos"),
    case(Instant, "DROP CONSTRAINT a_pos"),
    // Foreign keys.
    case(Careful, "ADD FOREIGN KEY (k) REFERENCES s.p"),
    case(Instant, "ADD FOREIGN KEY (k) REFERENCES s.p NOT VALID"),
    case(Instant, "ADD FOREIGN KEY (a) REFERENCES s.t NOT VALID"),
    case(Instant, "ADD FOREIGN KEY (k) REFERENCES s.p NOT VALID, ALTER COLUMN b SET STATISTICS 9"),
    case(Instant, "ADD FOREIGN KEY (k) REFERENCES s.p NOT VALID, ALTER COLUMN b SET DEFAULT ''"),
    after(FAR, Careful, "ADD FOREIGN KEY (k) REFERENCES s.\"P q\""),
    after(FAR, Careful, "ADD FOREIGN KEY (k) REFERENCES\"P q\"(\"Id\")"),
    after(
        FAR,
        Careful,
        "ADD FOREIGN KEY (k, e) REFERENCES PAIR (x, y) MATCH FULL ON DELETE CASCADE",
    ),
    after(FAR, Careful, "ADD FOREIGN KEY (k) REFERENCES s . parted"),
    after(FAR, Careful, "ADD CONSTRAINT own FOREIGN KEY (a) REFERENCES t"),
    after(
        FAR,
        Careful,
        "ADD FOREIGN KEY (k) REFERENCES shop.s.p, ADD FOREIGN KEY (k) REFERENCES p (id)",
    ),
    after(
        FAR,
        Instant,
        "ADD COLUMN n int REFERENCES p, ADD COLUMN m int CONSTRAINT far REFERENCES parted",
    ),
    after(FAR, Instant, "ADD FOREIGN KEY (a) REFERENCES t (id) NOT VALID"),
    after(LATE_KEY, Online, "VALIDATE CONSTRAINT t_k"),
    after(KEY, Instant, "DROP CONSTRAINT t_k"),
    after(KEY, Instant, "ALTER CONSTRAINT t_k DEFERRABLE"),
    after(KEY, Instant, "DROP COLUMN k"),
    after(KEY, Instant, "ADD COLUMN n int"),
    after(KEY, Instant, "ALTER COLUMN b SET STATISTICS 500"),
    after(SELF, Instant, "DROP CONSTRAINT t_self"),
    after(KID, Instant, "ADD COLUMN n int"),
    // Keys.
    case(Careful, "ADD UNIQUE (d, a)"),
    case(Careful, "ADD UNIQUE (a) DEFERRABLE"),
    case(Instant, "ADD UNIQUE USING INDEX t_e"),
    case(Instant, "DROP CONSTRAINT t_pkey"),
    after("ALTER TABLE s.t DROP CONSTRAINT t_pkey", Careful, "ADD PRIMARY KEY (a)"),
    after("ALTER TABLE s.t DROP CONSTRAINT t_pkey", Careful, "ADD PRIMARY KEY (e)"),
    after("ALTER TABLE s.t DROP CONSTRAINT t_pkey", Careful, "ADD PRIMARY KEY USING INDEX t_e"),
    after(
        "ALTER TABLE s.t DROP CONSTRAINT t_pkey, ALTER COLUMN e SET NOT NULL",
        Instant,
        "ADD PRIMARY KEY USING INDEX t_e",
    ),
    // Between the steps there would be no key.
    case(ShadowCopy, "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)"),
    case(Careful, "ADD UNIQUE (a), DROP CONSTRAINT t_pkey"),
    // What is dropped is dropped last, where that makes the same table.
    case(Careful, "DROP COLUMN b, ADD CHECK (d > 0)"),
    case(
        Careful,
        "DROP CONSTRAINT a_pos, ALTER COLUMN a DROP NOT NULL, ADD CONSTRAINT d_pos CHECK (d > 0)",
    ),
    case(ShadowCopy, "DROP CONSTRAINT a_pos, ADD CONSTRAINT a_pos CHECK (a > -1)"),
    case(ShadowCopy, "ADD CHECK (d > 0), DROP COLUMN b, ADD COLUMN b int"),
    // PostgreSQL drops first, whatever the order.
    case(ShadowCopy, "ADD CONSTRAINT d_pos CHECK (d > 0), DROP CONSTRAINT IF EXISTS d_pos"),
    case(
        ShadowCopy,
        "ADD CHECK (d > 0), ALTER COLUMN b SET DEFAULT 'x', ALTER COLUMN b DROP DEFAULT",
    ),
    case(ShadowCopy, "ALTER COLUMN b SET NOT NULL, ALTER COLUMN b DROP NOT NULL"),
    case(ShadowCopy, "ADD EXCLUDE (a WITH =)"),
    case(Careful, "ADD COLUMN n int, ADD CHECK (d > 0), ADD UNIQUE (d)"),
    case(ShadowCopy, "ADD CHECK (d > 0), ALTER COLUMN a TYPE bigint"),
];

/// What only an empty table takes: PostgreSQL would refuse it, after it has looked at the rows.
pub const REFUSED: &[&str] = &[
    "ADD COLUMN n int NOT NULL",
    "ADD COLUMN n s.positive NOT NULL",
    "ADD CHECK (a > 10)",
    "ADD UNIQUE (j)",
    "ADD FOREIGN KEY (a) REFERENCES s.p",
];
