//! Folders that can be deployed.

use std::fs;
use std::path::{Path, PathBuf};

/// An app's folder in a directory of its own.
#[derive(Clone, Debug)]
pub struct AppFolder {
    path: PathBuf,
}

/// Links a file, or copies it where that is not possible.
pub(crate) fn link_or_copy(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// The manifest of `examples/hello` with another command, more variables, or
/// more lines in `[web]`.
#[derive(Clone, Debug)]
pub struct Hello {
    pub name: &'static str,
    pub command: &'static str,
    pub instances: u32,
    /// More lines of the section `[web]`.
    pub web: &'static str,
    pub env: Vec<(&'static str, String)>,
}

impl Default for Hello {
    fn default() -> Self {
        Self { name: "hello", command: "./hello", instances: 2, web: "", env: Vec::new() }
    }
}

impl Hello {
    fn manifest(&self) -> String {
        let Self { name, command, instances, web, env } = self;
        let variables: String =
            env.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        format!(
            "name = {name:?}\ndomain = \"{name}.test\"\n\n[web]\ncommand = {command:?}\n\
             instances = {instances}\nhealth = \"/up\"\n{web}\n\n[env]\n{variables}"
        )
    }
}

impl AppFolder {
    /// A folder with the hello program.
    ///
    /// # Panics
    /// When the disk fails.
    pub fn hello(path: PathBuf, program: &Path, hello: &Hello) -> Self {
        fs::create_dir_all(&path).unwrap();
        link_or_copy(program, &path.join("hello"));
        fs::write(path.join("rung.toml"), hello.manifest()).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
