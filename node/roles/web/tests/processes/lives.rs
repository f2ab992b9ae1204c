//! Starting, crashing, restarting, draining and stopping.

use std::time::{Duration, Instant};

use bench::{Bench, eventually, get, get_json, policy, session};
use rung_proto::InstanceId;
use rung_proto::soft::InstanceState;
use rung_web::{Followed, Policy, UserPolicy};

use crate::bench;

#[tokio::test]
async fn an_app_gets_its_environment_and_nothing_else_and_leaves_nothing() {
    let bench = Bench::start(policy()).await;
    let spec = bench.spec(1, &[("GREETING", "hi"), ("LD_LIBRARY_PATH", "/nowhere")]);
    bench.reconcile(&[&spec]);
    let (status, address) = bench.healthy(1).await;
    assert_eq!(Some(address.port()), status.port);
    let env = get_json(address, "/env").await;
    let env = env.as_object().unwrap();
    for (name, value) in [
        ("HOST", "127.0.0.1"),
        ("PORT", &address.port().to_string()),
        ("RUNG_NODE", "n1"),
        ("RUNG_DC", "east"),
        ("RUNG_APP", "app"),
        ("RUNG_RELEASE", "3"),
        ("GREETING", "hi"),
        ("SECRET", "s3cret"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    let known = [
        "HOST",
        "PORT",
        "RUNG_NODE",
        "RUNG_DC",
        "RUNG_APP",
        "RUNG_RELEASE",
        "RUNG_INSTANCE",
        "PATH",
        "HOME",
        "TMPDIR",
        "GREETING",
        "SECRET",
        "LD_LIBRARY_PATH",
        "PWD",
        "LC_CTYPE",
        "SHLVL",
        "_",
        "OLDPWD",
    ];
    let extra: Vec<_> = env.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(extra.is_empty(), "{extra:?}");
    let home = env["HOME"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&home).is_dir());

    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
    assert_eq!(bench.role.local_address(InstanceId(1)), None);
    let pid = status.pid.unwrap();
    assert_eq!(session(pid), 0);
    assert!(!std::path::Path::new(&home).exists());
    eventually("unpacked release removed", || {
        std::fs::read_dir(bench.root.join("web/releases")).unwrap().count() == 0
    })
    .await;
}

#[tokio::test]
async fn an_app_runs_in_a_session_of_its_own_without_rights() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    let (status, address) = bench.healthy(1).await;
    let who = get_json(address, "/who").await;
    let proc_status = who["status"].as_str().unwrap();
    assert!(proc_status.contains("NoNewPrivs:\t1"), "{proc_status}");
    assert_eq!(who["sid"], status.pid.unwrap());
    let fds = who["fds"].as_array().unwrap();
    // Standard streams, the listener, this connection, and the listing itself.
    assert!(fds.len() <= 7, "{fds:?}");
    if let UserPolicy::PerApp { first, count } = bench.user {
        let uid = u32::try_from(who["uid"].as_u64().unwrap()).unwrap();
        assert!((first..first + count).contains(&uid), "{uid}");
        assert_eq!(who["gid"], uid);
        assert_eq!(who["groups"].as_array().unwrap().len(), 0);
        assert!(proc_status.contains("CapEff:\t0000000000000000"), "{proc_status}");
    } else {
        assert_eq!(who["uid"], rustix::process::getuid().as_raw());
    }
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_crashed_instance_is_started_again_on_another_port() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    let (before, address) = bench.healthy(1).await;
    let crashed = Instant::now();
    let _ = get(address, "/crash").await;
    bench.until("restarted", |all| all[0].restarts == 1).await;
    let (after, address) = bench.healthy(1).await;
    assert_ne!(before.pid, after.pid);
    assert_ne!(before.port, after.port);
    assert_eq!(get(address, "/").await.unwrap().0, 200);
    assert!(crashed.elapsed() < Duration::from_secs(20));
    let lines = bench.role.logs("app").unwrap().tail(100, None);
    assert!(lines.iter().any(|line| line.text.contains("exit status: 7")), "{lines:?}");
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn an_app_that_never_starts_fails_and_shows_its_last_lines() {
    let bench = Bench::start(policy()).await;
    let spec = bench.spec(1, &[("CRASH_AT_START", "1")]);
    bench.reconcile(&[&spec]);
    let all = bench.until("failed", |all| all.iter().any(|s| s.state == InstanceState::Failed));
    let status = all.await.remove(0);
    let problem = status.problem.unwrap();
    assert!(problem.contains("exit status: 3"), "{problem}");
    assert_eq!(status.pid, None);
    assert_eq!(bench.role.metrics().starts, 5);
    // The pipes may be read a moment after the process has ended.
    eventually("its lines are logged", || {
        let lines = bench.role.logs("app").unwrap().tail(100, None);
        lines.iter().filter(|line| line.text == "cannot find the database").count() == 5
    })
    .await;
    assert!(problem.contains("cannot find the database"), "{problem}");
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn an_instance_that_is_never_healthy_takes_no_requests_and_fails() {
    let short =
        Policy { start_deadline: Duration::from_millis(700), crashes_until_failed: 2, ..policy() };
    let bench = Bench::start(short).await;
    bench.reconcile(&[&bench.spec(1, &[("NEVER_HEALTHY", "1")])]);
    let mut ever_healthy = false;
    let all = bench
        .until("failed", |all| {
            ever_healthy |= all.iter().any(|s| s.state == InstanceState::Healthy);
            all.iter().any(|s| s.state == InstanceState::Failed)
        })
        .await;
    assert!(!ever_healthy);
    let problem = all[0].problem.clone().unwrap();
    assert!(problem.contains("not healthy within 0.7 s"), "{problem}");
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn nothing_starts_and_nothing_is_kept_once_the_role_stops() {
    let bench = Bench::start(policy()).await;
    let (one, two) = (bench.spec(1, &[]), bench.spec(2, &[]));
    bench.reconcile(&[&one]);
    bench.healthy(1).await;
    // The drain cannot end yet, so the stop is still on its way.
    let balancer = bench.let_go.clone().acquire_owned().await.unwrap();
    let role = bench.role.clone();
    let stopping = tokio::spawn(async move { role.stop(Duration::from_secs(60)).await });
    bench.until("draining", |all| all[0].state == InstanceState::Draining).await;
    bench.reconcile(&[&one, &two]);
    assert_eq!(bench.role.metrics().instances, 1);
    drop(balancer);
    stopping.await.unwrap();
    assert_eq!(*bench.role.status().borrow(), []);
    bench.reconcile(&[&two]);
    assert_eq!(bench.role.metrics().instances, 0);
}

#[tokio::test]
async fn an_instance_that_falls_sick_is_started_again() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    let (before, address) = bench.healthy(1).await;
    get(address, "/sicken").await.unwrap();
    let all = bench.until("noticed", |all| all[0].state == InstanceState::Starting).await;
    let problem = all[0].problem.clone().unwrap();
    assert!(problem.contains("failed 3 health checks in a row: GET /up answered 503"), "{problem}");
    let (after, _) = bench.healthy(1).await;
    assert_ne!(before.pid, after.pid);
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_after_the_grace() {
    let short = Policy { term_grace: Duration::from_millis(300), ..policy() };
    let bench = Bench::start(short).await;
    bench.reconcile(&[&bench.spec(1, &[("IGNORE_TERM", "1")])]);
    let (status, _) = bench.healthy(1).await;
    let asked = Instant::now();
    bench.reconcile(&[]);
    bench.until("stopped", Vec::is_empty).await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(session(status.pid.unwrap()), 0);
}

#[tokio::test]
async fn children_end_with_their_instance_also_when_it_crashes() {
    let short = Policy { term_grace: Duration::from_millis(300), ..policy() };
    let bench = Bench::start(short).await;
    bench.reconcile(&[&bench.spec(1, &[("FORK", "1")])]);
    let (first, address) = bench.healthy(1).await;
    assert_eq!(session(first.pid.unwrap()), 2);
    let _ = get(address, "/crash").await;
    bench.until("restarted", |all| all[0].restarts == 1).await;
    assert_eq!(session(first.pid.unwrap()), 0);
    let (second, _) = bench.healthy(1).await;
    bench.reconcile(&[]);
    bench.until("stopped", Vec::is_empty).await;
    assert_eq!(session(second.pid.unwrap()), 0);
}

#[tokio::test]
async fn listening_on_every_address_does_not_pass_unless_allowed() {
    let bench = Bench::start(policy()).await;
    let refused = bench.spec(1, &[("BIND", "0.0.0.0")]);
    bench.reconcile(&[&refused]);
    let all = bench
        .until("refused", |all| {
            all.iter().any(|s| s.problem.as_ref().is_some_and(|p| p.contains("listens on 0.0.0.0")))
        })
        .await;
    assert_eq!(all[0].state, InstanceState::Starting);
    assert_eq!(bench.role.local_address(InstanceId(1)), None);
    let allowed = bench.spec_with(2, &[("BIND", "0.0.0.0")], "allow_public_listen = true");
    bench.reconcile(&[&refused, &allowed]);
    bench.healthy(2).await;
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn endless_output_is_bounded_and_does_not_disturb() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[("SPAM", "1")])]);
    let (_, address) = bench.healthy(1).await;
    let log = bench.role.logs("app").unwrap();
    let mut follow = log.follow();
    let dir = bench.root.join("web/logs/app");
    let files = rung_web::logs::FILES as usize;
    eventually("all files", || std::fs::read_dir(&dir).unwrap().count() == files).await;
    assert_eq!(get(address, "/").await.unwrap().0, 200);
    assert!(matches!(follow.next().await, Some(Followed::Lost(_))));
    for file in std::fs::read_dir(&dir).unwrap() {
        assert!(file.unwrap().metadata().unwrap().len() <= rung_web::logs::FILE_BYTES);
    }
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_request_in_progress_is_finished_before_sigterm() {
    let bench = Bench::start(policy()).await;
    let spec = bench.spec(1, &[]);
    bench.reconcile(&[&spec]);
    let (_, address) = bench.healthy(1).await;
    let slow = tokio::spawn(async move { get(address, "/slow?s=1.0").await });
    // Only when the app has read the request is it in progress.
    eventually("in progress", || {
        rung_web::procfs::sockets()
            .iter()
            .any(|socket| socket.local == address && socket.state == rung_web::procfs::ESTABLISHED)
    })
    .await;
    bench.role.reconcile(vec![rung_web::InstanceSpec { drain: true, ..spec.clone() }]);
    bench.until("draining", |all| all[0].state == InstanceState::Draining).await;
    assert_eq!(bench.role.local_address(InstanceId(1)), None);
    assert_eq!(slow.await.unwrap().unwrap(), (200, "slow".into()));
    bench.until("stopped", |all| all[0].state == InstanceState::Stopped).await;
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn nothing_is_signalled_before_the_balancers_let_go() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    let (status, address) = bench.healthy(1).await;
    let hold = bench.let_go.clone().acquire_owned().await.unwrap();
    bench.reconcile(&[]);
    bench.until("draining", |all| all[0].state == InstanceState::Draining).await;
    // A late request of a balancer that has not heard of it yet.
    assert_eq!(get(address, "/").await.unwrap().0, 200);
    assert_eq!(session(status.pid.unwrap()), 1);
    drop(hold);
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut_off() {
    let bench = Bench::start(policy()).await;
    let spec = bench.spec_with(1, &[], "drain_timeout = \"200ms\"");
    bench.reconcile(&[&spec]);
    let (_, address) = bench.healthy(1).await;
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    let asked = Instant::now();
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
    assert!(asked.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_start_ends_what_the_node_left_running() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[("FORK", "1")])]);
    let (status, _) = bench.healthy(1).await;
    let pid = status.pid.unwrap();
    // The role is still there but knows nothing of its successor, like a killed
    // node whose app survived it.
    let next = bench.restart().await;
    assert_eq!(session(pid), 0);
    next.stop(Duration::from_secs(5)).await;
    bench.role.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn an_app_dies_with_what_started_it() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    // The signal belongs to the thread that made the process.
    let starter = std::thread::spawn(|| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rung-web-exec-helper"))
            .arg(rung_web::EXEC_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let spec = serde_json::json!({
            "parent": std::process::id(), "user": null, "dir": "/", "open_files": 64,
            "command": "echo ready; exec sleep 1000", "env": {"PATH": "/usr/bin:/bin"},
        });
        child.stdin.take().unwrap().write_all(spec.to_string().as_bytes()).unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        assert_eq!(session(child.id()), 1);
        child
    });
    let mut child = starter.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("it lives on");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn an_app_whose_node_died_meanwhile_does_not_start() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_rung-web-exec-helper"))
        .arg(rung_web::EXEC_ARGUMENT)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let spec = serde_json::json!({
        "parent": 1_u32.wrapping_sub(2), "user": null, "dir": "/", "open_files": 64,
        "command": "true", "env": {},
    });
    child.stdin.take().unwrap().write_all(spec.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the node has ended"));
}

#[tokio::test]
async fn a_bundle_that_no_peer_has_keeps_the_instance_waiting_and_says_why() {
    let bench = Bench::start(policy()).await;
    let manifest = "name = \"app\"\ndomain = \"app.test\"\n[web]\ncommand = \"true\"\n";
    let spec = bench.spec_for(1, rung_proto::Digest([7; 32]), manifest);
    bench.reconcile(&[&spec]);
    let all = bench.until("told", |all| all.iter().any(|s| s.problem.is_some())).await;
    let problem = all[0].problem.clone().unwrap();
    assert!(problem.contains("no peer has"), "{problem}");
    assert_eq!(all[0].state, InstanceState::Starting);
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn an_app_can_be_a_shell_script_without_a_health_path() {
    let bench = Bench::start(policy()).await;
    let mut spec = bench.spec_of(1, "cd . && python3 app.py", &[], "");
    spec.manifest.web.health = None;
    bench.reconcile(&[&spec]);
    let (_, address) = bench.healthy(1).await;
    assert_eq!(get(address, "/").await.unwrap().0, 200);
    bench.role.stop(Duration::from_secs(30)).await;
    assert!(bench.role.status().borrow().is_empty());
}

#[tokio::test]
async fn a_release_that_fails_its_test_command_never_starts() {
    let bench = Bench::start(policy()).await;
    let failing = bench.spec_with(1, &[], "test = \"echo the test speaks; exit 9\"");
    let passing = bench.spec_with(2, &[], "test = \"test $RUNG_APP = app && pwd\"");
    bench.reconcile(&[&failing, &passing]);
    bench.healthy(2).await;
    let all = bench
        .until("failed", |all| all.iter().any(|s| s.id.0 == 1 && s.state == InstanceState::Failed))
        .await;
    let problem = all[0].problem.clone().unwrap();
    assert!(problem.contains("its test command failed: exit status: 9"), "{problem}");
    assert!(problem.contains("the test speaks"), "{problem}");
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn one_that_is_drained_before_its_node_knows_it_starts_nothing() {
    let bench = Bench::start(policy()).await;
    let spec = rung_web::InstanceSpec { drain: true, ..bench.spec(1, &[]) };
    bench.reconcile(&[&spec]);
    bench.until("stopped", |all| all.iter().any(|s| s.state == InstanceState::Stopped)).await;
    assert_eq!(bench.role.metrics().starts, 0);
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
}
