use rung_proto::api::{ArchiveSetting, Change, Consent, StepState};
use rung_proto::soft::{ArchiveStatus, CopyStatus, LogPlace};
use rung_proto::{Code, GroupId};

use super::*;
use crate::Machine;
use crate::operation::{NewOperation, OperationRecord, advance};
use crate::plan::{Prepared, plan};
use crate::samples::{Applies, cluster, ids, kill, release, view};

fn verifier() -> String {
    "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".to_owned()
}

/// What the leader would do about roles and databases, until it wants nothing more.
fn settle(machine: &mut Machine, view: &mut View) {
    for _ in 0..50 {
        let actions = crate::reconcile(NodeId(1), &machine.state, view);
        let mut commands = actions.into_iter().filter_map(|action| match action {
            crate::Action::Propose(command) => Some(command),
            _ => None,
        });
        let Some(command) = commands.next() else { return };
        machine.run(command).expect("what the leader proposes can be applied");
        copies_follow(machine, view);
    }
    panic!("the leader never rests");
}

/// The nodes do what the state says: the founder leads, owners follow.
fn copies_follow(machine: &Machine, view: &mut View) {
    let state = &machine.state;
    for soft in view.soft.values_mut() {
        soft.applied_index = state.index;
        soft.databases.clear();
        soft.serving = vec![Role::Dns, Role::Lb, Role::Db];
    }
    for shard in state.databases.values().flat_map(|database| database.shards.values()) {
        let Some(founder) = shard.founder else { continue };
        let members: Vec<NodeId> = copies(state).into_iter().chain([founder]).collect();
        for node in members.iter().copied().collect::<BTreeSet<_>>() {
            let kind = if node == founder { CopyKind::Primary } else { CopyKind::Replica };
            let told = copy(shard.group, kind, &members);
            view.soft.get_mut(&node).expect("a node of the sample").databases.push(told);
        }
    }
}

fn copy(group: GroupId, kind: CopyKind, voters: &[NodeId]) -> CopyStatus {
    CopyStatus {
        database: "photos".to_owned(),
        shard: 0,
        group,
        kind,
        state: CopyState::Serving,
        generation: 1,
        epoch: 1,
        sequence: 10,
        lag_ms: Some(0),
        voters: voters.to_vec(),
        learners: Vec::new(),
        problem: None,
        snapshot_bytes: 0,
        last: Some(LogPlace { term: 1, index: 20 }),
        sealed: None,
        archive: None,
        scrub: None,
    }
}

fn with_database(dcs: &[&str]) -> (Machine, View) {
    let mut machine = cluster(dcs);
    let mut view = view(&machine.state);
    let prepared = Prepared { verifier: Some(verifier()), ..Prepared::default() };
    let change = Change::CreateDatabase { name: "photos".to_owned() };
    let new = plan(&change, prepared, &machine.state, &view).unwrap().unwrap();
    machine.run(Command::StartOperation(Box::new(new))).unwrap();
    settle(&mut machine, &mut view);
    (machine, view)
}

fn the_shard(machine: &Machine) -> &ShardRecord {
    &machine.state.databases["photos"].shards[&0]
}

fn promote(
    node: &str,
    machine: &Machine,
    view: &View,
) -> Result<Option<NewOperation>, rung_proto::Failure> {
    let change = Change::Promote {
        node: node.to_owned(),
        database: None,
        shard: 0,
        consent: Consent::default(),
    };
    plan(&change, Prepared::default(), &machine.state, view)
}

fn last_operation(machine: &Machine) -> &OperationRecord {
    machine.state.operations.values().next_back().expect("there is an operation")
}

#[test]
fn an_archive_is_waited_for_and_a_replica_writes_it() {
    let (mut machine, mut view) = with_database(&["east", "east", "east"]);
    let group = the_shard(&machine).group;
    let (primary, _) = view.primary(group).expect("a primary");
    let writer = view.archiver(group).expect("somebody writes");
    assert!(writer != primary);
    let setting = ArchiveSetting { dir: "/mnt/photos".to_owned(), keep_ms: 1, base_ms: 1 };
    let change = |archive: Option<&ArchiveSetting>| Change::ArchiveDatabase {
        database: "photos".to_owned(),
        archive: archive.cloned(),
    };
    let relative = ArchiveSetting { dir: "mnt".to_owned(), ..setting.clone() };
    let planned = |change: &Change, machine: &Machine, view: &View| {
        plan(change, Prepared::default(), &machine.state, view)
    };
    let refused = planned(&change(Some(&relative)), &machine, &view).unwrap_err();
    assert_eq!(refused.code, Code::Usage);
    let new = planned(&change(Some(&setting)), &machine, &view).unwrap().expect("an operation");
    machine.run(Command::StartOperation(Box::new(new))).unwrap();
    assert_eq!(machine.state.databases["photos"].archive, Some(setting.clone()));
    let mut operation = last_operation(&machine).clone();
    operation.steps[0].state = StepState::Running;
    let mut tell = |archive: ArchiveStatus| {
        let soft = view.soft.get_mut(&writer).expect("the writer");
        soft.databases[0].archive = Some(archive);
        let update = advance(&operation, &machine.state, &view).expect("something new");
        update.to
    };
    let full = ArchiveStatus { dir: setting.dir.clone(), ..Default::default() };
    let full = ArchiveStatus { problem: Some("full".to_owned()), ..full };
    let elsewhere = ArchiveStatus { dir: "/old".to_owned(), ..full.clone() };
    assert_eq!(tell(elsewhere), StepState::Running);
    assert_eq!(tell(full.clone()), StepState::Failed);
    let begun = ArchiveStatus { problem: None, ..full };
    assert_eq!(tell(begun.clone()), StepState::Running);
    let complete = ArchiveStatus { base_ms: Some(1), complete_ms: 2, ..begun };
    assert_eq!(tell(complete), StepState::Done);
    assert_eq!(planned(&change(Some(&setting)), &machine, &view).unwrap(), None);
}

#[test]
fn a_group_has_an_odd_number_of_voters_where_it_can_and_keeps_those_that_vote() {
    let none = BTreeSet::new();
    assert_eq!(voters(&ids(&[1]), None, &none), ids(&[1]));
    assert_eq!(voters(&ids(&[1, 2]), None, &none), ids(&[1, 2]));
    assert_eq!(voters(&ids(&[1, 2]), Some(NodeId(3)), &none), ids(&[1, 2, 3]));
    assert_eq!(voters(&ids(&[1, 2, 3, 4]), None, &ids(&[2, 3, 4])), ids(&[2, 3, 4]));
    assert_eq!(voters(&ids(&[1, 2, 3, 4, 5, 6, 7]), None, &ids(&[7])).len(), 5);
    assert!(voters(&ids(&[1, 2, 3, 4, 5, 6]), None, &ids(&[6])).contains(&NodeId(6)));
}

#[test]
fn a_new_database_is_founded_once_and_gets_its_copies_in_both_data_centers() {
    let (machine, _) = with_database(&["east", "west", "east", "west", "east"]);
    let shard = the_shard(&machine);
    assert!(shard.founded);
    let owners = copies(&machine.state);
    assert_eq!(owners.len(), 3);
    let dcs: BTreeSet<&str> =
        owners.iter().map(|node| machine.state.nodes[node].dc.as_str()).collect();
    assert_eq!(dcs.len(), 2);
    assert_eq!(last_operation(&machine).state, rung_proto::api::OperationState::Done);
}

#[test]
fn a_group_that_was_founded_is_never_founded_again() {
    let (mut machine, mut view) = with_database(&["east", "west", "east"]);
    let founder = the_shard(&machine).founder;
    kill(&mut view, founder.unwrap().0);
    settle(&mut machine, &mut view);
    assert_eq!(the_shard(&machine).founder, founder);
    let again = Command::Database {
        database: "photos".to_owned(),
        change: DatabaseCommand::Found { shard: 0, node: NodeId(2) },
    };
    assert_eq!(machine.run(again).unwrap_err().code, Code::Precondition);
}

#[test]
fn another_node_founds_the_group_when_the_first_one_dies_before_it_did() {
    let mut machine = cluster(&["east", "west", "east"]);
    let mut view = view(&machine.state);
    let create = Command::Database {
        database: "photos".to_owned(),
        change: DatabaseCommand::Create { verifier: verifier() },
    };
    machine.run(Command::SetRoleWant { role: Role::Db, want: 3 }).unwrap();
    machine.run(create).unwrap();
    // Nobody does anything yet.
    let found = |machine: &mut Machine, view: &View| {
        while let Some(command) = role_and_database_change(machine, view) {
            machine.run(command).unwrap();
        }
        the_shard(machine).founder.unwrap()
    };
    let first = found(&mut machine, &view);
    kill(&mut view, first.0);
    view.now_ms += 60_000;
    let second = found(&mut machine, &view);
    assert_ne!(first, second);
    assert!(!the_shard(&machine).founded);
}

fn role_and_database_change(machine: &Machine, view: &View) -> Option<Command> {
    crate::reconcile(NodeId(1), &machine.state, view).into_iter().find_map(|action| match action {
        crate::Action::Propose(
            command @ (Command::Database { .. } | Command::AssignRole { role: Role::Db, .. }),
        ) => Some(command),
        _ => None,
    })
}

#[test]
fn two_copies_get_a_witness_and_three_do_not_need_one() {
    let (mut machine, mut view) = with_database(&["east", "west", "east"]);
    assert_eq!(the_shard(&machine).witness, None);
    machine.run(Command::SetRoleWant { role: Role::Db, want: 2 }).unwrap();
    settle(&mut machine, &mut view);
    let copies = copies(&machine.state);
    assert_eq!(copies.len(), 2);
    let witness = the_shard(&machine).witness.expect("a witness");
    assert!(!copies.contains(&witness));
}

#[test]
fn a_replica_can_be_promoted_and_the_primary_is_there_already() {
    let (machine, view) = with_database(&["east", "west", "east"]);
    let (primary, _) = view.primary(the_shard(&machine).group).unwrap();
    for node in copies(&machine.state) {
        let name = machine.state.node_name(node);
        let planned = promote(&name, &machine, &view).expect("no refusal");
        assert_eq!(planned.is_some(), node != primary);
    }
}

#[test]
fn a_promotion_that_could_lose_something_is_refused_with_every_reason() {
    let (machine, mut view) = with_database(&["east", "west", "east", "west", "east"]);
    let group = the_shard(&machine).group;
    let (primary, _) = view.primary(group).unwrap();
    let copies = copies(&machine.state);
    let replica = copies.iter().find(|node| **node != primary).copied().unwrap();
    let told = view.soft.get_mut(&replica).unwrap().databases.first_mut().unwrap();
    (told.state, told.lag_ms) = (CopyState::CatchingUp, Some(1500));
    let other = machine.state.nodes.keys().find(|node| !copies.contains(node)).copied().unwrap();
    for node in [replica, other] {
        let name = machine.state.node_name(node);
        let failure = promote(&name, &machine, &view).unwrap_err();
        assert_eq!(failure.code, Code::NoCandidate);
        let why = failure.to_string();
        assert!(why.contains("is catching up, 1500 ms behind"), "{why}");
        assert!(why.contains("has no copy") && why.contains("is the primary"), "{why}");
    }
}

#[test]
fn a_promotion_to_a_node_that_dies_meanwhile_fails_at_once_with_every_reason() {
    let (mut machine, mut view) = with_database(&["east", "west", "east", "west", "east"]);
    let (primary, _) = view.primary(the_shard(&machine).group).unwrap();
    let replica = copies(&machine.state).into_iter().find(|node| *node != primary).unwrap();
    let name = machine.state.node_name(replica);
    let new = promote(&name, &machine, &view).unwrap().expect("an operation");
    machine.run(Command::StartOperation(Box::new(new))).unwrap();
    let mut operation = last_operation(&machine).clone();
    operation.steps[0].state = StepState::Running;
    operation.steps[0].started_ms = view.now_ms;
    // A leader that has just begun may not have heard of it yet.
    let heard_of = view.members.remove(&replica);
    let update = advance(&operation, &machine.state, &view);
    assert!(update.is_none_or(|update| update.to == StepState::Running));
    view.members.extend(heard_of.map(|member| (replica, member)));
    kill(&mut view, replica.0);
    let update = advance(&operation, &machine.state, &view).expect("something new");
    assert_eq!(update.to, StepState::Failed);
    let failure = update.failure.expect("a reason");
    assert_eq!(failure.code, Code::NoCandidate);
    let why = failure.to_string();
    assert!(why.contains(&format!("{name} is down")) && why.contains("has no copy"), "{why}");
}

#[test]
fn a_deploy_of_an_app_with_a_database_waits_for_it_first() {
    let machine = cluster(&["east"]);
    let view = view(&machine.state);
    let mut release = release("photos", 1, 1);
    release.manifest.db = Some(rung_bundle::Db { replicas: 1 });
    let prepared = Prepared {
        release: Some(release.clone()),
        verifier: Some(verifier()),
        ..Prepared::default()
    };
    let change = Change::Deploy { bundle: release.digest };
    let new = plan(&change, prepared, &machine.state, &view).unwrap().unwrap();
    assert_eq!(new.steps[0].name, "wait for the database photos");
    assert!(new.initial.contains(&Command::SetRoleWant { role: Role::Db, want: 2 }));
}

#[test]
fn a_copy_is_to_vote_with_those_that_vote_and_those_that_could() {
    let (machine, mut view) = with_database(&["east", "west", "north", "east", "west"]);
    let mut state = machine.state.clone();
    let owners: Vec<NodeId> = ids(&[1, 2, 3, 4, 5]).into_iter().collect();
    let role = state.roles.entry(Role::Db).or_default();
    for node in &owners {
        let owner = *role.owners.values().next().expect("somebody has it");
        role.owners.entry(*node).or_insert(owner);
    }
    let shard = state.databases["photos"].shards[&0].clone();
    for node in &owners {
        let told = copy(shard.group, CopyKind::Replica, &owners[..3]);
        view.soft.get_mut(node).expect("a node of the sample").databases = vec![told];
    }
    let primary = copy(shard.group, CopyKind::Primary, &owners[..3]);
    let is_to_vote =
        |node: u64, view: &View| super::is_to_vote(NodeId(node), &shard, &primary, &state, view);
    // Five votes are odd, so all get one.
    assert!((1..=5).all(|node| is_to_vote(node, &view)));
    // With a copy that does not work they would be four, so the fifth does not vote either.
    let stopped = view.soft.get_mut(&NodeId(4)).expect("a node of the sample");
    stopped.databases[0].state = CopyState::Stopped;
    assert!(is_to_vote(3, &view) && !is_to_vote(5, &view));
}
