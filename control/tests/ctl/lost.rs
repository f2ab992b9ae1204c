//! Nodes that are not there, and answers that are lost.

use std::path::Path;

use rung_admin::Limits;
use rung_proto::OperationId;
use rung_proto::api::OperationState;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

use crate::fake::{Script, serve};
use crate::run::{World, finish, start, until};

#[tokio::test]
async fn exit_6_when_the_node_is_not_running_and_how_to_start_it() {
    let world = World::new().await;
    world.server.stop().await;
    let data = world.root.path().to_str().unwrap();
    let ran = finish(start(Some(world.root.path()), &["status"])).await;
    assert_eq!((ran.code, ran.out.as_str()), (6, ""));
    assert!(ran.err.starts_with(&format!("error: the node in {data} is not running\n")));
    assert!(ran.err.contains(&format!("  next: start it with `rungd --data {data}`\n")));
    // A socket that a killed node left behind says the same.
    drop(std::os::unix::net::UnixListener::bind(world.root.path().join("admin.sock")).unwrap());
    let ran = finish(start(Some(world.root.path()), &["scale", "lb", "2"])).await;
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("is not running"), "{}", ran.err);
    let ran = finish(start(Some(world.root.path()), &["op", "watch", "7"])).await;
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("is not running"), "{}", ran.err);
}

#[tokio::test]
async fn exit_6_when_there_is_no_such_directory() {
    let ran = finish(start(Some(Path::new("/nowhere/at/all")), &["status"])).await;
    assert_eq!(ran.code, 6);
    assert!(ran.err.starts_with("error: there is no node in /nowhere/at/all\n"));
}

#[tokio::test]
async fn exit_2_when_it_is_not_said_which_node() {
    let ran = finish(start(None, &["status"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("ctl --data DIR"), "{}", ran.err);
}

#[tokio::test]
async fn the_node_in_the_default_directory_is_found() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join(".rung")).unwrap();
    std::os::unix::fs::symlink(world.data(), place.path().join(".rung/n1")).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ctl"));
    command.env_clear().current_dir(place.path()).args(["node", "ls", "-o", "name"]);
    let output = command.output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n1\nn2\nn3\n");
}

/// A server that reads a request and hangs up.
async fn hang_up(directory: &Path) {
    let listener = UnixListener::bind(directory.join("admin.sock")).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
}

#[tokio::test]
async fn exit_6_and_unknown_when_the_answer_to_a_change_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let server = tokio::spawn({
        let directory = root.path().to_owned();
        async move { hang_up(&directory).await }
    });
    until("the server listens", || root.path().join("admin.sock").exists()).await;
    let ran = finish(start(Some(root.path()), &["node", "drain", "n2"])).await;
    server.await.unwrap();
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.starts_with("error: it is not known whether the change was made\n"));
    assert!(ran.err.contains("`ctl op ls`") && ran.err.contains("code: outcome-unknown"));
}

#[tokio::test]
async fn a_lost_answer_to_a_question_is_only_unreachable() {
    let root = tempfile::tempdir().unwrap();
    let server = tokio::spawn({
        let directory = root.path().to_owned();
        async move { hang_up(&directory).await }
    });
    until("the server listens", || root.path().join("admin.sock").exists()).await;
    let ran = finish(start(Some(root.path()), &["status"])).await;
    server.await.unwrap();
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("code: unreachable"), "{}", ran.err);
}

#[tokio::test]
async fn exit_6_and_unknown_when_no_answer_comes_in_time_or_ctrl_c_is_pressed() {
    let world = World::new().await;
    world.fake.state().script = Script::Hang;
    let ran = world.ctl(&["node", "drain", "n2", "--timeout", "300ms"]).await;
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("code: outcome-unknown"), "{}", ran.err);
    let child = world.start(&["node", "drain", "n2"]);
    until("the change arrived", || world.fake.state().changes.len() == 2).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(child).await;
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("interrupted before the answer"), "{}", ran.err);
}

#[tokio::test]
async fn the_refusal_of_an_upload_is_seen_although_it_comes_early() {
    let World { root, fake, server } = World::new().await;
    server.stop().await;
    let cases = [
        (Limits { uploads: 0, ..Limits::default() }, 6, "code: overloaded"),
        (Limits { bundle_bytes: 1000, ..Limits::default() }, 2, "code: invalid-bundle"),
    ];
    for (limits, code, said) in cases {
        let server = serve(root.path(), &fake, limits).await;
        let folder = root.path().join("large");
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = "name = \"large\"\ndomain = \"l.test\"\n\n[web]\ncommand = \"./run\"\n";
        std::fs::write(folder.join("rung.toml"), manifest).unwrap();
        // Bytes that do not compress, many more than the buffers between us.
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(20_000_000)
        .collect();
        std::fs::write(folder.join("noise"), noise).unwrap();
        let arguments = ["deploy", folder.to_str().unwrap()];
        let ran = finish(start(Some(root.path()), &arguments)).await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
        server.stop().await;
    }
    assert!(fake.state().changes.is_empty());
}

#[tokio::test]
async fn an_operation_is_followed_across_a_restart_of_the_node() {
    let World { root, fake, server } = World::new().await;
    fake.state().script = Script::Stuck;
    let child = start(Some(root.path()), &["node", "drain", "n2"]);
    until("the operation is followed", || fake.watchers() == 1).await;
    server.stop().await;
    fake.finish(OperationId(7), OperationState::Done, None);
    let _server = serve(root.path(), &fake, Limits::default()).await;
    let ran = finish(child).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("  the node is away; trying again\n"), "{}", ran.err);
    assert!(ran.err.contains("  done    drain the old instances\n"));
}
