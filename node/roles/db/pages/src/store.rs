//! One copy of a database: its files, and what of them is settled.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::connection::{self, ATTACHED, Purpose};
use crate::disk::Disk;
use crate::error::PagesError;
use crate::frozen::Copies;
use crate::gate::{Gate, State};
use crate::landing::Landing;
use crate::marker::Marker;
use crate::position::Position;
use crate::snapshot_handle::SnapshotHandle;
use crate::spool::Spool;
use crate::wal_file::{Change, Images, WalIndex};

/// How a copy is kept.
#[derive(Clone)]
pub struct Options {
    /// A checkpoint is due when the `-wal` has so many bytes; at four times as
    /// many the caller must stop writing.
    pub checkpoint_bytes: u64,
    /// The caller must stop writing while so many bytes of changed pages are in
    /// flight. They are in the `-wal`; in memory it is about 1/200 of that.
    pub in_flight_bytes: u64,
    /// The most pages that one transaction may change.
    pub max_transaction_pages: u32,
    /// How long a checkpoint waits for readings to end. Only writing waits with it.
    pub reader_patience: Duration,
    /// Where the files are.
    pub disk: Disk,
    /// Steps to leave out, to see that tests notice.
    #[cfg(feature = "simulation")]
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            checkpoint_bytes: 32 << 20,
            in_flight_bytes: 64 << 20,
            max_transaction_pages: 1 << 20,
            reader_patience: Duration::from_millis(50),
            disk: Disk::system(),
            #[cfg(feature = "simulation")]
            faults: Faults::default(),
        }
    }
}

/// Steps that a test may have left out, to see that it notices. All false otherwise.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// An undo forgets what is in flight and writes nothing back.
    pub skip_undo: bool,
    /// Entries that start from another position are applied.
    pub skip_parent_check: bool,
    /// The marker is written without making it, or what it speaks of, durable.
    pub skip_marker_sync: bool,
}

/// The primary's connection for executing, and its ticket.
pub struct Writer {
    /// Set it up further as you like. Its journal mode, checkpoints and
    /// synchronous setting must stay as they are.
    pub connection: Connection,
    /// Goes with the connection.
    pub ticket: WriterTicket,
}

/// Shows that a writer's connection knows of everything that was done to the
/// database. An undo and an entry of somebody else make it stale: the connection
/// may have a schema in its cache that was undone, under a number that another
/// schema has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriterTicket(pub(crate) u64);

/// How much there is to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Entries that were captured and are not settled.
    pub in_flight: usize,
    /// Bytes of the pages that they changed.
    pub in_flight_bytes: u64,
    /// Bytes of the `-wal`.
    pub wal_bytes: u64,
    /// Start no transaction until this is false.
    pub stop_writing: bool,
    /// [`PageStore::checkpoint_if_due`] would do something.
    pub checkpoint_due: bool,
}

/// A commit of the primary that the log has not committed.
pub(crate) struct InFlight {
    pub change: Change,
    /// `None`: it could not be captured, and must be undone.
    pub entry: Option<Captive>,
}

pub(crate) struct Captive {
    pub position: Position,
    pub snapshot: Arc<SnapshotHandle>,
}

/// One copy of a database. Calls block on the disk; give it a thread, or a lock.
pub struct PageStore {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) files: Files,
    pub(crate) images: Arc<Images>,
    pub(crate) index: WalIndex,
    /// Writes whole pages.
    pub(crate) applier: Connection,
    /// Takes snapshots and looks at the `-wal`.
    pub(crate) observer: Connection,
    /// Holds the `-wal` while a checkpoint is blocked.
    pub(crate) pin: Connection,
    pub(crate) gate: Gate,
    pub(crate) position: Position,
    pub(crate) applied_index: u64,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// The writer has committed something that [`PageStore::defer`] left to the next
    /// capture.
    pub(crate) deferred: bool,
    pub(crate) spool: Spool,
    pub(crate) writer: WriterTicket,
    /// The durable marker.
    pub(crate) marker: Marker,
    /// A blocked checkpoint is tried again then, or when the `-wal` has grown.
    pub(crate) retry: Option<(Instant, u32)>,
    pub(crate) broken: Option<String>,
    pub(crate) landing: Landing,
    /// What is copied now.
    pub(crate) copies: Copies,
}

/// The names of a database's files.
#[derive(Clone)]
pub(crate) struct Files {
    pub number: u64,
    pub main: PathBuf,
    pub wal: PathBuf,
}

impl Files {
    pub fn new(dir: &Path, number: u64) -> Files {
        let main = dir.join(format!("pages-{number}.db"));
        let wal = dir.join(format!("pages-{number}.db-wal"));
        Files { number, main, wal }
    }
}

/// What is open on the files of a database.
pub(crate) struct Open {
    pub images: Arc<Images>,
    pub index: WalIndex,
    pub applier: Connection,
    pub observer: Connection,
    pub pin: Connection,
    pub snapshot: Arc<SnapshotHandle>,
}

impl PageStore {
    /// The position of what is settled: readers see exactly this.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position of the last captured entry: what the next one starts from.
    pub fn tip(&self) -> Position {
        let last = self.in_flight.iter().rev().find_map(|one| one.entry.as_ref());
        last.map_or(self.position, |entry| entry.position)
    }

    /// The last log index that was given to [`PageStore::apply`].
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// The last log index whose effects survive any crash. Entries up to it may be
    /// purged from the log; those after it must be applied again after a start.
    pub fn durable_index(&self) -> u64 {
        self.marker.log_index
    }

    /// Where readers begin.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Opens a connection for executing. Only the last one opened may be used.
    ///
    /// # Errors
    /// SQLite could not open the file.
    pub fn writer(&mut self) -> Result<Writer, PagesError> {
        self.usable()?;
        let failed = PagesError::sqlite("open a connection for writing", &self.files.main);
        let vfs = self.options.disk.vfs();
        let connection =
            connection::connect(&self.files.main, vfs, Purpose::Write).map_err(failed)?;
        self.writer.0 += 1;
        Ok(Writer { connection, ticket: self.writer })
    }

    /// How much there is to wait for.
    pub fn load(&self) -> Load {
        let frames: usize = self.in_flight.iter().map(|one| one.change.pages.len()).sum();
        let in_flight_bytes = frames as u64 * crate::page::PAGE_BYTES as u64;
        let wal_bytes = u64::from(self.index.frames) * crate::wal_file::FRAME_BYTES;
        let most = self.options.checkpoint_bytes;
        Load {
            in_flight: self.in_flight.len(),
            in_flight_bytes,
            wal_bytes,
            stop_writing: in_flight_bytes >= self.options.in_flight_bytes
                || wal_bytes >= most.saturating_mul(4)
                || self.broken.is_some(),
            checkpoint_due: wal_bytes >= most,
        }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn faults(&self) -> Faults {
        self.options.faults
    }

    #[cfg(not(feature = "simulation"))]
    pub(crate) fn faults(&self) -> Faults {
        Faults::default()
    }

    /// Fails if an earlier failure left the files unusable.
    pub(crate) fn usable(&self) -> Result<(), PagesError> {
        match &self.broken {
            Some(why) => Err(PagesError::Broken(why.clone())),
            None => Ok(()),
        }
    }

    /// Remembers a failure after which nothing here can be trusted.
    pub(crate) fn breaking<T>(&mut self, result: Result<T, PagesError>) -> Result<T, PagesError> {
        if let Err(error) = &result {
            self.broken = Some(error.to_string());
        }
        result
    }

    /// Takes in what was committed since the last time; `None`: nothing.
    pub(crate) fn absorb(&mut self) -> Result<Option<Change>, PagesError> {
        let frames = wal_frames(&self.observer, &self.files.main)?;
        if frames == self.index.frames {
            return Ok(None);
        }
        if frames < self.index.frames {
            let what = format!("it had {} frames and has {frames}", self.index.frames);
            return Err(PagesError::Damaged { file: self.files.wal.clone(), what });
        }
        let failed = PagesError::io("read new frames of", &self.files.wal);
        self.index.absorb(&self.images.wal, frames).map(Some).map_err(failed)
    }

    pub(crate) fn take_snapshot(&self) -> Result<Arc<SnapshotHandle>, PagesError> {
        let failed = PagesError::sqlite("take a snapshot", &self.files.main);
        take_snapshot(&self.observer).map(Arc::new).map_err(failed)
    }

    pub(crate) fn set_gate(&self, snapshot: Option<Arc<SnapshotHandle>>) {
        self.gate.set(State {
            main: self.files.main.clone(),
            file: self.files.number,
            position: self.position,
            snapshot,
            closed: false,
        });
    }
}

/// Frames of the `-wal` up to the last commit.
pub(crate) fn wal_frames(observer: &Connection, main: &Path) -> Result<u32, PagesError> {
    let failed = PagesError::sqlite("count the frames of the -wal", main);
    let mut count = observer.prepare_cached("PRAGMA main.wal_checkpoint(NOOP)").map_err(&failed)?;
    let frames: i64 = count.query_row([], |row| row.get(1)).map_err(&failed)?;
    u32::try_from(frames).map_err(|_| PagesError::Damaged {
        file: main.to_path_buf(),
        what: "it is not in WAL mode".to_owned(),
    })
}

pub(crate) fn take_snapshot(observer: &Connection) -> rusqlite::Result<SnapshotHandle> {
    observer.prepare_cached("BEGIN")?.execute([])?;
    let taken = SnapshotHandle::latest(observer);
    observer.prepare_cached("ROLLBACK")?.execute([])?;
    taken
}

/// The crate's own connections on a database.
pub(crate) struct Connections {
    pub applier: Connection,
    pub observer: Connection,
    pub pin: Connection,
}

impl Connections {
    pub fn open(files: &Files, disk: &Disk) -> Result<Connections, PagesError> {
        let failed = |what| PagesError::sqlite(what, &files.main);
        let observer = connection::connect(&files.main, disk.vfs(), Purpose::Write)
            .map_err(failed("open the database"))?;
        let applier = connection::connect_applier(&files.main, disk.vfs())
            .map_err(failed("open the database for applying"))?;
        let pin = connection::connect(&files.main, disk.vfs(), Purpose::Read)
            .map_err(failed("open the database for reading"))?;
        Ok(Connections { applier, observer, pin })
    }

    /// Takes over a database whose `-wal` is empty, and begins a new one.
    pub fn start(self, files: &Files) -> Result<Open, PagesError> {
        let Connections { applier, observer, pin } = self;
        let failed = |what| PagesError::sqlite(what, &files.main);
        let size: u32 = observer
            .query_row("PRAGMA main.page_count", [], |row| row.get(0))
            .map_err(failed("count the pages"))?;
        begin_wal(&applier, &files.main)?;
        let handle = |path: &Path| File::open(path).map_err(PagesError::io("open", path));
        let images = Arc::new(Images { main: handle(&files.main)?, wal: handle(&files.wal)? });
        let mut index = WalIndex::empty(size);
        let frames = wal_frames(&observer, &files.main)?;
        index.absorb(&images.wal, frames).map_err(PagesError::io("read frames of", &files.wal))?;
        let snapshot = Arc::new(take_snapshot(&observer).map_err(failed("take a snapshot"))?);
        Ok(Open { images, index, applier, observer, pin, snapshot })
    }
}

/// Begins an empty `-wal` with page 1 as it is: snapshots need a commit in it.
pub(crate) fn begin_wal(applier: &Connection, main: &Path) -> Result<(), PagesError> {
    let begun = applier.execute_batch(&format!(
        "BEGIN IMMEDIATE; \
         INSERT INTO sqlite_dbpage(pgno, data, schema) \
         SELECT 1, data, '{ATTACHED}' FROM sqlite_dbpage('{ATTACHED}') WHERE pgno = 1; \
         COMMIT"
    ));
    if begun.is_err() && !applier.is_autocommit() {
        applier.execute_batch("ROLLBACK").map_err(PagesError::sqlite("roll back", main))?;
    }
    begun.map_err(PagesError::sqlite("begin a new -wal", main))
}

/// Copies the `-wal` into the main file as far as readers allow; whether that was
/// all of it.
pub(crate) fn backfill(observer: &Connection, main: &Path) -> Result<bool, PagesError> {
    observer
        .query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |row| {
            Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
        })
        .map_err(PagesError::sqlite("copy the -wal into the main file of", main))
}

/// Empties the `-wal`, all of which is in the main file; whether readers let it.
pub(crate) fn empty_wal(observer: &Connection, main: &Path) -> Result<bool, PagesError> {
    let busy =
        observer.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(PagesError::sqlite("empty the -wal of", main)(error)),
    }
}
