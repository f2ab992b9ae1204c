//! Backups of databases: a file of SQLite with everything that was acknowledged
//! before, and the way back.
//!
//! A restore is one large transaction of the primary, so that it reaches every copy
//! like any other write, whole or not at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rung_control_plane::State;
use rung_proto::api::{BackupDone, RestoreDone};
use rung_proto::{Code, Failure, GroupId};
use rung_shard::{Cancel, ReadLevel, Shard, ShardError};
use rung_sql::Executor;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::node::Node;

pub const BACKUPS: &str = "backups";
/// Pages that are copied before others may have their turn: 16 MiB.
const STEP_PAGES: i32 = 4096;
const PATIENCE: Duration = Duration::from_secs(3600);

/// The first shard, which holds a whole database for as long as there are no more.
const SHARD: u32 = 0;

fn group_of(database: &str, state: &State) -> Result<GroupId, Failure> {
    let record = state.databases.get(database).and_then(|record| record.shards.get(&SHARD));
    record.map(|shard| shard.group).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no database {database}"))
            .next("`ctl db ls` lists them")
    })
}

pub fn local_shard(node: &Node, database: &str) -> Result<Shard, Failure> {
    let state = node.control.state();
    let group = group_of(database, &state)?;
    if let Some(shard) = node.databases.copy(group).and_then(|copy| copy.shard) {
        return Ok(shard);
    }
    let holders = node
        .soft
        .all()
        .into_values()
        .filter(|soft| soft.databases.iter().any(|copy| copy.group == group));
    let names: Vec<String> = holders.map(|soft| state.node_name(soft.node)).collect();
    Err(Failure::new(Code::Precondition, format!("{} has no copy of {database}", node.name()))
        .because(format!("the copies are on {}", names.join(", ")))
        .next("ask one of these nodes, with its data directory"))
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Precondition, what).because(why).next("see `ctl db show`, then try again")
}

/// Writes a backup of what is committed now, to `path` or into the node's own
/// directory of backups.
///
/// # Errors
/// When this node has no copy, no quorum confirms what is committed, or the file
/// cannot be written. A file that exists is never replaced.
pub async fn back_up(
    node: &Node,
    database: &str,
    path: Option<PathBuf>,
) -> Result<BackupDone, Failure> {
    let shard = local_shard(node, database)?;
    let path = match path {
        Some(path) => path,
        None => {
            let dir = node.data.make_private_dir(BACKUPS)?;
            let position = shard.position();
            dir.join(format!("{database}-{}-{}.db", position.epoch, position.sequence))
        }
    };
    if path.exists() {
        let what = format!("{} exists already", path.display());
        return Err(Failure::new(Code::AlreadyExists, what).next("say another path with --to"));
    }
    let unfinished = path.with_extension("unfinished");
    let target = unfinished.clone();
    let cancel = Cancel::new();
    let read = shard.read(ReadLevel::Linearizable, PATIENCE, &cancel, move |executor, turn| {
        if !turn.may_block() {
            turn.move_to_thread();
            return Ok(());
        }
        write_backup(executor.connection(), &target)
    });
    let written = match read.await {
        Ok((Ok(()), token)) => std::fs::rename(&unfinished, &path)
            .map(|()| token)
            .map_err(|error| failed("the backup could not be named", error)),
        Ok((Err(error), _)) => Err(failed("the backup was not written", error)),
        Err(error) => Err(failed("the backup was not written", error)),
    };
    let token = written.inspect_err(|_| drop(std::fs::remove_file(&unfinished)))?;
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    tracing::info!(database, path = %path.display(), bytes, position = %token, "wrote a backup");
    let path = path.to_string_lossy().into_owned();
    Ok(BackupDone { path, bytes, position: token.to_string() })
}

/// Copies what a connection sees into a file that stands by itself.
pub fn write_backup(from: &Connection, path: &Path) -> rusqlite::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut target = Connection::open(path)?;
    copy(from, &mut target)?;
    // No other file belongs to it.
    target.pragma_update(None, "journal_mode", "delete")?;
    target.close().map_err(|(_, error)| error)
}

fn copy(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(from, to)?;
    loop {
        match backup.step(STEP_PAGES)? {
            StepResult::Done => return Ok(()),
            // Both are ours alone; whoever has them is about to let go.
            StepResult::Busy | StepResult::Locked => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => {}
        }
    }
}

/// Puts the content of a backup in the place of what a database holds.
///
/// # Errors
/// When the file is no backup, is damaged, or this node does not have the primary.
pub async fn restore(node: &Node, database: &str, path: PathBuf) -> Result<RestoreDone, Failure> {
    let shard = local_shard(node, database)?;
    let dir = node.data.make_private_dir(BACKUPS)?;
    let cancel = Cancel::new();
    let work = shard.alone(PATIENCE, &cancel, move |executor| {
        let prepared = prepare(executor, &path, &dir)?;
        let restored = copy(&prepared.0, executor.connection_mut());
        restored.map_err(|error| failed("the database was not restored", error))
    });
    match work.await {
        Ok((Ok(()), token)) => {
            tracing::warn!(database, position = %token, "restored a database from a backup");
            Ok(RestoreDone { position: token.to_string(), from_archive: None })
        }
        Ok((Err(failure), _)) => Err(failure),
        Err(ShardError::NotPrimary { primary }) => {
            let state = node.control.state();
            let primary = primary.map_or("nobody".to_owned(), |primary| state.node_name(primary));
            Err(Failure::new(Code::Precondition, "a restore begins at the primary")
                .because(format!("the primary is {primary}"))
                .next(format!("`ctl promote {}`, or ask that node", node.name())))
        }
        Err(ShardError::OutcomeUnknown) => {
            Err(Failure::new(Code::OutcomeUnknown, "it is not known whether it was restored")
                .next("look at the data, then restore again if need be"))
        }
        Err(error) => Err(failed("the database was not restored", error)),
    }
}

/// A checked copy of the backup; removed when it is closed.
struct Prepared(Connection, #[allow(dead_code, reason = "keeps the file")] tempfile::TempPath);

/// Checks a backup, and gives its copy a version of the schema that nobody has
/// cached.
fn prepare(executor: &mut Executor, path: &Path, dir: &Path) -> Result<Prepared, Failure> {
    let unusable = |why: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format!("{} is no usable backup", path.display())).because(why)
    };
    let copied = tempfile::NamedTempFile::new_in(dir).map_err(|error| unusable(&error))?;
    let copied = copied.into_temp_path();
    std::fs::copy(path, &copied).map_err(|error| unusable(&error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let backup = Connection::open_with_flags(&copied, flags).map_err(|error| unusable(&error))?;
    let check: String = backup
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .map_err(|error| unusable(&error))?;
    if check != "ok" {
        return Err(unusable(&check));
    }
    let next = executor.catalog().map_or(0, |catalog| catalog.version) + 1;
    let raised = backup.execute(
        "UPDATE _rung_meta SET value = max(value, ?1) + 1 WHERE key = 'version'",
        [i64::try_from(next).unwrap_or(i64::MAX - 1)],
    );
    match raised {
        Ok(1) => Ok(Prepared(backup, copied)),
        Ok(_) => Err(unusable(&"it has no version")),
        Err(error) => Err(unusable(&error)),
    }
}
