//! Notices event loops that do not come back.
//!
//! A task on each watched runtime ticks; a thread of its own looks whether the
//! ticks go on. A loop that stands still over the budget is logged with what its
//! thread is doing; one that matters for the whole node ends the process when it
//! stands still for much longer, because a node that hangs harms the cluster
//! more than one that is gone.

mod backtrace;
mod stall;
mod threads;

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use stall::{LoopState, Verdict, WatchdogConfig};
pub use threads::Thread;

/// So many busy threads are asked where they are.
const MAX_BACKTRACES: usize = 4;
/// At most as many loops are watched.
const MAX_LOOPS: usize = 1024;

/// A loop that stood still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StallReport {
    pub name: String,
    pub stalled: Duration,
    /// The thread that ran the loop last, with its kernel state and backtrace.
    pub thread: Option<Thread>,
    /// Other threads that are running or in an uninterruptible wait, some with
    /// backtraces; in a runtime of many threads the guilty one may be among
    /// them.
    pub busy: Vec<Thread>,
    /// Whether the process ends now.
    pub fatal: bool,
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchdogCounters {
    /// Loops that stood still over the budget, each stall once.
    pub stalls: u64,
    /// Times that the whole process stood still.
    pub pauses: u64,
}

#[derive(Default)]
struct Counters {
    stalls: AtomicU64,
    pauses: AtomicU64,
}

struct Loop {
    name: String,
    beat: Arc<Beat>,
    state: LoopState,
}

/// What the ticking task leaves for the watchdog.
struct Beat {
    count: AtomicU64,
    thread: AtomicI32,
}

type Report = Arc<dyn Fn(&StallReport) + Send + Sync>;
type Loops = Arc<Mutex<Vec<Loop>>>;

/// The thread that watches. Dropping it ends the watching.
pub struct Watchdog {
    config: WatchdogConfig,
    loops: Loops,
    counters: Arc<Counters>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A loop that is watched, until this is dropped.
#[must_use = "the loop is watched only while this lives"]
pub struct Watch {
    loops: Loops,
    beat: Arc<Beat>,
    ticking: tokio::task::AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ticking.abort();
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|watched| !Arc::ptr_eq(&watched.beat, &self.beat));
    }
}

impl Watchdog {
    /// Starts the thread. `report` is called on it for each stall, before the
    /// process ends if it is a fatal one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        config: WatchdogConfig,
        report: impl Fn(&StallReport) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let loops = Loops::default();
        let counters = Arc::<Counters>::default();
        let (stop, stopped) = channel();
        let (watched, counted, report) = (loops.clone(), counters.clone(), Arc::new(report));
        let thread = std::thread::Builder::new()
            .name("rung-watchdog".into())
            .spawn(move || watch(config, &watched, &counted, &(report as Report), &stopped))?;
        Ok(Self { config, loops, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// Watches the runtime, or `None` if there are too many already. With
    /// `fatal` a long stall ends the process.
    pub fn watch(
        &self,
        name: &str,
        runtime: &tokio::runtime::Handle,
        fatal: bool,
    ) -> Option<Watch> {
        let beat = Arc::new(Beat { count: AtomicU64::new(0), thread: AtomicI32::new(0) });
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        if loops.len() >= MAX_LOOPS {
            return None;
        }
        let ticking = runtime.spawn(tick(beat.clone(), self.config.interval / 2)).abort_handle();
        let state = LoopState::new(fatal);
        loops.push(Loop { name: name.to_owned(), beat: beat.clone(), state });
        Some(Watch { loops: self.loops.clone(), beat, ticking })
    }

    pub fn counters(&self) -> WatchdogCounters {
        WatchdogCounters {
            stalls: self.counters.stalls.load(Ordering::Relaxed),
            pauses: self.counters.pauses.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only panics if a report did, which the panic itself has told.
            let _ = thread.join();
        }
    }
}

async fn tick(beat: Arc<Beat>, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        beat.thread.store(threads::current(), Ordering::Relaxed);
        beat.count.fetch_add(1, Ordering::Release);
    }
}

fn watch(
    config: WatchdogConfig,
    loops: &Loops,
    counters: &Counters,
    report: &Report,
    stopped: &Receiver<()>,
) {
    let began = Instant::now();
    let mut last = Duration::ZERO;
    while stopped.recv_timeout(config.interval) == Err(RecvTimeoutError::Timeout) {
        let now = began.elapsed();
        let pause = config.pause(now - last);
        last = now;
        if let Some(length) = pause {
            counters.pauses.fetch_add(1, Ordering::Relaxed);
            tracing::info!(?length, "the process stood still, or the machine is overloaded");
        }
        for stall in look(&config, loops, now, pause) {
            if stall.fatal {
                tracing::error!(
                    event_loop = %stall.name, stalled = ?stall.stalled, thread = ?stall.thread,
                    busy = ?stall.busy, "an event loop that the node needs hangs, the process ends"
                );
            } else {
                counters.stalls.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    event_loop = %stall.name, stalled = ?stall.stalled, thread = ?stall.thread,
                    busy = ?stall.busy, "an event loop stands still"
                );
            }
            report(&stall);
            if stall.fatal {
                std::process::abort();
            }
        }
    }
}

/// A loop that must be reported, and the thread that ran it last.
struct Stalled {
    name: String,
    stalled: Duration,
    thread: i32,
    fatal: bool,
}

/// The loops that must be reported now.
fn look(
    config: &WatchdogConfig,
    loops: &Loops,
    now: Duration,
    pause: Option<Duration>,
) -> Vec<StallReport> {
    let mut stalled_loops = Vec::new();
    {
        let mut loops = loops.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in loops.iter_mut() {
            let count = watched.beat.count.load(Ordering::Acquire);
            match watched.state.look(config, now, pause, count) {
                Verdict::Fine => {}
                Verdict::Recovered { stalled } => {
                    tracing::warn!(event_loop = %watched.name, ?stalled, "the loop goes on");
                }
                verdict @ (Verdict::Stalled { stalled } | Verdict::Fatal { stalled }) => {
                    let thread = watched.beat.thread.load(Ordering::Relaxed);
                    let fatal = matches!(verdict, Verdict::Fatal { .. });
                    let name = watched.name.clone();
                    stalled_loops.push(Stalled { name, stalled, thread, fatal });
                }
            }
        }
    }
    stalled_loops.into_iter().map(investigate).collect()
}

/// Asks the threads where they are, which takes a moment.
fn investigate(stalled: Stalled) -> StallReport {
    let mut thread = threads::of(stalled.thread);
    if let Some(thread) = &mut thread {
        thread.backtrace = backtrace::of_thread(thread.id);
    }
    let mut busy = threads::busy();
    busy.retain(|other| other.id != stalled.thread);
    for other in busy.iter_mut().take(MAX_BACKTRACES) {
        other.backtrace = backtrace::of_thread(other.id);
    }
    let Stalled { name, stalled, fatal, .. } = stalled;
    StallReport { name, stalled, thread, busy, fatal }
}

#[cfg(test)]
mod tests;
