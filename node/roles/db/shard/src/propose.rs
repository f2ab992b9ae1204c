//! Brings entries to the log in their order, several at a time.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rung_consensus::{Applied, Group, ProposeError};
use rung_pages::Position;
use tokio::sync::mpsc;

use crate::core::{Core, Proposal};
use crate::error::ShardError;
use crate::payload::SKIPPED;
use crate::status::CopyState;

/// How many entries may be under way: parts of a large transaction among them.
const UNDER_WAY: usize = 32;

type Proposed = (Position, Result<Applied, ProposeError>);

/// Proposes what the writer has executed, until the copy is closed or stops.
pub(crate) async fn propose_all(
    core: Arc<Core>,
    group: Group,
    mut proposals: mpsc::Receiver<Proposal>,
) {
    let mut under_way: FuturesUnordered<BoxFuture<'static, Proposed>> = FuturesUnordered::new();
    // The copy itself keeps a sender, so the channel does not end by itself.
    let mut state = core.state.subscribe();
    let stopped = async {
        // Either way nobody proposes any more.
        let _ = state.wait_for(|state| matches!(state, CopyState::Stopped(_))).await;
    };
    let mut stopped = pin!(stopped);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return,
            Some(proposed) = under_way.next(), if !under_way.is_empty() => note(&core, proposed),
            proposal = proposals.recv(), if under_way.len() < UNDER_WAY => {
                let Some(proposal) = proposal else { return };
                #[cfg(feature = "simulation")]
                linger(&core, &proposal).await;
                let mut proposed = propose(&core, &group, proposal);
                // The first look at it queues it, so that the order is kept.
                match (&mut proposed).now_or_never() {
                    Some(proposed) => note(&core, proposed),
                    None => under_way.push(proposed),
                }
            }
        }
    }
}

/// What a busy machine does now and then: the task does not run for a while.
#[cfg(feature = "simulation")]
async fn linger(core: &Core, proposal: &Proposal) {
    let pause = core.config.faults.slow_proposals;
    if !pause.is_zero() && proposal.position.sequence.is_multiple_of(5) {
        tokio::time::sleep(pause).await;
    }
}

fn propose(core: &Core, group: &Group, proposal: Proposal) -> BoxFuture<'static, Proposed> {
    let group = group.clone();
    let deadline = core.config.limits.propose;
    let Proposal { position, payload } = proposal;
    async move { (position, group.propose(payload, deadline).await) }.boxed()
}

/// What is known when a proposal ends. That an entry was applied was told by the
/// state machine already; of an unknown outcome it may still be told.
fn note(core: &Core, (position, proposed): Proposed) {
    let error = match proposed {
        Ok(Applied { answer, .. }) if answer == Bytes::from_static(SKIPPED) => ShardError::Lost,
        Ok(_) | Err(ProposeError::OutcomeUnknown) => return,
        Err(ProposeError::NotLeader { leader }) => ShardError::NotPrimary { primary: leader },
        Err(ProposeError::NoQuorum { .. }) => ShardError::NoQuorum,
        Err(ProposeError::Overloaded) => ShardError::Overloaded("entries of the group's log"),
        Err(error @ ProposeError::TooLarge { .. }) => ShardError::Failed(error.to_string()),
        Err(ProposeError::Stopped(why)) => ShardError::Stopped(why),
    };
    core.refuse(&position, error);
}
