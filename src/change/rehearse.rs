//! The change, rehearsed on an empty clone inside a transaction that is rolled back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::alter::alter;
use super::as_text::as_text;
use super::clauses::{new_names, using_expressions, words};
use super::clone::{self, Clone, set_role};
use super::expression::{self, Calls, Expression, Stability, Typed};
use super::in_turn::{in_turn, number_of, refuse_in_turn};
use super::newcomers::{First, Newcomers, default_of_type};
use super::stand_in::StandIns;
use super::{Plan, Projected, Request, no_such_column};
use super::{ddl, follow, foreign_keys, key, order, order_by, partition, probe, references};
use crate::catalog::{self, Column, Table};
use crate::error::{Error, Kind, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{QualifiedName, Session, quote_ident, quote_literal};
use crate::shadow::{self, Names};

/// How long a lock on the source, or on what hangs on it, may take: only such as readers take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Works out the future table, its projection and its key. Leaves nothing behind.
///
/// Errors of kind `Usage` name what in the request is wrong, those of kind `Refused` what hangs on the
/// table and cannot follow.
pub async fn rehearse(session: &Session, source: &Table, request: &Request) -> Result<Plan> {
    session.batch("BEGIN").await?;
    let plan = rehearse_in_transaction(session, source, request, LOCK_TIMEOUT).await;
    session.rollback().await;
    plan
}

/// The same inside the open transaction of a session that holds a lock on the source. Another session
/// would queue behind whoever waits for that lock, who waits for us. No lock may take longer than
/// `lock_timeout`: less than it takes PostgreSQL to find a deadlock, whose victim could be another.
pub async fn rehearse_within(
    session: &Session,
    source: &Table,
    request: &Request,
    lock_timeout: Duration,
) -> Result<Plan> {
    session.undone(rehearse_in_transaction(session, source, request, lock_timeout)).await
}

async fn rehearse_in_transaction(
    session: &Session,
    source: &Table,
    request: &Request,
    lock_timeout: Duration,
) -> Result<Plan> {
    let limit = lock_timeout.as_millis().max(1);
    // Bodies that are strings are not what follows, and mean what they mean under the caller's search path.
    let unread = "SET LOCAL check_function_bodies = off";
    let planned_once = "SET LOCAL plan_cache_mode = force_generic_plan";
    let settings = format!("SET LOCAL lock_timeout = {limit}; {unread}; {planned_once}");
    session.batch(&settings).await?;
    // Before anything of the rehearsal itself refers to the source.
    let mut carried = catalog::carried(session, source.oid).await?;
    // In mid-run the shadow has defaults that name the source. They are said again once it has its name.
    let shadow = Names::of(&source.qualified()).shadow;
    carried.retain(|c| c.relation.as_ref().is_none_or(|r| r.qualified() != shadow));
    let mut made = clone::make(session, source).await?;
    let mut stand_ins = StandIns::new(session, source, &made.name);
    foreign_keys::put_on(session, source, &mut stand_ins).await?;
    references::stand_in(session, source, &request.alters, &mut stand_ins).await?;
    let mut newcomers = Newcomers::default();
    let (mut target, divided) = match &request.shadow_ddl {
        Some(text) => ddl::replace(session, source, &mut made, text, &mut stand_ins).await?,
        None => {
            let alters = (&request.alters[..], &mut newcomers);
            (altered(session, source, alters, &made, &stand_ins).await?, None)
        }
    };
    probe::positions_fit(session, source, &target).await?;
    refuse_lost_serials(session, source, &target).await?;
    order::put_first(&mut target, &request.column_order)?;
    let in_turn = in_turn(source, &target, request)?;
    let typed = typed_expressions(source, &target, request)?;
    let scratch = made.name.schema.clone();
    let fill = Fill { session, source, scratch: &scratch, clone_oid: made.oid, typed, newcomers };
    let filled = fill.projection(&target).await?;
    let Filled { projection, reads, mut by_settings, mut functions } = filled;
    refuse_in_turn(source, &target, &in_turn, &reads)?;
    let keep = match &request.keep {
        Some(typed) => {
            let kept = kept(session, source, &scratch, typed).await?;
            by_settings.extend(kept.by_settings.then(|| "--where".to_owned()));
            functions.extend(kept.functions);
            Some(kept.sql)
        }
        None => None,
    };
    let mut partitioning = match &request.partition {
        Some(asked) if asked.is_none() => {
            partition::refuse_ordinary(source)?;
            None
        }
        None if request.shadow_ddl.is_some() => divided,
        None if !source.is_partitioned() => None,
        asked => {
            let (tables, stand_ins) = ((source, &mut target), &mut stand_ins);
            let asked = asked.as_ref();
            Some(partition::become_partitioned(session, &mut made, tables, asked, stand_ins).await?)
        }
    };
    let rows = Rows { source, keep: keep.as_deref() };
    let from = rows_of(session, rows, &made.name).await?;
    let from = catalog::scanned(&from, source.is_partitioned());
    let insert = check_assignment(session, &from, &made.name, &projection).await?;
    if !takes_numbers(&target, &projection) {
        try_a_row(session, &insert, limit).await?;
    }
    if request.shadow_ddl.is_some() {
        // Not under a lock, where there is no time for a look; by then all rows have their places.
        if lock_timeout >= LOCK_TIMEOUT {
            ddl::try_rows(session, (source, &from), &made.name, &projection).await?;
        }
        ddl::refuse_unidentified(&target, &carried)?;
    }
    // Only now: rows are written before the swap puts rules and row security on the table.
    follow::try_all(session, source, &target, &carried, &made, &mut stand_ins).await?;
    let key = key::mapping(source, &target, &projection, &reads)?;
    set_role(session, Some(&source.owner)).await?;
    key::index_it(session, &made, &mut target, &key).await?;
    if let Some(partitioning) = &mut partitioning {
        partitioning.take_helpers(&target);
    }
    let order = match &request.order_by {
        Some(index) => Some(order_by::course(session, source, index).await?),
        None => None,
    };
    Ok(Plan { target, projection, key, carried, keep, partitioning, order, by_settings, functions })
}

/// What the operator's clauses make of the clone.
async fn altered(
    session: &Session,
    source: &Table,
    (alters, newcomers): (&[String], &mut Newcomers),
    made: &Clone,
    stand_ins: &StandIns<'_>,
) -> Result<Table> {
    let before = probe::set(session, source, made).await?;
    let known = source.columns.len();
    for clauses in alters {
        newcomers.foresee(session, made, (clauses, known), stand_ins).await?;
        alter(session, &made.name, clauses, stand_ins).await?;
        newcomers.look(session, made, known).await?;
    }
    let mut target = read_result(session, source, &made.name, made.oid).await?;
    probe::check(session, source, made, &before).await?;
    target.foreign_keys = foreign_keys::unstaged(target.foreign_keys, source, stand_ins);
    foreign_keys::refuse_new(source, &target)?;
    Ok(target)
}

/// The condition on rows, as the server understands it. Whether a row is kept must not depend on other rows: a
/// change of those would go unnoticed.
async fn kept(session: &Session, source: &Table, scratch: &str, typed: &str) -> Result<Expression> {
    if let Some(key) = source.foreign_keys.iter().find(|key| key.to.oid == source.oid) {
        let from = key.from.qualified();
        return Err(Error::new(
            Kind::Refused,
            format!(
                "foreign key {:?} of {from} refers to rows that --where may leave behind",
                key.name
            ),
        )
        .state("Nothing was touched")
        .next(
            "Drop it before, remove what refers to those rows, and add it again after the swap",
        ));
    }
    let typed = Typed { typed, sql: &format!("({typed}\n) IS TRUE") };
    let qualified = source.qualified();
    expression::understand(session, (source.oid, &qualified), scratch, typed).await
}

/// A serial's sequence goes with its column, and with it whatever else calls it: as a plain ALTER says.
async fn refuse_lost_serials(session: &Session, source: &Table, target: &Table) -> Result<()> {
    let serials = source.sequences.iter().filter(|sequence| !sequence.identity);
    for lost in serials.filter(|sequence| source.becomes(sequence.attnum, target).is_none()) {
        let sql = "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d
          WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1 AND d.deptype = 'n'
            AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid IN (
              SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = $2 AND f.adnum = $3)) ORDER BY 1 LIMIT 1";
        if let Some(row) = session.maybe(sql, &[&lost.oid, &source.oid, &lost.attnum]).await? {
            return Err(Error::usage(format!(
                "the change drops a column whose sequence {:?} is used elsewhere: {}",
                lost.name,
                row.get::<_, &str>(0)
            ))
            .next("ALTER SEQUENCE … OWNED BY NONE before, or take that use away"));
        }
    }
    Ok(())
}

async fn read_result(
    session: &Session,
    source: &Table,
    clone: &QualifiedName,
    oid: u32,
) -> Result<Table> {
    let gone = || Error::usage("--alter may not drop or replace the table itself");
    let mut target = catalog::read(session, oid).await?.ok_or_else(gone)?;
    if target.qualified() != *clone || target.owner != source.owner {
        return Err(Error::usage("--alter may not rename the table, move it or change its owner")
            .next("Do that before or after, it takes PostgreSQL a millisecond"));
    }
    if let Some(serial) = target.sequences.iter().find(|s| !s.identity && s.schema == clone.schema)
    {
        return Err(Error::usage(format!(
            "--alter would make sequence {:?} for a serial column, and a copy has none to take values from",
            serial.name
        ))
        .next("Say GENERATED BY DEFAULT AS IDENTITY in place of serial"));
    }
    let naming = catalog::naming(session, oid, source.oid).await?;
    if let Some(first) = naming.others.first() {
        let first = first.replace(&format!("{}.", clone.schema), "");
        return Err(Error::usage(format!(
            "--alter would give the table what names the old one for good: {first}"
        ))
        .next("Leave it out, and add it with ALTER TABLE after the swap"));
    }
    for column in &mut target.columns {
        column.default_names_table |= naming.defaults.contains(&column.attnum);
    }
    let lost = catalog::attachments(session, oid).await?;
    if let Some(first) = lost.first() {
        let name = first.name.replace(&format!("{}.", clone.schema), "");
        return Err(Error::usage(format!(
            "--alter would give the table something this version does not carry over: {} {name}",
            first.kind
        ))
        .next("Leave it out, and add it with ALTER TABLE after the swap"));
    }
    if target.persistence != source.persistence {
        return Err(Error::usage("--alter may not change persistence")
            .next("Run without it; SET LOGGED or UNLOGGED rewrites the table under lock"));
    }
    if target.replica_identity != source.replica_identity {
        return Err(Error::usage("--alter may not change the replica identity")
            .next("Change it before or after, it takes PostgreSQL a millisecond"));
    }
    Ok(clone::as_source(target, source))
}

/// Names of columns of the source that are, or were for some clauses, those of other columns. USING is understood
/// over the source's row: it would read the wrong one, and verification with it.
fn reused_names(source: &Table, target: &Table, request: &Request) -> HashSet<String> {
    let given: HashSet<String> = request.alters.iter().flat_map(|a| new_names(a)).collect();
    let reused = source.columns.iter().filter(|c| {
        let is_another = |of: &Column| Some(of.attnum) != source.position(c.attnum);
        given.contains(&c.name) || target.column_named(&c.name).is_some_and(is_another)
    });
    reused.map(|c| c.name.clone()).collect()
}

/// Column of the target → the expression that the operator typed for it.
fn typed_expressions(
    source: &Table,
    target: &Table,
    request: &Request,
) -> Result<HashMap<i16, String>> {
    let mut typed = HashMap::new();
    let reused = reused_names(source, target, request);
    for using in request.alters.iter().flat_map(|a| using_expressions(a)) {
        let names = [using.column.clone()].into_iter().chain(words(&using.expression));
        if let Some(name) = names.into_iter().find(|name| reused.contains(name)) {
            return Err(Error::usage(format!(
                "the USING of column {:?} speaks of {name:?}, which other clauses make the name of another column",
                using.column
            ))
            .next("Give the new column its value by --map, over the columns as they are now, or make two changes of it"));
        }
        if let Some(attnum) = number_of(&using.column, source, target) {
            typed.insert(attnum, using.expression);
        }
    }
    for (column, expr) in &request.maps {
        let Some(known) = target.column_named(column) else {
            return Err(no_such_column("--map", column, target));
        };
        if !known.generated.is_empty() {
            return Err(Error::usage(format!("--map names the generated column {column:?}")));
        }
        if typed.insert(known.attnum, expr.clone()).is_some() {
            return Err(Error::usage(format!(
                "column {column:?} is given more than one expression; use one --map or one USING"
            )));
        }
    }
    Ok(typed)
}

/// How the columns get their values.
#[derive(Default)]
struct Filled {
    projection: Vec<Projected>,
    /// Which columns of the source each of them reads.
    reads: Vec<Vec<i16>>,
    by_settings: Vec<String>,
    functions: Vec<String>,
}

struct Fill<'a> {
    session: &'a Session,
    source: &'a Table,
    scratch: &'a str,
    clone_oid: u32,
    typed: HashMap<i16, String>,
    newcomers: Newcomers,
}

impl Fill<'_> {
    async fn projection(&self, target: &Table) -> Result<Filled> {
        let mut filled = Filled::default();
        for column in &target.columns {
            let expression = self.fill(column).await?;
            if expression.as_ref().is_some_and(|e| e.by_settings) {
                filled.by_settings.push(column.name.clone());
            }
            filled.functions.extend(expression.iter().flat_map(|e| e.functions.clone()));
            let (sql, columns) = match expression {
                Some(e) => (Some(e.sql), e.columns),
                None => (None, Vec::new()),
            };
            let collation = column.collated.clone().filter(|_| !self.is_as_it_was(column));
            filled.projection.push(Projected {
                column: column.name.clone(),
                type_sql: column.type_sql.clone(),
                canonical: key::is_canonical(column),
                toasted: matches!(column.storage, 'x' | 'e'),
                collation,
                expression: sql,
            });
            filled.reads.push(columns);
        }
        Ok(filled)
    }

    /// It is filled with what it holds, under the collation that it has.
    fn is_as_it_was(&self, column: &Column) -> bool {
        let old = self.source.columns.get(column.attnum as usize - 1);
        let same = old.is_some_and(|old| old.collated == column.collated);
        same && !self.typed.contains_key(&column.attnum)
    }

    async fn fill(&self, column: &Column) -> Result<Option<Expression>> {
        if !column.generated.is_empty() {
            return Ok(None);
        }
        if let Some(typed) = self.typed.get(&column.attnum) {
            let source = self.source.qualified();
            let source = (self.source.oid, &source);
            // As in an UPDATE it has the column's type; in a view it would be a text.
            let sql = match expression::has_no_type(typed) {
                true => &format!("CAST({typed} AS {})", column.base_type_sql),
                false => typed,
            };
            return expression::understand(
                self.session,
                source,
                self.scratch,
                Typed { typed, sql },
            )
            .await
            .map(Some);
        }
        match self.source.columns.get(column.attnum as usize - 1) {
            Some(old) => Ok(Some(Expression {
                sql: expression::column(&old.name),
                columns: vec![old.attnum],
                by_settings: false,
                functions: Vec::new(),
            })),
            None => self.new_column(column).await,
        }
    }

    /// None where the server gives each row a value of its own as the row is written: that of an identity
    /// column, or of a volatile default. It stays with the row while its other columns are synced, and cannot
    /// be compared with anything.
    async fn new_column(&self, column: &Column) -> Result<Option<Expression>> {
        let refuse = |why: &str| {
            Err(Error::usage(format!("the new column {:?} {why}", column.name))
                .next(format!("Give existing rows a value: --map \"{}=expression\"", column.name)))
        };
        let first = self.newcomers.first(column);
        let stays = matches!(first, First::AsNow);
        let default = match first {
            First::Unclear(why) => {
                return refuse(&format!("{why}: what existing rows get is not known"));
            }
            First::Default(default) => default,
            First::AsNow if !column.identity.is_empty() => return Ok(None),
            First::AsNow => self.default_of(column).await?,
        };
        let Some((default, tree)) = default else {
            if column.not_null {
                return refuse("is NOT NULL and has no default, so existing rows would violate it");
            }
            let sql = format!("NULL::{}", column.type_sql);
            return Ok(Some(Expression::constant(sql, Vec::new())));
        };
        let Calls { stability, functions } = expression::calls(self.session, &tree).await?;
        Ok(match stability {
            Stability::Immutable => Some(Expression::constant(format!("({default})"), functions)),
            Stability::Stable | Stability::Moment => {
                Some(Expression::constant(self.freeze(column, &default).await?, Vec::new()))
            }
            Stability::Volatile | Stability::Subquery if stays => None,
            Stability::Volatile | Stability::Subquery => {
                return Err(Error::usage(format!(
                    "the new column {:?} comes with a volatile default and is given another one: existing rows get theirs as they are written",
                    column.name
                ))
                .next("Leave that clause out, and give the other default after the swap: it takes PostgreSQL a millisecond"));
            }
        })
    }

    /// Its default, as text and as the server keeps it; where it has none of its own that of its domain, or of the
    /// domain which that is over.
    async fn default_of(&self, column: &Column) -> Result<Option<(String, String)>> {
        if let Some(default) = &column.default {
            // By name: a clone that was made anew has numbers of its own.
            let sql = "SELECT d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a \
                       ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = $1 AND a.attname = $2";
            let row = self.session.one(sql, &[&self.clone_oid, &column.name]).await?;
            return Ok(Some((default.clone(), row.get(0))));
        }
        let sql = default_of_type("$1");
        let row = self.session.maybe(&sql, &[&column.type_oid]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// As a plain ALTER does: a default like `now()` is evaluated once, for all existing rows.
    async fn freeze(&self, column: &Column, default: &str) -> Result<String> {
        let sql = format!("SELECT (CAST(({default}) AS {}))::pg_catalog.text", column.type_sql);
        let value = as_text(self.session, column, self.session.one(&sql, &[])).await?;
        let value: Option<String> = value.get(0);
        let literal = value.as_deref().map_or("NULL".to_owned(), quote_literal);
        Ok(format!("CAST({literal} AS {})", column.type_sql))
    }
}

/// Whether a row that is written takes a number from a sequence of the operator's, which no rollback gives back.
fn takes_numbers(target: &Table, projection: &[Projected]) -> bool {
    let unfilled = projection.iter().filter(|p| p.expression.is_none());
    unfilled
        .filter_map(|p| target.column_named(&p.column)?.default.as_deref())
        .any(|d| d.contains("nextval("))
}

/// Whether PostgreSQL would assign every expression to its column, asked without running it. Returns what would do it.
async fn check_assignment(
    session: &Session,
    from: &str,
    clone: &QualifiedName,
    projection: &[Projected],
) -> Result<String> {
    let filled: Vec<_> =
        projection.iter().filter_map(|p| p.expression.as_ref().map(|e| (&p.column, e))).collect();
    let columns: Vec<_> = filled.iter().map(|(c, _)| quote_ident(c)).collect();
    let values: Vec<_> = filled.iter().map(|(_, e)| e.as_str()).collect();
    let sql = format!(
        "INSERT INTO {clone} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s",
        columns.join(", "),
        values.join(", "),
        from
    );
    session.simple(&format!("EXPLAIN {sql}")).await.map(drop).map_err(|e| match e.db() {
        Some(_) if e.sqlstate() == Some("42501") => Error::new(
            Kind::Refused,
            format!("the table's owner cannot copy its rows: {}", e.what()),
        )
        .state("Nothing was touched")
        .next("Rows are read and written as the owner: GRANT him what he lacks"),
        Some(db) => {
            Error::usage(format!("the rows cannot be converted as asked: {}", db.message()))
                .next("Nothing was changed. Say how: ALTER COLUMN … TYPE … USING, or --map")
        }
        None => e,
    })?;
    Ok(sql)
}

/// Functions in checks, indexes and generated columns run where a row is written, under our search path
/// and as the owner: better to know now than after hours whether they can. What is wrong with the row
/// itself is for the copy to say; and where the first row is far behind many dead ones, `limit` milliseconds
/// are enough.
async fn try_a_row(session: &Session, insert: &str, limit: u128) -> Result<()> {
    let limited = format!("SET LOCAL statement_timeout = {limit}; {insert} LIMIT 1");
    match session.undone(session.batch(&limited)).await {
        Err(e) if e.db().is_some() && classify(&e) == Class::Definite => Err(Error::new(
            Kind::Refused,
            format!("a row of the table cannot be written to a table like it: {}", e.what()),
        )
        .state("Nothing was touched")
        .next(
            "A function in a check, index, default or generated column must name what it calls with its \
             schema, or SET search_path, and the table's owner must be allowed to call it",
        )),
        Err(e) if e.db().is_none() => Err(e),
        _ => Ok(()),
    }
}

/// The rows that are copied.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) source: &'a Table,
    pub(super) keep: Option<&'a str>,
}

/// Where the rows will be read. For the owner, forced row security could fail even the planning.
pub(super) async fn rows_of(
    session: &Session,
    Rows { source, keep }: Rows<'_>,
    clone: &QualifiedName,
) -> Result<QualifiedName> {
    if !shadow::needs_rows_view(source, keep.is_some()) {
        return Ok(source.qualified());
    }
    let (view, owner) = (clone.sibling("pgwraith_rows"), quote_ident(&source.owner));
    set_role(session, None).await?;
    session.batch(&shadow::create_rows_view(&view, source, keep)).await?;
    session.batch(&format!("GRANT SELECT ON TABLE {view} TO {owner}")).await?;
    set_role(session, Some(&source.owner)).await?;
    Ok(view)
}
