//! How connections of a database are set up.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Result};

/// The name under which the applying connection has the database attached. It
/// must not run SQL on it: its schema cache knows nothing of replaced pages.
pub(crate) const ATTACHED: &str = "shard";

/// KiB of page cache of a writer, beyond which a transaction spills into the
/// `-wal`.
const CACHE_KIB: i64 = 16 << 10;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Executes the primary's statements.
    Write,
    /// Reads; cannot write.
    Read,
    /// Changes what nobody else sees.
    Draft,
}

/// Opens a connection on an existing database and reads from it once, which
/// snapshots need.
pub(crate) fn connect(main: &Path, vfs: Option<&str>, purpose: Purpose) -> Result<Connection> {
    let connection = open(main, vfs, purpose)?;
    if purpose == Purpose::Write {
        let settings = format!("PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{CACHE_KIB}");
        connection.execute_batch(&settings)?;
    }
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Opens a connection that has not read yet.
pub(crate) fn open(main: &Path, vfs: Option<&str>, purpose: Purpose) -> Result<Connection> {
    let access = match purpose {
        Purpose::Write | Purpose::Draft => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Purpose::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(main, flags, vfs)?,
        None => Connection::open_with_flags(main, flags)?,
    };
    configure(&connection)?;
    Ok(connection)
}

/// Opens the connection that writes whole pages.
pub(crate) fn connect_applier(main: &Path, vfs: Option<&str>) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // An attached file is opened by the VFS of the main one.
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(":memory:", flags, vfs)?,
        None => Connection::open_with_flags(":memory:", flags)?,
    };
    configure(&connection)?;
    connection.execute(&format!("ATTACH ? AS {ATTACHED}"), [main.to_string_lossy()])?;
    connection.execute_batch(&format!(
        "PRAGMA {ATTACHED}.synchronous=NORMAL; PRAGMA {ATTACHED}.cache_size=-{CACHE_KIB}"
    ))?;
    Ok(connection)
}

/// Makes an empty database in WAL mode.
pub(crate) fn create(main: &Path, vfs: Option<&str>) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(main, flags, vfs)?,
        None => Connection::open_with_flags(main, flags)?,
    };
    configure(&connection)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size={}; PRAGMA auto_vacuum=NONE; PRAGMA encoding='UTF-8'",
        crate::page::PAGE_BYTES
    ))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
}

fn configure(connection: &Connection) -> Result<()> {
    // Only this crate decides when pages reach the main file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA wal_autocheckpoint=0")?;
    connection.busy_timeout(std::time::Duration::ZERO)
}
