//! A running node: everything it is made of, put together and taken apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use rand::RngExt;
use rung_consensus::{Consensus, ConsensusConfig, MeshNetwork};
use rung_control_plane::State;
use rung_membership::{Membership, MembershipConfig, Seed};
use rung_proto::{Code, Failure, Generation, Incarnation, NodeId, Role, encoding};
use rung_runtime::{ActorRouter, Actors, ServiceTable, Supervisor};
use rung_transport::{Handlers, Mesh, MeshConfig, MeshLimits, NodeIdentity};
use rung_wal::disk::RealDisk;
use rung_wal::{Wal, WalConfig};
use rung_web::{UserPolicy, WebConfig, WebRole};
use tokio::sync::mpsc;

use crate::bootstrap::{self, Addresses, Beginning};
use crate::bundles::Bundles;
use crate::control::{Control, GROUP, Generations};
use crate::control_machine::Published;
use crate::data_dir::DataDir;
use crate::databases::Databases;
use crate::dns_role::DnsRole;
use crate::follow;
use crate::lb_role::LbRole;
use crate::leader_requests::LeaderRequests;
use crate::options::{Options, Settings};
use crate::protocol::{Contact, LeaderAnswer, LeaderRequest, service};
use crate::request_actors::RequestActors;
use crate::role_log::RoleLog;
use crate::soft_state::SoftState;
use crate::sql_role::SqlRole;
use crate::web_role::{self, EnvCache};
use crate::{services, streams};

/// Datagrams and hints that may wait for membership.
const DATAGRAMS: usize = 4096;
const HINTS: usize = 256;
/// Where the contacts of earlier starts are kept.
pub const CONTACTS_FILE: &str = "control/contacts";

/// A running node.
pub struct Node {
    pub id: NodeId,
    pub settings: Settings,
    pub incarnation: Incarnation,
    pub addresses: Addresses,
    pub data: Arc<DataDir>,
    pub mesh: Mesh,
    pub membership: Membership,
    pub consensus: Consensus,
    pub wal: Wal,
    pub control: Control,
    pub soft: SoftState,
    pub databases: Databases,
    pub sql: SqlRole,
    pub bundles: Bundles,
    pub leader_requests: LeaderRequests,
    pub request_actors: RequestActors,
    pub web: WebRole,
    pub lb: LbRole,
    pub dns: DnsRole,
    pub env_cache: EnvCache,
    pub role_log: Arc<RoleLog>,
    pub actors: Arc<Actors>,
    pub supervisor: Supervisor,
    /// Roles that were given up here, and why.
    pub broken: Mutex<BTreeMap<Role, String>>,
    identity: RwLock<NodeIdentity>,
}

/// What the mesh's handlers find the node by, once it is there.
pub type NodeCell = Arc<OnceLock<Weak<Node>>>;

/// The node, unless it is still starting or has ended.
pub fn found(cell: &NodeCell) -> Option<Arc<Node>> {
    cell.get().and_then(Weak::upgrade)
}

fn start_failure(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, what).because(error)
}

fn open_log(data: &DataDir) -> Result<(Wal, rung_wal::Recovery), Failure> {
    let disk = Arc::new(RealDisk);
    Wal::open(disk, WalConfig::new(data.join("wal"))).map_err(|error| {
        use rung_wal::OpenError;
        let (code, next) = match &error {
            OpenError::Config(_) => (Code::Internal, "report this"),
            OpenError::InUse { .. } => (Code::DataInUse, "stop the other process"),
            OpenError::Newer { .. } => (Code::DataNewer, "start the newer version of rungd"),
            OpenError::DiskFull { .. } => (Code::DiskFull, "free space, then start again"),
            OpenError::Io { .. } => (Code::DiskFailed, "check the disk and its permissions"),
        };
        Failure::new(code, "the log of this node could not be opened").because(error).next(next)
    })
}

fn known_state(data: &DataDir) -> State {
    let stored = std::fs::read(data.join(follow::STATE_FILE)).ok();
    let state = stored.and_then(|bytes| encoding::decode::<State>(&bytes).ok());
    // A damaged file costs nothing but the head start: it is followed anew.
    state.unwrap_or_default()
}

/// Whom earlier starts knew; nobody when the file is not there or damaged.
pub fn stored_contacts(data: &DataDir) -> Vec<Contact> {
    let stored = std::fs::read(data.join(CONTACTS_FILE)).ok();
    stored.and_then(|bytes| encoding::decode(&bytes).ok()).unwrap_or_default()
}

fn known_contacts(data: &DataDir, beginning: &Beginning, state: &State) -> Vec<Contact> {
    let mut contacts = beginning.contacts.clone();
    contacts.extend(stored_contacts(data));
    // Membership forgets who was down for long; the state does not.
    for record in state.nodes.values() {
        if !contacts.iter().any(|contact| contact.node == record.id) {
            let incarnation = record.incarnation;
            contacts.push(Contact { node: record.id, mesh: record.mesh, incarnation });
        }
    }
    contacts.retain(|contact| !state.removed.contains_key(&contact.node));
    contacts.retain(|contact| contact.node != beginning.node);
    contacts
}

struct MeshParts {
    mesh: Mesh,
    services: Arc<ServiceTable>,
    datagrams: mpsc::Receiver<rung_transport::Datagram>,
    closed: mpsc::Receiver<rung_transport::PeerIdentity>,
}

fn start_mesh(
    beginning: &Beginning,
    address: SocketAddr,
    incarnation: Incarnation,
    published: &Published,
    generation: Generation,
    cell: &NodeCell,
) -> Result<MeshParts, Failure> {
    let (datagram, datagrams) = mpsc::channel(DATAGRAMS);
    let (closed_sender, closed) = mpsc::channel(HINTS);
    let services = ServiceTable::new();
    let state = published.state.subscribe();
    let config = MeshConfig {
        bind: address,
        identity: beginning.identity.clone(),
        incarnation,
        generation,
        authorise: Arc::new(move |peer| {
            if state.borrow().removed.contains_key(&peer.node) {
                return Err("it was removed from the cluster".to_owned());
            }
            Ok(())
        }),
        limits: MeshLimits::default(),
    };
    let handlers = Handlers {
        call: services.handler(),
        stream: streams::handler(Arc::clone(cell)),
        datagram,
        join: services::join_handler(Arc::clone(cell)),
        closed: closed_sender,
    };
    let mesh = Mesh::start(config, handlers).map_err(|error| match &error {
        rung_transport::MeshError::Bind { address, source }
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            Failure::new(Code::PortTaken, format!("UDP {address} is taken"))
                .because("another process listens there")
                .next("stop it, or choose another --bind or --port-offset")
        }
        _ => Failure::new(Code::Config, "the mesh could not start").because(&error),
    })?;
    Ok(MeshParts { mesh, services, datagrams, closed })
}

impl Node {
    /// Starts a node on its data directory.
    ///
    /// # Errors
    /// Everything that keeps a node from starting, each with what to do.
    pub async fn start(
        options: &Options,
        data: Arc<DataDir>,
        role_log: Arc<RoleLog>,
    ) -> Result<Arc<Self>, Failure> {
        let beginning = bootstrap::begin(options, &data).await?;
        if beginning.creation.is_none() {
            bootstrap::finish(&data, &beginning)?;
        }
        for directory in ["logs", "uploads", "control", "secrets"] {
            data.make_private_dir(directory)?;
        }
        let addresses = Addresses::of(&beginning.settings);
        let incarnation = data.next_incarnation()?;
        let published = Published::new(known_state(&data));
        let cell = NodeCell::default();
        let generations = Generations::load(&data)?;
        let generation = Generation(generations.current);
        let (wal, recovery) = open_log(&data)?;
        let parts =
            start_mesh(&beginning, addresses.mesh, incarnation, &published, generation, &cell)?;
        let mesh = parts.mesh;
        let membership = start_membership(
            &beginning,
            &addresses,
            incarnation,
            known_contacts(&data, &beginning, &published.current()),
            &mesh,
            (parts.datagrams, parts.closed),
        )?;
        let consensus = Consensus::start(ConsensusConfig {
            node: beginning.node,
            generation,
            dir: data.join("groups"),
            disk: Arc::new(RealDisk),
            wal: wal.clone(),
            network: Arc::new(MeshNetwork::new(mesh.clone(), service::RAFT)),
        });
        let control = Control::new(
            beginning.node,
            consensus.clone(),
            mesh.clone(),
            membership.clone(),
            Arc::clone(&data),
            published,
            generations,
        )?;
        let soft = SoftState::new(beginning.node, incarnation, mesh.clone());
        let timing = beginning.settings.timing();
        let databases =
            Databases::new(beginning.node, Arc::clone(&data), consensus.clone(), timing);
        let store = rung_bundle::Store::open(&data.join("bundles"), Default::default())
            .map_err(|error| start_failure("the store of bundles could not be opened", &error))?;
        let bundles = Bundles::new(
            beginning.node,
            beginning.settings.dc.clone(),
            store.clone(),
            mesh.clone(),
            membership.clone(),
        );
        let leader_requests = LeaderRequests {
            control: control.clone(),
            membership: membership.clone(),
            soft: soft.clone(),
            bundles: bundles.clone(),
            certificate_lifetime: Duration::from_secs(options.certificate_lifetime),
        };
        let web = start_web(&beginning, &data, store, &cell).await?;
        let actors = Actors::new();
        let request_actors = RequestActors::new(&actors);
        let router = ActorRouter::new(incarnation);
        request_actors
            .route(&router)
            .map_err(|error| start_failure("an actor of the node is there twice", &error))?;
        let on_event = crate::roles::on_supervisor_event(Arc::clone(&cell));
        let supervisor = Supervisor::start(Arc::clone(&actors), on_event)
            .await
            .map_err(|error| start_failure("the supervisor could not start", &error))?;
        let node = Arc::new(Self {
            id: beginning.node,
            settings: beginning.settings.clone(),
            incarnation,
            addresses,
            mesh,
            membership,
            consensus,
            wal,
            control,
            soft,
            databases,
            sql: SqlRole::default(),
            bundles,
            leader_requests,
            request_actors,
            web,
            lb: LbRole::new(),
            dns: DnsRole::default(),
            env_cache: EnvCache::load(&data),
            role_log,
            actors,
            supervisor,
            broken: Mutex::default(),
            identity: RwLock::new(beginning.identity.clone()),
            data,
        });
        // Set once, just above.
        let _ = cell.set(Arc::downgrade(&node));
        let twice = |error: rung_runtime::ServiceTaken| {
            start_failure("a service of the mesh is there twice", &error)
        };
        services::register(&node, &parts.services, &router).map_err(twice)?;
        node.begin_control(&beginning, recovery).await?;
        // Only now may a leader open or close this node's replica.
        services::register_control_group(&node, &parts.services).map_err(twice)?;
        bootstrap::finish(&node.data, &beginning)?;
        Ok(node)
    }

    async fn begin_control(
        &self,
        beginning: &Beginning,
        recovery: rung_wal::Recovery,
    ) -> Result<(), Failure> {
        if let Some(corruption) = &recovery.corruption
            && corruption.groups.contains(&GROUP)
        {
            let why = format!("{:?}", corruption.damages);
            tracing::error!(why, "the control log is damaged here; this node does not vote");
            self.report_broken(Role::Control, format!("its log is damaged: {why}"));
            return Ok(());
        }
        if let Some(creation) = &beginning.creation {
            self.control.keep_key(creation.key.clone())?;
            self.control.create().await?;
            return self.create_cluster(creation).await;
        }
        if let Some(generation) = self.control.accepted_generation() {
            let why = format!("generation {generation} of the cluster has begun and is waited for");
            self.report_broken(Role::Control, why);
            return Ok(());
        }
        if self.consensus.has_replica(GROUP) {
            return match self.control.open().await {
                Err(failure) if failure.code == Code::DataCorrupt => {
                    tracing::error!(%failure, "this node does not vote");
                    self.report_broken(Role::Control, failure.to_string());
                    Ok(())
                }
                other => other,
            };
        }
        Ok(())
    }

    async fn create_cluster(&self, creation: &bootstrap::Creation) -> Result<(), Failure> {
        let group = self
            .control
            .group()
            .ok_or_else(|| Failure::new(Code::Internal, "the control group is not open"))?;
        let mut status = group.status();
        let led = status.wait_for(|status| status.is_leader());
        match tokio::time::timeout(Duration::from_secs(20), led).await {
            Ok(Ok(_)) => {}
            _ => return Err(Failure::new(Code::Internal, "the new control group has no leader")),
        }
        let proposed = self.control.propose(creation.command.clone(), &user_name(), None).await;
        match proposed {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new(Code::Internal, "the cluster was not created")
                .because(format!("{error:?}"))),
        }
    }

    /// Whether a quorum of the control group says that this node takes part in
    /// it; `None` when nobody who leads could be asked.
    pub async fn is_member(&self) -> Option<bool> {
        let view = self.membership.view();
        for member in view.active().filter(|member| member.node != self.id) {
            let asked = self.control.ask_member(member.node).await;
            if let Some(members) = asked {
                return Some(members.contains(&self.id));
            }
        }
        None
    }

    /// A role that does not work on this node; the leader places it elsewhere.
    pub fn report_broken(&self, role: Role, why: String) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.insert(role, why);
        let list = broken.iter().map(|(role, why)| (*role, why.clone())).collect();
        self.soft.update(|mine| mine.broken_roles = list);
    }

    /// The role works again, or was taken away.
    pub fn report_mended(&self, role: Role) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.remove(&role).is_some() {
            let list = broken.iter().map(|(role, why)| (*role, why.clone())).collect();
            self.soft.update(|mine| mine.broken_roles = list);
        }
    }

    pub fn is_broken(&self, role: Role) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&role)
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn dc(&self) -> &str {
        &self.settings.dc
    }

    pub fn identity(&self) -> NodeIdentity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn use_identity(&self, identity: NodeIdentity) {
        self.mesh.replace_identity(identity.clone());
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Asks the leader of the control group, wherever it is.
    ///
    /// # Errors
    /// See [`Control::ask_leader`].
    pub async fn ask_leader(&self, request: &LeaderRequest) -> Result<LeaderAnswer, Failure> {
        let ask_here =
            |request| self.request_actors.ask_leader_here(self.identity().peer(), request);
        self.control.ask_leader(request, ask_here).await
    }
}

fn start_membership(
    beginning: &Beginning,
    addresses: &Addresses,
    incarnation: Incarnation,
    contacts: Vec<Contact>,
    mesh: &Mesh,
    (datagrams, closed): (
        mpsc::Receiver<rung_transport::Datagram>,
        mpsc::Receiver<rung_transport::PeerIdentity>,
    ),
) -> Result<Membership, Failure> {
    let seeds = contacts
        .into_iter()
        .map(|contact| Seed { node: contact.node, address: contact.mesh })
        .collect();
    let config = MembershipConfig {
        node: beginning.node,
        incarnation,
        address: addresses.mesh,
        dc: beginning.settings.dc.clone(),
        name: beginning.settings.name.clone(),
        seeds,
        settings: beginning.settings.timing().membership(),
        service: service::MEMBERSHIP,
        random_seed: rand::rng().random(),
    };
    Membership::start(config, mesh.clone(), datagrams, closed)
        .map_err(|error| start_failure("membership could not start", &error))
}

async fn start_web(
    beginning: &Beginning,
    data: &DataDir,
    store: rung_bundle::Store,
    cell: &NodeCell,
) -> Result<WebRole, Failure> {
    let loopback = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let bind = beginning.settings.bind;
    let exec_helper = std::env::current_exe()
        .map_err(|error| start_failure("this program's own path is not known", &error))?;
    let config = WebConfig {
        node: beginning.node,
        node_name: beginning.settings.name.clone(),
        dc: beginning.settings.dc.clone(),
        data_dir: data.join("web"),
        host: if bind.is_loopback() { bind } else { loopback },
        user: UserPolicy::detect(),
        exec_helper,
        port_range: rung_web::DEFAULT_PORTS,
        open_files: 65_536,
        policy: rung_web::Policy::default(),
    };
    let (for_fetch, for_drain) = (Arc::clone(cell), Arc::clone(cell));
    let fetch: rung_web::Fetch = Arc::new(move |digest| {
        let cell = Arc::clone(&for_fetch);
        Box::pin(async move {
            match found(&cell) {
                Some(node) => node.bundles.fetch(digest).await,
                None => Err("the node is starting".to_owned()),
            }
        })
    });
    let drained: rung_web::Drained = Arc::new(move |instance| {
        let cell = Arc::clone(&for_drain);
        Box::pin(async move {
            if let Some(node) = found(&cell) {
                web_role::drained(node, instance).await;
            }
        })
    });
    WebRole::start(config, store, fetch, drained).await.map_err(|error| {
        Failure::new(Code::DiskFailed, "the web role could not start").because(error)
    })
}

/// The user who runs this process, for the audit log.
fn user_name() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}
