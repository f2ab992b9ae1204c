//! The unpacked releases on this node, one directory for each bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rung_bundle::Store;
use rung_proto::Digest;
use tokio::time::timeout;

use crate::Fetch;

/// How long fetching a bundle from a peer may take.
const FETCH: Duration = Duration::from_secs(300);

pub(crate) struct Releases {
    dir: PathBuf,
    store: Store,
    fetch: Fetch,
    /// One at a time for each bundle; the others wait and find it done.
    busy: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Releases {
    /// Removes what an interrupted start left. The directory must exist.
    pub fn open(dir: PathBuf, store: Store, fetch: Fetch) -> io::Result<Self> {
        rung_bundle::store::remove_temporaries(&dir)?;
        Ok(Self { dir, store, fetch, busy: Mutex::new(BTreeMap::new()) })
    }

    /// The directory of a release, fetched and unpacked if need be.
    pub async fn ready(&self, digest: Digest) -> Result<PathBuf, String> {
        let turn = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(busy.entry(digest).or_default())
        };
        let _turn = turn.lock().await;
        let target = self.dir.join(digest.to_string());
        if target.is_dir() {
            return Ok(target);
        }
        if !self.store.has(digest) {
            let fetched = timeout(FETCH, (self.fetch)(digest)).await;
            let limit = FETCH.as_secs();
            fetched
                .unwrap_or_else(|_| Err(format!("no answer within {limit} s")))
                .map_err(|why| format!("the bundle {digest} could not be fetched: {why}"))?;
        }
        let (store, path) = (self.store.clone(), target.clone());
        tokio::task::spawn_blocking(move || store.unpack(digest, &path))
            .await
            .map_err(|error| format!("unpacking the bundle was interrupted: {error}"))?
            .map_err(|error| format!("the bundle {digest} could not be unpacked: {error}"))?;
        Ok(target)
    }

    /// Removes the releases that nobody uses. Blocks on the disk.
    pub fn gc(&self, keep: &BTreeSet<Digest>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let digest: Option<Digest> =
                entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(digest) = digest.filter(|digest| !keep.contains(digest)) else {
                continue;
            };
            let idle = {
                let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
                busy.get(&digest).is_none_or(|turn| turn.try_lock().is_ok())
            };
            if idle {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}
