//! Brings entries to the log in their order, several at a time.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use rung_consensus::{Applied, Group, ProposeError};
use rung_pages::Position;

use crate::batch::panicked;
use crate::core::Core;
use crate::error::ShardError;
use crate::outbox::Entry;
use crate::payload::{self, SKIPPED};
use crate::status::CopyState;

/// How many entries may be under way: parts of a large transaction among them.
const UNDER_WAY: usize = 32;

type Proposed = (Position, Result<Applied, ProposeError>);

/// A part of an entry.
struct Proposal {
    position: Position,
    payload: Bytes,
}

/// Proposes what was committed, until the copy is closed or stops.
pub(crate) async fn propose_all(core: Arc<Core>, group: Group) {
    let mut under_way: FuturesUnordered<BoxFuture<'static, Proposed>> = FuturesUnordered::new();
    let mut state = core.state.subscribe();
    let stopped = async {
        // Either way nobody proposes any more.
        let _ = state.wait_for(|state| matches!(state, CopyState::Stopped(_))).await;
    };
    let mut stopped = pin!(stopped);
    let proposals = stream::unfold(None, |entry| next_part(&core, entry));
    let mut proposals = pin!(proposals);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return,
            Some(proposed) = under_way.next(), if !under_way.is_empty() => note(&core, proposed),
            proposal = proposals.next(), if under_way.len() < UNDER_WAY => {
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

/// Waits for the next part of this entry, or of the one after it.
async fn next_part(
    core: &Arc<Core>,
    mut entry: Option<Entry>,
) -> Option<(Proposal, Option<Entry>)> {
    loop {
        if let Some(begun) = entry.filter(|entry| entry.parts.left() > 0)
            && let Some(part) = part_of(core, begun).await
        {
            return Some(part);
        }
        entry = core.outbox.take();
        if entry.is_none() {
            wait_for_commits(core).await;
        }
    }
}

/// The next part of an entry, unless it is known that it will never be applied.
async fn part_of(core: &Arc<Core>, mut entry: Entry) -> Option<(Proposal, Option<Entry>)> {
    if !core.desk().in_flight.contains(&entry.position) {
        return None;
    }
    let encode = |mut entry: Entry| {
        let part = entry.parts.next();
        let part = part.map(|part| part.map(|part| payload::encode(entry.epoch, &part)));
        (part, entry)
    };
    let position = entry.position;
    let encoded;
    if entry.parts.total() == 1 {
        (encoded, entry) = encode(entry);
    } else {
        // There are many pages to read and to compress.
        match tokio::task::spawn_blocking(move || encode(entry)).await {
            Ok(done) => (encoded, entry) = done,
            Err(_) => {
                // Those who wait must not wait for ever, nor the writes behind them.
                core.refuse(&position, panicked());
                return None;
            }
        }
    }
    match encoded? {
        Ok(payload) => Some((Proposal { position, payload }, Some(entry))),
        Err(error) => {
            core.refuse(&position, ShardError::Failed(error.to_string()));
            None
        }
    }
}

/// Makes an entry of what was deferred when it is time for it, or waits until there is
/// one or it is time.
async fn wait_for_commits(core: &Arc<Core>) {
    let due = core.desk().due(core.others_until(), &core.config.limits);
    if due.is_none_or(|due| std::time::Instant::now() < due) {
        return core.outbox.rung(due).await;
    }
    let is_free = core.store_at_once().map(|mut store| core.capture_deferred(&mut store));
    if is_free.is_none() {
        let core = Arc::clone(core);
        let captured = tokio::task::spawn_blocking(move || {
            if let Ok(mut store) = core.store() {
                core.capture_deferred(&mut store);
            }
        });
        // It fails only when the program ends.
        let _ = captured.await;
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
