//! What is durable, and what becomes of the rest.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::vfs;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What goes wrong at an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It and everything after it fail.
    PowerCut,
    /// The next sync fails, and what it should have written is never durable.
    Sync,
    /// Writes fail for so many operations.
    Full(u64),
}

/// The power of one directory.
pub struct Power {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    random: u64,
    operations: u64,
    failure: Option<(u64, Failure)>,
    dead: bool,
    next_inode: u64,
    inodes: HashMap<u64, Inode>,
    names: HashMap<PathBuf, u64>,
    durable_names: HashMap<PathBuf, u64>,
    changed_names: Vec<NameChange>,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

enum NameChange {
    Set(PathBuf, u64),
    Remove(PathBuf),
}

impl Power {
    /// Puts a directory, whose files are all durable, under simulated power.
    ///
    /// # Panics
    /// If the directory cannot be read.
    pub fn on(dir: &Path, seed: u64) -> Arc<Power> {
        let mut state = State {
            random: seed | 1,
            operations: 0,
            failure: None,
            dead: false,
            next_inode: 1,
            inodes: HashMap::new(),
            names: HashMap::new(),
            durable_names: HashMap::new(),
            changed_names: Vec::new(),
        };
        for found in fs::read_dir(dir).expect("the directory of a simulated disk") {
            let path = found.expect("a directory entry").path();
            let inode = state.inode(&path);
            let file = state.inodes.entry(inode).or_default();
            file.durable = fs::read(&path).expect("a file of a simulated disk");
        }
        state.durable_names = state.names.clone();
        state.changed_names.clear();
        let power = Arc::new(Power { dir: dir.to_path_buf(), state: Mutex::new(state) });
        vfs::supply(dir, &power);
        power
    }

    /// Lets something fail so many operations from now.
    pub fn fail_after(&self, operations: u64, failure: Failure) {
        let mut state = self.state();
        state.failure = Some((state.operations + operations, failure));
    }

    /// Ends the process that uses the files: whatever it still tries fails.
    pub fn kill_process(&self) {
        self.state().dead = true;
    }

    /// Another process uses the files, which are as the former one, that is gone,
    /// left them: what was not synced is seen, and may still be lost.
    pub fn restart_process(&self) {
        let mut state = self.state();
        (state.dead, state.failure) = (false, None);
    }

    /// Operations that changed or synced files so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether the power is gone, or the process.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Whether a failure was due and has happened.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.dead || state.failure.is_some_and(|(at, _)| state.operations >= at)
    }

    /// Cuts the power, for good, and leaves in the directory what may be left. All
    /// users of the files must be gone.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn cut(&self) {
        let mut state = self.state();
        state.dead = true;
        let names = state.names_left();
        let files: Vec<(PathBuf, Vec<u8>)> =
            names.into_iter().map(|(path, inode)| (path, state.bytes_left(inode))).collect();
        fs::remove_dir_all(&self.dir).expect("the directory of a simulated disk");
        fs::create_dir(&self.dir).expect("the directory of a simulated disk");
        for (path, bytes) in files {
            fs::write(path, bytes).expect("a file of a simulated disk");
        }
    }

    pub(crate) fn vfs_name(&self) -> &'static str {
        vfs::NAME
    }

    pub(crate) fn write(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operation(true)?;
        state.change(path, Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    pub(crate) fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operation(false)?;
        state.change(path, Change::Cut(bytes));
        Ok(())
    }

    pub(crate) fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(false)?;
        let fails =
            state.failure.is_some_and(|(at, what)| what == Failure::Sync && state.operations >= at);
        let inode = state.inode(path);
        let file = state.inodes.entry(inode).or_default();
        let pending = std::mem::take(&mut file.pending);
        if fails {
            state.dead = true;
            return Err(io::Error::other("simulated failure of a sync"));
        }
        pending.iter().for_each(|change| file.apply(change));
        Ok(())
    }

    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operation(false)?;
        state.durable_names = state.names.clone();
        state.changed_names.clear();
        Ok(())
    }

    pub(crate) fn created(&self, path: &Path) {
        self.state().inode(path);
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(false)?;
        if state.names.remove(path).is_some() {
            state.changed_names.push(NameChange::Remove(path.to_path_buf()));
        }
        Ok(())
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(false)?;
        let inode = state.inode(from);
        state.names.remove(from);
        state.names.insert(to.to_path_buf(), inode);
        // One change of the directory: both or nothing.
        state.changed_names.push(NameChange::Set(to.to_path_buf(), inode));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn operation(&mut self, writes: bool) -> io::Result<()> {
        self.operations += 1;
        match self.failure {
            _ if self.dead => {}
            Some((at, Failure::PowerCut)) if self.operations >= at => self.dead = true,
            Some((at, Failure::Full(length)))
                if writes && (at..at + length).contains(&self.operations) =>
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            _ => {}
        }
        if self.dead { Err(io::Error::other("simulated loss of power")) } else { Ok(()) }
    }

    fn inode(&mut self, path: &Path) -> u64 {
        if let Some(inode) = self.names.get(path) {
            return *inode;
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.names.insert(path.to_path_buf(), inode);
        self.changed_names.push(NameChange::Set(path.to_path_buf(), inode));
        inode
    }

    fn change(&mut self, path: &Path, change: Change) {
        let inode = self.inode(path);
        self.inodes.entry(inode).or_default().pending.push(change);
    }

    /// Names as the last durable state of the directory and some of the changes
    /// since, in their order.
    fn names_left(&mut self) -> HashMap<PathBuf, u64> {
        let mut names = self.durable_names.clone();
        let changes = std::mem::take(&mut self.changed_names);
        let kept = self.below(changes.len() as u64 + 1) as usize;
        for change in changes.into_iter().take(kept) {
            match change {
                NameChange::Set(path, inode) => {
                    names.retain(|_, other| *other != inode);
                    names.insert(path, inode);
                }
                NameChange::Remove(path) => {
                    names.remove(&path);
                }
            }
        }
        names
    }

    /// The durable bytes and any of the changes since, some of them torn.
    fn bytes_left(&mut self, inode: u64) -> Vec<u8> {
        let mut file = self.inodes.remove(&inode).unwrap_or_default();
        let mode = self.below(3);
        for change in std::mem::take(&mut file.pending) {
            let fate = if mode < 2 { mode } else { self.below(3) };
            match (fate, change) {
                (0, _) => {}
                (2, Change::Write(offset, bytes)) => {
                    for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                        if self.below(2) == 0 {
                            let offset = offset + (at * SECTOR) as u64;
                            file.apply(&Change::Write(offset, sector.to_vec()));
                        }
                    }
                }
                (_, change) => file.apply(&change),
            }
        }
        file.durable
    }

    /// xorshift; the same for the same seed.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % bound
    }
}

impl Inode {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Cut(bytes) => self.durable.resize(*bytes as usize, 0),
            Change::Write(offset, bytes) => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                self.durable[start..end].copy_from_slice(bytes);
            }
        }
    }
}
