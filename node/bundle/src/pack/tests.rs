use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::{inspect, unpack};

const MANIFEST: &str = "name = \"a\"\ndomain = \"a.test\"\n[web]\ncommand = \"./run\"\n";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("rung.toml"), MANIFEST).unwrap();
    fs::write(at("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at("run"), fs::Permissions::from_mode(0o4750)).unwrap();
    let deep = format!("static/{}/{}", "d".repeat(120), "e".repeat(120));
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join("page.html"), "<p>").unwrap();
    symlink("../run", at("static/link")).unwrap();
    symlink(format!("static/{}", "d".repeat(120)), at("long")).unwrap();
    dir
}

fn names(folder: &Path) -> Vec<String> {
    let (_, bytes) = pack_to_vec(folder, &Limits::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    unpack(bytes.as_slice(), &target, &Limits::default()).unwrap();
    let mut found = Vec::new();
    collect(&target, "", &IgnoreList::standard(), &Limits::default(), &mut found).unwrap();
    let mut names: Vec<String> = found.into_iter().map(|found| found.path).collect();
    names.sort();
    names
}

#[test]
fn what_is_packed_unpacks_the_same() {
    let folder = folder();
    let (packed, bytes) = pack_to_vec(folder.path(), &Limits::default()).unwrap();
    assert_eq!(packed.bytes, bytes.len() as u64);
    assert_eq!(packed.digest.0, *blake3::hash(&bytes).as_bytes());
    let summary = inspect(bytes.as_slice(), &Limits::default()).unwrap();
    assert_eq!(summary.manifest, packed.manifest);
    assert_eq!(summary.entries, packed.entries);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("app");
    unpack(bytes.as_slice(), &target, &Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(target.join("static/link")).unwrap(), "#!/bin/sh\n");
    let deep = target.join("long").join("e".repeat(120)).join("page.html");
    assert_eq!(fs::read_to_string(deep).unwrap(), "<p>");
    let mode = fs::metadata(target.join("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let (first, second) = (folder(), folder());
    let pack = |folder: &tempfile::TempDir| pack_to_vec(folder.path(), &Limits::default()).unwrap();
    let before = pack(&first);
    assert_eq!(before, pack(&second));
    fs::write(second.path().join("run"), "#!/bin/sh\n\n").unwrap();
    assert_ne!(before.0.digest, pack(&second).0.digest);
}

#[test]
fn what_does_not_belong_in_a_bundle_is_left_out() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for dir in [".git", "target", "cache", "keep/target", "__pycache__"] {
        fs::create_dir_all(at(dir)).unwrap();
        fs::write(at(dir).join("x"), "").unwrap();
    }
    fs::write(at("Cargo.toml"), "").unwrap();
    fs::write(at("cache/CACHEDIR.TAG"), "").unwrap();
    fs::write(at("notes.log"), "").unwrap();
    fs::write(at(".rungignore"), "*.log\n").unwrap();
    let names = names(folder.path());
    for gone in [".git", "target", "cache", "__pycache__", "notes.log", ".rungignore"] {
        assert!(!names.iter().any(|name| name == gone), "{gone}: {names:?}");
    }
    assert!(names.iter().any(|name| name == "keep/target/x"), "{names:?}");
}

#[test]
fn a_folder_that_a_node_would_refuse_is_refused_here() {
    let error = |change: &dyn Fn(&Path)| {
        let folder = folder();
        change(folder.path());
        pack_to_vec(folder.path(), &Limits::default()).expect_err("must be refused").to_string()
    };
    assert!(error(&|dir| fs::remove_file(dir.join("rung.toml")).unwrap()).contains("no rung.toml"));
    assert!(error(&|dir| fs::write(dir.join("rung.toml"), "x = 1").unwrap()).contains("line 1"));
    assert!(error(&|dir| symlink("/etc", dir.join("out")).unwrap()).contains("may lead outside"));
    assert!(error(&|dir| symlink("../x", dir.join("out")).unwrap()).contains("may lead outside"));
    assert!(error(&|dir| fs::write(dir.join("a\nb"), "").unwrap()).contains("control"));
    assert!(error(&|dir| fs::write(dir.join(".rungignore"), "!a").unwrap()).contains("line 1"));
    assert!(
        error(&|dir| drop(std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap()))
            .contains("neither a file")
    );
}

#[test]
fn limits_hold_when_packing() {
    let folder = folder();
    let pack = |limits: Limits| pack_to_vec(folder.path(), &limits).expect_err("must be refused");
    let error = pack(Limits { entries: 2, ..Limits::default() }).to_string();
    assert!(error.contains("2 entries"), "{error}");
    let error = pack(Limits { decompressed: 100, ..Limits::default() }).to_string();
    assert!(error.contains("100 bytes"), "{error}");
    let error = pack(Limits { compressed: 10, ..Limits::default() }).to_string();
    assert!(error.contains("10 compressed bytes"), "{error}");
}
