//! A cluster of real processes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rung_proto::api::{App, ControlRole, Instance, Node, NodeState, OperationState, Status};
use rung_proto::soft::InstanceState;
use tempfile::TempDir;

use crate::app::link_or_copy;
use crate::namespaces::Namespaces;
use crate::network::{Company, Network, Turn};
use crate::process::{Run, is_running, run, signal};
use crate::wait::{eventually, until};

/// For everything that is to happen within seconds, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);
const CTL: Duration = Duration::from_secs(180);
const LOG_TAIL: usize = 30;

/// The built binaries.
///
/// # Panics
/// When they are not built.
pub fn binaries() -> PathBuf {
    let built = match std::env::var_os("RUNG_BIN") {
        Some(given) => PathBuf::from(given),
        // target/debug/deps/cluster-hash: two up; target/debug/db-attack: one.
        None => {
            let this = std::env::current_exe().expect("the path of this test");
            let near = this.ancestors().skip(1).take(2);
            let with_rungd = near.clone().find(|folder| folder.join("rungd").exists());
            with_rungd.or(near.last()).expect("a target directory").to_owned()
        }
    };
    for name in ["rungd", "ctl", "hello"] {
        let there = built.join(name).exists();
        assert!(there, "{name} is not in {}: run `cargo build --workspace`", built.display());
    }
    built
}

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: u8,
    dcs: Vec<&'static str>,
    company: Company,
    arguments: Vec<String>,
    on_machines: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 5,
            dcs: vec!["east", "west"],
            company: Company::Others,
            arguments: Vec::new(),
            on_machines: false,
        }
    }
}

impl Builder {
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// No other cluster of this test run runs meanwhile.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.company = Company::Nobody;
        self
    }

    /// It runs beside another cluster of the same test.
    #[must_use]
    pub fn beside(mut self) -> Self {
        self.company = Company::Same;
        self
    }

    /// Given to every start of every node.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The data centers that nodes are in, by turns.
    #[must_use]
    pub fn dcs(mut self, dcs: &[&'static str]) -> Self {
        self.dcs = dcs.to_vec();
        self
    }

    /// Every node has a machine of its own, whose cables can be cut; see
    /// [`crate::namespaces::missing`].
    #[must_use]
    pub fn on_machines(mut self) -> Self {
        self.on_machines = true;
        self
    }

    /// Starts the nodes and waits until they are settled.
    ///
    /// # Panics
    /// When they do not get that far.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = Cluster::empty(self);
        let count = cluster.builder.nodes;
        cluster.found();
        if count > 1 {
            cluster.make_token(u32::from(count) - 1);
            for number in 2..=count {
                cluster.join(number);
            }
        }
        cluster.wait_settled();
        cluster
    }
}

/// Nodes n1, n2 and so on, each a process of its own.
#[derive(Debug)]
pub struct Cluster {
    builder: Builder,
    network: Network,
    dir: TempDir,
    processes: BTreeMap<String, Child>,
    folders: u32,
    machines: Option<Namespaces>,
    /// Given back last.
    _turn: Turn,
}

impl Cluster {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// No node yet.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn empty(builder: Builder) -> Self {
        let turn = Turn::take(builder.company);
        let dir = tempfile::Builder::new().prefix("rung-").tempdir().expect("a directory");
        // Apps run as other users and pass through here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("a directory");
        let built = binaries();
        for name in ["rungd", "ctl", "hello"] {
            // A build meanwhile does not change what this cluster runs.
            link_or_copy(&built.join(name), &bin.join(name));
        }
        let machines = builder.on_machines.then(|| {
            let dc = |number: u8| builder.dcs[usize::from(number - 1) % builder.dcs.len()];
            let node = |number| (format!("n{number}"), dc(number));
            Namespaces::create(&(1..=builder.nodes).map(node).collect::<Vec<_>>())
        });
        Self {
            builder,
            network: Network::take(),
            dir,
            processes: BTreeMap::new(),
            folders: 0,
            machines,
            _turn: turn,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }

    pub fn log(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}.log"))
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.path().join("bin").join(name)
    }

    /// The address of node `nK`.
    pub fn ip(&self, node: &str) -> Ipv4Addr {
        if let Some(machines) = &self.machines {
            return machines.address(node);
        }
        let number = node.trim_start_matches('n').parse().expect("nodes are called n1, n2, ...");
        self.network.address(number)
    }

    /// The nodes' machines, if they have their own.
    pub fn machines(&mut self) -> Option<&mut Namespaces> {
        self.machines.as_mut()
    }

    /// The namespace to enter for being a program on a node's machine.
    pub fn namespace(&self, node: &str) -> Option<PathBuf> {
        self.machines.as_ref().map(|machines| machines.path(node))
    }

    pub fn http(&self, node: &str) -> SocketAddr {
        (self.ip(node), 8080).into()
    }

    pub fn mesh(&self, node: &str) -> String {
        format!("{}:7400", self.ip(node))
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    fn dc(&self, number: u8) -> &'static str {
        let dcs = &self.builder.dcs;
        dcs[usize::from(number - 1) % dcs.len()]
    }

    // Starting and ending.

    /// `rungd` with the arguments of every node, and these; it dies with the
    /// thread that starts it.
    pub fn rungd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(self.program("rungd"));
        command.args(arguments).args(&self.builder.arguments);
        command.env_remove("RUNG_LOG");
        command
    }

    /// Starts a node on its data directory.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn(&mut self, node: &str, arguments: &[&str]) {
        self.spawn_with(node, arguments, &[]);
    }

    fn spawn_with(&mut self, node: &str, arguments: &[&str], variables: &[(&str, &str)]) {
        assert!(!self.is_up(node), "{node} runs already");
        let data = self.data(node);
        let data = data.to_str().expect("a plain path");
        let mut command = self.rungd(&["--data", data]);
        if let Some(machines) = &self.machines {
            let mut on_machine = machines.command(node, command.get_program());
            on_machine.args(command.get_args()).env_remove("RUNG_LOG");
            command = on_machine;
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log(node));
        let log: File = log.expect("a log file");
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a file"));
        command.stderr(log);
        command.envs(variables.iter().copied());
        let child = command.spawn().expect("rungd starts; `setpriv` is of util-linux");
        self.processes.insert(node.to_owned(), child);
    }

    /// Starts n1, which creates the cluster.
    #[track_caller]
    pub fn found(&mut self) {
        let (dc, ip) = (self.dc(1), self.ip("n1").to_string());
        self.spawn("n1", &["--name", "n1", "--dc", dc, "--bind", &ip]);
        eventually("n1 answers", SOON, || self.status_of("n1").is_some());
    }

    /// Writes a token for so many nodes to [`Cluster::token_file`].
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn make_token(&self, uses: u32) {
        let created = self.ctl(&["token", "create", "--uses", &uses.to_string()]).expect(0);
        fs::write(self.token_file(), created.stdout).expect("a token file");
    }

    /// Starts node `nK` as one that joins.
    pub fn join(&mut self, number: u8) {
        let name = format!("n{number}");
        let arguments = self.join_arguments(number);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.spawn(&name, &arguments);
    }

    /// What node `nK` joins with, but for its data directory.
    pub fn join_arguments(&self, number: u8) -> Vec<String> {
        let name = format!("n{number}");
        let (ip, seed) = (self.ip(&name).to_string(), self.mesh("n1"));
        let token = self.token_file().display().to_string();
        let words = ["--name", &name, "--dc", self.dc(number), "--bind", &ip, "--join", &seed];
        let words = words.into_iter().chain(["--token-file", token.as_str()]);
        words.map(str::to_owned).collect()
    }

    /// Runs `rungd` to its end, which must come soon.
    ///
    /// # Panics
    /// When it goes on.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> Run {
        run(&mut self.rungd(arguments), Duration::from_secs(40))
    }

    /// Starts a node again on its data.
    pub fn restart(&mut self, node: &str) {
        self.restart_with(node, &[]);
    }

    /// The same with environment variables for it.
    pub fn restart_with(&mut self, node: &str, variables: &[(&str, &str)]) {
        self.spawn_with(node, &[], variables);
        eventually("it answers again", SOON, || self.status_of(node).is_some());
    }

    pub fn pid(&self, node: &str) -> u32 {
        self.processes.get(node).expect("a node that was started").id()
    }

    /// The nodes whose process runs, also when it is stopped by a signal.
    pub fn running(&self) -> Vec<String> {
        self.processes.keys().filter(|node| self.is_up(node)).cloned().collect()
    }

    /// Whether the node's process runs.
    pub fn is_up(&self, node: &str) -> bool {
        self.processes.get(node).is_some_and(|child| is_running(child.id()))
    }

    /// Ends a node as a power cut does.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, node: &str) {
        let child = self.processes.get_mut(node).expect("a node that was started");
        child.kill().expect("a process to kill");
        child.wait().expect("a process that ends");
    }

    /// Ends several nodes at once.
    pub fn kill_all(&mut self, nodes: &[String]) {
        let pids: Vec<String> = nodes.iter().map(|node| self.pid(node).to_string()).collect();
        run(Command::new("kill").arg("-KILL").args(pids), SOON).expect(0);
        for node in nodes {
            let child = self.processes.get_mut(node).expect("a node that was started");
            child.wait().expect("a process that ends");
        }
    }

    /// Asks a node to stop, and gives its exit code.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn stop(&mut self, node: &str) -> Option<i32> {
        signal(self.pid(node), "TERM");
        let child = self.processes.get_mut(node).expect("a node that was started");
        until("the node stops", SOON, || child.try_wait().expect("a child of ours")).code()
    }

    // Asking.

    /// `ctl`, asking n1.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Run {
        self.ctl_of("n1", arguments)
    }

    /// `ctl`, asking a node.
    #[track_caller]
    pub fn ctl_of(&self, node: &str, arguments: &[&str]) -> Run {
        run(&mut self.ctl_command(node, arguments), CTL)
    }

    pub fn ctl_command(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("ctl"));
        command.arg("--data").arg(self.data(node)).args(arguments).env_remove("RUNG_DATA");
        command
    }

    /// What a node says, if it answers.
    #[track_caller]
    pub fn status_of(&self, node: &str) -> Option<Status> {
        let asked = self.ctl_of(node, &["status", "-o", "json"]);
        (asked.code == 0).then(|| {
            serde_json::from_str(&asked.stdout).unwrap_or_else(|error| panic!("{error}: {asked}"))
        })
    }

    /// # Panics
    /// When n1 does not answer.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.status_of("n1").expect("n1 answers")
    }

    /// # Panics
    /// When n1 does not know it.
    #[track_caller]
    pub fn node(&self, name: &str) -> Node {
        let status = self.status();
        status.nodes.into_iter().find(|node| node.name == name).expect("a node of the cluster")
    }

    /// # Panics
    /// When it is not deployed.
    #[track_caller]
    pub fn app(&self, name: &str) -> App {
        let status = self.status();
        status.apps.into_iter().find(|app| app.name == name).expect("an app of the cluster")
    }

    /// The healthy instances of an app.
    #[track_caller]
    pub fn healthy(&self, app: &str) -> Vec<Instance> {
        let instances = self.app(app).web.instances;
        instances.into_iter().filter(|i| i.state == InstanceState::Healthy).collect()
    }

    /// The nodes that vote.
    #[track_caller]
    pub fn voters(&self) -> Vec<String> {
        let nodes = self.status().nodes;
        let voters = nodes.into_iter().filter(|node| node.control != ControlRole::Follower);
        voters.map(|node| node.name).collect()
    }

    /// The leader, once there is one.
    #[track_caller]
    pub fn leader(&self) -> String {
        until("there is a leader", SOON, || self.status().cluster.leader)
    }

    // Waiting.

    /// Until every running node is alive, votes and roles are placed.
    #[track_caller]
    pub fn wait_settled(&self) {
        let running = self.running().len();
        eventually("nodes are alive and roles placed", SOON, || {
            self.status_of("n1").is_some_and(|status| is_settled(&status, running))
        });
    }

    /// Until an app runs as it should, with no operation under way.
    #[track_caller]
    pub fn wait_healthy(&self, app: &str, count: usize) -> Duration {
        eventually(&format!("{app} has {count} healthy instances"), SOON, || {
            let status = self.status();
            let Some(found) = status.apps.iter().find(|found| found.name == app) else {
                return false;
            };
            let healthy = |instance: &Instance| instance.state == InstanceState::Healthy;
            let running = status.operations.iter().any(|o| o.state == OperationState::Running);
            !running
                && found.web.instances.len() == count
                && found.web.instances.iter().all(healthy)
        })
    }

    /// Until a node that joins is known to n1 as alive.
    #[track_caller]
    pub fn wait_joined(&self, node: &str) {
        eventually(&format!("{node} has joined"), SOON, || {
            let nodes = self.status().nodes;
            nodes.iter().any(|known| known.name == node && known.state == NodeState::Alive)
        });
    }

    /// Until a node has a state in the eyes of n1.
    #[track_caller]
    pub fn wait_state(&self, node: &str, state: NodeState) -> Duration {
        eventually(&format!("{node} is {state:?}"), SOON, || self.node(node).state == state)
    }

    /// A path in the cluster's directory that nobody has had.
    pub fn new_folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.dir.path().join(format!("folder-{}", self.folders))
    }

    /// Copies the logs to where `RUNG_TEST_LOGS` says.
    fn keep_logs(&self) {
        let Some(place) = std::env::var_os("RUNG_TEST_LOGS") else { return };
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").replace("::", "-");
        let place = PathBuf::from(place).join(test);
        if let Err(error) = fs::create_dir_all(&place) {
            eprintln!("{}: {error}", place.display());
        }
        for node in self.processes.keys() {
            if let Err(error) = fs::copy(self.log(node), place.join(node)) {
                eprintln!("the log of {node} is not kept: {error}");
            }
        }
    }

    fn print_logs(&self) {
        for node in self.processes.keys() {
            let text = fs::read_to_string(self.log(node)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("the log of {node} ends:\n{}\n", tail.join("\n"));
            // These are the rarest and tell the most, wherever they are.
            let broken = |line: &&&str| line.contains("panicked") || line.contains("\"ERROR\"");
            let first: Vec<_> = lines.iter().filter(broken).take(5).copied().collect();
            if !first.is_empty() {
                eprintln!("its first errors:\n{}\n", first.join("\n"));
            }
        }
        for command in [&["events"][..], &["status", "-o", "wide"], &["op", "ls", "-o", "wide"]] {
            let asked = self.ctl_command("n1", command).output();
            let text = asked.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(2 * LOG_TAIL)..];
            eprintln!("ctl {}:\n{}\n", command.join(" "), tail.join("\n"));
        }
    }
}

fn is_settled(status: &Status, running: usize) -> bool {
    let alive = status.nodes.iter().filter(|node| node.state == NodeState::Alive).count();
    let voters = status.nodes.iter().filter(|node| node.control != ControlRole::Follower);
    let voting = voters.clone().count();
    let want = match running {
        0 | 1 => 1,
        2 => 2,
        _ => 3,
    };
    // Voters give way to public nodes where there is room.
    let placed = running < 5 || voters.clone().all(|node| node.name != "n1");
    alive == running
        && voting == want
        && placed
        && voters.clone().all(|node| node.state == NodeState::Alive)
        && status.cluster.leader.is_some()
        && status.cluster.roles.values().all(|role| role.have >= role.want)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
            self.keep_logs();
        }
        for child in self.processes.values_mut() {
            // Most have ended; a stopped one is killed as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
