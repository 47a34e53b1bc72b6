//! Phase "prepare": publication, slot, capture, Invariant 1's wait, the empty shadow.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::catalog::{self, Part, Table};
use crate::change::partition::Partitioning;
use crate::change::{KeyColumn, Plan};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::write::superseded;
use crate::flow::{Captured, Flow, Target};
use crate::pg::{Connector, Lsn, QualifiedName, Session, Who, quote_ident};
use crate::shadow::{self, Names, Privileges, Step, TemporaryNames};
use crate::telemetry::Meter;
use crate::wal::{OriginFilter, ReplicationConn, ReplicationStream, StreamOptions};

use super::begun::Known;
use super::store::Stored;
use super::{mark, store, teardown};

/// How often to ask whether those we wait for have ended.
const POLL: Duration = Duration::from_millis(20);
/// After so long, say whom we wait for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same ones are named again only after this.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// The flow of a new migration, not yet made.
pub(super) async fn describe_flow(
    session: &Session,
    migration: i64,
    source: &Table,
    plan: Plan,
    names: &Names,
) -> Result<Flow> {
    Ok(Flow {
        migration,
        number: 1,
        captured: captured(migration, source, plan.keep.is_some()),
        target: target(names, &plan.target, &plan.key, plan.partitioning.as_ref()),
        projection: plan.projection,
        key: plan.key,
        order: plan.order,
        functions: plan.functions,
        publication: format!("pgwraith_{migration}"),
        slot: slot_name(session, migration).await?,
    })
}

/// Where the rows go.
pub(super) fn target(
    names: &Names,
    target: &Table,
    key: &[KeyColumn],
    partitioning: Option<&Partitioning>,
) -> Target {
    let root = names.shadow.clone();
    let columns: Vec<&str> = key.iter().map(|k| k.target.as_str()).collect();
    Target {
        partitions: partitioning.map(|p| p.partitions.clone()),
        ..Target::ordinary(root, shadow::key_index(target, &columns).is_some())
    }
}

/// The relation that is captured, and where its rows are read.
pub(super) fn captured(migration: i64, source: &Table, keeps_some: bool) -> Captured {
    let name = source.qualified();
    let rows = match shadow::needs_rows_view(source, keeps_some) {
        true => teardown::rows_view(migration),
        false => name.clone(),
    };
    // Row security would hide keys from the owner.
    let keys = if source.forces_row_security() { &rows } else { &name };
    let (keys, is_partitioned) = (keys.clone(), source.is_partitioned());
    Captured { oid: source.oid, name, rows, keys, is_partitioned }
}

/// The slot's name in this database: slots are named across all databases of the server.
pub(super) async fn slot_name(session: &Session, migration: i64) -> Result<String> {
    let sql = "SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let database: u32 = session.one(sql, &[]).await?.get(0);
    Ok(format!("pgwraith_{database}_{migration}"))
}

/// The view that the rows are read through, where they are: for the table's owner and nobody else,
/// whatever default privileges say.
///
/// In a session that an abort ends, since it may wait for the table's lock; and never behind an abort,
/// after which nobody would take it away.
pub(super) async fn create_rows_view(
    connector: &Connector,
    flow: &Flow,
    (source, keep): (&Table, Option<&str>),
    epoch: i64,
) -> Result<()> {
    let Some(view) = flow.captured.view() else { return Ok(()) };
    let session = connector.session(&format!("{}/rows", flow.migration)).await?;
    if !store::hold_epoch(&session, flow.migration, epoch).await? {
        return Err(superseded());
    }
    session.batch("SET LOCAL ROLE NONE").await?;
    session.batch(&shadow::create_rows_view(view, source, keep)).await?;
    let sql = "SELECT DISTINCT COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC') \
               FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a \
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
               WHERE c.oid = $1::pg_catalog.text::pg_catalog.regclass AND a.grantee <> c.relowner";
    for row in session.query(sql, &[&view.to_string()]).await? {
        let stranger: &str = row.get(0);
        session.batch(&format!("REVOKE ALL ON TABLE {view} FROM {stranger}")).await?;
    }
    let owner = quote_ident(&source.owner);
    session.batch(&format!("GRANT SELECT ON TABLE {view} TO {owner}; COMMIT")).await
}

/// The publication: the key's columns alone, so that the stream carries keys, not rows. With
/// REPLICA IDENTITY FULL a column list would make the application's updates fail: no list then.
///
/// Of a partitioned table it has each partition with such a list, and the table itself, which stands for partitions
/// that come later: theirs are whole rows. Under their own names they come because a TRUNCATE of one of them is told
/// under that name or not at all. One whose replica identity is not the key, as a later one's may be, is with those: the
/// list would make the application's updates of it fail.
pub(super) async fn create_publication(
    session: &Session,
    flow: &Flow,
    source: &Table,
) -> Result<()> {
    session.batch(&publication_sql(flow, source)).await
}

/// What makes it.
pub(super) fn publication_sql(flow: &Flow, source: &Table) -> String {
    let columns = match source.replica_identity {
        'f' => String::new(),
        _ => {
            let names: Vec<_> = flow.key.iter().map(|k| quote_ident(&k.source)).collect();
            format!(" ({})", names.join(", "))
        }
    };
    let name = &flow.captured.name;
    let tables = match source.is_partitioned() {
        false => format!("ONLY {name}{columns}"),
        true => {
            let mut key: Vec<&str> = flow.key.iter().map(|k| k.source.as_str()).collect();
            key.sort_unstable();
            let by_key = |part: &&Part| part.identity == key;
            let leaf = |part: &Part| format!(", ONLY {}{columns}", part.qualified());
            format!("{name}{}", source.leaves().filter(by_key).map(leaf).collect::<String>())
        }
    };
    format!(
        "CREATE PUBLICATION {} FOR TABLE {tables} WITH (publish = 'insert, update, delete, truncate')",
        quote_ident(&flow.publication),
    )
}

/// The slot, made now, and its stream. The slot waits for every open write transaction of the server;
/// the meter is told for whom.
pub(super) async fn create_slot(
    connector: &Connector,
    session: &Session,
    flow: &Flow,
    meter: &Meter,
) -> Result<(ReplicationStream, Lsn)> {
    let mut connection = connect(connector, session, flow).await?;
    let system = connection.identify_system().await?;
    let created = {
        let create = connection.create_slot(&flow.slot, session.version());
        tokio::pin!(create);
        let mut told = (Vec::new(), Instant::now());
        loop {
            tokio::select! {
                done = &mut create => break done,
                _ = sleep(PATIENCE) => tell_open_transactions(session, meter, &mut told).await?,
            }
        }
    };
    let start = created.map_err(|e| e.context("creating the replication slot"))?;
    failpoint!("slot made");
    let system = (system.system_identifier.as_str(), system.timeline);
    store::record_slot(session, flow, system, start).await?;
    failpoint!("slot recorded");
    let stream = connection.start(options(flow, start, session)).await?;
    Ok((stream, start))
}

/// The stream of a slot that is there: from where the slot stands. What was told behind that comes once
/// more, and makes keys dirty that may be synced already (**Invariant 5**).
pub(super) async fn reopen_stream(
    connector: &Connector,
    session: &Session,
    flow: &Flow,
) -> Result<(ReplicationStream, Lsn)> {
    let sql = "SELECT s.confirmed_flush_lsn FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
    let start: Lsn = session.one(sql, &[&flow.slot]).await?.get(0);
    let connection = connect(connector, session, flow).await?;
    let stream = connection.start(options(flow, start, session)).await?;
    Ok((stream, start))
}

async fn connect(connector: &Connector, session: &Session, flow: &Flow) -> Result<ReplicationConn> {
    let role = format!("{}/stream", flow.migration);
    let mut connection = ReplicationConn::open(connector, &role, session.encoding()).await?;
    pin_walsender(&mut connection, session.version() / 10_000).await?;
    Ok(connection)
}

fn options<'a>(flow: &'a Flow, start: Lsn, session: &Session) -> StreamOptions<'a> {
    StreamOptions {
        slot: &flow.slot,
        start,
        publication: &flow.publication,
        binary: true,
        // Rows written under another replication origin are the application's too: 'none'
        // would hide them. (Ours are skipped by the publication.)
        origin: (session.version() >= 160_000).then_some(OriginFilter::Any),
    }
}

/// Role and database defaults reach the walsender too; a transaction_timeout would end it in one
/// large transaction, again and again.
async fn pin_walsender(connection: &mut ReplicationConn, major: i32) -> Result<()> {
    let mut settings = vec![
        "SET wal_sender_timeout = '60s'",
        // Our own chunks are decoded too, and skipped: they should not go through files for it.
        "SET logical_decoding_work_mem = '256MB'",
    ];
    if major >= 17 {
        settings.push("SET transaction_timeout = 0");
    }
    for sql in settings {
        connection.simple_query(sql).await?;
    }
    Ok(())
}

/// Who has been writing for longest. The same ones are told again only after a while.
async fn tell_open_transactions(
    session: &Session,
    meter: &Meter,
    told: &mut (Vec<i32>, Instant),
) -> Result<()> {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL \
         AND a.xact_start < pg_catalog.clock_timestamp() - interval '1 second' \
         AND a.pid <> pg_catalog.pg_backend_pid() ORDER BY a.xact_start LIMIT 3",
        Who::COLUMNS
    );
    let rows = session.query(&sql, &[]).await?;
    let all: Vec<Who> = rows.iter().map(Who::of).collect();
    let pids: Vec<i32> = all.iter().map(|who| who.pid).collect();
    if pids == told.0 && told.1.elapsed() < TELL_AGAIN {
        return Ok(());
    }
    for who in &all {
        meter.note(format!("the slot waits for the transaction of {who}"));
    }
    *told = (pids, Instant::now());
    Ok(())
}

/// **Invariant 1**'s last step. Publication and slot are there; now every transaction that holds a
/// write lock on the source, prepared ones too, must end before the first snapshot is taken. A
/// commit may be in the log in front of the slot's start and yet be invisible (its backend waits for
/// a synchronous standby, still holding its locks): our snapshots must not miss it. Whoever writes to a partition by its
/// own name has a lock on that alone.
pub(super) async fn wait_for_writers(session: &Session, source: u32, meter: &Meter) -> Result<()> {
    let relations = catalog::tree(session, source).await?;
    let noted: Vec<String> = session
        .one(
            "SELECT COALESCE(pg_catalog.array_agg(DISTINCT l.virtualtransaction), '{}') \
             FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.relation = ANY ($1) AND l.granted \
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
             AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.mode IN \
             ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')",
            &[&relations],
        )
        .await?
        .get(0);
    let started = Instant::now();
    let mut told = false;
    loop {
        let left = session
            .query(
                "SELECT DISTINCT l.virtualtransaction, COALESCE(l.pid::pg_catalog.text, 'a prepared transaction') \
                 FROM pg_catalog.pg_locks l WHERE l.virtualtransaction = ANY($1) \
                 AND l.relation = ANY ($2) AND l.locktype = 'relation'",
                &[&noted, &relations],
            )
            .await?;
        if left.is_empty() {
            return Ok(());
        }
        if !told && started.elapsed() > PATIENCE {
            told = true;
            let who: Vec<String> = left.iter().map(|r| r.get::<_, String>(1)).collect();
            meter.note(format!(
                "waiting for transactions that wrote to the table before: pid {}",
                who.join(", ")
            ));
        }
        sleep(POLL).await;
    }
}

/// Rows are made by the settings of the migration's beginning, also by whoever goes on with it.
pub(super) async fn make_alike(
    connector: &Connector,
    control: &Session,
    stored: &Stored,
) -> Result<()> {
    let making = match &stored.making {
        Some(kept) => kept.clone(),
        None => control.making().await?,
    };
    connector.keep_making(control, &making).await
}

/// The empty shadow, owned by the table's owner. Until the swap nobody else may use it: the table's
/// privileges would show rows that its row security hides.
pub(super) async fn create_shadow(session: &Session, flow: &Flow, known: &Known) -> Result<()> {
    let shadow = &flow.target.root;
    let Known { source, target, partitioning, .. } = known;
    session.batch("BEGIN").await?;
    let made = match partitioning {
        None => {
            run(session, &[Step::by(&source.owner, shadow::create_table(target, shadow))]).await?;
            shadow_settings(session, flow, &resting(target)).await?
        }
        Some(partitioning) => create_partitioned(session, flow, target, partitioning).await?,
    };
    // Default privileges may say otherwise.
    let mut steps = shadow::grant_steps(
        &format!("TABLE {shadow}"),
        &source.owner,
        &Privileges::on_table(&made),
        &Privileges::default(),
    );
    for sequence in &made.sequences {
        let name = QualifiedName::new(&sequence.schema, &sequence.name);
        steps.extend(shadow::grant_steps(
            &format!("SEQUENCE {name}"),
            &source.owner,
            &Privileges::on_sequence(sequence.grants.as_deref()),
            &Privileges::default(),
        ));
    }
    run(session, &steps).await?;
    let making = session.making().await?;
    store::record_shadow(session, flow.migration, made.oid, &making).await?;
    session.batch("COMMIT").await
}

/// Vacuumed once, when the rows are in: until then autovacuum would only get in the way.
fn resting(table: &Table) -> Table {
    let mut resting = table.clone();
    resting.options.retain(|option| !option.starts_with("autovacuum_enabled="));
    resting.options.push("autovacuum_enabled=false".to_owned());
    resting
}

/// Root and partitions. Nobody but the owner may use a partition, now or later: rows are reached through the
/// root, whose row security theirs does not know.
async fn create_partitioned(
    session: &Session,
    flow: &Flow,
    target: &Table,
    partitioning: &Partitioning,
) -> Result<Table> {
    let (root, owner) = (&flow.target.root, &target.owner);
    let steps = create_sql(root, target, Some(partitioning));
    run(session, &steps.into_iter().map(|sql| Step::by(owner, sql)).collect::<Vec<_>>()).await?;
    // What is set for a column of the root is set for those of the partitions that are there.
    let made = shadow_settings(session, flow, target).await?;
    for wanted in partitioning.tables(root) {
        let now = match wanted.kind {
            // Where no rows are stored it has a comment, but no parameters.
            'p' => leaf_settings(session, &wanted).await?,
            _ => leaf_settings(session, &resting(&wanted)).await?,
        };
        keep_others_out(session, owner, &now).await?;
    }
    Ok(made)
}

/// Default privileges may say otherwise.
pub(super) async fn keep_others_out(session: &Session, owner: &str, now: &Table) -> Result<()> {
    let privileges = (Privileges::on_table(now), Privileges::default());
    let object = format!("TABLE {}", now.qualified());
    run(session, &shadow::grant_steps(&object, owner, &privileges.0, &privileges.1)).await
}

/// CREATE TABLE of the shadow, and of its partitions.
pub(super) fn create_sql(
    root: &QualifiedName,
    target: &Table,
    partitioning: Option<&Partitioning>,
) -> Vec<String> {
    let Some(partitioning) = partitioning else { return vec![shadow::create_table(target, root)] };
    let mut sql = vec![shadow::create_root(target, root, &partitioning.by)];
    sql.extend(partitioning.create_sql(root));
    sql
}

/// What each partition that has rows is to be.
pub(super) fn partitions(flow: &Flow, partitioning: &Partitioning) -> Vec<Table> {
    let tables = partitioning.tables(&flow.target.root).into_iter();
    tables.filter(|table| table.kind != 'p').collect()
}

/// Gives a partition its settings; returns it as it was before.
pub(super) async fn leaf_settings(session: &Session, wanted: &Table) -> Result<Table> {
    let now = read_partition(session, wanted).await?;
    run(session, &shadow::settings(&now, wanted)).await?;
    Ok(now)
}

pub(super) async fn read_partition(session: &Session, wanted: &Table) -> Result<Table> {
    let name = wanted.qualified();
    let gone = || Error::failed(format!("the partition {name} is gone"));
    catalog::read_named(session, &name).await?.ok_or_else(gone)
}

/// Gives the shadow the settings of `target`, and its mark; returns it as it was before.
pub(super) async fn shadow_settings(
    session: &Session,
    flow: &Flow,
    target: &Table,
) -> Result<Table> {
    let shadow = &flow.target.root;
    let now = catalog::read_named(session, shadow)
        .await?
        .ok_or_else(|| Error::failed(format!("the shadow {shadow} is gone")))?;
    let names = TemporaryNames::of(target);
    let mut wanted = target.clone().renamed(shadow, |name| names.until_swap(name));
    wanted.comment = Some(mark::mark(flow.migration, now.oid, shadow));
    run(session, &shadow::settings(&now, &wanted)).await?;
    Ok(now)
}

/// In the open transaction, or in one of its own.
pub(super) async fn run(session: &Session, steps: &[Step]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    session.batch(&shadow::statements(steps).join(";\n")).await
}
