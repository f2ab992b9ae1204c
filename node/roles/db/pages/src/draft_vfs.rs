//! A VFS whose connections change a database in their own memory only: they read the
//! files, but the index of the `-wal` is their own copy of it, made at one snapshot, and
//! no lock is taken and nothing is written.
//!
//! SQLite keeps the pages that a transaction changes in its cache until it commits, and a
//! draft never does. What is left is that it wants the lock for writing, and to know that
//! it stands at the newest commit: both are true within the copy. Whoever begins a draft
//! holds a reading of the same snapshot, which keeps its frames and pages as they are.
//!
//! The layout of the index is that of SQLite's `wal.c`, which has not changed since 3.7.0
//! and is described in its documentation of the file format ("WAL-index format").
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use rusqlite::{Connection, Error, Result};

/// A snapshot of SQLite is the header of the index at that commit.
const HEADER: usize = 48;
/// After two copies of the header: frames in the main file, five read marks, locks, and
/// frames that a checkpoint tried to copy.
const INFO: usize = 40;
const REGION: usize = 32 << 10;
const FRAMES_OF_FIRST: u32 = 4062;
const FRAMES_OF_OTHERS: u32 = 4096;
/// A read mark that nobody uses.
const UNUSED: u32 = u32::MAX;
/// Where the header has the number of frames, and the salts of the `-wal`.
const FRAMES_AT: usize = 16;
const SALTS_AT: std::ops::Range<usize> = 32..40;
/// Regions that are copied at most: a draft cannot begin on a longer `-wal`.
const MOST_REGIONS: usize = 8;
/// The file control by which a connection is told its snapshot; SQLite leaves numbers from
/// 100 on to others.
const SHOW: c_int = 0x52_75_6e;

type Region = [u64; REGION / 8];

/// An open file as SQLite knows it.
#[repr(C)]
struct File {
    methods: *const sqlite3_io_methods,
    inner: *mut Inner,
}

struct Inner {
    /// The real file, in memory of the size that its VFS wants.
    real: Box<[u64]>,
    /// The copy of the index, of the main file once it was shown a snapshot.
    regions: Vec<Box<Region>>,
    /// The header that it was made at.
    shown: [u8; HEADER],
}

impl Inner {
    fn real(&mut self) -> *mut sqlite3_file {
        self.real.as_mut_ptr().cast()
    }
}

/// The name of the VFS for drafts over another one, which is registered if it was not.
///
/// # Errors
/// There is no such VFS, or no memory.
pub(crate) fn over(base: Option<&str>) -> Result<String> {
    static REGISTERED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let name = format!("rung-draft-{}", base.unwrap_or("system"));
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !registered.contains(&name) {
        register(base, &name)?;
        registered.push(name.clone());
    }
    Ok(name)
}

fn register(base: Option<&str>, name: &str) -> Result<()> {
    let base = base.map(CString::new).transpose().map_err(|_| Error::InvalidQuery)?;
    let name = CString::new(name).map_err(|_| Error::InvalidQuery)?;
    // SAFETY: a registered VFS exists as long as the process. Ours is leaked with its
    // name, so that SQLite may keep it; it has its base in `pAppData`, which only `open`
    // and `delete` look at; its other functions are those of the base, which gets a
    // VFS of its own kind.
    unsafe {
        ffi::sqlite3_initialize();
        let found = ffi::sqlite3_vfs_find(base.as_ref().map_or(ptr::null(), |base| base.as_ptr()));
        if found.is_null() {
            return Err(failed(ffi::SQLITE_NOTFOUND));
        }
        let mut vfs = *found;
        vfs.szOsFile = size_of::<File>() as c_int;
        vfs.zName = name.into_raw();
        vfs.pNext = ptr::null_mut();
        vfs.pAppData = found.cast();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        match ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) {
            ffi::SQLITE_OK => Ok(()),
            code => Err(failed(code)),
        }
    }
}

fn failed(code: c_int) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}

/// Makes a connection of this VFS see exactly the commit of a snapshot from its next
/// transaction on. It must not be inside one.
///
/// # Errors
/// `SQLITE_TOOBIG` when the `-wal` is too long for that.
pub(crate) fn show(connection: &Connection, snapshot: &[u8; HEADER]) -> Result<()> {
    // SAFETY: the handle is of an open connection that this thread has borrowed; the name
    // is a C string; the argument is what `file_control` takes for `SHOW`, and read only
    // during the call.
    let code = unsafe {
        let argument = ptr::from_ref(snapshot).cast_mut().cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), SHOW, argument)
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failed(code)) }
}

/// Bytes that the cache of a connection takes, with what a draft has changed.
pub(crate) fn cache_bytes(connection: &Connection) -> u64 {
    let (mut now, mut most) = (0, 0);
    let what = ffi::SQLITE_DBSTATUS_CACHE_USED;
    // SAFETY: the handle is of an open connection that this thread has borrowed; the out
    // pointers are ours.
    let code = unsafe { ffi::sqlite3_db_status(connection.handle(), what, &mut now, &mut most, 0) };
    if code == ffi::SQLITE_OK { now.max(0) as u64 } else { u64::MAX }
}

fn frames_of(header: &[u8; HEADER]) -> u32 {
    u32::from_ne_bytes(header[FRAMES_AT..FRAMES_AT + 4].try_into().expect("four bytes"))
}

/// The region that has this frame, counted from 1; frame 0 is none and in the first.
fn region_of(frame: u32) -> usize {
    (frame.saturating_sub(1) + FRAMES_OF_OTHERS - FRAMES_OF_FIRST) as usize
        / FRAMES_OF_OTHERS as usize
}

impl Inner {
    /// Makes the copy of the index what it is at this header.
    fn copy_index(&mut self, header: &[u8; HEADER]) -> c_int {
        if *header == self.shown && !self.regions.is_empty() {
            return ffi::SQLITE_OK;
        }
        let needed = region_of(frames_of(header)) + 1;
        if needed > MOST_REGIONS {
            return ffi::SQLITE_TOOBIG;
        }
        // In the same `-wal`, what is known of the frames up to the last copy stays.
        let goes_on = !self.regions.is_empty()
            && header[SALTS_AT] == self.shown[SALTS_AT]
            && frames_of(header) >= frames_of(&self.shown);
        let first = if goes_on { region_of(frames_of(&self.shown) + 1) } else { 0 };
        // If it fails half way, all of it is copied the next time.
        self.shown = [0; HEADER];
        while self.regions.len() < needed {
            self.regions.push(Box::new([0; REGION / 8]));
        }
        for number in first.min(needed)..needed {
            let code = self.copy_region(number);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        self.write_header(header);
        self.shown = *header;
        ffi::SQLITE_OK
    }

    fn copy_region(&mut self, number: usize) -> c_int {
        let real = self.real();
        let mut from = ptr::null_mut::<c_void>();
        // SAFETY: the real file is open, and its methods are those of a VFS with shared
        // memory; a region that exists stays mapped until the file is closed. Others may
        // write to it meanwhile: what belongs to frames of the snapshot does not change
        // while its reading is held, and SQLite passes over what belongs to later ones.
        unsafe {
            let Some(map) = (*(*real).pMethods).xShmMap else { return ffi::SQLITE_IOERR };
            let code = map(real, number as c_int, REGION as c_int, 0, &mut from);
            if code != ffi::SQLITE_OK || from.is_null() {
                return if code == ffi::SQLITE_OK { ffi::SQLITE_IOERR } else { code };
            }
            let from = from.cast::<u64>().cast_const();
            for (index, word) in self.regions[number].iter_mut().enumerate() {
                *word = ptr::read_volatile(from.add(index));
            }
        }
        ffi::SQLITE_OK
    }

    /// The header twice; nothing is in the main file alone; one mark, that of the frames.
    fn write_header(&mut self, header: &[u8; HEADER]) {
        let mut bytes = [0; 2 * HEADER + INFO];
        bytes[..HEADER].copy_from_slice(header);
        bytes[HEADER..2 * HEADER].copy_from_slice(header);
        let marks = [0, 0, frames_of(header), UNUSED, UNUSED, UNUSED];
        for (at, mark) in bytes[2 * HEADER..].chunks_exact_mut(4).zip(marks) {
            at.copy_from_slice(&mark.to_ne_bytes());
        }
        for (word, bytes) in self.regions[0].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        }
    }
}

/// The VFS under ours.
///
/// # Safety
/// `vfs` is one that `register` made.
unsafe fn base(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: `register` put it there.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` has the size that the VFS names, and is SQLite's to give; the base
    // gets memory of the size that it names itself.
    unsafe {
        let base = base(vfs);
        let words = ((*base).szOsFile as usize).div_ceil(8);
        let real = vec![0; words].into_boxed_slice();
        let mut inner = Box::new(Inner { real, regions: Vec::new(), shown: [0; HEADER] });
        let file = file.cast::<File>();
        (*file).methods = ptr::null();
        let Some(real_open) = (*base).xOpen else { return ffi::SQLITE_CANTOPEN };
        let code = real_open(base, name, inner.real(), flags, out_flags);
        if code != ffi::SQLITE_OK {
            return code;
        }
        let is_database = flags & (ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_WAL) != 0;
        (*file).inner = Box::into_raw(inner);
        (*file).methods = if is_database { &DATABASE } else { &TEMPORARY };
        ffi::SQLITE_OK
    }
}

/// A draft removes none of a database's files; those without a name are gone anyway.
unsafe extern "C" fn delete(_: *mut sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_IOERR_DELETE
}

/// The parts of an open file.
///
/// # Safety
/// `file` was opened by `open` and not closed.
unsafe fn inner<'a>(file: *mut sqlite3_file) -> &'a mut Inner {
    // SAFETY: `open` put it there, and SQLite uses a file on one thread at a time.
    unsafe { &mut *(*file.cast::<File>()).inner }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; the box is taken back here.
    unsafe {
        let mut inner = Box::from_raw((*file.cast::<File>()).inner);
        let real = inner.real();
        (*(*real).pMethods).xClose.map_or(ffi::SQLITE_IOERR, |close| close(real))
    }
}

unsafe extern "C" fn refuse_write(
    _: *mut sqlite3_file,
    _: *const c_void,
    _: c_int,
    _: i64,
) -> c_int {
    ffi::SQLITE_IOERR_WRITE
}

unsafe extern "C" fn refuse_truncate(_: *mut sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_IOERR_TRUNCATE
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    what: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file, and what the operation wants: for `SHOW` that
    // is what `show` passes.
    unsafe {
        let inner = inner(file);
        if what == SHOW {
            return inner.copy_index(&*argument.cast::<[u8; HEADER]>());
        }
        let real = inner.real();
        (*(*real).pMethods)
            .xFileControl
            .map_or(ffi::SQLITE_NOTFOUND, |control| control(real, what, argument))
    }
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    _: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the address. A region stays
    // where it is until SQLite unmaps all of them: `regions` only grows before.
    unsafe {
        let regions = &mut inner(file).regions;
        match regions.get_mut(region as usize) {
            Some(region) if size as usize == REGION => {
                *out = region.as_mut_ptr().cast();
                ffi::SQLITE_OK
            }
            // Without a snapshot there is nothing to be seen, and nothing to recover.
            _ => {
                *out = ptr::null_mut();
                ffi::SQLITE_IOERR_SHMMAP
            }
        }
    }
}

unsafe extern "C" fn shm_lock(_: *mut sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut sqlite3_file) {}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite passes an open file, and does not use its regions any more.
    unsafe {
        let inner = inner(file);
        inner.regions.clear();
        let real = inner.real();
        (*(*real).pMethods).xShmUnmap.map_or(ffi::SQLITE_OK, |unmap| unmap(real, 0))
    }
}

hand_on! {
    read = xRead(bytes: *mut c_void, count: c_int, offset: i64);
    write = xWrite(bytes: *const c_void, count: c_int, offset: i64);
    truncate = xTruncate(bytes: i64);
    sync = xSync(flags: c_int);
    file_size = xFileSize(size: *mut i64);
    lock = xLock(level: c_int);
    unlock = xUnlock(level: c_int);
    check_reserved_lock = xCheckReservedLock(out: *mut c_int);
    sector_size = xSectorSize();
    device_characteristics = xDeviceCharacteristics();
}

/// Of the main file and the `-wal`.
static DATABASE: sqlite3_io_methods =
    sqlite3_io_methods { xWrite: Some(refuse_write), xTruncate: Some(refuse_truncate), ..METHODS };

/// Of what SQLite needs for sorting.
static TEMPORARY: sqlite3_io_methods = METHODS;

const METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 2: shared memory, but no mapping of the file, which would go past us.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_the_frames_that_sqlite_puts_there() {
        let firsts = [0, 1, 4062, 4063, 8158, 8159].map(region_of);
        assert_eq!(firsts, [0, 0, 0, 1, 1, 2]);
    }
}
