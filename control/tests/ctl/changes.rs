//! Changes and the exit code of each way they can end.

use rung_proto::api::{Change, ChangeAnswer, Operation, OperationState};
use rung_proto::{Code, Digest, Failure, OperationId, Role};

use crate::fake::Script;
use crate::run::{World, finish, until};

#[tokio::test]
async fn exit_0_a_change_streams_its_steps_and_is_done() {
    let world = World::new().await;
    let ran = world.ctl(&["node", "drain", "n2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "done: photos runs release 5 (4.2 s)\n");
    assert!(ran.err.starts_with("operation 7: photos release 5 on n1, n2\n"), "{}", ran.err);
    for step in ["store the bundle", "start an instance on n1", "drain the old instances"] {
        assert!(ran.err.contains(&format!("  done    {step}\n")), "{}", ran.err);
    }
    let state = world.fake.state();
    assert_eq!(state.changes[0].change, Change::Drain { node: "n2".to_owned() });
    assert!(state.changes[0].requested_by.contains("ada"));
}

#[tokio::test]
async fn exit_0_when_there_is_nothing_to_do() {
    let world = World::new().await;
    world.fake.state().script = Script::Nothing;
    let ran = world.ctl(&["scale", "lb", "2"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "nothing to do (index 42)\n"));
    let ran = world.ctl(&["scale", "lb", "2", "-o", "json"]).await;
    let answer: ChangeAnswer = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer, ChangeAnswer::Nothing { index: 42 });
}

#[tokio::test]
async fn exit_1_when_the_operation_fails_and_its_reason_is_told() {
    let world = World::new().await;
    let why = "exit code 1; it printed\n| Traceback\n| no module named flask";
    let failure = Failure::new(Code::AppFailed, "photos release 5 does not start")
        .because(why)
        .next("repair the app and deploy again");
    world.fake.state().script = Script::End(OperationState::RolledBack, Some(failure));
    let folder = world.app_folder();
    let ran = world.ctl(&["deploy", folder.to_str().unwrap()]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    for line in [
        "  failed  drain the old instances",
        "error: photos release 5 does not start",
        "  why:  exit code 1; it printed",
        "        | no module named flask",
        "  next: repair the app and deploy again",
        "  code: app-failed (see `ctl explain app-failed`)",
    ] {
        assert!(ran.err.lines().any(|found| found == line), "{line}\nin\n{}", ran.err);
    }
}

#[tokio::test]
async fn exit_1_also_when_an_accepted_operation_ends_by_a_refusal() {
    let world = World::new().await;
    let failure = Failure::new(Code::NoCandidate, "no node can take it");
    world.fake.state().script = Script::End(OperationState::Failed, Some(failure));
    assert_eq!(world.ctl(&["move", "lb", "n3"]).await.code, 1);
    world.fake.state().script = Script::End(OperationState::Failed, None);
    let ran = world.ctl(&["move", "lb", "n3", "-o", "json"]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(serde_json::from_str::<Operation>(&ran.out).unwrap().state, OperationState::Failed);
    let failure: Failure = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!(failure.code, Code::Internal);
}

#[tokio::test]
async fn exit_2_for_what_is_written_wrongly() {
    let world = World::new().await;
    for wrong in [
        &["nonsense"][..],
        &["scale", "cdn", "2"],
        &["scale", "web", "many"],
        &["scale", "lb", "2", "--app", "photos"],
        &["move", "lb"],
        &["deploy", "--timeout", "soon", "."],
        &["env", "set", "photos", "NOT_A_PAIR"],
        &["deploy", "/proc/self/nothing"],
        &["status", "-o", "yaml"],
    ] {
        let ran = world.ctl(wrong).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{wrong:?} {ran:?}");
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
    }
    assert!(world.fake.state().changes.is_empty());
}

#[tokio::test]
async fn exit_3_when_the_plan_of_a_dry_run_has_changes() {
    let world = World::new().await;
    world.fake.state().script = Script::Plan(vec!["start 2 instances".to_owned()]);
    let ran = world.ctl(&["scale", "web", "4", "--dry-run"]).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(
        ran.out,
        "plan: photos release 5\n  1. start 2 instances\n\
         made at index 42; add --if-index 42 to do just this\n"
    );
    assert!(world.fake.state().changes[0].dry_run);
    world.fake.state().script = Script::Plan(Vec::new());
    assert_eq!(world.ctl(&["scale", "web", "4", "--dry-run"]).await.code, 0);
}

#[tokio::test]
async fn exit_4_when_the_end_is_not_seen_in_time() {
    let world = World::new().await;
    world.fake.state().script = Script::Stuck;
    let ran = world.ctl(&["role", "add", "n3", "web", "--timeout", "300ms"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{ran:?}");
    assert!(ran.err.contains("  running start an instance on n1: waits for its health\n"));
    assert!(ran.err.ends_with("operation 7 goes on; see how it ends with\n  ctl op watch 7\n"));
    world.fake.finish(OperationId(7), OperationState::Done, None);
    assert_eq!(world.ctl(&["op", "watch", "7"]).await.code, 0);
}

#[tokio::test]
async fn exit_4_at_ctrl_c_and_the_operation_goes_on() {
    let world = World::new().await;
    world.fake.state().script = Script::Stuck;
    let child = world.start(&["node", "remove", "n3"]);
    until("the operation is followed", || world.fake.watchers() == 1).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(child).await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.ends_with("  ctl op watch 7\n"), "{}", ran.err);
    until("the stream ended", || world.fake.watchers() == 0).await;
    assert_eq!(world.fake.state().operations[0].state, OperationState::Running);
}

#[tokio::test]
async fn exit_5_when_a_precondition_refuses() {
    let world = World::new().await;
    for code in [Code::IndexChanged, Code::Precondition, Code::NoCandidate, Code::NotFound] {
        world.fake.state().script = Script::Refuse(Failure::new(code, "not so"));
        let ran = world.ctl(&["rollback", "photos", "--to", "3", "--if-index", "41"]).await;
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.err.contains(&format!("code: {code} ")));
    }
    let state = world.fake.state();
    assert_eq!(state.changes[0].if_index, Some(41));
    let wanted = Change::Rollback { app: "photos".to_owned(), release: Some(3) };
    assert_eq!(state.changes[0].change, wanted);
}

#[tokio::test]
async fn exit_6_without_a_quorum() {
    let world = World::new().await;
    let failure = Failure::new(Code::NoQuorum, "the change was not made")
        .because("1 of 3 control voters answers");
    world.fake.state().script = Script::Refuse(failure);
    let ran = world.ctl(&["node", "cordon", "n2"]).await;
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("  why:  1 of 3 control voters answers\n"));
}

#[tokio::test]
async fn a_deploy_packs_uploads_and_asks_for_what_was_stored() {
    let world = World::new().await;
    let folder = world.app_folder();
    let ran = world.ctl(&["deploy", folder.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.starts_with("packed photos: 1 entries, "), "{}", ran.err);
    let state = world.fake.state();
    assert_eq!(state.changes[0].change, Change::Deploy { bundle: Digest([7; 32]) });
    let limits = rung_bundle::Limits::default();
    let summary = rung_bundle::inspect(state.bundle.as_slice(), &limits).unwrap();
    assert_eq!(summary.manifest.name, "photos");
    drop(state);
    assert_eq!(std::fs::read_dir(world.data().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn each_command_asks_for_its_change() {
    let world = World::new().await;
    world.fake.state().script = Script::Nothing;
    let secrets = world.data().join("secrets.env");
    std::fs::write(&secrets, "# keys\nKEY=a=b\n\nLOG=info\n").unwrap();
    let photos = || "photos".to_owned();
    let (n1, n2) = (|| "n1".to_owned(), || "n2".to_owned());
    let set = [("KEY", "a=b"), ("LOG", "debug")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let cases: Vec<(Vec<&str>, Change)> = vec![
        (vec!["node", "uncordon", "n2"], Change::Cordon { node: n2(), on: false }),
        (vec!["node", "cordon", "n2"], Change::Cordon { node: n2(), on: true }),
        (vec!["node", "remove", "n2"], Change::RemoveNode { node: n2() }),
        (vec!["role", "add", "n2", "dns"], Change::AddRole { node: n2(), role: Role::Dns }),
        (vec!["role", "rm", "n2", "dns"], Change::RemoveRole { node: n2(), role: Role::Dns }),
        (
            vec!["move", "lb", "n2", "--from", "n1"],
            Change::Move { role: Role::Lb, node: n2(), from: Some(n1()) },
        ),
        (
            vec!["scale", "web", "4", "--app", "photos"],
            Change::ScaleWeb { app: Some(photos()), count: 4 },
        ),
        (vec!["scale", "control", "3"], Change::ScaleRole { role: Role::Control, count: 3 }),
        (vec!["app", "rm", "photos"], Change::RemoveApp { app: photos() }),
        (vec!["rollback", "photos"], Change::Rollback { app: photos(), release: None }),
        (
            vec!["env", "unset", "photos", "LOG"],
            Change::SetEnv { app: photos(), set: [].into(), unset: vec!["LOG".to_owned()] },
        ),
        (
            vec!["env", "set", "photos", "LOG=debug", "--file", secrets.to_str().unwrap()],
            Change::SetEnv { app: photos(), set: set.into(), unset: Vec::new() },
        ),
    ];
    for (arguments, change) in cases {
        let ran = world.ctl(&arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?} {ran:?}");
        assert_eq!(world.fake.state().changes.last().unwrap().change, change);
    }
}
