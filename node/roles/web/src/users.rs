//! As which user an app runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The user that owns nothing, on every Linux.
const NOBODY: u32 = 65_534;
/// The range that [`UserPolicy::detect`] takes: above the users of people and of
/// systemd's services, below those of containers.
const FIRST: u32 = 470_000;
const COUNT: u32 = 1000;

/// As which user apps run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserPolicy {
    /// As the node's own; all that is possible without root.
    Same,
    /// All apps as one user and group.
    Fixed { uid: u32, gid: u32 },
    /// Each app as one of its own, with a group of the same number.
    PerApp { first: u32, count: u32 },
}

impl UserPolicy {
    /// The strictest that this process can do: one user per app as root, nobody
    /// where the user namespace is too small for that, else its own user.
    pub fn detect() -> Self {
        if !rustix::process::geteuid().is_root() {
            return UserPolicy::Same;
        }
        let mapped = |path| {
            let map = fs::read_to_string(path).unwrap_or_default();
            is_mapped(&map, FIRST + COUNT - 1)
        };
        if mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") {
            UserPolicy::PerApp { first: FIRST, count: COUNT }
        } else {
            UserPolicy::Fixed { uid: NOBODY, gid: NOBODY }
        }
    }
}

/// Whether a user namespace, described as in `/proc/self/uid_map`, has this id.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => {
                (inside..inside.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Who got which user; kept in a file, so that an app keeps its own.
#[derive(Debug)]
pub(crate) struct Users {
    policy: UserPolicy,
    path: PathBuf,
    taken: Mutex<BTreeMap<String, u32>>,
}

impl Users {
    pub fn open(policy: UserPolicy, path: PathBuf) -> io::Result<Self> {
        let taken = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { policy, path, taken: Mutex::new(taken) })
    }

    /// User and group of an app; `None` stands for the node's own.
    pub fn of(&self, app: &str) -> io::Result<Option<(u32, u32)>> {
        match self.policy {
            UserPolicy::Same => Ok(None),
            UserPolicy::Fixed { uid, gid } => Ok(Some((uid, gid))),
            UserPolicy::PerApp { first, count } => {
                let uid = self.assign(app, first, count)?;
                Ok(Some((uid, uid)))
            }
        }
    }

    fn assign(&self, app: &str, first: u32, count: u32) -> io::Result<u32> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let range = first..first.saturating_add(count);
        if let Some(uid) = taken.get(app).filter(|uid| range.contains(uid)) {
            return Ok(*uid);
        }
        let free = range.clone().find(|uid| !taken.values().any(|used| used == uid));
        let uid = free.ok_or_else(|| {
            io::Error::other(format!(
                "all {count} users for apps are taken; remove {:?} to start over",
                self.path
            ))
        })?;
        taken.insert(app.to_owned(), uid);
        let temporary = self.path.with_extension("tmp");
        fs::write(&temporary, serde_json::to_vec(&*taken).map_err(io::Error::other)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        Ok(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_app_has_a_user_of_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.json");
        let policy = UserPolicy::PerApp { first: 500, count: 2 };
        let users = Users::open(policy, path.clone()).unwrap();
        assert_eq!(users.of("a").unwrap(), Some((500, 500)));
        assert_eq!(users.of("b").unwrap(), Some((501, 501)));
        let again = Users::open(policy, path).unwrap();
        assert_eq!(again.of("b").unwrap(), Some((501, 501)));
        assert!(again.of("c").is_err());
    }

    #[test]
    fn a_small_user_namespace_is_noticed() {
        assert!(is_mapped("         0          0 4294967295\n", 470_999));
        assert!(!is_mapped("         0     100000      65536\n", 470_999));
        assert!(!is_mapped("nonsense", 0));
    }
}
