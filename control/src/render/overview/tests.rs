use rung_proto::api::{NodeTop, OperationState};
use rung_proto::soft::ActorStatus;

use super::*;

#[path = "../../../../node/admin/tests/admin/fake.rs"]
#[expect(dead_code, reason = "only its sample of a status is used here")]
mod fake;

fn plain(status: &Status) -> String {
    super::status(status, Some(80), false, fake::NOW_MS)
}

#[test]
fn a_status_is_a_page_of_tables() {
    let mut status = fake::status();
    status.nodes[1].cordoned = true;
    status.nodes[1].pinned = vec![Role::Web];
    assert_eq!(
        plain(&status),
        "\
cluster shop  leader n1  index 42  seen from n1
roles lb 2/2

NODE  DC    STATE           CONTROL   ROLES               ADDRESS
n1    east  alive           leader    control dns lb web  127.0.0.11:7400
n2    east  alive,cordoned  follower  lb web*             127.0.0.12:7400
n3    west  down            follower  -                   127.0.0.13:7400

APP     RELEASE  WEB  DOMAIN
photos  4        1/2  photos.test

INSTANCE  APP     NODE  STATE     RELEASE  RESTARTS  PROBLEM
11        photos  n1    healthy   4        0
12        photos  n2    starting  4        0

DATABASE  SHARD  PRIMARY  EPOCH  REPLICAS  WITNESS
photos    0      n1       7      n2        n3

warning: one control voter: the loss of n1 stops changes
"
    );
}

#[test]
fn a_table_stays_within_eighty_columns_and_a_wide_one_shows_all() {
    let mut status = fake::status();
    let instance = &mut status.apps[0].web.instances[1];
    instance.problem = Some("x".repeat(300));
    status.nodes[0].name = "a-name-of-a-node-that-is-much-longer-than-others".repeat(2);
    assert!(
        plain(&status)
            .lines()
            .filter(|l| !l.starts_with("warning"))
            .all(|line| { line.chars().count() <= 80 })
    );
    let wide = super::status(&status, None, false, fake::NOW_MS);
    assert!(wide.contains(&"x".repeat(300)) && wide.contains("21000"));
}

#[test]
fn colours_are_used_only_when_wanted() {
    let status = fake::status();
    assert!(!plain(&status).contains('\u{1b}'));
    assert!(super::status(&status, Some(80), true, 0).contains("\u{1b}[31mdown\u{1b}[0m"));
}

#[test]
fn a_missing_leader_is_said() {
    let mut status = fake::status();
    status.cluster.leader = None;
    assert!(plain(&status).starts_with("cluster shop  leader unknown  index 42"));
}

#[test]
fn events_and_log_lines_are_one_line_each() {
    let happened = fake::event(3, "node-down", "n3 is\ndown");
    assert_eq!(event(&happened, false, false), "09-21 14:13:20  node-down           n3 is down");
    let line = LogLine {
        at_ms: fake::NOW_MS,
        node: "n1".to_owned(),
        source: "photos".to_owned(),
        instance: Some(rung_proto::InstanceId(11)),
        line: "\u{1b}[31mred\u{1b}[0m".to_owned(),
    };
    assert_eq!(log_line(&line, false, false, true), "09-21 14:13:20  n1/photos#11  red");
    assert!(log_line(&line, false, false, false).ends_with("\u{1b}[31mred\u{1b}[0m"));
}

#[test]
fn an_operation_is_a_page_with_its_steps_and_its_failure() {
    let mut operation = rung_proto::api::Operation {
        id: rung_proto::OperationId(7),
        kind: "deploy".to_owned(),
        summary: "photos release 5".to_owned(),
        state: OperationState::RolledBack,
        steps: vec![rung_proto::api::Step {
            name: "start an instance on n1".to_owned(),
            state: rung_proto::api::StepState::Failed,
            note: "exit code 1".to_owned(),
        }],
        requested_by: "ada".to_owned(),
        created_ms: fake::NOW_MS,
        finished_ms: Some(fake::NOW_MS + 4200),
        result: None,
        failure: Some(
            rung_proto::Failure::new(rung_proto::Code::AppFailed, "photos 5 is bad")
                .because("| boom"),
        ),
    };
    assert_eq!(
        operation::page(&operation, false),
        "\
operation 7 deploy: rolled-back
  photos release 5
  asked for by ada at 2026-09-21T14:13:20.000Z
  finished at 2026-09-21T14:13:24.200Z, after 4.2 s
steps
  1. failed   start an instance on n1: exit code 1
error: photos 5 is bad
  why:  | boom
  code: app-failed (see `ctl explain app-failed`)
"
    );
    operation.summary = "s".repeat(200);
    let table = operation::table(&[operation], false, fake::NOW_MS + 65_000);
    let text = table.render(Some(80), false);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    assert!(text.contains("7   deploy  rolled-back  1m   ssss"), "{text}");
}

#[test]
fn top_shows_the_inboxes_of_actors_and_none_for_tasks() {
    let actor = |name: &str, depth, capacity, handled| ActorStatus {
        name: name.to_owned(),
        role: None,
        depth,
        capacity,
        handled,
        restarts: 0,
    };
    let actors = vec![actor("leader-requests", 3, 64, 0), actor("peers", 0, 0, 0)];
    let node = NodeTop { name: "n1".to_owned(), host: Default::default(), actors };
    let page = super::top(&Top { nodes: vec![node] }, Some(80), false);
    let words = |name: &str| -> Vec<String> {
        let line = page.lines().find(|line| line.contains(name)).expect("a line of the actor");
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("leader-requests"), ["n1", "leader-requests", "-", "3", "64", "0", "0"]);
    assert_eq!(words("peers"), ["n1", "peers", "-", "-", "-", "-", "0"]);
}
