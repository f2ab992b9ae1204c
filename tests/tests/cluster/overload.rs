//! More requests than the leader takes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rung_proto::{Code, Failure};
use rung_tests::cluster::SOON;
use rung_tests::process::signal;
use rung_tests::{Cluster, eventually, http, until};
use serde_json::Value;

const ACTOR: &str = "leader-requests";
/// What the leader works on at once, and what then may wait.
const AT_ONCE: u64 = 16;
const WAITING: u64 = 64;
const STORM: u64 = 100;

/// One request on a connection of its own to a node's unix socket.
fn ask(socket: &Path, method: &str, body: &str) -> std::io::Result<http::Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "{method} /api/v1/tokens HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    http::read(&answer)
}

/// So many requests at once; their answers as they come.
fn ask_at_once(
    socket: &Path,
    method: &'static str,
    body: &'static str,
    count: u64,
) -> Receiver<http::Answer> {
    let (sender, answers) = channel();
    for _ in 0..count {
        let (sender, socket): (_, PathBuf) = (sender.clone(), socket.to_owned());
        std::thread::spawn(move || {
            let answer = ask(&socket, method, body).expect("the node answers");
            // The test has failed already if nobody listens.
            let _ = sender.send(answer);
        });
    }
    answers
}

/// What `ctl top` of a node says of an actor there.
fn actor(cluster: &Cluster, node: &str, name: &str) -> Value {
    let top = cluster.ctl_of(node, &["top", "-o", "json"]).expect(0).json();
    let named = |list: &Value, name: &str| {
        let list = list.as_array().cloned().unwrap_or_default();
        list.into_iter().find(|entry| entry["name"] == name).expect("an entry of that name")
    };
    named(&named(&top["nodes"], node)["actors"], name)
}

fn number(actor: &Value, field: &str) -> u64 {
    actor[field].as_u64().unwrap_or_else(|| panic!("{field} of {actor}"))
}

#[test]
fn a_storm_of_requests_is_refused_by_the_leader_beyond_its_inbox_and_harms_no_node() {
    let cluster = Cluster::builder().start();
    let (leader, voters) = (cluster.leader(), cluster.voters());
    let names = ["n1", "n2", "n3", "n4", "n5"];
    let follower = names.iter().find(|name| voters.iter().all(|voter| voter != *name));
    let follower = *follower.expect("a node that does not vote");
    let before = actor(&cluster, &leader, ACTOR);
    assert_eq!((number(&before, "capacity"), number(&before, "restarts")), (WAITING, 0));
    assert_eq!(number(&actor(&cluster, &leader, "follow"), "capacity"), 0, "a task without inbox");

    // Without a quorum what changes something waits, and takes every place.
    let others: Vec<&String> = voters.iter().filter(|voter| **voter != leader).collect();
    for voter in &others {
        signal(cluster.pid(voter), "STOP");
    }
    let token = r#"{"ttl_s":60,"uses":1}"#;
    let leading = cluster.data(&leader).join("admin.sock");
    let changes = ask_at_once(&leading, "POST", token, AT_ONCE);
    eventually("the leader works on as much as it may", SOON, || {
        number(&actor(&cluster, &leader, ACTOR), "handled") >= number(&before, "handled") + AT_ONCE
    });

    // The rest comes from another node, over the mesh.
    let storm = ask_at_once(&cluster.data(follower).join("admin.sock"), "GET", "", STORM);
    for _ in 0..STORM - WAITING {
        let refused = storm.recv_timeout(SOON).expect("what finds no place is refused at once");
        let failure: Failure = serde_json::from_slice(&refused.body).expect("a failure");
        assert_eq!((refused.status, failure.code), (503, Code::Overloaded), "{failure}");
        assert!(failure.what.contains("nothing was done"), "{failure}");
        assert!(failure.next.contains("try again"), "{failure}");
    }
    assert_eq!(number(&actor(&cluster, &leader, ACTOR), "depth"), WAITING);
    for node in [leader.as_str(), follower] {
        cluster.ctl_of(node, &["status"]).expect(0);
    }

    for voter in &others {
        signal(cluster.pid(voter), "CONT");
    }
    for answer in storm.iter().take(WAITING as usize).chain(changes.iter()) {
        let code = serde_json::from_slice(&answer.body).map(|failure: Failure| failure.code);
        // One whose turn came late was refused, and a change may have lost its
        // leader on the way; none stays without an answer.
        let expected = [Code::Overloaded, Code::OutcomeUnknown, Code::NoQuorum];
        assert!(answer.status == 200 || code.is_ok_and(|code| expected.contains(&code)));
    }
    let leader = until("somebody leads", SOON, || cluster.status().cluster.leader);
    eventually("changes are made again", SOON, || {
        cluster.ctl_of(follower, &["token", "create"]).code == 0
    });
    eventually("nothing waits any more, and the actor was not restarted", SOON, || {
        let after = actor(&cluster, &leader, ACTOR);
        (number(&after, "depth"), number(&after, "restarts")) == (0, 0)
    });
    assert!(names.iter().all(|name| cluster.is_up(name)));
}
