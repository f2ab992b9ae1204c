//! Short forms of what every test does.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rung_wal::disk::{RealDisk, SimDisk};
use rung_wal::{Driver, GroupId, LogEntry, Recovery, Wal, WalConfig, Write};

pub const DIR: &str = "/node/log";

pub fn entry(index: u64, term: u64, payload: impl Into<Bytes>) -> LogEntry {
    LogEntry { index, header: term, payload: payload.into() }
}

/// Entries of term 1 with these indices, each with its index as text.
pub fn append(indices: std::ops::RangeInclusive<u64>) -> Write {
    let entries = indices.map(|index| entry(index, 1, format!("entry {index}"))).collect();
    Write::Append { entries }
}

pub fn meta(key: u8, value: &'static str) -> Write {
    Write::SetMeta { key, value: Bytes::from(value) }
}

/// Small segments, driven by hand.
pub fn sim_config() -> WalConfig {
    let mut config = WalConfig::new(DIR);
    config.segment_bytes = 64 << 10;
    config.max_record_bytes = 16 << 10;
    config.cache_bytes = 4 << 10;
    config.driver = Driver::Manual;
    config
}

pub fn open_sim(disk: &SimDisk) -> (Wal, Recovery) {
    Wal::open(Arc::new(disk.for_process()), sim_config()).expect("the log opens")
}

pub fn real_config(dir: &Path) -> WalConfig {
    let mut config = WalConfig::new(dir);
    config.segment_bytes = 1 << 20;
    config.max_record_bytes = 256 << 10;
    config
}

pub fn open_real(dir: &Path) -> (Wal, Recovery) {
    Wal::open(Arc::new(RealDisk), real_config(dir)).expect("the log opens")
}

/// Runs a future that needs no timer and no other task.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the future is not ready"),
    }
}

/// Everything that the log has of a group.
pub fn read_all(wal: &Wal, group: GroupId) -> Vec<LogEntry> {
    ready(wal.read(group, 0..u64::MAX, usize::MAX)).expect("the entries can be read")
}
