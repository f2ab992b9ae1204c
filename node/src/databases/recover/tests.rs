use rung_control_plane::state::DatabaseRecord;
use rung_proto::Incarnation;
use rung_proto::soft::{CopyKind, CopyStatus};

use super::*;

const ME: NodeId = NodeId(1);
const OLD: GroupId = GroupId(5);
const NEW: GroupId = GroupId(9);

fn at(sequence: u64) -> CopyPosition {
    CopyPosition { generation: 1, epoch: 4, sequence, hash: Digest([7; 32]) }
}

fn sealed(generation: u64) -> SealedCopy {
    let last = LogPlace { term: 4, index: 30 };
    SealedCopy { generation, last, end: at(20), committed: at(19) }
}

/// A copy of generation 1, or one that has accepted another.
fn copy(accepted: Option<u64>) -> LocalCopy {
    let record = CopyRecord {
        database: "photos".to_owned(),
        shard: 0,
        group: OLD,
        generation: 1,
        accepted: accepted.map(|generation| Acceptance { generation, committed: None }),
    };
    LocalCopy { record, shard: None, problem: None, again: None, sealed: accepted.map(sealed) }
}

fn state(edit: impl FnOnce(&mut ShardRecord)) -> State {
    let mut shard = ShardRecord {
        group: OLD,
        founder: None,
        founded: true,
        witness: None,
        preferred: None,
        generation: 1,
        recovery: None,
        retired: Vec::new(),
    };
    edit(&mut shard);
    let record = DatabaseRecord {
        archive: None,
        name: "photos".to_owned(),
        created_ms: 0,
        verifier: String::new(),
        shards: [(0, shard)].into(),
    };
    State { databases: [("photos".to_owned(), record)].into(), ..State::default() }
}

fn recovery(chosen: Option<NodeId>) -> RecoveryRecord {
    RecoveryRecord {
        generation: 2,
        group: NEW,
        survivors: [ME].into(),
        from: None,
        chosen: chosen.map(|node| (node, sealed(2))),
    }
}

fn recovered(shard: &mut ShardRecord) {
    let fork = sealed(2);
    (shard.group, shard.generation) = (NEW, 2);
    shard.retired = vec![RetiredGroup { group: OLD, generation: 1, fork }];
}

/// Another node, with a copy of a generation.
fn peer(generation: u64, group: GroupId) -> NodeSoftState {
    let copy = CopyStatus {
        database: "photos".to_owned(),
        shard: 0,
        group,
        kind: CopyKind::Primary,
        state: CopyState::Serving,
        generation,
        epoch: 5,
        sequence: 21,
        lag_ms: None,
        voters: Vec::new(),
        learners: Vec::new(),
        problem: None,
        snapshot_bytes: 0,
        last: None,
        sealed: None,
        archive: None,
        scrub: None,
    };
    NodeSoftState {
        node: NodeId(2),
        incarnation: Incarnation(1),
        version: 1,
        instances: Vec::new(),
        host: Default::default(),
        actors: Vec::new(),
        broken_roles: Vec::new(),
        serving: Vec::new(),
        databases: vec![copy],
        applied_index: 0,
        generation: 1,
    }
}

#[test]
fn a_copy_of_the_current_generation_has_nothing_to_do() {
    assert_eq!(task(ME, &copy(None), &state(|_| ()), &[peer(1, OLD)]), None);
}

#[test]
fn a_copy_accepts_a_generation_that_it_hears_of_from_whomever_first() {
    let begun = state(|shard| shard.recovery = Some(recovery(None)));
    assert_eq!(task(ME, &copy(None), &begun, &[]), Some(Task::Seal(2)));
    assert_eq!(task(ME, &copy(None), &state(recovered), &[]), Some(Task::Seal(2)));
    // The control state here is old.
    assert_eq!(task(ME, &copy(None), &state(|_| ()), &[peer(2, NEW)]), Some(Task::Seal(2)));
}

#[test]
fn what_was_accepted_once_is_not_accepted_again_and_a_higher_one_is() {
    let begun = state(|shard| shard.recovery = Some(recovery(None)));
    assert_eq!(task(ME, &copy(Some(2)), &begun, &[]), None);
    assert_eq!(task(ME, &copy(Some(2)), &begun, &[peer(3, GroupId(11))]), Some(Task::Seal(3)));
    // After a start it is to be seen again what the copy has.
    let started = LocalCopy { sealed: None, ..copy(Some(2)) };
    assert_eq!(task(ME, &started, &begun, &[]), Some(Task::Seal(2)));
}

#[test]
fn only_who_was_chosen_makes_the_new_generation() {
    for (chosen, makes) in [(ME, true), (NodeId(2), false)] {
        let begun = state(|shard| shard.recovery = Some(recovery(Some(chosen))));
        let task = task(ME, &copy(Some(2)), &begun, &[]);
        assert_eq!(matches!(task, Some(Task::Found(_))), makes, "{task:?}");
    }
}

#[test]
fn a_copy_is_given_up_only_once_the_new_group_is_the_shards() {
    let state = state(recovered);
    let given_up = task(ME, &copy(Some(2)), &state, &[]);
    assert!(matches!(given_up, Some(Task::GiveUp(Some(_)))), "{given_up:?}");
    // A copy of the new group, on a node that has not heard of it.
    let mut newer = copy(None);
    (newer.record.group, newer.record.generation) = (GroupId(12), 3);
    assert_eq!(task(ME, &newer, &state, &[]), None);
}

#[test]
fn a_log_is_a_beginning_of_another_only_in_the_same_term() {
    let place = |term, index| LogPlace { term, index };
    assert!(is_prefix(place(4, 10), place(4, 10)) && is_prefix(place(4, 9), place(4, 10)));
    assert!(!is_prefix(place(4, 11), place(4, 10)) && !is_prefix(place(3, 9), place(4, 10)));
}
