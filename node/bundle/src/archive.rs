//! The archive inside a bundle, read as if its author were hostile.
//!
//! A strict profile of tar, which is all that [`mod@crate::pack`] writes: regular
//! files, directories and symbolic links in ustar headers, with GNU long names
//! (`L`, `K`) where a path does not fit. Pax headers, hard links, devices,
//! sparse files and everything else are refused, so there is one way to name an
//! entry and no way to name it twice. A directory comes before what is in it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use rung_proto::{Code, Failure};

use crate::manifest::{self, Manifest, ManifestError, parse_manifest};

/// Longest path of an entry, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;
const MAX_COMPONENT_BYTES: usize = 255;
const MAX_DEPTH: usize = 64;
/// All paths together; they are kept in memory while an archive is read.
const MAX_ALL_PATHS_BYTES: usize = 16 * 1024 * 1024;
/// A window larger than this is refused; the level that we pack with needs 2 MiB.
const MAX_WINDOW_LOG: u32 = 23;
/// Below this size the ratio is not looked at: a page of zeros compresses well.
const RATIO_FLOOR: u64 = 64 * 1024 * 1024;

/// What an archive may cost. Sizes are in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Compressed.
    pub compressed: u64,
    /// Decompressed, headers and padding included.
    pub decompressed: u64,
    /// Files, directories and links.
    pub entries: usize,
    /// Decompressed bytes for each compressed byte, once there are 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed: 512 * 1024 * 1024,
            decompressed: 2 * 1024 * 1024 * 1024,
            entries: 50_000,
            ratio: 500,
        }
    }
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{path:?}: {why}")]
    Entry { path: String, why: &'static str },
    #[error("{path:?} is a {kind}; a bundle holds files, directories and symbolic links only")]
    Kind { path: String, kind: &'static str },
    #[error("the link {path:?} points to {target:?}, which may lead outside the app's folder")]
    LinkEscapes { path: String, target: String },
    #[error("the bundle exceeds the limit of {limit} {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("the bundle is damaged: {0}")]
    Damaged(#[source] io::Error),
    #[error("the bundle is not the one that was asked for: its hash is {got}")]
    WrongDigest { got: rung_proto::Digest },
    #[error("there is no rung.toml at the top of the bundle")]
    NoManifest,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Manifest(error) => error.into(),
            ArchiveError::Write { .. } => {
                Failure::new(Code::DiskFailed, "a bundle could not be unpacked").because(error)
            }
            _ => Failure::new(Code::InvalidBundle, "the bundle cannot be used")
                .because(error)
                .next("pack the folder again with `ctl deploy`"),
        }
    }
}

/// One entry, already checked. Paths are relative, with single slashes, and have
/// no `.` or `..`; parents were visited before.
pub enum Item<'a> {
    Directory {
        path: &'a str,
    },
    File {
        path: &'a str,
        executable: bool,
        content: &'a mut dyn Read,
    },
    /// The target stays inside the folder whatever links it passes.
    Symlink {
        path: &'a str,
        target: &'a str,
    },
}

/// What an archive holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    pub manifest: Manifest,
    /// Files, directories and links.
    pub entries: usize,
    /// Bytes of all files.
    pub file_bytes: u64,
}

/// Reads a bundle to its end without writing anything.
///
/// # Errors
/// When it would not unpack, or its manifest is not usable.
pub fn inspect<R: Read>(bundle: R, limits: &Limits) -> Result<Summary, ArchiveError> {
    visit(bundle, limits, &mut |item| {
        if let Item::File { content, .. } = item {
            io::copy(content, &mut io::sink()).map_err(ArchiveError::Damaged)?;
        }
        Ok(())
    })
}

/// Reads a bundle to its end and shows each entry to `sink`, which must read
/// the content of files. The manifest is parsed on the way.
///
/// # Errors
/// The first thing that is wrong, or the first error of `sink`.
pub fn visit<R: Read>(
    bundle: R,
    limits: &Limits,
    sink: &mut dyn FnMut(Item<'_>) -> Result<(), ArchiveError>,
) -> Result<Summary, ArchiveError> {
    let meter = Rc::new(Meter { limits: *limits, compressed: Cell::new(0), hit: Cell::new(None) });
    let compressed = Metered { inner: bundle, meter: Rc::clone(&meter), side: Side::Compressed };
    let result = visit_metered(compressed, &meter, sink);
    // A limit surfaces as an I/O error somewhere inside tar or zstd; say which.
    match (result, meter.hit.get()) {
        (Err(_), Some((what, limit))) => Err(ArchiveError::TooLarge { what, limit }),
        (result, _) => result,
    }
}

fn visit_metered<R: Read>(
    compressed: Metered<R>,
    meter: &Rc<Meter>,
    sink: &mut dyn FnMut(Item<'_>) -> Result<(), ArchiveError>,
) -> Result<Summary, ArchiveError> {
    let mut decoder = zstd::Decoder::new(compressed).map_err(ArchiveError::Damaged)?.single_frame();
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(ArchiveError::Damaged)?;
    let side = Side::Decompressed { total: 0 };
    let plain = Metered { inner: decoder, meter: Rc::clone(meter), side };
    let mut archive = tar::Archive::new(plain);
    let mut walk = Walk::new(meter.limits.entries);
    for entry in archive.entries().map_err(ArchiveError::Damaged)?.raw(true) {
        walk.entry(&mut entry.map_err(ArchiveError::Damaged)?, sink)?;
    }
    if walk.long_path.is_some() || walk.long_target.is_some() {
        return Err(entry_error("", "a long name belongs to no entry"));
    }
    expect_only_zeros(&mut archive.into_inner())?;
    let manifest = walk.manifest.ok_or(ArchiveError::NoManifest)?;
    Ok(Summary { manifest, entries: walk.seen.len(), file_bytes: walk.file_bytes })
}

/// What follows the end marker is padding; anything else was hidden there.
fn expect_only_zeros(rest: &mut dyn Read) -> Result<(), ArchiveError> {
    let mut buffer = [0; 8192];
    loop {
        let count = rest.read(&mut buffer).map_err(ArchiveError::Damaged)?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Err(entry_error("", "there is data after the end of the archive"));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Leaf,
}

/// The state of a walk over the entries of one archive.
struct Walk {
    max_entries: usize,
    seen: BTreeMap<String, Kind>,
    path_bytes: usize,
    file_bytes: u64,
    long_path: Option<String>,
    long_target: Option<String>,
    manifest: Option<Manifest>,
}

impl Walk {
    fn new(max_entries: usize) -> Self {
        Self {
            max_entries,
            seen: BTreeMap::new(),
            path_bytes: 0,
            file_bytes: 0,
            long_path: None,
            long_target: None,
            manifest: None,
        }
    }

    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        sink: &mut dyn FnMut(Item<'_>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            return hold_long_name(&mut self.long_path, entry);
        }
        if kind.is_gnu_longlink() {
            return hold_long_name(&mut self.long_target, entry);
        }
        let path = match self.long_path.take() {
            Some(path) => path,
            None => text(&entry.header().path_bytes())?,
        };
        let long_target = self.long_target.take();
        if !kind.is_symlink() && long_target.is_some() {
            return Err(entry_error(&path, "a long link target belongs to no link"));
        }
        if !kind.is_file() && entry.size() != 0 {
            return Err(entry_error(&path, "only files have content"));
        }
        if kind.is_dir() {
            let path = path.strip_suffix('/').unwrap_or(&path);
            self.admit(path, Kind::Directory)?;
            sink(Item::Directory { path })
        } else if kind.is_symlink() {
            self.admit(&path, Kind::Leaf)?;
            let target = match long_target {
                Some(target) => target,
                None => text(&entry.header().link_name_bytes().unwrap_or_default())?,
            };
            check_link(&path, &target)?;
            sink(Item::Symlink { path: &path, target: &target })
        } else if kind.is_file() {
            self.admit(&path, Kind::Leaf)?;
            self.file(&path, entry, sink)
        } else {
            Err(ArchiveError::Kind { path, kind: kind_name(kind) })
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &str,
        entry: &mut tar::Entry<'_, R>,
        sink: &mut dyn FnMut(Item<'_>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mode = entry.header().mode().map_err(ArchiveError::Damaged)?;
        let size = entry.size();
        self.file_bytes = self.file_bytes.saturating_add(size);
        let executable = mode & 0o111 != 0;
        let mut held = Vec::new();
        if path == manifest::FILE_NAME {
            if size > manifest::MAX_BYTES as u64 {
                return Err(entry_error(path, "the manifest is longer than 64 KiB"));
            }
            entry.read_to_end(&mut held).map_err(ArchiveError::Damaged)?;
            let text = std::str::from_utf8(&held)
                .map_err(|_| entry_error(path, "the manifest is not UTF-8"))?;
            self.manifest = Some(parse_manifest(text)?);
        }
        let mut chain = Read::chain(held.as_slice(), &mut *entry);
        let mut content = Exact { inner: &mut chain, left: size };
        sink(Item::File { path, executable, content: &mut content })
    }

    /// Checks the path of a new entry and remembers it.
    fn admit(&mut self, path: &str, kind: Kind) -> Result<(), ArchiveError> {
        check_path(path)?;
        if let Some((parent, _)) = path.rsplit_once('/') {
            match self.seen.get(parent) {
                Some(Kind::Directory) => {}
                Some(Kind::Leaf) => return Err(entry_error(path, "its parent is no directory")),
                None => return Err(entry_error(path, "its directory does not come before it")),
            }
        }
        self.path_bytes += path.len();
        if self.seen.len() >= self.max_entries || self.path_bytes > MAX_ALL_PATHS_BYTES {
            return Err(ArchiveError::TooLarge { what: "entries", limit: self.max_entries as u64 });
        }
        if self.seen.insert(path.to_owned(), kind).is_some() {
            return Err(entry_error(path, "it occurs twice"));
        }
        Ok(())
    }
}

/// Reads the content of a GNU `L` or `K` entry, which names the entry after it.
fn hold_long_name<R: Read>(
    slot: &mut Option<String>,
    entry: &mut tar::Entry<'_, R>,
) -> Result<(), ArchiveError> {
    if slot.is_some() {
        return Err(entry_error("", "an entry has two long names"));
    }
    if entry.size() > MAX_PATH_BYTES as u64 + 1 {
        return Err(entry_error("", "a name is longer than 1024 bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ArchiveError::Damaged)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    *slot = Some(text(&bytes)?);
    Ok(())
}

fn kind_name(kind: tar::EntryType) -> &'static str {
    match kind {
        tar::EntryType::Link => "hard link",
        tar::EntryType::Char | tar::EntryType::Block => "device",
        tar::EntryType::Fifo => "fifo",
        tar::EntryType::GNUSparse => "sparse file",
        tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => "pax header",
        _ => "entry of an unknown kind",
    }
}

fn entry_error(path: &str, why: &'static str) -> ArchiveError {
    ArchiveError::Entry { path: path.to_owned(), why }
}

fn text(bytes: &[u8]) -> Result<String, ArchiveError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let path = String::from_utf8_lossy(bytes).into_owned();
            Err(ArchiveError::Entry { path, why: "the name is not UTF-8" })
        }
    }
}

/// Whether a path stays beneath the folder and is spelt in the one way.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_path(path: &str) -> Result<(), ArchiveError> {
    let why = if path.is_empty() {
        "the name is empty"
    } else if path.len() > MAX_PATH_BYTES {
        "the name is longer than 1024 bytes"
    } else if path.contains(|c: char| c.is_control()) {
        "the name has control characters"
    } else if path.starts_with('/') {
        "the name is absolute"
    } else if path.split('/').any(|part| part == "..") {
        "the name contains \"..\""
    } else if path.split('/').any(|part| part.is_empty() || part == ".") {
        "the name has an empty or \".\" component"
    } else if path.split('/').any(|part| part.len() > MAX_COMPONENT_BYTES) {
        "a component is longer than 255 bytes"
    } else if path.split('/').count() > MAX_DEPTH {
        "it is more than 64 directories deep"
    } else {
        return Ok(());
    };
    Err(ArchiveError::Entry { path: path.to_owned(), why })
}

/// Whether the link at `path` stays inside the folder.
///
/// `..` may only stand at the start of the target. There it walks up from the
/// link's own directory, which is a real one, so counting is exact; after
/// another component it would walk up from wherever that one leads.
///
/// # Errors
/// When it does not, or may not.
pub fn check_link(path: &str, target: &str) -> Result<(), ArchiveError> {
    let depth = path.split('/').count() - 1;
    let ups = target.split('/').take_while(|part| *part == "..").count();
    let inside = ups <= depth
        && !target.starts_with('/')
        && target.split('/').skip(ups).all(|part| !matches!(part, "" | "." | ".."))
        && !target.is_empty()
        && target.len() <= MAX_PATH_BYTES
        && !target.contains(|c: char| c.is_control());
    if inside {
        return Ok(());
    }
    Err(ArchiveError::LinkEscapes { path: path.to_owned(), target: target.to_owned() })
}

/// Fails where the content of a file ends early, instead of leaving it short.
struct Exact<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if count == 0 && !buffer.is_empty() && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }
}

/// Counts on both sides of the decompressor.
struct Meter {
    limits: Limits,
    compressed: Cell<u64>,
    hit: Cell<Option<(&'static str, u64)>>,
}

impl Meter {
    fn exceed(&self, what: &'static str, limit: u64) -> io::Error {
        self.hit.set(Some((what, limit)));
        io::Error::other(what)
    }
}

enum Side {
    Compressed,
    Decompressed { total: u64 },
}

struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
    side: Side,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let limits = &self.meter.limits;
        match &mut self.side {
            Side::Compressed => {
                let total = self.meter.compressed.get().saturating_add(count as u64);
                self.meter.compressed.set(total);
                if total > limits.compressed {
                    return Err(self.meter.exceed("compressed bytes", limits.compressed));
                }
            }
            Side::Decompressed { total } => {
                *total = total.saturating_add(count as u64);
                if *total > limits.decompressed {
                    return Err(self.meter.exceed("bytes", limits.decompressed));
                }
                let allowed = self.meter.compressed.get().saturating_mul(limits.ratio);
                if *total > RATIO_FLOOR && *total > allowed {
                    let what = "bytes for each compressed byte";
                    return Err(self.meter.exceed(what, limits.ratio));
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
