//! Commands that look, as tables, JSON and names.

use rung_proto::api::{Event, LogLine, Severity, Status, Token};
use rung_proto::{Code, Failure, Role};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::fake::{event, finding, status};
use crate::run::{PATIENCE, World, finish, start, until};

#[tokio::test]
async fn the_json_of_a_status_is_the_api_s_own() {
    let world = World::new().await;
    let ran = world.ctl(&["status", "-o", "json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(serde_json::from_str::<Status>(&ran.out).unwrap(), status());
    let ran = world.ctl(&["status"]).await;
    assert!(ran.out.starts_with("cluster shop  leader n1  index 42"), "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'));
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
}

#[tokio::test]
async fn names_are_one_a_line() {
    let world = World::new().await;
    assert_eq!(world.ctl(&["node", "ls", "-o", "name"]).await.out, "n1\nn2\nn3\n");
    assert_eq!(world.ctl(&["app", "ls", "-o", "name"]).await.out, "photos\n");
    assert_eq!(world.ctl(&["env", "ls", "photos", "-o", "name"]).await.out, "SECRET\n");
}

#[tokio::test]
async fn tables_look_like_this() {
    let world = World::new().await;
    assert_eq!(
        world.ctl(&["top"]).await.out,
        "\
NODE  CPU  CORES  MEMORY            DISK FREE  RECEIVED  SENT   RUNGD
n1    25%  4      2.0 GB of 8.0 GB  40 GB      1.2 MB    98 kB  31 MB

NODE  ACTOR      ROLE  WAITING  CAPACITY  HANDLED  RESTARTS
n1    placement  -     3        256       12345    1
"
    );
    assert_eq!(
        world.ctl(&["audit"]).await.out,
        "\
INDEX  TIME            BY              ACTION
5      09-21 14:13:20  root (for ada)  drain n2
"
    );
    assert_eq!(
        world.ctl(&["app", "show", "photos"]).await.out,
        "\
APP     RELEASE  WEB  DOMAIN
photos  4        1/2  photos.test

INSTANCE  APP     NODE  STATE     RELEASE  RESTARTS  PROBLEM
11        photos  n1    healthy   4        0
12        photos  n2    starting  4        0
"
    );
    assert_eq!(
        world.ctl(&["events"]).await.out,
        "\
09-21 14:13:20  node-joined         n2 joined
09-21 14:13:20  deployed            photos 4
"
    );
    assert_eq!(world.ctl(&["app", "show", "nothing"]).await.code, 5);
    assert_eq!(world.ctl(&["env", "ls", "nothing"]).await.code, 5);
    assert_eq!(world.ctl(&["op", "show", "99"]).await.code, 5);
}

#[tokio::test]
async fn events_are_streamed_as_lines_of_json() {
    let world = World::new().await;
    let mut child = world.start(&["events", "-w", "--since", "3", "-o", "json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap();
        serde_json::from_str::<Event>(&line.unwrap().unwrap()).unwrap()
    };
    assert_eq!(next().await.index, 9);
    world.fake.add_event(event(10, "node-down", "n3 is down"));
    assert_eq!(next().await.kind, "node-down");
    // The stream does not end by itself; when the node ends, it was cut off.
    world.server.stop().await;
    assert_eq!(finish(child).await.code, 6);
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_a_stream_quietly() {
    let world = World::new().await;
    let mut child = world.start(&["events", "-w"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().ends_with("n2 joined"));
    drop(lines);
    until("the events are followed", || world.fake.watchers() == 1).await;
    world.fake.add_event(event(10, "node-down", "n3 is down"));
    let ran = finish(child).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    until("the stream ended", || world.fake.watchers() == 0).await;
}

#[tokio::test]
async fn logs_are_asked_for_by_app_or_role_and_keep_their_bytes_in_a_pipe() {
    let world = World::new().await;
    let ran = world.ctl(&["logs", "photos", "-n", "5", "--node", "n1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("09-21 14:13:20  n1/photos#11  line 1 \u{1b}[31mred"));
    let ran = world.ctl(&["logs", "lb", "-o", "json"]).await;
    let first: LogLine = serde_json::from_str(ran.out.lines().next().unwrap()).unwrap();
    assert_eq!(first.source, "lb");
    let state = world.fake.state();
    assert_eq!(state.log_queries[0].app.as_deref(), Some("photos"));
    assert_eq!(state.log_queries[0].lines, 5);
    assert_eq!(state.log_queries[0].node.as_deref(), Some("n1"));
    assert_eq!(state.log_queries[1].role, Some(Role::Lb));
}

#[tokio::test]
async fn the_doctor_fails_when_there_is_a_problem() {
    let world = World::new().await;
    let ran = world.ctl(&["doctor"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "ok       clock         within 3 ms\n"));
    let problem = finding(Severity::Problem, "disk", "n2 has 1% left", "make room on n2");
    world.fake.state().findings.push(problem);
    let ran = world.ctl(&["doctor"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.ends_with("next: make room on n2\n"), "{}", ran.out);
}

#[tokio::test]
async fn a_token_is_all_that_standard_output_gets() {
    let world = World::new().await;
    let ran = world.ctl(&["token", "create", "--ttl", "10m", "--uses", "3"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "rung1.aa.bb\n"));
    assert!(ran.err.starts_with("token beef01: 3 use(s)"), "{}", ran.err);
    let ran = world.ctl(&["token", "ls", "-o", "json"]).await;
    let tokens: Vec<Token> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((tokens[0].uses_left, tokens.len()), (3, 1));
    assert_eq!(world.ctl(&["token", "revoke", "beef01"]).await.out, "token beef01 is revoked\n");
    assert_eq!(world.ctl(&["token", "revoke", "beef01"]).await.code, 5);
}

#[tokio::test]
async fn the_dashboard_s_link_is_printed() {
    let world = World::new().await;
    let ran = world.ctl(&["ui"]).await;
    let start = format!("http://{}/ui?ticket=", world.server.tcp_addr());
    assert!(ran.out.starts_with(&start), "{}", ran.out);
}

#[tokio::test]
async fn codes_operations_and_nodes_are_explained() {
    // Codes need no node.
    let ran = finish(start(None, &["explain", "no-quorum"])).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.starts_with("no-quorum (ctl exits with 6)\n\nToo few control voters"));
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80));
    let ran = finish(start(None, &["explain"])).await;
    assert!(ran.out.lines().count() > 25 && ran.out.contains("no-candidate"));
    let world = World::new().await;
    let failure = Failure::new(Code::AppFailed, "photos 5 is bad").because("| boom");
    world.fake.state().script =
        crate::fake::Script::End(rung_proto::api::OperationState::Failed, Some(failure));
    world.ctl(&["node", "drain", "n2"]).await;
    let ran = world.ctl(&["explain", "7"]).await;
    for part in ["operation 7 deploy: failed", "  why:  | boom", "The app's own process failed."] {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
    let ran = world.ctl(&["explain", "n3"]).await;
    assert!(ran.out.contains("n3 does not answer."), "{}", ran.out);
    let ran = world.ctl(&["explain", "nonsense"]).await;
    assert_eq!(ran.code, 5, "{ran:?}");
}

#[tokio::test]
async fn help_and_completions_need_no_node() {
    let ran = finish(start(None, &["--help"])).await;
    assert_eq!(ran.code, 0);
    for part in ["Look:", "Nodes and roles:", "Exit codes:", "--data <DIR>", "ctl deploy examples"]
    {
        assert!(ran.out.contains(part), "{part}\n{}", ran.out);
    }
    assert_eq!(finish(start(None, &[])).await.code, 2);
    for shell in ["bash", "zsh", "fish"] {
        let ran = finish(start(None, &["completions", shell])).await;
        assert!(ran.code == 0 && ran.out.contains("rollback"), "{shell}");
    }
}
