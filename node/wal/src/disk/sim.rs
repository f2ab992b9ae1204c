//! A simulated disk. It keeps apart what readers see (the page cache) and what
//! would survive a loss of power, sector by sector, and follows its seed: the
//! same calls give the same losses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile};

/// What is written in one piece or not at all.
const SECTOR: usize = 512;

/// What goes wrong on a simulated disk.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How many bytes all files together may have; no bound if none.
    pub capacity: Option<u64>,
    /// Syncs that still succeed before one fails. As on Linux, the failed one
    /// loses some of what was written, readers go on seeing it, and later syncs
    /// report success. Fires once.
    pub fail_sync_after: Option<u64>,
    /// Writes that still succeed before one stops in the middle for want of
    /// space. Fires once.
    pub fail_write_after: Option<u64>,
    /// Syncs report success and do nothing: a disk that lies.
    pub lying_syncs: bool,
    /// How long a sync takes, in real time.
    pub sync_delay: Duration,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// For a process: the era in which it runs.
    era: Option<u64>,
}

#[derive(Debug)]
struct State {
    random: u64,
    faults: Faults,
    /// Rises at each crash, and files opened before no longer work.
    era: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Arc<Mutex<Inode>>>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    syncs: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Set(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// The contents that each sector written since the last sync had, oldest
    /// first. Any of them may be what the disk has.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Inode {
    fn sector(bytes: &[u8], sector: usize) -> &[u8] {
        let start = (sector * SECTOR).min(bytes.len());
        &bytes[start..(start + SECTOR).min(bytes.len())]
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len();
        let target = self.seen.get_mut(offset..end);
        target.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let content = Self::sector(&self.seen, sector).to_vec();
            self.unsynced.entry(sector).or_default().push(content);
        }
        Ok(())
    }

    fn settle(&mut self, sector: usize, content: &[u8]) {
        let start = sector * SECTOR;
        self.durable[start..start + content.len()].copy_from_slice(content);
    }

    fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            self.settle(sector, versions.last().expect("a version for each write"));
        }
    }
}

impl State {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    fn used(&self) -> u64 {
        let inodes = self.names.values().filter_map(|inode| self.inodes.get(inode));
        inodes.map(|inode| locked(inode).seen.len() as u64).sum()
    }

    fn inode(&self, path: &Path) -> io::Result<(u64, Arc<Mutex<Inode>>)> {
        let id = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok((id, self.inodes[&id].clone()))
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        self.inodes.retain(|id, _| named.contains(id));
    }

    /// Some of what was not synced reaches the disk, the rest is lost.
    fn lose_unsynced(&mut self, inode: &Arc<Mutex<Inode>>) {
        let mut inode = locked(inode);
        for (sector, versions) in std::mem::take(&mut inode.unsynced) {
            let chosen = self.below(versions.len() + 1);
            if let Some(content) = versions.get(chosen) {
                inode.settle(sector, content);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// An empty disk that follows `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            faults: Faults::default(),
            era: 0,
            next_inode: 0,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            locks: BTreeSet::new(),
            syncs: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), era: None }
    }

    /// The disk as a process sees it that starts now: after a crash, whatever it
    /// still tries fails.
    pub fn for_process(&self) -> Self {
        Self { state: self.state.clone(), era: Some(locked(&self.state).era) }
    }

    /// The state, unless the process that asks is gone.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = locked(&self.state);
        match self.era.is_none_or(|era| era == state.era) {
            true => Ok(state),
            false => Err(io::Error::other("the process has ended")),
        }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        locked(&self.state).faults = faults;
    }

    /// What still goes wrong.
    pub fn faults(&self) -> Faults {
        locked(&self.state).faults.clone()
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        locked(&self.state).syncs
    }

    /// The power fails: of what was not synced, each sector has any of the
    /// contents it had since, and the last changes of names are lost. Open files
    /// and locks are gone.
    pub fn lose_power(&self) {
        let mut state = locked(&self.state);
        let inodes: Vec<_> = state.inodes.values().cloned().collect();
        for inode in &inodes {
            state.lose_unsynced(inode);
            let mut inode = locked(inode);
            inode.seen = inode.durable.clone();
        }
        let changes = std::mem::take(&mut state.unsynced_names);
        let kept = state.below(changes.len() + 1);
        let mut names = std::mem::take(&mut state.durable_names);
        changes[..kept].iter().for_each(|change| change.apply(&mut names));
        state.durable_names = names.clone();
        state.names = names;
        state.forget_nameless();
        state.era += 1;
        state.locks.clear();
    }

    /// The process is killed: open files and locks are gone, nothing else.
    pub fn kill_process(&self) {
        let mut state = locked(&self.state);
        state.era += 1;
        state.locks.clear();
    }

    /// One bit of a file turns over, on the disk and in what readers see.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let (_, inode) = locked(&self.state).inode(path)?;
        let mut inode = locked(&inode);
        let offset = offset as usize;
        let seen = inode.seen.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        *seen ^= 1 << (bit % 8);
        let durable = inode.durable.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        *durable ^= 1 << (bit % 8);
        Ok(())
    }

    /// A copy of what a reader of the file sees.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (_, inode) = locked(&self.state).inode(path)?;
        let seen = locked(&inode).seen.clone();
        Ok(seen)
    }

    fn file(&self, state: &State, inode: Arc<Mutex<Inode>>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, era: state.era })
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.alive().map(drop)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.alive()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), era: state.era }))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.alive()?;
        if state.faults.capacity.is_some_and(|capacity| state.used() + bytes > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; bytes as usize];
        let inode = Inode { seen: zeros.clone(), durable: zeros, unsynced: BTreeMap::new() };
        let inode = Arc::new(Mutex::new(inode));
        let id = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(id, inode.clone());
        state.change_name(NameChange::Set(path.to_owned(), id));
        Ok(self.file(&state, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.alive()?;
        let (_, inode) = state.inode(path)?;
        Ok(self.file(&state, inode))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.inode(from)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.inode(path)?;
        state.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.faults.lying_syncs {
            let changes = std::mem::take(&mut state.unsynced_names);
            changes.iter().for_each(|change| change.apply(&mut state.durable_names));
            state.forget_nameless();
        }
        Ok(())
    }

    fn fresh_id(&self) -> u64 {
        locked(&self.state).random()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: Arc<Mutex<Inode>>,
    era: u64,
}

impl SimFile {
    /// The state of the disk, unless the process that opened the file is gone.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = locked(&self.disk.state);
        match state.era == self.era {
            true => Ok(state),
            false => Err(io::Error::other("the process that opened the file has ended")),
        }
    }
}

/// Counts down; true when a fault is due.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let _alive = self.state()?;
        let inode = locked(&self.inode);
        let offset = offset as usize;
        let source = inode.seen.get(offset..offset.saturating_add(buffer.len()));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let offset = offset as usize;
        if due(&mut state.faults.fail_write_after) {
            let written = state.below(bytes.len() + 1);
            locked(&self.inode).write(offset, &bytes[..written])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        locked(&self.inode).write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.syncs += 1;
        let delay = state.faults.sync_delay;
        if due(&mut state.faults.fail_sync_after) {
            state.lose_unsynced(&self.inode);
            return Err(io::Error::other("simulated failure of a sync"));
        }
        if !state.faults.lying_syncs {
            locked(&self.inode).sync();
        }
        drop(state);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let _alive = self.state()?;
        Ok(locked(&self.inode).seen.len() as u64)
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    era: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = locked(&self.disk.state);
        if state.era == self.era {
            state.locks.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_file(seed: u64) -> (SimDisk, PathBuf, Arc<dyn DiskFile>) {
        let disk = SimDisk::new(seed);
        let path = PathBuf::from("/d/f");
        let file = disk.create(&path, 4096).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        (disk, path, file)
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_may_be_torn() {
        let mut torn = 0;
        for seed in 0..50 {
            let (disk, path, file) = disk_with_file(seed);
            file.write_at(0, &[1; 1024]).unwrap();
            file.sync().unwrap();
            file.write_at(1024, &[2; 1024]).unwrap();
            disk.lose_power();
            let content = disk.content(&path).unwrap();
            assert!(content[..1024].iter().all(|byte| *byte == 1));
            torn += usize::from(content[1024] != content[1536]);
            assert!(file.read_at(0, &mut [0]).is_err(), "a file of a dead process");
        }
        assert!((5..45).contains(&torn), "{torn} of 50 were torn");
    }

    #[test]
    fn a_failed_sync_hides_what_it_lost_until_the_power_fails() {
        let mut lost = 0;
        for seed in 0..20 {
            let (disk, path, file) = disk_with_file(seed);
            disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
            file.write_at(0, &[1; 512]).unwrap();
            assert!(file.sync().is_err());
            assert!(file.sync().is_ok());
            assert_eq!(disk.content(&path).unwrap()[0], 1);
            disk.lose_power();
            lost += usize::from(disk.content(&path).unwrap()[0] == 0);
        }
        assert!((2..18).contains(&lost), "{lost} of 20 were lost");
    }

    #[test]
    fn names_are_lost_unless_the_directory_is_synced() {
        let (mut kept, to) = (0, PathBuf::from("/d/g"));
        for seed in 0..20 {
            let (disk, path, _file) = disk_with_file(seed);
            disk.rename(&path, &to).unwrap();
            disk.lose_power();
            let renamed = disk.content(&to).is_ok();
            assert_ne!(renamed, disk.content(&path).is_ok());
            kept += usize::from(renamed);
        }
        assert!((2..18).contains(&kept), "{kept} of 20 were kept");
    }
}
