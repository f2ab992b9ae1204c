use std::collections::BTreeMap;

use rung_proto::api::{Change, OperationState};
use rung_proto::{Code, Failure, NodeId, Role};

use super::*;
use crate::Machine;
use crate::command::Command;
use crate::operation::{Work, advance};
use crate::samples::{Applies, cluster, ids, kill, put_release, release, view};

/// Two nodes in two data centers with every role, and an app at release 1.
fn two() -> (Machine, View) {
    let mut machine = cluster(&["east", "west"]);
    for role in [Role::Lb, Role::Dns, Role::Web] {
        for node in 1..=2 {
            machine.done(Command::AssignRole { role, node: NodeId(node) });
        }
    }
    machine.done(put_release("notes", 1, 2));
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 1 });
    let seen = View { voters: ids(&[1, 2]), ..view(&machine.state) };
    (machine, seen)
}

fn planned(change: &Change, machine: &Machine, seen: &View) -> Result<Planned, Failure> {
    plan(change, Prepared::default(), &machine.state, seen)
}

fn refused(change: &Change, machine: &Machine, seen: &View) -> Code {
    planned(change, machine, seen).expect_err("it is refused").code
}

fn deploy(name: &str, byte: u8, machine: &Machine, seen: &View) -> Result<Planned, Failure> {
    let release = release(name, byte, 2);
    let change = Change::Deploy { bundle: release.digest };
    plan(&change, Prepared { release: Some(release), ..Prepared::default() }, &machine.state, seen)
}

fn node(name: &str) -> String {
    name.to_owned()
}

#[test]
fn a_deploy_goes_one_data_center_at_a_time_and_comes_back_the_other_way() {
    let (machine, seen) = two();
    let new = deploy("notes", 2, &machine, &seen).unwrap().unwrap();
    let names = |steps: &[crate::operation::StepRecord]| {
        steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&new.steps),
        [
            "start release 2 in east",
            "wait for east to be healthy",
            "start release 2 in west",
            "wait for west to be healthy",
            "make release 2 the current one",
        ]
    );
    assert_eq!(
        names(&new.compensation),
        [
            "put back release 1 in west",
            "wait for west to be healthy",
            "put back release 1 in east",
            "wait for east to be healthy",
            "make release 1 the current one",
            "forget release 2",
        ]
    );
}

#[test]
fn the_same_bundle_again_is_nothing_to_do() {
    let (machine, seen) = two();
    assert_eq!(deploy("notes", 1, &machine, &seen).unwrap(), None);
}

#[test]
fn a_deploy_without_a_node_for_it_is_refused_before_it_starts_and_says_why() {
    let (mut machine, mut seen) = two();
    machine.done(Command::SetCordoned { node: NodeId(1), on: true });
    kill(&mut seen, 2);
    let failure = deploy("notes", 2, &machine, &seen).unwrap_err();
    assert_eq!(failure.code, Code::NoCandidate);
    assert_eq!(failure.why, "n1 is cordoned; n2 is down");
    let rollback = Change::Rollback { app: "notes".to_owned(), release: Some(1) };
    assert_eq!(planned(&rollback, &machine, &seen), Ok(None));
    // Fewer instances need no node.
    let scale = |count| Change::ScaleWeb { app: None, count };
    assert_eq!(refused(&scale(3), &machine, &seen), Code::NoCandidate);
    assert!(planned(&scale(1), &machine, &seen).is_ok());
}

#[test]
fn a_domain_belongs_to_one_app_also_when_an_old_release_comes_back() {
    let (mut machine, seen) = two();
    let mut taken = release("shop", 7, 1);
    taken.manifest.domain = "notes.test".to_owned();
    let change = Change::Deploy { bundle: taken.digest };
    let prepared = Prepared { release: Some(taken), ..Prepared::default() };
    let failure = plan(&change, prepared, &machine.state, &seen).unwrap_err();
    assert_eq!(failure.code, Code::AlreadyExists);

    // Notes moves to another domain, shop takes the first, notes wants back.
    let Command::PutRelease { app, release, digest, size, mut manifest } =
        put_release("notes", 2, 2)
    else {
        unreachable!("it puts a release")
    };
    manifest.domain = "new.test".to_owned();
    machine.done(Command::PutRelease { app, release, digest, size, manifest });
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 2 });
    let Command::PutRelease { app, release, digest, size, mut manifest } =
        put_release("shop", 1, 2)
    else {
        unreachable!("it puts a release")
    };
    manifest.domain = "notes.test".to_owned();
    machine.done(Command::PutRelease { app, release, digest, size, manifest });
    let rollback = Change::Rollback { app: "notes".to_owned(), release: None };
    assert_eq!(refused(&rollback, &machine, &seen), Code::AlreadyExists);
}

#[test]
fn what_is_being_changed_is_refused_and_names_the_operation() {
    let (mut machine, seen) = two();
    let new = planned(&Change::ScaleWeb { app: None, count: 3 }, &machine, &seen).unwrap().unwrap();
    machine.done(Command::StartOperation(Box::new(new)));
    let failure = deploy("notes", 2, &machine, &seen).unwrap_err();
    assert_eq!(failure.code, Code::OperationRunning);
    assert_eq!(failure.why, "scale notes from 2 to 3 instances");
    // A move onto a node and its drain exclude each other as well.
    let moved = Change::AddRole { node: node("n2"), role: Role::Lb };
    let new = planned(&moved, &machine, &seen).unwrap().unwrap();
    machine.done(Command::StartOperation(Box::new(new)));
    let drain = Change::Drain { node: node("n2") };
    assert_eq!(refused(&drain, &machine, &seen), Code::OperationRunning);
}

#[test]
fn what_is_not_there_is_refused() {
    let (machine, seen) = two();
    let refused = |change| refused(&change, &machine, &seen);
    let app = || "shop".to_owned();
    assert_eq!(refused(Change::Rollback { app: app(), release: None }), Code::NotFound);
    assert_eq!(refused(Change::RemoveApp { app: app() }), Code::NotFound);
    assert_eq!(refused(Change::Drain { node: node("n9") }), Code::NotFound);
    let notes = "notes".to_owned();
    assert_eq!(refused(Change::Rollback { app: notes.clone(), release: Some(7) }), Code::NotFound);
    assert_eq!(refused(Change::Rollback { app: notes, release: None }), Code::Precondition);
}

#[test]
fn roles_are_scaled_within_what_the_nodes_allow() {
    let (machine, seen) = two();
    let scale = |role, count| Change::ScaleRole { role, count };
    let refused = |change| refused(&change, &machine, &seen);
    assert_eq!(refused(scale(Role::Web, 2)), Code::Usage);
    assert_eq!(refused(scale(Role::Control, 2)), Code::Usage);
    assert_eq!(refused(scale(Role::Lb, 0)), Code::Precondition);
    assert_eq!(refused(scale(Role::Lb, 3)), Code::NoCandidate);
    assert_eq!(planned(&scale(Role::Lb, 2), &machine, &seen), Ok(None));
}

#[test]
fn a_role_that_is_added_is_taken_from_nobody() {
    let (mut machine, mut seen) = two();
    machine.done(Command::ReleaseRole { role: Role::Lb, node: NodeId(2) });
    machine.done(Command::SetRoleWant { role: Role::Lb, want: 1 });
    seen.soft.values_mut().for_each(|soft| soft.applied_index = machine.state.index + 100);
    let add = Change::AddRole { node: node("n2"), role: Role::Lb };
    let new = planned(&add, &machine, &seen).unwrap().unwrap();
    machine.done(Command::StartOperation(Box::new(new)));
    assert_eq!(machine.state.role(Role::Lb).want, 2);
    assert_eq!(crate::placement::role_owners(Role::Lb, &machine.state, &seen), ids(&[1, 2]));
}

#[test]
fn a_move_that_fails_half_way_leaves_no_pin_behind() {
    let mut machine = cluster(&["east", "west", "east"]);
    machine.done(Command::AssignRole { role: Role::Web, node: NodeId(1) });
    machine.done(put_release("notes", 1, 1));
    let place = Command::PlaceInstance {
        app: "notes".to_owned(),
        release: 1,
        env_version: 0,
        node: NodeId(1),
    };
    machine.done(place);
    let mut seen = View { voters: ids(&[1, 2, 3]), ..view(&machine.state) };
    let before: Vec<_> = machine.state.nodes.values().map(|node| node.pins.clone()).collect();
    let moved = Change::Move { role: Role::Web, node: node("n3"), from: None };
    let new = planned(&moved, &machine, &seen).unwrap().unwrap();
    assert!(new.subjects.contains(&"node/n1".to_owned()), "{:?}", new.subjects);
    machine.done(Command::StartOperation(Box::new(new)));
    seen.soft.values_mut().for_each(|soft| soft.applied_index = machine.state.index + 100);
    let id = *machine.state.operations.keys().next().unwrap();
    // The instance on n1 never ends, so the role does not leave it in time.
    for _ in 0..20 {
        let record = machine.state.operations[&id].clone();
        match advance(&record, &machine.state, &seen) {
            Some(update) => {
                machine.done(Command::AdvanceOperation { id, update: Box::new(update) });
            }
            None => seen.now_ms += 3_600_000,
        }
        let excluded = machine.state.pin(NodeId(1), Role::Web) == Some(Pin::Exclude);
        if excluded && machine.state.owns(NodeId(1), Role::Web) {
            machine.done(Command::ReleaseRole { role: Role::Web, node: NodeId(1) });
        }
    }
    assert_eq!(machine.state.operations[&id].state, OperationState::RolledBack);
    let after: Vec<_> = machine.state.nodes.values().map(|node| node.pins.clone()).collect();
    assert_eq!(after, before);
}

#[test]
fn a_role_is_not_moved_to_where_it_cannot_be() {
    let (mut machine, mut seen) = two();
    let to = |name: &str, from: Option<&str>| Change::Move {
        role: Role::Lb,
        node: node(name),
        from: from.map(str::to_owned),
    };
    assert_eq!(refused(&to("n2", Some("n2")), &machine, &seen), Code::Usage);
    assert_eq!(planned(&to("n2", None), &machine, &seen), Ok(None));
    machine.done(Command::ReleaseRole { role: Role::Lb, node: NodeId(2) });
    let soft = seen.soft.get_mut(&NodeId(2)).unwrap();
    soft.broken_roles.push((Role::Lb, "it panicked".to_owned()));
    assert_eq!(refused(&to("n2", None), &machine, &seen), Code::Precondition);
    kill(&mut seen, 2);
    assert_eq!(refused(&to("n2", None), &machine, &seen), Code::Precondition);
}

#[test]
fn all_voters_cannot_be_chosen_by_hand_and_one_more() {
    let mut machine = cluster(&["east"; 4]);
    for node in 1..=3 {
        let role = Role::Control;
        machine.done(Command::SetPin { node: NodeId(node), role, pin: Some(Pin::Include) });
    }
    let seen = View { voters: ids(&[1, 2, 3]), ..view(&machine.state) };
    let add = Change::AddRole { node: node("n4"), role: Role::Control };
    assert_eq!(refused(&add, &machine, &seen), Code::Precondition);
    let from = Some(node("n1"));
    let moved = Change::Move { role: Role::Control, node: node("n4"), from };
    assert!(planned(&moved, &machine, &seen).is_ok());
}

#[test]
fn a_node_is_drained_only_when_others_can_take_what_it_has() {
    let (mut machine, mut seen) = two();
    let drain = |name: &str| Change::Drain { node: node(name) };
    kill(&mut seen, 1);
    assert_eq!(refused(&drain("n2"), &machine, &seen), Code::NoCandidate);
    // Nobody has dns, and nobody may: that keeps no node from being drained.
    let mut seen = View { voters: ids(&[1]), ..view(&machine.state) };
    for number in 1..=2 {
        let (node, role) = (NodeId(number), Role::Dns);
        machine.done(Command::ReleaseRole { role, node });
        machine.done(Command::SetPin { node, role, pin: Some(Pin::Exclude) });
    }
    assert!(planned(&drain("n2"), &machine, &seen).unwrap().is_some());
    // A drain that took too long can be asked for again, until it is done.
    machine.done(Command::SetDraining { node: NodeId(2), on: true });
    assert!(planned(&drain("n2"), &machine, &seen).unwrap().is_some());
    for role in [Role::Lb, Role::Web] {
        machine.done(Command::ReleaseRole { role, node: NodeId(2) });
    }
    seen.voters = ids(&[1]);
    assert_eq!(planned(&drain("n2"), &machine, &seen), Ok(None));
}

#[test]
fn an_app_whose_removal_failed_half_way_is_removed_by_asking_again() {
    let (mut machine, seen) = two();
    machine.done(Command::StartRemoval { app: "notes".to_owned() });
    let remove = Change::RemoveApp { app: "notes".to_owned() };
    assert!(planned(&remove, &machine, &seen).unwrap().is_some());
    assert_eq!(deploy("notes", 2, &machine, &seen).unwrap_err().code, Code::Precondition);
}

#[test]
fn the_old_instances_get_their_own_time_to_end() {
    let (mut machine, seen) = two();
    let Command::PutRelease { app, release, digest, size, mut manifest } =
        put_release("notes", 2, 2)
    else {
        unreachable!("it puts a release")
    };
    manifest.web.drain_timeout_ms = 600_000;
    machine.done(Command::PutRelease { app, release, digest, size, manifest });
    let longest = |change: Change| {
        let new = planned(&change, &machine, &seen).unwrap().unwrap();
        let waits = |work: &Work| !matches!(work, Work::Apply(_));
        new.steps.iter().filter(|step| waits(&step.work)).map(|step| step.budget_ms).max().unwrap()
    };
    for change in [
        Change::RemoveApp { app: "notes".to_owned() },
        Change::Drain { node: node("n2") },
        Change::RemoveNode { node: node("n2") },
        Change::ScaleWeb { app: None, count: 1 },
    ] {
        assert!(longest(change.clone()) > 600_000, "{change:?}");
    }
}

#[test]
fn variables_are_merged_and_bounded() {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let old = map(&[("A", "1"), ("B", "2")]);
    let new = merge_env(old.clone(), &map(&[("A", "3"), ("C", "4")]), &["B".to_owned()]);
    assert_eq!(new, Ok(map(&[("A", "3"), ("C", "4")])));
    let large = "x".repeat(crate::secrets::MAX_ENV_BYTES);
    assert_eq!(merge_env(old, &map(&[("D", &large)]), &[]).unwrap_err().code, Code::Usage);
}
