//! The access log: lines are put together by the thread that served, gathered,
//! and written by a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{AccessLog, LbError};
use crate::rewrite::write_decimal;

/// Lines are handed over when there are that many bytes of them.
const BATCH: usize = 32 * 1024;
/// Batches that wait for the disk; beyond that lines are dropped and counted.
const BATCHES: usize = 64;
/// A longer path is cut in the log.
const LONGEST_PATH: usize = 1024;

/// One request, as the log shows it.
pub(crate) struct Entry<'a> {
    pub app: &'a str,
    pub client: std::net::IpAddr,
    pub protocol: &'a str,
    pub method: &'a [u8],
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub status: u16,
    pub received: u64,
    pub sent: u64,
    pub took_us: u64,
    pub instance: u64,
    pub attempts: u32,
    pub id: &'a [u8],
    pub user_agent: &'a [u8],
    /// Why it failed; empty when it did not.
    pub problem: &'a str,
}

/// The lines of one thread that were not handed over yet.
#[derive(Default)]
pub(crate) struct LogLines {
    bytes: Vec<u8>,
    lines: u64,
    /// The last second and its text.
    second: u64,
    second_text: String,
}

impl LogLines {
    /// Appends a line.
    pub fn push(&mut self, entry: &Entry<'_>, sender: &LogSender) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.as_secs() != self.second || self.second_text.is_empty() {
            self.second = now.as_secs();
            self.second_text = utc(now.as_secs());
        }
        write_entry(entry, &self.second_text, now.subsec_millis(), &mut self.bytes);
        self.lines += 1;
        if self.bytes.len() >= BATCH {
            self.hand_over(sender);
        }
    }

    /// Hands over what there is.
    pub fn hand_over(&mut self, sender: &LogSender) {
        if self.bytes.is_empty() {
            return;
        }
        let next = Vec::with_capacity(BATCH + BATCH / 8);
        sender.send(std::mem::replace(&mut self.bytes, next), std::mem::take(&mut self.lines));
    }
}

fn write_entry(entry: &Entry<'_>, second: &str, millis: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ts\":\"");
    out.extend_from_slice(second.as_bytes());
    out.push(b'.');
    out.extend([millis / 100, millis / 10 % 10, millis % 10].map(|digit| b'0' + digit as u8));
    out.extend_from_slice(b"Z\",\"status\":");
    write_decimal(u64::from(entry.status), out);
    for (key, value) in [
        ("method", entry.method),
        ("host", entry.host),
        ("path", &entry.path[..entry.path.len().min(LONGEST_PATH)]),
        ("app", entry.app.as_bytes()),
        ("proto", entry.protocol.as_bytes()),
        ("id", entry.id),
        ("agent", &entry.user_agent[..entry.user_agent.len().min(LONGEST_PATH)]),
    ] {
        write_key(key, out);
        write_string(value, out);
    }
    write_key("client", out);
    // Writing to memory cannot fail.
    let _ = write!(out, "\"{}\"", entry.client);
    for (key, value) in [
        ("us", entry.took_us),
        ("in", entry.received),
        ("out", entry.sent),
        ("instance", entry.instance),
        ("attempts", u64::from(entry.attempts)),
    ] {
        write_key(key, out);
        write_decimal(value, out);
    }
    if !entry.problem.is_empty() {
        write_key("problem", out);
        write_string(entry.problem.as_bytes(), out);
    }
    out.extend_from_slice(b"}\n");
}

fn write_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A JSON string; bytes that are no ASCII are shown as Latin-1, which is what
/// header fields are by tradition.
fn write_string(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if value.iter().all(|byte| (b' '..0x7f).contains(byte) && *byte != b'"' && *byte != b'\\') {
        out.extend_from_slice(value);
    } else {
        for byte in value {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                b' '..0x7f => out.push(*byte),
                _ => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
            }
        }
    }
    out.push(b'"');
}

/// `2026-01-31T23:59:59`, in UTC.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from 0000-03-01, so that leap days end the years: the algorithm of
    // Howard Hinnant's `civil_from_days`.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Where threads hand their lines over.
#[derive(Clone)]
pub(crate) struct LogSender {
    batches: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl LogSender {
    fn send(&self, batch: Vec<u8>, lines: u64) {
        match self.batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(lines, Relaxed);
            }
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Starts the writing thread. It ends, with everything written, when the last
/// sender is gone.
pub(crate) fn start(
    config: &AccessLog,
) -> Result<Option<(LogSender, std::thread::JoinHandle<()>)>, LbError> {
    let AccessLog::File { path, max_bytes, keep } = config else { return Ok(None) };
    let mut file = RotatingFile::open(path, *max_bytes, *keep)
        .map_err(|source| LbError::AccessLog { path: path.clone(), source })?;
    let (batches, incoming) = sync_channel(BATCHES);
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = dropped.clone();
    let thread = std::thread::Builder::new()
        .name("rung-lb-log".into())
        .spawn(move || write_all(&mut file, &incoming, &counter))
        .map_err(LbError::Thread)?;
    Ok(Some((LogSender { batches, dropped }, thread)))
}

fn write_all(file: &mut RotatingFile, incoming: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    let mut failing = false;
    for batch in incoming {
        match file.write(&batch) {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(memchr::memchr_iter(b'\n', &batch).count() as u64, Relaxed);
                // Once, not for each batch of a full disk.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(role = "lb", path = %file.path.display(), %error, "the access log cannot be written; lines are dropped");
                }
            }
        }
    }
}

/// A file that is set aside when it is full.
struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    size: u64,
}

impl RotatingFile {
    fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<RotatingFile> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), max_bytes, keep, file, size })
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + batch.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(batch)?;
        self.size += batch.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match std::fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.keep > 0 {
            std::fs::rename(&self.path, self.numbered(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        *self = RotatingFile::open(&self.path, self.max_bytes, self.keep)?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(0), "1970-01-01T00:00:00");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56");
        assert_eq!(utc(1_767_225_599), "2025-12-31T23:59:59");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00");
    }

    #[test]
    fn hostile_strings_stay_strings() {
        let mut out = Vec::new();
        write_string(b"a\"b\\c\x00\xff\n", &mut out);
        assert_eq!(out, br#""a\"b\\c\u0000\u00ff\u000a""#);
    }

    #[test]
    fn a_full_file_is_set_aside_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut file = RotatingFile::open(&path, 100, 2).unwrap();
        for batch in 0..6_u8 {
            file.write(&[b'0' + batch; 60]).unwrap();
        }
        let first = |name: &str| std::fs::read(dir.path().join(name)).unwrap()[0];
        assert_eq!(first("access.log"), b'5');
        assert_eq!(first("access.log.1"), b'4');
        assert_eq!(first("access.log.2"), b'3');
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
