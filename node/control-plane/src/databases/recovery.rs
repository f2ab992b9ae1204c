//! A new generation of a shard when a majority of its copies is lost for good.
//!
//! Every survivor accepts the generation before one of them is taken: from then on
//! it takes no part in its old group, whose majority can therefore only come from
//! copies that the operator has vouched for to be off. So nothing that was
//! acknowledged with a survivor's help can be missing from what is taken.

use std::collections::BTreeSet;

use rung_proto::soft::{CopyPosition, CopyState, CopyStatus, LogPlace, SealedCopy};
use rung_proto::{Code, Failure, NodeId};

use crate::command::{Command, DatabaseCommand};
use crate::operation::Progress;
use crate::state::{ShardRecord, State};
use crate::view::View;

/// The copies of a shard as far as they can be seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copies {
    /// Those that can be reached and are sound, with what they have.
    pub survivors: Vec<Survivor>,
    /// Who votes in the group, as the survivor that has the most says.
    pub voters: BTreeSet<NodeId>,
    /// The other voters, and the last batch that each was known to have, if one was.
    pub lost: Vec<(NodeId, Option<u64>)>,
}

/// A copy that can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survivor {
    pub node: NodeId,
    /// The last entry of its log, which counts.
    pub last: LogPlace,
    /// The last batch that it knows a quorum had.
    pub sequence: u64,
    /// When it has accepted a new generation already.
    pub sealed: Option<SealedCopy>,
}

impl Survivor {
    fn of(node: NodeId, copy: &CopyStatus) -> Option<Self> {
        let is_sound = copy.state != CopyState::Broken;
        let last = copy.sealed.map(|sealed| sealed.last).or(copy.last)?;
        let (sequence, sealed) = (copy.sequence, copy.sealed);
        is_sound.then_some(Self { node, last, sequence, sealed })
    }
}

impl Copies {
    /// The copies of a shard's group.
    pub fn of(shard: &ShardRecord, state: &State, view: &View) -> Self {
        let up = state.nodes.keys().copied().filter(|node| view.is_up(*node));
        let told = up.filter_map(|node| Some((node, view.copy(node, shard.group)?)));
        let mut survivors: Vec<(Survivor, &CopyStatus)> =
            told.filter_map(|(node, copy)| Some((Survivor::of(node, copy)?, copy))).collect();
        survivors
            .sort_by_key(|(survivor, _)| std::cmp::Reverse((survivor.last, survivor.sequence)));
        let first = survivors.iter().find(|(_, copy)| !copy.voters.is_empty());
        let voters: BTreeSet<NodeId> =
            first.into_iter().flat_map(|(_, copy)| copy.voters.iter().copied()).collect();
        let survivors: Vec<Survivor> =
            survivors.into_iter().map(|(survivor, _)| survivor).collect();
        let is_lost = |node: &&NodeId| survivors.iter().all(|survivor| survivor.node != **node);
        let had = |node: &NodeId| {
            let told = view.soft.get(node)?.databases.iter().find(|copy| copy.group == shard.group);
            told.map(|copy| copy.sequence)
        };
        let lost = voters.iter().filter(is_lost).map(|node| (*node, had(node))).collect();
        Self { survivors, voters, lost }
    }

    /// Whether those that can be reached cannot elect a primary.
    pub fn majority_is_lost(&self) -> bool {
        let there = self.voters.len() - self.lost.len();
        there * 2 <= self.voters.len()
    }

    /// The survivor to take: the one that has the most, or the one that was chosen.
    ///
    /// # Errors
    /// When there is none, or another one has more than the chosen one.
    pub fn choose(&self, from: Option<NodeId>, state: &State) -> Result<&Survivor, Failure> {
        let Some(best) = self.survivors.first() else {
            return Err(Failure::new(Code::NoCandidate, "no copy of the database can be reached")
                .next("start a node that has one, or restore a backup"));
        };
        let Some(from) = from else { return Ok(best) };
        let chosen = self.survivors.iter().find(|survivor| survivor.node == from);
        match chosen {
            None => Err(Failure::new(
                Code::NoCandidate,
                format!("{} has no copy to recover from", state.node_name(from)),
            )
            .because(self.seen(state))
            .next("leave --from out, and the copy that has the most is taken")),
            Some(chosen) if chosen.last < best.last => {
                let (from, best) = (state.node_name(from), state.node_name(best.node));
                Err(Failure::new(
                    Code::SurvivorBehind,
                    format!("the copy on {from} has less than the one on {best}"),
                )
                .because(self.seen(state))
                .next(format!("recover from {best}, or leave --from out")))
            }
            Some(chosen) => Ok(chosen),
        }
    }

    /// Every copy, and what it is known to have.
    pub fn seen(&self, state: &State) -> String {
        let survivors = self.survivors.iter().map(|survivor| {
            let LogPlace { term, index } = survivor.last;
            format!(
                "{} is reachable, with batch {} on a quorum and its log up to {term}.{index}",
                state.node_name(survivor.node),
                survivor.sequence
            )
        });
        let lost = self.lost.iter().map(|(node, had)| {
            let had = had.map_or("nothing is known of what it had".to_owned(), |sequence| {
                format!("last known at batch {sequence}")
            });
            format!("{} is unreachable, {had}", state.node_name(*node))
        });
        survivors.chain(lost).collect::<Vec<_>>().join("; ")
    }

    /// How much may be lost if a survivor is taken.
    pub fn loss(&self, survivor: &Survivor) -> String {
        let most = self.lost.iter().filter_map(|(_, had)| *had).max().unwrap_or(0);
        let least = match most.saturating_sub(survivor.sequence) {
            0 => "as far as known nothing".to_owned(),
            1 => "1 batch of transactions that was known".to_owned(),
            more => format!("{more} batches of transactions that were known"),
        };
        format!(
            "the last position known to be on a quorum is batch {} of epoch {}; lost would be \
             {least}, and whatever the unreachable copies acknowledged without this one after it",
            survivor.sequence, survivor.last.term
        )
    }
}

/// Whether nothing can be written to a shard before an operator starts nodes or gives
/// up what they have.
pub fn needs_operator(shard: &ShardRecord, state: &State, view: &View) -> bool {
    let serves =
        view.primary(shard.group).is_some_and(|(_, copy)| copy.state == CopyState::Serving);
    let copies = Copies::of(shard, state, view);
    let is_lost = !copies.survivors.is_empty() && copies.majority_is_lost();
    shard.founded && !serves && (is_lost || shard.recovery.is_some())
}

/// What an operator does then.
pub fn advice(database: &str) -> String {
    format!(
        "start the nodes of the other copies; if they are gone for good, `ctl db recover \
         {database}` says what would be lost"
    )
}

/// Takes a survivor once all have accepted the generation; until then what is waited
/// for.
pub(crate) fn choose(
    database: &str,
    shard: u32,
    generation: u64,
    state: &State,
    view: &View,
) -> Result<(String, Command), Progress> {
    let record = state.databases.get(database).and_then(|record| record.shards.get(&shard));
    let begun = record.and_then(|record| Some((record, record.recovery.as_ref()?)));
    let Some((record, recovery)) = begun.filter(|(_, recovery)| recovery.generation == generation)
    else {
        let what = format!("generation {generation} of {database}/{shard} was given up");
        return Err(Progress::Failed(Failure::new(Code::Precondition, what)));
    };
    let sealed = |node: &NodeId| {
        let sealed = view.copy(*node, record.group)?.sealed?;
        (sealed.generation == generation && view.is_up(*node)).then_some((*node, sealed))
    };
    let all: Vec<(NodeId, SealedCopy)> = recovery.survivors.iter().filter_map(sealed).collect();
    if all.len() < recovery.survivors.len() {
        let told: BTreeSet<NodeId> = all.iter().map(|(node, _)| *node).collect();
        let missing = recovery.survivors.difference(&told).map(|node| state.node_name(*node));
        let missing = missing.collect::<Vec<_>>().join(", ");
        return Err(Progress::Waiting(format!("not yet stopped: {missing}")));
    }
    let (node, fork) = take(&all, recovery.from, state).map_err(Progress::Failed)?;
    let command = Command::Database {
        database: database.to_owned(),
        change: DatabaseCommand::ChooseSurvivor { shard, generation, node, fork },
    };
    let CopyPosition { epoch, sequence, .. } = fork.committed;
    let note = format!(
        "{} has the most: {}; known to be on a quorum: batch {sequence} of epoch {epoch}",
        state.node_name(node),
        fork.end
    );
    Ok((note, command))
}

fn take(
    all: &[(NodeId, SealedCopy)],
    from: Option<NodeId>,
    state: &State,
) -> Result<(NodeId, SealedCopy), Failure> {
    let key = |(_, sealed): &&(NodeId, SealedCopy)| {
        (sealed.end.generation, sealed.last, sealed.end.sequence)
    };
    let best = all.iter().filter(|(_, sealed)| sealed.end.sequence > 0).max_by_key(key);
    let Some(best) = best else {
        return Err(Failure::new(Code::NoCandidate, "no survivor has anything"));
    };
    let seen = || {
        let each = all
            .iter()
            .map(|(node, sealed)| format!("{} is at {}", state.node_name(*node), sealed.end));
        each.collect::<Vec<_>>().join("; ")
    };
    let chosen = match from {
        None => best,
        Some(from) => all.iter().find(|(node, _)| *node == from).unwrap_or(best),
    };
    if key(&chosen) < key(&best) {
        let what = format!("the copy on {} has less than another one", state.node_name(chosen.0));
        return Err(Failure::new(Code::SurvivorBehind, what)
            .because(seen())
            .next("recover again, without --from"));
    }
    let differs = |other: &&(NodeId, SealedCopy)| {
        key(other) == key(&chosen) && other.1.end.hash != chosen.1.end.hash
    };
    if from.is_none() && all.iter().any(|other| differs(&other)) {
        return Err(Failure::new(Code::Precondition, "two copies have as much and differ")
            .because(seen())
            .next("recover again, and say which one with --from"));
    }
    Ok(*chosen)
}

/// Whether the new generation is the shard's.
pub(crate) fn is_recovered(database: &str, shard: u32, generation: u64, state: &State) -> Progress {
    let record = state.databases.get(database).and_then(|record| record.shards.get(&shard));
    let Some(record) = record else {
        let what = format!("shard {shard} of {database} was removed meanwhile");
        return Progress::Failed(Failure::new(Code::NotFound, what));
    };
    match &record.recovery {
        None if record.generation == generation => Progress::Reached,
        Some(recovery) if recovery.generation == generation => {
            let node = recovery.chosen.map(|(node, _)| state.node_name(node)).unwrap_or_default();
            Progress::Waiting(format!("{node} makes it from its copy"))
        }
        _ => {
            let what = format!("generation {generation} of {database}/{shard} was given up");
            Progress::Failed(Failure::new(Code::Precondition, what))
        }
    }
}

/// The new group exists once the node that was chosen leads it.
pub(super) fn recovered(number: u32, shard: &ShardRecord, view: &View) -> Option<DatabaseCommand> {
    let recovery = shard.recovery.as_ref()?;
    let (node, _) = recovery.chosen?;
    let copy = view.copy(node, recovery.group).filter(|_| view.is_up(node))?;
    let leads =
        copy.kind == rung_proto::soft::CopyKind::Primary && copy.state == CopyState::Serving;
    let generation = recovery.generation;
    leads.then_some(DatabaseCommand::Recovered { shard: number, generation })
}

#[cfg(test)]
mod tests;
