//! A web role in a directory of its own, with apps made of `app.py`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use rung_bundle::{Limits, Store, pack_to_vec, parse_manifest};
use rung_proto::soft::{InstanceState, InstanceStatus};
use rung_proto::{Digest, InstanceId, NodeId};
use rung_web::{Drained, InstanceSpec, Policy, UserPolicy, WebConfig, WebRole};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const APP: &str = include_str!("app.py");
/// Long for a loaded machine; nothing waits this long unless it fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// Short times, so that the tests do not take long.
pub fn policy() -> Policy {
    Policy {
        health_interval: Duration::from_millis(100),
        start_deadline: Duration::from_secs(30),
        backoff_first: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        proven_after: Duration::ZERO,
        term_grace: Duration::from_secs(10),
        ..Policy::default()
    }
}

pub struct Bench {
    pub root: PathBuf,
    pub role: WebRole,
    pub store: Store,
    /// Balancers let go while this has no permits missing.
    pub let_go: Arc<tokio::sync::Semaphore>,
    pub user: UserPolicy,
    _keep: tempfile::TempDir,
}

impl Bench {
    pub async fn start(policy: Policy) -> Bench {
        Self::start_as(policy, UserPolicy::detect()).await
    }

    pub async fn start_as(policy: Policy, user: UserPolicy) -> Bench {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path().to_owned();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(&root.join("bundles"), Limits::default()).unwrap();
        let let_go = Arc::new(tokio::sync::Semaphore::new(1));
        let role = open_role(&root, &store, &let_go, policy, user).await;
        Bench { root, role, store, let_go, user, _keep: keep }
    }

    /// Another role with what the first one recorded, as after a restart of the
    /// node. In a directory of its own: the first still runs and writes there.
    pub async fn restart(&self) -> WebRole {
        let next = self.root.join("next");
        std::fs::create_dir_all(next.join("web")).unwrap();
        std::fs::copy(self.root.join("web/sessions.json"), next.join("web/sessions.json")).unwrap();
        open_role(&next, &self.store, &self.let_go, policy(), self.user).await
    }

    pub fn spec(&self, id: u64, variables: &[(&str, &str)]) -> InstanceSpec {
        self.spec_with(id, variables, "")
    }

    pub fn spec_with(&self, id: u64, variables: &[(&str, &str)], web: &str) -> InstanceSpec {
        self.spec_of(id, "python3 app.py", variables, web)
    }

    pub fn spec_of(
        &self,
        id: u64,
        command: &str,
        variables: &[(&str, &str)],
        web: &str,
    ) -> InstanceSpec {
        let folder = self.root.join(format!("source-{id}"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut text = format!(
            "name = \"app\"\ndomain = \"app.test\"\n[web]\ncommand = {command:?}\nhealth = \"/up\"\n{web}\n[env]\n"
        );
        for (name, value) in variables {
            text += &format!("{name} = \"{value}\"\n");
        }
        std::fs::write(folder.join("rung.toml"), &text).unwrap();
        std::fs::write(folder.join("app.py"), APP).unwrap();
        let (packed, bytes) = pack_to_vec(&folder, &Limits::default()).unwrap();
        self.store.put(&bytes).unwrap();
        self.spec_for(id, packed.digest, &text)
    }

    pub fn spec_for(&self, id: u64, digest: Digest, manifest: &str) -> InstanceSpec {
        InstanceSpec {
            id: InstanceId(id),
            app: "app".into(),
            release: 3,
            digest,
            manifest: parse_manifest(manifest).unwrap(),
            env: BTreeMap::from([("SECRET".into(), "s3cret".into())]),
            drain: false,
        }
    }

    pub fn reconcile(&self, wanted: &[&InstanceSpec]) {
        self.role.reconcile(wanted.iter().map(|spec| (*spec).clone()).collect());
    }

    pub async fn until(
        &self,
        what: &str,
        condition: impl FnMut(&Vec<InstanceStatus>) -> bool,
    ) -> Vec<InstanceStatus> {
        until(&self.role, what, condition).await
    }

    /// Waits until the instance is healthy and returns its status and address.
    pub async fn healthy(&self, id: u64) -> (InstanceStatus, SocketAddr) {
        healthy(&self.role, id).await
    }
}

pub async fn healthy(role: &WebRole, id: u64) -> (InstanceStatus, SocketAddr) {
    let is = |s: &&InstanceStatus| s.id.0 == id && s.state == InstanceState::Healthy;
    let all = until(role, "healthy", |all| all.iter().any(|s| is(&s))).await;
    let status = all.iter().find(is).unwrap().clone();
    let address = role.local_address(InstanceId(id)).expect("a healthy instance has an address");
    (status, address)
}

pub async fn until(
    role: &WebRole,
    what: &str,
    condition: impl FnMut(&Vec<InstanceStatus>) -> bool,
) -> Vec<InstanceStatus> {
    let mut status = role.status();
    let found = tokio::time::timeout(DEADLINE, status.wait_for(condition)).await;
    match found {
        Ok(all) => all.expect("the role is alive").clone(),
        Err(_) => panic!("never {what}: {:?}", *role.status().borrow()),
    }
}

async fn open_role(
    root: &Path,
    store: &Store,
    let_go: &Arc<tokio::sync::Semaphore>,
    policy: Policy,
    user: UserPolicy,
) -> WebRole {
    // Roles of tests that run side by side should not fight for ports.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let node = NodeId(NEXT.fetch_add(1, Ordering::Relaxed) * 97 + u64::from(std::process::id()));
    let config = WebConfig {
        node,
        node_name: "n1".into(),
        dc: "east".into(),
        data_dir: root.join("web"),
        host: "127.0.0.1".parse().unwrap(),
        user,
        exec_helper: env!("CARGO_BIN_EXE_rung-web-exec-helper").into(),
        port_range: rung_web::DEFAULT_PORTS,
        open_files: 1024,
        policy,
    };
    let let_go = Arc::clone(let_go);
    let drained: Drained = Arc::new(move |_| {
        let let_go = Arc::clone(&let_go);
        async move { drop(let_go.acquire().await) }.boxed()
    });
    let fetch: rung_web::Fetch =
        Arc::new(|digest| async move { Err(format!("no peer has {digest}")) }.boxed());
    WebRole::start(config, store.clone(), fetch, drained).await.unwrap()
}

/// One request on a connection of its own; returns status and body.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(split_answer(&answer))
}

pub fn split_answer(answer: &str) -> (u16, String) {
    let status = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

pub async fn get_json(address: SocketAddr, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(address, path).await.unwrap().1).unwrap()
}

/// Waits until a condition outside the role holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The processes of a session that still run.
pub fn session(pid: u32) -> usize {
    rung_web::procfs::session_processes(pid).len()
}
