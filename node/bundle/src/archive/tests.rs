use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::EntryType;

use super::*;
use crate::unpack;

const MANIFEST: &str = "name = \"a\"\ndomain = \"a.test\"\n[web]\ncommand = \"./a\"\n";

/// Writes headers byte by byte: the tar crate refuses to write what an attacker
/// would.
#[derive(Default)]
struct Forger(Vec<u8>);

impl Forger {
    fn with_manifest() -> Self {
        Self::default().file("rung.toml", MANIFEST.as_bytes())
    }

    fn entry(
        mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        mode: u32,
        content: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        {
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name);
            old.linkname[..link.len()].copy_from_slice(link);
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", 0o644, content)
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", 0o755, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    fn bundle(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        zstd::encode_all(self.0.as_slice(), 1).unwrap()
    }
}

/// Unpacks beneath a fresh directory and checks that nothing was written beside
/// the target, nor anything left when it was refused.
fn try_unpack(bundle: &[u8], limits: &Limits) -> Result<tempfile::TempDir, ArchiveError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "untouched").unwrap();
    let result = unpack(bundle, &dir.path().join("app"), limits);
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "untouched");
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let expected: &[&str] = if result.is_ok() { &["app", "secret"] } else { &["secret"] };
    assert_eq!(names, expected);
    assert_eq!(inspect(bundle, limits).is_ok(), result.is_ok());
    result.map(|_| dir)
}

fn refused(forger: Forger) -> String {
    try_unpack(&forger.bundle(), &Limits::default()).expect_err("must be refused").to_string()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_honest_bundle_unpacks() {
    let forger = Forger::with_manifest()
        .directory("bin/")
        .entry(EntryType::Regular, b"bin/run", b"", 0o755, b"#!/bin/sh\n")
        .link("bin/again", "run")
        .link("current", "bin/run");
    let dir = try_unpack(&forger.bundle(), &Limits::default()).unwrap();
    let app = dir.path().join("app");
    assert_eq!(fs::read(app.join("current")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(mode(&app.join("bin/run")), 0o755);
    assert_eq!(mode(&app.join("rung.toml")), 0o644);
    assert_eq!(mode(&app), 0o755);
    let summary = inspect(forger_bytes().as_slice(), &Limits::default()).unwrap();
    assert_eq!((summary.manifest.name.as_str(), summary.entries), ("a", 1));
}

fn forger_bytes() -> Vec<u8> {
    Forger::with_manifest().bundle()
}

#[test]
fn names_that_lead_outside_are_refused() {
    for name in
        ["/etc/passwd", "../secret", "a/../../secret", "..", ".", "a//b", "./a", "", "a/", "a/./b"]
    {
        let error = refused(Forger::with_manifest().directory("a").file(name, b"x"));
        assert!(error.contains("name"), "{name}: {error}");
    }
    let error =
        refused(Forger::with_manifest().entry(EntryType::Regular, b"\xff", b"", 0o644, b""));
    assert!(error.contains("UTF-8"), "{error}");
    let error = refused(Forger::with_manifest().file("a\nb", b""));
    assert!(error.contains("control"), "{error}");
}

#[test]
fn links_that_lead_outside_are_refused() {
    for target in ["/etc", "..", "../..", "a/..", "a/../..", "../app/x", "", ".", "a//b"] {
        let error = refused(Forger::with_manifest().link("link", target));
        assert!(error.contains("may lead outside"), "{target}: {error}");
    }
    // Counting components would call this one inside, though it is not.
    let error = refused(
        Forger::with_manifest()
            .directory("a")
            .directory("a/b")
            .link("a/b/up", "../..")
            .link("a/b/out", "up/.."),
    );
    assert!(error.contains("may lead outside"), "{error}");
}

#[test]
fn a_file_through_a_link_is_refused() {
    let error = refused(
        Forger::with_manifest().directory("real").link("link", "real").file("link/x", b"x"),
    );
    assert!(error.contains("its parent is no directory"), "{error}");
    let error = refused(Forger::with_manifest().link("link", "rung.toml").file("link", b"x"));
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn what_occurs_twice_or_before_its_directory_is_refused() {
    assert!(refused(Forger::with_manifest().file("a", b"1").file("a", b"2")).contains("twice"));
    assert!(refused(Forger::with_manifest().directory("a").directory("a/")).contains("twice"));
    assert!(refused(Forger::with_manifest().directory("a").link("a", "b")).contains("twice"));
    assert!(refused(Forger::with_manifest().file("a/b", b"")).contains("before"));
    assert!(
        refused(Forger::with_manifest().file("rung.toml", MANIFEST.as_bytes())).contains("twice")
    );
}

#[test]
fn everything_but_files_directories_and_links_is_refused() {
    for kind in [
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::new(b'Z'),
    ] {
        let error = refused(Forger::with_manifest().entry(kind, b"x", b"rung.toml", 0o644, b""));
        assert!(error.contains("a bundle holds files"), "{kind:?}: {error}");
    }
}

#[test]
fn a_pax_header_cannot_rename_what_follows() {
    let pax = b"20 path=../secret\nx\n";
    let error = refused(
        Forger::with_manifest().entry(EntryType::XHeader, b"pax", b"", 0o644, pax).file("a", b""),
    );
    assert!(error.contains("content") || error.contains("pax"), "{error}");
}

#[test]
fn long_names_are_checked_like_short_ones() {
    let long = |name: &[u8]| {
        Forger::with_manifest().entry(EntryType::GNULongName, b"././@LongLink", b"", 0o644, name)
    };
    let dir =
        try_unpack(&long(b"renamed\0").file("short", b"x").bundle(), &Limits::default()).unwrap();
    assert!(dir.path().join("app/renamed").is_file());
    assert!(!dir.path().join("app/short").exists());
    assert!(refused(long(b"../secret\0").file("short", b"x")).contains(".."));
    assert!(refused(long(b"a\0b\0").file("short", b"x")).contains("control"));
    assert!(refused(long(&[b'a'; 5000]).file("short", b"")).contains("1024"));
    assert!(refused(long(&[b'a'; 300]).file("short", b"")).contains("255"));
    assert!(refused(long(b"a")).contains("belongs to no entry"));
    let twice = long(b"a").entry(EntryType::GNULongName, b"x", b"", 0o644, b"b").file("c", b"");
    assert!(refused(twice).contains("two long names"));
    let target = Forger::with_manifest()
        .entry(EntryType::GNULongLink, b"x", b"", 0o644, b"../../secret\0")
        .link("link", "rung.toml");
    assert!(refused(target).contains("may lead outside"));
    let stray = Forger::with_manifest()
        .entry(EntryType::GNULongLink, b"x", b"", 0o644, b"rung.toml")
        .file("a", b"");
    assert!(refused(stray).contains("belongs to no link"));
}

#[test]
fn special_mode_bits_are_dropped() {
    let forger = Forger::with_manifest()
        .entry(EntryType::Regular, b"suid", b"", 0o6777, b"x")
        .entry(EntryType::Directory, b"sticky", b"", 0o7777, b"");
    let dir = try_unpack(&forger.bundle(), &Limits::default()).unwrap();
    assert_eq!(mode(&dir.path().join("app/suid")), 0o755);
    assert_eq!(mode(&dir.path().join("app/sticky")), 0o755);
}

#[test]
fn a_bomb_is_stopped_by_each_limit() {
    let zeros = vec![0; 200 * 1024 * 1024];
    let bomb = Forger::with_manifest().file("zeros", &zeros).bundle();
    assert!(bomb.len() < 100_000);
    let error = try_unpack(&bomb, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("for each compressed byte"), "{error}");
    let limits = Limits { decompressed: 1024 * 1024, ..Limits::default() };
    let error = try_unpack(&bomb, &limits).unwrap_err();
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    let limits = Limits { compressed: 100, ..Limits::default() };
    let error = try_unpack(&bomb, &limits).unwrap_err();
    assert!(error.to_string().contains("100 compressed bytes"), "{error}");
    let many = (0..20).fold(Forger::with_manifest(), |f, n| f.directory(&format!("d{n}")));
    let error =
        try_unpack(&many.bundle(), &Limits { entries: 10, ..Limits::default() }).unwrap_err();
    assert!(error.to_string().contains("10 entries"), "{error}");
}

#[test]
fn a_window_that_wants_much_memory_is_refused() {
    let mut tar = Forger::with_manifest().0;
    tar.resize(tar.len() + 1024, 0);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &tar).unwrap();
    let bundle = encoder.finish().unwrap();
    assert!(matches!(try_unpack(&bundle, &Limits::default()), Err(ArchiveError::Damaged(_))));
}

#[test]
fn a_bundle_without_a_usable_manifest_is_refused() {
    assert!(refused(Forger::default().file("a", b"")).contains("no rung.toml"));
    assert!(refused(Forger::default().link("rung.toml", "a")).contains("no rung.toml"));
    assert!(refused(Forger::default().file("rung.toml", b"\xff")).contains("UTF-8"));
    assert!(refused(Forger::default().file("rung.toml", b"x = 1")).contains("line 1"));
    assert!(refused(Forger::default().file("rung.toml", &[b'#'; 70_000])).contains("64 KiB"));
}

#[test]
fn data_after_the_end_is_refused() {
    let mut forger = Forger::with_manifest();
    forger.0.resize(forger.0.len() + 1024, 0);
    let error = refused(forger.file("hidden", b"x"));
    assert!(error.contains("after the end"), "{error}");
}

#[test]
fn every_truncation_is_refused() {
    let whole = Forger::with_manifest().file("a", &[7; 2000]).bundle();
    for end in 0..whole.len() {
        assert!(try_unpack(&whole[..end], &Limits::default()).is_err(), "{end}");
    }
    // The archive cut short, inside an intact frame.
    let tar = Forger::with_manifest().file("a", &[7; 2000]).0;
    let cut = zstd::encode_all(&tar[..tar.len() - 1024], 1).unwrap();
    assert!(try_unpack(&cut, &Limits::default()).is_err());
}

#[test]
fn content_where_none_belongs_is_refused() {
    let forger = Forger::with_manifest().entry(EntryType::Directory, b"d", b"", 0o755, b"content");
    assert!(refused(forger).contains("only files have content"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    #[test]
    fn no_archive_makes_it_panic_or_write_outside(
        at in 0usize..4000, bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..40), fix in proptest::bool::ANY,
    ) {
        let mut tar = Forger::with_manifest()
            .directory("d")
            .link("d/l", "../rung.toml")
            .entry(EntryType::GNULongName, b"x", b"", 0o644, b"d/long\0")
            .file("f", b"content")
            .0;
        let at = at.min(tar.len() - bytes.len());
        tar[at..at + bytes.len()].copy_from_slice(&bytes);
        if fix {
            // With a valid checksum the mutation gets past the first check.
            let start = at / 512 * 512;
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&tar[start..start + 512]);
            header.set_cksum();
            tar[start..start + 512].copy_from_slice(header.as_bytes());
        }
        tar.resize(tar.len() + 1024, 0);
        let bundle = zstd::encode_all(tar.as_slice(), 1).unwrap();
        drop(try_unpack(&bundle, &Limits::default()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = inspect(bytes.as_slice(), &Limits::default());
        let mut framed = Forger::with_manifest().bundle();
        let at = bytes.first().map_or(0, |b| usize::from(*b)) % framed.len();
        framed[at] ^= bytes.last().copied().unwrap_or(1);
        let _ = inspect(framed.as_slice(), &Limits::default());
    }

    #[test]
    fn a_link_that_is_admitted_resolves_inside(path in "[a-c](/[a-c]){0,3}", target in "(\\.\\./|[a-c]/|\\./){0,4}([a-c]|\\.\\.)?") {
        if check_path(&path).is_ok() && check_link(&path, &target).is_ok() {
            let mut depth = path.split('/').count() as i32 - 1;
            for part in target.split('/') {
                depth += if part == ".." { -1 } else { 1 };
                proptest::prop_assert!(depth >= 0);
            }
        }
    }
}
