//! One table with nearly everything that PostgreSQL can hang on a table: what cannot follow a swap is
//! refused by name, all of it at once, and nothing else is.

use super::{findings, refusals};
use crate::cases;
use crate::harness;

/// Bound to the row type or the object id.
const BOUND: &str = "
create materialized view zoo_mv as select count(*) c from zoo;
create materialized view s.\"Zoo mv\" as select z.id from s.zoo_v2 v join zoo z using (id);
alter table child add column zz zoo; alter table child add column zzs zoo[];
create function zoo_fn() returns setof zoo language sql stable as 'select * from zoo';
create function zoo_arg(z zoo) returns int language sql stable as 'select 1';
create domain zoo_d as zoo;
create publication everything for all tables;
create publication by_schema for tables in schema public;
create table zoo_cub () inherits (zoo);
create table base (); alter table zoo inherit base;
";

/// How each is named.
const NAMED: &[&str] = &[
    "public.zoo_mv",
    "s.\"Zoo mv\"",
    "column zz of table public.child",
    "column zzs of table public.child",
    "function public.zoo_fn()",
    "function public.zoo_arg(public.zoo)",
    "public.zoo_d",
    "\"everything\" is FOR ALL TABLES",
    "\"by_schema\" is FOR TABLES IN SCHEMA",
    "public.zoo_cub under public.zoo",
    "public.zoo under public.base",
];

#[tokio::test]
async fn only_what_cannot_follow_is_refused_by_name() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    cases::load(&client, include_str!("../cases/zoo.sql")).await;
    let found = findings(&dsn, "zoo").await;
    assert!(refusals(&found).is_empty(), "all of it follows: {found:#?}");

    cases::load(&client, BOUND).await;
    let found = findings(&dsn, "zoo").await;
    let refusals = refusals(&found);
    let of = |name: &str| refusals.iter().filter(|f| f.what.contains(name)).count();
    let unnamed: Vec<&&str> = NAMED.iter().filter(|name| of(name) != 1).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}: {refusals:#?}");
    assert_eq!(refusals.len(), NAMED.len(), "{refusals:#?}");
    assert!(refusals.iter().all(|f| f.mend.len() > 10), "{refusals:#?}");
}
