//! What the VFSs of this crate have in common.

/// Defines methods of a file that only hand on to the file of another VFS: the `real` one
/// of what the module's own `inner` finds.
macro_rules! hand_on {
    ($($name:ident = $method:ident($($argument:ident: $type:ty),*);)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) -> c_int {
            // SAFETY: SQLite passes an open file, and what the method wants.
            unsafe {
                let real = inner(file).real();
                let method = (*(*real).pMethods).$method;
                method.map_or(ffi::SQLITE_IOERR, |method| method(real $(, $argument)*))
            }
        }
    )*};
}
