//! What apps print: bounded lines in bounded files, a tail of them, and a feed
//! of new ones.
//!
//! The files belong to the node and lie in a directory that the app's user
//! cannot write, so an app cannot put a link in their place.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rung_proto::InstanceId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::broadcast;

/// Longest line, in bytes; a longer one becomes several.
pub const MAX_LINE: usize = 8 * 1024;
/// Size at which a file is put aside, in bytes, and how many are kept.
pub const FILE_BYTES: u64 = 1024 * 1024;
pub const FILES: u32 = 8;
/// Most lines that [`AppLog::tail`] gives.
pub const MAX_TAIL: usize = 10_000;
/// Lines that a slow follower may be behind before it loses some.
const FEED: usize = 2048;
/// Bytes that one process may print in an interval; more makes it wait.
const BURST: usize = 1024 * 1024;
const BURST_INTERVAL: Duration = Duration::from_millis(250);
/// Lines kept in memory for the `problem` of an instance.
const LAST_LINES: usize = 20;

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Stdout,
    Stderr,
    /// Rung itself, about the instance.
    Rung,
}

/// One printed line. The text is what the app chose; it may hold control
/// characters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since 1970 on this node's clock.
    pub at_ms: u64,
    pub instance: InstanceId,
    pub source: Source,
    pub text: String,
}

impl LogLine {
    fn write_to(&self, out: &mut Vec<u8>) {
        let source = match self.source {
            Source::Stdout => 'o',
            Source::Stderr => 'e',
            Source::Rung => 'r',
        };
        out.extend_from_slice(format!("{} {} {source} ", self.at_ms, self.instance).as_bytes());
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'\n');
    }
}

/// Reads one line of a log file, without its newline.
pub fn parse_line(bytes: &[u8]) -> Option<LogLine> {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, ' ');
    Some(LogLine {
        at_ms: parts.next()?.parse().ok()?,
        instance: parts.next()?.parse().ok()?,
        source: match parts.next()? {
            "o" => Source::Stdout,
            "e" => Source::Stderr,
            "r" => Source::Rung,
            _ => return None,
        },
        text: parts.next()?.to_owned(),
    })
}

/// The log of one app on this node.
#[derive(Debug)]
pub struct AppLog {
    dir: PathBuf,
    writer: Mutex<Writer>,
    feed: broadcast::Sender<Arc<LogLine>>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    bytes: u64,
}

fn current(dir: &Path) -> PathBuf {
    dir.join("current.log")
}

fn older(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number}.log"))
}

fn open_current(dir: &Path) -> io::Result<Writer> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_follow)
        .open(current(dir))?;
    let bytes = file.metadata()?.len();
    Ok(Writer { file, bytes })
}

impl AppLog {
    fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let writer = Mutex::new(open_current(&dir)?);
        Ok(Self { dir, writer, feed: broadcast::channel(FEED).0 })
    }

    /// Appends lines. An error is logged, not returned: an app goes on when the
    /// disk is full. Blocks on the disk.
    pub fn append(&self, lines: Vec<LogLine>) {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| line.write_to(&mut bytes));
        if let Err(error) = self.write(&bytes) {
            tracing::warn!(dir = %self.dir.display(), %error, "lines of an app are lost");
        }
        for line in lines {
            // Fails when nobody follows.
            let _ = self.feed.send(Arc::new(line));
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.bytes > 0 && writer.bytes + bytes.len() as u64 > FILE_BYTES {
            for number in (1..FILES).rev() {
                let from =
                    if number == 1 { current(&self.dir) } else { older(&self.dir, number - 1) };
                match fs::rename(from, older(&self.dir, number)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            *writer = open_current(&self.dir)?;
        }
        writer.file.write_all(bytes)?;
        writer.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The last lines, oldest first, at most [`MAX_TAIL`]. Blocks on the disk.
    pub fn tail(&self, count: usize, instance: Option<InstanceId>) -> Vec<LogLine> {
        let count = count.min(MAX_TAIL);
        let files =
            std::iter::once(current(&self.dir)).chain((1..FILES).map(|n| older(&self.dir, n)));
        let mut newest_first = Vec::new();
        for path in files {
            if newest_first.len() >= count {
                break;
            }
            let Ok(bytes) = fs::read(path) else {
                break;
            };
            let lines = bytes.split(|byte| *byte == b'\n').rev().filter_map(parse_line);
            let wanted = lines.filter(|line| instance.is_none_or(|id| id == line.instance));
            newest_first.extend(wanted.take(count - newest_first.len()));
        }
        newest_first.reverse();
        newest_first
    }

    /// New lines from now on.
    pub fn follow(&self) -> Follow {
        Follow { feed: self.feed.subscribe() }
    }
}

/// What a follower gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Followed {
    Line(Arc<LogLine>),
    /// It was too slow, and this many lines were dropped for it.
    Lost(u64),
}

/// A subscription to the lines of one app.
#[derive(Debug)]
pub struct Follow {
    feed: broadcast::Receiver<Arc<LogLine>>,
}

impl Follow {
    /// The next line; `None` when the log is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.feed.recv().await {
            Ok(line) => Some(Followed::Line(line)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Followed::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The logs of all apps on this node.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    apps: Mutex<BTreeMap<String, Arc<AppLog>>>,
}

impl Logs {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, apps: Mutex::new(BTreeMap::new()) }
    }

    /// The log of an app whose name is valid, created if need be.
    pub fn open(&self, app: &str) -> io::Result<Arc<AppLog>> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = apps.get(app) {
            return Ok(Arc::clone(log));
        }
        let log = Arc::new(AppLog::open(self.dir.join(app))?);
        apps.insert(app.to_owned(), Arc::clone(&log));
        Ok(log)
    }

    /// The log of an app that has one.
    pub fn get(&self, app: &str) -> Option<Arc<AppLog>> {
        let known = rung_bundle::manifest::check_name(app).is_ok() && self.dir.join(app).is_dir();
        if known { self.open(app).ok() } else { None }
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes and gives every line that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(bytes.len().min(room));
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.partial.len() >= MAX_LINE {
                self.finish(&mut line);
            }
        }
    }

    /// Gives what is left without a newline, if there is any.
    pub fn end(&mut self, mut line: impl FnMut(String)) {
        if !self.partial.is_empty() {
            self.finish(&mut line);
        }
    }

    fn finish(&mut self, line: &mut impl FnMut(String)) {
        let bytes = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        line(String::from_utf8_lossy(bytes).into_owned());
        self.partial.clear();
    }
}

/// The last lines of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn extend(&self, lines: &[LogLine]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if last.len() >= LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.text.chars().take(400).collect());
        }
    }

    pub fn text(&self) -> String {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// The wall clock in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Copies what a process prints into its app's log until the pipe ends. A
/// process that prints without end is slowed down, never cut off.
pub(crate) async fn capture(
    mut pipe: impl AsyncRead + Unpin,
    source: Source,
    instance: InstanceId,
    log: Arc<AppLog>,
    last: LastLines,
) {
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0; 32 * 1024];
    let (mut interval_start, mut in_interval) = (Instant::now(), 0);
    loop {
        let count = pipe.read(&mut buffer).await.unwrap_or(0);
        let mut lines = Vec::new();
        let at_ms = now_ms();
        let add = |text| lines.push(LogLine { at_ms, instance, source, text });
        if count == 0 {
            splitter.end(add);
        } else {
            splitter.push(&buffer[..count], add);
        }
        if !lines.is_empty() {
            last.extend(&lines);
            let log = Arc::clone(&log);
            // Fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || log.append(lines)).await;
        }
        if count == 0 {
            return;
        }
        in_interval += count;
        let spent = interval_start.elapsed();
        if in_interval >= BURST && spent < BURST_INTERVAL {
            tokio::time::sleep(BURST_INTERVAL - spent).await;
        }
        if spent >= BURST_INTERVAL || in_interval >= BURST {
            (interval_start, in_interval) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> LogLine {
        let text = format!("line {number} {}", "x".repeat(900));
        LogLine { at_ms: 7, instance: InstanceId(1), source: Source::Stdout, text }
    }

    #[test]
    fn files_are_put_aside_and_never_more_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let log = AppLog::open(dir.path().join("app")).unwrap();
        for start in (0..20_000).step_by(100) {
            log.append((start..start + 100).map(line).collect());
        }
        let files: Vec<_> = fs::read_dir(dir.path().join("app")).unwrap().collect();
        assert_eq!(files.len(), FILES as usize);
        for file in files {
            assert!(file.unwrap().metadata().unwrap().len() <= FILE_BYTES);
        }
        let tail = log.tail(3000, None);
        assert_eq!(tail.len(), 3000);
        assert_eq!(tail[0], line(17_000));
        assert_eq!(tail[2999], line(19_999));
        assert!(log.tail(10, Some(InstanceId(2))).is_empty());
    }

    #[test]
    fn a_log_goes_on_where_it_was_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app");
        AppLog::open(path.clone()).unwrap().append(vec![line(1)]);
        let log = AppLog::open(path).unwrap();
        log.append(vec![line(2)]);
        assert_eq!(log.tail(9, None), [line(1), line(2)]);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), current(&path)).unwrap();
        assert!(AppLog::open(path).is_err());
        assert!(!dir.path().join("victim").exists());
    }

    #[test]
    fn names_that_are_no_apps_have_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path().join("logs"));
        assert!(logs.get("..").is_none());
        assert!(logs.get("unknown").is_none());
        logs.open("known").unwrap();
        assert!(logs.get("known").is_some());
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_how_many_lines_it_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = AppLog::open(dir.path().join("app")).unwrap();
        let mut follow = log.follow();
        log.append((0..FEED + 10).map(line).collect());
        assert_eq!(follow.next().await, Some(Followed::Lost(10)));
        assert_eq!(follow.next().await, Some(Followed::Line(Arc::new(line(10)))));
    }

    #[test]
    fn a_line_survives_its_file() {
        let line = LogLine {
            at_ms: 5,
            instance: InstanceId(9),
            source: Source::Stderr,
            text: "a  b\u{1b}[0m".into(),
        };
        let mut bytes = Vec::new();
        line.write_to(&mut bytes);
        assert_eq!(parse_line(bytes.strip_suffix(b"\n").unwrap()), Some(line));
    }

    proptest::proptest! {
        #[test]
        fn lines_are_the_same_however_the_bytes_arrive(
            bytes in proptest::collection::vec(proptest::sample::select(vec![b'a', b'\n', b'\r', 0xff]), 0..200),
            cuts in proptest::collection::vec(1usize..20, 0..40),
        ) {
            let mut whole = Vec::new();
            let mut splitter = LineSplitter::default();
            splitter.push(&bytes, |line| whole.push(line));
            splitter.end(|line| whole.push(line));
            let mut pieces = Vec::new();
            let mut splitter = LineSplitter::default();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                splitter.push(piece, |line| pieces.push(line));
                rest = after;
            }
            splitter.push(rest, |line| pieces.push(line));
            splitter.end(|line| pieces.push(line));
            proptest::prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn no_line_is_longer_than_the_bound(length in 0usize..3 * MAX_LINE) {
            let mut total = 0;
            let mut splitter = LineSplitter::default();
            splitter.push(&vec![b'x'; length], |line| { assert!(line.len() <= MAX_LINE); total += line.len(); });
            splitter.end(|line| { assert!(line.len() <= MAX_LINE); total += line.len(); });
            proptest::prop_assert_eq!(total, length);
        }

        #[test]
        fn no_file_makes_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let _ = parse_line(&bytes);
        }
    }
}
