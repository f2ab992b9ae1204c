//! How a shard's group gets from the members that it has to those that it should
//! have, one step at a time. Whoever leads the group takes the steps.

use std::collections::BTreeSet;

use rung_proto::NodeId;

use super::voters;

/// The members that a group should have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Nodes that hold the data.
    pub copies: BTreeSet<NodeId>,
    /// The node that holds only the log.
    pub witness: Option<NodeId>,
    /// The node that should lead, while somebody asks for it.
    pub preferred: Option<NodeId>,
}

impl Wanted {
    fn contains(&self, node: NodeId) -> bool {
        self.copies.contains(&node) || self.witness == Some(node)
    }
}

/// A group as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of the voters was begun and not finished.
    pub changing: bool,
    /// Nodes that are up.
    pub up: BTreeSet<NodeId>,
    /// Nodes that have opened the group as what they should be, and work.
    pub open: BTreeSet<NodeId>,
    /// Members whose copies must be made anew: they are taken out, so that they can
    /// come back. A broken voter is of no more use than one less.
    pub broken: BTreeSet<NodeId>,
    /// Of the members, those that have (nearly) all of the log.
    pub caught_up: BTreeSet<NodeId>,
    /// Members that hold the data and could lead.
    pub able: BTreeSet<NodeId>,
}

/// One change of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberStep {
    AddLearner(NodeId),
    RemoveLearner(NodeId),
    ChangeVoters(BTreeSet<NodeId>),
    HandOver(NodeId),
}

/// What the leader `me` should do next; nothing when all is as it should be, or
/// nothing can be done now.
pub fn member_step(me: NodeId, wanted: &Wanted, seen: &Seen) -> Option<MemberStep> {
    let members = || wanted.copies.iter().copied().chain(wanted.witness);
    let is_member = |node: &NodeId| seen.voters.contains(node) || seen.learners.contains(node);
    if let Some(new) = members().find(|node| !is_member(node) && seen.open.contains(node)) {
        return Some(MemberStep::AddLearner(new));
    }
    let target = target(me, wanted, seen);
    if target != seen.voters || seen.changing {
        if target.contains(&me) {
            return Some(MemberStep::ChangeVoters(target));
        }
        return Some(match successor(&target, wanted, seen) {
            Some(node) => MemberStep::HandOver(node),
            // Nobody else votes yet who could lead.
            None => {
                let with_me: BTreeSet<NodeId> = target.into_iter().chain([me]).collect();
                if with_me == seen.voters && !seen.changing {
                    return None;
                }
                MemberStep::ChangeVoters(with_me)
            }
        });
    }
    let useless = |node: &&NodeId| !wanted.contains(**node) || seen.broken.contains(node);
    if let Some(left) = seen.learners.iter().find(useless) {
        return Some(MemberStep::RemoveLearner(*left));
    }
    let preferred = wanted.preferred.filter(|node| *node != me);
    preferred
        .filter(|node| seen.voters.contains(node) && seen.able.contains(node))
        .map(MemberStep::HandOver)
}

/// The voters that the group can have now. It never gets smaller because voters
/// died: one that is gone stays until another one takes its place. A majority of
/// it is up, so that it can be reached.
fn target(me: NodeId, wanted: &Wanted, seen: &Seen) -> BTreeSet<NodeId> {
    let ready = |node: &NodeId| {
        seen.open.contains(node)
            && (seen.voters.contains(node)
                || (seen.learners.contains(node) && seen.caught_up.contains(node)))
    };
    // What cannot be told now stays as it is.
    let stays = |node: &NodeId| seen.voters.contains(node) && !seen.up.contains(node);
    let fits = |node: &NodeId| ready(node) || stays(node);
    let copies: BTreeSet<NodeId> = wanted.copies.iter().copied().filter(fits).collect();
    let witness = wanted.witness.filter(fits);
    let mut target = voters(&copies, witness, &seen.voters);
    let all = voters(&wanted.copies, wanted.witness, &seen.voters).len();
    let usable = |node: &NodeId| !target.contains(node) && !seen.broken.contains(node);
    let mut left: Vec<NodeId> = seen.voters.iter().copied().filter(usable).collect();
    left.sort_by_key(|node| (*node != me, !seen.up.contains(node), *node));
    let short = all.min(seen.voters.len()).saturating_sub(target.len());
    target.extend(left.into_iter().take(short));
    // A change takes a majority of those before and of those after it.
    let majority = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|node| seen.up.contains(node)).count() * 2 > voters.len()
    };
    if majority(&target) && majority(&seen.voters) { target } else { seen.voters.clone() }
}

fn successor(target: &BTreeSet<NodeId>, wanted: &Wanted, seen: &Seen) -> Option<NodeId> {
    let can = |node: &&NodeId| seen.voters.contains(node) && seen.able.contains(node);
    target.iter().filter(can).min_by_key(|node| (wanted.preferred != Some(**node), **node)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::ids;

    const ME: NodeId = NodeId(1);

    fn wanted(copies: &[u64], witness: Option<u64>) -> Wanted {
        Wanted { copies: ids(copies), witness: witness.map(NodeId), preferred: None }
    }

    /// Everybody is up, open and has everything.
    fn seen(voters: &[u64], learners: &[u64]) -> Seen {
        let all: BTreeSet<NodeId> = (1..=9).map(NodeId).collect();
        Seen {
            voters: ids(voters),
            learners: ids(learners),
            changing: false,
            broken: ids(&[]),
            up: all.clone(),
            open: all.clone(),
            caught_up: all.clone(),
            able: all,
        }
    }

    /// Takes steps as the group would, until nothing is left to do.
    fn settle(me: u64, wanted: &Wanted, seen: &mut Seen) -> u64 {
        let mut leader = NodeId(me);
        for _ in 0..20 {
            match member_step(leader, wanted, seen) {
                None => return leader.0,
                Some(MemberStep::AddLearner(node)) => {
                    assert!(seen.learners.insert(node));
                }
                Some(MemberStep::RemoveLearner(node)) => {
                    assert!(seen.learners.remove(&node));
                }
                Some(MemberStep::ChangeVoters(voters)) => {
                    assert!(voters.contains(&leader));
                    let learn = |node: &&NodeId| !voters.contains(node);
                    seen.learners = seen.learners.iter().filter(learn).copied().collect();
                    (seen.voters, seen.changing) = (voters, false);
                }
                Some(MemberStep::HandOver(node)) => {
                    assert!(seen.voters.contains(&node) && node != leader);
                    leader = node;
                    if wanted.preferred == Some(node) {
                        return node.0;
                    }
                }
            }
        }
        panic!("never at rest: {seen:?}");
    }

    #[test]
    fn a_group_of_one_grows_to_three_by_learners_first() {
        let mut seen = seen(&[1], &[]);
        let wanted = wanted(&[1, 2, 3], None);
        assert_eq!(member_step(ME, &wanted, &seen), Some(MemberStep::AddLearner(NodeId(2))));
        settle(1, &wanted, &mut seen);
        assert_eq!((seen.voters, seen.learners), (ids(&[1, 2, 3]), ids(&[])));
    }

    #[test]
    fn a_copy_that_is_not_there_yet_does_not_vote() {
        let mut seen = seen(&[1], &[]);
        seen.open = ids(&[1, 2]);
        seen.caught_up = ids(&[1]);
        assert_eq!(settle(1, &wanted(&[1, 2, 3], None), &mut seen), 1);
        assert_eq!((seen.voters, seen.learners), (ids(&[1]), ids(&[2])));
    }

    #[test]
    fn a_voter_that_died_stays_until_another_one_has_everything() {
        let mut seen = seen(&[1, 2, 3], &[]);
        seen.up.remove(&NodeId(3));
        seen.open.remove(&NodeId(3));
        seen.caught_up.remove(&NodeId(4));
        let wanted = wanted(&[1, 2, 4], None);
        settle(1, &wanted, &mut seen);
        assert_eq!(seen.voters, ids(&[1, 2, 3]));
        seen.caught_up.insert(NodeId(4));
        settle(1, &wanted, &mut seen);
        assert_eq!(seen.voters, ids(&[1, 2, 4]));
    }

    #[test]
    fn a_leader_that_is_to_go_hands_over_before_it_is_taken_out() {
        let mut seen = seen(&[1], &[]);
        assert_eq!(settle(1, &wanted(&[2], None), &mut seen), 2);
        assert_eq!((seen.voters, seen.learners), (ids(&[2]), ids(&[])));
    }

    #[test]
    fn a_witness_votes_and_never_takes_over() {
        let mut seen = seen(&[1], &[]);
        seen.able.remove(&NodeId(3));
        let mut wanted = wanted(&[1, 2], Some(3));
        settle(1, &wanted, &mut seen);
        assert_eq!(seen.voters, ids(&[1, 2, 3]));
        wanted.preferred = Some(NodeId(3));
        assert_eq!(member_step(ME, &wanted, &seen), None);
        wanted.preferred = Some(NodeId(2));
        assert_eq!(member_step(ME, &wanted, &seen), Some(MemberStep::HandOver(NodeId(2))));
    }

    #[test]
    fn a_broken_copy_is_taken_out_so_that_it_can_be_made_again() {
        let mut seen = seen(&[1, 2, 3], &[4]);
        seen.open.remove(&NodeId(3));
        settle(1, &wanted(&[1, 2, 3, 4], None), &mut seen);
        assert_eq!(seen.voters, ids(&[1, 2, 4]));
    }

    #[test]
    fn a_broken_copy_without_a_spare_node_is_taken_out_and_comes_back() {
        let mut seen = seen(&[1, 2, 3], &[]);
        seen.open.remove(&NodeId(3));
        seen.broken.insert(NodeId(3));
        let wanted = wanted(&[1, 2, 3], None);
        settle(1, &wanted, &mut seen);
        assert_eq!((&seen.voters, &seen.learners), (&ids(&[1, 2]), &ids(&[])));
        seen.broken.clear();
        seen.open.insert(NodeId(3));
        settle(1, &wanted, &mut seen);
        assert_eq!(seen.voters, ids(&[1, 2, 3]));
    }

    #[test]
    fn nothing_is_changed_that_a_majority_could_not_confirm() {
        let mut seen = seen(&[1, 2, 3], &[4, 5]);
        seen.up = ids(&[1, 4]);
        seen.open = ids(&[1, 4]);
        let step = member_step(ME, &wanted(&[1, 4, 5], None), &seen);
        assert!(!matches!(step, Some(MemberStep::ChangeVoters(_))), "{step:?}");
    }

    #[test]
    fn what_was_begun_is_finished() {
        let mut seen = seen(&[1, 2, 3], &[]);
        seen.changing = true;
        let step = member_step(ME, &wanted(&[1, 2, 3], None), &seen);
        assert_eq!(step, Some(MemberStep::ChangeVoters(ids(&[1, 2, 3]))));
    }
}
