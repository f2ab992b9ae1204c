//! How a node gets its identity: it creates a cluster or joins one, and renews
//! its certificate.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rung_control_plane::Command;
use rung_control_plane::sealed::ClusterKey;
use rung_control_plane::secrets::CA_PURPOSE;
use rung_control_plane::state::{ClusterRecord, NodeRecord};
use rung_proto::{ClusterId, Code, Failure, Incarnation, NodeId, encoding};
use rung_transport::{
    CertificateAuthority, IdentityError, JoinError, JoinToken, KeyPair, NodeIdentity, join_request,
};
use tokio::time::{Instant, sleep};

use crate::clock::now_ms;
use crate::data_dir::{DataDir, NodeFile, disk_failure};
use crate::leader_requests::hash;
use crate::node::CONTACTS_FILE;
use crate::options::{Options, Settings, parse_pins};
use crate::protocol::{Contact, JoinRequest, Joiner, Welcome};

const IDENTITY_DIR: &str = "identity";
/// How long a seed that does not answer is asked again.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
const JOIN_DEADLINE: Duration = Duration::from_secs(20);
const JOIN_PAUSE: Duration = Duration::from_millis(300);

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub dns: SocketAddr,
    pub sql: SocketAddr,
    /// Where others reach the databases, if that is wanted.
    pub sql_private: Option<SocketAddr>,
    pub public: IpAddr,
}

impl Addresses {
    pub fn of(settings: &Settings) -> Self {
        let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port + settings.port_offset);
        Self {
            mesh: at(settings.bind, 7400),
            admin: at(settings.bind, 7401),
            http: at(settings.public, 8080),
            https: at(settings.public, 8443),
            dns: at(settings.public, 5300),
            // Apps are on this machine; nobody else may reach the database there.
            sql: at(loopback(settings.bind), 5432),
            // A loopback address is where apps are already.
            sql_private: (settings.listen_postgres && !settings.bind.is_loopback())
                .then(|| at(settings.bind, 5432)),
            public: settings.public,
        }
    }
}

/// The address itself where it is a loopback address: several nodes of one machine
/// then do not share one.
fn loopback(bind: IpAddr) -> IpAddr {
    if bind.is_loopback() { bind } else { Ipv4Addr::LOCALHOST.into() }
}

/// What a node begins with.
pub struct Beginning {
    pub node: NodeId,
    pub settings: Settings,
    pub identity: NodeIdentity,
    /// Nodes known from the welcome.
    pub contacts: Vec<Contact>,
    /// What the first node proposes when it has made the control group.
    pub creation: Option<Creation>,
}

pub struct Creation {
    pub command: Command,
    pub key: ClusterKey,
}

fn identity_failure(error: &IdentityError) -> Failure {
    Failure::new(Code::IdentityRefused, "the node's identity cannot be used").because(error)
}

/// Finds out who this node is, creating or joining a cluster if it is nobody yet.
///
/// # Errors
/// Everything that keeps a node from starting, each with what to do.
pub async fn begin(options: &Options, data: &DataDir) -> Result<Beginning, Failure> {
    let known = data.node_file()?;
    let settings = options.settings(known.as_ref().map(|file| (&file.settings, file.joined)))?;
    if let Some(file) = known.as_ref().filter(|file| file.joined) {
        let identity = load_identity(data)?;
        let renamed = NodeFile { settings: settings.clone(), ..file.clone() };
        data.write_json("node.json", &renamed)?;
        return Ok(Beginning {
            node: file.node,
            settings,
            identity,
            contacts: Vec::new(),
            creation: None,
        });
    }
    match &options.join {
        None => create(options, data, settings, known),
        Some(seed) => join(options, data, settings, seed, known).await,
    }
}

fn load_identity(data: &DataDir) -> Result<NodeIdentity, Failure> {
    NodeIdentity::load(&data.join(IDENTITY_DIR)).map_err(|error| {
        Failure::new(Code::DataCorrupt, "the node's identity cannot be read")
            .because(error)
            .next("restore the data directory, or remove it and join as a new node")
    })
}

/// Records that the node belongs to its cluster.
///
/// # Errors
/// When the disk fails.
pub fn finish(data: &DataDir, beginning: &Beginning) -> Result<(), Failure> {
    let settings = beginning.settings.clone();
    let file = NodeFile { node: beginning.node, settings, joined: true, joining: None };
    if !beginning.contacts.is_empty() {
        // A start that fails after this one must still know whom to speak to.
        data.write_private(CONTACTS_FILE, &encoding::encode(&beginning.contacts))?;
    }
    data.write_json("node.json", &file)
}

/// Removes what an interrupted start left: it has promised nothing to anybody.
/// What has lost its `node.json` may have, and is left alone.
fn clear_interrupted(data: &DataDir, known: Option<&NodeFile>) -> Result<(), Failure> {
    const LEFTOVERS: [&str; 5] = ["wal", "groups", IDENTITY_DIR, "secrets", "control"];
    let there = LEFTOVERS.into_iter().find(|name| data.join(name).exists());
    match (known, there) {
        (None, Some(name)) => Err(Failure::new(
            Code::DataCorrupt,
            format!("{} has lost its node.json", data.path().display()),
        )
        .because(format!("it still holds {name}"))
        .next("restore node.json, or start with an empty directory as a new node")),
        _ => LEFTOVERS.into_iter().try_for_each(|name| remove_dir(&data.join(name))),
    }
}

fn create(
    options: &Options,
    data: &DataDir,
    settings: Settings,
    known: Option<NodeFile>,
) -> Result<Beginning, Failure> {
    if let Some(seed) = known.as_ref().and_then(|file| file.joining.as_ref()) {
        return Err(Failure::new(
            Code::Config,
            "this node began to join a cluster and has not joined",
        )
        .because(format!("its seed was {seed}"))
        .next("start it again with --join and --token-file, or with an empty --data"));
    }
    clear_interrupted(data, known.as_ref())?;
    let (cluster, node) = (ClusterId::random(), NodeId::random());
    let failed = |error: IdentityError| identity_failure(&error);
    let authority = CertificateAuthority::create(cluster).map_err(failed)?;
    let keys = KeyPair::load_or_create(&data.make_private_dir(IDENTITY_DIR)?).map_err(failed)?;
    let now = now_ms();
    let lifetime = Duration::from_secs(options.certificate_lifetime);
    let csr = keys.to_csr().map_err(failed)?;
    let certificate = authority.sign(&csr, node, &settings.dc, lifetime, now).map_err(failed)?;
    let identity = NodeIdentity::new(&keys, certificate, authority.certificate_der().to_vec())
        .map_err(failed)?;
    identity.store(&data.join(IDENTITY_DIR)).map_err(failed)?;
    let key = ClusterKey::generate();
    let addresses = Addresses::of(&settings);
    let first = NodeRecord {
        id: node,
        name: settings.name.clone(),
        dc: settings.dc.clone(),
        mesh: addresses.mesh,
        admin: addresses.admin,
        public: addresses.public,
        pins: parse_pins(&settings.roles)?,
        cordoned: false,
        draining: false,
        incarnation: Incarnation(0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joined: 0,
    };
    let command = Command::CreateCluster {
        cluster: ClusterRecord {
            name: settings.cluster.clone(),
            id: cluster,
            created_ms: now,
            ca_certificate: authority.certificate_der().to_vec(),
        },
        first: Box::new(first),
        key: hash(&keys.public_key()),
        ca_key: key.seal(CA_PURPOSE, &authority.to_secret_bytes()),
    };
    data.write_json(
        "node.json",
        &NodeFile { node, settings: settings.clone(), joined: false, joining: None },
    )?;
    let creation = Some(Creation { command, key });
    Ok(Beginning { node, settings, identity, contacts: Vec::new(), creation })
}

fn remove_dir(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(disk_failure("removing what an interrupted start left", path, &error)),
    }
}

fn read_token(options: &Options) -> Result<JoinToken, Failure> {
    let path = options
        .token_file
        .as_ref()
        .ok_or_else(|| Failure::new(Code::Config, "--join needs --token-file"))?;
    let bytes = fs::read(path).map_err(|error| {
        Failure::new(Code::Config, "the token file cannot be read")
            .because(format!("{}: {error}", path.display()))
            .next("write what `ctl token create` prints into it")
    })?;
    // What is no text is no token either, and is refused as such.
    String::from_utf8_lossy(&bytes).trim().parse().map_err(|error| {
        Failure::new(Code::TokenInvalid, "the token file holds no join token")
            .because(error)
            .next("write what `ctl token create` prints into it")
    })
}

async fn join(
    options: &Options,
    data: &DataDir,
    settings: Settings,
    seed: &str,
    known: Option<NodeFile>,
) -> Result<Beginning, Failure> {
    let token = read_token(options)?;
    // The same id and key in every attempt, so that an answer that was lost is
    // given again.
    let earlier = known.as_ref().filter(|file| file.joining.is_some());
    let node = match earlier {
        Some(file) => file.node,
        None => {
            clear_interrupted(data, known.as_ref())?;
            NodeId::random()
        }
    };
    let joining = Some(seed.to_owned());
    data.write_json(
        "node.json",
        &NodeFile { node, settings: settings.clone(), joined: false, joining },
    )?;
    let keys = KeyPair::load_or_create(&data.make_private_dir(IDENTITY_DIR)?)
        .map_err(|error| identity_failure(&error))?;
    let csr = keys.to_csr().map_err(|error| identity_failure(&error))?;
    let addresses = Addresses::of(&settings);
    let joiner = Joiner {
        secret: token.secret.to_vec(),
        csr,
        node,
        name: settings.name.clone(),
        dc: settings.dc.clone(),
        mesh: addresses.mesh,
        admin: addresses.admin,
        public: addresses.public,
        pins: parse_pins(&settings.roles)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_ms: now_ms(),
    };
    let welcome = ask_seed(seed, &token, joiner).await?;
    let identity = accept(&welcome, &keys, data)?;
    Ok(Beginning {
        node: welcome.node,
        settings: Settings { cluster: welcome.cluster_name, ..settings },
        identity,
        contacts: welcome.peers,
        creation: None,
    })
}

/// Takes a signed certificate into use and stores it.
///
/// # Errors
/// When it is not for this key, or the disk fails.
pub fn accept(welcome: &Welcome, keys: &KeyPair, data: &DataDir) -> Result<NodeIdentity, Failure> {
    let identity =
        NodeIdentity::new(keys, welcome.certificate.clone(), welcome.ca_certificate.clone())
            .map_err(|error| identity_failure(&error))?;
    identity.store(&data.join(IDENTITY_DIR)).map_err(|error| identity_failure(&error))?;
    Ok(identity)
}

async fn ask_seed(seed: &str, token: &JoinToken, mut joiner: Joiner) -> Result<Welcome, Failure> {
    let give_up = Instant::now() + JOIN_PATIENCE;
    let mut said = false;
    loop {
        joiner.now_ms = now_ms();
        let request = JoinRequest::Join(Box::new(joiner.clone()));
        let failure = match send(seed, token.ca_hash, &request).await {
            Ok(welcome) => return Ok(welcome),
            Err((failure, true)) if Instant::now() < give_up => failure,
            Err((failure, _)) => return Err(failure),
        };
        if !said {
            tracing::info!(%failure, "the seed does not answer yet");
            said = true;
        }
        sleep(JOIN_PAUSE).await;
    }
}

/// Asks a seed once. The flag says whether asking again may help.
///
/// # Errors
/// What the seed answered, or why it did not.
pub async fn send(
    seed: &str,
    ca_hash: [u8; 32],
    request: &JoinRequest,
) -> Result<Welcome, (Failure, bool)> {
    let unreachable = |why: String| {
        Failure::new(Code::Unreachable, format!("the seed {seed} cannot be reached"))
            .because(why)
            .next("check --join and that the node there runs")
    };
    let address = tokio::net::lookup_host(seed)
        .await
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| (unreachable("no such address; give HOST:PORT".to_owned()), false))?;
    let body = Bytes::from(encoding::encode(request));
    let answer =
        join_request(address, ca_hash, body, JOIN_DEADLINE).await.map_err(|error| match error {
            JoinError::Refused(failure) => {
                let again = matches!(
                    failure.code,
                    Code::NoQuorum | Code::Unreachable | Code::OutcomeUnknown | Code::Overloaded
                );
                (failure, again)
            }
            JoinError::Unreachable(why) => (unreachable(why), true),
            error @ JoinError::NoAnswer(_) => (unreachable(error.to_string()), true),
            JoinError::Clock(why) => (
                Failure::new(Code::ClockSkew, "a certificate is not valid at this machine's time")
                    .because(why)
                    .next("set the clock, for example with chrony, then join again"),
                false,
            ),
            JoinError::WrongCluster(why) => (
                Failure::new(Code::WrongCluster, "the seed is of another cluster than the token")
                    .because(why)
                    .next("use a token from that cluster, or the right seed"),
                false,
            ),
            error @ JoinError::TooLarge { .. } => (
                Failure::new(Code::Internal, "the join request is too large").because(error),
                false,
            ),
        })?;
    encoding::decode(&answer).map_err(|error| {
        let failure = Failure::new(Code::Internal, "the seed's answer cannot be read");
        (failure.because(error), false)
    })
}
