//! A site that keeps everything in the database, while its processes and the
//! database's primary die.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rung_proto::api::NodeState;
use rung_tests::cluster::SOON;
use rung_tests::photos::Visitor;
use rung_tests::{Cluster, eventually, run, until};
use serde_json::{Value, json};

fn john() -> Value {
    json!({
        "id": 12,
        "firstName": "John",
        "lastName": "Smith",
        "address": {
            "streetAddress": "21 2nd Street",
            "city": "New York",
            "state": "NY",
            "postalCode": 10021
        },
        "phoneNumbers": ["212 555-1234", "646 555-4567"]
    })
}

fn put_john(visitor: &mut Visitor) -> Result<(), String> {
    let fields = "Content-Type: application/json\r\n";
    let answer = visitor.ask("PUT /people/12", fields, john().to_string().as_bytes());
    match answer {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("PUT: {}\n{}", answer.head, answer.text())),
        Err(error) => Err(format!("PUT: {error}")),
    }
}

fn john_at(visitor: &mut Visitor) -> Option<Value> {
    let answer = visitor.ask("GET /people/12", "Accept: application/json\r\n", b"").ok()?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).expect("JSON"))
}

/// A visitor who goes on looking, and expects to stay logged in.
struct Surfer {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Surfer {
    fn start(mut visitor: Visitor, name: &'static str) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match visitor.get("/") {
                    Ok(page) if page.status != 200 => {
                        failures.push(format!("GET: {}\n{}", page.head, page.text()));
                    }
                    Ok(page) if !page.text().contains(&format!("Hello {name}.")) => {
                        failures.push(format!("logged out: {}", page.text()));
                    }
                    Ok(_) => {}
                    Err(error) => failures.push(format!("GET: {error}")),
                }
                failures.extend(put_john(&mut visitor).err());
                counted.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, rounds, thread }
    }

    /// Lets more pages be seen, each wholly after now.
    #[track_caller]
    fn look_on(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + 4;
        eventually("more pages are seen", SOON, || self.rounds.load(Ordering::Relaxed) >= goal);
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().expect("the visitor's thread");
        println!("{} rounds of a page and a change", self.rounds.load(Ordering::Relaxed));
        assert_eq!(failures, Vec::<String>::new());
    }
}

#[test]
fn nobody_is_logged_out_when_web_processes_and_the_primary_die() {
    let mut cluster = Cluster::builder().nodes(4).alone().start();
    cluster.deploy_photos();
    cluster.wait_serving("photos", 2);
    let mut visitor = Visitor::new(cluster.http("n1"));
    visitor.post("/signup", "name=Ada&password=correct+horse");
    visitor.post("/logout", "");
    assert!(visitor.get("/").unwrap().text().contains("Sign up"));
    visitor.post("/login", "name=Ada&password=correct+horse");
    let image: Vec<u8> =
        b"\x89PNG\r\n\x1a\n".iter().copied().chain((0..=255).cycle().take(300_000)).collect();
    visitor.upload("A <harbour>", &image);
    let photos = visitor.photos();
    assert_eq!(photos.len(), 1);

    let surfer = Surfer::start(visitor.clone(), "Ada");
    surfer.look_on();
    let before: Vec<_> = cluster.healthy("photos").iter().filter_map(|i| i.pid).collect();
    cluster.ctl(&["env", "set", "photos", "SEASON=winter"]).expect(0);
    cluster.wait_healthy("photos", 2);
    let healthy = cluster.healthy("photos");
    assert!(healthy.iter().all(|i| i.pid.is_some_and(|pid| !before.contains(&pid))));
    surfer.look_on();

    let victim = healthy[0].pid.expect("a process");
    rung_tests::process::signal(victim, "KILL");
    eventually("another process is there", SOON, || {
        let healthy = cluster.healthy("photos");
        healthy.len() == 2 && healthy.iter().all(|i| i.pid != Some(victim))
    });
    surfer.look_on();

    // The visitor goes to n1.
    if cluster.primary("photos", &[]) == "n1" {
        let shard = cluster.shard("photos", &[]).expect("the database");
        let other = shard.replicas[0].node.clone();
        cluster.ctl(&["promote", &other]).expect(0);
    }
    let primary = until("the primary is elsewhere", SOON, || {
        Some(cluster.primary("photos", &[])).filter(|node| node != "n1")
    });
    cluster.kill(&primary);
    let next = cluster.primary("photos", &[&primary]);
    assert_ne!(next, primary);
    surfer.look_on();
    surfer.end();

    assert_eq!(visitor.photos(), photos);
    let shown = visitor.get(&photos[0]).expect("the photo");
    assert!(shown.status == 200 && shown.body == image, "{}", shown.head);
    cluster.restart(&primary);
    cluster.wait_state(&primary, NodeState::Alive);
    cluster.wait_serving("photos", 2);
}

#[test]
fn a_document_put_through_one_node_is_read_through_another() {
    let cluster = Cluster::builder().nodes(3).start();
    cluster.deploy_photos();
    let balancers: Vec<String> = {
        let nodes = cluster.status().nodes;
        let balances =
            |node: &&rung_proto::api::Node| node.roles.iter().any(|role| role.name() == "lb");
        nodes.iter().filter(balances).map(|node| node.name.clone()).collect()
    };
    let [one, other, ..] = balancers.as_slice() else { panic!("two balancers: {balancers:?}") };
    let mut visitor = Visitor::new(cluster.http(one));
    put_john(&mut visitor).unwrap();
    let mut elsewhere = visitor.at(cluster.http(other));
    let read = until("the document is there", SOON, || john_at(&mut elsewhere));
    assert_eq!(read, john());
    let url = cluster.url(other, "photos");
    let query = "SELECT * FROM phone_numbers ORDER BY place";
    let text = run(Command::new("psql").args(["-X", &url, "-Atc", query]), SOON);
    assert_eq!(text.expect(0).stdout, "12|1|212 555-1234\n12|2|646 555-4567\n");
}
