//! A new generation of the cluster, when a majority of the control group's voters is
//! lost for good.
//!
//! Every node that can be reached and has a replica of the control log accepts the
//! generation before one log is taken: from then on it takes no part in the old group,
//! whose majority can therefore only come from nodes that the operator has vouched for
//! to be off. So nothing that was acknowledged with a survivor's help can be missing
//! from what is taken.

use std::collections::{BTreeMap, BTreeSet};

use rung_proto::api::Consent;
use rung_proto::soft::LogPlace;
use rung_proto::{Code, Failure, NodeId};
use serde::{Deserialize, Serialize};

use crate::plan::missing_consent;
use crate::state::State;

/// A replica of the control log, as its node tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// The last entry of its log, which counts.
    pub last: LogPlace,
    /// The last entry that it knows to be on a quorum.
    pub committed: Option<LogPlace>,
    /// Who votes, by that log.
    pub voters: BTreeSet<NodeId>,
}

/// What a node that can be reached tells of its part in the control group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The generation that it is in.
    pub generation: u64,
    /// One that it has accepted and that has not begun.
    pub accepted: Option<u64>,
    pub replica: Option<Replica>,
}

/// How a generation begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub generation: u64,
    /// Who has to accept it.
    pub survivors: BTreeSet<NodeId>,
}

/// Whether `me` may begin a new generation from its log, by what every node that can be
/// reached tells.
///
/// # Errors
/// `majority-reachable` when nothing needs to be lost, `no-candidate` and
/// `survivor-behind` when another log should be taken, `data-loss` without consent,
/// with what may be lost.
pub fn plan(
    me: NodeId,
    told: &BTreeMap<NodeId, Told>,
    consent: Consent,
    state: &State,
) -> Result<Plan, Failure> {
    let replicas: BTreeMap<NodeId, &Replica> =
        told.iter().filter_map(|(node, told)| Some((*node, told.replica.as_ref()?))).collect();
    let Some((best, most)) = replicas.iter().max_by_key(|(_, replica)| replica.last) else {
        return Err(Failure::new(
            Code::NoCandidate,
            "no replica of the control log can be reached",
        )
        .next("start a node that had a vote"));
    };
    let seen = seen(&replicas, &most.voters, state);
    let there = most.voters.iter().filter(|voter| replicas.contains_key(voter)).count();
    let has_begun = told.values().any(|told| told.accepted.is_some());
    if there * 2 > most.voters.len() && !has_begun {
        let what = "a majority of the control group's voters is reachable";
        return Err(Failure::new(Code::MajorityReachable, what)
            .because(seen)
            .next("nothing needs to be lost; `ctl doctor` says what keeps it from serving"));
    }
    if replicas.get(&me).is_none_or(|mine| mine.last < most.last) {
        let best = state.node_name(*best);
        let what = format!("the control log on {best} has more than the one here");
        return Err(Failure::new(Code::SurvivorBehind, what)
            .because(seen)
            .next(format!("run `ctl recover` on {best}")));
    }
    if !(consent.data_loss && consent.fenced) {
        let what = "recovering the control group may lose changes of the cluster";
        return Err(Failure::new(Code::DataLoss, what)
            .because(format!("{}; {seen}", loss(most)))
            .next(missing_consent(consent)));
    }
    let highest = told.values().map(|told| told.generation.max(told.accepted.unwrap_or(0))).max();
    Ok(Plan { generation: highest.unwrap_or(0) + 1, survivors: replicas.into_keys().collect() })
}

/// Checks, when all survivors have stopped, that none has more than `me`.
///
/// # Errors
/// `survivor-behind` when one has.
pub fn check(
    me: NodeId,
    stopped: &BTreeMap<NodeId, LogPlace>,
    state: &State,
) -> Result<(), Failure> {
    let mine = stopped.get(&me).copied();
    match stopped.iter().find(|(_, last)| Some(**last) > mine) {
        None => Ok(()),
        Some((node, _)) => {
            let node = state.node_name(*node);
            let what = format!("the control log on {node} turned out to have more");
            Err(Failure::new(Code::SurvivorBehind, what)
                .next(format!("run `ctl recover` again, on {node}")))
        }
    }
}

fn seen(replicas: &BTreeMap<NodeId, &Replica>, voters: &BTreeSet<NodeId>, state: &State) -> String {
    let reachable = replicas.iter().map(|(node, replica)| {
        let LogPlace { term, index } = replica.last;
        format!("{} is reachable, its control log up to {term}.{index}", state.node_name(*node))
    });
    let lost = voters.iter().filter(|voter| !replicas.contains_key(voter));
    let lost = lost.map(|node| format!("{} is unreachable", state.node_name(*node)));
    reachable.chain(lost).collect::<Vec<_>>().join("; ")
}

fn loss(most: &Replica) -> String {
    let known = most.committed.map_or("nothing".to_owned(), |LogPlace { term, index }| {
        format!("entry {index} of term {term}")
    });
    format!(
        "known to be on a quorum: {known}; lost would be whatever the unreachable voters agreed on \
         without this one after entry {}",
        most.last.index
    )
}

#[cfg(test)]
mod tests;
