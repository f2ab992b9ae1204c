//! A world in memory for tests: nodes that run instances slowly, die, pause and
//! return, and a leader that looks at them through what it last heard.
//!
//! Every committed proposal is checked: a refusal changes nothing, what follows
//! by deltas stays equal, no two operations have one subject, what is finished
//! stays as it is.
//!
//! `RUNG_SEEDS=600` tries more seeds, `RUNG_TRACE=1` prints every entry of the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rung_proto::api::{Change, NodeState, StepState};
use rung_proto::soft::{InstanceState, InstanceStatus, NodeSoftState};
use rung_proto::{Failure, InstanceId, NodeId, OperationId, Role};

use crate::command::{Answer, Command, Outcome, Proposal};
use crate::operation::OperationRecord;
use crate::plan::Prepared;
use crate::reconcile::{Action, reconcile};
use crate::samples::{Random, create_cluster, node, proposal, view};
use crate::state::{Delta, State};
use crate::view::{Liveness, View};
use crate::{Machine, plan};

mod faults;
mod operations;

const TICK_MS: u64 = 100;

/// A node as it really is.
#[derive(Clone)]
struct Node {
    alive: bool,
    paused: bool,
    /// When it stopped answering.
    silent_since: Option<u64>,
    /// The state as it followed it, and the deltas that it has not seen.
    follows: State,
    behind: VecDeque<Delta>,
    processes: BTreeMap<InstanceId, Process>,
    broken: BTreeSet<Role>,
}

#[derive(Clone)]
struct Process {
    status: InstanceStatus,
    /// When the next thing happens to it.
    next_ms: u64,
    bad: bool,
}

/// What the leader's node last heard.
#[derive(Clone, Default)]
struct Heard {
    soft: BTreeMap<NodeId, NodeSoftState>,
    members: BTreeMap<NodeId, Liveness>,
}

#[derive(Clone)]
struct World {
    machine: Machine,
    now: u64,
    random: Random,
    nodes: BTreeMap<NodeId, Node>,
    voters: BTreeSet<NodeId>,
    leader: Option<NodeId>,
    heard: Heard,
    /// When a change of voters that is under way takes effect.
    voter_change: Option<(u64, BTreeSet<NodeId>)>,
    next_election_ms: u64,
    /// Digests of releases whose processes crash.
    bad: BTreeSet<rung_proto::Digest>,
    /// Who follows the log by deltas only.
    shadow: State,
    /// How often each step was finished: operation, whether undoing, step.
    steps: BTreeMap<(OperationId, bool, usize), u32>,
    /// Healthy instances that an app must have at every moment.
    floors: BTreeMap<String, usize>,
    /// The runner dies after this many more proposals were committed.
    runner_dies_after: Option<usize>,
    runner_died: bool,
    committed: usize,
    /// Another node that also believes it leads and proposes the same.
    two_leaders: bool,
}

impl World {
    /// `dcs[i]` is the data center of node i + 1; each joins when the cluster
    /// has come to rest.
    fn launch(seed: u64, dcs: &[&str]) -> Self {
        let mut world = Self {
            machine: Machine::default(),
            now: 1_000_000,
            random: Random(seed),
            nodes: BTreeMap::new(),
            voters: BTreeSet::from([NodeId(1)]),
            leader: Some(NodeId(1)),
            heard: Heard::default(),
            voter_change: None,
            next_election_ms: 0,
            bad: BTreeSet::new(),
            shadow: State::default(),
            steps: BTreeMap::new(),
            floors: BTreeMap::new(),
            runner_dies_after: None,
            runner_died: false,
            committed: 0,
            two_leaders: false,
        };
        for (number, dc) in (1..).zip(dcs) {
            world.join(number, dc);
            world.settle();
        }
        world
    }

    /// The launch's five nodes, alternating between two data centers.
    fn five(seed: u64) -> Self {
        Self::launch(seed, &["east", "west", "east", "west", "east"])
    }

    fn join(&mut self, number: u64, dc: &str) {
        let record = node(number, dc);
        let token = [9; 32];
        let outcome = if number == 1 {
            self.commit(create_cluster(record), None).expect("the cluster is created");
            self.commit(Command::CreateToken { hash: token, expires_ms: u64::MAX, uses: 99 }, None)
        } else {
            let key = [number as u8; 32];
            self.commit(Command::AdmitNode { token, key, node: Box::new(record) }, None)
        };
        outcome.expect("the node joins");
        let node = Node {
            alive: true,
            paused: false,
            silent_since: None,
            follows: self.machine.state.clone(),
            behind: VecDeque::new(),
            processes: BTreeMap::new(),
            broken: BTreeSet::new(),
        };
        self.nodes.insert(NodeId(number), node);
    }

    fn state(&self) -> &State {
        &self.machine.state
    }

    // The log.

    fn commit(&mut self, command: Command, if_index: Option<u64>) -> Outcome {
        let index = self.machine.state.index + 1;
        let entry = Proposal { if_index, ..proposal(self.now, command) };
        if std::env::var_os("RUNG_TRACE").is_some() {
            eprintln!("{} {:?}", self.now, entry.command);
        }
        let before = self.machine.clone();
        let (outcome, delta) = self.machine.apply(index, &entry);
        if outcome.is_err() {
            let mut unchanged = before.clone();
            unchanged.state.index = index;
            assert_eq!(unchanged, self.machine, "a refusal changed something: {entry:?}");
        } else {
            self.count_steps(&entry.command, &before.state);
        }
        self.check_operations(&before.state);
        self.shadow.follow(delta.clone()).expect("the delta is newer");
        if index.is_multiple_of(32) {
            assert_eq!(self.shadow, self.machine.state, "following by deltas differs");
        }
        for node in self.nodes.values_mut() {
            node.behind.push_back(delta.clone());
        }
        self.committed += 1;
        outcome
    }

    fn count_steps(&mut self, command: &Command, before: &State) {
        let Command::AdvanceOperation { id, update } = command else { return };
        let ends = matches!(update.to, StepState::Done | StepState::Failed);
        if ends && before.operations.contains_key(id) {
            *self.steps.entry((*id, update.undoing, update.step)).or_default() += 1;
        }
    }

    fn check_operations(&self, before: &State) {
        let after = &self.machine.state;
        for (id, old) in before.operations.iter().filter(|(_, old)| old.state.is_finished()) {
            let new = after.operations.get(id);
            assert!(new.is_none_or(|new| new == old), "a finished operation changed");
        }
        let mut subjects = BTreeSet::new();
        for running in after.operations.values().filter(|o| !o.state.is_finished()) {
            for subject in &running.subjects {
                assert!(subjects.insert(subject), "two operations change {subject}");
            }
        }
    }

    // What nodes do.

    fn answers(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive && !node.paused)
    }

    fn die(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.alive = false;
            node.processes.clear();
            node.silent_since.get_or_insert(self.now);
        }
    }

    fn pause(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.paused = true;
            node.silent_since.get_or_insert(self.now);
        }
    }

    fn return_to_life(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            (node.alive, node.paused, node.silent_since) = (true, false, None);
        }
    }

    fn run_nodes(&mut self) {
        let now = self.now;
        for (id, node) in &mut self.nodes {
            if !node.alive {
                continue;
            }
            if !node.paused && self.random.chance(70) {
                for delta in node.behind.drain(..) {
                    node.follows.follow(delta).expect("deltas come in order");
                }
            }
            node.processes.values_mut().for_each(|process| process.step(now, &mut self.random));
            if !node.paused {
                node.reconcile(*id, now, &mut self.random, &self.bad);
            }
        }
    }

    fn hear(&mut self, percent: u64) {
        for (id, node) in &self.nodes {
            // Down after two seconds of silence, as membership would say.
            let state = match node.silent_since {
                None => Liveness { state: NodeState::Alive, since_ms: 0 },
                Some(since) if self.now - since < 2_000 => {
                    Liveness { state: NodeState::Suspect, since_ms: since }
                }
                Some(since) => Liveness { state: NodeState::Down, since_ms: since + 2_000 },
            };
            self.heard.members.insert(*id, state);
            if node.silent_since.is_none() && self.random.chance(percent) {
                self.heard.soft.insert(*id, node.says(*id));
            }
        }
        let removed: Vec<NodeId> = self.state().removed.keys().copied().collect();
        for id in removed {
            self.heard.members.remove(&id);
        }
    }

    fn view(&self) -> View {
        View {
            now_ms: self.now,
            members: self.heard.members.clone(),
            soft: self.heard.soft.clone(),
            voters: self.voters.clone(),
            leader: self.leader,
        }
    }

    // What leads.

    fn has_quorum(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.iter().filter(|voter| self.answers(**voter)).count() * 2 > voters.len()
    }

    fn elect(&mut self) {
        let fine = |leader: &NodeId| self.voters.contains(leader) && self.answers(*leader);
        if self.leader.as_ref().is_some_and(fine) && self.has_quorum(&self.voters) {
            self.next_election_ms = self.now + 500;
            return;
        }
        self.leader = None;
        if self.now < self.next_election_ms || !self.has_quorum(&self.voters) {
            return;
        }
        let able: Vec<NodeId> =
            self.voters.iter().copied().filter(|voter| self.answers(*voter)).collect();
        self.leader = Some(self.random.pick(&able));
    }

    fn lead(&mut self) {
        let Some(leader) = self.leader else { return };
        let state = self.machine.state.clone();
        let actions = reconcile(leader, &state, &self.view());
        self.check_placements(&actions);
        self.carry_out(actions.clone(), state.index);
        if self.two_leaders {
            self.carry_out(actions, state.index);
        }
    }

    /// As the node's leader loop does: placements together and only upon the
    /// state that they were made from, the rest one by one.
    fn carry_out(&mut self, actions: Vec<Action>, index: u64) {
        let (mut placements, mut steps) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Propose(step @ Command::AdvanceOperation { .. }) => steps.push(step),
                Action::Propose(command) => placements.push(command),
                Action::ChangeVoters(voters) => self.begin_voter_change(voters),
                Action::TransferLeadership(to) => {
                    assert!(self.voters.contains(&to), "only a voter leads");
                    if self.answers(to) {
                        self.leader = Some(to);
                    }
                }
            }
        }
        if !placements.is_empty() && !self.runner_died {
            let _ = self.commit(Command::All(placements), Some(index));
            self.count_down();
        }
        for step in steps {
            if self.runner_died {
                break;
            }
            let _ = self.commit(step, None);
            self.count_down();
        }
        if std::mem::take(&mut self.runner_died) {
            let others: Vec<NodeId> = self.voters.iter().copied().collect();
            self.leader = Some(self.random.pick(&others));
            self.hear(100);
        }
    }

    fn count_down(&mut self) {
        if let Some(left) = &mut self.runner_dies_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.runner_dies_after = None;
                self.runner_died = true;
            }
        }
    }

    fn check_placements(&self, actions: &[Action]) {
        let view = self.view();
        for action in actions {
            let Action::Propose(Command::PlaceInstance { node, .. }) = action else { continue };
            let record = &self.state().nodes[node];
            assert!(!record.cordoned, "an instance was placed on a cordoned node");
            assert!(!record.draining, "an instance was placed on a draining node");
            assert!(view.is_up(*node), "an instance was placed on a node that is down");
        }
    }

    fn begin_voter_change(&mut self, voters: BTreeSet<NodeId>) {
        if self.voter_change.is_some() {
            return;
        }
        assert!(!voters.is_empty());
        let view = self.view();
        let possible = crate::placement::candidates(Role::Control, self.state(), &view);
        let may_vote = |node: &&crate::state::NodeRecord| {
            let votes = self.voters.contains(&node.id);
            !node.draining
                && node.pins.get(&Role::Control) != Some(&crate::state::Pin::Exclude)
                && (votes || possible.iter().any(|other| other.id == node.id))
        };
        let eligible = self.state().nodes.values().filter(may_vote).count();
        let want = match eligible.min(self.state().role(Role::Control).want as usize) {
            4 => 3,
            other => other,
        };
        let least = want.min(self.voters.len());
        assert!(voters.len() >= least, "{:?} shrank to {voters:?}", self.voters);
        self.voter_change = Some((self.now + 300, voters));
    }

    fn change_voters(&mut self) {
        let Some((at, voters)) = self.voter_change.clone() else { return };
        if self.now < at {
            return;
        }
        self.voter_change = None;
        let ready = voters.difference(&self.voters).all(|new| self.answers(*new));
        if ready && self.has_quorum(&self.voters) && self.has_quorum(&voters) {
            self.voters = voters;
        }
    }

    fn tick(&mut self) {
        self.now += TICK_MS;
        self.run_nodes();
        self.hear(70);
        self.elect();
        self.change_voters();
        self.lead();
        self.check_floors();
    }

    fn check_floors(&self) {
        for (app, floor) in &self.floors {
            let healthy = self.serving(app);
            assert!(healthy >= *floor, "{app} has {healthy} of {floor} at {}", self.now);
        }
    }

    /// Instances that really take requests and were not told to stop.
    fn serving(&self, app: &str) -> usize {
        self.state().instances_of(app).filter(|i| !i.drain && self.is_serving(i.id)).count()
    }

    fn is_serving(&self, id: InstanceId) -> bool {
        let healthy = |node: &Node| {
            node.processes.get(&id).is_some_and(|p| p.status.state == InstanceState::Healthy)
        };
        self.nodes.values().any(|node| node.alive && !node.paused && healthy(node))
    }

    fn is_quiet(&self) -> bool {
        let state = self.state();
        let Some(leader) = self.leader else { return false };
        let seen = |(id, node): (&NodeId, &Node)| {
            // Its silence was noticed and the time of grace is over, too.
            node.silent_since.is_some_and(|since| self.now > since + 6_000)
                || (self.answers(*id) && node.behind.is_empty() && node.reflects())
        };
        self.voter_change.is_none()
            && state.operations.values().all(|operation| operation.state.is_finished())
            && self.nodes.iter().all(seen)
            && reconcile(leader, state, &self.view()).is_empty()
    }

    /// Runs until nothing changes any more.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..12_000 {
            self.tick();
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet == 20 {
                assert_eq!(self.shadow, self.machine.state);
                return;
            }
        }
        let leader = self.leader;
        let next = leader.map(|leader| reconcile(leader, self.state(), &self.view()));
        panic!("the world does not come to rest; leader {leader:?}, next {next:?}");
    }

    // What people do.

    fn plan(&self, change: &Change, prepared: Prepared) -> Result<plan::Planned, Failure> {
        plan(change, prepared, self.state(), &self.view())
    }

    /// Starts an operation; nothing when there is nothing to do.
    fn begin(&mut self, change: &Change, prepared: Prepared) -> Result<OperationId, Failure> {
        let planned = self.plan(change, prepared)?;
        let new = planned.unwrap_or_else(|| panic!("{change:?} does nothing"));
        match self.commit(Command::StartOperation(Box::new(new)), None)? {
            Answer::Operation(id) => Ok(id),
            other => panic!("an operation was started and gave {other:?}"),
        }
    }

    fn operation(&self, id: OperationId) -> &OperationRecord {
        &self.state().operations[&id]
    }

    fn owners(&self, role: Role) -> Vec<u64> {
        match role {
            Role::Control => self.voters.iter().map(|node| node.0).collect(),
            _ => self.state().role(role).owners.keys().map(|node| node.0).collect(),
        }
    }

    fn hosts(&self, app: &str) -> Vec<u64> {
        let mut hosts: Vec<u64> = self.state().instances_of(app).map(|i| i.node.0).collect();
        hosts.sort_unstable();
        hosts
    }
}

impl Process {
    fn step(&mut self, now: u64, random: &mut Random) {
        if now < self.next_ms {
            return;
        }
        match self.status.state {
            InstanceState::Starting if self.bad => {
                self.status.restarts += 1;
                self.next_ms = now + random.between(300, 1500);
                if self.status.restarts >= 5 {
                    self.status.state = InstanceState::Failed;
                    self.status.problem = Some("it crashed".to_owned());
                }
            }
            InstanceState::Starting => self.status.state = InstanceState::Healthy,
            InstanceState::Draining => self.status.state = InstanceState::Stopped,
            InstanceState::Healthy | InstanceState::Failed | InstanceState::Stopped => {}
        }
    }
}

impl Node {
    fn says(&self, id: NodeId) -> NodeSoftState {
        let state = &self.follows;
        let mut soft = view(state).soft.remove(&id).unwrap_or_else(|| NodeSoftState {
            node: id,
            ..view(&crate::samples::cluster(&["east"]).state).soft[&NodeId(1)].clone()
        });
        soft.applied_index = state.index;
        soft.instances = self.processes.values().map(|process| process.status.clone()).collect();
        soft.broken_roles = self.broken.iter().map(|role| (*role, "broken".to_owned())).collect();
        soft
    }

    /// Whether its processes are as the state wants them.
    fn reflects(&self) -> bool {
        self.processes.values().all(|process| {
            matches!(process.status.state, InstanceState::Healthy | InstanceState::Failed)
        })
    }

    fn reconcile(
        &mut self,
        me: NodeId,
        now: u64,
        random: &mut Random,
        bad: &BTreeSet<rung_proto::Digest>,
    ) {
        let state = &self.follows;
        let mine = |id: &InstanceId| state.instances.get(id).is_some_and(|i| i.node == me);
        self.processes.retain(|id, _| mine(id));
        for record in state.instances.values().filter(|record| record.node == me) {
            let Some(release) =
                state.apps.get(&record.app).and_then(|app| app.releases.get(&record.release))
            else {
                panic!("a release was forgotten that an instance still has: {record:?}");
            };
            match self.processes.get_mut(&record.id) {
                None if record.drain => {}
                None => {
                    let status = InstanceStatus {
                        id: record.id,
                        app: record.app.clone(),
                        release: record.release,
                        state: InstanceState::Starting,
                        pid: None,
                        port: None,
                        restarts: 0,
                        since_ms: now,
                        problem: None,
                    };
                    let next_ms = now + random.between(200, 2_000);
                    let bad = bad.contains(&release.digest);
                    self.processes.insert(record.id, Process { status, next_ms, bad });
                }
                Some(process) if record.drain => match process.status.state {
                    InstanceState::Healthy => {
                        process.status.state = InstanceState::Draining;
                        process.next_ms = now + random.between(100, 3_000);
                    }
                    InstanceState::Starting | InstanceState::Failed => {
                        process.status.state = InstanceState::Stopped;
                    }
                    InstanceState::Draining | InstanceState::Stopped => {}
                },
                Some(_) => {}
            }
        }
    }
}

/// How many seeds to try: `RUNG_SEEDS`, or a few.
fn seeds(default: u64) -> u64 {
    std::env::var("RUNG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
