//! Every kind of operation in the simulated world: by itself, with the runner
//! replaced between any two entries of the log, and with two that both propose.

use std::collections::BTreeMap;

use rung_proto::Role;
use rung_proto::api::{Change, OperationState, StepState};

use super::*;
use crate::samples::release;
use crate::sealed::ClusterKey;

/// What a person asks for, prepared.
pub type Asked = (Change, Prepared);

pub fn deploy(app: &str, byte: u8, instances: u32) -> Asked {
    let release = release(app, byte, instances);
    let change = Change::Deploy { bundle: release.digest };
    (change, Prepared { release: Some(release), ..Prepared::default() })
}

pub fn plain(change: Change) -> Asked {
    (change, Prepared::default())
}

pub fn set_env(app: &str) -> Asked {
    let sealed = ClusterKey::from_bytes([1; 32]).seal("env/notes", b"x");
    let change = Change::SetEnv { app: app.to_owned(), set: BTreeMap::new(), unset: Vec::new() };
    (change, Prepared { env: Some((sealed, vec!["A".to_owned()])), ..Prepared::default() })
}

/// One kind of operation: what comes before it, what it is, how it ends.
struct Case {
    name: &'static str,
    before: Vec<Asked>,
    asked: Asked,
    ends: OperationState,
}

fn on(node: &str) -> String {
    node.to_owned()
}

fn cases() -> Vec<Case> {
    let done = OperationState::Done;
    let notes = || "notes".to_owned();
    let case = |name, before, asked| Case { name, before, asked, ends: done };
    let one = || vec![deploy("notes", 1, 4)];
    let web = |count| plain(Change::ScaleWeb { app: None, count });
    let role = |role, count| plain(Change::ScaleRole { role, count });
    let add = |node, role| plain(Change::AddRole { node: on(node), role });
    let to = |role, node| plain(Change::Move { role, node: on(node), from: None });
    let cordon = |node, yes| plain(Change::Cordon { node: on(node), on: yes });
    vec![
        case("first deploy", vec![], deploy("notes", 1, 4)),
        case("second deploy", one(), deploy("notes", 2, 4)),
        case("deploy that scales", one(), deploy("notes", 2, 6)),
        Case {
            ends: OperationState::RolledBack,
            ..case("bad deploy", one(), deploy("notes", 66, 4))
        },
        Case {
            ends: OperationState::RolledBack,
            ..case("bad first deploy", vec![], deploy("notes", 66, 4))
        },
        Case {
            ends: OperationState::RolledBack,
            ..case(
                // What replaces the instance on n2 is placed in the other data center.
                "bad deploy beside a cordoned node",
                vec![
                    cordon("n1", true),
                    deploy("notes", 1, 1),
                    cordon("n1", false),
                    cordon("n2", true),
                ],
                deploy("notes", 66, 1),
            )
        },
        case(
            "rollback",
            vec![deploy("notes", 1, 4), deploy("notes", 2, 4)],
            plain(Change::Rollback { app: notes(), release: None }),
        ),
        case("env", one(), set_env("notes")),
        case("app remove", one(), plain(Change::RemoveApp { app: notes() })),
        case("scale web up", one(), web(7)),
        case("scale web down", one(), web(2)),
        case("scale lb up", vec![], role(Role::Lb, 3)),
        case("scale dns down", vec![], role(Role::Dns, 1)),
        case("scale control down", vec![], role(Role::Control, 1)),
        case("scale control up", vec![], role(Role::Control, 5)),
        case("role add lb", vec![], add("n3", Role::Lb)),
        case("role add web", one(), add("n5", Role::Web)),
        case("role add control", vec![], add("n1", Role::Control)),
        case("role rm dns", vec![], plain(Change::RemoveRole { node: on("n1"), role: Role::Dns })),
        case("role rm web", one(), plain(Change::RemoveRole { node: on("n1"), role: Role::Web })),
        case("move lb", vec![], to(Role::Lb, "n3")),
        case("move dns", vec![], to(Role::Dns, "n4")),
        case("move web", vec![deploy("notes", 1, 2)], to(Role::Web, "n5")),
        case("move control", vec![], to(Role::Control, "n1")),
        case("drain", one(), plain(Change::Drain { node: on("n1") })),
        case("drain of a voter", one(), plain(Change::Drain { node: on("n3") })),
        case("cordon", one(), cordon("n2", true)),
        case("uncordon", vec![plain(Change::Drain { node: on("n2") })], cordon("n2", false)),
        case("node remove", one(), plain(Change::RemoveNode { node: on("n2") })),
    ]
}

fn world(seed: u64, case: &Case) -> World {
    let mut world = World::five(seed);
    world.bad.insert(rung_proto::Digest([66; 32]));
    for (change, prepared) in &case.before {
        world.begin(change, prepared.clone()).expect(case.name);
        world.settle();
    }
    for app in world.state().apps.clone().into_values() {
        let wanted = match &case.asked.0 {
            Change::ScaleWeb { count, .. } => app.web.min(*count),
            Change::RemoveApp { .. } => 0,
            _ => app.web,
        };
        world.floors.insert(app.name.clone(), wanted as usize);
    }
    world
}

/// All that must not depend on who ran the operation, without ids and times.
#[derive(PartialEq, Debug)]
struct End {
    owners: Vec<Vec<u64>>,
    wants: Vec<u32>,
    pins: Vec<String>,
    apps: Vec<String>,
    /// App, release, whether its variables are the newest, node.
    instances: Vec<(String, u32, bool, u64)>,
    operations: Vec<(String, OperationState, Vec<StepState>, Vec<StepState>)>,
}

fn end(world: &World) -> End {
    let state = world.state();
    let states = |steps: &[crate::operation::StepRecord]| steps.iter().map(|s| s.state).collect();
    let mut instances: Vec<_> = state
        .instances
        .values()
        .map(|i| {
            let newest = i.env_version == state.apps[&i.app].env_version;
            (i.app.clone(), i.release, newest, i.node.0)
        })
        .collect();
    instances.sort();
    let pins = |node: &crate::state::NodeRecord| {
        format!("{} {:?} {} {}", node.name, node.pins, node.cordoned, node.draining)
    };
    let app = |app: &crate::state::AppRecord| {
        let releases: Vec<u32> = app.releases.keys().copied().collect();
        format!(
            "{} {releases:?} {:?} {:?} {} {}",
            app.name, app.current, app.targets, app.web, app.removing
        )
    };
    End {
        owners: Role::ALL.into_iter().map(|role| world.owners(role)).collect(),
        wants: Role::ALL.into_iter().map(|role| state.role(role).want).collect(),
        pins: state.nodes.values().map(pins).collect(),
        apps: state.apps.values().map(app).collect(),
        instances,
        operations: state
            .operations
            .values()
            .map(|o| (o.kind.clone(), o.state, states(&o.steps), states(&o.compensation)))
            .collect(),
    }
}

fn finish(world: &mut World, case: &Case) -> End {
    let (change, prepared) = &case.asked;
    let id = world.begin(change, prepared.clone()).expect(case.name);
    world.settle();
    let operation = world.operation(id);
    assert_eq!(operation.state, case.ends, "{}: {operation:#?}", case.name);
    for ((id, undoing, step), times) in &world.steps {
        let record = world.operation(*id);
        let name = &if *undoing { &record.compensation } else { &record.steps }[*step].name;
        // Asked for again, a step that is finished is refused.
        assert_eq!(*times, 1, "{}: {name:?} was carried out {times} times", case.name);
    }
    end(world)
}

#[test]
fn every_kind_of_operation_ends_as_asked_and_keeps_the_apps_serving() {
    for case in cases() {
        for seed in 0..super::seeds(3) {
            finish(&mut world(seed, &case), &case);
        }
    }
}

#[test]
fn a_runner_that_dies_between_any_two_entries_is_taken_over_from() {
    for case in cases() {
        let before = world(1, &case);
        let mut undisturbed = before.clone();
        let start = undisturbed.committed;
        let expected = finish(&mut undisturbed, &case);
        let entries = undisturbed.committed - start;
        assert!(entries > 0);
        for dies_after in 1..=entries {
            let mut world = before.clone();
            world.runner_dies_after = Some(dies_after);
            let got = finish(&mut world, &case);
            assert_eq!(got, expected, "{}: the runner died after {dies_after}", case.name);
        }
    }
}

#[test]
fn two_runners_at_once_carry_out_every_step_once() {
    for case in cases() {
        let mut world = world(1, &case);
        let expected = finish(&mut world.clone(), &case);
        world.two_leaders = true;
        assert_eq!(finish(&mut world, &case), expected, "{}", case.name);
    }
}
