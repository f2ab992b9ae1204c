//! SQLite's snapshots: a commit in the `-wal` file that readers can begin at.
#![allow(unsafe_code)]

use std::ptr;

use rusqlite::{Connection, Error, Result, ffi};

/// A commit that read transactions can be begun at, until a checkpoint passes it.
pub(crate) struct SnapshotHandle(ptr::NonNull<ffi::sqlite3_snapshot>);

// SAFETY: the structure is plain data that SQLite only reads after it has made
// it, and it belongs to no connection.
unsafe impl Send for SnapshotHandle {}
// SAFETY: as above; nothing writes to it until it is freed.
unsafe impl Sync for SnapshotHandle {}

impl SnapshotHandle {
    /// The last commit. The connection must be inside BEGIN and not have read yet.
    pub(crate) fn latest(connection: &Connection) -> Result<SnapshotHandle> {
        let mut snapshot = ptr::null_mut();
        // SAFETY: the handle is of an open connection that this thread has
        // borrowed; the name is a C string; the out pointer is ours.
        let code = unsafe {
            ffi::sqlite3_snapshot_get(connection.handle(), c"main".as_ptr(), &mut snapshot)
        };
        let found = ptr::NonNull::new(snapshot).filter(|_| code == ffi::SQLITE_OK);
        found.map(SnapshotHandle).ok_or_else(|| failed(code))
    }

    /// The header of the index of the `-wal` at this commit, which is what SQLite makes a
    /// snapshot of.
    pub(crate) fn header(&self) -> &[u8; 48] {
        // SAFETY: it is an array of 48 bytes, which nothing changes, and lives as long as
        // `self`.
        unsafe { &self.0.as_ref().hidden }
    }

    /// Begins reading at this commit. The connection must be inside BEGIN and have
    /// read from the database in an earlier transaction.
    pub(crate) fn open(&self, connection: &Connection) -> Result<()> {
        // SAFETY: as in `latest`; the snapshot lives as long as `self`.
        let code = unsafe {
            ffi::sqlite3_snapshot_open(connection.handle(), c"main".as_ptr(), self.0.as_ptr())
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(failed(code)) }
    }
}

impl Drop for SnapshotHandle {
    fn drop(&mut self) {
        // SAFETY: it came from sqlite3_snapshot_get and is freed once.
        unsafe { ffi::sqlite3_snapshot_free(self.0.as_ptr()) }
    }
}

fn failed(code: i32) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}
