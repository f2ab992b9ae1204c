//! The watchdog on real runtimes, in this process and in children of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc as channels;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
/// Tells a child of these tests what to do.
const PART: &str = "RUNG_WATCHDOG_TEST_PART";

fn quick() -> WatchdogConfig {
    WatchdogConfig {
        interval: Duration::from_millis(20),
        budget: Duration::from_millis(200),
        fatal: Duration::from_millis(1200),
    }
}

#[inline(never)]
fn blocks_the_loop_on_purpose(reports: &channels::Receiver<StallReport>) -> StallReport {
    reports.recv_timeout(PATIENCE).expect("a report")
}

#[test]
fn a_loop_that_stands_still_is_reported_with_its_thread() {
    let (sender, reports) = channels::channel();
    let watchdog =
        Watchdog::start(quick(), move |stall| sender.send(stall.clone()).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let watch = watchdog.watch("data plane 0", runtime.handle(), false).expect("there is room");
    let report = runtime.block_on(async {
        // The loop must have ticked once before it can be missed.
        while watch.beat.count.load(Ordering::Acquire) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        blocks_the_loop_on_purpose(&reports)
    });
    assert_eq!(report.name, "data plane 0");
    assert!(report.stalled >= quick().budget && !report.fatal);
    let thread = report.thread.expect("its thread is known");
    assert_eq!(thread.id, threads::current());
    let guilty = |frame: &String| frame.contains("blocks_the_loop_on_purpose");
    assert!(thread.backtrace.iter().any(guilty), "{:#?}", thread.backtrace);
    assert_eq!(watchdog.counters().stalls, 1);
    drop(watch);
    assert!(watchdog.loops.lock().unwrap().is_empty());
}

/// Not a test of its own: what the children of the tests below do.
#[test]
fn part_of_a_child() {
    let Ok(part) = std::env::var(PART) else { return };
    let watchdog = Watchdog::start(quick(), |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let watch = watchdog.watch("core", runtime.handle(), true).expect("there is room");
    runtime.block_on(async {
        while watch.beat.count.load(Ordering::Acquire) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if part == "hang" {
            loop {
                std::thread::park();
            }
        }
        // Tells that it runs, for as long as its parent listens.
        while writeln!(std::io::stderr(), "running").is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

fn child(part: &str) -> Child {
    let name = "watchdog::tests::part_of_a_child";
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_core_loop_that_hangs_ends_the_process() {
    let mut child = child("hang");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the child still hangs");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.signal(), Some(6), "aborted: {status}");
}

#[test]
fn a_process_that_was_stopped_goes_on_when_it_may() {
    let mut child = child("run");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut running = || loop {
        match lines.next() {
            Some(Ok(line)) if line == "running" => break,
            Some(Ok(_)) => {}
            ended => panic!("the child ended: {ended:?}"),
        }
    };
    running();
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    // Longer than what ends a process whose loop hangs; the time itself is what
    // is being tested.
    std::thread::sleep(quick().fatal * 2);
    rustix::process::kill_process(id, rustix::process::Signal::CONT).unwrap();
    // More lines than could have been in the pipe from before, over more time
    // than the watchdog needs for its verdict.
    let goes_on = Instant::now() + quick().fatal;
    while Instant::now() < goes_on {
        running();
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
