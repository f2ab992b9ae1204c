//! Packets that arrive later: the kernel hands them over by NFQUEUE, and gets them
//! back after a while. For kernels without netem.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};

use crate::namespaces::enter;

/// Packets that wait; the kernel loses further ones.
const MAX_WAITING: u32 = 8192;
/// The queue's socket cannot be waited for, so it is asked this often.
const LOOK: Duration = Duration::from_micros(200);

/// Delays the packets of one queue until it is dropped.
#[derive(Debug)]
pub struct PacketDelay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl PacketDelay {
    /// Starts with a queue of a namespace, or of this one.
    ///
    /// # Errors
    /// When the queue is taken, or this user may not.
    pub fn start(
        namespace: Option<PathBuf>,
        queue: u16,
        delay: Duration,
    ) -> io::Result<PacketDelay> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let entered = namespace.map_or(Ok(()), |path| enter(&path));
            match entered.and_then(|()| open(queue)) {
                Ok(queue) => {
                    // Who started it waits for this.
                    let _ = ready.send(Ok(()));
                    pass(queue, delay, &stopped)
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Ok(())
                }
            }
        });
        is_ready.recv().map_err(|_| io::Error::other("the thread that delays packets ended"))??;
        Ok(PacketDelay { stop, thread: Some(thread) })
    }

    /// Goes on until there is an error.
    ///
    /// # Errors
    /// That error.
    pub fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }
}

impl Drop for PacketDelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(error) = self.join() {
            eprintln!("packets were not delayed any more: {error}");
        }
    }
}

fn open(number: u16) -> io::Result<Queue> {
    let mut queue = Queue::open()?;
    queue.bind(number)?;
    queue.set_queue_max_len(number, MAX_WAITING)?;
    // Only when a packet came matters, not what is in it.
    queue.set_copy_range(number, 0)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn pass(mut queue: Queue, delay: Duration, stop: &AtomicBool) -> io::Result<()> {
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        loop {
            match queue.recv() {
                Ok(message) => waiting.push_back((Instant::now() + delay, message)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, mut message)) = waiting.pop_front() else { break };
            message.set_verdict(Verdict::Accept);
            queue.verdict(message)?;
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
