//! What an archive needs: the log keeps what is not archived, and any copy gives it.

use rung_shard::{LoggedEntries, Shard};

use crate::support::{Cluster, eventually, write};

async fn read(shard: &Shard, from: u64) -> Option<(usize, u64)> {
    match shard.read_log(from, 1 << 20).await.unwrap() {
        LoggedEntries::Next(entries, next) => {
            assert!(entries.iter().all(|entry| entry.at_ms.is_some_and(|at| at > 0)));
            Some((entries.len(), next))
        }
        LoggedEntries::Purged => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_what_is_not_archived_and_every_copy_gives_the_same() {
    let cluster = Cluster::start_with(3, |config| {
        config.limits.checkpoint_bytes = 64 << 10;
        config.group.keep_entries = 0;
    })
    .await;
    for node in 1..=3 {
        cluster.shard(node).keep_log_after(Some(0));
    }
    let (_, primary) = cluster.primary().await;
    write(&primary, "CREATE TABLE t(x)").await.unwrap();
    for _ in 0..40 {
        write(&primary, "INSERT INTO t VALUES (randomblob(6000))").await.unwrap();
    }
    let settled = primary.position();
    for node in 1..=3 {
        let shard = cluster.shard(node);
        eventually("all copies are level", || shard.position() == settled).await;
        let snapshot = shard.snapshot().await.unwrap();
        assert_eq!(snapshot.header().position.sequence, settled.sequence);
    }
    // A new leader adds an entry that changes nothing.
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    let found = loop {
        let mut found = Vec::new();
        for node in 1..=3 {
            let read = read(cluster.shard(node), 1).await.expect("it is all there");
            assert!(read.0 >= 40);
            found.push(read);
        }
        if found.windows(2).all(|two| two[0] == two[1]) {
            break found;
        }
        assert!(std::time::Instant::now() < until, "copies differ: {found:?}");
    };
    // Archived, it may go.
    for node in 1..=3 {
        cluster.shard(node).keep_log_after(Some(found[0].1));
    }
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    while read(&primary, 1).await.is_some() {
        assert!(std::time::Instant::now() < until, "the log is never purged");
        write(&primary, "INSERT INTO t VALUES (randomblob(6000))").await.unwrap();
    }
    cluster.stop().await;
}
