//! What operators can do on the unix socket.

use std::time::Duration;

use rung_admin::{AdminServer, Limits, peer};
use rung_proto::api::{
    Change, ChangeAnswer, ChangeRequest, Event, Operation, OperationState, Status, Token,
};
use rung_proto::{Code, Failure, OperationId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::fake::{Fake, Script, event, serve};
use crate::wire::{PATIENCE, connect, exchange, over_unix, until};

fn drain_request() -> String {
    let request = ChangeRequest {
        change: Change::Drain { node: "n2".to_owned() },
        dry_run: false,
        if_index: None,
        requested_by: "ada".to_owned(),
    };
    serde_json::to_string(&request).unwrap()
}

#[tokio::test]
async fn the_status_is_served_over_the_socket() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let server = serve(root.path(), &fake, Limits::default()).await;
    let answer = over_unix(root.path(), "GET", "/api/v1/status", "").await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.json::<Status>(), crate::fake::status());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    server.stop().await;
    assert!(!root.path().join("admin.sock").exists());
}

#[tokio::test]
async fn a_change_records_the_user_that_the_socket_proves() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let _server = serve(root.path(), &fake, Limits::default()).await;
    let answer = over_unix(root.path(), "POST", "/api/v1/operations", &drain_request()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let ChangeAnswer::Started { operation } = answer.json() else { panic!("{}", answer.body) };
    let own = peer::user_name(rustix_uid());
    assert_eq!(operation.requested_by, peer::requester(&own, "ada"));
    assert!(operation.requested_by.starts_with(&own));
}

fn rustix_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn a_refusal_is_a_failure_with_its_status() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let _server = serve(root.path(), &fake, Limits::default()).await;
    for (code, status) in
        [(Code::Usage, 400), (Code::NotFound, 404), (Code::NoCandidate, 409), (Code::NoQuorum, 503)]
    {
        fake.state().script = Script::Refuse(Failure::new(code, "no").because("it is a test"));
        let answer = over_unix(root.path(), "POST", "/api/v1/operations", &drain_request()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json::<Failure>().code, code);
    }
}

#[tokio::test]
async fn a_plan_and_nothing_to_do_are_answers() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let _server = serve(root.path(), &fake, Limits::default()).await;
    for script in [Script::Nothing, Script::Plan(vec!["drain n2".to_owned()])] {
        fake.state().script = script.clone();
        let answer = over_unix(root.path(), "POST", "/api/v1/operations", &drain_request()).await;
        match (script, answer.json::<ChangeAnswer>()) {
            (Script::Nothing, ChangeAnswer::Nothing { index: 42 }) => {}
            (Script::Plan(wanted), ChangeAnswer::Plan { index: 42, steps, .. }) => {
                assert_eq!(steps, wanted);
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn malformed_requests_get_a_precise_refusal() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let _server = serve(root.path(), &fake, limits).await;
    let cases = [
        ("POST", "/api/v1/operations", "{}", 400),
        ("POST", "/api/v1/operations", "[", 400),
        ("POST", "/api/v1/status", "", 405),
        ("GET", "/api/v1/sessions", "", 405),
        ("GET", "/api/v1/nothing", "", 404),
        ("GET", "/nothing", "", 404),
        ("GET", "/api/v1/operations/x", "", 400),
        ("GET", "/api/v1/operations/99", "", 404),
        ("GET", "/api/v1/status?follow=true", "", 400),
        ("GET", "/api/v1/events?since=-1", "", 400),
        ("GET", "/api/v1/logs?role=cdn", "", 400),
        ("GET", "/api/v1/logs?lines=1000000", "", 400),
        ("GET", "/api/v1/apps/%zz/env", "", 400),
    ];
    for (method, path, body, status) in cases {
        let answer = over_unix(root.path(), method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}");
        answer.json::<Failure>();
    }
    let large = format!("\"{}\"", "x".repeat(2000));
    let answer = over_unix(root.path(), "POST", "/api/v1/operations", &large).await;
    assert_eq!(answer.status, 400);
    assert!(fake.state().changes.is_empty());
}

#[tokio::test]
async fn a_change_that_takes_too_long_has_an_unknown_outcome() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    fake.state().script = Script::Hang;
    let limits = Limits { change: Duration::from_millis(50), ..Limits::default() };
    let _server = serve(root.path(), &fake, limits).await;
    let answer = over_unix(root.path(), "POST", "/api/v1/operations", &drain_request()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json::<Failure>().code, Code::OutcomeUnknown);
}

#[tokio::test]
async fn a_bundle_is_streamed_to_a_file_that_is_gone_afterwards() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let limits = Limits { bundle_bytes: 300_000, ..Limits::default() };
    let _server = serve(root.path(), &fake, limits).await;
    let bundle = "b".repeat(200_000);
    let answer = over_unix(root.path(), "PUT", "/api/v1/bundles", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(fake.state().bundle, bundle.as_bytes());
    let answer = over_unix(root.path(), "PUT", "/api/v1/bundles", &"c".repeat(300_001)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json::<Failure>().code, Code::InvalidBundle);
    // Without a length, the excess is noticed on the way.
    let mut chunked = b"PUT /api/v1/bundles HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..4 {
        chunked
            .extend_from_slice(format!("{:x}\r\n{}\r\n", 100_000, "d".repeat(100_000)).as_bytes());
    }
    // It is refused although the end never comes.
    let answer = exchange(connect(root.path()).await, &chunked).await;
    assert_eq!(answer.status, 400);
    assert_eq!(std::fs::read_dir(root.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let _server = serve(root.path(), &fake, Limits::default()).await;
    let request = "{\"ttl_s\":60,\"uses\":2}";
    assert_eq!(over_unix(root.path(), "POST", "/api/v1/tokens", request).await.status, 200);
    let tokens = over_unix(root.path(), "GET", "/api/v1/tokens", "").await.json::<Vec<Token>>();
    assert_eq!(tokens[0].uses_left, 2);
    let path = format!("/api/v1/tokens/{}", tokens[0].id);
    assert_eq!(over_unix(root.path(), "DELETE", &path, "").await.status, 200);
    assert_eq!(over_unix(root.path(), "DELETE", &path, "").await.status, 404);
}

struct Stream {
    lines: tokio::io::Lines<BufReader<UnixStream>>,
}

impl Stream {
    async fn open(directory: &std::path::Path, path: &str) -> Self {
        let mut stream = connect(directory).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { lines: BufReader::new(stream).lines() }
    }

    /// The next line of JSON; nothing at the orderly or abrupt end.
    async fn next(&mut self) -> Option<String> {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.unwrap();
            let line = line.ok()??;
            if line == "0" {
                return None;
            }
            if line.starts_with('{') {
                return Some(line);
            }
        }
    }
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    fake.state().script = Script::Stuck;
    let _server = serve(root.path(), &fake, Limits::default()).await;
    over_unix(root.path(), "POST", "/api/v1/operations", &drain_request()).await;
    let mut stream = Stream::open(root.path(), "/api/v1/operations/7?follow=true").await;
    let read = |line: Option<String>| serde_json::from_str::<Operation>(&line.unwrap()).unwrap();
    assert_eq!(read(stream.next().await).state, OperationState::Running);
    fake.finish(OperationId(7), OperationState::Done, None);
    assert_eq!(read(stream.next().await).state, OperationState::Done);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn events_are_followed_and_the_stream_ends_with_its_client() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let _server = serve(root.path(), &fake, Limits::default()).await;
    let mut stream = Stream::open(root.path(), "/api/v1/events?since=3&follow=true").await;
    let read = |line: Option<String>| serde_json::from_str::<Event>(&line.unwrap()).unwrap();
    assert_eq!(read(stream.next().await).index, 9);
    fake.add_event(event(10, "node-down", "n3 is down"));
    assert_eq!(read(stream.next().await).kind, "node-down");
    assert_eq!(fake.watchers(), 1);
    drop(stream);
    until("the stream ends", || fake.watchers() == 0).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_client_stops_reading() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let limits = Limits { stalled: Duration::from_millis(50), ..Limits::default() };
    let _server = serve(root.path(), &fake, limits).await;
    let mut stream = Stream::open(root.path(), "/api/v1/events?follow=true").await;
    assert!(stream.next().await.is_some());
    for index in 10..400 {
        fake.add_event(event(index, "large", &"x".repeat(10_000)));
    }
    until("the stream ends", || fake.watchers() == 0).await;
}

#[tokio::test]
async fn log_streams_end_with_their_client_and_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let limits = Limits { streams: 1, ..Limits::default() };
    let _server = serve(root.path(), &fake, limits).await;
    let path = "/api/v1/logs?app=photos&lines=5&follow=true";
    let mut stream = Stream::open(root.path(), path).await;
    assert!(stream.next().await.unwrap().contains("line 1"));
    let refused = over_unix(root.path(), "GET", path, "").await;
    assert_eq!((refused.status, refused.json::<Failure>().code), (503, Code::Overloaded));
    let sender = {
        let mut state = fake.state();
        assert_eq!((state.log_queries.len(), state.log_queries[0].lines), (1, 5));
        state.log_sender.take()
    };
    drop(stream);
    let sender = sender.unwrap();
    until("the stream ends", || sender.is_closed()).await;
    let mut again = None;
    for _ in 0..400 {
        let answer = over_unix(root.path(), "GET", "/api/v1/logs?app=photos", "").await;
        if answer.status == 200 {
            again = Some(answer);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let again = again.expect("the place of the ended stream is free again");
    assert_eq!(again.body.lines().count(), 2);
}

#[tokio::test]
async fn a_stop_breaks_streams_off_instead_of_ending_them() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let server: AdminServer = serve(root.path(), &fake, Limits::default()).await;
    let mut stream = Stream::open(root.path(), "/api/v1/events?follow=true").await;
    assert!(stream.next().await.is_some());
    assert!(stream.next().await.is_some());
    tokio::time::timeout(PATIENCE, server.stop()).await.unwrap();
    // The final chunk "0" never came: the raw lines end without it.
    let mut rest = Vec::new();
    while let Ok(Some(line)) = stream.lines.next_line().await {
        rest.push(line);
    }
    assert!(!rest.contains(&"0".to_owned()), "{rest:?}");
}
