//! Making another copy the primary, with a stall as short as possible.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rung_consensus::{ChangeError, Group, GroupStatus};
use rung_proto::NodeId;
use tokio::time::{sleep, timeout_at};

use crate::core::Core;
use crate::error::HandOverError;
use crate::status::CopyState;

/// The other copy may lack so many entries when writers begin to wait.
const CLOSE: u64 = 64;
/// Writers wait for so long at most before the attempt is given up.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether the writer rests.
const LOOK: Duration = Duration::from_millis(1);

/// Writers wait while this lives.
struct Pause<'a>(&'a Core);

impl<'a> Pause<'a> {
    fn begin(core: &'a Core) -> Result<Self, HandOverError> {
        let mut desk = core.desk();
        if desk.paused.is_some() {
            return Err(HandOverError::UnderWay);
        }
        desk.paused = Some(Instant::now());
        drop(desk);
        core.bell.notify_all();
        Ok(Self(core))
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.desk().paused = None;
        self.0.bell.notify_all();
    }
}

pub(crate) async fn hand_over(
    core: &Arc<Core>,
    group: &Group,
    to: NodeId,
    deadline: Duration,
) -> Result<(), HandOverError> {
    let until = Instant::now() + deadline;
    check(core, group, to)?;
    if to == core.config.node {
        return Ok(());
    }
    // Nobody waits yet: it may take long.
    catch_up(group, to, CLOSE, until).await?;
    let pause = Pause::begin(core)?;
    let began = Instant::now();
    let until = until.min(began + PAUSE);
    rest(core, until, to).await?;
    let rested = began.elapsed();
    catch_up(group, to, 0, until).await?;
    let caught_up = began.elapsed();
    let left = until.saturating_duration_since(Instant::now());
    let transferred = group.transfer_leader(to, left).await;
    drop(pause);
    if transferred.is_ok() {
        let (shard, took) = (&core.config.group.name, began.elapsed());
        tracing::info!(shard, %to, ?rested, ?caught_up, ?took, "handed over");
    }
    transferred.map_err(|error| match error {
        ChangeError::NotLeader { leader } => HandOverError::NotPrimary { primary: leader },
        ChangeError::Invalid(_) => HandOverError::NotAVoter(to),
        ChangeError::Stopped(why) => HandOverError::Stopped(why),
        ChangeError::OutcomeUnknown | ChangeError::InProgress(_) => HandOverError::TimedOut(to),
    })
}

fn check(core: &Core, group: &Group, to: NodeId) -> Result<(), HandOverError> {
    let state = core.desk().state.clone();
    match state {
        CopyState::Primary { .. } => {}
        CopyState::Stopped(stop) => return Err(HandOverError::Stopped(stop.to_string())),
        CopyState::Follower { primary } => return Err(HandOverError::NotPrimary { primary }),
        CopyState::Taking { .. } => return Err(HandOverError::NotPrimary { primary: None }),
    }
    let is_voter = group.status().borrow().voters.contains(&to);
    if is_voter { Ok(()) } else { Err(HandOverError::NotAVoter(to)) }
}

/// Waits until the other copy lacks at most so many entries.
async fn catch_up(
    group: &Group,
    to: NodeId,
    at_most: u64,
    until: Instant,
) -> Result<(), HandOverError> {
    let mut status = group.status();
    let close = status.wait_for(|status| !status.is_leader() || behind(status, to) <= at_most);
    match timeout_at(until.into(), close).await {
        Ok(Ok(status)) if status.is_leader() => Ok(()),
        Ok(Ok(status)) => Err(HandOverError::NotPrimary { primary: status.leader }),
        Ok(Err(_)) => Err(HandOverError::Stopped("it was closed".to_owned())),
        Err(_) => {
            let behind = behind(&group.status().borrow(), to);
            Err(HandOverError::Behind { node: to, behind })
        }
    }
}

fn behind(status: &GroupStatus, node: NodeId) -> u64 {
    let last = status.last.map_or(0, |last| last + 1);
    let matched = status.matched.get(&node).copied().flatten().map_or(0, |matched| matched + 1);
    last.saturating_sub(matched)
}

/// Waits until the writer rests and everything that it did is settled.
async fn rest(core: &Core, until: Instant, to: NodeId) -> Result<(), HandOverError> {
    loop {
        {
            let desk = core.desk();
            if desk.epoch().is_none() {
                return Err(HandOverError::NotPrimary { primary: None });
            }
            let patience = core.config.limits.hand_over_patience;
            let has_waited = desk.paused.is_none_or(|since| since.elapsed() >= patience);
            let no_drafts = has_waited || core.drafts.load(Ordering::SeqCst) == 0;
            if desk.is_at_rest() && no_drafts {
                return Ok(());
            }
        }
        if Instant::now() >= until {
            return Err(HandOverError::TimedOut(to));
        }
        sleep(LOOK).await;
    }
}
