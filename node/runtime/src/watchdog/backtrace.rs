//! Where another thread of this process is.
//!
//! The thread is interrupted by a signal, notes its own return addresses in
//! static memory and goes on; names are looked up afterwards by whoever asked.
//! A thread that blocks signals or waits uninterruptibly gives no answer.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// The most frames that are noted.
const MAX_FRAMES: usize = 64;
/// How long a thread may take to answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// Added to the first real-time signal; the C library and other libraries take
/// the first ones.
const SIGNAL_OFFSET: c_int = 6;

const IDLE: u8 = 0;
const WANTED: u8 = 1;
const CAPTURING: u8 = 2;
const DONE: u8 = 3;

static ASKING: Mutex<()> = Mutex::new(());
static STATE: AtomicU8 = AtomicU8::new(IDLE);
static TARGET: AtomicI32 = AtomicI32::new(0);
static FRAMES: [AtomicUsize; MAX_FRAMES] = [const { AtomicUsize::new(0) }; MAX_FRAMES];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The functions that a thread is in, innermost first; empty if it did not
/// answer.
pub(super) fn of_thread(thread: i32) -> Vec<String> {
    let Some(signal) = install() else { return Vec::new() };
    let _asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    let state = STATE.load(Ordering::Acquire);
    // A thread that began to answer somebody who gave up may still be at it.
    if state == CAPTURING {
        return Vec::new();
    }
    TARGET.store(thread, Ordering::Relaxed);
    STATE.store(WANTED, Ordering::Release);
    // SAFETY: tgkill takes three integers and touches no memory of ours; the
    // signal has a handler, as `install` returned its number.
    let sent = unsafe {
        libc::syscall(libc::SYS_tgkill, libc::c_long::from(libc::getpid()), thread, signal)
    };
    if sent != 0 || !wait_for_answer() {
        return Vec::new();
    }
    let count = COUNT.load(Ordering::Relaxed).min(MAX_FRAMES);
    let addresses = FRAMES[..count].iter().map(|frame| frame.load(Ordering::Relaxed));
    addresses.filter(|address| *address != 0).flat_map(names).filter(|name| !is_own(name)).collect()
}

fn wait_for_answer() -> bool {
    let began = Instant::now();
    while STATE.load(Ordering::Acquire) != DONE {
        if began.elapsed() > PATIENCE {
            // If this fails it is answering just now, which the next one who
            // asks finds out.
            let _ = STATE.compare_exchange(WANTED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// The functions at a return address, several where one was inlined into the
/// other, with file and line where they are known.
fn names(address: usize) -> Vec<String> {
    let mut names = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        let Some(function) = symbol.name() else { return };
        names.push(match symbol.filename().zip(symbol.lineno()) {
            Some((file, line)) => format!("{function:#} at {}:{line}", file.display()),
            None => format!("{function:#}"),
        });
    });
    if names.is_empty() {
        names.push(format!("{address:#x}"));
    }
    names
}

/// Whether it is part of the capturing itself.
fn is_own(name: &str) -> bool {
    name.starts_with("backtrace::") || name.contains("backtrace::on_signal")
}

/// Installs the handler once; the signal, or `None` if that was not possible.
fn install() -> Option<c_int> {
    static INSTALLED: Once = Once::new();
    static SIGNAL: AtomicI32 = AtomicI32::new(0);
    INSTALLED.call_once(|| {
        let signal = libc::SIGRTMIN() + SIGNAL_OFFSET;
        if install_handler(signal) {
            SIGNAL.store(signal, Ordering::Release);
        } else {
            tracing::warn!(signal, "the signal is taken, stalls are reported without backtraces");
        }
    });
    Some(SIGNAL.load(Ordering::Acquire)).filter(|signal| *signal != 0)
}

fn install_handler(signal: c_int) -> bool {
    // The unwinder loads and allocates what it needs when it is first used, so
    // that must not be in the handler.
    backtrace::trace(|_| false);
    // SAFETY: a zeroed sigaction is valid: no flags, an empty mask, the default
    // handler. Both pointers are to live values of that type.
    unsafe {
        let mut former: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut former) != 0
            || former.sa_sigaction != libc::SIG_DFL
        {
            return false;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    }
}

/// Runs on the thread that is asked for, wherever that is: no allocation, no
/// lock, no panic.
extern "C" fn on_signal(_signal: c_int) {
    // SAFETY: gettid has no preconditions; errno is the thread's own and always
    // there. It is put back because the interrupted code may be about to read it.
    let (own, errno) = unsafe { (libc::gettid(), *libc::__errno_location()) };
    let asked = own == TARGET.load(Ordering::Relaxed)
        && STATE.compare_exchange(WANTED, CAPTURING, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if asked {
        let mut count = 0;
        // SAFETY: unsynchronised because the lock of `trace` may be held by the
        // very code that was interrupted; the unwinder itself is reentrant, and
        // only one thread at a time gets here, by the state.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                if let Some(slot) = FRAMES.get(count) {
                    slot.store(frame.ip() as usize, Ordering::Relaxed);
                    count += 1;
                }
                count < MAX_FRAMES
            });
        }
        COUNT.store(count, Ordering::Relaxed);
        STATE.store(DONE, Ordering::Release);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::watchdog::threads;

    #[inline(never)]
    fn stands_here(until: &Receiver<()>) {
        // Ends when the sender is dropped.
        let _ = until.recv();
    }

    #[test]
    fn the_functions_of_a_waiting_thread_are_named_and_it_goes_on() {
        let (id_sender, id) = channel();
        let (go_on, until) = channel();
        let thread = std::thread::spawn(move || {
            id_sender.send(threads::current()).unwrap();
            stands_here(&until);
            7
        });
        let id = id.recv().unwrap();
        // It may not yet have come to where it waits.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let frames = of_thread(id);
            if frames.iter().any(|frame| frame.contains("stands_here")) {
                break;
            }
            assert!(Instant::now() < deadline, "{frames:#?}");
        }
        drop(go_on);
        assert_eq!(thread.join().unwrap(), 7);
        assert_eq!(of_thread(id), Vec::<String>::new(), "a thread that ended gives no answer");
    }
}
