//! The leader's loop: looks, reconciles, proposes; moves voters.
//!
//! It runs on every node and does something only on the one whose replica leads.
//! Nothing here decides that it leads: a proposal of a leader that is none any
//! more is not committed, and that is the only thing that has an effect.

use std::collections::BTreeSet;
use std::time::Duration;

use rung_consensus::{ChangeError, Group};
use rung_control_plane::reconcile::{Action, reconcile};
use rung_control_plane::{Command, View};
use rung_membership::Membership;
use rung_proto::api::NodeState;
use rung_proto::{Code, NodeId};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::control::{Control, ProposeFailure};
use crate::observe;
use crate::protocol::ControlGroupRequest;
use crate::soft_state::SoftState;

/// How often to look even when nothing has changed: budgets run out with time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Changes come in bursts; one look serves them all.
const GATHER: Duration = Duration::from_millis(20);
const CATCH_UP: Duration = Duration::from_secs(20);
const CHANGE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Leader {
    pub node: NodeId,
    pub control: Control,
    pub membership: Membership,
    pub soft: SoftState,
}

impl Leader {
    /// Runs for as long as the node does.
    pub async fn run(self) {
        let mut state = self.control.watch_state();
        let mut members = self.membership.watch();
        let mut mine = self.soft.watch_mine();
        let mut others = self.soft.watch_others();
        let mut leadership = self.control.watch_leadership();
        let mut voter_change: Option<JoinHandle<()>> = None;
        loop {
            if let Some(group) = self.leading() {
                self.look(&group, &mut voter_change).await;
            }
            tokio::select! {
                _ = state.changed() => {}
                _ = members.changed() => {}
                _ = mine.changed() => {}
                _ = others.changed() => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep(GATHER).await;
            state.mark_unchanged();
            members.mark_unchanged();
            mine.mark_unchanged();
            others.mark_unchanged();
            leadership.mark_unchanged();
        }
    }

    fn leading(&self) -> Option<Group> {
        let group = self.control.group()?;
        let leads = group.status().borrow().is_leader();
        leads.then_some(group)
    }

    async fn look(&self, group: &Group, voter_change: &mut Option<JoinHandle<()>>) {
        let state = self.control.state();
        if state.nodes.is_empty() {
            return;
        }
        let membership = self.membership.view();
        let view = observe::view(&state, &membership, &self.soft, &self.control.leadership());
        // Whoever made it may have died before its log said so.
        let generation = self.control.generation();
        if generation > state.generation {
            let begin = Command::BeginGeneration { generation, node: self.node };
            return self.propose(begin, None).await;
        }
        let mut placements = Vec::new();
        let mut rest = Vec::new();
        for action in reconcile(self.node, &state, &view) {
            match action {
                Action::Propose(command @ Command::AdvanceOperation { .. }) => {
                    rest.push(Action::Propose(command))
                }
                Action::Propose(command) => placements.push(command),
                other => rest.push(other),
            }
        }
        placements.extend(self.liveness_notes(&view));
        self.propose_placements(placements, state.index).await;
        for action in rest {
            match action {
                Action::Propose(command) => self.propose(command, None).await,
                // One at a time, beside the rest: a new voter may take long.
                Action::ChangeVoters(_) | Action::TransferLeadership(_)
                    if voter_change.as_ref().is_some_and(|task| !task.is_finished()) => {}
                Action::ChangeVoters(voters) => {
                    let (leader, group) = (self.clone(), group.clone());
                    let task = async move { leader.change_voters(&group, &voters).await };
                    *voter_change = Some(tokio::spawn(task));
                }
                Action::TransferLeadership(to) => {
                    tracing::info!(%to, "handing the control group's leadership over");
                    if let Err(error) = group.transfer_leader(to, CHANGE).await {
                        tracing::warn!(%error, %to, "the leadership was not handed over");
                    }
                }
            }
        }
    }

    /// Placements of one look belong together: they were made from one state, so
    /// they are refused together when it has moved on.
    async fn propose_placements(&self, mut commands: Vec<Command>, index: u64) {
        match commands.len() {
            0 => {}
            1 => self.propose(commands.remove(0), Some(index)).await,
            _ => self.propose(Command::All(commands), Some(index)).await,
        }
    }

    async fn propose(&self, command: Command, if_index: Option<u64>) {
        match self.control.propose(command, "", if_index).await {
            Ok(_) => {}
            // Somebody was faster, or leads now: the next look sees to it.
            Err(ProposeFailure::NotLeader(_)) => {}
            Err(ProposeFailure::Refused(failure)) if failure.code == Code::IndexChanged => {}
            Err(ProposeFailure::Refused(failure)) => {
                tracing::warn!(%failure, "a change of the leader was not made");
            }
        }
    }

    /// Events for nodes whose liveness differs from what the last event about
    /// it said.
    fn liveness_notes(&self, view: &View) -> Vec<Command> {
        let state = self.control.state();
        let mut notes = Vec::new();
        for node in state.nodes.values() {
            let Some(liveness) = view.members.get(&node.id) else { continue };
            let kind = match liveness.state {
                NodeState::Alive => "node-up",
                NodeState::Suspect => continue,
                NodeState::Down => "node-down",
                NodeState::Left => "node-left",
            };
            let said = state.events.iter().rev().find(|event| {
                event.node.as_deref() == Some(node.name.as_str())
                    && matches!(
                        event.kind.as_str(),
                        "node-up" | "node-down" | "node-left" | "node-joined"
                    )
            });
            let said = said.map_or("node-joined", |event| event.kind.as_str());
            if said == kind || (said == "node-joined" && kind == "node-up") {
                continue;
            }
            let word = kind.trim_start_matches("node-");
            notes.push(Command::Note {
                kind: kind.to_owned(),
                message: format!("{} is {word}", node.name),
                node: Some(node.name.clone()),
                app: None,
            });
        }
        notes
    }

    /// One step of a change of voters: new ones join as learners and catch up,
    /// then the set changes, then the old ones are told.
    async fn change_voters(&self, group: &Group, voters: &BTreeSet<NodeId>) {
        let status = group.status().borrow().clone();
        let state = self.control.state();
        let names = |nodes: &BTreeSet<NodeId>| {
            nodes.iter().map(|node| state.node_name(*node)).collect::<Vec<_>>().join(" ")
        };
        tracing::info!(
            from = names(&status.voters),
            to = names(voters),
            "changing the control voters"
        );
        for node in voters.iter().filter(|node| !status.voters.contains(node)) {
            if let Err(why) = self.bring_in(group, *node, status.learners.contains(node)).await {
                tracing::warn!(
                    node = state.node_name(*node),
                    why,
                    "a new control voter is not ready"
                );
                return;
            }
        }
        match group.change_voters(voters, CHANGE).await {
            Ok(()) => {}
            Err(error @ (ChangeError::NotLeader { .. } | ChangeError::InProgress(_))) => {
                tracing::debug!(%error, "the control voters were not changed");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the control voters were not changed");
                return;
            }
        }
        for node in status.voters.iter().filter(|node| !voters.contains(node)) {
            let told = self.control.tell_member(*node, &ControlGroupRequest::Leave);
            if let Err(error) = told.await {
                // It finds out by itself when it is back; see `control_member`.
                tracing::debug!(%node, %error, "a former voter was not told");
            }
        }
    }

    async fn bring_in(&self, group: &Group, node: NodeId, learns: bool) -> Result<(), String> {
        let key = self.control.cluster_key().ok_or("this voter has no cluster key")?;
        let open = ControlGroupRequest::Open { cluster_key: key.as_bytes().to_vec() };
        self.control.tell_member(node, &open).await.map_err(|error| error.to_string())?;
        if !learns {
            let added = timeout(CHANGE, group.add_learner(node, CHANGE)).await;
            match added {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("adding it took too long".to_owned()),
            }
        }
        group.wait_until_caught_up(node, CATCH_UP).await.map_err(|error| error.to_string())
    }
}
