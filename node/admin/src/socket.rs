//! The unix socket in the data directory, whatever the length of its path.
//!
//! The kernel takes at most 107 bytes of path, and data directories may be
//! longer. So the directory is opened and the socket is addressed through
//! `/proc/self/fd/N/`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The name of the socket in the data directory.
pub const FILE_NAME: &str = "admin.sock";

const BACKLOG: i32 = 128;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another process answers on {path}; stop it first")]
    InUse { path: PathBuf },
    #[error("{path} is not a socket; move it away")]
    NotASocket { path: PathBuf },
    #[error("cannot listen on {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Makes and listens on the socket of a directory, for its owner only. A socket
/// that nobody listens on any more is replaced.
///
/// # Errors
/// When another process listens on it, when something that is no socket has its
/// name, and when the directory cannot be used.
pub fn listen(directory: &Path) -> Result<UnixListener, SocketError> {
    let path = directory.join(FILE_NAME);
    let failed = |source: io::Error| SocketError::Io { path: path.clone(), source };
    let opened = open_directory(directory).map_err(failed)?;
    remove_stale(&opened, &path)?;
    listen_in(&opened).map_err(failed)
}

/// Connects to the socket of a directory.
///
/// # Errors
/// Those of opening the directory and of `connect(2)`: `NotFound` and
/// `ConnectionRefused` mean that no node runs there.
pub fn connect(directory: &Path) -> io::Result<UnixStream> {
    let opened = open_directory(directory)?;
    UnixStream::connect(path_through(&opened))
}

/// Removes the socket of a directory.
///
/// # Errors
/// Those of `unlink(2)`.
pub fn remove(directory: &Path) -> io::Result<()> {
    let opened = open_directory(directory)?;
    Ok(rustix::fs::unlinkat(&opened, FILE_NAME, AtFlags::empty())?)
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

fn path_through(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{FILE_NAME}", directory.as_raw_fd()))
}

fn remove_stale(directory: &OwnedFd, path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
    let found = match rustix::fs::statat(directory, FILE_NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    if UnixStream::connect(path_through(directory)).is_ok() {
        return Err(SocketError::InUse { path: path.to_owned() });
    }
    rustix::fs::unlinkat(directory, FILE_NAME, AtFlags::empty()).map_err(|e| failed(e.into()))
}

fn listen_in(directory: &OwnedFd) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, so that it never exists with
    // a wider one; the second call is for file systems that do otherwise. Nobody
    // can connect before `listen`.
    let owner_only = Mode::RUSR | Mode::WUSR;
    rustix::fs::fchmod(&socket, owner_only)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path_through(directory))?)?;
    rustix::fs::chmodat(directory, FILE_NAME, owner_only, AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_works_in_a_directory_whose_path_is_too_long_for_one() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let _listener = listen(&deep).unwrap();
        connect(&deep).unwrap();
        let mode = fs::metadata(deep.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        remove(&deep).unwrap();
        assert_eq!(connect(&deep).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let first = listen(root.path()).unwrap();
        assert!(matches!(listen(root.path()), Err(SocketError::InUse { .. })));
        drop(first);
        assert_eq!(connect(root.path()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _second = listen(root.path()).unwrap();
        connect(root.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(FILE_NAME), "mine").unwrap();
        assert!(matches!(listen(root.path()), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(root.path().join(FILE_NAME)).unwrap(), "mine");
    }
}
