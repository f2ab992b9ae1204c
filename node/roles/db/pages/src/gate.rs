//! The gate: what readers see, which is exactly what the log has committed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use rusqlite::{Connection, ErrorCode, ffi};

use crate::connection::{self, Purpose};
use crate::disk::Disk;
use crate::error::PagesError;
use crate::position::Position;
use crate::snapshot_handle::SnapshotHandle;

/// How often a reader begins anew because a checkpoint passed its snapshot
/// between two instructions of it.
const TRIES: u32 = 64;

/// Where readers begin. Cheap to clone; used from any thread.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

/// A connection for reading, and the ticket that shows which file it is on.
pub struct Reader {
    /// Reads only. Set it up further as you like, but leave its transactions to
    /// [`Gate::begin`] and [`Reading::end`].
    pub connection: Connection,
    /// Goes with the connection.
    pub ticket: ReaderTicket,
}

/// Which file a reader's connection is on. [`crate::PageStore::restore`] makes it
/// stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReaderTicket(u64);

struct Inner {
    state: ArcSwap<State>,
    disk: Disk,
    /// Readers between loading the state and having begun.
    opening: AtomicUsize,
    /// Readings that have not ended.
    readers: AtomicUsize,
    ended: Mutex<u64>,
    changed: Condvar,
    /// Called before each checkpoint.
    checkpointing: Mutex<Vec<Called>>,
}

type Called = Box<dyn Fn() + Send + Sync>;

/// What readers begin at.
#[derive(Clone)]
pub(crate) struct State {
    pub main: PathBuf,
    pub file: u64,
    pub position: Position,
    /// `None` while the newest commit is the settled one and nobody commits:
    /// during a checkpoint, which snapshots cannot be opened beside.
    pub snapshot: Option<Arc<SnapshotHandle>>,
    /// Nobody may begin any more.
    pub closed: bool,
}

impl Gate {
    pub(crate) fn new(state: State, disk: Disk) -> Gate {
        Gate(Arc::new(Inner {
            state: ArcSwap::from_pointee(state),
            disk,
            opening: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            ended: Mutex::new(0),
            changed: Condvar::new(),
            checkpointing: Mutex::default(),
        }))
    }

    /// Opens a connection for a reader.
    ///
    /// # Errors
    /// SQLite could not open the file.
    pub fn connect(&self) -> Result<Reader, PagesError> {
        let state = self.0.state.load_full();
        let failed = PagesError::sqlite("open a connection for reading", &state.main);
        let vfs = self.0.disk.vfs();
        let connection = connection::connect(&state.main, vfs, Purpose::Read).map_err(failed)?;
        Ok(Reader { connection, ticket: ReaderTicket(state.file) })
    }

    /// Begins a read transaction at the settled position.
    ///
    /// The connection must not be inside a transaction. A reading holds back
    /// checkpoints: end it soon, and interrupt it when
    /// [`crate::PageStore::checkpoint_if_due`] says that it is blocked.
    ///
    /// # Errors
    /// [`PagesError::Stale`]: the file was replaced; [`Gate::connect`] again.
    pub fn begin(
        &self,
        connection: &Connection,
        ticket: ReaderTicket,
    ) -> Result<Reading, PagesError> {
        let opening = Counted::new(&self.0.opening);
        let mut tried = 0;
        loop {
            let state = self.0.state.load();
            if state.file != ticket.0 {
                return Err(PagesError::Stale);
            }
            if state.closed {
                return Err(PagesError::Broken("see the error of its checkpoint".to_owned()));
            }
            match begin_at(connection, state.snapshot.as_deref()) {
                Ok(()) => {
                    self.0.readers.fetch_add(1, Ordering::SeqCst);
                    drop(opening);
                    return Ok(Reading { gate: self.0.clone(), state: Guard::into_inner(state) });
                }
                Err(error) if tried < TRIES && passed(&error) => tried += 1,
                Err(error) => {
                    return Err(PagesError::sqlite("begin a reading", &state.main)(error));
                }
            }
            std::thread::yield_now();
        }
    }

    /// Whether a reading that begins now would see what this one sees, and no
    /// checkpoint waits for it. Then it may go on in place of one that begins.
    pub fn is_newest(&self, reading: &Reading) -> bool {
        let state = self.0.state.load();
        Arc::ptr_eq(&state, &reading.state) && state.snapshot.is_some()
    }

    /// Has `end` called before each checkpoint, on its thread: it ends readings that
    /// are kept though nobody reads. [`Gate::is_newest`] is true of none any more then.
    pub fn on_checkpoint(&self, end: impl Fn() + Send + Sync + 'static) {
        let mut called = self.0.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        called.push(Box::new(end));
    }

    /// A checkpoint begins: readings that nobody needs end.
    pub(crate) fn end_kept(&self) {
        let called = self.0.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        called.iter().for_each(|end| end());
    }

    /// The position that a reading would begin at now.
    pub fn position(&self) -> Position {
        self.0.state.load().position
    }

    /// Readings that have begun and not ended.
    pub fn readers(&self) -> usize {
        self.0.readers.load(Ordering::SeqCst)
    }

    /// The VFS of the files, if not SQLite's own.
    pub(crate) fn vfs(&self) -> Option<&str> {
        self.0.disk.vfs()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.0.state.load_full()
    }

    pub(crate) fn close(&self) {
        let state = self.0.state.load_full();
        self.set(State { closed: true, ..(*state).clone() });
    }

    /// Readings that begin from now on begin at this state.
    pub(crate) fn set(&self, state: State) {
        let was_latest = self.0.state.load().snapshot.is_none();
        self.0.state.store(Arc::new(state));
        // A reader that was told to begin at the newest commit must have done so
        // before the next commit. It takes microseconds, unless its thread waits
        // for a core.
        while was_latest && self.0.opening.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }

    /// Calls `done` whenever a reading ended, until it is true or the time is up.
    pub(crate) fn wait_until<E>(
        &self,
        patience: Duration,
        mut done: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let deadline = Instant::now() + patience;
        loop {
            let seen = *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if done()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.0.changed.wait_timeout_while(ended, left, |ended| *ended == seen);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// A read transaction that has begun. It borrows nothing: end it on the
/// connection that it was begun on.
pub struct Reading {
    gate: Arc<Inner>,
    /// What it began at.
    state: Arc<State>,
}

impl Reading {
    /// What it sees.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// The commit that it began at; nothing if it began during a checkpoint.
    pub(crate) fn snapshot(&self) -> Option<&SnapshotHandle> {
        self.state.snapshot.as_deref()
    }

    /// The file that it reads.
    pub(crate) fn main(&self) -> &Path {
        &self.state.main
    }

    pub(crate) fn ticket(&self) -> ReaderTicket {
        ReaderTicket(self.state.file)
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// SQLite could not end it; close the connection.
    pub fn end(self, connection: &Connection) -> Result<(), PagesError> {
        if connection.is_autocommit() {
            // An error, or the caller, has ended it already.
            return Ok(());
        }
        let ended = connection.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
        ended
            .map(|_| ())
            .map_err(|error| PagesError::sqlite("end a reading", &self.state.main)(error))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.gate.readers.fetch_sub(1, Ordering::SeqCst);
        *self.gate.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.gate.changed.notify_one();
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Counted<'a> {
        counter.fetch_add(1, Ordering::SeqCst);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn begin_at(connection: &Connection, snapshot: Option<&SnapshotHandle>) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let begun = match snapshot {
        Some(snapshot) => snapshot.open(connection),
        None => connection
            .prepare_cached("PRAGMA main.schema_version")
            .and_then(|mut read| read.query_row([], |_| Ok(()))),
    };
    if begun.is_err() && !connection.is_autocommit() {
        connection.prepare_cached("ROLLBACK")?.execute([])?;
    }
    begun
}

/// Whether a checkpoint came between loading the snapshot and opening it.
fn passed(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(ffi::SQLITE_ERROR_SNAPSHOT)
        || error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
