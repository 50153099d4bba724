//! Fresh, current, behind and foreign databases.

use super::{Home, directory, new_job};

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use shared::time::Millis;

use crate::queue::dedupe::Check;
use crate::store::write::{Applied, NewJob, Write};
use crate::store::{SCHEMA, StoreErrorKind, open};

const MIGRATIONS: [&str; 1] = [include_str!("../../../../migrations/0001_init.sql")];

/// Everything that a database defines, by name.
fn objects(connection: &Connection) -> Vec<(String, String, Option<String>)> {
    let mut statement =
        connection.prepare("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").expect("read");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    rows.collect::<Result<_, _>>().expect("objects")
}

#[test]
fn the_migrations_add_up_to_the_schema() {
    let (whole, stepwise) = (Connection::open_in_memory().expect("open"), Connection::open_in_memory().expect("open"));
    whole.execute_batch(SCHEMA).expect("the schema");
    for migration in MIGRATIONS {
        stepwise.execute_batch(migration).expect("a migration");
    }
    assert_eq!(objects(&whole), objects(&stepwise));
    for migration in MIGRATIONS {
        stepwise.execute_batch(migration).expect("a migration twice");
    }
    assert_eq!(objects(&whole), objects(&stepwise));
    assert_eq!(
        objects(&whole).iter().filter(|(kind, name, _)| kind == "table" && !name.starts_with("sqlite_")).count(),
        17
    );
}

#[test]
fn columns_have_the_chapters_types_and_defaults() {
    let connection = Connection::open_in_memory().expect("open");
    connection.execute_batch(SCHEMA).expect("the schema");
    let check = |table: &str, expected: &str| {
        let mut statement = connection
            .prepare("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info(?1)")
            .expect("read");
        let rows = statement.query_map([table], |row| {
            let (name, kind, not_null): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (default, key): (Option<String>, i64) = (row.get(3)?, row.get(4)?);
            let default = default.map(|text| format!(" D{text}")).unwrap_or_default();
            let not_null = if not_null { " N" } else { "" };
            let key = if key > 0 { " PK" } else { "" };
            Ok(format!("{name} {kind}{not_null}{default}{key}"))
        });
        let columns: Vec<String> = rows.expect("rows").collect::<Result<_, _>>().expect("columns");
        assert_eq!(columns.join(" · "), expected, "{table}");
    };
    check(
        "job_queue",
        "id TEXT PK · plugin TEXT N · command TEXT N · payload JSON · status TEXT N · attempt INTEGER N D1 · \
         max_attempts INTEGER N D4 · submitted_by TEXT N · dedupe_key TEXT · created_at TEXT N · started_at TEXT · \
         completed_at TEXT · next_retry_at TEXT · last_error TEXT · parent_job_id TEXT · source_event_id TEXT · \
         event_context_id TEXT · enqueued_config_snapshot_id TEXT · started_config_snapshot_id TEXT",
    );
    check(
        "job_log",
        "id TEXT PK · job_id TEXT · plugin TEXT N · command TEXT N · status TEXT N · result TEXT · \
         attempt INTEGER N · submitted_by TEXT N · created_at TEXT N · completed_at TEXT N · last_error TEXT · \
         stderr TEXT · parent_job_id TEXT · source_event_id TEXT · event_context_id TEXT · \
         enqueued_config_snapshot_id TEXT · started_config_snapshot_id TEXT",
    );
    check("plugin_state", "plugin_name TEXT PK · state JSON N D'{}' · updated_at TEXT");
    check("storage_sequences", "name TEXT PK · value INTEGER N D0");
    check(
        "plugin_facts",
        "id TEXT PK · seq INTEGER · plugin_name TEXT N · fact_type TEXT N · job_id TEXT N · command TEXT N · \
         fact_json JSON N · created_at TEXT N",
    );
    check(
        "schedule_occurrences",
        "plugin TEXT N PK · schedule_id TEXT N PK · slot_at TEXT N PK · until_at TEXT N · slots INTEGER N D1 · \
         outcome TEXT N · reason TEXT · job_id TEXT · recorded_at TEXT N",
    );
}

#[test]
fn a_fresh_database_is_private_durable_and_opens_again() {
    let mut home = Home::new("opening-fresh");
    home.apply(Write::Admit(new_job("job-1")));
    let database = home.store.path().to_path_buf();
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!(mode(database.parent().expect("a directory")), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(Path::new(&format!("{}{suffix}", database.display()))), 0o600, "{suffix:?}");
    }
    let raw = home.connection.as_ref().expect("open").raw();
    let pragma = |name: &str| raw.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).expect(name);
    assert_eq!((pragma("synchronous"), pragma("foreign_keys"), pragma("busy_timeout")), (2, 1, 5000));
    assert!(home.store.missing_soft().is_empty());
    drop(home.take_connection());
    let (_, connection) = open(&database, Path::new("c.yaml")).expect("opened again");
    home.connection = Some(connection);
    assert_eq!(home.status("job-1"), "queued");
}

#[test]
fn loose_modes_are_tightened() {
    let directory = directory("opening-loose");
    let path = directory.join("ductile.db");
    fs::write(&path, "").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
    let (_, connection) = open(&path, Path::new("c.yaml")).expect("an empty file is a fresh database");
    for suffix in ["", "-wal", "-shm"] {
        let metadata = fs::metadata(format!("{}{suffix}", path.display())).expect("there");
        assert_eq!(metadata.mode() & 0o077, 0, "{suffix:?}");
    }
    drop(connection);
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn root_leaves_the_files_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = directory("opening-owner");
    std::os::unix::fs::chown(&directory, Some(1234), Some(1235)).expect("given away");
    let path = directory.join("ductile.db");
    let (_, connection) = open(&path, Path::new("c.yaml")).expect("opened");
    for suffix in ["", "-wal", "-shm"] {
        let metadata = fs::metadata(format!("{}{suffix}", path.display())).expect("there");
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 1235), "{suffix:?}");
    }
    drop(connection);
    fs::remove_dir_all(directory).expect("removed");
}

/// A database of the full schema after `change`, in a directory of its own.
fn changed(name: &str, change: &str) -> (PathBuf, PathBuf) {
    let directory = directory(name);
    let path = directory.join("ductile.db");
    let foreign = Connection::open(&path).expect("open");
    foreign.execute_batch(SCHEMA).expect("the schema");
    foreign.execute_batch(change).expect("the change");
    (directory, path)
}

/// Opens a database of the full schema after `change`, expecting the refusal.
fn refusal(name: &str, change: &str) -> String {
    let (directory, path) = changed(name, change);
    let before = fs::read(&path).expect("read");
    let error = open(&path, Path::new("/etc/ductile/config.yaml")).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), StoreErrorKind::Schema);
    assert_eq!(fs::read(&path).expect("read"), before, "a refusal changes nothing");
    fs::remove_dir_all(directory).expect("removed");
    error.to_string()
}

#[test]
fn what_is_behind_is_refused_with_the_command_to_run() {
    const HINT: &str = "; run 'ductile db migrate --config /etc/ductile/config.yaml' before deploy";
    let check = |name: &str, change: &str, missing: &str, after: &str| {
        let expected = format!("sqlite schema validation failed: {missing}{HINT}{after}");
        assert_eq!(refusal(name, change), expected);
    };
    check("behind-table", "DROP TABLE event_context", "missing table event_context", "");
    check("behind-ours", "DROP TABLE schedule_occurrences", "missing table schedule_occurrences", "");
    check("behind-column", "ALTER TABLE job_log DROP COLUMN result", "missing column job_log.result", "");
    check("behind-index", "DROP INDEX job_queue_waiting_idx", "missing index job_queue_waiting_idx", "");
    check(
        "behind-facts",
        "DROP TABLE plugin_facts",
        "missing table plugin_facts",
        " (it takes the place of scripts/migrate-hickey-sprint-7-plugin-facts.py)",
    );
    check(
        "behind-sequence",
        "DROP TABLE storage_sequences; DROP TABLE plugin_facts",
        "missing table storage_sequences",
        " (it takes the place of scripts/migrate-hickey-sprint-9-plugin-fact-seq.py)",
    );
    check(
        "behind-narrow",
        "DROP INDEX job_queue_event_source_idx; CREATE UNIQUE INDEX job_queue_event_source_idx \
         ON job_queue(parent_job_id, source_event_id) WHERE source_event_id IS NOT NULL",
        "missing index job_queue_event_source_idx",
        " (it takes the place of scripts/migrate-fanout-dedupe-index.py)",
    );
}

#[test]
fn someone_elses_database_is_refused() {
    let everything = "DROP TABLE storage_sequences; DROP TABLE job_queue; CREATE TABLE theirs (id INTEGER)";
    assert!(
        refusal("foreign", everything).starts_with("sqlite schema validation failed: missing table storage_sequences")
    );
    let directory = directory("no-database");
    let path = directory.join("ductile.db");
    fs::write(&path, "this is a text and no database at all, whatever its name says".repeat(40)).expect("written");
    let error = open(&path, Path::new("c.yaml")).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    let error = open(&directory, Path::new("c.yaml")).map(|_| ()).expect_err("a directory");
    assert_eq!(error.kind(), StoreErrorKind::Other);
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn newer_extras_are_allowed_and_soft_tables_may_be_missing() {
    let (directory, path) = changed(
        "opening-extras",
        "CREATE TABLE later (id INTEGER); ALTER TABLE job_queue ADD COLUMN later TEXT; \
             CREATE INDEX later_idx ON job_queue(later); DROP TABLE vault_audit; DROP TABLE job_stopwatch",
    );
    let (store, connection) = open(&path, Path::new("c.yaml")).expect("opened");
    assert_eq!(store.missing_soft(), ["vault_audit", "job_stopwatch"]);
    let answers = crate::store::batch::run(&connection, &[Write::Admit(new_job("job-1"))]);
    assert!(matches!(answers[..], [Ok(Applied::Admitted)]));
    drop(connection);
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn an_index_that_holds_every_row_serves_as_well() {
    let (directory, path) = changed(
        "opening-whole",
        "DROP INDEX job_queue_dedupe_status_completed_idx; CREATE INDEX job_queue_dedupe_status_completed_idx \
             ON job_queue(dedupe_key, status, completed_at); DROP INDEX job_stopwatch_pipeline_idx; \
             CREATE INDEX job_stopwatch_pipeline_idx ON job_stopwatch(pipeline, pipeline_instance_id)",
    );
    let (_, connection) = open(&path, Path::new("c.yaml")).expect("opened");
    let keyed = |id: &str| {
        let job = NewJob { dedupe_key: Some("k".to_owned()), ..new_job(id) };
        let check = Check::new(Some("k"), Millis(1000), job.created_at).expect("a key");
        Write::AdmitUnique(job, check)
    };
    let answers = crate::store::batch::run(&connection, &[keyed("job-1"), keyed("job-2")]);
    assert!(matches!(answers[..], [Ok(Applied::Admitted), Ok(Applied::Duplicate(_))]), "{answers:?}");
    drop(connection);
    fs::remove_dir_all(directory).expect("removed");
}
