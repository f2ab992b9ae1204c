use proptest::prelude::*;
use rung_proto::{NodeId, Role};

use super::*;
use crate::Machine;
use crate::command::Command;
use crate::reconcile::{Action, reconcile};
use crate::samples::{Applies, Random, cluster, ids, kill, put_release, view};
use crate::view::View;

const DCS: [&str; 5] = ["east", "west", "east", "west", "east"];

/// Does what the planner says until it says nothing; every node sees it at once.
fn converge(machine: &mut Machine, seen: &mut View) {
    for _ in 0..100 {
        let me = *seen.voters.iter().next().unwrap();
        let actions = reconcile(me, &machine.state, seen);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            match action {
                Action::Propose(command) => {
                    machine.done(command);
                }
                Action::ChangeVoters(voters) => seen.voters = voters,
                // The lowest of the voters leads here, so it has to go by itself.
                Action::TransferLeadership(_) => {
                    seen.voters.remove(&me);
                }
            }
        }
        let index = machine.state.index;
        for soft in seen.soft.values_mut() {
            soft.applied_index = index;
        }
    }
    panic!("the planner does not come to an end");
}

/// Nodes that join one after the other, at rest after each.
fn joined(count: usize) -> (Machine, View) {
    let mut machine = cluster(&DCS[..count]);
    let all = std::mem::take(&mut machine.state.nodes);
    let mut voters = ids(&[1]);
    let mut seen = View::default();
    for (id, record) in all {
        machine.state.nodes.insert(id, record);
        seen = View { voters, ..view(&machine.state) };
        converge(&mut machine, &mut seen);
        voters = seen.voters.clone();
    }
    (machine, seen)
}

fn owners(machine: &Machine, role: Role) -> BTreeSet<NodeId> {
    machine.state.role(role).owners.into_keys().collect()
}

fn pin(machine: &mut Machine, node: u64, role: Role, pin: Pin) {
    machine.done(Command::SetPin { node: NodeId(node), role, pin: Some(pin) });
}

#[test]
fn the_voters_are_as_many_as_the_nodes_allow() {
    for (count, want, expected) in
        [(1, 3, 1), (2, 3, 2), (3, 3, 3), (5, 3, 3), (4, 5, 3), (5, 5, 5), (5, 1, 1)]
    {
        let mut machine = cluster(&DCS[..count]);
        machine.done(Command::SetRoleWant { role: Role::Control, want });
        let seen = View { voters: ids(&[1]), ..view(&machine.state) };
        assert_eq!(voters(&machine.state, &seen).len(), expected, "{count} nodes, {want} wanted");
    }
}

#[test]
fn one_node_has_every_role() {
    let (machine, seen) = joined(1);
    for role in [Role::Lb, Role::Dns, Role::Web] {
        assert_eq!(owners(&machine, role), ids(&[1]));
    }
    assert_eq!(seen.voters, ids(&[1]));
}

#[test]
fn five_nodes_part_the_roles_over_both_data_centers() {
    let (mut machine, mut seen) = joined(5);
    assert_eq!(owners(&machine, Role::Lb), ids(&[1, 2]));
    assert_eq!(owners(&machine, Role::Dns), ids(&[1, 2]));
    assert_eq!(seen.voters, ids(&[3, 4, 5]));
    machine.done(put_release("notes", 1, 2));
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 1 });
    converge(&mut machine, &mut seen);
    assert_eq!(owners(&machine, Role::Web), ids(&[1, 2]));
    let hosts: BTreeSet<NodeId> = machine.state.instances.values().map(|i| i.node).collect();
    assert_eq!((hosts, machine.state.instances.len()), (ids(&[1, 2]), 2));
}

#[test]
fn a_dead_voter_is_replaced_when_a_node_is_free_and_kept_when_none_is() {
    let (machine, mut seen) = joined(5);
    kill(&mut seen, 4);
    assert_eq!(voters(&machine.state, &seen), ids(&[2, 3, 5]));
    seen.members.get_mut(&NodeId(4)).unwrap().since_ms = seen.now_ms - 100;
    assert_eq!(voters(&machine.state, &seen), ids(&[3, 4, 5]), "the time of grace is not over");
    let (machine, mut seen) = joined(3);
    kill(&mut seen, 3);
    assert_eq!(voters(&machine.state, &seen), ids(&[1, 2, 3]));
}

#[test]
fn a_voter_whose_control_role_is_broken_is_replaced_when_a_node_is_free() {
    let (machine, mut seen) = joined(5);
    let broken = |seen: &mut View, node| {
        let soft = seen.soft.get_mut(&NodeId(node)).unwrap();
        soft.broken_roles.push((Role::Control, "its log is damaged".to_owned()));
    };
    broken(&mut seen, 4);
    assert_eq!(voters(&machine.state, &seen), ids(&[2, 3, 5]));
    let (machine, mut seen) = joined(3);
    broken(&mut seen, 2);
    assert_eq!(voters(&machine.state, &seen), ids(&[1, 2, 3]));
}

#[test]
fn no_change_of_voters_is_asked_for_that_could_not_be_carried_out() {
    // n1 is dead and a person takes the vote from n3: n1 and n2 could not decide.
    let (mut machine, mut seen) = joined(3);
    kill(&mut seen, 1);
    pin(&mut machine, 3, Role::Control, Pin::Exclude);
    assert_eq!(voters(&machine.state, &seen), ids(&[1, 2, 3]));
}

#[test]
fn a_leader_that_is_to_stop_voting_hands_over_before_it_goes() {
    let (mut machine, mut seen) = joined(5);
    pin(&mut machine, 3, Role::Control, Pin::Exclude);
    let change = |state: &State, seen: &View| reconcile(NodeId(3), state, seen);
    let next = change(&machine.state, &seen);
    assert_eq!(next, [Action::ChangeVoters(ids(&[1, 3, 4, 5]))]);
    seen.voters = ids(&[1, 3, 4, 5]);
    assert_eq!(change(&machine.state, &seen), [Action::TransferLeadership(NodeId(1))]);
}

#[test]
fn pinned_nodes_have_the_role_and_excluded_ones_do_not() {
    let (mut machine, mut seen) = joined(5);
    pin(&mut machine, 5, Role::Lb, Pin::Include);
    pin(&mut machine, 2, Role::Dns, Pin::Exclude);
    pin(&mut machine, 1, Role::Control, Pin::Include);
    converge(&mut machine, &mut seen);
    assert_eq!(owners(&machine, Role::Lb), ids(&[2, 5]));
    assert_eq!(owners(&machine, Role::Dns), ids(&[1, 4]));
    // n5 is public now, so n3 votes rather than it.
    assert_eq!(seen.voters, ids(&[1, 3, 4]));
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let (mut machine, mut seen) = joined(5);
    machine.done(Command::SetCordoned { node: NodeId(1), on: true });
    machine.done(Command::SetCordoned { node: NodeId(3), on: true });
    converge(&mut machine, &mut seen);
    assert_eq!(owners(&machine, Role::Lb), ids(&[1, 2]));
    assert_eq!(seen.voters, ids(&[3, 4, 5]));
    kill(&mut seen, 5);
    assert_eq!(voters(&machine.state, &seen), ids(&[2, 3, 4]), "n1 is cordoned");
}

#[test]
fn a_draining_node_gives_everything_up() {
    let (mut machine, mut seen) = joined(5);
    machine.done(Command::SetDraining { node: NodeId(2), on: true });
    machine.done(Command::SetDraining { node: NodeId(5), on: true });
    converge(&mut machine, &mut seen);
    for role in [Role::Lb, Role::Dns, Role::Web] {
        assert!(owners(&machine, role).is_disjoint(&ids(&[2, 5])), "{role}");
        assert!(!owners(&machine, role).is_empty());
    }
    assert_eq!(seen.voters, ids(&[1, 3, 4]));
}

#[test]
fn an_owner_goes_only_when_the_new_one_has_seen_that_it_is_one() {
    let (mut machine, mut seen) = joined(5);
    pin(&mut machine, 5, Role::Lb, Pin::Include);
    let assign = Command::AssignRole { role: Role::Lb, node: NodeId(5) };
    let next = reconcile(NodeId(3), &machine.state, &seen);
    assert!(next.contains(&Action::Propose(assign.clone())));
    machine.done(assign);
    let release = Action::Propose(Command::ReleaseRole { role: Role::Lb, node: NodeId(1) });
    assert!(!reconcile(NodeId(3), &machine.state, &seen).contains(&release));
    seen.soft.get_mut(&NodeId(5)).unwrap().applied_index = machine.state.index;
    assert!(reconcile(NodeId(3), &machine.state, &seen).contains(&release));
}

#[test]
fn a_role_stays_with_its_last_owner_while_nobody_can_take_over() {
    let (mut machine, seen) = joined(1);
    machine.done(Command::SetDraining { node: NodeId(1), on: true });
    assert_eq!(reconcile(NodeId(1), &machine.state, &seen), []);
}

#[test]
fn a_broken_role_is_placed_elsewhere() {
    let (mut machine, mut seen) = joined(5);
    let soft = seen.soft.get_mut(&NodeId(2)).unwrap();
    soft.broken_roles.push((Role::Dns, "it panicked".to_owned()));
    converge(&mut machine, &mut seen);
    assert_eq!(owners(&machine, Role::Dns), ids(&[1, 4]));
    assert_eq!(owners(&machine, Role::Lb), ids(&[1, 2]));
}

#[test]
fn a_role_whose_node_died_is_placed_elsewhere_after_the_time_of_grace() {
    let (mut machine, mut seen) = joined(5);
    kill(&mut seen, 1);
    seen.members.get_mut(&NodeId(1)).unwrap().since_ms = seen.now_ms - 1_000;
    assert_eq!(reconcile(NodeId(3), &machine.state, &seen), []);
    kill(&mut seen, 1);
    converge(&mut machine, &mut seen);
    assert!(!owners(&machine, Role::Lb).contains(&NodeId(1)));
    assert_eq!(owners(&machine, Role::Lb).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Whatever the nodes are like, the plan is carried out in bounded steps and
    /// then says nothing more; roles are where they may be.
    #[test]
    fn the_plan_comes_to_an_end_and_does_not_flap(seed: u64) {
        let mut random = Random(seed);
        let count = random.between(1, 5) as usize;
        let (mut machine, mut seen) = joined(count);
        machine.done(put_release("notes", 1, random.between(0, 6) as u32));
        machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 1 });
        for _ in 0..random.between(0, 4) {
            let number = random.between(1, count as u64);
            let node = NodeId(number);
            let role = random.pick(&Role::ALL);
            match random.next() % 7 {
                0 => pin(&mut machine, number, role, Pin::Include),
                1 => pin(&mut machine, number, role, Pin::Exclude),
                2 => { machine.done(Command::SetCordoned { node, on: true }); }
                3 => { machine.done(Command::SetDraining { node, on: true }); }
                4 => kill(&mut seen, number),
                5 => {
                    let soft = seen.soft.get_mut(&node).unwrap();
                    soft.broken_roles.push((role, "broken".to_owned()));
                }
                _ => {
                    let want = random.between(1, 4) as u32;
                    let want = if role == Role::Control { 3 } else { want };
                    machine.done(Command::SetRoleWant { role, want });
                }
            }
        }
        let before = seen.voters.clone();
        let up = |voters: &BTreeSet<NodeId>, seen: &View| {
            voters.iter().filter(|voter| seen.is_up(**voter)).count() * 2 > voters.len()
        };
        converge(&mut machine, &mut seen);
        let state = machine.state.clone();
        converge(&mut machine, &mut seen);
        prop_assert_eq!(&machine.state, &state);
        prop_assert!(up(&seen.voters, &seen) || seen.voters == before);
        for instance in state.instances.values() {
            let node = &state.nodes[&instance.node];
            prop_assert!(!node.cordoned && !node.draining && seen.is_up(node.id));
        }
        for (role, record) in &state.roles {
            let excluded = record.owners.keys().filter(|n| state.pin(**n, *role) == Some(Pin::Exclude));
            let others = !candidates(*role, &state, &seen).is_empty();
            prop_assert!(excluded.count() == 0 || !others);
        }
    }
}
