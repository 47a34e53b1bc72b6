//! Whether two partitioned tables of a name are the same, in the schemas `ours` and `twin`.

use pgwraith::pg::quote_ident;

use crate::definition::assert_same;
use crate::scene::Shop;

/// Root and partitions are the same, by the catalogs and by pg_dump. There may be none.
pub async fn same_partitions(shop: &Shop, table: &str, what: &str) {
    let leaves = "SELECT coalesce(array_agg(c.relname::text ORDER BY 1), '{}') FROM pg_partition_tree(to_regclass('{s}.{t}')) t \
                  JOIN pg_class c ON c.oid = t.relid WHERE t.level > 0";
    let of = async |schema: &str| {
        let sql = leaves.replace("{s}", schema).replace("{t}", table);
        shop.value::<Vec<String>>(&sql).await
    };
    let names = of("ours").await;
    assert_eq!(names, of("twin").await, "{what}");
    for name in names.iter().map(String::as_str).chain([table]) {
        let name = quote_ident(name);
        let ours = shop.definition(&format!("ours.{name}")).await;
        let mut ours: Vec<String> =
            ours.into_iter().map(|line| line.replace("ours", "twin")).collect();
        ours.sort();
        // Parts are known by an oid.
        let told = |lines: &[String]| -> Vec<String> {
            let mut all: Vec<String> = lines.iter().map(|line| without_oids(line)).collect();
            all.sort();
            all
        };
        let twin = shop.definition(&format!("twin.{name}")).await;
        assert_same(&told(&ours), &told(&twin), &format!("{what}: {name}"));
    }
}

/// Without where in a statement a bound was written, and which oid the whole has that something is a part of; and
/// without a flag of partitions' keys that says how they were made, for tables below them, which they have none.
fn without_oids(line: &str) -> String {
    let (location, _) = without_numbers(line, ":location ");
    let (parent, parts) = without_numbers(&location, "\"conparentid\": \"");
    match parts {
        // Since 18: to give a partition its part of a primary key makes its NOT NULL, which it has by the table's,
        // its own as well.
        0 if parent.contains("\"contype\": \"n\"") => {
            parent.replace("\"conislocal\": true", "\"conislocal\": false")
        }
        0 => parent,
        _ => parent.replace("\"connoinherit\": true", "\"connoinherit\": false"),
    }
}

/// The line without the numbers but 0 behind `label`, and how many there were.
fn without_numbers(line: &str, label: &str) -> (String, usize) {
    let mut out = String::new();
    let mut count = 0;
    for (n, part) in line.split(label).enumerate() {
        if n == 0 {
            out.push_str(part);
            continue;
        }
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let is_zero = &part[..end] == "0";
        count += usize::from(!is_zero);
        out.push_str(label);
        out.push_str(if is_zero { "0" } else { "n" });
        out.push_str(&part[end..]);
    }
    (out, count)
}

/// Rows are the same, in the same partitions; and numbers go on alike.
pub async fn same_rows(shop: &Shop, table: &str, what: &str) {
    let differ = "SELECT count(*) FROM (\
                    (SELECT tableoid::regclass::text AS of, * FROM twin.{t} EXCEPT ALL \
                     SELECT replace(tableoid::regclass::text, 'ours', 'twin'), * FROM ours.{t}) UNION ALL \
                    (SELECT replace(tableoid::regclass::text, 'ours', 'twin') AS of, * FROM ours.{t} EXCEPT ALL \
                     SELECT tableoid::regclass::text, * FROM twin.{t})) d";
    assert_eq!(shop.value::<i64>(&differ.replace("{t}", table)).await, 0, "{what}");
    let numbers = "SELECT array_agg(last_value ORDER BY last_value) FROM pg_attribute, pg_sequences
        WHERE attrelid = '{s}.{t}'::regclass AND attnum > 0 AND NOT attisdropped AND format('%I.%I', schemaname, sequencename)::regclass
          = pg_get_serial_sequence('{s}.{t}', attname)::regclass";
    let of = async |schema: &str| {
        let sql = numbers.replace("{s}", schema).replace("{t}", table);
        shop.value::<Option<Vec<i64>>>(&sql).await
    };
    assert_eq!(of("ours").await, of("twin").await, "{what}");
}
