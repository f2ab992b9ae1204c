//! Bundles: what `inspect` says is what `unpack` does, and `unpack` touches
//! nothing but the directory that it was given.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rung_bundle::archive::{ArchiveError, Limits, inspect};
use rung_bundle::unpack;
use rung_fuzz::checksums::{fix_tar, zstd_frame};
use tempfile::TempDir;

/// Unpacking flushes the file system, so the script sets `TMPDIR` to one in
/// memory; it also removes it.
static PLACE: LazyLock<TempDir> = LazyLock::new(|| {
    let place = tempfile::tempdir();
    let place = place.expect("a directory to unpack in");
    fs::write(place.path().join("canary"), "canary").expect("a canary");
    fs::create_dir(place.path().join("in")).expect("a directory");
    fs::write(place.path().join("in/canary"), "canary").expect("a canary");
    place
});

const LIMITS: Limits =
    Limits { compressed: 1 << 20, decompressed: 8 << 20, entries: 60, ratio: 500 };

// The first byte chooses what the rest is: a bundle, a tar archive, or a list
// of entries to make one of.
fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let bundle = match choice % 4 {
        0 => rest.to_vec(),
        1 => {
            let mut archive = rest.to_vec();
            fix_tar(&mut archive);
            zstd_frame(&archive)
        }
        _ => zstd_frame(&archive_of(rest)),
    };
    let inspected = inspect(&bundle[..], &LIMITS);
    let inside = PLACE.path().join("in");
    let target = inside.join("app");
    let unpacked = unpack(&bundle[..], &target, &LIMITS);
    match (inspected, unpacked) {
        (Ok(seen), Ok(done)) => {
            assert_eq!(seen, done);
            let (entries, bytes) = look_around(&target);
            assert_eq!((entries, bytes), (done.entries, done.file_bytes));
            fs::remove_dir_all(&target).expect("only our own files");
        }
        (Err(seen), Err(done)) => assert_eq!(seen.to_string(), done.to_string()),
        (Ok(_), Err(ArchiveError::Write { path, source })) => {
            panic!("inspected well, yet {path} could not be written: {source}")
        }
        (seen, done) => panic!("inspect says {seen:?}, unpack {done:?}"),
    }
    assert_eq!(names(PLACE.path()), ["canary", "in"]);
    assert_eq!(names(&inside), ["canary"], "something was left behind");
    for canary in [PLACE.path().join("canary"), inside.join("canary")] {
        assert_eq!(fs::read(canary).ok().as_deref(), Some(&b"canary"[..]));
    }
});

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Counts what is beneath `target` and checks that nothing in it leads outside.
fn look_around(target: &Path) -> (usize, u64) {
    let root = fs::canonicalize(target).expect("it was unpacked");
    let (mut entries, mut bytes) = (0, 0);
    let mut directories = vec![target.to_owned()];
    while let Some(directory) = directories.pop() {
        for name in names(&directory) {
            let path = directory.join(&name);
            let metadata = fs::symlink_metadata(&path).expect("an entry");
            entries += 1;
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_symlink() {
                let leads_to = fs::canonicalize(&path).unwrap_or_else(|_| dangling(&path, &root));
                assert!(leads_to.starts_with(&root), "{path:?} leads to {leads_to:?}");
            } else {
                assert!(metadata.is_file() && metadata.nlink() == 1);
                assert!(matches!(metadata.mode() & 0o7777, 0o644 | 0o755));
                bytes += metadata.len();
            }
        }
    }
    (entries, bytes)
}

/// Where a link would lead if what it names existed: as far as directories do.
fn dangling(link: &Path, root: &Path) -> PathBuf {
    let target = fs::read_link(link).expect("a link");
    assert!(target.is_relative(), "{target:?}");
    let parent = link.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let mut at = parent.expect("the directory of a link");
    for part in target.components() {
        at = match fs::canonicalize(at.join(part)) {
            Ok(resolved) => resolved,
            Err(_) => at.join(part),
        };
        assert!(at.starts_with(root), "{link:?} passes through {at:?}");
    }
    at
}

/// Entries separated by 0xff: a byte for the kind, the path, a zero, and the
/// content or the target of the link. A manifest comes first unless the list
/// says otherwise.
fn archive_of(list: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (no_manifest, list) = match list.split_first() {
        Some((0x7f, rest)) => (true, rest),
        _ => (false, list),
    };
    if !no_manifest {
        let manifest = b"name = \"a\"\ndomain = \"a.test\"\n[web]\ncommand = \"true\"\n";
        put_entry(&mut out, b'0', b"rung.toml", manifest);
    }
    for entry in list.split(|byte| *byte == 0xff).take(80) {
        let Some((kind, rest)) = entry.split_first() else { continue };
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let (path, content) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        put_entry(&mut out, *kind, path, content);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn put_entry(out: &mut Vec<u8>, kind: u8, path: &[u8], content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let bytes = header.as_mut_bytes();
    let path = if matches!(kind, b'L' | b'K') { b"././@LongLink" } else { path };
    let named = path.len().min(100);
    bytes[..named].copy_from_slice(&path[..named]);
    bytes[156] = kind;
    let is_link = matches!(kind, b'1' | b'2');
    if is_link {
        let length = content.len().min(100);
        bytes[157..157 + length].copy_from_slice(&content[..length]);
    }
    header.set_mode(0o644);
    header.set_size(if is_link { 0 } else { content.len() as u64 });
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    if !is_link {
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}
