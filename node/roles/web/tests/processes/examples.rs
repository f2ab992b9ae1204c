//! The examples of this repository, run as they are deployed.

use std::path::Path;
use std::time::{Duration, Instant};

use bench::{Bench, get, policy};
use rung_bundle::{Limits, pack_to_vec};
use rung_web::{InstanceSpec, Policy};

use crate::bench;

fn deploy(bench: &Bench, id: u64, folder: &Path) -> InstanceSpec {
    let (packed, bytes) = pack_to_vec(folder, &Limits::default()).unwrap();
    bench.store.put(&bytes).unwrap();
    InstanceSpec {
        id: rung_proto::InstanceId(id),
        app: packed.manifest.name.clone(),
        release: 1,
        digest: packed.digest,
        manifest: packed.manifest,
        env: Default::default(),
        drain: false,
    }
}

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples").join(name)
}

#[tokio::test]
async fn the_python_example_serves_and_ends_cleanly() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&deploy(&bench, 1, &example("notes-python"))]);
    let (_, address) = bench.healthy(1).await;
    let (status, page) = get(address, "/").await.unwrap();
    assert_eq!(status, 200);
    assert!(page.contains("on n1"), "{page}");
    let asked = Instant::now();
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
    assert!(asked.elapsed() < policy().term_grace, "it did not end by itself");
    let lines = bench.role.logs("notes").unwrap().tail(100, None);
    assert!(lines.iter().any(|line| line.text.contains("exit status: 0")), "{lines:?}");
}

/// Prints what DESIGN.md quotes; `HELLO` names a built hello.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_starts_and_restarts() {
    let hello = std::env::var("HELLO").expect("HELLO names the binary of examples/hello");
    let bench = Bench::start(Policy::default()).await;
    let folder = bench.root.join("hello");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(hello, folder.join("hello")).unwrap();
    std::fs::copy(example("hello").join("rung.toml"), folder.join("rung.toml")).unwrap();
    let spec = deploy(&bench, 1, &folder);
    let started = Instant::now();
    bench.reconcile(&[&spec]);
    let (status, _) = bench.healthy(1).await;
    println!("first start, with unpacking: healthy after {:?}", started.elapsed());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let pid = rustix::process::Pid::from_raw(status.pid.unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let killed = Instant::now();
    bench.until("restarted", |all| all[0].restarts == 1).await;
    bench.healthy(1).await;
    println!("killed after 6 s: healthy again after {:?}", killed.elapsed());
    let second = InstanceSpec { id: rung_proto::InstanceId(2), ..spec.clone() };
    let started = Instant::now();
    bench.reconcile(&[&spec, &second]);
    bench.healthy(2).await;
    println!("second instance: healthy after {:?}", started.elapsed());
    let asked = Instant::now();
    bench.reconcile(&[]);
    bench.until("forgotten", Vec::is_empty).await;
    println!("both drained and gone after {:?}", asked.elapsed());
}
