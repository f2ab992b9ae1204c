//! Random faults and changes from a seed.

use rung_proto::Digest;
use rung_proto::api::OperationState;

use super::operations::{Asked, deploy, plain, set_env};
use super::*;
use crate::state::MAX_INSTANCES;

fn node_name(random: &mut Random, world: &World) -> String {
    let names: Vec<String> = world.state().nodes.values().map(|n| n.name.clone()).collect();
    random.pick(&names)
}

/// Something that a person may ask for; much of it is refused.
fn something(random: &mut Random, world: &World) -> Asked {
    let apps = ["notes", "shop"];
    let app = random.pick(&apps);
    let node = node_name(random, world);
    let role = random.pick(&Role::ALL);
    let count = random.between(1, 5) as u32;
    match random.next() % 16 {
        0..=3 => {
            let byte = random.between(1, 9) as u8 + if random.chance(25) { 60 } else { 0 };
            deploy(app, byte, count)
        }
        4 => plain(Change::Rollback { app: app.to_owned(), release: None }),
        5 => set_env(app),
        6 if random.chance(30) => plain(Change::RemoveApp { app: app.to_owned() }),
        6 | 7 => plain(Change::ScaleWeb { app: Some(app.to_owned()), count }),
        8 => plain(Change::ScaleRole { role, count }),
        9 => plain(Change::AddRole { node, role }),
        10 => plain(Change::RemoveRole { node, role }),
        11 => plain(Change::Move { role, node, from: None }),
        12 => plain(Change::Drain { node }),
        13 | 14 => plain(Change::Cordon { node, on: random.chance(30) }),
        _ if random.chance(20) => plain(Change::RemoveNode { node }),
        _ => plain(Change::Cordon { node, on: false }),
    }
}

fn ask(random: &mut Random, world: &mut World) {
    let (change, prepared) = something(random, world);
    if world.leader.is_none() {
        return;
    }
    if let Ok(Some(new)) = world.plan(&change, prepared) {
        if std::env::var_os("RUNG_TRACE").is_some() {
            eprintln!("{} {}", world.now, new.summary);
        }
        // Somebody else's operation may have come between.
        let _ = world.commit(Command::StartOperation(Box::new(new)), None);
    }
}

/// One fault, or the end of one. At most one node of five is silent at a time
/// beside those that a short pause stops.
fn disturb(random: &mut Random, world: &mut World) {
    let silent: Vec<NodeId> =
        world.nodes.keys().copied().filter(|node| !world.answers(*node)).collect();
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    let node = random.pick(&nodes);
    match random.next() % 4 {
        0 if silent.is_empty() => world.die(node),
        1 if silent.len() < 2 => world.pause(node),
        2 => silent.into_iter().for_each(|node| world.return_to_life(node)),
        _ if random.chance(20) => {
            if let Some(node) = world.nodes.get_mut(&node) {
                let role = random.pick(&Role::ALL);
                if !node.broken.remove(&role) && node.broken.is_empty() {
                    node.broken.insert(role);
                }
            }
        }
        _ => {}
    }
}

fn stop_faults(world: &mut World) {
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for node in nodes {
        world.return_to_life(node);
    }
    world.nodes.values_mut().for_each(|node| node.broken.clear());
}

fn check_bounds(world: &World) {
    let state = world.state();
    assert!(world.voters.len() <= 5);
    for app in state.apps.values() {
        let placed = state.instances_of(&app.name).filter(|i| !i.drain).count();
        assert!(placed <= 2 * MAX_INSTANCES as usize);
        // Wanted ones, those that they replace, and what failed on each node.
        let most = 2 * 5 + 2 * state.nodes.len();
        assert!(placed <= most, "{placed} instances of {}", app.name);
    }
    for role in [Role::Dns, Role::Lb] {
        let record = state.role(role);
        let pinned = state.nodes.keys().filter(|node| state.pin(**node, role).is_some()).count();
        // Those that take over and those that they take over from.
        let most = 2 * (record.want as usize + pinned);
        assert!(record.owners.len() <= most, "{role} has {} owners", record.owners.len());
    }
}

/// What must hold once nothing is wrong and nothing happens.
fn check_rest(world: &World) {
    let (state, view) = (world.state(), world.view());
    for app in state.apps.values().filter(|app| !app.removing && app.current.is_some()) {
        let hosts = crate::placement::instance_distribution(app, state, &view);
        let wanted: u32 = hosts.values().sum();
        let current = &app.releases[&app.current.unwrap()];
        if !world.bad.contains(&current.digest) {
            assert_eq!(world.serving(&app.name), wanted as usize, "{app:#?}");
        }
        for instance in state.instances_of(&app.name) {
            assert!(!instance.drain);
        }
    }
    for role in [Role::Dns, Role::Lb] {
        assert!(!world.owners(role).is_empty(), "nobody has {role}");
    }
    assert!(matches!(world.voters.len(), 1 | 2 | 3 | 5), "{:?}", world.voters);
    assert!(world.has_quorum(&world.voters));
}

fn bad_digests() -> BTreeSet<Digest> {
    (61..70).map(|byte| Digest([byte; 32])).collect()
}

/// Clusters of several shapes, mostly the launch's.
fn some_world(seed: u64) -> World {
    match seed % 5 {
        0 => World::launch(seed, &["east", "east", "east"]),
        1 => World::launch(seed, &["east", "west"]),
        2 => World::launch(seed, &["east", "west", "north", "east", "east", "north"]),
        _ => World::five(seed),
    }
}

#[test]
fn everything_comes_to_rest_once_faults_stop() {
    for seed in 0..seeds(15) {
        let mut world = some_world(seed);
        world.bad = bad_digests();
        let mut random = Random(seed ^ 0x5eed);
        for _ in 0..30 {
            for _ in 0..random.between(1, 60) {
                world.tick();
                check_bounds(&world);
            }
            if random.chance(60) {
                ask(&mut random, &mut world)
            } else {
                disturb(&mut random, &mut world)
            }
        }
        stop_faults(&mut world);
        world.settle();
        check_rest(&world);
    }
}

#[test]
fn whatever_is_asked_for_apps_serve_throughout_while_nothing_fails() {
    for seed in 0..seeds(10) {
        let mut world = some_world(seed);
        world.bad = bad_digests();
        let mut random = Random(seed ^ 0xca11);
        for app in ["notes", "shop"] {
            let (change, prepared) = deploy(app, 1, 3);
            world.begin(&change, prepared).unwrap();
        }
        world.settle();
        for _ in 0..20 {
            let before = world.state().apps.clone();
            ask(&mut random, &mut world);
            world.floors = before
                .values()
                .filter_map(|old| {
                    let new = world.state().apps.get(&old.name)?;
                    let goes = world.state().operations.values().any(|operation| {
                        operation.kind == "app-remove"
                            && operation
                                .subjects
                                .contains(&crate::reconcile::app_subject(&old.name))
                    });
                    // A release that changes the count does so when it is current.
                    let next = new.releases.values().map(|r| r.manifest.web.instances.min).min()?;
                    let floor = old.web.min(new.web).min(next);
                    (!goes && old.current.is_some()).then_some((old.name.clone(), floor as usize))
                })
                .collect();
            world.settle();
            check_rest(&world);
        }
    }
}

#[test]
fn a_bad_release_is_put_back_and_the_old_one_serves_throughout() {
    for seed in 0..seeds(6) {
        let mut world = World::five(seed);
        world.bad = bad_digests();
        let (change, prepared) = deploy("notes", 1, 4);
        world.begin(&change, prepared).unwrap();
        world.settle();
        let before = world.hosts("notes");
        world.floors.insert("notes".to_owned(), 4);
        let (change, prepared) = deploy("notes", 66, 4);
        let id = world.begin(&change, prepared).unwrap();
        world.settle();
        assert_eq!(world.operation(id).state, OperationState::RolledBack);
        assert_eq!(world.hosts("notes"), before);
        let app = &world.state().apps["notes"];
        assert_eq!((app.current, app.releases.len(), app.next_release()), (Some(1), 1, 3));
        assert!(world.state().instances_of("notes").all(|instance| instance.release == 1));
    }
}

#[test]
fn a_voter_that_dies_is_replaced_and_votes_are_never_given_up() {
    let mut world = World::five(1);
    assert_eq!(world.owners(Role::Control), [3, 4, 5]);
    world.die(NodeId(4));
    world.settle();
    assert_eq!(world.owners(Role::Control), [2, 3, 5]);
    // One by one the rest dies, until the last two cannot decide any more.
    world.die(NodeId(5));
    world.settle();
    assert_eq!(world.owners(Role::Control).len(), 3);
    world.die(NodeId(3));
    world.settle();
    assert_eq!(world.owners(Role::Control).len(), 3);
    [3, 4, 5].into_iter().for_each(|node| world.return_to_life(NodeId(node)));
    world.settle();
    assert_eq!(world.owners(Role::Control).len(), 3);
}
