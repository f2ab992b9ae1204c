//! What keeps a node from starting is said clearly, and harms nothing.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use rung_proto::api::NodeState;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, Run, eventually};

/// `rungd` for node `nK`, to its end.
fn refused(cluster: &Cluster, number: u8, more: &[&str]) -> Run {
    let data = cluster.data(&format!("n{number}"));
    let arguments = cluster.join_arguments(number);
    let mut words = vec!["--data", data.to_str().expect("a plain path")];
    words.extend(arguments.iter().map(String::as_str));
    words.extend_from_slice(more);
    cluster.refused(&words)
}

/// A refusal as people and scripts read it.
fn expect_code(run: Run, exit: i32, code: &str) {
    let run = run.expect(exit).saying(&format!("code: {code}\n"));
    run.clone().saying("next: ");
    assert!(!run.says("panicked"), "{run}");
}

#[test]
fn tokens_that_are_not_good_are_refused_and_a_good_one_still_joins() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.make_token(1);
    let good = fs::read_to_string(cluster.token_file()).unwrap();
    let write = |text: &[u8]| fs::write(cluster.token_file(), text).unwrap();

    write(b"\xff\xfe\x00garbage");
    expect_code(refused(&cluster, 2, &[]), 1, "token-invalid");
    write(b"");
    expect_code(refused(&cluster, 2, &[]), 1, "token-invalid");
    let (start, secret) = good.trim().rsplit_once('.').expect("a token");
    let turned: String = secret.chars().rev().collect();
    assert_ne!(turned, secret);
    write(format!("{start}.{turned}").as_bytes());
    expect_code(refused(&cluster, 2, &[]), 1, "token-invalid");

    let words = ["token", "create", "--ttl", "1s", "-o", "json"];
    let short = cluster.ctl(&words).expect(0).json();
    write(short["token"].as_str().expect("a token").as_bytes());
    eventually("the token is too old", SOON, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        now.as_millis() > u128::from(short["expires_ms"].as_u64().expect("a time"))
    });
    expect_code(refused(&cluster, 2, &[]), 1, "token-expired");

    let revoked = cluster.ctl(&["token", "create", "-o", "json"]).expect(0).json();
    let id = revoked["id"].as_str().expect("an id");
    assert!(cluster.ctl(&["token", "ls", "-o", "name"]).expect(0).stdout.contains(id));
    cluster.ctl(&["token", "revoke", id]).expect(0);
    assert!(!cluster.ctl(&["token", "ls", "-o", "name"]).expect(0).stdout.contains(id));
    write(revoked["token"].as_str().expect("a token").as_bytes());
    expect_code(refused(&cluster, 2, &[]), 1, "token-invalid");

    // All of this cost the directory nothing: it joins now.
    write(good.as_bytes());
    cluster.join(2);
    cluster.wait_joined("n2");
    expect_code(refused(&cluster, 3, &[]), 1, "token-spent");
    assert_eq!(cluster.status().nodes.len(), 2);
}

#[test]
fn a_token_of_another_cluster_and_a_name_that_is_taken_are_refused() {
    let cluster = Cluster::builder().nodes(1).start();
    {
        let other = Cluster::builder().nodes(1).beside().start();
        other.make_token(1);
        fs::copy(other.token_file(), cluster.token_file()).unwrap();
    }
    expect_code(refused(&cluster, 2, &[]), 1, "wrong-cluster");
    cluster.make_token(5);
    let mut arguments = cluster.join_arguments(2);
    arguments[1] = "n1".to_owned();
    let data = cluster.data("n2").display().to_string();
    let mut words = vec!["--data", &data];
    words.extend(arguments.iter().map(String::as_str));
    expect_code(cluster.refused(&words), 5, "name-taken");
    // Without its token file a join is not even tried.
    cluster.refused(&["--data", &data, "--join", &cluster.mesh("n1")]).expect(2);
    assert_eq!(cluster.status().nodes.len(), 1);
}

#[test]
fn a_directory_in_use_a_taken_port_and_newer_data_are_refused_and_left_alone() {
    let mut cluster = Cluster::builder().nodes(1).start();
    let data = cluster.data("n1").display().to_string();
    expect_code(cluster.refused(&["--data", &data]), 1, "data-in-use");
    assert_eq!(cluster.node("n1").state, NodeState::Alive);

    cluster.make_token(5);
    let ip = cluster.ip("n2");
    let mesh = UdpSocket::bind((ip, 7400)).unwrap();
    expect_code(refused(&cluster, 2, &[]), 1, "port-taken");
    drop(mesh);
    let admin = TcpListener::bind((ip, 7401)).unwrap();
    expect_code(refused(&cluster, 2, &[]), 1, "port-taken");
    drop(admin);
    cluster.join(2);
    // The attempts before have made n2 known to n1, so n2 itself is asked.
    eventually("n2 serves", SOON, || cluster.status_of("n2").is_some());

    assert_eq!(cluster.stop("n2"), Some(0));
    let format = cluster.data("n2").join("format");
    let right = fs::read(&format).unwrap();
    fs::write(&format, "999").unwrap();
    let data = cluster.data("n2").display().to_string();
    expect_code(cluster.refused(&["--data", &data]), 1, "data-newer");
    assert_eq!(fs::read(&format).unwrap(), b"999");
    fs::write(&format, right).unwrap();
    cluster.restart("n2");
    cluster.wait_state("n2", NodeState::Alive);

    let words = ["--data", &data, "--name", "another"];
    cluster.stop("n2");
    expect_code(cluster.refused(&words), 1, "config");
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let cluster = Cluster::empty(Cluster::builder());
    let place = cluster.dir().join("small");
    fs::create_dir(&place).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", place.to_str().expect("a plain path")];
    let mounted = std::process::Command::new("mount").args(mount).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        eprintln!("not run: mounting needs root");
        return;
    }
    let data = place.join("n1").display().to_string();
    let ip = cluster.ip("n1").to_string();
    let run = cluster.refused(&["--data", &data, "--bind", &ip]);
    let unmounted = std::process::Command::new("umount").arg(&place).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    expect_code(run, 1, "disk-full");
}
