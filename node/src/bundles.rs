//! Bundles of apps: kept by digest on several nodes, pulled from whoever has one.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rung_bundle::store::StoreError;
use rung_bundle::{Manifest, Store, inspect};
use rung_membership::Membership;
use rung_proto::api::BundleStored;
use rung_proto::{Code, Digest, Failure, NodeId, encoding};
use rung_transport::{Lane, Mesh, MeshStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::control::Control;
use crate::protocol::{FetchBundle, STREAM_BUNDLE, service};

const OPEN: Duration = Duration::from_secs(3);
/// A transfer that stands still for so long is given up.
const IDLE: Duration = Duration::from_secs(15);
/// How long a peer may take to pull a bundle from this node.
const REPLICATE: Duration = Duration::from_secs(30);
/// Nodes that hold a bundle before its upload is acknowledged, where there are so many.
const COPIES: usize = 3;
/// How often bundles that no release names are looked for, and how long one is
/// kept: the deploy that uploaded it may not have made its release yet.
const COLLECT: Duration = Duration::from_secs(300);
const KEEP_UPLOADS: Duration = Duration::from_secs(3600);
const PIECE: usize = 256 << 10;
const CODE_NOT_HERE: u32 = 1;

/// Clones are the same.
#[derive(Clone)]
pub struct Bundles {
    node: NodeId,
    dc: String,
    store: Arc<Store>,
    mesh: Mesh,
    membership: Membership,
}

impl Bundles {
    pub fn new(node: NodeId, dc: String, store: Store, mesh: Mesh, membership: Membership) -> Self {
        Self { node, dc, store: Arc::new(store), mesh, membership }
    }

    /// Other nodes that are up, those of this data center first.
    fn peers(&self) -> Vec<NodeId> {
        let view = self.membership.view();
        let mut peers: Vec<_> = view.active().filter(|member| member.node != self.node).collect();
        peers.sort_by_key(|member| (member.dc.as_str() != self.dc, member.node));
        peers.iter().map(|member| member.node).collect()
    }

    /// Makes sure that a bundle is here, pulling it from a peer that has it.
    ///
    /// # Errors
    /// When no peer that is up has it, or the disk fails.
    pub async fn fetch(&self, digest: Digest) -> Result<(), String> {
        if self.store.has(digest) {
            return Ok(());
        }
        let mut last = "no other node is up".to_owned();
        for peer in self.peers() {
            match self.pull(peer, digest).await {
                Ok(()) => {
                    tracing::info!(%digest, %peer, "fetched a bundle");
                    return Ok(());
                }
                Err(why) => last = why,
            }
        }
        Err(format!("no node gave the bundle {digest}: {last}"))
    }

    async fn pull(&self, peer: NodeId, digest: Digest) -> Result<(), String> {
        let header = Bytes::copy_from_slice(&digest.0);
        let mut stream = self
            .mesh
            .open_stream(peer, STREAM_BUNDLE, header, OPEN)
            .await
            .map_err(|error| error.to_string())?;
        let store = Arc::clone(&self.store);
        let mut incoming = on_disk(move || store.begin()).await?;
        loop {
            let mut piece = vec![0; PIECE];
            let count = fill(&mut stream, &mut piece).await?;
            if count == 0 {
                break;
            }
            incoming = on_disk(move || {
                incoming.write(&piece[..count])?;
                Ok(incoming)
            })
            .await?;
        }
        // The store checks the digest, so a cut or changed bundle goes nowhere.
        on_disk(move || incoming.finish(digest)).await
    }

    /// Serves a peer that pulls a bundle.
    pub async fn serve(&self, header: Bytes, mut stream: MeshStream) {
        let Ok(digest) = <[u8; 32]>::try_from(header.as_ref()) else {
            stream.abort(CODE_NOT_HERE);
            return;
        };
        if self.send(Digest(digest), &mut stream).await.is_err() {
            stream.abort(CODE_NOT_HERE);
        }
    }

    async fn send(&self, digest: Digest, stream: &mut MeshStream) -> std::io::Result<()> {
        let store = Arc::clone(&self.store);
        let mut file =
            on_disk(move || store.open_bundle(digest)).await.map_err(std::io::Error::other)?;
        loop {
            let mut piece = vec![0; PIECE];
            let (piece, back) = spawn_blocking(move || {
                let count = file.read(&mut piece)?;
                piece.truncate(count);
                std::io::Result::Ok((piece, file))
            })
            .await
            .map_err(std::io::Error::other)??;
            file = back;
            if piece.is_empty() {
                break;
            }
            let sent = timeout(IDLE, stream.write_all(&piece)).await;
            sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        }
        stream.shutdown().await
    }

    /// Takes in an uploaded bundle: checks it, stores it, and has other nodes
    /// store it too before it counts as kept.
    ///
    /// # Errors
    /// When it is no valid bundle, the disk fails, or no other node stores it
    /// although some are up.
    pub async fn accept(&self, file: PathBuf) -> Result<BundleStored, Failure> {
        let store = Arc::clone(&self.store);
        let taken = spawn_blocking(move || take_in(&store, &file)).await;
        let stored = taken.map_err(|error| {
            Failure::new(Code::Internal, "storing the bundle failed").because(error)
        })??;
        let digest = stored.digest;
        let others = spread(self.peers(), COPIES - 1, |peer| self.hand_to(peer, digest)).await;
        enough_copies(others.copies + 1, others.asked)?;
        Ok(stored)
    }

    /// Has a peer pull a bundle; whether it has it now.
    async fn hand_to(&self, peer: NodeId, digest: Digest) -> bool {
        let body = Bytes::from(encoding::encode(&FetchBundle { digest }));
        let call = self.mesh.call(peer, Lane::Calls, service::FETCH_BUNDLE, body, REPLICATE);
        match call.await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%peer, %digest, %error, "a peer did not store a bundle");
                false
            }
        }
    }

    /// The manifest and size of a bundle, which is fetched if need be.
    ///
    /// # Errors
    /// When it is nowhere, or no valid bundle.
    pub async fn manifest(&self, digest: Digest) -> Result<(Manifest, u64), Failure> {
        self.fetch(digest).await.map_err(|why| {
            Failure::new(Code::NotFound, "the bundle is not in the cluster")
                .because(why)
                .next("deploy the folder again")
        })?;
        let store = Arc::clone(&self.store);
        let read = spawn_blocking(move || {
            let file = store.open_bundle(digest).map_err(|error| invalid(&error))?;
            let summary = inspect(file, store.limits()).map_err(Failure::from)?;
            Ok((summary.manifest, store.size(digest).unwrap_or(0)))
        });
        read.await.map_err(|error| {
            Failure::new(Code::Internal, "reading the bundle failed").because(error)
        })?
    }

    /// Voters keep every release that may be wanted again, so that none is lost
    /// with the nodes that ran it. Every node removes what no release names.
    pub async fn keep_releases(self, control: Control) {
        let mut state = control.watch_state();
        let mut collected = Instant::now();
        loop {
            let (known, wanted) = {
                let state = state.borrow_and_update();
                let releases = state.apps.values().flat_map(|app| app.releases.values());
                let wanted: BTreeSet<Digest> = releases.map(|release| release.digest).collect();
                (state.index > 0, wanted)
            };
            let mut missing = false;
            if control.group().is_some() {
                for digest in &wanted {
                    if let Err(why) = self.fetch(*digest).await {
                        tracing::debug!(%digest, why, "a release is not kept here yet");
                        missing = true;
                    }
                }
            }
            if known && collected.elapsed() >= COLLECT {
                self.collect(wanted).await;
                collected = Instant::now();
            }
            let pause = Duration::from_secs(if missing { 2 } else { 30 });
            let _ = timeout(pause, state.changed()).await;
        }
    }
}

impl Bundles {
    async fn collect(&self, wanted: BTreeSet<Digest>) {
        let store = Arc::clone(&self.store);
        match on_disk(move || store.gc(&wanted, KEEP_UPLOADS)).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "removed bundles that no release names"),
            Err(why) => tracing::warn!(why, "old bundles could not be removed"),
        }
    }
}

/// Runs work that waits for the disk where it holds nobody up.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let done = spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// Reads until the piece is full or the stream ends, so that the disk is not
/// asked for every packet.
async fn fill(stream: &mut MeshStream, piece: &mut [u8]) -> Result<usize, String> {
    let mut count = 0;
    while count < piece.len() {
        match timeout(IDLE, stream.read(&mut piece[count..])).await {
            Ok(Ok(0)) => break,
            Ok(Ok(more)) => count += more,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the transfer stood still".to_owned()),
        }
    }
    Ok(count)
}

/// How a bundle spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spread {
    copies: usize,
    asked: usize,
}

/// Has peers store something until `wanted` of them have, as many at once as
/// are still missing; where one fails, the next one is asked.
async fn spread<F: Future<Output = bool>>(
    peers: Vec<NodeId>,
    wanted: usize,
    hand_to: impl Fn(NodeId) -> F,
) -> Spread {
    let mut left = peers.into_iter();
    let mut spread = Spread { copies: 0, asked: 0 };
    let mut running = FuturesUnordered::new();
    loop {
        while spread.copies + running.len() < wanted
            && let Some(peer) = left.next()
        {
            spread.asked += 1;
            running.push(hand_to(peer));
        }
        match running.next().await {
            Some(stored) => spread.copies += usize::from(stored),
            None => return spread,
        }
    }
}

/// One copy is enough only where there is no other node: a release must not be
/// lost with the node that took it in.
fn enough_copies(copies: usize, others_up: usize) -> Result<(), Failure> {
    if copies >= COPIES.min(others_up + 1) || copies >= 2 {
        return Ok(());
    }
    let why = format!("{others_up} other nodes were asked and none has stored it");
    Err(Failure::new(Code::Unreachable, "the bundle is stored on 1 node only")
        .because(why)
        .next("try again when `ctl status` shows that the nodes reach each other"))
}

fn invalid(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidBundle, "the bundle cannot be used").because(error)
}

fn take_in(store: &Store, file: &PathBuf) -> Result<BundleStored, Failure> {
    let disk =
        |error: std::io::Error| crate::data_dir::disk_failure("reading the upload", file, &error);
    let mut source = std::fs::File::open(file).map_err(disk)?;
    inspect(&mut source, store.limits()).map_err(Failure::from)?;
    let mut source = std::fs::File::open(file).map_err(disk)?;
    let mut incoming = store.begin().map_err(|error| invalid(&error))?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let count = source.read(&mut piece).map_err(disk)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        size += count as u64;
        incoming.write(&piece[..count]).map_err(|error| invalid(&error))?;
    }
    let digest = Digest(*hasher.finalize().as_bytes());
    incoming.finish(digest).map_err(|error| invalid(&error))?;
    Ok(BundleStored { digest, size })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Spreads over peers 1 to `count`; those in `failing` do not store. Returns
    /// who was asked, too.
    async fn spread_over(count: u64, failing: &[u64]) -> (Spread, Vec<u64>) {
        let asked = Mutex::new(Vec::new());
        let spread = spread((1..=count).map(NodeId).collect(), COPIES - 1, |peer| {
            asked.lock().unwrap().push(peer.0);
            async move { !failing.contains(&peer.0) }
        });
        (spread.await, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_bundle_goes_to_as_many_peers_as_are_wanted_and_to_others_for_those_that_fail() {
        assert_eq!(spread_over(0, &[]).await, (Spread { copies: 0, asked: 0 }, vec![]));
        assert_eq!(spread_over(5, &[]).await, (Spread { copies: 2, asked: 2 }, vec![1, 2]));
        let (spread, asked) = spread_over(5, &[1, 3]).await;
        assert_eq!((spread.copies, asked), (2, vec![1, 2, 3, 4]));
        assert_eq!(spread_over(3, &[1, 2, 3]).await.0, Spread { copies: 0, asked: 3 });
    }

    #[tokio::test]
    async fn peers_are_asked_at_the_same_time() {
        // Each waits for the other one, so one after the other would never end.
        let both = tokio::sync::Barrier::new(2);
        let spread = spread(vec![NodeId(1), NodeId(2)], 2, |_| async {
            both.wait().await;
            true
        });
        let spread = timeout(Duration::from_secs(20), spread).await.unwrap();
        assert_eq!(spread, Spread { copies: 2, asked: 2 });
    }

    #[test]
    fn one_copy_is_enough_only_without_other_nodes() {
        for (copies, others, enough) in
            [(1, 0, true), (1, 1, false), (2, 1, true), (1, 4, false), (2, 4, true), (3, 4, true)]
        {
            assert_eq!(enough_copies(copies, others).is_ok(), enough, "{copies} of {others}");
        }
        let failure = enough_copies(1, 3).unwrap_err();
        assert_eq!(failure.code, Code::Unreachable);
    }
}
