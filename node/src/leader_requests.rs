//! What only the leader of the control group can do for others.

use std::collections::BTreeMap;
use std::time::Duration;

use rung_control_plane::command::Environment;
use rung_control_plane::plan::{Prepared, merge_env};
use rung_control_plane::secrets::{CA_PURPOSE, Hash, Secrets, env_purpose, token_id};
use rung_control_plane::state::{NodeRecord, ReleaseRecord};
use rung_control_plane::{Answer, Command, State, plan as plan_change};
use rung_membership::Membership;
use rung_proto::api::{Change, ChangeAnswer, ChangeRequest, Token, TokenCreated, TokenRequest};
use rung_proto::{Code, Failure, Incarnation, NodeId, Role, encoding};
use rung_transport::{CertificateAuthority, JoinToken, csr_public_key};

use crate::bundles::Bundles;
use crate::clock::now_ms;
use crate::control::{Control, ProposeFailure};
use crate::database_access;
use crate::observe;
use crate::options::check_name;
use crate::protocol::{
    Contact, EnvAnswer, Joiner, LeaderAnswer, LeaderReply, LeaderRequest, Welcome,
};
use crate::soft_state::SoftState;
use crate::sql_certificate;

/// Clocks of two nodes may differ by so much.
pub const MAX_CLOCK_SKEW_MS: u64 = 60_000;
const MAX_VERSION: usize = 64;
const MAX_TOKEN_TTL_S: u64 = 30 * 86_400;
/// How often a change is planned when others keep coming between.
const PLANS: u32 = 20;
const BARRIER: Duration = Duration::from_secs(5);

/// SHA-256, by which tokens and keys are known.
pub fn hash(bytes: &[u8]) -> Hash {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[derive(Clone)]
pub struct LeaderRequests {
    pub control: Control,
    pub membership: Membership,
    pub soft: SoftState,
    pub bundles: Bundles,
    pub certificate_lifetime: Duration,
}

impl LeaderRequests {
    /// Serves a request if this node leads.
    pub async fn serve(&self, request: LeaderRequest) -> LeaderReply {
        let leads = self.control.group().is_some_and(|group| group.status().borrow().is_leader());
        if !leads {
            return LeaderReply::NotLeader { leader: self.control.leadership().leader };
        }
        match self.answer(request).await {
            Ok(answer) => LeaderReply::Answer(Box::new(answer)),
            Err(failure) => failure.into(),
        }
    }

    async fn answer(&self, request: LeaderRequest) -> Result<LeaderAnswer, ProposeFailure> {
        match request {
            LeaderRequest::Change(request) => self.change(request).await,
            LeaderRequest::CreateToken(request) => self.create_token(request).await,
            LeaderRequest::RevokeToken { id, by } => self.revoke_token(id, &by).await,
            LeaderRequest::Tokens => Ok(LeaderAnswer::Tokens(self.tokens())),
            LeaderRequest::Admit(joiner) => self.admit(*joiner).await,
            LeaderRequest::Renew { node, csr } => {
                let welcome = self.renew(node, &csr)?;
                Ok(LeaderAnswer::Welcome(Box::new(welcome)))
            }
            LeaderRequest::CertifyServer { node, csr } => self.certify_server(node, &csr),
            LeaderRequest::Started { node, incarnation, mesh, admin, public, version } => {
                let update =
                    Command::UpdateNode { node, incarnation, mesh, admin, public, version };
                self.control.propose(update, "", None).await?;
                Ok(LeaderAnswer::Index(self.control.state().index))
            }
            LeaderRequest::Members => self.members().await,
            LeaderRequest::DatabasePassword { database } => {
                let key = self.key().map_err(ProposeFailure::Refused)?;
                Ok(LeaderAnswer::DatabasePassword(database_access::password(&key, &database)))
            }
        }
    }

    /// Waits until this node has applied everything that was ever confirmed.
    async fn barrier(&self) -> Result<rung_consensus::Group, ProposeFailure> {
        let Some(group) = self.control.group() else {
            return Err(ProposeFailure::NotLeader(None));
        };
        group.read_barrier(BARRIER).await.map_err(|error| {
            ProposeFailure::Refused(
                Failure::new(Code::NoQuorum, "no quorum confirms the state").because(error),
            )
        })?;
        Ok(group)
    }

    async fn members(&self) -> Result<LeaderAnswer, ProposeFailure> {
        let status = self.barrier().await?.status().borrow().clone();
        let members = status.voters.union(&status.learners).copied().collect();
        Ok(LeaderAnswer::Members(members))
    }

    fn secrets(&self) -> Secrets {
        match self.control.published().secrets.read() {
            Ok(secrets) => secrets.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    // Changes.

    /// Plans a change from the newest state and starts it from exactly that
    /// state. When another change comes between, it is planned again, unless the
    /// caller named the state that it must be planned from.
    async fn change(&self, request: ChangeRequest) -> Result<LeaderAnswer, ProposeFailure> {
        let mut attempts = PLANS;
        loop {
            attempts -= 1;
            match self.plan_once(&request).await {
                Err(ProposeFailure::Refused(failure))
                    if failure.code == Code::IndexChanged
                        && request.if_index.is_none()
                        && attempts > 0 => {}
                other => return other,
            }
        }
    }

    async fn plan_once(&self, request: &ChangeRequest) -> Result<LeaderAnswer, ProposeFailure> {
        let refused = ProposeFailure::Refused;
        self.barrier().await?;
        let state = self.control.state();
        if let Some(expected) = request.if_index
            && expected != state.index
        {
            let failure = Failure::new(Code::IndexChanged, "the state has changed meanwhile")
                .because(format!("it is at index {}, not {expected}", state.index))
                .next("look at it again and repeat with the new index");
            return Err(ProposeFailure::Refused(failure));
        }
        let prepared = self.prepare(&request.change).await.map_err(refused)?;
        let leadership = self.control.leadership();
        let view = observe::view(&state, &self.membership.view(), &self.soft, &leadership);
        let planned = plan_change(&request.change, prepared, &state, &view).map_err(refused)?;
        let Some(new) = planned else {
            return Ok(LeaderAnswer::Change(ChangeAnswer::Nothing { index: state.index }));
        };
        if request.dry_run {
            let steps = new.steps.iter().map(|step| step.name.clone()).collect();
            let plan = ChangeAnswer::Plan { index: state.index, summary: new.summary, steps };
            return Ok(LeaderAnswer::Change(plan));
        }
        let command = Command::StartOperation(Box::new(new));
        let answer =
            self.control.propose(command, &request.requested_by, Some(state.index)).await?;
        let Answer::Operation(id) = answer else {
            return Err(internal("an operation was started and has no id"));
        };
        let state = self.control.state();
        let Some(record) = state.operations.get(&id) else {
            return Err(internal("an operation was started and is not there"));
        };
        Ok(LeaderAnswer::Change(ChangeAnswer::Started { operation: record.to_api() }))
    }

    /// Looks up and seals what the pure planner cannot.
    async fn prepare(&self, change: &Change) -> Result<Prepared, Failure> {
        match change {
            Change::Deploy { bundle } => {
                let (manifest, size) = self.bundles.manifest(*bundle).await?;
                let created_ms = now_ms();
                let verifier = match manifest.db {
                    Some(_) => Some(self.verifier(&manifest.name)?),
                    None => None,
                };
                let release = ReleaseRecord { digest: *bundle, size, manifest, created_ms };
                Ok(Prepared { release: Some(release), verifier, ..Prepared::default() })
            }
            Change::SetEnv { app, set, unset } => {
                for (name, value) in set {
                    rung_bundle::check_variable(name, value)
                        .map_err(|why| Failure::new(Code::Usage, why))?;
                }
                let (_, old) = self.variables(app)?;
                let new = merge_env(old.clone(), set, unset)?;
                if new == old {
                    return Ok(Prepared::default());
                }
                let key = self.key()?;
                let sealed = key.seal(&env_purpose(app), &encoding::encode(&new));
                let env = Some((sealed, new.into_keys().collect()));
                Ok(Prepared { env, ..Prepared::default() })
            }
            Change::CreateDatabase { name } => {
                rung_bundle::check_name(name).map_err(|why| Failure::new(Code::Usage, why))?;
                let verifier = Some(self.verifier(name)?);
                Ok(Prepared { verifier, ..Prepared::default() })
            }
            _ => Ok(Prepared::default()),
        }
    }

    fn verifier(&self, database: &str) -> Result<String, Failure> {
        Ok(database_access::verifier(&database_access::password(&self.key()?, database)))
    }

    fn key(&self) -> Result<rung_control_plane::sealed::ClusterKey, Failure> {
        self.control.cluster_key().ok_or_else(|| {
            Failure::new(Code::Internal, "this voter does not have the cluster key")
                .next("`ctl move control` to another node, and report this")
        })
    }

    /// The variables of an app and their version, opened. Any voter can.
    fn variables(&self, app: &str) -> Result<(u64, Environment), Failure> {
        let Some(record) = self.secrets().env.get(app).cloned() else {
            return Ok((0, BTreeMap::new()));
        };
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::new(Code::Internal, format!("the variables of {app} cannot be read"))
                .because(error)
        };
        let opened =
            self.key()?.open(&env_purpose(app), &record.sealed).map_err(|error| wrong(&error))?;
        let variables = encoding::decode(&opened).map_err(|error| wrong(&error))?;
        Ok((record.version, variables))
    }

    /// The variables of an app and their version, for a node that runs it.
    ///
    /// # Errors
    /// When this node has no replica, or one that is behind what it knows by
    /// following; another voter is then asked.
    pub fn env_answer(&self, app: &str) -> Result<EnvAnswer, Failure> {
        if self.control.group().is_none() {
            return Err(Failure::new(Code::Precondition, "this node does not vote"));
        }
        let wanted = self.control.state().apps.get(app).map(|app| app.env_version);
        let wanted =
            wanted.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no app {app}")))?;
        let (version, variables) = self.variables(app)?;
        if version != wanted {
            return Err(Failure::new(Code::Precondition, "this voter has not caught up yet"));
        }
        let database_password = match self.control.state().databases.contains_key(app) {
            true => Some(database_access::password(&self.key()?, app)),
            false => None,
        };
        Ok(EnvAnswer { version, variables, database_password })
    }

    // Tokens.

    async fn create_token(&self, request: TokenRequest) -> Result<LeaderAnswer, ProposeFailure> {
        if request.uses == 0 || request.ttl_s == 0 || request.ttl_s > MAX_TOKEN_TTL_S {
            return Err(ProposeFailure::Refused(Failure::new(
                Code::Usage,
                "a token has at least one use and lasts at most 30 days",
            )));
        }
        let authority = self.authority()?;
        let token = JoinToken::random(authority.hash());
        let secret_hash = hash(&token.secret);
        let expires_ms = now_ms() + request.ttl_s * 1000;
        let command = Command::CreateToken { hash: secret_hash, expires_ms, uses: request.uses };
        self.control.propose(command, &request.requested_by, None).await?;
        Ok(LeaderAnswer::TokenCreated(TokenCreated {
            id: token_id(&secret_hash),
            token: token.to_string(),
            expires_ms,
        }))
    }

    async fn revoke_token(&self, id: String, by: &str) -> Result<LeaderAnswer, ProposeFailure> {
        let known = self.tokens().into_iter().find(|token| token.id == id);
        self.control.propose(Command::RevokeToken { id: id.clone() }, by, None).await?;
        let gone = Token { id, created_by: String::new(), expires_ms: 0, uses_left: 0 };
        Ok(LeaderAnswer::Token(known.unwrap_or(gone)))
    }

    fn tokens(&self) -> Vec<Token> {
        let secrets = self.secrets();
        let describe = |(hash, record): (&Hash, &rung_control_plane::secrets::TokenRecord)| Token {
            id: token_id(hash),
            created_by: record.created_by.clone(),
            expires_ms: record.expires_ms,
            uses_left: record.uses_left,
        };
        secrets.tokens.iter().map(describe).collect()
    }

    // Joining.

    fn authority(&self) -> Result<CertificateAuthority, ProposeFailure> {
        let sealed = self.secrets().ca_key;
        let sealed = sealed.ok_or_else(|| internal("the control state has no authority"))?;
        let key = self.key().map_err(ProposeFailure::Refused)?;
        let bytes = key.open(CA_PURPOSE, &sealed).map_err(|error| internal(&error.to_string()))?;
        CertificateAuthority::from_secret_bytes(&bytes)
            .map_err(|error| internal(&error.to_string()))
    }

    async fn admit(&self, joiner: Joiner) -> Result<LeaderAnswer, ProposeFailure> {
        check_clock(joiner.now_ms).map_err(ProposeFailure::Refused)?;
        for (what, name) in [("name", &joiner.name), ("data center", &joiner.dc)] {
            check_name(what, name).map_err(ProposeFailure::Refused)?;
        }
        if joiner.version.len() > MAX_VERSION {
            let failure = Failure::new(Code::Usage, "the joiner's version is too long");
            return Err(ProposeFailure::Refused(failure));
        }
        let key = csr_public_key(&joiner.csr).map_err(|error| {
            let failure = Failure::new(Code::IdentityRefused, "the joiner's request is not usable");
            ProposeFailure::Refused(failure.because(error))
        })?;
        let record = NodeRecord {
            id: joiner.node,
            name: joiner.name.clone(),
            dc: joiner.dc.clone(),
            mesh: joiner.mesh,
            admin: joiner.admin,
            public: joiner.public,
            pins: joiner.pins.clone(),
            cordoned: false,
            draining: false,
            incarnation: Incarnation(0),
            version: joiner.version.clone(),
            joined: 0,
        };
        let command = Command::AdmitNode {
            token: hash(&joiner.secret),
            key: hash(&key),
            node: Box::new(record),
        };
        let Answer::Admitted(node) = self.control.propose(command, "", None).await? else {
            return Err(internal("a node was admitted without an id"));
        };
        tracing::info!(name = joiner.name, %node, "admitted a node");
        let welcome = self.sign(node, &joiner.csr)?;
        Ok(LeaderAnswer::Welcome(Box::new(welcome)))
    }

    fn renew(&self, node: NodeId, csr: &[u8]) -> Result<Welcome, ProposeFailure> {
        let refuse = |what: &str| {
            ProposeFailure::Refused(
                Failure::new(Code::IdentityRefused, what)
                    .next("join as a new node with an empty data directory and a new token"),
            )
        };
        let key = csr_public_key(csr).map_err(|_| refuse("the request is not usable"))?;
        let known = self.secrets().node_keys.get(&node).copied();
        match known {
            Some(known) if known == hash(&key) => self.sign(node, csr),
            Some(_) => Err(refuse("this is not the key that the node joined with")),
            None => Err(refuse("the cluster does not know this node; it may have been removed")),
        }
    }

    fn sign(&self, node: NodeId, csr: &[u8]) -> Result<Welcome, ProposeFailure> {
        let state = self.control.state();
        let record = state.nodes.get(&node);
        let record = record.ok_or_else(|| {
            let failure = Failure::new(Code::IdentityRefused, "the node was removed meanwhile");
            ProposeFailure::Refused(failure)
        })?;
        let authority = self.authority()?;
        let certificate = authority
            .sign(csr, node, &record.dc, self.certificate_lifetime, now_ms())
            .map_err(|error| internal(&error.to_string()))?;
        Ok(Welcome {
            cluster: state.cluster.id,
            cluster_name: state.cluster.name.clone(),
            node,
            certificate,
            ca_certificate: authority.certificate_der().to_vec(),
            peers: self.contacts(&state),
        })
    }

    /// A certificate for the addresses at which clients of SQL find a node.
    fn certify_server(&self, node: NodeId, csr: &[u8]) -> Result<LeaderAnswer, ProposeFailure> {
        let state = self.control.state();
        let record = state.nodes.get(&node);
        let record = record.ok_or_else(|| {
            let failure = Failure::new(Code::IdentityRefused, "the node was removed meanwhile");
            ProposeFailure::Refused(failure)
        })?;
        let names = sql_certificate::names(record);
        let certificate = self
            .authority()?
            .sign_server(csr, &names, self.certificate_lifetime, now_ms())
            .map_err(|error| internal(&error.to_string()))?;
        Ok(LeaderAnswer::ServerCertificate(certificate.into()))
    }

    /// Nodes to begin with, those first that can say the most.
    fn contacts(&self, state: &State) -> Vec<Contact> {
        let view = self.membership.view();
        let voters = self.control.leadership().voters;
        let mut alive: Vec<_> = view.active().collect();
        alive.sort_by_key(|member| {
            (!voters.contains(&member.node), !state.owns(member.node, Role::Lb), member.node)
        });
        let contact = |member: &&rung_membership::Member| Contact {
            node: member.node,
            mesh: member.address,
            incarnation: member.incarnation,
        };
        alive.iter().take(16).map(contact).collect()
    }
}

fn internal(what: &str) -> ProposeFailure {
    ProposeFailure::Refused(Failure::new(Code::Internal, what))
}

/// Refuses a joiner whose clock would make certificates and tokens meaningless.
///
/// # Errors
/// When the clocks differ by more than [`MAX_CLOCK_SKEW_MS`].
pub fn check_clock(theirs_ms: u64) -> Result<(), Failure> {
    let ours = now_ms();
    if ours.abs_diff(theirs_ms) <= MAX_CLOCK_SKEW_MS {
        return Ok(());
    }
    let direction = if theirs_ms > ours { "ahead" } else { "behind" };
    Err(Failure::new(Code::ClockSkew, "the clocks differ too much")
        .because(format!(
            "the joining machine is {} s {direction} of the cluster",
            ours.abs_diff(theirs_ms) / 1000
        ))
        .next("set the clock, for example with chrony, then join again"))
}
