//! Opening a log whose segments hold arbitrary records with right checksums: it
//! opens or says why not, and what it repaired once opens the same again.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rung_fuzz::checksums::{wal_preamble, wal_record};
use rung_wal::disk::{Disk, DiskFile, SimDisk};
use rung_wal::{Driver, Recovery, Wal, WalConfig};

const SEGMENT_BYTES: usize = 64 << 10;
const LOG_ID: u64 = 7;

// Records: a byte for what to do, one for the length, the body.
fuzz_target!(|input: &[u8]| {
    let disk = SimDisk::new(1);
    let dir = Path::new("/log");
    let written = write_segments(&disk, dir, input);
    if written.is_err() {
        return;
    }
    if let Some(first) = open(&disk, dir) {
        let again = open(&disk, dir).expect("it opened a moment ago");
        assert_eq!(again.groups, first.groups);
        assert_eq!(again.torn, None, "it was cut off already");
        let damaged = |recovery: &Recovery| recovery.corruption.clone().map(|c| c.groups);
        assert_eq!(damaged(&again), damaged(&first), "damage is reported until it is repaired");
    }
});

fn open(disk: &SimDisk, dir: &Path) -> Option<Recovery> {
    let config = WalConfig {
        segment_bytes: SEGMENT_BYTES as u64,
        max_record_bytes: 8 << 10,
        max_queue_bytes: 1 << 20,
        cache_bytes: 1 << 20,
        driver: Driver::Manual,
        ..WalConfig::new(dir)
    };
    let (_wal, recovery) = Wal::open(Arc::new(disk.for_process()), config).ok()?;
    Some(recovery)
}

/// One segment being filled.
struct Filling {
    id: u64,
    bytes: Vec<u8>,
    batch: u64,
}

fn write_segments(disk: &SimDisk, dir: &Path, mut input: &[u8]) -> std::io::Result<()> {
    disk.create_dir(dir)?;
    let start = |id| Filling { id, bytes: wal_preamble(1, LOG_ID, id), batch: 0 };
    let mut filling = start(1);
    while let [what, length, rest @ ..] = input {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        input = rest;
        match what % 8 {
            // Bytes as they are: a torn or damaged place.
            7 => filling.bytes.extend_from_slice(body),
            6 if filling.id < 4 => {
                let next = start(filling.id + 1);
                finish(disk, dir, std::mem::replace(&mut filling, next))?;
            }
            5 => {
                filling.batch += 1;
                let body = b"\x01rungwal\0\x10\0\0\0\0\0\0";
                put(&mut filling, body);
            }
            _ => put(&mut filling, body),
        }
    }
    finish(disk, dir, filling)
}

fn put(filling: &mut Filling, body: &[u8]) {
    let offset = filling.bytes.len() as u64;
    filling.bytes.extend(wal_record(LOG_ID, filling.id, offset, filling.batch, body));
}

fn finish(disk: &SimDisk, dir: &Path, mut filling: Filling) -> std::io::Result<()> {
    filling.bytes.truncate(SEGMENT_BYTES);
    let file: Arc<dyn DiskFile> =
        disk.create(&dir.join(format!("{:016x}.wal", filling.id)), SEGMENT_BYTES as u64)?;
    file.write_at(0, &filling.bytes)?;
    file.sync()?;
    disk.sync_dir(dir)
}
