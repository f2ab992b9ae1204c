//! Tails: what a copy of a former generation has that the next generation lacks.
//!
//! The generation that followed was made from another copy, at its fork. The log of
//! this copy is applied again from its last checkpoint on, and the database is held
//! open where its history leaves the other's, where a quorum was last known to have
//! it, and at its end. What differs between these, row by row, is written to a file
//! that a person can read: pages could not be replayed onto what is there now.

mod diff;
pub mod everywhere;
mod replay;
mod row;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use rung_consensus::{Consensus, Position as LogPosition};
use rung_control_plane::state::RetiredGroup;
use rung_pages::{PagesError, Reader, Reading};
use rung_proto::api::{Tail, TailPage};
use rung_proto::soft::CopyPosition;
use rung_proto::{Code, Failure, GroupId, NodeId};
use rung_shard::{Former, FormerError};
use rusqlite::backup::Backup;
use tokio::runtime::Handle;

use crate::clock::now_ms;
use crate::databases::recover::position;

pub use replay::replay;

/// Where tails are kept, in the data directory.
pub const DIRECTORY: &str = "tails";
const SUFFIX: &str = ".tail";
/// Beside a tail that was replayed.
const REPLAYED: &str = ".replayed";
/// Tails that are listed.
const MOST: usize = 256;
/// Of a header, in bytes.
const MAX_HEADER: u64 = 64 << 10;
/// A page of lines ends when it has so many bytes.
const PAGE: usize = 256 << 10;

/// A copy whose tail is to be kept.
pub struct Source {
    /// The directory of its files.
    pub files: PathBuf,
    /// Where tails are kept.
    pub dir: PathBuf,
    pub node: NodeId,
    pub database: String,
    pub shard: u32,
    pub group: GroupId,
    /// The last entry that was known to be committed.
    pub committed: Option<LogPosition>,
    pub retired: RetiredGroup,
}

/// The database as it was at one position, while the log is applied further.
struct View {
    reader: Reader,
    /// Ends with its connection.
    _reading: Reading,
    position: CopyPosition,
}

impl View {
    fn of(former: &Former) -> Result<Self, PagesError> {
        let gate = former.gate();
        let reader = gate.connect()?;
        let reading = gate.begin(&reader.connection, reader.ticket)?;
        let position = position(reading.position());
        Ok(Self { reader, _reading: reading, position })
    }
}

/// The three places in the history of a copy.
struct Views {
    /// The last one that the next generation has as well, if it is still known.
    fork: Option<View>,
    acknowledged: Option<View>,
    end: View,
    /// Positions behind the fork.
    entries: u64,
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::DiskFailed, "the tail of a copy was not kept")
        .because(why)
        .next("make room on the disk of the node; it is tried again")
}

/// Writes the tail of a copy to a file and returns its name.
///
/// # Errors
/// When the copy cannot be read or the file not be written; the copy is as before.
pub fn extract(source: &Source, consensus: &Consensus, runtime: Handle) -> Result<String, Failure> {
    let mut former =
        Former::open(&source.files, consensus, source.group, runtime).map_err(failed)?;
    let views = walk(&mut former, source).map_err(failed)?;
    let name = format!(
        "{}-{}-g{}-{}{SUFFIX}",
        source.database, source.shard, source.retired.generation, source.node
    );
    write(&name, source, &views).map_err(failed)?;
    Ok(name)
}

/// Applies the log and stops where it matters.
fn walk(former: &mut Former, source: &Source) -> Result<Views, FormerError> {
    let fork = &source.retired.fork;
    let until = source.committed.map_or(0, |committed| committed.index);
    let here = position(former.position());
    // All that was checkpointed was on a quorum, and what was is one line up to there.
    let is_common = here.generation == fork.committed.generation
        && here.sequence <= fork.committed.sequence
        || here == fork.end;
    let mut views = Views {
        fork: if is_common { Some(View::of(former)?) } else { None },
        acknowledged: Some(View::of(former)?),
        end: View::of(former)?,
        entries: 0,
    };
    let mut before = here;
    while let Some(entry) = former.advance()? {
        let now = position(former.position());
        views.entries += u64::from(now != before);
        before = now;
        if now == fork.end || now == fork.committed {
            (views.fork, views.entries) = (Some(View::of(former)?), 0);
        }
        if entry.index <= until {
            views.acknowledged = Some(View::of(former)?);
        }
    }
    views.end = View::of(former)?;
    Ok(views)
}

fn write(name: &str, source: &Source, views: &Views) -> io::Result<()> {
    let unfinished = source.dir.join(format!("{name}.unfinished"));
    let mut tail = Tail {
        file: name.to_owned(),
        node: String::new(),
        database: source.database.clone(),
        shard: source.shard,
        generation: source.retired.generation,
        from: source.retired.fork.end.to_string(),
        acknowledged: views.end.position.to_string(),
        to: views.end.position.to_string(),
        entries: views.entries,
        acknowledged_rows: 0,
        rows: 0,
        whole: None,
        at_ms: now_ms(),
        replayed_ms: None,
    };
    let mut rows = BufWriter::new(tempfile::tempfile_in(&source.dir)?);
    match &views.fork {
        Some(fork) => {
            tail.from = fork.position.to_string();
            write_rows(fork, views, &mut tail, &mut rows)?;
        }
        None => tail.whole = Some(write_whole(name, source, &views.end)?),
    }
    let mut rows = rows.into_inner().map_err(io::IntoInnerError::into_error)?;
    let mut file = BufWriter::new(File::create(&unfinished)?);
    serde_json::to_writer(&mut file, &tail)?;
    file.write_all(b"\n")?;
    io::Seek::rewind(&mut rows)?;
    io::copy(&mut rows, &mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&unfinished, source.dir.join(name))?;
    File::open(&source.dir)?.sync_all()
}

/// What had been acknowledged, as far as the log tells, and then the rest.
fn write_rows(fork: &View, views: &Views, tail: &mut Tail, out: &mut impl Write) -> io::Result<()> {
    let beyond = |view: &&View| view.position.sequence > fork.position.sequence;
    let middle = views.acknowledged.as_ref().filter(beyond);
    let mut from = fork;
    tail.acknowledged = fork.position.to_string();
    if let Some(middle) = middle {
        tail.acknowledged = middle.position.to_string();
        let (before, after) = (&fork.reader.connection, &middle.reader.connection);
        tail.acknowledged_rows = diff::write(before, after, true, out)?;
        from = middle;
    }
    let rest = diff::write(&from.reader.connection, &views.end.reader.connection, false, out)?;
    tail.rows = tail.acknowledged_rows + rest;
    Ok(())
}

/// Where the histories part is behind the last checkpoint of the copy: all of it is
/// kept.
fn write_whole(name: &str, source: &Source, end: &View) -> io::Result<String> {
    let whole = format!("{name}.db");
    let path = source.dir.join(&whole);
    let _ = fs::remove_file(&path);
    let mut copy = rusqlite::Connection::open(&path).map_err(io::Error::other)?;
    let backup = Backup::new(&end.reader.connection, &mut copy).map_err(io::Error::other)?;
    let copied = backup.run_to_completion(4096, std::time::Duration::ZERO, None);
    copied.map_err(io::Error::other)?;
    drop(backup);
    copy.pragma_update(None, "journal_mode", "delete").map_err(io::Error::other)?;
    copy.close().map_err(|(_, error)| io::Error::other(error))?;
    File::open(&path)?.sync_all()?;
    Ok(whole)
}

/// The tails in a directory, by name.
pub fn list(dir: &Path, node: &str) -> Vec<Tail> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path());
    let is_tail = |path: &PathBuf| path.to_string_lossy().ends_with(SUFFIX);
    let mut tails: Vec<Tail> = files
        .filter(is_tail)
        .filter_map(|path| {
            let mut tail = header(&mut BufReader::new(File::open(&path).ok()?)).ok()?;
            node.clone_into(&mut tail.node);
            let replayed = fs::read_to_string(replayed(&path)).ok();
            tail.replayed_ms = replayed.and_then(|text| text.trim().parse().ok());
            Some(tail)
        })
        .take(MOST)
        .collect();
    tails.sort_by(|a, b| a.file.cmp(&b.file));
    tails
}

fn replayed(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}{REPLAYED}", path.display()))
}

fn header(file: &mut impl BufRead) -> io::Result<Tail> {
    let mut line = String::new();
    io::Read::take(&mut *file, MAX_HEADER).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// A tail and its first lines.
///
/// # Errors
/// When there is no such tail.
pub fn page(dir: &Path, name: &str, most: usize) -> Result<TailPage, Failure> {
    let unreadable = |error: io::Error| {
        Failure::new(Code::NotFound, format!("there is no tail {name} here"))
            .because(error)
            .next("`ctl db tail ls` lists them")
    };
    let path = path_of(dir, name)?;
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let tail = header(&mut file).map_err(unreadable)?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for line in file.lines().take(most) {
        let line = line.map_err(unreadable)?;
        bytes += line.len();
        if bytes > PAGE {
            break;
        }
        lines.push(line);
    }
    Ok(TailPage { tail, lines })
}

/// The path of a tail that is known by its name.
fn path_of(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let is_name = name.ends_with(SUFFIX) && !name.contains('/');
    if !is_name {
        return Err(Failure::new(Code::Usage, format!("{name:?} is no name of a tail"))
            .next("`ctl db tail ls` lists them"));
    }
    Ok(dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(dir: &Path, name: &str, lines: &[&str]) {
        let tail = Tail { file: name.to_owned(), ..Tail::default() };
        let mut text = serde_json::to_string(&tail).unwrap();
        for line in lines {
            text.push('\n');
            text.push_str(line);
        }
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn tails_are_listed_whether_replayed_or_not_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), "a.tail", &[]);
        keep(dir.path(), "b.tail", &[]);
        fs::write(dir.path().join("b.tail.replayed"), "17").unwrap();
        fs::write(dir.path().join("c.tail"), "something else").unwrap();
        fs::write(dir.path().join("d.tail.unfinished"), "{}").unwrap();
        let tails = list(dir.path(), "n2");
        let told: Vec<_> =
            tails.iter().map(|tail| (tail.file.as_str(), &*tail.node, tail.replayed_ms)).collect();
        assert_eq!(told, [("a.tail", "n2", None), ("b.tail", "n2", Some(17))]);
    }

    #[test]
    fn a_page_has_a_bounded_number_of_lines_and_a_name_stays_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), "a.tail", &["1", "2", "3"]);
        assert_eq!(page(dir.path(), "a.tail", 2).unwrap().lines, ["1", "2"]);
        assert_eq!(page(dir.path(), "../a.tail", 2).unwrap_err().code, Code::Usage);
        assert_eq!(page(dir.path(), "b.tail", 2).unwrap_err().code, Code::NotFound);
    }
}
