use rung_proto::api::{Change, Consent, OperationState};
use rung_proto::soft::{CopyKind, CopyPosition};
use rung_proto::{Digest, GroupId, Role};

use super::*;
use crate::Machine;
use crate::plan::{Prepared, plan};
use crate::samples::{Applies, cluster, ids, kill, view};

const ACCEPTED: Consent = Consent { data_loss: true, fenced: true };

/// Three copies of a database on n1 to n3; the control group is elsewhere.
fn with_copies() -> (Machine, View) {
    let mut machine = cluster(&["east", "east", "east", "east", "east"]);
    let verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".to_owned();
    let change = |change| Command::Database { database: "photos".to_owned(), change };
    machine.run(change(DatabaseCommand::Create { verifier })).unwrap();
    for node in ids(&[1, 2, 3]) {
        machine.run(Command::AssignRole { role: Role::Db, node }).unwrap();
    }
    let node = NodeId(1);
    machine.run(change(DatabaseCommand::Found { shard: 0, node })).unwrap();
    machine.run(change(DatabaseCommand::Founded { shard: 0, node })).unwrap();
    let mut view = view(&machine.state);
    // The clock of those who propose.
    view.now_ms = 100_000;
    for (node, index, sequence) in [(1, 30, 15), (2, 28, 13), (3, 29, 12)] {
        let kind = if node == 1 { CopyKind::Primary } else { CopyKind::Replica };
        let told = copy(shard(&machine).group, kind, (index, sequence));
        view.soft.get_mut(&NodeId(node)).unwrap().databases.push(told);
    }
    (machine, view)
}

fn copy(group: GroupId, kind: CopyKind, (index, sequence): (u64, u64)) -> CopyStatus {
    CopyStatus {
        database: "photos".to_owned(),
        shard: 0,
        group,
        kind,
        state: CopyState::Serving,
        generation: 1,
        epoch: 4,
        sequence,
        lag_ms: None,
        voters: ids(&[1, 2, 3]).into_iter().collect(),
        learners: Vec::new(),
        problem: None,
        snapshot_bytes: 0,
        last: Some(LogPlace { term: 4, index }),
        sealed: None,
        archive: None,
        scrub: None,
    }
}

fn shard(machine: &Machine) -> &ShardRecord {
    &machine.state.databases["photos"].shards[&0]
}

fn recover(from: Option<&str>, consent: Consent) -> Change {
    let from = from.map(str::to_owned);
    Change::RecoverDatabase { database: "photos".to_owned(), shard: 0, from, consent }
}

fn refusal(change: &Change, machine: &Machine, view: &View) -> Failure {
    plan(change, Prepared::default(), &machine.state, view).unwrap_err()
}

fn told(view: &mut View, node: u64) -> &mut CopyStatus {
    view.soft.get_mut(&NodeId(node)).unwrap().databases.first_mut().unwrap()
}

/// The copy on a node accepts the generation that is being made.
fn seal(view: &mut View, node: u64, machine: &Machine, hash: u8) {
    let generation = shard(machine).recovery.as_ref().unwrap().generation;
    let copy = told(view, node);
    let position = |sequence, hash| CopyPosition {
        generation: 1,
        epoch: 4,
        sequence,
        hash: Digest([hash; 32]),
    };
    copy.state = CopyState::Stopped;
    copy.sealed = Some(SealedCopy {
        generation,
        last: copy.last.unwrap(),
        end: position(copy.sequence + 1, hash),
        committed: position(copy.sequence, 9),
    });
}

/// What the leader would do until it waits for the nodes.
fn settle(machine: &mut Machine, view: &View) {
    for _ in 0..50 {
        let actions = crate::reconcile(NodeId(4), &machine.state, view);
        let is_ours = |command: &Command| {
            matches!(command, Command::Database { .. } | Command::AdvanceOperation { .. })
        };
        let next = actions.into_iter().find_map(|action| match action {
            crate::Action::Propose(command) if is_ours(&command) => Some(command),
            _ => None,
        });
        let Some(command) = next else { return };
        machine.run(command).expect("what the leader proposes can be applied");
    }
    panic!("the leader never rests");
}

fn begin(machine: &mut Machine, view: &View, from: Option<&str>) {
    let new = plan(&recover(from, ACCEPTED), Prepared::default(), &machine.state, view);
    machine.run(Command::StartOperation(Box::new(new.unwrap().unwrap()))).unwrap();
    settle(machine, view);
}

fn last_operation(machine: &Machine) -> &crate::operation::OperationRecord {
    machine.state.operations.values().next_back().unwrap()
}

#[test]
fn nothing_is_given_up_while_a_majority_is_reachable() {
    let (machine, mut view) = with_copies();
    kill(&mut view, 1);
    let failure = refusal(&recover(None, ACCEPTED), &machine, &view);
    assert_eq!(failure.code, Code::MajorityReachable);
    assert!(failure.why.contains("n1 is unreachable, last known at batch 15"), "{failure}");
}

#[test]
fn without_consent_it_is_said_what_may_be_lost() {
    let (machine, mut view) = with_copies();
    kill(&mut view, 1);
    kill(&mut view, 2);
    let failure = refusal(&recover(None, Consent::default()), &machine, &view);
    assert_eq!(failure.code, Code::DataLoss);
    let text = failure.to_string();
    for part in [
        "from the copy on n3",
        "batch 12 of epoch 4",
        "3 batches of transactions",
        "n1 is unreachable, last known at batch 15",
        "--accept-data-loss --confirm-fenced",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let half = Consent { data_loss: true, fenced: false };
    let failure = refusal(&recover(None, half), &machine, &view);
    assert!(failure.next.ends_with("add --confirm-fenced"), "{failure}");
}

#[test]
fn the_log_counts_and_not_what_a_copy_knows_to_be_on_a_quorum() {
    let (mut machine, view) = with_copies();
    // Of five voters, n1 and two others are lost.
    let voters: Vec<NodeId> = ids(&[1, 2, 3, 8, 9]).into_iter().collect();
    let mut both = view.clone();
    kill(&mut both, 1);
    for node in [2, 3] {
        told(&mut both, node).voters.clone_from(&voters);
    }
    // n2 knows that more is on a quorum, n3 has more in its log.
    let failure = refusal(&recover(Some("n2"), ACCEPTED), &machine, &both);
    assert_eq!(failure.code, Code::SurvivorBehind);
    begin(&mut machine, &both, None);
    seal(&mut both, 3, &machine, 3);
    settle(&mut machine, &both);
    assert_eq!(shard(&machine).recovery.as_ref().unwrap().chosen, None, "n2 has not accepted");
    seal(&mut both, 2, &machine, 2);
    settle(&mut machine, &both);
    let chosen = shard(&machine).recovery.as_ref().unwrap().chosen.map(|(node, _)| node);
    assert_eq!(chosen, Some(NodeId(3)));
}

#[test]
fn a_broken_copy_and_an_empty_one_are_no_survivors() {
    let (machine, mut view) = with_copies();
    kill(&mut view, 1);
    told(&mut view, 2).state = CopyState::Broken;
    let copies = Copies::of(shard(&machine), &machine.state, &view);
    assert_eq!(copies.survivors.iter().map(|one| one.node).collect::<Vec<_>>(), [NodeId(3)]);
    assert!(copies.majority_is_lost());
    told(&mut view, 3).last = None;
    let failure = refusal(&recover(None, ACCEPTED), &machine, &view);
    assert_eq!(failure.code, Code::NoCandidate);
}

#[test]
fn the_new_group_takes_the_place_of_the_old_one_in_one_entry_when_it_exists() {
    let (mut machine, mut view) = with_copies();
    kill(&mut view, 1);
    kill(&mut view, 2);
    let old = shard(&machine).group;
    begin(&mut machine, &view, None);
    seal(&mut view, 3, &machine, 3);
    settle(&mut machine, &view);
    let recovery = shard(&machine).recovery.clone().unwrap();
    assert_eq!((recovery.generation, shard(&machine).group), (2, old));
    let mut new = copy(recovery.group, CopyKind::Primary, (31, 14));
    new.generation = 2;
    view.soft.get_mut(&NodeId(3)).unwrap().databases.push(new);
    settle(&mut machine, &view);
    let record = shard(&machine);
    assert_eq!((record.group, record.generation), (recovery.group, 2));
    assert_eq!((record.founder, &record.recovery), (Some(NodeId(3)), &None));
    let fork = recovery.chosen.unwrap().1;
    assert_eq!(record.retired, [crate::state::RetiredGroup { group: old, generation: 1, fork }]);
    assert_eq!(last_operation(&machine).state, OperationState::Done);
    assert!(last_operation(&machine).summary.contains("accepting a loss of data"));
}

#[test]
fn a_recovery_that_came_to_nothing_is_begun_again_with_a_higher_generation() {
    let (mut machine, mut view) = with_copies();
    kill(&mut view, 1);
    kill(&mut view, 2);
    begin(&mut machine, &view, None);
    let first = shard(&machine).recovery.clone().unwrap();
    view.now_ms += 10_000_000;
    settle(&mut machine, &view);
    assert_eq!(last_operation(&machine).state, OperationState::Failed);
    // Meanwhile one has come back: its copy counts as well, a majority or not.
    view.members.get_mut(&NodeId(2)).unwrap().state = rung_proto::api::NodeState::Alive;
    begin(&mut machine, &view, None);
    let second = shard(&machine).recovery.clone().unwrap();
    assert!(second.generation == 3 && second.group != first.group);
    assert_eq!(second.survivors, ids(&[2, 3]));
    let late = DatabaseCommand::Recovered { shard: 0, generation: 2 };
    let late = Command::Database { database: "photos".to_owned(), change: late };
    assert_eq!(machine.run(late).unwrap_err().code, Code::Precondition);
}

#[test]
fn copies_that_have_as_much_and_differ_are_not_chosen_from() {
    let (mut machine, mut view) = with_copies();
    kill(&mut view, 1);
    for node in [2, 3] {
        let copy = told(&mut view, node);
        copy.voters = ids(&[1, 2, 3, 8, 9]).into_iter().collect();
        (copy.last, copy.sequence) = (Some(LogPlace { term: 4, index: 29 }), 12);
    }
    begin(&mut machine, &view, None);
    seal(&mut view, 2, &machine, 2);
    seal(&mut view, 3, &machine, 3);
    settle(&mut machine, &view);
    let failure = last_operation(&machine).failure.clone().unwrap();
    assert!(failure.next.contains("--from"), "{failure}");
    begin(&mut machine, &view, Some("n2"));
    seal(&mut view, 2, &machine, 2);
    seal(&mut view, 3, &machine, 3);
    settle(&mut machine, &view);
    let chosen = shard(&machine).recovery.as_ref().unwrap().chosen.map(|(node, _)| node);
    assert_eq!(chosen, Some(NodeId(2)));
}

#[test]
fn a_promotion_recovers_only_when_a_majority_is_lost_and_that_was_accepted() {
    let (machine, mut view) = with_copies();
    let promote =
        |consent| Change::Promote { node: "n3".to_owned(), database: None, shard: 0, consent };
    kill(&mut view, 1);
    kill(&mut view, 2);
    let failure = refusal(&promote(Consent::default()), &machine, &view);
    assert_eq!(failure.code, Code::NoCandidate);
    assert!(failure.next.contains("ctl db recover photos"), "{failure}");
    let half = Consent { data_loss: true, fenced: false };
    assert_eq!(refusal(&promote(half), &machine, &view).code, Code::DataLoss);
    let new = plan(&promote(ACCEPTED), Prepared::default(), &machine.state, &view);
    assert_eq!(new.unwrap().unwrap().kind, "db-recover");
}
