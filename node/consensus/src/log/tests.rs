use std::path::PathBuf;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rung_wal::disk::RealDisk;
use rung_wal::{Driver, WalConfig};
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::replica::{InUse, Replica};
use crate::snapshot_store::SnapshotStore;
use crate::state_machine::{Committed, SnapshotSource, StateMachine};

const GROUP: GroupId = GroupId(1);

/// A state machine that keeps nothing.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        Ok(entries.iter().map(|_| Bytes::new()).collect())
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        Ok(Box::new(io::empty()))
    }

    fn restore(&mut self, source: &mut dyn io::Read) -> io::Result<()> {
        io::copy(source, &mut io::sink()).map(drop)
    }
}

fn wal_config(dir: PathBuf, driver: Driver) -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, max_record_bytes: 64 << 10, driver, ..WalConfig::new(dir) }
}

struct Builder {
    driver: Driver,
}

impl StoreBuilder<Types, GroupLog, Replica, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, GroupLog, Replica), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let config = wal_config(dir.path().join("wal"), self.driver);
        let (wal, _) = Wal::open(Arc::new(RealDisk), config).unwrap();
        let log = GroupLog::open(wal, GROUP, 1 << 20).await.unwrap();
        let store = SnapshotStore::open(Arc::new(RealDisk), dir.path().join("snapshots"), GROUP);
        let replica = Replica::new(
            Box::new(Nothing),
            log.clone(),
            store.unwrap(),
            u64::MAX,
            Arc::new(Notify::new()),
            Arc::new(Semaphore::new(1)),
            InUse::default(),
        );
        Ok((dir, log, replica.unwrap()))
    }
}

#[test]
fn the_store_passes_the_suite_of_the_protocol_library() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        Suite::test_all(Builder { driver: Driver::Threads }).await.unwrap();
    });
}

#[test]
fn the_store_passes_the_suite_on_one_thread_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driver = Driver::Task { delay: std::time::Duration::ZERO };
        Suite::test_all(Builder { driver }).await.unwrap();
    });
}
