//! Folders that can be deployed, and what is done with them in a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{Cluster, SOON};
use crate::http;
use crate::load::{Load, Plan};
use crate::process::Run;
use crate::wait::eventually;

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

impl Cluster {
    /// A fresh folder with the hello app.
    pub fn hello(&mut self, hello: &Hello) -> AppFolder {
        let path = self.new_folder();
        AppFolder::hello(path, &self.program("hello"), hello)
    }

    /// Deploys a folder, and insists that it ends so.
    #[track_caller]
    pub fn deploy(&self, folder: &AppFolder) -> Run {
        self.ctl(&["deploy", folder.path().to_str().expect("a plain path")])
    }

    /// Deploys the hello app and waits until the site answers.
    #[track_caller]
    pub fn deploy_hello(&mut self, hello: &Hello) {
        let folder = self.hello(hello);
        self.deploy(&folder).expect(0);
        self.wait_healthy(hello.name, hello.instances as usize);
        let (address, host) = (self.http("n1"), format!("{}.test", hello.name));
        eventually("the site answers", SOON, || {
            http::get(address, &host, "/up").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Steady load on the hello app through n1, which leaves the processors time
    /// for the rest.
    pub fn load(&self, connections: usize) -> Load {
        let plan = Plan { connections, every: Some(Duration::from_millis(50)) };
        Load::start(self.http("n1"), "hello.test", plan)
    }

    /// As much load on the hello app as n1 takes on these connections.
    pub fn load_without_pause(&self, connections: usize) -> Load {
        Load::start(self.http("n1"), "hello.test", Plan { connections, every: None })
    }
}
