//! Durable records of 288 bytes: one caller with 1, 100 and 500 a call, and 64
//! callers with one each. Prints records a second and the time of a call.
//!
//! `cargo bench -p rung-wal`, about 10 seconds, in the system's directory for
//! temporary files (`TMPDIR`), which must be on a real disk to mean anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_wal::disk::RealDisk;
use rung_wal::{GroupId, LogEntry, Wal, WalConfig, Write};

const RECORD_BYTES: usize = 288;
const EACH: Duration = Duration::from_secs(2);
const KEEP: u64 = 1000;
const PURGE_EVERY: u64 = 20_000;

fn main() {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for (callers, size) in [(1, 1), (1, 100), (1, 500), (64, 1), (64, 10)] {
        let path = dir.path().join(format!("{callers}-{size}"));
        let (wal, _) = Wal::open(Arc::new(RealDisk), WalConfig::new(path)).expect("the log opens");
        let started = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|group| runtime.spawn(call(wal.clone(), GroupId(group), size, started)))
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(runtime.block_on(task).expect("the caller ends"));
        }
        let took = started.elapsed();
        let stats = wal.stats();
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{callers:3} callers, {size:3} records a call: {:9.0} records/s, p50 {:7.1?}, p99 {:7.1?}, \
             p100 {:7.1?}, {:.1} calls a sync, {} segments",
            times.len() as f64 * size as f64 / took.as_secs_f64(),
            at(50),
            at(99),
            at(100),
            stats.writes as f64 / stats.syncs.count().max(1) as f64,
            stats.segments,
        );
        wal.close();
    }
}

async fn call(wal: Wal, group: GroupId, size: u64, started: Instant) -> Vec<Duration> {
    let payload = Bytes::from(vec![7; RECORD_BYTES]);
    let mut times = Vec::new();
    let mut next = 0;
    while started.elapsed() < EACH {
        let begun = Instant::now();
        let entry = |index| LogEntry { index, header: 1, payload: payload.clone() };
        let mut writes = vec![Write::Append { entries: (next..next + size).map(entry).collect() }];
        next += size;
        if next % PURGE_EVERY < size && next > KEEP {
            writes.push(Write::PurgeTo { index: next - KEEP });
        }
        wal.write(group, writes).await.expect("the write is durable");
        times.push(begun.elapsed());
    }
    times
}
