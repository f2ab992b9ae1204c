//! Follows who leads the group, and becomes the primary when this node does.

use std::sync::Arc;
use std::time::Duration;

use rung_consensus::{Group, GroupRole};
use tokio::time::sleep;

use crate::core::Core;
use crate::payload::{self, APPLIED};
use crate::status::{CopyState, Stop};

/// Between two attempts to have a barrier applied.
const AGAIN: Duration = Duration::from_millis(20);

/// Follows the group's status until the group ends.
pub(crate) async fn follow_group(core: Arc<Core>, group: Group) {
    let mut status = group.status();
    loop {
        let (role, term, leader) = {
            let now = status.borrow_and_update();
            (now.role.clone(), now.term, now.leader)
        };
        match role {
            GroupRole::Stopped(why) => {
                core.stop(Stop::Failed(why));
                return;
            }
            GroupRole::Leader => {
                let knows = match core.desk().state {
                    CopyState::Primary { epoch } | CopyState::Taking { epoch } => epoch == term,
                    _ => false,
                };
                if !knows {
                    core.set_state(CopyState::Taking { epoch: term });
                    tokio::spawn(take_over(Arc::clone(&core), group.clone(), term));
                }
            }
            _ => core.follow(leader),
        }
        if status.changed().await.is_err() {
            core.stop(Stop::Closed);
            return;
        }
    }
}

/// Has an entry of the new epoch applied, after which nothing older can be. What
/// this copy executed in an earlier epoch and nobody committed is taken back by it.
async fn take_over(core: Arc<Core>, group: Group, epoch: u64) {
    let taking = CopyState::Taking { epoch };
    loop {
        let for_store = Arc::clone(&core);
        let barrier = tokio::task::spawn_blocking(move || {
            let generation = for_store.config.generation.0;
            for_store.store().map(|store| store.generation_barrier(generation, epoch))
        });
        let Ok(Ok(barrier)) = barrier.await else { return };
        if core.desk().state != taking {
            return;
        }
        let payload = payload::encode(epoch, &barrier);
        let proposed = group.propose(payload, core.config.limits.propose).await;
        if matches!(&proposed, Ok(applied) if applied.answer == APPLIED) {
            break;
        }
        tracing::debug!(?proposed, epoch, "a barrier was not applied");
        sleep(AGAIN).await;
    }
    let is_taking = core.desk().state == taking;
    if is_taking {
        // All that was given before is in the file, or nowhere.
        core.sequences.forget();
        core.set_state(CopyState::Primary { epoch });
    }
}
