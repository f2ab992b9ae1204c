//! Whose turn it is after an election that nobody won.
//!
//! Voters ask for votes after times drawn at random. Where these differ by less than a
//! request for a vote travels, two voters that are left of three take each other's votes.
//! So after a term that nobody won they take turns: one may ask at once, the next after what
//! that one needs at most. The order is another one in each term, in case the first is dead
//! or lacks entries.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Raft;
use rung_proto::NodeId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::raft_types::Types;
use crate::replica::Replica;
use crate::returning::Returning;
use crate::status::{GroupRole, GroupStatus};

/// How long a voter lets others ask first. `longest` is the longest election timeout: the
/// first asks within that, and its request, after a round of pre-votes, comes to the next
/// within another one.
fn waits(
    voters: &BTreeSet<NodeId>,
    lost: Option<NodeId>,
    me: NodeId,
    term: u64,
    longest: Duration,
) -> Duration {
    let candidates: Vec<NodeId> =
        voters.iter().copied().filter(|voter| Some(*voter) != lost).collect();
    let Some(place) = candidates.iter().position(|voter| *voter == me) else {
        return Duration::ZERO;
    };
    let count = candidates.len() as u64;
    let rank = (place as u64 + term) % count;
    match u32::try_from(rank) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(rank) => longest * (rank + 1),
    }
}

/// Has this voter keep to its turns until the group ends.
pub(crate) async fn keep_turns(
    raft: Raft<Types, Replica>,
    mut status: watch::Receiver<GroupStatus>,
    returning: Returning,
    me: NodeId,
    longest: Duration,
) {
    let mut term = status.borrow().term;
    let mut leader = None;
    let mut turn: Option<Instant> = None;
    loop {
        {
            let now = status.borrow_and_update();
            if matches!(now.role, GroupRole::Stopped(_)) {
                return;
            }
            // One that has yet to return stays out of elections altogether.
            if !returning.is_true() {
                if now.leader.is_some() {
                    leader = now.leader;
                    if turn.take().is_some() {
                        raft.runtime_config().elect(true);
                    }
                } else if now.term > term {
                    let waits = waits(&now.voters, leader, me, now.term, longest);
                    raft.runtime_config().elect(waits.is_zero());
                    turn = (!waits.is_zero()).then(|| Instant::now() + waits);
                }
            }
            term = now.term;
        }
        let my_turn = async {
            match turn {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return },
            () = my_turn => {
                turn = None;
                raft.runtime_config().elect(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_voter_asks_at_once_and_the_others_after_each_other() {
        let voters: BTreeSet<NodeId> = (1..=5).map(NodeId).collect();
        let longest = Duration::from_millis(100);
        for term in 7..12 {
            let mut all: Vec<u128> = (1..=5)
                .filter(|me| *me != 2)
                .map(|me| waits(&voters, Some(NodeId(2)), NodeId(me), term, longest).as_millis())
                .collect();
            assert_eq!(all.iter().position(|wait| *wait == 0), Some((8 - term as usize % 4) % 4));
            all.sort_unstable();
            assert_eq!(all, [0, 200, 300, 400], "term {term}");
        }
        // Who does not vote has nothing to wait for.
        assert!(waits(&voters, None, NodeId(9), 7, longest).is_zero());
    }
}
