use rung_proto::soft::{InstanceState, InstanceStatus};
use rung_proto::{InstanceId, NodeId, Role};

use super::*;
use crate::Machine;
use crate::samples::{Applies, cluster, put_release, view};

/// Web nodes n1 and n3 in the east, n2 and n4 in the west, and an app of four.
fn app() -> (Machine, View) {
    let mut machine = cluster(&["east", "west", "east", "west"]);
    for node in 1..=4 {
        machine.done(Command::AssignRole { role: Role::Web, node: NodeId(node) });
    }
    machine.done(put_release("notes", 1, 4));
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 1 });
    let seen = view(&machine.state);
    (machine, seen)
}

fn next(machine: &Machine, seen: &View) -> Vec<Command> {
    changes(&machine.state.apps["notes"], &machine.state, seen)
}

/// Carries out what is next; its node says that each instance is `state`.
fn step(machine: &mut Machine, seen: &mut View, state: InstanceState) -> usize {
    let commands = next(machine, seen);
    let count = commands.len();
    for command in commands {
        machine.done(command);
    }
    for soft in seen.soft.values_mut() {
        soft.applied_index = machine.state.index;
    }
    let unseen: Vec<InstanceId> = machine.state.instances.keys().copied().collect();
    for id in unseen {
        let node = machine.state.instances[&id].node;
        if seen.instance(node, id).is_none() {
            say(machine, seen, id, state, 0);
        }
    }
    count
}

fn say(machine: &Machine, seen: &mut View, id: InstanceId, state: InstanceState, restarts: u32) {
    let record = &machine.state.instances[&id];
    let status = InstanceStatus {
        id,
        app: record.app.clone(),
        release: record.release,
        state,
        pid: None,
        port: None,
        restarts,
        since_ms: 0,
        problem: None,
    };
    let list = &mut seen.soft.get_mut(&record.node).unwrap().instances;
    list.retain(|status| status.id != id);
    list.push(status);
}

fn on(machine: &Machine, node: u64) -> Vec<InstanceId> {
    let here = |i: &&InstanceRecord| i.node == NodeId(node);
    machine.state.instances.values().filter(here).map(|i| i.id).collect()
}

fn drained(commands: &[Command]) -> Vec<InstanceId> {
    let id = |command: &Command| match command {
        Command::DrainInstance { id } => Some(*id),
        _ => None,
    };
    commands.iter().filter_map(id).collect()
}

fn placed(commands: &[Command]) -> Vec<u64> {
    let node = |command: &Command| match command {
        Command::PlaceInstance { node, .. } => Some(node.0),
        _ => None,
    };
    commands.iter().filter_map(node).collect()
}

fn running() -> (Machine, View) {
    let (mut machine, mut seen) = app();
    assert_eq!(step(&mut machine, &mut seen, InstanceState::Healthy), 4);
    assert_eq!(next(&machine, &seen), []);
    (machine, seen)
}

fn target(dc: &str, release: u32) -> Command {
    Command::SetTarget { app: "notes".to_owned(), dc: dc.to_owned(), release }
}

#[test]
fn instances_are_spread_over_data_centers_and_nodes() {
    let (machine, seen) = app();
    assert_eq!(placed(&next(&machine, &seen)), [1, 2, 3, 4]);
}

#[test]
fn the_first_deploy_places_in_each_data_center_its_own_share() {
    let mut machine = cluster(&["east", "west"]);
    for node in 1..=2 {
        machine.done(Command::AssignRole { role: Role::Web, node: NodeId(node) });
    }
    machine.done(put_release("notes", 1, 2));
    machine.done(target("east", 1));
    let seen = view(&machine.state);
    assert_eq!(placed(&next(&machine, &seen)), [1]);
    machine.done(target("west", 1));
    assert_eq!(placed(&next(&machine, &seen)), [1, 2]);
}

#[test]
fn scaling_down_takes_from_every_data_center_alike() {
    let (mut machine, seen) = running();
    machine.done(Command::SetWebWant { app: "notes".to_owned(), want: 2 });
    let gone = drained(&next(&machine, &seen));
    let nodes: Vec<u64> = gone.iter().map(|id| machine.state.instances[id].node.0).collect();
    assert_eq!(nodes, [3, 4]);
}

#[test]
fn a_surplus_in_one_data_center_does_not_hide_what_another_misses() {
    let (mut machine, mut seen) = running();
    // Two more run in the west than it should have, and the east is replaced.
    machine.done(put_release("notes", 2, 4));
    for node in [2, 4] {
        let app = "notes".to_owned();
        let node = NodeId(node);
        machine.done(Command::PlaceInstance { app, release: 1, env_version: 0, node });
    }
    for node in [2, 4] {
        for id in on(&machine, node) {
            say(&machine, &mut seen, id, InstanceState::Healthy, 0);
        }
    }
    machine.done(target("east", 2));
    let commands = next(&machine, &seen);
    assert_eq!(placed(&commands), [1, 3]);
    let east = [on(&machine, 1), on(&machine, 3)].concat();
    assert!(drained(&commands).iter().all(|id| !east.contains(id)), "{commands:?}");
}

#[test]
fn a_sick_instance_elsewhere_does_not_hold_up_a_deploy() {
    let (mut machine, mut seen) = running();
    let sick = on(&machine, 2)[0];
    say(&machine, &mut seen, sick, InstanceState::Starting, 2);
    machine.done(put_release("notes", 2, 4));
    machine.done(target("east", 2));
    step(&mut machine, &mut seen, InstanceState::Healthy);
    assert_eq!(drained(&next(&machine, &seen)).len(), 2, "both old ones of the east");
}

#[test]
fn a_leader_that_has_heard_nothing_yet_takes_nothing_away() {
    let (mut machine, mut seen) = running();
    machine.done(put_release("notes", 2, 4));
    machine.done(target("east", 2));
    machine.done(target("west", 2));
    seen.soft.clear();
    assert_eq!(drained(&next(&machine, &seen)), []);
}

#[test]
fn a_new_release_takes_over_one_by_one_and_an_unhealthy_old_one_goes_at_once() {
    let (mut machine, mut seen) = running();
    let dead = on(&machine, 1)[0];
    say(&machine, &mut seen, dead, InstanceState::Starting, 1);
    machine.done(put_release("notes", 2, 4));
    machine.done(target("east", 2));
    let commands = next(&machine, &seen);
    assert_eq!((placed(&commands), drained(&commands)), (vec![1, 3], vec![dead]));
    step(&mut machine, &mut seen, InstanceState::Starting);
    assert_eq!(drained(&next(&machine, &seen)), []);
    let new = on(&machine, 1)[1];
    say(&machine, &mut seen, new, InstanceState::Healthy, 0);
    assert_eq!(drained(&next(&machine, &seen)), [], "the east has one more than none");
    let new = on(&machine, 3)[1];
    say(&machine, &mut seen, new, InstanceState::Healthy, 0);
    assert_eq!(drained(&next(&machine, &seen)), [on(&machine, 3)[0]]);
}

#[test]
fn a_drained_instance_goes_when_its_node_has_seen_that_and_runs_it_no_more() {
    let (mut machine, mut seen) = running();
    let id = on(&machine, 1)[0];
    machine.done(Command::SetWebWant { app: "notes".to_owned(), want: 3 });
    machine.done(Command::DrainInstance { id });
    let is_removed = |machine: &Machine, seen: &View| {
        next(machine, seen).contains(&Command::RemoveInstance { id })
    };
    say(&machine, &mut seen, id, InstanceState::Draining, 0);
    assert!(!is_removed(&machine, &seen));
    seen.soft.get_mut(&NodeId(1)).unwrap().instances.clear();
    assert!(!is_removed(&machine, &seen), "the node may not have begun");
    seen.soft.get_mut(&NodeId(1)).unwrap().applied_index = machine.state.index;
    assert!(is_removed(&machine, &seen));
}

#[test]
fn a_failed_instance_is_tried_elsewhere_and_not_in_a_fast_loop() {
    let (mut machine, mut seen) = running();
    let placed_ms = machine.state.instances[&on(&machine, 1)[0]].placed_ms;
    seen.now_ms = placed_ms + FAILED_INSTANCE_MS - 1000;
    say(&machine, &mut seen, on(&machine, 1)[0], InstanceState::Failed, 5);
    assert_eq!(next(&machine, &seen), [], "not for long enough");
    seen.now_ms = placed_ms + FAILED_INSTANCE_MS + 1000;
    assert_eq!(placed(&next(&machine, &seen)), [3], "in the same data center");
    step(&mut machine, &mut seen, InstanceState::Healthy);
    assert_eq!(next(&machine, &seen), []);

    // It fails wherever it is placed: each node is tried once.
    let mut tries = 0;
    for _ in 0..20 {
        seen.now_ms += FAILED_INSTANCE_MS / 2;
        let all: Vec<InstanceId> = machine.state.instances.keys().copied().collect();
        for id in all {
            say(&machine, &mut seen, id, InstanceState::Failed, 5);
        }
        tries += placed(&next(&machine, &seen)).len();
        step(&mut machine, &mut seen, InstanceState::Failed);
    }
    assert!(tries <= 4, "{tries} tries");
    // Much later the records of the failures go and it is tried again.
    seen.now_ms += FAILED_RETRY_MS;
    assert!(!drained(&next(&machine, &seen)).is_empty());
}

#[test]
fn a_cordoned_node_keeps_its_instances_and_a_new_release_goes_elsewhere() {
    let (mut machine, mut seen) = running();
    machine.done(Command::SetCordoned { node: NodeId(1), on: true });
    assert_eq!(next(&machine, &seen), []);
    machine.done(put_release("notes", 2, 4));
    machine.done(target("east", 2));
    assert_eq!(placed(&next(&machine, &seen)), [3, 3]);
    step(&mut machine, &mut seen, InstanceState::Healthy);
    assert_eq!(drained(&next(&machine, &seen)).len(), 2);
}

#[test]
fn nothing_is_drained_when_no_node_can_take_its_place() {
    let (mut machine, seen) = running();
    for node in 1..=4 {
        machine.done(Command::SetDraining { node: NodeId(node), on: true });
    }
    assert_eq!(next(&machine, &seen), []);
}

#[test]
fn an_app_that_is_removed_is_drained_everywhere() {
    let (mut machine, seen) = running();
    machine.done(Command::StartRemoval { app: "notes".to_owned() });
    assert_eq!(drained(&next(&machine, &seen)).len(), 4);
}
