//! Who does the I/O of a log.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::batch_io::failure;
use super::{SEAL_AFTER, Shared};
use crate::config::Driver;
use crate::error::OpenError;
use crate::log_core::{Spare, Step};
use crate::segment;

pub(super) fn start_driver(shared: &Arc<Shared>) -> Result<Vec<thread::JoinHandle<()>>, OpenError> {
    match shared.config.driver {
        Driver::Manual => Ok(Vec::new()),
        Driver::Task { delay } => {
            tokio::spawn(run_task(shared.clone(), delay));
            Ok(Vec::new())
        }
        Driver::Threads => {
            shared.lock().set_maker();
            let start = |name: &str, run: fn(&Shared)| {
                let shared = shared.clone();
                let body = move || {
                    let _guard = DeadIfPanicking(&shared);
                    run(&shared);
                };
                thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|source| {
                    let path = PathBuf::from(name);
                    OpenError::Io { what: "start the thread", path, source }
                })
            };
            let threads = [
                start("rung-wal-0", run_writer),
                start("rung-wal-1", run_writer),
                start("rung-wal-make", run_maker),
            ];
            threads.into_iter().collect::<Result<_, _>>().inspect_err(|_| shared.start_closing())
        }
    }
}

/// A thread of the log that panics takes the log with it, or its callers would
/// wait for ever.
struct DeadIfPanicking<'a>(&'a Shared);

impl Drop for DeadIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.with_core(|core| core.die("a thread of the log panicked".to_owned()));
            self.0.work.notify_all();
            self.0.make.notify_all();
        }
    }
}

/// One of the threads that write: while one syncs the other can write.
fn run_writer(shared: &Shared) {
    loop {
        // What is to be done is asked for and waited for under the same lock,
        // so that nothing queued in between is slept over.
        let mut core = shared.lock();
        match core.next_step() {
            Step::Idle => {}
            Step::Rotate(rotation) => {
                drop(core);
                shared.rotate(rotation);
                continue;
            }
            Step::Batch(batch) => {
                drop(core);
                if let Some(written) = shared.perform(batch) {
                    // The other one may go on while this one syncs.
                    if shared.lock().has_queued() {
                        shared.work.notify_one();
                    }
                    shared.sync_batch(written);
                }
                continue;
            }
        }
        let quiet = core.is_quiet();
        if core.dead().is_some() || (core.closed && quiet && core.is_sealed()) {
            drop(core);
            shared.work.notify_all();
            shared.make.notify_all();
            return;
        }
        let seal_now = if core.is_sealed() || !quiet {
            drop(shared.work.wait(core).unwrap_or_else(PoisonError::into_inner));
            false
        } else if core.closed {
            drop(core);
            true
        } else {
            let waited = shared.work.wait_timeout(core, SEAL_AFTER);
            waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        };
        if seal_now && let Some(batch) = shared.write_seal() {
            shared.sync_batch(batch);
            shared.work.notify_one();
        }
    }
}

/// The thread that makes segments in advance: writing the zeros takes long.
fn run_maker(shared: &Shared) {
    loop {
        let mut core = shared.lock();
        if core.closed || core.dead().is_some() {
            return;
        }
        let Some(bytes) = core.start_spare() else {
            drop(shared.make.wait(core).unwrap_or_else(PoisonError::into_inner));
            continue;
        };
        drop(core);
        let path = segment::spare_path(&shared.config.dir);
        let made = segment::create(shared.disk.as_ref(), &path, bytes);
        let made = made.map(|file| Spare { path, file });
        let made = made.map_err(|(what, path, error)| failure(what, &path, &error));
        shared.with_core(|core| core.finish_spare(made));
        shared.work.notify_all();
    }
}

/// The task of a simulation.
async fn run_task(shared: Arc<Shared>, delay: Duration) {
    loop {
        while let Some(batch) = shared.write_batch() {
            tokio::time::sleep(delay).await;
            shared.sync_batch(batch);
        }
        let finished = {
            let core = shared.lock();
            core.dead().is_some() || core.closed
        };
        if finished {
            return;
        }
        shared.task.notified().await;
    }
}
