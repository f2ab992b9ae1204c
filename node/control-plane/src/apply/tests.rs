use proptest::prelude::*;
use rung_proto::api::{OperationState, StepState};
use rung_proto::{Code, Incarnation, InstanceId, NodeId, OperationId, Role, encoding};

use crate::command::{Answer, Command, Proposal};
use crate::operation::{NewOperation, StepRecord, StepUpdate, Work};
use crate::samples::{Applies, Random, cluster, create_cluster, node, proposal, put_release};
use crate::sealed::ClusterKey;
use crate::state::{Delta, MAX_RELEASES, Pin, State};
use crate::{Machine, Outcome};

fn code(outcome: Outcome) -> Code {
    outcome.expect_err("the command is refused").code
}

fn app() -> Machine {
    let mut machine = cluster(&["east", "west"]);
    machine.done(put_release("notes", 1, 2));
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 1 });
    machine
}

fn place(release: u32, env_version: u64, node: u64) -> Command {
    Command::PlaceInstance { app: "notes".to_owned(), release, env_version, node: NodeId(node) }
}

fn admit(token: u8, key: u8, number: u64) -> Command {
    let node = Box::new(node(number, "east"));
    Command::AdmitNode { token: [token; 32], key: [key; 32], node }
}

#[test]
fn a_cluster_is_created_once() {
    let mut machine = cluster(&["east"]);
    assert_eq!(machine.state.cluster.name, "test");
    assert_eq!(code(machine.run(create_cluster(node(2, "east")))), Code::AlreadyExists);
}

#[test]
fn a_token_admits_as_often_as_it_may_and_the_same_key_gets_the_same_node() {
    let mut machine = cluster(&["east"]);
    let now = 1_000_000;
    machine.done(Command::CreateToken { hash: [7; 32], expires_ms: now * 2, uses: 2 });
    assert_eq!(machine.done(admit(7, 1, 20)), Answer::Admitted(NodeId(20)));
    // The answer was lost; it asks again under a new id and gets the first.
    assert_eq!(machine.done(admit(7, 1, 21)), Answer::Admitted(NodeId(20)));
    assert_eq!(machine.done(admit(7, 2, 22)), Answer::Admitted(NodeId(22)));
    assert_eq!(code(machine.run(admit(7, 3, 23))), Code::TokenSpent);
    assert_eq!(machine.done(admit(7, 2, 24)), Answer::Admitted(NodeId(22)));
    assert_eq!(code(machine.run(admit(8, 4, 25))), Code::TokenInvalid);
    // The entry that made the token comes twice: what was used stays used.
    machine.done(Command::CreateToken { hash: [7; 32], expires_ms: now * 2, uses: 2 });
    assert_eq!(code(machine.run(admit(7, 3, 23))), Code::TokenSpent);
}

#[test]
fn a_token_expires_and_can_be_revoked() {
    let mut machine = cluster(&["east"]);
    machine.done(Command::CreateToken { hash: [7; 32], expires_ms: 5, uses: 2 });
    assert_eq!(code(machine.run(admit(7, 1, 20))), Code::TokenExpired);
    machine.done(Command::CreateToken { hash: [8; 32], expires_ms: u64::MAX, uses: 2 });
    machine.done(Command::RevokeToken { id: crate::secrets::token_id(&[8; 32]) });
    assert_eq!(code(machine.run(admit(8, 1, 20))), Code::TokenInvalid);
    assert_eq!(code(machine.run(Command::RevokeToken { id: "no".to_owned() })), Code::NotFound);
}

#[test]
fn a_name_is_taken_until_its_node_is_removed_and_a_removed_id_stays_refused() {
    let mut machine = cluster(&["east", "west"]);
    let mut same_name = node(30, "east");
    same_name.name = "n2".to_owned();
    let same_name = |id: u64| {
        let mut n = same_name.clone();
        n.id = NodeId(id);
        Box::new(n)
    };
    let token = [9; 32];
    let admit = |id, key| Command::AdmitNode { token, key: [key; 32], node: same_name(id) };
    assert_eq!(code(machine.run(admit(30, 30))), Code::NameTaken);
    machine.done(Command::RemoveNode { node: NodeId(2) });
    assert_eq!(code(machine.run(admit(2, 31))), Code::IdentityRefused);
    // The removed node still has its key and the token.
    assert_eq!(code(machine.run(admit(2, 2))), Code::IdentityRefused);
    assert_eq!(machine.done(admit(30, 30)), Answer::Admitted(NodeId(30)));
    assert_eq!(code(machine.run(Command::RemoveNode { node: NodeId(2) })), Code::NotFound);
}

#[test]
fn a_removed_node_leaves_no_role_and_no_instance_behind() {
    let mut machine = app();
    machine.done(Command::AssignRole { role: Role::Web, node: NodeId(2) });
    machine.done(place(1, 0, 2));
    machine.done(Command::RemoveNode { node: NodeId(2) });
    assert!(machine.state.instances.is_empty());
    assert!(!machine.state.owns(NodeId(2), Role::Web));
    assert!(!machine.secrets.node_keys.contains_key(&NodeId(2)));
}

#[test]
fn a_later_start_of_a_node_wins_over_an_earlier_one() {
    let mut machine = cluster(&["east"]);
    let update = |incarnation| Command::UpdateNode {
        node: NodeId(1),
        incarnation: Incarnation(incarnation),
        mesh: "127.0.0.99:7400".parse().unwrap(),
        admin: "127.0.0.99:7401".parse().unwrap(),
        public: "127.0.0.99".parse().unwrap(),
        version: "0.2.0".to_owned(),
    };
    machine.done(update(3));
    assert_eq!(machine.state.nodes[&NodeId(1)].version, "0.2.0");
    assert_eq!(code(machine.run(update(2))), Code::Precondition);
}

#[test]
fn every_ownership_has_an_epoch_of_its_own() {
    let mut machine = cluster(&["east"]);
    let assign = || Command::AssignRole { role: Role::Lb, node: NodeId(1) };
    let epoch = |machine: &Machine| machine.state.role(Role::Lb).owners[&NodeId(1)];
    machine.done(assign());
    let first = epoch(&machine);
    machine.done(assign());
    assert_eq!(epoch(&machine), first);
    machine.done(Command::ReleaseRole { role: Role::Lb, node: NodeId(1) });
    machine.done(assign());
    assert!(epoch(&machine) > first);
    let unknown = Command::AssignRole { role: Role::Lb, node: NodeId(77) };
    assert_eq!(code(machine.run(unknown)), Code::NotFound);
}

#[test]
fn a_proposal_for_another_index_is_refused() {
    let mut machine = cluster(&["east"]);
    let current = machine.state.index;
    let note =
        Command::Note { kind: "x".to_owned(), message: String::new(), node: None, app: None };
    let at = |if_index| Proposal { if_index: Some(if_index), ..proposal(1, note.clone()) };
    let (outcome, delta) = machine.apply(current + 1, &at(current + 5));
    assert_eq!((code(outcome), delta.updates.len()), (Code::IndexChanged, 0));
    assert_eq!(machine.state.index, current + 1);
    let (outcome, _) = machine.apply(current + 2, &at(current + 1));
    assert_eq!(outcome, Ok(Answer::Done));
}

#[test]
fn several_commands_are_all_carried_out_or_none() {
    let mut machine = app();
    let before = machine.clone();
    let refused = Command::All(vec![place(1, 0, 1), place(1, 0, 77)]);
    assert_eq!(code(machine.run(refused)), Code::NotFound);
    assert_eq!(machine.state.instances, before.state.instances);
    assert_eq!(machine.state.next_id, before.state.next_id);
    let mut deep = place(1, 0, 1);
    for _ in 0..10 {
        deep = Command::All(vec![deep]);
    }
    assert_eq!(code(machine.run(deep)), Code::Usage);
}

#[test]
fn an_instance_is_placed_only_for_what_the_app_is_now() {
    let mut machine = app();
    machine.done(place(1, 0, 1));
    assert_eq!(code(machine.run(place(2, 0, 1))), Code::IndexChanged);
    assert_eq!(code(machine.run(place(1, 1, 1))), Code::IndexChanged);
    let id = *machine.state.instances.keys().next().unwrap();
    machine.done(Command::DrainInstance { id });
    let record = &machine.state.instances[&id];
    assert!(record.drain && record.changed == machine.state.index);
    machine.done(Command::RemoveInstance { id });
    machine.done(Command::RemoveInstance { id });
    machine.done(place(1, 0, 1));
    assert!(!machine.state.instances.contains_key(&id), "an id is used once");
}

#[test]
fn a_release_number_is_never_used_twice() {
    let mut machine = app();
    assert_eq!(code(machine.run(put_release("notes", 3, 2))), Code::IndexChanged);
    machine.done(put_release("notes", 2, 2));
    let drop = |release| Command::DropRelease { app: "notes".to_owned(), release };
    assert_eq!(code(machine.run(drop(1))), Code::Precondition);
    machine.done(place(2, 0, 1));
    assert_eq!(code(machine.run(drop(2))), Code::Precondition, "an instance still has it");
    let id = *machine.state.instances.keys().next().unwrap();
    machine.done(Command::RemoveInstance { id });
    machine.done(drop(2));
    assert_eq!(code(machine.run(put_release("notes", 2, 2))), Code::IndexChanged);
    machine.done(put_release("notes", 3, 2));
}

#[test]
fn old_releases_go_and_those_in_use_stay() {
    let mut machine = app();
    let west = || Command::SetTarget { app: "notes".to_owned(), dc: "west".to_owned(), release: 2 };
    machine.done(put_release("notes", 2, 2));
    machine.done(west());
    for number in 3..30 {
        machine.done(put_release("notes", number, 2));
    }
    let releases: Vec<u32> = machine.state.apps["notes"].releases.keys().copied().collect();
    assert_eq!(releases.len(), MAX_RELEASES);
    assert_eq!(releases[..3], [1, 2, 22]);
}

#[test]
fn two_apps_do_not_get_one_domain_even_if_both_are_planned_at_once() {
    let mut machine = app();
    let Command::PutRelease { app, release, digest, size, mut manifest } =
        put_release("shop", 1, 1)
    else {
        unreachable!("it puts a release")
    };
    manifest.domain = "notes.test".to_owned();
    let put = Command::PutRelease { app, release, digest, size, manifest };
    assert_eq!(code(machine.run(put.clone())), Code::AlreadyExists);
    machine.done(Command::RemoveApp { app: "notes".to_owned() });
    machine.done(put);
}

#[test]
fn the_manifest_sets_the_number_of_instances_only_when_it_changes_it() {
    let mut machine = app();
    let web = |machine: &Machine| machine.state.apps["notes"].web;
    assert_eq!(web(&machine), 2);
    machine.done(Command::SetWebWant { app: "notes".to_owned(), want: 5 });
    machine.done(put_release("notes", 2, 2));
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 2 });
    assert_eq!(web(&machine), 5);
    let Command::PutRelease { app, release, digest, size, mut manifest } =
        put_release("notes", 3, 3)
    else {
        unreachable!("it puts a release")
    };
    // A range begins with its lower end: there is no autoscaler yet.
    manifest.web.instances = "3..8".parse().unwrap();
    machine.done(Command::PutRelease { app, release, digest, size, manifest });
    machine.done(Command::SetCurrent { app: "notes".to_owned(), release: 3 });
    assert_eq!(web(&machine), 3);
    let much = Command::SetWebWant { app: "notes".to_owned(), want: 1001 };
    assert_eq!(code(machine.run(much)), Code::Usage);
}

#[test]
fn variables_have_a_version_and_their_values_are_no_part_of_the_state() {
    let mut machine = app();
    let sealed = ClusterKey::from_bytes([1; 32]).seal("env/notes", b"s3cret");
    let set = |names: &[&str]| Command::SetEnv {
        app: "notes".to_owned(),
        sealed: sealed.clone(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    machine.done(set(&["A"]));
    let set_at = machine.state.apps["notes"].env_names["A"];
    let first = machine.state.apps["notes"].env_version;
    machine.done(set(&["A", "B"]));
    let app = &machine.state.apps["notes"];
    assert_eq!((app.env_names["A"], app.env_names.len()), (set_at, 2));
    assert!(app.env_version > first);
    let secret = &machine.secrets.env["notes"];
    assert_eq!((secret.version, &secret.sealed), (app.env_version, &sealed));
    assert!(!format!("{:?}", machine.state).contains("Sealed"));
}

#[test]
fn an_app_goes_only_when_its_last_instance_has() {
    let mut machine = app();
    machine.done(place(1, 0, 1));
    let remove = || Command::RemoveApp { app: "notes".to_owned() };
    machine.done(Command::StartRemoval { app: "notes".to_owned() });
    assert_eq!(code(machine.run(remove())), Code::Precondition);
    let id = *machine.state.instances.keys().next().unwrap();
    machine.done(Command::RemoveInstance { id });
    machine.done(remove());
    assert!(machine.state.apps.is_empty());
}

fn operation(subject: &str, steps: Vec<StepRecord>, compensation: Vec<StepRecord>) -> Command {
    Command::StartOperation(Box::new(NewOperation {
        kind: "test".to_owned(),
        summary: "a test".to_owned(),
        subjects: vec![subject.to_owned()],
        initial: Vec::new(),
        steps,
        compensation,
    }))
}

fn start(machine: &mut Machine, command: Command) -> OperationId {
    match machine.done(command) {
        Answer::Operation(id) => id,
        other => panic!("{other:?}"),
    }
}

fn wait(name: &str) -> StepRecord {
    StepRecord::new(name, Work::RoleCount { role: Role::Lb }, 1000)
}

fn step(undoing: bool, step: usize, from: StepState, to: StepState) -> StepUpdate {
    let failed = to == StepState::Failed;
    let failure = failed.then(|| rung_proto::Failure::new(Code::AppFailed, format!("step {step}")));
    StepUpdate {
        undoing,
        step,
        from,
        to,
        note: String::new(),
        reached: 0,
        commands: Vec::new(),
        failure,
    }
}

fn advance(id: OperationId, update: StepUpdate) -> Command {
    Command::AdvanceOperation { id, update: Box::new(update) }
}

#[test]
fn a_step_moves_on_only_from_where_it_was_seen() {
    use StepState::{Done, Running, Waiting};
    let mut machine = cluster(&["east"]);
    let id = start(&mut machine, operation("a", vec![wait("one"), wait("two")], vec![]));
    let busy = operation("a", vec![], vec![]);
    assert_eq!(code(machine.run(busy)), Code::OperationRunning);
    assert_eq!(code(machine.run(advance(id, step(false, 1, Waiting, Done)))), Code::IndexChanged);
    assert_eq!(code(machine.run(advance(id, step(true, 0, Waiting, Done)))), Code::IndexChanged);
    machine.done(advance(id, step(false, 0, Waiting, Running)));
    machine.done(advance(id, step(false, 0, Running, Done)));
    assert_eq!(code(machine.run(advance(id, step(false, 0, Running, Done)))), Code::IndexChanged);
    machine.done(advance(id, step(false, 1, Waiting, Done)));
    assert_eq!(machine.state.operations[&id].state, OperationState::Done);
    assert_eq!(code(machine.run(advance(id, step(false, 1, Done, Done)))), Code::IndexChanged);
    assert_eq!(
        code(machine.run(advance(OperationId(99), step(false, 0, Waiting, Done)))),
        Code::NotFound
    );
}

#[test]
fn what_fails_while_undoing_does_not_keep_the_rest_from_being_undone() {
    use StepState::{Done, Failed, Skipped, Waiting};
    let mut machine = cluster(&["east"]);
    let undo = vec![wait("undo one"), wait("undo two")];
    let id = start(&mut machine, operation("a", vec![wait("one"), wait("two")], undo));
    machine.done(advance(id, step(false, 0, Waiting, Failed)));
    machine.done(advance(id, step(true, 0, Waiting, Failed)));
    let record = &machine.state.operations[&id];
    assert_eq!((record.state, record.steps[1].state), (OperationState::Running, Skipped));
    machine.done(advance(id, step(true, 1, Waiting, Done)));
    let record = &machine.state.operations[&id];
    assert_eq!(record.state, OperationState::Failed);
    let failure = record.failure.clone().unwrap().to_string();
    assert!(failure.contains("while undoing: step 0"), "{failure}");
}

#[test]
fn a_step_whose_commands_are_refused_fails_and_changes_nothing_else() {
    let mut machine = app();
    let work = Work::Apply(vec![place(1, 0, 1), place(9, 0, 1)]);
    let steps = vec![StepRecord::new("place", work, 1000)];
    let id = start(&mut machine, operation("a", steps, vec![]));
    let view = crate::samples::view(&machine.state);
    let record = machine.state.operations[&id].clone();
    let update = crate::operation::advance(&record, &machine.state, &view).unwrap();
    machine.done(advance(id, update));
    assert_eq!(machine.state.operations[&id].state, OperationState::Failed);
    assert!(machine.state.instances.is_empty());
}

/// Any command about few things, so that many of them meet.
fn any_command(random: &mut Random, depth: u32) -> Command {
    let node = NodeId(random.between(1, 5));
    let role = random.pick(&Role::ALL);
    let app = random.pick(&["notes", "shop"]).to_owned();
    let release = random.between(1, 4) as u32;
    let on = random.chance(50);
    let id = InstanceId(random.between(1, 30));
    let dc = random.pick(&["east", "west"]).to_owned();
    match random.next() % 30 {
        0 => create_cluster(crate::samples::node(node.0, &dc)),
        1 | 2 => Command::AdmitNode {
            token: [random.between(8, 9) as u8; 32],
            key: [random.between(1, 6) as u8; 32],
            node: Box::new(crate::samples::node(node.0, &dc)),
        },
        3 => Command::UpdateNode {
            node,
            incarnation: Incarnation(random.between(1, 3)),
            mesh: "127.0.0.1:1".parse().unwrap(),
            admin: "127.0.0.1:2".parse().unwrap(),
            public: "::1".parse().unwrap(),
            version: "0.1.0".to_owned(),
        },
        4 => Command::SetPin {
            node,
            role,
            pin: random.pick(&[None, Some(Pin::Include), Some(Pin::Exclude)]),
        },
        5 => Command::SetCordoned { node, on },
        6 => Command::SetDraining { node, on },
        7 => Command::RemoveNode { node },
        8 => Command::SetRoleWant { role, want: release },
        9 => Command::AssignRole { role, node },
        10 => Command::ReleaseRole { role, node },
        11 => Command::CreateToken {
            hash: [random.between(8, 9) as u8; 32],
            expires_ms: random.between(0, 2) * 1_000_100,
            uses: 2,
        },
        12 => Command::RevokeToken { id: crate::secrets::token_id(&[8; 32]) },
        13 | 14 => put_release(&app, release, release),
        15 => Command::SetTarget { app, dc, release },
        16 => Command::SetCurrent { app, release },
        17 => Command::DropRelease { app, release },
        18 => Command::SetWebWant { app, want: release * 300 },
        19 => Command::SetEnv {
            app,
            sealed: ClusterKey::from_bytes([1; 32]).seal("x", b"y"),
            names: vec!["A".to_owned()],
        },
        20 => Command::StartRemoval { app },
        21 => Command::RemoveApp { app },
        22 => Command::PlaceInstance { app, release, env_version: random.between(0, 1), node },
        23 => Command::DrainInstance { id },
        24 => Command::RemoveInstance { id },
        27 => Command::BeginGeneration { generation: u64::from(release), node },
        25 if depth < 2 => {
            let steps = vec![
                wait("one"),
                StepRecord::new("two", Work::Apply(vec![any_command(random, 2)]), 5),
            ];
            let Command::StartOperation(mut new) =
                operation(&app, steps, if on { vec![wait("undo")] } else { vec![] })
            else {
                unreachable!("it starts an operation")
            };
            new.initial = vec![any_command(random, 2)];
            Command::StartOperation(new)
        }
        26 => {
            let states =
                [StepState::Waiting, StepState::Running, StepState::Done, StepState::Failed];
            let mut update = step(
                on,
                (random.next() % 2) as usize,
                random.pick(&states[..2]),
                random.pick(&states[1..]),
            );
            if depth < 2 && random.chance(50) {
                update.commands = vec![any_command(random, 2), any_command(random, 2)];
            }
            advance(OperationId(random.between(1, 30)), update)
        }
        28 if depth < 2 => Command::All((0..3).map(|_| any_command(random, depth + 1)).collect()),
        _ => Command::Note {
            kind: "k".to_owned(),
            message: "m".to_owned(),
            node: None,
            app: Some(app),
        },
    }
}

fn read_back<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    encoding::decode(&encoding::encode(value)).expect("what was encoded can be read")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    /// One run through all that must hold of any sequence of entries.
    #[test]
    fn applying_is_deterministic_followed_exactly_and_all_or_nothing(seed: u64) {
        let mut random = Random(seed);
        let mut machine = cluster(&["east", "west"]);
        let mut other: Machine = read_back(&machine);
        prop_assert_eq!(&machine, &other);
        let mut follower: State = read_back(&machine.state);
        for _ in 0..80 {
            let index = machine.state.index + random.between(1, 2);
            let by = if random.chance(30) { "ann".to_owned() } else { String::new() };
            let if_index = random.chance(20).then(|| machine.state.index - random.next() % 2);
            let entry = Proposal {
                at_ms: 1_000_000 + index,
                if_index,
                by,
                command: any_command(&mut random, 0),
            };
            let entry_read: Proposal = read_back(&entry);
            prop_assert_eq!(&entry_read, &entry);
            let before = machine.clone();
            let (outcome, delta) = machine.apply(index, &entry);
            if outcome.is_err() {
                let mut unchanged = before;
                unchanged.state.index = index;
                prop_assert_eq!(&machine, &unchanged);
                prop_assert!(delta.updates.is_empty());
            }
            let again = other.apply(index, &entry_read);
            prop_assert_eq!(&again, &(outcome.clone(), delta.clone()));
            let outcome_read: Outcome = read_back(&outcome);
            prop_assert_eq!(outcome_read, outcome);
            let delta: Delta = read_back(&delta);
            follower.follow(delta.clone()).unwrap();
            prop_assert_eq!(&follower, &machine.state);
            prop_assert_eq!(follower.follow(delta), Err(index), "a delta is followed once");
        }
        prop_assert_eq!(&machine, &other);
        let stored: Machine = read_back(&machine);
        prop_assert_eq!(stored, machine);
    }
}
