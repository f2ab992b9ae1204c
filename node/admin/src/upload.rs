//! Takes an uploaded bundle to a file, piece by piece.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use rung_proto::{Code, Failure};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::session::random_text;

const PREFIX: &str = "upload-";

/// Twice the largest bundle; who sends more does not listen.
const MAX_DISCARDED_BYTES: u64 = 1024 * 1024 * 1024;
/// A client of this machine that is still sending does so without pauses.
const DISCARD_PATIENCE: Duration = Duration::from_secs(1);

/// A file that is removed when nobody wants it any more.
pub struct Upload {
    path: PathBuf,
}

impl Upload {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // It may have been moved to where bundles are stored.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the directory and removes what an earlier process left half uploaded.
///
/// # Errors
/// Those of the file system.
pub fn prepare(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a body of at most `limit` bytes to a new file.
///
/// # Errors
/// [`Code::InvalidBundle`] when it is larger, [`Code::Usage`] when the client
/// stops sending for longer than `stalled`, and those of the disk.
pub async fn receive(
    directory: &Path,
    body: &mut Incoming,
    limit: u64,
    stalled: Duration,
) -> Result<Upload, Failure> {
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    let path = directory.join(format!("{PREFIX}{}", random_text()));
    let mut file = create(&path).await.map_err(disk)?;
    let upload = Upload { path };
    let mut size = 0;
    loop {
        let frame = tokio::time::timeout(stalled, body.frame()).await.map_err(|_| {
            Failure::new(Code::Usage, "the bundle was not received")
                .because(format!("nothing came for {} s", stalled.as_secs()))
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            Failure::new(Code::Usage, "the bundle was not received").because(error)
        })?;
        let Ok(bytes) = frame.into_data() else { continue };
        size += bytes.len() as u64;
        if size > limit {
            return Err(too_large(limit));
        }
        file.write_all(&bytes).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok(upload)
}

/// Reads and drops what is left of a refused body. A client that is still sending
/// would otherwise see a broken connection instead of the refusal.
pub async fn discard(body: &mut Incoming) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_PATIENCE, body.frame()).await {
        let size = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

async fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
}

fn too_large(limit: u64) -> Failure {
    Failure::new(Code::InvalidBundle, "the bundle is too large")
        .because(format!("at most {} MiB are taken", limit / (1024 * 1024)))
        .next("leave out what the app does not need, see .rungignore")
}

fn disk(error: io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::DiskFailed,
    };
    Failure::new(code, "the bundle was not stored").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_half_uploaded_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("uploads");
        prepare(&directory).unwrap();
        std::fs::write(directory.join("upload-1"), "half").unwrap();
        std::fs::write(directory.join("other"), "mine").unwrap();
        prepare(&directory).unwrap();
        assert!(!directory.join("upload-1").exists());
        assert!(directory.join("other").exists());
    }
}
