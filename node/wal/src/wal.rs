//! The handle on a log, and those who do its I/O.

mod batch_io;
mod driver;

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rung_proto::GroupId;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, info, warn};

use self::batch_io::{encode, failure, load, void};
use self::driver::start_driver;
use crate::config::{Driver, WalConfig};
use crate::disk::{Disk, DiskFile};
use crate::error::{OpenError, ReadError, WalError, is_full};
use crate::group::{GroupState, LogEntry, Write};
use crate::log_core::{Batch, Disposal, Found, LogCore, Rotation, Spare, Step};
use crate::recovery::{self, Recovery};
use crate::segment;
use crate::stats::WalStats;

/// How long nothing happens until the log notes that all of it is synced.
const SEAL_AFTER: Duration = Duration::from_millis(100);
/// A buffer larger than this is not kept for the next batch.
const KEEP_BUFFER_BYTES: usize = 8 << 20;

/// A log that is open. Clones are the same log; when the last one is dropped,
/// what is queued is still written and the log is closed behind that.
#[derive(Clone, Debug)]
pub struct Wal {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

struct Shared {
    core: Mutex<LogCore>,
    /// Wakes those who write batches.
    work: Condvar,
    /// Wakes the one that makes segments in advance.
    make: Condvar,
    /// Wakes the task of [`Driver::Task`].
    task: Notify,
    disk: Arc<dyn Disk>,
    config: WalConfig,
    failed: watch::Sender<Option<String>>,
    buffer: Mutex<Vec<u8>>,
    /// Held until the log is closed.
    lock_file: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("dir", &self.config.dir).finish_non_exhaustive()
    }
}

/// A batch that is written and not yet synced.
#[derive(Debug)]
#[must_use = "a batch that is not synced is never acknowledged"]
pub struct WrittenBatch {
    number: u64,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
}

impl Wal {
    /// Opens the log in `config.dir` or makes one. What of its tail was not
    /// known to be on the disk is there when this returns. Blocks on the disk.
    ///
    /// With [`Driver::Task`] it must be called in a tokio runtime.
    pub fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Result<(Self, Recovery), OpenError> {
        config.check()?;
        let io = |what| {
            let path = config.dir.clone();
            move |source| OpenError::Io { what, path, source }
        };
        disk.create_dir(&config.dir).map_err(io("create"))?;
        let lock = disk.lock(&config.dir.join("lock")).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::InUse { dir: config.dir.clone() },
            _ => io("lock")(source),
        })?;
        let (opened, recovery) = recovery::open(disk.as_ref(), &config)?;
        report(&config, &recovery);
        let shared = Arc::new(Shared {
            core: Mutex::new(LogCore::new(config.clone(), opened)),
            work: Condvar::new(),
            make: Condvar::new(),
            task: Notify::new(),
            disk,
            config,
            failed: watch::Sender::new(None),
            buffer: Mutex::new(Vec::new()),
            lock_file: Mutex::new(Some(lock)),
        });
        let threads = start_driver(&shared)?;
        let handle = Arc::new(Handle { shared, threads: Mutex::new(threads) });
        Ok((Self { handle }, recovery))
    }

    /// Queues writes of one group, in the order of the calls, and makes them
    /// visible to [`Wal::read`] and [`Wal::state`] before it returns. The future
    /// resolves when they are on the disk, together with everything queued
    /// before; dropping it changes nothing.
    ///
    /// After a crash any beginning of what was not acknowledged may be there,
    /// ending between any two entries or changes.
    pub fn write(
        &self,
        group: GroupId,
        writes: Vec<Write>,
    ) -> impl Future<Output = Result<(), WalError>> + Send + use<> {
        let shared = &self.handle.shared;
        let queued = shared.with_core(|core| core.queue(group, writes));
        shared.wake();
        acknowledged(queued)
    }

    /// Notes that a damage which could concern any group is repaired: see
    /// [`crate::Corruption::unknown_groups`].
    pub fn clear_damage(&self) -> impl Future<Output = Result<(), WalError>> + Send + use<> {
        let shared = &self.handle.shared;
        let queued = shared.with_core(LogCore::queue_cleared);
        shared.wake();
        acknowledged(queued)
    }

    /// The entries of `range` that the group has, those just queued included,
    /// up to `max_bytes` and at least one. Recent ones come from memory. What
    /// was purged or never existed is left out, so look at the first index.
    ///
    /// With [`Driver::Threads`] it must be called in a tokio runtime.
    pub async fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        let shared = &self.handle.shared;
        let found = shared.lock().find(group, range, max_bytes);
        let in_memory = found.iter().all(|found| matches!(found, Found::Here(_)));
        if in_memory || shared.config.driver != Driver::Threads {
            return load(group, found);
        }
        let loading = tokio::task::spawn_blocking(move || load(group, found));
        loading.await.unwrap_or(Err(ReadError::Cancelled))
    }

    /// What the log knows of a group, everything queued included.
    pub fn state(&self, group: GroupId) -> GroupState {
        self.handle.shared.lock().state(group)
    }

    /// The groups that have a log, everything queued included.
    pub fn groups(&self) -> Vec<GroupId> {
        self.handle.shared.lock().group_ids()
    }

    /// Counters.
    pub fn stats(&self) -> WalStats {
        self.handle.shared.lock().stats()
    }

    /// Holds the reason once the log is dead: then end the process.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.handle.shared.failed.subscribe()
    }

    /// Refuses further writes and blocks until what is queued is on the disk,
    /// or the log dead, then gives up the lock on the directory. What is there
    /// can still be read. With [`Driver::Task`] it does not wait for the batch
    /// that is under way.
    pub fn close(&self) {
        let shared = &self.handle.shared;
        shared.start_closing();
        let threads = std::mem::take(
            &mut *self.handle.threads.lock().unwrap_or_else(PoisonError::into_inner),
        );
        if shared.config.driver == Driver::Threads {
            // A thread that panicked has already declared the log dead.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        } else {
            self.flush();
        }
        // Nothing is written any more, so another process may have it.
        let mut lock_file = shared.lock_file.lock().unwrap_or_else(PoisonError::into_inner);
        *lock_file = None;
    }

    /// Writes the next batch of what is queued, if two are not already waiting
    /// to be synced. For [`Driver::Manual`].
    pub fn write_batch(&self) -> Option<WrittenBatch> {
        self.handle.shared.write_batch()
    }

    /// Syncs a batch and acknowledges what is in it. For [`Driver::Manual`].
    pub fn sync_batch(&self, batch: WrittenBatch) {
        self.handle.shared.sync_batch(batch);
    }

    /// Writes and syncs everything queued, and notes that all of it is synced.
    /// For [`Driver::Manual`].
    pub fn flush(&self) {
        let shared = &self.handle.shared;
        while let Some(batch) = shared.write_batch() {
            shared.sync_batch(batch);
        }
        if let Some(batch) = shared.write_seal() {
            shared.sync_batch(batch);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.start_closing();
    }
}

async fn acknowledged(
    queued: Result<oneshot::Receiver<Result<(), WalError>>, WalError>,
) -> Result<(), WalError> {
    // The sender is dropped only with the log itself.
    queued?.await.unwrap_or(Err(WalError::Closed))
}

fn report(config: &WalConfig, recovery: &Recovery) {
    let Recovery { segments, entries, rewritten, .. } = recovery;
    let dir = config.dir.display();
    info!(%dir, segments, entries, rewritten, groups = recovery.groups.len(), "log opened");
    if let Some(torn) = &recovery.torn {
        info!(file = %torn.file.display(), offset = torn.offset, "torn tail cut off");
    }
    let Some(corruption) = &recovery.corruption else { return };
    for damage in &corruption.damages {
        error!(
            file = %damage.file.display(), offset = damage.offset, what = %damage.what,
            "the log is damaged"
        );
    }
    error!(groups = ?corruption.groups, unknown = corruption.unknown_groups, "groups to be repaired");
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, LogCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core, then does what that entails outside of its lock.
    fn with_core<R>(&self, change: impl FnOnce(&mut LogCore) -> R) -> R {
        let mut core = self.lock();
        let result = change(&mut core);
        let answers = std::mem::take(&mut core.answers);
        let unneeded = std::mem::take(&mut core.unneeded);
        let dead = core.dead().cloned();
        drop(core);
        if dead.is_some() {
            self.failed.send_if_modified(|failed| {
                let first = failed.is_none();
                *failed = dead;
                first
            });
        }
        for (answer, result) in answers {
            // Who no longer waits need not be told.
            let _ = answer.send(result);
        }
        unneeded.into_iter().for_each(|(id, disposal)| self.dispose(id, disposal));
        result
    }

    /// Deletes the file of a segment, or gives it another name. If that fails
    /// the next start deletes it: the log no longer lists it.
    fn dispose(&self, id: u64, disposal: Disposal) {
        let (disk, dir) = (self.disk.as_ref(), &self.config.dir);
        let result = match disposal {
            Disposal::Delete => segment::remove(disk, dir, id, false),
            Disposal::KeepAside => segment::remove(disk, dir, id, true),
            Disposal::Reuse(file) => {
                let path = segment::reused_path(dir, id);
                let renamed = disk.rename(&segment::path(dir, id), &path);
                let spare = renamed.is_ok().then_some(Spare { path, file });
                self.lock().finish_reuse(spare);
                renamed
            }
        };
        if let Err(error) = result {
            warn!(segment = id, %error, "a segment that is not needed could not be put away");
        }
    }

    fn wake(&self) {
        match self.config.driver {
            Driver::Threads => self.work.notify_one(),
            Driver::Task { .. } => self.task.notify_one(),
            Driver::Manual => {}
        }
    }

    fn start_closing(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.make.notify_all();
        self.task.notify_one();
    }

    fn write_batch(&self) -> Option<WrittenBatch> {
        loop {
            match self.with_core(LogCore::next_step) {
                Step::Idle => return None,
                Step::Rotate(rotation) => self.rotate(rotation),
                Step::Batch(batch) => {
                    if let Some(written) = self.perform(batch) {
                        return Some(written);
                    }
                }
            }
        }
    }

    fn write_seal(&self) -> Option<WrittenBatch> {
        match self.with_core(LogCore::seal_step) {
            Step::Batch(batch) => self.perform(batch),
            Step::Idle | Step::Rotate(_) => None,
        }
    }

    fn perform(&self, batch: Batch) -> Option<WrittenBatch> {
        let mut buffer =
            std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner));
        buffer.clear();
        let written = encode(&batch, &mut buffer);
        let result = match batch.file.write_at(batch.base, &buffer) {
            Ok(()) => Ok(written),
            Err(error) if is_full(&error) => Err(void(&batch)),
            Err(error) => Err(failure("writing", &batch.path, &error)),
        };
        if buffer.capacity() <= KEEP_BUFFER_BYTES {
            *self.buffer.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        }
        let (number, file, path) = (batch.number, batch.file.clone(), batch.path.clone());
        let done = result.is_ok();
        self.with_core(|core| core.finish_batch(batch, result));
        done.then_some(WrittenBatch { number, file, path })
    }

    fn sync_batch(&self, batch: WrittenBatch) {
        let started = Instant::now();
        let result = batch.file.sync();
        let took = started.elapsed();
        self.with_core(|core| {
            core.stats.syncs.add(took);
            let result =
                result.map_err(|error| format!("syncing {}: {error}", batch.path.display()));
            core.finish_sync(batch.number, result);
        });
    }

    fn rotate(&self, mut rotation: Rotation) {
        let (disk, dir) = (self.disk.as_ref(), &self.config.dir);
        let (path, file) = match rotation.spare.take() {
            Some(Spare { path, file }) => (path, Ok(file)),
            None => {
                let path = segment::unfinished_path(dir);
                let file = segment::create(disk, &path, rotation.bytes);
                (path, file)
            }
        };
        let result = file.and_then(|file| {
            segment::finish(disk, dir, rotation.id, (&path, file), &rotation.head)
        });
        let result = result.map_err(|(what, path, error)| failure(what, &path, &error));
        self.with_core(|core| core.finish_rotation(&rotation, result));
        self.make.notify_one();
    }
}
