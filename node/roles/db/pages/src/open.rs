//! Opening a copy: whatever a crash left, it is exactly the marker's state.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::connection;
use crate::error::PagesError;
use crate::frozen::Copies;
use crate::gate::{Gate, State};
use crate::landing::Landing;
use crate::marker::Marker;
use crate::position::Position;
use crate::spool::Spool;
use crate::store::{Connections, Files, Options, PageStore, WriterTicket, backfill, empty_wal};
use crate::wal_file;

pub(crate) const MARKER: &str = "marker";

impl PageStore {
    /// Opens the copy in a directory, or makes an empty one. Nobody else may have
    /// it open. It is at the position of the last durable marker: the log's
    /// entries after [`PageStore::durable_index`] must be applied again.
    ///
    /// # Errors
    /// [`PagesError::Damaged`]: the files are not what a crash can leave.
    pub fn open(dir: &Path, options: Options) -> Result<PageStore, PagesError> {
        let disk = &options.disk;
        fs::create_dir_all(dir).map_err(PagesError::io("create", dir))?;
        let marker = match read_marker(dir, &options)? {
            Some(marker) => marker,
            None => make_empty(dir, &options)?,
        };
        let files = Files::new(dir, marker.file);
        let mut spool = Spool::new(dir.to_path_buf(), marker.file, disk.clone());
        let parts = marker.parts.map(|(pending, _)| spool.path(pending.first_index));
        remove_others(dir, &files, parts.as_deref(), &options)?;
        if let Some((pending, bytes)) = marker.parts {
            let what = "read the kept parts of a commit in";
            spool.resume(pending, bytes).map_err(PagesError::io(what, dir))?;
        }
        cut_wal(&files, &marker, &options)?;
        let connections = Connections::open(&files, disk)?;
        let marker = complete(dir, &files, &connections, marker, &options)?;
        let open = connections.start(&files)?;
        let state = State {
            main: files.main.clone(),
            file: files.number,
            position: marker.position,
            snapshot: Some(open.snapshot),
            closed: false,
        };
        Ok(PageStore {
            dir: dir.to_path_buf(),
            gate: Gate::new(state, disk.clone()),
            files,
            images: open.images,
            index: open.index,
            applier: open.applier,
            observer: open.observer,
            pin: open.pin,
            position: marker.position,
            applied_index: marker.log_index,
            in_flight: VecDeque::new(),
            deferred: false,
            spool,
            writer: WriterTicket(0),
            marker,
            retry: None,
            broken: None,
            landing: Landing::new(dir, &options, marker.file),
            copies: Copies::default(),
            options,
        })
    }
}

fn read_marker(dir: &Path, options: &Options) -> Result<Option<Marker>, PagesError> {
    let path = dir.join(MARKER);
    let bytes = options.disk.read(&path, 4096).map_err(PagesError::io("read", &path))?;
    let damaged = |error: crate::MarkerError| PagesError::Damaged {
        file: path.clone(),
        what: error.to_string(),
    };
    bytes.map(|bytes| Marker::decode(&bytes).map_err(damaged)).transpose()
}

/// Without a marker nothing has ever been durable here: start from nothing.
fn make_empty(dir: &Path, options: &Options) -> Result<Marker, PagesError> {
    let files = Files::new(dir, 1);
    let disk = &options.disk;
    remove_others(dir, &Files::new(dir, 0), None, options)?;
    connection::create(&files.main, disk.vfs())
        .map_err(PagesError::sqlite("create a database", &files.main))?;
    let failed = PagesError::io("make durable", &files.main);
    let main = File::open(&files.main).map_err(&failed)?;
    disk.sync(&files.main, &main).map_err(&failed)?;
    disk.sync_dir(dir).map_err(&failed)?;
    let marker = Marker {
        file: 1,
        log_index: 0,
        position: Position::default(),
        frames: 0,
        salts: [0; 8],
        parts: None,
    };
    write_marker(dir, &marker, options)?;
    Ok(marker)
}

pub(crate) fn write_marker(
    dir: &Path,
    marker: &Marker,
    options: &Options,
) -> Result<(), PagesError> {
    let path = dir.join(MARKER);
    #[cfg(feature = "simulation")]
    let durable = !options.faults.skip_marker_sync;
    #[cfg(not(feature = "simulation"))]
    let durable = true;
    let replaced = options.disk.replace(&path, &marker.encode(), durable);
    replaced.map_err(PagesError::io("write", &path))
}

/// Removes every database file but these, and what is never kept.
pub(crate) fn remove_others(
    dir: &Path,
    files: &Files,
    parts: Option<&Path>,
    options: &Options,
) -> Result<(), PagesError> {
    let failed = |path: &Path| PagesError::io("remove old files of", path);
    for found in fs::read_dir(dir).map_err(failed(dir))? {
        let path = found.map_err(failed(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = ["pages-", "parts-"].iter().any(|prefix| name.starts_with(prefix))
            || name.ends_with(".new");
        let kept = path == files.main || path == files.wal || Some(&*path) == parts;
        if ours && !kept {
            options.disk.remove(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Leaves of the `-wal` exactly what belongs to the marker's state. The file stays
/// even if it is emptied: were it removed, a power failure could bring the old one
/// back in place of a new one that had been synced.
fn cut_wal(files: &Files, marker: &Marker, options: &Options) -> Result<(), PagesError> {
    let failed = PagesError::io("cut", &files.wal);
    if marker.frames == 0 {
        return options.disk.cut(&files.wal, 0).map_err(failed);
    }
    let wal = File::open(&files.wal).map_err(PagesError::io("open", &files.wal))?;
    match wal_file::validate(&wal, marker.salts, marker.frames) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let what = error.to_string();
            return Err(PagesError::Damaged { file: files.wal.clone(), what });
        }
        Err(error) => return Err(PagesError::io("check", &files.wal)(error)),
    }
    let bytes = wal_file::HEADER_BYTES + u64::from(marker.frames) * wal_file::FRAME_BYTES;
    options.disk.cut(&files.wal, bytes).map_err(failed)
}

/// Completes the checkpoint that the marker began, and empties the `-wal`.
fn complete(
    dir: &Path,
    files: &Files,
    connections: &Connections,
    marker: Marker,
    options: &Options,
) -> Result<Marker, PagesError> {
    let complete = Marker { frames: 0, salts: [0; 8], ..marker };
    if marker.frames > 0 {
        let whole = backfill(&connections.observer, &files.main)?;
        if !whole {
            return Err(in_use(files));
        }
        sync_main(files, options)?;
        write_marker(dir, &complete, options)?;
    }
    if empty_wal(&connections.observer, &files.main)? { Ok(complete) } else { Err(in_use(files)) }
}

fn in_use(files: &Files) -> PagesError {
    PagesError::Broken(format!("another process uses {}; end it", files.main.display()))
}

/// Makes the main file durable.
pub(crate) fn sync_main(files: &Files, options: &Options) -> Result<(), PagesError> {
    let failed = PagesError::io("make durable", &files.main);
    let main = File::open(&files.main).map_err(&failed)?;
    options.disk.sync(&files.main, &main).map_err(failed)
}
