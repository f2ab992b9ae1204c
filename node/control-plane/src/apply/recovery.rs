//! Commands that make a new generation, of a shard after a majority of its copies was
//! lost for good, or of the cluster after a majority of the control group was.

use rung_proto::{Code, Failure, GroupId, NodeId};

use super::databases::find;
use super::{Attempt, refuse};
use crate::command::DatabaseCommand;
use crate::state::{
    DatabaseRecord, MAX_RETIRED, RecoveryRecord, RetiredGroup, ShardRecord, Update,
};

/// Ids that the lost voters may have given after what the new generation knows. None
/// of them is given again, since there may be copies and instances of those names.
const SKIPPED_IDS: u64 = 1 << 20;

impl Attempt<'_> {
    pub(super) fn begin_generation(&mut self, generation: u64, node: NodeId) {
        if generation <= self.machine.state.generation {
            return;
        }
        self.put(Update::Generation(generation));
        self.put(Update::NextId(self.machine.state.next_id + SKIPPED_IDS));
        let node = self.machine.state.node_name(node);
        let message = format!("the cluster is in generation {generation}, from the log of {node}");
        self.event("generation-begun", message, Some(node), None);
    }

    pub(super) fn recovery(
        &mut self,
        record: &mut DatabaseRecord,
        change: &DatabaseCommand,
    ) -> Result<(), Failure> {
        match change {
            DatabaseCommand::BeginRecovery { shard, generation, survivors, from } => {
                let shard = find(record, *shard)?;
                let known = shard.recovery.as_ref().map_or(0, |recovery| recovery.generation);
                if !shard.founded || *generation <= shard.generation.max(known) {
                    return refuse(Code::Precondition, "this generation has begun already");
                }
                if survivors.is_empty() {
                    return refuse(Code::Precondition, "there is no survivor");
                }
                shard.preferred = None;
                shard.recovery = Some(RecoveryRecord {
                    generation: *generation,
                    group: GroupId(self.next_id()),
                    survivors: survivors.clone(),
                    from: *from,
                    chosen: None,
                });
            }
            DatabaseCommand::ChooseSurvivor { shard, generation, node, fork } => {
                let recovery = recovery_of(find(record, *shard)?, *generation)?;
                if recovery.chosen.is_some() || !recovery.survivors.contains(node) {
                    return refuse(Code::Precondition, "another survivor was taken");
                }
                recovery.chosen = Some((*node, *fork));
            }
            DatabaseCommand::Recovered { shard, generation } => {
                let number = *shard;
                let shard = find(record, number)?;
                let recovery = recovery_of(shard, *generation)?.clone();
                let Some((node, fork)) = recovery.chosen else {
                    return refuse(Code::Precondition, "no survivor was taken yet");
                };
                retire(shard, &recovery, fork);
                let node = self.machine.state.node_name(node);
                let message = format!(
                    "{}/{number} is in generation {generation}, made from the copy of {node} at {}",
                    record.name, fork.end
                );
                self.event("database-recovered", message, Some(node), None);
            }
            _ => {}
        }
        Ok(())
    }
}

fn recovery_of(shard: &mut ShardRecord, generation: u64) -> Result<&mut RecoveryRecord, Failure> {
    let begun = shard.recovery.as_mut().filter(|recovery| recovery.generation == generation);
    begun.ok_or_else(|| {
        Failure::new(Code::Precondition, format!("generation {generation} is not being made"))
    })
}

/// The new group takes the place of the old one.
fn retire(shard: &mut ShardRecord, recovery: &RecoveryRecord, fork: rung_proto::soft::SealedCopy) {
    shard.retired.push(RetiredGroup { group: shard.group, generation: shard.generation, fork });
    let excess = shard.retired.len().saturating_sub(MAX_RETIRED);
    shard.retired.drain(..excess);
    (shard.group, shard.generation) = (recovery.group, recovery.generation);
    (shard.founder, shard.witness, shard.recovery) =
        (recovery.chosen.map(|(node, _)| node), None, None);
}
