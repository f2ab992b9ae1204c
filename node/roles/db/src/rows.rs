//! The result of a statement, in the form in which it goes to the client.
//!
//! A result is complete before its first byte leaves. So an executor never waits
//! for a client, a snapshot is never held for one, and nothing leaves before the
//! position that it was read at is settled. Small results stay in memory, the
//! rest goes to a file that has no name; both are bounded.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rung_sql::{ResultColumn, RowSink, SqlError, SqlState};

/// Bytes of one result that stay in memory.
const IN_MEMORY: usize = 256 * 1024;
/// What is written to the file at once.
const WRITE: usize = 256 * 1024;
/// What is hashed at once.
const HASHED: usize = 16 * 1024;

/// Where results that do not fit into memory go, and how much of them there may be.
#[derive(Debug)]
pub struct Spool {
    pub directory: PathBuf,
    /// Bytes of one result.
    pub per_result: u64,
    /// Bytes of all results of this node together.
    pub total: u64,
    used: AtomicU64,
}

impl Spool {
    pub fn new(directory: PathBuf, per_result: u64, total: u64) -> Arc<Self> {
        Arc::new(Self { directory, per_result, total, used: AtomicU64::new(0) })
    }

    /// Bytes in files now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct SpoolFile {
    file: File,
    length: u64,
    spool: Arc<Spool>,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.spool.used.fetch_sub(self.length, Ordering::Relaxed);
    }
}

/// Messages of the protocol, one after another: DataRow or CopyData.
#[derive(Debug)]
pub struct Rows {
    /// The columns, once the executor has told them.
    pub columns: Vec<ResultColumn>,
    /// Whether the statement gives rows at all; it may give rows without columns.
    pub has_columns: bool,
    /// What is not in the file, which comes before it.
    memory: Vec<u8>,
    file: Option<SpoolFile>,
    count: u64,
    spool: Arc<Spool>,
    /// Rows are CopyData messages, not DataRow ones.
    pub is_copy: bool,
    /// Ends collecting where a file would be needed, which takes time.
    pub in_memory_only: bool,
    /// Whether collecting has ended for that reason.
    pub has_overflowed: bool,
    /// Why collecting has ended early.
    failed: Option<SqlError>,
}

impl Rows {
    pub fn new(spool: &Arc<Spool>) -> Self {
        Self {
            columns: Vec::new(),
            has_columns: false,
            memory: Vec::new(),
            file: None,
            count: 0,
            spool: spool.clone(),
            is_copy: false,
            in_memory_only: false,
            has_overflowed: false,
            failed: None,
        }
    }

    /// How many messages there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Says how many messages there are, where they were added as bytes.
    /// Adds all rows to a hash.
    ///
    /// # Errors
    /// 58030 when what is in a file cannot be read.
    pub fn hash(&self, hasher: &mut impl Hasher) -> Result<(), SqlError> {
        let (mut offset, mut piece) = (0, Vec::new());
        loop {
            piece.clear();
            let read = self.read(offset, HASHED, &mut piece)?;
            if read == 0 {
                return Ok(());
            }
            hasher.write(&piece);
            offset += read as u64;
        }
    }

    pub fn set_count(&mut self, count: u64) {
        self.count = count;
    }

    /// Bytes of all messages.
    pub fn length(&self) -> u64 {
        self.memory.len() as u64 + self.file.as_ref().map_or(0, |file| file.length)
    }

    /// The messages as memory, if none of them is in a file.
    pub fn in_memory(&self) -> Option<&[u8]> {
        self.file.is_none().then_some(&self.memory)
    }

    /// Why not all messages are here. An executor that is told to stop by
    /// [`RowSink::row`] ends as if it were done, so whoever called it asks here.
    ///
    /// # Errors
    /// A bound was reached or the disk failed.
    pub fn check(&mut self) -> Result<(), SqlError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Adds whole messages as another node sent them.
    ///
    /// # Errors
    /// A bound was reached or the disk failed.
    pub fn append(&mut self, messages: &[u8], count: u64) -> Result<(), SqlError> {
        self.count += count;
        self.memory.extend_from_slice(messages);
        self.spill_if_full()
    }

    /// Adds a message with that body.
    pub fn push(&mut self, kind: u8, body: &[&[u8]]) -> ControlFlow<()> {
        let length = 4 + body.iter().map(|part| part.len()).sum::<usize>();
        let Ok(announced) = i32::try_from(length) else {
            self.failed = Some(too_large("a row", i32::MAX as u64));
            return ControlFlow::Break(());
        };
        self.memory.reserve(length + 1);
        self.memory.push(kind);
        self.memory.extend_from_slice(&announced.to_be_bytes());
        body.iter().for_each(|part| self.memory.extend_from_slice(part));
        self.count += 1;
        if self.memory.len() < IN_MEMORY {
            return ControlFlow::Continue(());
        }
        if self.in_memory_only {
            self.has_overflowed = true;
            return ControlFlow::Break(());
        }
        match self.spill_if_full() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn spill_if_full(&mut self) -> Result<(), SqlError> {
        let file_has_begun = self.file.is_some();
        if self.memory.len() < if file_has_begun { WRITE } else { IN_MEMORY } {
            return Ok(());
        }
        self.spill()
    }

    /// Moves what is in memory to the end of the file.
    fn spill(&mut self) -> Result<(), SqlError> {
        let more = self.memory.len() as u64;
        if self.length() > self.spool.per_result {
            return Err(too_large("the result", self.spool.per_result));
        }
        if self.spool.used() + more > self.spool.total {
            return Err(too_large("what all sessions of this node read", self.spool.total));
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile_in(&self.spool.directory).map_err(disk)?;
                self.file.insert(SpoolFile { file, length: 0, spool: self.spool.clone() })
            }
        };
        file.file.write_all(&self.memory).map_err(disk)?;
        file.length += more;
        self.spool.used.fetch_add(more, Ordering::Relaxed);
        self.memory.clear();
        Ok(())
    }

    /// Copies bytes from `offset` on, at most `most`, to the end of `out`. Gives how
    /// many; zero at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, offset: u64, most: usize, out: &mut Vec<u8>) -> Result<usize, SqlError> {
        let in_file = self.file.as_ref().map_or(0, |file| file.length);
        if let Some(file) = &self.file
            && offset < in_file
        {
            let count = most.min((in_file - offset) as usize);
            let start = out.len();
            out.resize(start + count, 0);
            file.file.read_exact_at(&mut out[start..], offset).map_err(disk)?;
            return Ok(count);
        }
        let rest = usize::try_from(offset - in_file).unwrap_or(usize::MAX);
        let rest = self.memory.get(rest..).unwrap_or_default();
        let count = most.min(rest.len());
        out.extend_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl RowSink for Rows {
    fn columns(&mut self, columns: &[ResultColumn]) -> ControlFlow<()> {
        self.columns = columns.to_vec();
        self.has_columns = true;
        ControlFlow::Continue(())
    }

    fn row(&mut self, data: &[u8], fields: usize) -> ControlFlow<()> {
        if self.is_copy {
            return self.push(b'd', &[data]);
        }
        let fields = (fields as u16).to_be_bytes();
        self.push(b'D', &[&fields, data])
    }
}

fn too_large(what: &str, limit: u64) -> SqlError {
    SqlError::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("{what} is larger than the limit of {limit} bytes"),
    )
    .hint("read it in parts, with LIMIT or by ranges of a key")
}

fn disk(error: io::Error) -> SqlError {
    let state = if error.kind() == io::ErrorKind::StorageFull {
        SqlState::DISK_FULL
    } else {
        SqlState::IO_ERROR
    };
    SqlError::new(state, format!("a result that does not fit into memory was not kept: {error}"))
}

/// A place within rows, for portals and cursors that give a few at a time.
#[derive(Debug)]
pub struct RowCursor {
    pub rows: Rows,
    offset: u64,
    /// How many rows were given.
    pub given: u64,
    buffer: Vec<u8>,
    /// Where every [`MARK`]th row begins, as far as the rows were given.
    marks: Vec<u64>,
}

/// Going back reads at most so many rows again.
const MARK: u64 = 64;

impl RowCursor {
    pub fn new(rows: Rows) -> Self {
        Self { rows, offset: 0, given: 0, buffer: Vec::new(), marks: Vec::new() }
    }

    pub fn is_at_end(&self) -> bool {
        self.given == self.rows.count()
    }

    /// The next message as it goes to the client.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self) -> Result<Option<&[u8]>, SqlError> {
        if self.is_at_end() {
            return Ok(None);
        }
        if self.given == self.marks.len() as u64 * MARK {
            self.marks.push(self.offset);
        }
        self.buffer.clear();
        self.read(5)?;
        let length = [self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]];
        let length = i32::from_be_bytes(length) as usize;
        self.read(length - 4)?;
        self.given += 1;
        Ok(Some(&self.buffer))
    }

    /// Goes to a row that was given already or is still to come, by its number from
    /// 0, at most the number of rows.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn seek(&mut self, number: u64) -> Result<(), SqlError> {
        if number < self.given {
            let mark = number / MARK;
            self.offset = self.marks[mark as usize];
            self.given = mark * MARK;
        }
        while self.given < number && self.next()?.is_some() {}
        Ok(())
    }

    fn read(&mut self, count: usize) -> Result<(), SqlError> {
        let end = self.buffer.len() + count;
        while self.buffer.len() < end {
            let most = end - self.buffer.len();
            let read = self.rows.read(self.offset, most, &mut self.buffer)?;
            if read == 0 {
                return Err(SqlError::new(SqlState::INTERNAL, "a kept result ends within a row"));
            }
            self.offset += read as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(per_result: u64) -> Arc<Spool> {
        Spool::new(std::env::temp_dir(), per_result, per_result * 2)
    }

    #[test]
    fn rows_come_back_in_order_from_memory_and_file() {
        let spool = spool(1 << 30);
        let mut rows = Rows::new(&spool);
        for number in 0..20_000u32 {
            let text = format!("{number:050}");
            assert!(rows.row(text.as_bytes(), 1).is_continue());
        }
        assert!(spool.used() > 0 && rows.in_memory().is_none());
        assert!(rows.memory.capacity() <= 4 * IN_MEMORY);
        let mut cursor = RowCursor::new(rows);
        for number in 0..20_000u32 {
            let row = cursor.next().unwrap().unwrap();
            assert!(row.ends_with(format!("{number:050}").as_bytes()));
        }
        assert!(cursor.next().unwrap().is_none());
        drop(cursor);
        assert_eq!(spool.used(), 0);
    }

    #[test]
    fn a_result_over_the_bound_ends_with_an_error() {
        let mut rows = Rows::new(&spool(1 << 20));
        let row = [7; 4096];
        while rows.row(&row, 1).is_continue() {}
        assert_eq!(rows.check().unwrap_err().state, SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        assert!(rows.length() < 2 << 20);
    }
}
