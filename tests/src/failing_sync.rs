//! A disk that no longer keeps what it was given: syncs fail from some moment on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::preload::{self, PRELOAD};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *sign = getenv("RUNG_TEST_SYNC_FAILS");
    return sign && access(sign, F_OK) == 0;
}

#define SYNC(name)                                             \
    int name(int file) {                                       \
        static int (*real)(int);                               \
        if (fails()) {                                         \
            errno = EIO;                                       \
            return -1;                                         \
        }                                                      \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        return real(file);                                     \
    }

SYNC(fsync)
SYNC(fdatasync)
"#;

/// Makes the syncs of programs fail that are started with [`FailingSync::variables`].
pub struct FailingSync {
    shim: PathBuf,
    sign: PathBuf,
}

impl FailingSync {
    /// Keeps what it needs in a directory.
    #[track_caller]
    pub fn build(dir: &Path) -> Self {
        Self { shim: preload::build(dir, "failing_sync", SOURCE), sign: dir.join("syncs-fail") }
    }

    /// What a program must be started with.
    ///
    /// # Panics
    /// When the directory's name is not UTF-8.
    pub fn variables(&self) -> [(&'static str, &str); 2] {
        let shim = self.shim.to_str().expect("a plain path");
        let sign = self.sign.to_str().expect("a plain path");
        [(PRELOAD, shim), ("RUNG_TEST_SYNC_FAILS", sign)]
    }

    /// From now on they fail, or no longer.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn fail(&self, fail: bool) {
        if fail {
            fs::write(&self.sign, "").expect("a file");
        } else {
            fs::remove_file(&self.sign).expect("the file that says so");
        }
    }
}
