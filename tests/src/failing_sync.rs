//! A disk that stops to keep what it was given: a library between a program and the
//! system that lets its syncs fail from some moment on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    library: PathBuf,
    sign: PathBuf,
}

impl FailingSync {
    /// Builds the library in a directory.
    ///
    /// # Panics
    /// When there is no C compiler.
    pub fn build(dir: &Path) -> Self {
        let source = dir.join("failing_sync.c");
        fs::write(&source, SOURCE).expect("a file");
        let library = dir.join("failing_sync.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(compiler.status().is_ok_and(|status| status.success()), "cc builds a library");
        Self { library, sign: dir.join("syncs-fail") }
    }

    /// What a program must be started with.
    pub fn variables(&self) -> [(&'static str, &str); 2] {
        let library = self.library.to_str().expect("a plain path");
        let sign = self.sign.to_str().expect("a plain path");
        [("LD_PRELOAD", library), ("RUNG_TEST_SYNC_FAILS", sign)]
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
