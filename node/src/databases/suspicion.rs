//! Notices soon that the process of a primary has ended.
//!
//! A primary that says nothing for a moment may be slow, paused, cut off or dead, and
//! only time tells. But when its process has ended, the kernel of its machine says so:
//! it refuses what is sent to the ports that nobody has any more. So a voter that has
//! not heard of the primary for two heartbeats sends its mesh port one byte, and tries
//! to connect to its admin port: of refusals of datagrams a kernel sends no more than a
//! few a second to another machine, and the mesh gets those. A refusal is a hint, never
//! proof: the voter grants votes at once and asks for them, instead of waiting for its
//! timeout. Everybody else is waited for as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use rung_consensus::Group;
use rung_proto::{GroupId, NodeId};
use rung_runtime::TaskResult;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

use super::Databases;
use super::reconcile::shard_of;
use crate::node::Node;

/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(25);

/// A group whose leader says nothing.
struct Silent {
    group: Group,
    leader: NodeId,
    /// How many voters should stand for election before this node.
    rank: u32,
}

/// Runs for as long as the node does.
pub async fn run(node: Arc<Node>) -> TaskResult {
    let timing = node.databases.timing;
    // Since when it is known of which groups.
    let mut suspected: BTreeMap<GroupId, (NodeId, Instant)> = BTreeMap::new();
    loop {
        sleep(LOOK).await;
        let silent = silent_groups(&node);
        let gone = refused(&node, silent.iter().map(|group| group.leader).collect()).await;
        suspected.retain(|_, (leader, _)| gone.contains(leader));
        for Silent { group, leader, rank } in silent {
            // Whoever was heard of in the meantime lives.
            let speaks =
                group.silent_leader().is_none_or(|(_, silence)| silence < timing.silence());
            if speaks || !gone.contains(&leader) {
                continue;
            }
            let now = Instant::now();
            let (_, since) = *suspected.entry(group.id()).or_insert_with(|| {
                tracing::warn!(group = %group.id(), %leader, "the process of the primary is gone");
                // What it has not answered it will not answer.
                node.mesh.disconnect(leader);
                (leader, now)
            });
            let stands = now.duration_since(since) >= timing.apart() * rank;
            group.suspect_leader(leader, stands).await;
        }
    }
}

/// The groups of this node's copies that have not heard of their primary.
fn silent_groups(node: &Node) -> Vec<Silent> {
    let databases: &Databases = &node.databases;
    let copies = databases.copies();
    let silent = copies.iter().filter_map(|copy| {
        let group = node.consensus.group(copy.record.group)?;
        let (leader, silence) = group.silent_leader()?;
        if silence < databases.timing.silence() {
            return None;
        }
        let state = node.control.watch_state().borrow().clone();
        let witness = shard_of(&copy.record, &state).and_then(|shard| shard.witness);
        let voters = group.status().borrow().voters.clone();
        let rank = rank(&voters, leader, witness, node.id);
        Some(Silent { group, leader, rank })
    });
    silent.collect()
}

/// How many stand for election before a voter: the copies in the order of their
/// numbers, then a witness, which could serve nobody.
fn rank(voters: &BTreeSet<NodeId>, leader: NodeId, witness: Option<NodeId>, me: NodeId) -> u32 {
    let place = |node: NodeId| (witness == Some(node), node);
    let before = voters.iter().filter(|other| **other != leader && place(**other) < place(me));
    u32::try_from(before.count()).unwrap_or(u32::MAX)
}

/// Those nodes whose machines say that nobody has one of their ports.
async fn refused(node: &Node, leaders: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let state = node.control.state();
    // A kernel that has not refused by then has nothing to refuse, or cannot be reached.
    let patience = node.databases.timing.answer();
    let asked = leaders.into_iter().map(|leader| {
        let admin = state.nodes.get(&leader).map(|record| record.admin);
        let mesh = node.mesh.address_of(leader);
        async move { is_refused(mesh, admin, patience).await.then_some(leader) }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether one of a node's ports is refused.
async fn is_refused(
    mesh: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    patience: Duration,
) -> bool {
    let mesh = mesh.map(|mesh| says_refused(probe(mesh), patience).boxed());
    let admin = admin.map(|admin| says_refused(TcpStream::connect(admin), patience).boxed());
    let asked: FuturesUnordered<BoxFuture<'static, bool>> = mesh.into_iter().chain(admin).collect();
    let mut refused = asked.filter(|refused| std::future::ready(*refused));
    refused.next().await.is_some()
}

async fn says_refused<T>(asked: impl Future<Output = io::Result<T>>, patience: Duration) -> bool {
    matches!(
        timeout(patience, asked).await,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused
    )
}

/// Sends a byte that means nothing, and waits for an answer that only the kernel
/// could give.
async fn probe(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    socket.send(&[0]).await?;
    socket.recv(&mut [0]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(150);

    #[tokio::test]
    async fn a_port_that_nobody_has_is_refused_and_one_that_says_nothing_is_not() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mesh = silent.local_addr().ok();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let admin = listener.local_addr().ok();
        assert!(!is_refused(mesh, admin, PATIENCE).await);
        assert!(!is_refused(None, None, PATIENCE).await);
        // A kernel that refuses datagrams no more refuses connections still.
        drop(listener);
        assert!(is_refused(mesh, admin, PATIENCE).await);
        drop(silent);
        assert!(is_refused(mesh, None, PATIENCE).await);
    }

    #[test]
    fn copies_stand_for_election_in_their_order_and_a_witness_last() {
        let voters: BTreeSet<NodeId> = (1..=4).map(NodeId).collect();
        let rank = |me| rank(&voters, NodeId(3), Some(NodeId(1)), NodeId(me));
        assert_eq!((rank(2), rank(4), rank(1)), (0, 1, 2));
    }
}
