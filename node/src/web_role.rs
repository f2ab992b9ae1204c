//! Keeps the web role of this node at what the state says, and tells the others
//! how its instances are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom;
use rung_control_plane::State;
use rung_control_plane::command::Environment;
use rung_proto::{NodeId, Role, encoding};
use rung_runtime::TaskResult;
use rung_web::InstanceSpec;
use tokio::time::timeout;

use crate::data_dir::DataDir;
use crate::database_access;
use crate::node::Node;
use crate::protocol::{EnvAnswer, EnvRequest, actor};

const ASK_ENV: Duration = Duration::from_secs(3);
/// How soon missing variables are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a silent balancer is waited for before a drained instance ends.
const SILENT_BALANCER: Duration = Duration::from_secs(10);

/// Balancers that must let go of an instance before it ends.
pub fn balancers(node: &Node) -> Vec<NodeId> {
    let state = node.control.state();
    let members = node.membership.view();
    let owners = state.role(Role::Lb).owners;
    owners
        .into_keys()
        .filter(|owner| match *owner == node.id {
            true => node.lb.runs(),
            false => members.state(*owner).is_some_and(rung_membership::MemberState::is_active),
        })
        .collect()
}

/// Waits until every balancer has let go of an instance, or was silent too long.
pub async fn drained(node: Arc<Node>, instance: rung_proto::InstanceId) {
    let silent = node.soft.drain_acknowledged(instance, || balancers(&node), SILENT_BALANCER).await;
    if !silent.is_empty() {
        tracing::warn!(%instance, ?silent, "balancers did not acknowledge a removal");
    }
}

/// Follows the state and makes this node run its instances. Never ends.
pub async fn run(node: Arc<Node>) -> TaskResult {
    let mut state = node.control.watch_state();
    loop {
        let now = state.borrow_and_update().clone();
        let complete = reconcile(&node, &now).await;
        if complete {
            if state.changed().await.is_err() {
                return Ok(());
            }
        } else {
            // Whichever comes first is a reason to look again.
            let _ = timeout(ASK_AGAIN, state.changed()).await;
        }
    }
}

/// Publishes what the instances do. Never ends.
pub async fn publish(node: Arc<Node>) -> TaskResult {
    let mut status = node.web.status();
    loop {
        status.mark_unchanged();
        // Read within the edit: an older look must never be told after a newer.
        node.soft.update(|mine| mine.instances = node.web.status().borrow().clone());
        if status.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Hands the wanted instances over. False when the variables of an app could
/// not be had; its new instances wait for them, what runs goes on.
async fn reconcile(node: &Node, state: &State) -> bool {
    let mut specs = Vec::new();
    let mut complete = true;
    let mut environments: BTreeMap<String, Option<Environment>> = BTreeMap::new();
    let running: Vec<_> = node.web.status().borrow().iter().map(|status| status.id).collect();
    for record in state.instances.values().filter(|record| record.node == node.id) {
        let Some(app) = state.apps.get(&record.app) else { continue };
        let Some(release) = app.releases.get(&record.release) else { continue };
        let wants_env = !record.drain && record.env_version == app.env_version;
        if !environments.contains_key(&record.app) {
            let has_database = state.databases.contains_key(&record.app);
            let env = match app.env_version {
                0 if !has_database => Some(Environment::new()),
                version => environment(node, &record.app, version, has_database).await,
            };
            environments.insert(record.app.clone(), env);
        }
        let env = environments.get(&record.app).cloned().flatten();
        let env = match env {
            Some(env) => env,
            // One that runs has its variables already.
            None if running.contains(&record.id) || !wants_env => Environment::new(),
            None => {
                complete = false;
                continue;
            }
        };
        specs.push(InstanceSpec {
            id: record.id,
            app: record.app.clone(),
            release: record.release,
            digest: release.digest,
            manifest: release.manifest.clone(),
            env,
            drain: record.drain,
        });
    }
    node.web.reconcile(specs);
    // Said only now: a drained instance that the node does not list any more,
    // although it has applied the drain, counts as gone.
    node.soft.update(|mine| {
        mine.applied_index = state.index;
        mine.instances = node.web.status().borrow().clone();
    });
    complete
}

/// An app's variables: kept from before, or from a voter.
async fn environment(
    node: &Node,
    app: &str,
    version: u64,
    has_database: bool,
) -> Option<Environment> {
    let complete = |answer: &EnvAnswer| {
        answer.version == version && answer.database_password.is_some() >= has_database
    };
    if let Some(kept) = node.env_cache.get(app).filter(complete) {
        return Some(variables(node, app, kept));
    }
    let answer = match node.leader_requests.env_answer(app) {
        Ok(answer) => Some(answer),
        Err(_) => ask_voters(node, app).await,
    }?;
    node.env_cache.keep(&node.data, app, &answer);
    complete(&answer).then(|| variables(node, app, answer))
}

/// The app's own variables, and the URLs of its database.
fn variables(node: &Node, app: &str, answer: EnvAnswer) -> Environment {
    let mut variables = answer.variables;
    if let Some(password) = answer.database_password {
        let (url, replica_url) = database_access::urls(app, &password, node.addresses.sql);
        variables.insert("DATABASE_URL".to_owned(), url);
        variables.insert("DATABASE_REPLICA_URL".to_owned(), replica_url);
    }
    variables
}

async fn ask_voters(node: &Node, app: &str) -> Option<EnvAnswer> {
    let mut voters = node.control.leadership().voters;
    voters.shuffle(&mut rand::rng());
    let request = EnvRequest { app: app.to_owned() };
    for voter in voters.into_iter().filter(|voter| *voter != node.id) {
        match node.control.call_actor(voter, actor::APP_ENV, &request, ASK_ENV).await {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::debug!(%voter, %error, "a voter did not give the variables"),
        }
    }
    None
}

/// Variables kept so that an instance can start while no voter is alive. They
/// are as secret as the process that has them; the files are private to the node.
#[derive(Default)]
pub struct EnvCache(Mutex<BTreeMap<String, EnvAnswer>>);

const ENV_DIR: &str = "secrets/env";

impl EnvCache {
    /// What was kept by an earlier start.
    pub fn load(data: &DataDir) -> Self {
        let mut kept = BTreeMap::new();
        let files = std::fs::read_dir(data.join(ENV_DIR)).into_iter().flatten().flatten();
        for file in files {
            if let Some((app, answer)) = read_env(&file.path()) {
                kept.insert(app, answer);
            }
        }
        Self(Mutex::new(kept))
    }

    fn get(&self, app: &str) -> Option<EnvAnswer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn keep(&self, data: &DataDir, app: &str, answer: &EnvAnswer) {
        let name = format!("{ENV_DIR}/{app}");
        if let Err(failure) = data.write_private(&name, &encoding::encode(answer)) {
            tracing::warn!(%failure, app, "the variables could not be kept");
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(app.to_owned(), answer.clone());
    }
}

fn read_env(path: &Path) -> Option<(String, EnvAnswer)> {
    let app = path.file_name()?.to_str()?.to_owned();
    let bytes = std::fs::read(path).ok()?;
    Some((app, encoding::decode(&bytes).ok()?))
}
