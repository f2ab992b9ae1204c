//! SQLite's way to the simulated disk: its own VFS, with every change reported to
//! the [`Power`] of the directory first.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use super::power::Power;

pub(super) const NAME: &str = "rung-simulation";
const C_NAME: &CStr = c"rung-simulation";

static SUPPLIES: LazyLock<Mutex<HashMap<PathBuf, Weak<Power>>>> = LazyLock::new(|| {
    register();
    Mutex::default()
});

/// Files in the directory are under this power from now on.
pub(super) fn supply(dir: &Path, power: &Arc<Power>) {
    let mut supplies = SUPPLIES.lock().unwrap_or_else(PoisonError::into_inner);
    supplies.retain(|_, power| power.strong_count() > 0);
    supplies.insert(dir.to_path_buf(), Arc::downgrade(power));
}

fn power_of(path: &Path) -> Option<Arc<Power>> {
    let supplies = SUPPLIES.lock().unwrap_or_else(PoisonError::into_inner);
    supplies.get(path.parent()?)?.upgrade()
}

/// An open file as SQLite knows it. SQLite allocates it, zeroed or not.
#[repr(C)]
struct File {
    methods: *const sqlite3_io_methods,
    inner: *mut Inner,
}

struct Inner {
    /// The system's file, in memory of the size that it wants.
    real: Box<[u64]>,
    /// `None` for temporary files.
    power: Option<(Arc<Power>, PathBuf)>,
}

impl Inner {
    fn real(&mut self) -> *mut sqlite3_file {
        self.real.as_mut_ptr().cast()
    }
}

fn register() {
    // SAFETY: the system's VFS exists as long as the process; the copy is leaked,
    // so that SQLite may keep it, and its functions are those below or the
    // system's, which do not look at the VFS that they are called for.
    unsafe {
        ffi::sqlite3_initialize();
        let system = ffi::sqlite3_vfs_find(ptr::null());
        let mut vfs = *system;
        vfs.szOsFile = size_of::<File>() as c_int;
        vfs.zName = C_NAME.as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        let code = ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0);
        assert_eq!(code, ffi::SQLITE_OK, "registering the simulated VFS");
    }
}

fn system() -> *mut sqlite3_vfs {
    // SAFETY: a null name asks for the default VFS, which was never replaced.
    unsafe { ffi::sqlite3_vfs_find(ptr::null()) }
}

fn path_of(name: *const c_char) -> Option<PathBuf> {
    // SAFETY: SQLite passes null or a C string that outlives the call.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The code for a failed operation.
fn code_of(error: &io::Error, otherwise: c_int) -> c_int {
    if error.kind() == io::ErrorKind::StorageFull { ffi::SQLITE_FULL } else { otherwise }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let path = path_of(name);
    let power = path.and_then(|path| Some((power_of(&path)?, path)));
    // SAFETY: `file` has the size that the VFS names, and is SQLite's to give; the
    // system's VFS gets memory of the size that it names itself.
    unsafe {
        let words = ((*system()).szOsFile as usize).div_ceil(8);
        let mut inner = Box::new(Inner { real: vec![0; words].into_boxed_slice(), power });
        let file = file.cast::<File>();
        (*file).methods = ptr::null();
        let Some(system_open) = (*system()).xOpen else { return ffi::SQLITE_CANTOPEN };
        let code = system_open(system(), name, inner.real(), flags, out_flags);
        if code != ffi::SQLITE_OK {
            return code;
        }
        if let Some((power, path)) = &inner.power {
            power.created(path);
        }
        (*file).inner = Box::into_raw(inner);
        (*file).methods = &METHODS;
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if let Some((power, path)) = path_of(name).and_then(|path| Some((power_of(&path)?, path))) {
        let removed = power.remove(&path);
        let synced = removed.and_then(|()| if sync != 0 { power.sync_dir() } else { Ok(()) });
        if let Err(error) = synced {
            return code_of(&error, ffi::SQLITE_IOERR_DELETE);
        }
    }
    // SAFETY: the arguments are SQLite's own.
    unsafe { (*system()).xDelete.map_or(ffi::SQLITE_IOERR, |real| real(system(), name, sync)) }
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

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: SQLite passes an open file and `count` readable bytes.
    unsafe {
        let inner = inner(file);
        if let Some((power, path)) = &inner.power {
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), count as usize);
            if let Err(error) = power.write(path, offset as u64, bytes) {
                return code_of(&error, ffi::SQLITE_IOERR_WRITE);
            }
        }
        let real = inner.real();
        let write = (*(*real).pMethods).xWrite;
        write.map_or(ffi::SQLITE_IOERR, |write| write(real, bytes, count, offset))
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, bytes: i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe {
        let inner = inner(file);
        if let Some((power, path)) = &inner.power
            && let Err(error) = power.truncate(path, bytes as u64)
        {
            return code_of(&error, ffi::SQLITE_IOERR_TRUNCATE);
        }
        let real = inner.real();
        let truncate = (*(*real).pMethods).xTruncate;
        truncate.map_or(ffi::SQLITE_IOERR, |truncate| truncate(real, bytes))
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let inner = unsafe { inner(file) };
    let Some((power, path)) = &inner.power else { return ffi::SQLITE_OK };
    match power.sync(path) {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => code_of(&error, ffi::SQLITE_IOERR_FSYNC),
    }
}

hand_on! {
    read = xRead(bytes: *mut c_void, count: c_int, offset: i64);
    file_size = xFileSize(size: *mut i64);
    lock = xLock(level: c_int);
    unlock = xUnlock(level: c_int);
    check_reserved_lock = xCheckReservedLock(out: *mut c_int);
    file_control = xFileControl(what: c_int, argument: *mut c_void);
    sector_size = xSectorSize();
    device_characteristics = xDeviceCharacteristics();
    shm_map = xShmMap(region: c_int, size: c_int, extend: c_int, out: *mut *mut c_void);
    shm_lock = xShmLock(offset: c_int, count: c_int, flags: c_int);
    shm_unmap = xShmUnmap(delete: c_int);
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: SQLite passes an open file.
    unsafe {
        let real = inner(file).real();
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
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
