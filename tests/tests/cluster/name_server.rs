//! The name server, asked by dig.

use std::process::Command;
use std::time::Duration;

use rung_proto::Role;
use rung_tests::app::Hello;
use rung_tests::{Cluster, Run, eventually, run};

/// A killed load balancer is out of the answers within this.
const GONE: Duration = Duration::from_secs(15);

fn dig(cluster: &Cluster, server: &str, question: &[&str]) -> Run {
    let at = format!("@{}", cluster.ip(server));
    let mut command = Command::new("dig");
    command.args([&at, "-p", "5300", "+tries=2", "+time=2", "+noall", "+answer", "+comments"]);
    run(command.args(question), Duration::from_secs(20))
}

fn addresses(cluster: &Cluster, server: &str, more: &[&str]) -> Vec<String> {
    let mut question = vec!["hello.test", "A", "+short"];
    question.extend_from_slice(more);
    let said = dig(cluster, server, &question);
    said.stdout.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect()
}

fn balancers(cluster: &Cluster) -> Vec<(String, String)> {
    let nodes = cluster.status().nodes.into_iter();
    let nodes = nodes.filter(|node| node.roles.contains(&Role::Lb));
    nodes.map(|node| (node.name, node.dc)).collect()
}

#[test]
fn dig_finds_the_balancers_near_first_and_not_those_that_died() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    let lbs = balancers(&cluster);
    assert_eq!(lbs.len(), 2);
    let mut servers = cluster.status().nodes;
    servers.retain(|node| node.roles.contains(&Role::Dns));
    assert_eq!(servers.len(), 2);
    for server in &servers {
        let near_first = || {
            let mut sorted = lbs.clone();
            sorted.sort_by_key(|(_, dc)| *dc != server.dc);
            sorted.iter().map(|(name, _)| cluster.ip(name).to_string()).collect::<Vec<_>>()
        };
        eventually("the addresses are near first", GONE, || {
            addresses(&cluster, &server.name, &[]) == near_first()
        });
        assert_eq!(addresses(&cluster, &server.name, &["+tcp"]), near_first());
    }

    let answer = dig(&cluster, "n1", &["hello.test", "A"]).expect(0);
    answer.clone().saying("status: NOERROR");
    let record = answer.stdout.lines().find(|line| line.starts_with("hello.test.")).expect("an A");
    let words: Vec<&str> = record.split_whitespace().collect();
    assert_eq!(words[1..4], ["5", "IN", "A"], "{record}");
    let flags = answer.stdout.lines().find(|line| line.contains("flags:")).expect("flags");
    assert!(flags.contains(" aa") && !flags.contains(" ra"), "{flags}");
    dig(&cluster, "n1", &["hello.test", "NS"]).expect(0).saying("\tNS\t");
    dig(&cluster, "n1", &["hello.test", "SOA"]).expect(0).saying("\tSOA\t");
    dig(&cluster, "n1", &["nothing.hello.test", "A"]).expect(0).saying("status: NXDOMAIN");
    dig(&cluster, "n1", &["example.com", "A"]).expect(0).saying("status: REFUSED");
    dig(&cluster, "n1", &["hello.test", "A", "+cookie"]).expect(0).saying("COOKIE: ");
    let aaaa = dig(&cluster, "n1", &["hello.test", "AAAA"]).expect(0);
    aaaa.clone().saying("status: NOERROR");
    aaaa.saying("ANSWER: 0");

    let (victim, _) = lbs.iter().find(|(name, _)| name != "n1").expect("another balancer");
    let gone = cluster.ip(victim).to_string();
    cluster.kill(victim);
    let took = eventually("the dead balancer is out of the answers", GONE, || {
        let told = addresses(&cluster, "n1", &[]);
        !told.is_empty() && !told.contains(&gone)
    });
    println!("a dead balancer was out of DNS after {:.1} s", took.as_secs_f64());
    eventually("another balancer takes its place", GONE, || {
        let told = addresses(&cluster, "n1", &[]);
        told.len() == 2 && !told.contains(&gone)
    });
}
