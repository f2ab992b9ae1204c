//! Renews this node's certificate before it expires.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rung_proto::{Code, Failure};
use rung_runtime::TaskResult;
use rung_transport::NodeIdentity;
use tokio::time::sleep;

use crate::bootstrap;
use crate::clock::now_ms;
use crate::node::Node;
use crate::protocol::{JoinRequest, LeaderAnswer, LeaderRequest, Welcome};

/// How soon a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How often a node that hears of no other asks why.
const ALONE: Duration = Duration::from_secs(3);
/// Clocks that jump, and machines that sleep, are noticed this soon.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Renews at two thirds of each certificate's life. Never ends.
pub async fn run(node: Arc<Node>) -> TaskResult {
    tokio::select! {
        result = keep_valid(&node) => result,
        () = notice_removal(&node) => Ok(()),
    }
}

/// Ends the process when the cluster says that it no longer knows this node. One
/// that was removed while it was down is told nothing else: no peer speaks to it.
async fn notice_removal(node: &Arc<Node>) {
    loop {
        sleep(ALONE).await;
        let view = node.membership.view();
        if view.active().any(|member| member.node != node.id) {
            continue;
        }
        let identity = node.identity();
        let Ok(csr) = identity.key_pair().and_then(|keys| keys.to_csr()) else { continue };
        if let Err(failure) = renew_expired(node, csr, &identity).await
            && failure.code == Code::IdentityRefused
        {
            tracing::error!(%failure, code = %failure.code, "the cluster refuses this node");
            std::process::exit(1);
        }
    }
}

async fn keep_valid(node: &Arc<Node>) -> TaskResult {
    loop {
        let due = due_ms(&node.identity(), rand::rng().random_range(0.0..1.0));
        loop {
            let now = now_ms();
            if now >= due {
                break;
            }
            sleep(Duration::from_millis(due - now).min(LONGEST_SLEEP)).await;
        }
        match renew(node).await {
            Ok(()) => tracing::info!("renewed this node's certificate"),
            Err(failure) => {
                tracing::warn!(%failure, "this node's certificate was not renewed");
                let left = node.identity().not_after_ms().saturating_sub(now_ms());
                let pause =
                    Duration::from_millis(left / 4).clamp(Duration::from_millis(200), TRY_AGAIN);
                sleep(pause).await;
            }
        }
    }
}

/// Two thirds of the lifetime, less up to a tenth of it, so that certificates
/// that were made together are not renewed together.
fn due_ms(identity: &NodeIdentity, jitter: f64) -> u64 {
    renewal_ms(identity.signed_ms(), identity.not_after_ms(), jitter)
}

/// When a certificate is to be renewed, milliseconds since 1970.
pub fn renewal_ms(signed: u64, not_after: u64, jitter: f64) -> u64 {
    let lifetime = not_after.saturating_sub(signed);
    let early = (lifetime as f64 / 10.0 * jitter) as u64;
    (signed + lifetime / 3 * 2).saturating_sub(early)
}

async fn renew(node: &Arc<Node>) -> Result<(), Failure> {
    let identity = node.identity();
    let keys = identity.key_pair().map_err(|error| internal(&error))?;
    let csr = keys.to_csr().map_err(|error| internal(&error))?;
    let expired = identity.not_after_ms() <= now_ms();
    let welcome = if expired {
        renew_expired(node, csr, &identity).await?
    } else {
        let request = LeaderRequest::Renew { node: node.id, csr };
        match node.ask_leader(&request).await? {
            LeaderAnswer::Welcome(welcome) => *welcome,
            _ => return Err(internal(&"the leader answered something else")),
        }
    };
    let renewed = bootstrap::accept(&welcome, &keys, &node.data)?;
    node.use_identity(renewed);
    Ok(())
}

/// Without a valid certificate nobody speaks to this node, so it asks as a
/// joiner does; its key says who it is.
async fn renew_expired(
    node: &Node,
    csr: Vec<u8>,
    identity: &NodeIdentity,
) -> Result<Welcome, Failure> {
    let request = JoinRequest::Renew { node: node.id, csr, now_ms: now_ms() };
    let mut last = internal(&"no other node is known");
    let view = node.membership.view();
    let members = view.members.values().map(|member| (member.node, member.address));
    // A node that has just started knows no member yet, but where they were.
    let state = node.control.state();
    let recorded = state.nodes.values().map(|record| (record.id, record.mesh));
    let addresses: BTreeSet<SocketAddr> =
        members.chain(recorded).filter(|(id, _)| *id != node.id).map(|(_, at)| at).collect();
    for address in addresses {
        match bootstrap::send(&address.to_string(), identity.ca_hash(), &request).await {
            Ok(welcome) => return Ok(welcome),
            Err((failure, _)) if failure.code == Code::IdentityRefused => return Err(failure),
            Err((failure, _)) => last = failure,
        }
    }
    Err(last)
}

fn internal(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, "the certificate cannot be renewed").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_two_thirds_and_after_half() {
        assert_eq!(renewal_ms(0, 900, 0.0), 600);
        assert_eq!(renewal_ms(0, 900, 1.0), 510);
        assert_eq!(renewal_ms(1000, 1000, 0.5), 1000);
    }
}
