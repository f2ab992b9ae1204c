//! The actors of a node: which run, and which start and stop with its roles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rung_consensus::{GroupRole, GroupStatus};
use rung_proto::{Failure, NodeId, Role, encoding};
use rung_runtime::{AddError, ChildSpec, Shutdown, SupervisorEvent, TaskResult};
use tokio::time::timeout;

use crate::follow;
use crate::leader::Leader;
use crate::node::{CONTACTS_FILE, Node, NodeCell, found, stored_contacts};
use crate::protocol::{Contact, LeaderRequest};
use crate::{
    certificates, control_recovery, database_archive, database_scrub, databases, request_actors,
    sql_role, web_role,
};

/// How long a role may take to stop in order.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the machine is measured.
const MEASURE: Duration = Duration::from_secs(5);
/// What changes is written to disk this much later, all at once.
const GATHER: Duration = Duration::from_millis(500);
/// How often a replica asks whether it still is one.
const ASK_MEMBERS: Duration = Duration::from_secs(3);
/// How soon the leader is told again of a start that it does not know yet.
const ANNOUNCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What happens to actors: a role that is given up is placed elsewhere.
pub fn on_supervisor_event(cell: NodeCell) -> impl Fn(SupervisorEvent) + Send + Sync + 'static {
    move |event| match event {
        // The supervisor has logged it.
        SupervisorEvent::Restarting { .. } => {}
        SupervisorEvent::Finished { name, .. } => tracing::debug!(name, "an actor finished"),
        SupervisorEvent::GaveUp { name, role, reason } => {
            tracing::error!(name, role = role.map(Role::name), reason, "an actor was given up");
            let node = found(&cell);
            match (role, node) {
                (None | Some(Role::Control), Some(_)) => {
                    // Without it the node is there and does not do its part,
                    // which nobody would notice: a leader would go on to lead
                    // without taking requests. A start may mend it.
                    tracing::error!("the node cannot do without it; the process ends");
                    std::process::exit(1);
                }
                (Some(role), Some(node)) => node.report_broken(role, reason),
                (_, None) => {}
            }
        }
    }
}

/// Adds the actors that every node has.
///
/// # Errors
/// When the supervisor has ended, or two actors have one name.
pub async fn start(node: &Arc<Node>) -> Result<(), AddError> {
    let supervisor = &node.supervisor;
    request_actors::start(node).await?;
    let leader = Leader {
        node: node.id,
        control: node.control.clone(),
        membership: node.membership.clone(),
        soft: node.soft.clone(),
    };
    supervisor
        .add(ChildSpec::task("leader", move |mut shutdown| {
            let leader = leader.clone();
            async move {
                tokio::select! {
                    () = leader.run() => Ok(()),
                    () = shutdown.requested() => Ok(()),
                }
            }
        }))
        .await?;
    add(node, "follow", |node, _| follow_control(node)).await?;
    add(node, "replica", |node, _| watch_replica(node)).await?;
    add(node, "generations", |node, _| control_recovery::follow_generations(node)).await?;
    add(node, "peers", |node, _| follow_members(node)).await?;
    add(node, "remember", |node, _| remember(node)).await?;
    add(node, "host", |node, _| measure(node)).await?;
    add(node, "announce", |node, _| announce(node)).await?;
    add(node, "certificate", |node, _| certificates::run(node)).await?;
    add(node, "releases", |node, _| async move {
        let control = node.control.clone();
        node.bundles.clone().keep_releases(control).await;
        Ok(())
    })
    .await?;
    let here = Arc::clone(node);
    let web = ChildSpec::task("web", move |shutdown| {
        until_shutdown(web_role::run(Arc::clone(&here)), shutdown)
    });
    supervisor.add(web.role(Role::Web)).await?;
    add(node, "web-status", |node, _| web_role::publish(node)).await?;
    add(node, "databases", |node, _| databases::run(node)).await?;
    add(node, "archives", |node, _| database_archive::run(node)).await?;
    add(node, "scrubs", |node, _| database_scrub::run(node)).await?;
    add(node, "primaries", |node, _| databases::watch_primaries(node)).await?;
    let here = Arc::clone(node);
    let sql = ChildSpec::task("sql", move |shutdown| sql_role::run(Arc::clone(&here), shutdown));
    supervisor.add(sql.role(Role::Db)).await?;
    add(node, "roles", run_roles).await
}

async fn add<F>(
    node: &Arc<Node>,
    name: &str,
    task: impl Fn(Arc<Node>, Shutdown) -> F + Send + Sync + 'static,
) -> Result<(), AddError>
where
    F: Future<Output = TaskResult> + Send + 'static,
{
    let here = Arc::clone(node);
    let spec = ChildSpec::task(name, move |shutdown: Shutdown| {
        until_shutdown(task(Arc::clone(&here), shutdown.clone()), shutdown)
    });
    node.supervisor.add(spec).await
}

/// Ends a task that has nothing to put in order as soon as it shall end.
async fn until_shutdown(
    task: impl Future<Output = TaskResult>,
    mut shutdown: Shutdown,
) -> TaskResult {
    tokio::select! {
        result = task => result,
        () = shutdown.requested() => Ok(()),
    }
}

/// Starts and stops the balancer and the name server as the state says.
async fn run_roles(node: Arc<Node>, mut shutdown: Shutdown) -> TaskResult {
    let mut state = node.control.watch_state();
    let mut running: BTreeMap<Role, ()> = BTreeMap::new();
    // A former life of this task may have left them running.
    for role in [Role::Lb, Role::Dns] {
        node.supervisor.remove(role.name(), PATIENCE).await?;
    }
    loop {
        let now = state.borrow_and_update().clone();
        for role in [Role::Lb, Role::Dns] {
            let owns = now.owns(node.id, role);
            if owns && !running.contains_key(&role) {
                tracing::info!(role = role.name(), "this node takes the role on");
                node.supervisor.add(role_child(&node, role)).await?;
                running.insert(role, ());
            } else if !owns && running.remove(&role).is_some() {
                tracing::info!(role = role.name(), "this node gives the role up");
                node.supervisor.remove(role.name(), PATIENCE).await?;
                node.report_mended(role);
            }
        }
        tokio::select! {
            changed = state.changed() => changed?,
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn role_child(node: &Arc<Node>, role: Role) -> ChildSpec {
    let here = Arc::clone(node);
    let spec = match role {
        Role::Dns => ChildSpec::task(role.name(), move |shutdown| {
            here.dns.clone().run(Arc::clone(&here), shutdown)
        }),
        Role::Control | Role::Lb | Role::Web | Role::Db => {
            ChildSpec::task(role.name(), move |shutdown| {
                here.lb.clone().run(Arc::clone(&here), shutdown)
            })
        }
    };
    spec.role(role)
}

async fn follow_control(node: Arc<Node>) -> TaskResult {
    let membership = node.membership.clone();
    let known = move || membership.view().active().map(|member| member.node).collect();
    follow::run(node.control.clone(), node.mesh.clone(), node.id, known).await;
    Ok(())
}

/// Gives up a replica that the group does not know any more: this node was
/// replaced while it was down, or the leader that opened it died before it was
/// added, or its farewell was lost. Its own log cannot tell, so it asks.
async fn watch_replica(node: Arc<Node>) -> TaskResult {
    // Where the replica was when it was first said to be none any more.
    let mut doubted: Option<GroupStatus> = None;
    loop {
        tokio::time::sleep(ASK_MEMBERS).await;
        let Some(group) = node.control.group() else {
            doubted = None;
            continue;
        };
        let status = group.status().borrow().clone();
        if let GroupRole::Stopped(why) = status.role {
            // It neither votes nor follows any more; a start finds out what is
            // on the disk.
            tracing::error!(why, "the control group has stopped on this node; the process ends");
            std::process::exit(1);
        }
        if status.is_leader() || node.is_member().await != Some(false) {
            doubted = None;
            continue;
        }
        // Said twice, with nothing received between: it is not being added now,
        // so nobody counts on what it has.
        let unchanged = doubted
            .as_ref()
            .is_some_and(|before| (before.term, before.last) == (status.term, status.last));
        if !unchanged {
            doubted = Some(status);
            continue;
        }
        tracing::info!("the control group goes on without this node; it follows again");
        node.control.leave_group().await?;
        node.report_mended(Role::Control);
        doubted = None;
    }
}

async fn follow_members(node: Arc<Node>) -> TaskResult {
    let mut members = node.membership.watch();
    let mut state = node.control.watch_state();
    let mut closed = BTreeSet::new();
    loop {
        let view = members.borrow_and_update().clone();
        if let Some(other) = view.superseded_by {
            // Two processes with one identity would both be believed.
            tracing::error!(%other, "a later start of this node runs elsewhere; this one ends");
            std::process::exit(1);
        }
        node.soft.follow_membership(&view);
        let removed = state.borrow_and_update().removed.clone();
        if removed.contains_key(&node.id) {
            tracing::error!("this node was removed from the cluster; the process ends");
            std::process::exit(1);
        }
        for gone in removed.into_keys().filter(|gone| closed.insert(*gone)) {
            node.membership.remove(gone);
            node.mesh.remove_peer(gone);
        }
        tokio::select! {
            changed = members.changed() => changed?,
            changed = state.changed() => changed?,
        }
    }
}

/// Writes down what a start without any voter or peer alive needs.
async fn remember(node: Arc<Node>) -> TaskResult {
    let mut state = node.control.watch_state();
    let mut members = node.membership.watch();
    // A start that ends before anybody was heard of must not forget whom to ask.
    let mut contacts: BTreeMap<NodeId, Contact> =
        stored_contacts(&node.data).into_iter().map(|contact| (contact.node, contact)).collect();
    loop {
        let now = state.borrow_and_update().clone();
        for member in members.borrow_and_update().members.values() {
            let contact = Contact {
                node: member.node,
                mesh: member.address,
                incarnation: member.incarnation,
            };
            contacts.insert(member.node, contact);
        }
        // Before the state is known, nobody can be said not to belong to it.
        if now.index > 0 {
            contacts.retain(|id, _| now.nodes.contains_key(id));
        }
        let known: Vec<Contact> = contacts.values().cloned().collect();
        let here = Arc::clone(&node);
        let written = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            here.data.write_private(follow::STATE_FILE, &encoding::encode(&*now))?;
            here.data.write_private(CONTACTS_FILE, &encoding::encode(&known))
        });
        if let Err(failure) = written.await? {
            tracing::warn!(%failure, "the last known state could not be kept");
        }
        tokio::select! {
            changed = state.changed() => changed?,
            changed = members.changed() => changed?,
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn measure(node: Arc<Node>) -> TaskResult {
    let mut sampler = rung_admin::host::Sampler::new(node.data.path());
    loop {
        let host = sampler.sample();
        let actors = node.actors.status();
        node.soft.update(|mine| {
            match host {
                Ok(host) => mine.host = host,
                Err(error) => tracing::debug!(%error, "the machine could not be measured"),
            }
            mine.actors = actors;
        });
        tokio::time::sleep(MEASURE).await;
    }
}

/// Tells the leader where this start of the node is, until it knows.
async fn announce(node: Arc<Node>) -> TaskResult {
    let request = LeaderRequest::Started {
        node: node.id,
        incarnation: node.incarnation,
        mesh: node.addresses.mesh,
        admin: node.addresses.admin,
        public: node.addresses.public,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut state = node.control.watch_state();
    let mut pause = ANNOUNCE.0;
    loop {
        let known = state
            .borrow_and_update()
            .nodes
            .get(&node.id)
            .is_some_and(|record| record.incarnation >= node.incarnation);
        if known {
            state.changed().await?;
            continue;
        }
        if let Err(failure) = node.ask_leader(&request).await {
            tracing::debug!(%failure, "the leader does not know of this start yet");
        }
        // A node that follows late must not fill the log by repeating itself.
        let known = state.wait_for(|state| {
            let record = state.nodes.get(&node.id);
            record.is_some_and(|record| record.incarnation >= node.incarnation)
        });
        let _ = timeout(pause, known).await;
        pause = (pause * 2).min(ANNOUNCE.1);
    }
}
