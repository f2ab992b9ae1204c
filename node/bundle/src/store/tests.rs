use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("bundles"), Limits::default()).unwrap();
    (dir, store)
}

fn bundle(text: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "name = \"a\"\ndomain = \"a.test\"\n[web]\ncommand = \"./run\"\n";
    fs::write(folder.path().join("rung.toml"), manifest).unwrap();
    fs::write(folder.path().join("text"), text).unwrap();
    crate::pack_to_vec(folder.path(), &Limits::default()).unwrap().1
}

#[test]
fn a_bundle_is_found_by_its_hash_also_after_a_restart() {
    let (dir, store) = store();
    let digest = store.put(b"bytes").unwrap();
    assert_eq!(store.put(b"bytes").unwrap(), digest);
    let again = Store::open(&dir.path().join("bundles"), Limits::default()).unwrap();
    assert!(again.has(digest));
    assert_eq!(again.get(digest).unwrap(), b"bytes");
    assert_eq!(again.size(digest), Some(5));
    assert_eq!(again.list().unwrap(), [digest]);
    assert!(matches!(again.get(Digest([0; 32])), Err(StoreError::Missing(_))));
}

#[test]
fn bytes_of_another_hash_are_not_stored() {
    let (dir, store) = store();
    let mut incoming = store.begin().unwrap();
    incoming.write(b"by").unwrap();
    incoming.write(b"tes").unwrap();
    let wanted = Digest([1; 32]);
    assert!(matches!(incoming.finish(wanted), Err(StoreError::WrongDigest { .. })));
    assert!(!store.has(wanted));
    assert_eq!(fs::read_dir(dir.path().join("bundles")).unwrap().count(), 0);
}

#[test]
fn pieces_make_a_bundle_and_a_bound_holds() {
    let (dir, _) = store();
    let small = Limits { compressed: 5, ..Limits::default() };
    let store = Store::open(dir.path(), small).unwrap();
    let digest = Digest(*blake3::hash(b"bytes").as_bytes());
    let mut incoming = store.begin().unwrap();
    incoming.write(b"byt").unwrap();
    incoming.write(b"es").unwrap();
    incoming.finish(digest).unwrap();
    assert!(store.has(digest));
    let mut incoming = store.begin().unwrap();
    assert!(matches!(incoming.write(b"123456"), Err(StoreError::TooLarge(5))));
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    let (dir, store) = store();
    let mut incoming = store.begin().unwrap();
    incoming.write(b"half").unwrap();
    // A crash runs no destructor.
    std::mem::forget(incoming);
    let path = dir.path().join("bundles");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    Store::open(&path, Limits::default()).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn only_what_is_kept_survives_a_collection() {
    let (_dir, store) = store();
    let (a, b) = (store.put(b"a").unwrap(), store.put(b"bb").unwrap());
    assert_eq!(store.gc(&BTreeSet::from([a]), Duration::ZERO).unwrap(), 2);
    assert!(store.has(a) && !store.has(b));
}

#[test]
fn a_collection_leaves_what_was_stored_a_short_time_ago_or_again() {
    let (_dir, store) = store();
    let hour = Duration::from_secs(3600);
    let age = |digest, age| {
        let file = OpenOptions::new().write(true).open(store.path(digest)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    let (fresh, old, again) =
        (store.put(b"a").unwrap(), store.put(b"bb").unwrap(), store.put(b"ccc").unwrap());
    age(old, 2 * hour);
    age(again, 2 * hour);
    store.put(b"ccc").unwrap();
    assert_eq!(store.gc(&BTreeSet::new(), hour).unwrap(), 2);
    assert_eq!(store.list().unwrap(), {
        let mut left = [fresh, again];
        left.sort_unstable();
        left
    });
}

#[test]
fn no_other_user_can_read_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundles");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(&path, Limits::default()).unwrap();
    let digest = store.put(b"bytes").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&store.path(digest))), (0o700, 0o600));
}

#[test]
fn a_stored_bundle_unpacks_once_into_its_place() {
    let (dir, store) = store();
    let digest = store.put(&bundle("hello")).unwrap();
    let target = dir.path().join("app");
    assert_eq!(store.unpack(digest, &target).unwrap().manifest.name, "a");
    assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "hello");
    assert!(matches!(store.unpack(digest, &target), Err(ArchiveError::Write { .. })));
    assert!(store.has(digest));
}

#[test]
fn a_bundle_damaged_on_the_disk_is_noticed_and_removed() {
    let (dir, store) = store();
    let digest = store.put(&bundle("hello")).unwrap();
    // Another valid bundle in its place: only the hash can tell.
    fs::write(store.path(digest), bundle("other")).unwrap();
    let target = dir.path().join("app");
    let error = store.unpack(digest, &target).unwrap_err();
    assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{error}");
    assert!(!target.exists());
    assert!(!store.has(digest));
}
