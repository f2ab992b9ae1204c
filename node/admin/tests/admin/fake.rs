//! A cluster that does as a test says, behind the real server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rung_admin::{AdminConfig, AdminServer, Answer, Backend, Limits, LogQuery, prometheus};
use rung_proto::api::{
    App, ArchiveContent, ArchiveRange, ArchiveRequest, ArchiveRestore, AuditEntry, BackupDone,
    BackupRequest, BundleStored, ChangeAnswer, ChangeRequest, Cluster, ClusterRecovered, Consent,
    ControlRole, DatabaseReplica, DatabaseShard, DatabaseTop, DatabaseUrl, EnvName, Event, Finding,
    Instance, LogLine, Node, NodeState, NodeTop, Operation, OperationState, RecoverRequest,
    RestoreDone, RoleCount, ScrubRequested, ScrubStarted, Severity, SqlNode, StatementTop, Status,
    Step, StepState, Tail, TailPage, TailReplayed, TailRequest, Token, TokenCreated, TokenRequest,
    Top, Web,
};
use rung_proto::soft::{ActorStatus, HostStatus, InstanceState};
use rung_proto::{ClusterId, Code, Digest, Failure, InstanceId, NodeId, OperationId, Role};
use tokio::sync::{mpsc, watch};

/// What the fake does with the next changes.
#[derive(Clone)]
pub enum Script {
    Nothing,
    Plan(Vec<String>),
    /// Runs through its steps to this end.
    End(OperationState, Option<Failure>),
    /// Starts and stays at its second step.
    Stuck,
    Refuse(Failure),
    /// Never answers.
    Hang,
}

pub struct State {
    pub status: Status,
    pub script: Script,
    pub operations: Vec<Operation>,
    pub events: Vec<Event>,
    pub tokens: Vec<Token>,
    pub changes: Vec<ChangeRequest>,
    pub bundle: Vec<u8>,
    pub log_queries: Vec<LogQuery>,
    /// Whoever follows logs now.
    pub log_sender: Option<mpsc::Sender<LogLine>>,
    pub findings: Vec<Finding>,
    pub not_ready: Vec<String>,
}

pub struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    own: Weak<Self>,
}

pub const NOW_MS: u64 = 1_790_000_000_000;

impl Fake {
    pub fn new() -> Arc<Self> {
        let state = State {
            status: status(),
            script: Script::End(OperationState::Done, None),
            operations: Vec::new(),
            events: vec![event(3, "node-joined", "n2 joined"), event(9, "deployed", "photos 4")],
            tokens: Vec::new(),
            changes: Vec::new(),
            bundle: Vec::new(),
            log_queries: Vec::new(),
            log_sender: None,
            findings: vec![finding(Severity::Ok, "clock", "within 3 ms", "")],
            not_ready: Vec::new(),
        };
        let changed = watch::Sender::new(0);
        Arc::new_cyclic(|own| Self { state: Mutex::new(state), changed, own: Weak::clone(own) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub fn add_event(&self, event: Event) {
        self.state().events.push(event);
        self.touch();
    }

    /// How many streams wait on changes.
    pub fn watchers(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Brings an operation to its end.
    pub fn finish(&self, id: OperationId, end: OperationState, failure: Option<Failure>) {
        {
            let mut state = self.state();
            let operation = state.operations.iter_mut().find(|o| o.id == id).unwrap();
            let last = operation.steps.len() - 1;
            for (at, step) in operation.steps.iter_mut().enumerate() {
                let bad = at == last && end != OperationState::Done;
                step.state = if bad { StepState::Failed } else { StepState::Done };
                step.note.clear();
            }
            operation.state = end;
            operation.finished_ms = Some(NOW_MS + 4200);
            operation.result = failure.is_none().then(|| "photos runs release 5".to_owned());
            operation.failure = failure;
        }
        self.touch();
    }

    fn start(&self, request: &ChangeRequest) -> Operation {
        let mut state = self.state();
        let step = |name: &str, state, note: &str| Step {
            name: name.to_owned(),
            state,
            note: note.to_owned(),
        };
        let operation = Operation {
            id: OperationId(state.operations.len() as u64 + 7),
            kind: "deploy".to_owned(),
            summary: "photos release 5 on n1, n2".to_owned(),
            state: OperationState::Running,
            steps: vec![
                step("store the bundle", StepState::Done, ""),
                step("start an instance on n1", StepState::Running, "waits for its health"),
                step("drain the old instances", StepState::Waiting, ""),
            ],
            requested_by: request.requested_by.clone(),
            created_ms: NOW_MS,
            finished_ms: None,
            result: None,
            failure: None,
        };
        state.operations.push(operation.clone());
        operation
    }
}

pub fn event(index: u64, kind: &str, message: &str) -> Event {
    Event {
        index,
        at_ms: NOW_MS + index,
        kind: kind.to_owned(),
        message: message.to_owned(),
        node: None,
        app: None,
    }
}

pub fn finding(severity: Severity, check: &str, message: &str, next: &str) -> Finding {
    Finding {
        severity,
        check: check.to_owned(),
        message: message.to_owned(),
        next: next.to_owned(),
    }
}

fn node(number: u64, dc: &str, state: NodeState, roles: &[Role], control: ControlRole) -> Node {
    Node {
        name: format!("n{number}"),
        id: NodeId(number),
        dc: dc.to_owned(),
        address: format!("127.0.0.1{number}:7400"),
        state,
        roles: roles.to_vec(),
        control,
        pinned: Vec::new(),
        cordoned: false,
        draining: false,
        incarnation: 1,
        version: "0.1.0".to_owned(),
    }
}

fn instance(id: u64, node: &str, state: InstanceState) -> Instance {
    Instance {
        id: InstanceId(id),
        node: node.to_owned(),
        release: 4,
        pid: Some(4000),
        port: Some(21_000),
        state,
        restarts: 0,
        problem: None,
    }
}

pub fn status() -> Status {
    let all = [Role::Control, Role::Dns, Role::Lb, Role::Web];
    Status {
        version: rung_proto::api::VERSION,
        cluster: Cluster {
            name: "shop".to_owned(),
            id: ClusterId(0xabc),
            index: 42,
            answered_by: "n1".to_owned(),
            leader: Some("n1".to_owned()),
            roles: BTreeMap::from([(Role::Lb, RoleCount { want: 2, have: 2 })]),
        },
        nodes: vec![
            node(1, "east", NodeState::Alive, &all, ControlRole::Leader),
            node(2, "east", NodeState::Alive, &[Role::Lb, Role::Web], ControlRole::Follower),
            node(3, "west", NodeState::Down, &[], ControlRole::Follower),
        ],
        db: vec![DatabaseShard {
            database: "photos".to_owned(),
            shard: 0,
            epoch: 7,
            primary: Some("n1".to_owned()),
            position: 1207,
            replicas: vec![DatabaseReplica {
                node: "n2".to_owned(),
                state: "serving".to_owned(),
                votes: true,
                lag_ms: Some(12),
                position: 1206,
                problem: None,
            }],
            witness: Some("n3".to_owned()),
            archive: None,
            scrub: None,
        }],
        apps: vec![App {
            name: "photos".to_owned(),
            release: 4,
            domain: Some("photos.test".to_owned()),
            web: Web {
                want: 2,
                healthy: 1,
                instances: vec![
                    instance(11, "n1", InstanceState::Healthy),
                    instance(12, "n2", InstanceState::Starting),
                ],
            },
        }],
        operations: Vec::new(),
        warnings: vec!["one control voter: the loss of n1 stops changes".to_owned()],
    }
}

impl Backend for Fake {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async { Ok(self.state().status.clone()) })
    }

    fn change(&self, request: ChangeRequest) -> Answer<'_, ChangeAnswer> {
        Box::pin(async move {
            let (script, index) = {
                let mut state = self.state();
                state.changes.push(request.clone());
                (state.script.clone(), state.status.cluster.index)
            };
            match script {
                Script::Nothing => Ok(ChangeAnswer::Nothing { index }),
                Script::Plan(steps) => {
                    Ok(ChangeAnswer::Plan { index, summary: "photos release 5".to_owned(), steps })
                }
                Script::Refuse(failure) => Err(failure),
                Script::Hang => std::future::pending().await,
                Script::Stuck => Ok(ChangeAnswer::Started { operation: self.start(&request) }),
                Script::End(end, failure) => {
                    let operation = self.start(&request);
                    let (fake, id) = (self.own.upgrade().unwrap(), operation.id);
                    tokio::spawn(async move { fake.finish(id, end, failure) });
                    Ok(ChangeAnswer::Started { operation })
                }
            }
        })
    }

    fn operation(&self, id: OperationId) -> Answer<'_, Operation> {
        Box::pin(async move {
            let found = self.state().operations.iter().find(|o| o.id == id).cloned();
            found.ok_or_else(|| {
                Failure::new(Code::NotFound, format!("there is no operation {id}"))
                    .next("see `ctl op ls`")
            })
        })
    }

    fn operations(&self) -> Answer<'_, Vec<Operation>> {
        Box::pin(async { Ok(self.state().operations.clone()) })
    }

    fn events(&self, since: u64) -> Answer<'_, Vec<Event>> {
        Box::pin(async move {
            Ok(self.state().events.iter().filter(|event| event.index > since).cloned().collect())
        })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn logs(&self, query: LogQuery) -> Answer<'_, mpsc::Receiver<LogLine>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(16);
            for number in 1..=2 {
                let line = LogLine {
                    at_ms: NOW_MS + number,
                    node: "n1".to_owned(),
                    source: query.app.clone().unwrap_or_else(|| "lb".to_owned()),
                    instance: query.app.is_some().then_some(InstanceId(11)),
                    line: format!("line {number} \u{1b}[31mred\u{1b}[0m"),
                };
                sender.try_send(line).unwrap();
            }
            let mut state = self.state();
            state.log_sender = query.follow.then_some(sender);
            state.log_queries.push(query);
            Ok(receiver)
        })
    }

    fn top(&self) -> Answer<'_, Top> {
        Box::pin(async {
            let host = HostStatus {
                cpu: 0.254,
                cores: 4,
                memory_total: 8_000_000_000,
                memory_available: 6_000_000_000,
                disk_total: 100_000_000_000,
                disk_available: 40_000_000_000,
                network_received: 1_200_000,
                network_sent: 98_000,
                process_memory: 31_000_000,
            };
            let actor = ActorStatus {
                name: "placement".to_owned(),
                role: None,
                depth: 3,
                capacity: 256,
                handled: 12_345,
                restarts: 1,
            };
            Ok(Top { nodes: vec![NodeTop { name: "n1".to_owned(), host, actors: vec![actor] }] })
        })
    }

    fn audit(&self) -> Answer<'_, Vec<AuditEntry>> {
        Box::pin(async {
            let by = "root (for ada)".to_owned();
            Ok(vec![AuditEntry { index: 5, at_ms: NOW_MS, by, action: "drain n2".to_owned() }])
        })
    }

    fn doctor(&self) -> Answer<'_, Vec<Finding>> {
        Box::pin(async { Ok(self.state().findings.clone()) })
    }

    fn env(&self, app: String) -> Answer<'_, Vec<EnvName>> {
        Box::pin(async move {
            if app != "photos" {
                return Err(Failure::new(Code::NotFound, format!("there is no app {app}")));
            }
            Ok(vec![EnvName { name: "SECRET".to_owned(), set_at_ms: NOW_MS }])
        })
    }

    fn database_top(&self) -> Answer<'_, DatabaseTop> {
        Box::pin(async {
            let statement = StatementTop {
                node: "n1".to_owned(),
                text: "SELECT name FROM accounts WHERE id = ?".to_owned(),
                calls: 1200,
                errors: 0,
                total_ms: 340.5,
                longest_ms: 12.25,
            };
            let node = SqlNode {
                node: "n1".to_owned(),
                connections: 8,
                writes: 40,
                reads_primary: 12,
                reads_replica: 1148,
                served_for_others: 3,
                errors: 0,
            };
            Ok(DatabaseTop { nodes: vec![node], statements: vec![statement], slow: Vec::new() })
        })
    }

    fn back_up(&self, database: String, request: BackupRequest) -> Answer<'_, BackupDone> {
        let path = request.path.unwrap_or_else(|| format!("/backups/{database}.db"));
        Box::pin(async { Ok(BackupDone { path, bytes: 4096, position: "1.0.7.42".to_owned() }) })
    }

    fn tails(&self, database: String) -> Answer<'_, Vec<Tail>> {
        let tail = Tail { file: format!("{database}-0-g1-n2.tail"), database, ..Tail::default() };
        Box::pin(async { Ok(vec![tail]) })
    }

    fn tail(&self, database: String, file: String) -> Answer<'_, TailPage> {
        let tail = Tail { file, database, ..Tail::default() };
        Box::pin(async { Ok(TailPage { tail, lines: vec!["{}".to_owned()] }) })
    }

    fn replay_tail(&self, _: String, request: TailRequest) -> Answer<'_, TailReplayed> {
        let told = vec![request.file];
        Box::pin(async { Ok(TailReplayed { conflicts: 1, told, ..TailReplayed::default() }) })
    }

    fn restore_archive(&self, _: String, _: ArchiveRestore) -> Answer<'_, RestoreDone> {
        let from_archive = Some((7, 1_790_000_000_000));
        Box::pin(async move { Ok(RestoreDone { position: "1.0.7.43".to_owned(), from_archive }) })
    }

    fn recover(&self, request: RecoverRequest) -> Answer<'_, ClusterRecovered> {
        Box::pin(async move {
            let Consent { data_loss, fenced } = request.consent;
            if !(data_loss && fenced) {
                return Err(Failure::new(Code::DataLoss, "changes may be lost"));
            }
            Ok(ClusterRecovered { generation: 2, node: "n1".to_owned(), entry: 7, term: 3 })
        })
    }

    fn scrub(&self, _: String, _: ScrubRequested) -> Answer<'_, ScrubStarted> {
        Box::pin(async { Ok(ScrubStarted { id: 1_790_000_000_000 }) })
    }

    fn archive(&self, request: ArchiveRequest) -> Answer<'_, ArchiveContent> {
        let range = ArchiveRange {
            from_ms: 1_790_000_000_000,
            from_position: 7,
            to_ms: 1_790_000_600_000,
            to_position: 4_711,
            bases: 1,
            bytes: 5 << 20,
        };
        let content = ArchiveContent { dir: request.dir, ranges: vec![range], damaged: Vec::new() };
        Box::pin(async move { Ok(content) })
    }

    fn restore(&self, _: String, request: BackupRequest) -> Answer<'_, RestoreDone> {
        Box::pin(async move {
            match request.path {
                Some(_) => Ok(RestoreDone { position: "1.0.7.43".to_owned(), from_archive: None }),
                None => Err(Failure::new(Code::Usage, "a restore needs a path")),
            }
        })
    }

    fn database_url(&self, database: String) -> Answer<'_, DatabaseUrl> {
        Box::pin(async move {
            let url = format!("postgres://{database}:secret@127.0.0.11:5432/{database}");
            let replica_url = format!("{url}?options=-c%20rung.role%3Dreplica");
            Ok(DatabaseUrl {
                url,
                replica_url,
                remote_url: None,
                remote_replica_url: None,
                ca_certificate: None,
            })
        })
    }

    fn tokens(&self) -> Answer<'_, Vec<Token>> {
        Box::pin(async { Ok(self.state().tokens.clone()) })
    }

    fn create_token(&self, request: TokenRequest) -> Answer<'_, TokenCreated> {
        Box::pin(async move {
            let expires_ms = NOW_MS + request.ttl_s * 1000;
            self.state().tokens.push(Token {
                id: "beef01".to_owned(),
                created_by: request.requested_by,
                expires_ms,
                uses_left: request.uses,
            });
            let token = "rung1.aa.bb".to_owned();
            Ok(TokenCreated { id: "beef01".to_owned(), token, expires_ms })
        })
    }

    fn revoke_token(&self, id: String, _requested_by: String) -> Answer<'_, Token> {
        Box::pin(async move {
            let mut state = self.state();
            let at = state.tokens.iter().position(|token| token.id == id);
            at.map(|at| state.tokens.remove(at))
                .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no token {id}")))
        })
    }

    fn put_bundle(&self, file: PathBuf) -> Answer<'_, BundleStored> {
        Box::pin(async move {
            let bytes = std::fs::read(&file).unwrap();
            let size = bytes.len() as u64;
            self.state().bundle = bytes;
            Ok(BundleStored { digest: Digest([7; 32]), size })
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let reasons = self.state().not_ready.clone();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn metrics(&self, out: &mut String) {
        prometheus::gauge(out, "rung_nodes", "Nodes by state.").count(&[("state", "alive")], 2);
    }
}

/// A server over a fake, on a free port, with its data in `directory`.
pub async fn serve(directory: &Path, fake: &Arc<Fake>, limits: Limits) -> AdminServer {
    let config = AdminConfig {
        socket_dir: directory.to_owned(),
        upload_dir: directory.join("uploads"),
        tcp: "127.0.0.1:0".parse().unwrap(),
        names: vec!["n1.example".to_owned()],
        limits,
    };
    AdminServer::start(config, Arc::clone(fake) as Arc<dyn Backend>).await.unwrap()
}
