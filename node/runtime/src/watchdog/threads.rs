//! What the threads of this process are doing, from `/proc`.

use std::fs;
use std::path::Path;

/// More threads than this are not looked at.
const MAX_THREADS: usize = 256;
/// More threads than this are not reported.
const MAX_REPORTED: usize = 16;

/// A thread as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    pub id: i32,
    pub name: String,
    /// `R` runs, `S` sleeps, `D` waits for a disk; see proc(5).
    pub state: char,
    /// The kernel function in which it waits; empty if it does not, or if the
    /// kernel does not tell.
    pub waits_in: String,
    /// Processor time so far in clock ticks, user and system together.
    pub cpu_ticks: u64,
    /// The functions it is in, innermost first, if they were asked for and it
    /// answered.
    pub backtrace: Vec<String>,
}

/// The calling thread.
pub(super) fn current() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// What a thread does; `None` if there is none of that number.
pub(super) fn of(id: i32) -> Option<Thread> {
    let directory = Path::new("/proc/self/task").join(id.to_string());
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let waits_in = fs::read_to_string(directory.join("wchan")).unwrap_or_default();
    let mut thread = parse_stat(&stat)?;
    if waits_in != "0" {
        thread.waits_in = waits_in;
    }
    Some(thread)
}

/// The threads that run or cannot be interrupted, this one excepted.
pub(super) fn busy() -> Vec<Thread> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = current();
    ids.take(MAX_THREADS)
        .filter(|id| *id != own)
        .filter_map(of)
        .filter(|thread| matches!(thread.state, 'R' | 'D'))
        .take(MAX_REPORTED)
        .collect()
}

/// Reads a line of `/proc/.../stat`. The name is in parentheses and may itself
/// hold anything, parentheses and spaces included.
fn parse_stat(stat: &str) -> Option<Thread> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields 14 and 15 of proc(5), of which the first two are taken off here.
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Thread {
        id: id.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        waits_in: String::new(),
        cpu_ticks: ticks(11)?.checked_add(ticks(12)?)?,
        backtrace: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_found_and_runs() {
        let thread = of(current()).expect("it exists");
        assert_eq!((thread.id, thread.state), (current(), 'R'));
        assert_eq!(of(-1), None);
    }

    #[test]
    fn odd_names_are_read() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        let thread = parse_stat(line).unwrap();
        assert_eq!((thread.name.as_str(), thread.state, thread.cpu_ticks), ("a) b (c", 'S', 42));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }
}
