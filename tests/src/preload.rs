//! C code that stands between a program and the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run;

/// The variable that names what is loaded into a program before everything else.
pub const PRELOAD: &str = "LD_PRELOAD";
const COMPILED: Duration = Duration::from_secs(60);

/// Compiles it into a directory, for [`PRELOAD`].
///
/// # Panics
/// When there is no C compiler, or it finds something wrong.
#[track_caller]
pub fn build(dir: &Path, name: &str, code: &str) -> PathBuf {
    let (source, shim) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    fs::write(&source, code).expect("a source file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).arg("-ldl");
    run(&mut compiler, COMPILED).expect(0);
    shim
}
