-- What PostgreSQL 18 brought that can hang on a table.
-- Contract: `pgwraith run zoo18 --rebuild` leaves the definition of this database unchanged, as for zoo.sql.
create role app18 nologin;
create extension if not exists btree_gist;
create table public.parent(id int primary key); insert into parent select generate_series(1, 50);
create table public.zoo18(
  gone int,
  id int constraint "the id's" not null,
  n int constraint has_n not null default 7,
  plain int not null,
  m int, u int4range, during daterange,
  doubled int generated always as (n * 2) virtual,
  seen text collate "C" generated always as ('n is ' || n) constraint "always seen" not null,
  kept int generated always as (n * 3) stored,
  here int constraint here_only not null no inherit,
  pid int constraint hoped references parent on delete cascade not enforced,
  pid2 int constraint held references parent,
  self int,
  constraint "the Key" primary key (id),
  constraint "id n" unique (id, n),
  constraint once unique (u, during without overlaps),
  constraint small check (doubled < 100000),
  constraint hope check (plain > 0) not enforced,
  constraint own foreign key (self) references zoo18(id) deferrable not enforced
) with (autovacuum_vacuum_max_threshold = 5000);
alter table zoo18 drop column gone;
alter table zoo18 rename constraint zoo18_plain_not_null to "must be";
insert into zoo18(id, n, plain, m, u, during, here)
  select g, g % 50, -g, nullif(g % 100, 0), int4range(g, g + 1), daterange('2024-01-01', '2024-02-01'), g from generate_series(1, 1500) g;
-- There are nulls.
alter table zoo18 add constraint unproven not null m not valid;
comment on constraint "the id's" on zoo18 is 'told'; comment on constraint hope on zoo18 is 'hope';
create index by_n on zoo18(n); create index by_range on zoo18 using gist (u) with (fillfactor = 80);
create statistics zoo18_st on (n * 2), plain from zoo18;
create table within(u int4range, at daterange, constraint within foreign key (u, period at) references zoo18(u, period during));
create table hoping(zid int constraint hoping_fk references zoo18 not enforced);
insert into within values ('[3,4)', '[2024-01-05,2024-01-06)');
grant maintain on zoo18 to app18 with grant option;
create view zoo18_v as select id, doubled, seen from zoo18;
create publication with_generated for table zoo18 (id, kept) with (publish_generated_columns = stored);
