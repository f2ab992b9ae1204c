//! What each command does to the state: the one place where it changes.
//!
//! [`Machine::apply`] is deterministic. It checks a command wholly before it
//! changes anything, so a refusal changes nothing.

use rung_proto::api::{AuditEntry, Event};
use rung_proto::{Code, Failure};
use serde::{Deserialize, Serialize};

use crate::command::{Answer, Command, DatabaseCommand, Outcome, Proposal};
use crate::secrets::Secrets;
use crate::state::{Delta, State, Update};

mod apps;
mod databases;
mod nodes;
mod operations;
mod recovery;

/// Commands within commands that are followed.
const MAX_DEPTH: usize = 4;

/// The whole replicated control state.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub state: State,
    pub secrets: Secrets,
}

/// One entry being applied to copies, which replace the originals if it succeeds.
struct Attempt<'a> {
    machine: &'a mut Machine,
    index: u64,
    proposal: &'a Proposal,
    updates: Vec<Update>,
}

impl Machine {
    /// Applies a committed entry. Returns what to tell the proposer, and what
    /// changed for those who follow.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> (Outcome, Delta) {
        // Commands fail half way only rarely, and the state is small, so a copy
        // is the simplest undo that cannot be wrong.
        let previous = self.state.index;
        let before = self.clone();
        let mut attempt = Attempt { machine: self, index, proposal, updates: Vec::new() };
        let outcome = attempt.run();
        let updates = match outcome {
            Ok(_) => attempt.updates,
            Err(_) => {
                *self = before;
                Vec::new()
            }
        };
        self.state.index = index;
        (outcome, Delta { previous, index, updates })
    }
}

fn refuse<T>(code: Code, what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(code, what))
}

impl Attempt<'_> {
    fn put(&mut self, update: Update) {
        self.machine.state.put(update.clone());
        self.updates.push(update);
    }

    fn next_id(&mut self) -> u64 {
        let id = self.machine.state.next_id;
        self.put(Update::NextId(id + 1));
        id
    }

    fn run(&mut self) -> Outcome {
        let current = self.machine.state.index;
        if let Some(expected) = self.proposal.if_index
            && expected != current
        {
            return Err(Failure::new(Code::IndexChanged, "the state has changed meanwhile")
                .because(format!("it is at index {current}, not {expected}"))
                .next("look at it again and repeat with the new index"));
        }
        let answer = self.command(&self.proposal.command.clone(), 0)?;
        if !self.proposal.by.is_empty() {
            let entry = AuditEntry {
                index: self.index,
                at_ms: self.proposal.at_ms,
                by: self.proposal.by.clone(),
                action: describe(&self.proposal.command),
            };
            self.put(Update::Audit(entry));
        }
        Ok(answer)
    }

    fn command(&mut self, command: &Command, depth: usize) -> Outcome {
        if depth > MAX_DEPTH {
            return refuse(Code::Usage, "a command holds commands too deeply");
        }
        match command {
            Command::CreateCluster { cluster, first, key, ca_key } => {
                if !self.machine.state.nodes.is_empty() {
                    return refuse(Code::AlreadyExists, "the cluster exists");
                }
                self.put(Update::Cluster(cluster.clone()));
                self.machine.secrets.ca_key = Some(ca_key.clone());
                self.admit(first, *key)?;
            }
            Command::AdmitNode { token, key, node } => {
                return self.admit_by_token(*token, *key, node);
            }
            Command::UpdateNode { node, incarnation, mesh, admin, public, version } => {
                let mut record = self.node(*node)?;
                if *incarnation < record.incarnation {
                    return refuse(Code::Precondition, "a later start of this node was seen");
                }
                record.incarnation = *incarnation;
                (record.mesh, record.admin, record.public) = (*mesh, *admin, *public);
                record.version.clone_from(version);
                self.put_node(record);
            }
            Command::SetPin { node, role, pin } => {
                let mut record = self.node(*node)?;
                match pin {
                    Some(pin) => record.pins.insert(*role, *pin),
                    None => record.pins.remove(role),
                };
                self.put_node(record);
            }
            Command::SetCordoned { node, on } => {
                let mut record = self.node(*node)?;
                record.cordoned = *on;
                self.put_node(record);
            }
            Command::SetDraining { node, on } => {
                let mut record = self.node(*node)?;
                record.draining = *on;
                self.put_node(record);
            }
            Command::RemoveNode { node } => self.remove_node(*node)?,
            Command::SetRoleWant { role, want } => {
                let mut record = self.machine.state.role(*role);
                record.want = *want;
                self.put(Update::Role(*role, record));
            }
            Command::AssignRole { role, node } => self.assign(*role, *node)?,
            Command::ReleaseRole { role, node } => {
                let mut record = self.machine.state.role(*role);
                if record.owners.remove(node).is_some() {
                    self.put(Update::Role(*role, record));
                }
            }
            Command::CreateToken { hash, expires_ms, uses } => {
                self.create_token(*hash, *expires_ms, *uses)?;
            }
            Command::RevokeToken { id } => self.revoke_token(id)?,
            Command::PutRelease { .. }
            | Command::SetTarget { .. }
            | Command::SetCurrent { .. }
            | Command::DropRelease { .. }
            | Command::SetWebWant { .. }
            | Command::SetEnv { .. }
            | Command::StartRemoval { .. }
            | Command::RemoveApp { .. } => self.app_command(command)?,
            Command::Database { database, change } => self.database(database, change)?,
            Command::PlaceInstance { app, release, env_version, node } => {
                self.place(app, *release, *env_version, *node)?;
            }
            Command::DrainInstance { id } => {
                let Some(mut record) = self.machine.state.instances.get(id).cloned() else {
                    return Ok(Answer::Done);
                };
                record.drain = true;
                record.changed = self.index;
                self.put(Update::Instance(*id, Some(Box::new(record))));
            }
            Command::RemoveInstance { id } => {
                if self.machine.state.instances.contains_key(id) {
                    self.put(Update::Instance(*id, None));
                }
            }
            Command::BeginGeneration { generation, node } => {
                self.begin_generation(*generation, *node);
            }
            Command::StartOperation(new) => return self.start_operation(new, depth),
            Command::AdvanceOperation { id, update } => self.advance(*id, update, depth)?,
            Command::Note { kind, message, node, app } => {
                self.event(kind, message.clone(), node.clone(), app.clone());
            }
            Command::All(commands) => {
                for command in commands {
                    self.command(command, depth + 1)?;
                }
            }
        }
        Ok(Answer::Done)
    }

    fn event(&mut self, kind: &str, message: String, node: Option<String>, app: Option<String>) {
        let event = Event {
            index: self.index,
            at_ms: self.proposal.at_ms,
            kind: kind.to_owned(),
            message,
            node,
            app,
        };
        self.put(Update::Event(event));
    }
}

/// What a command is called in the audit log. Secrets never show.
fn describe(command: &Command) -> String {
    match command {
        Command::StartOperation(new) => new.summary.clone(),
        Command::AdmitNode { node, .. } => format!("admit {}", node.name),
        Command::CreateToken { uses, .. } => format!("create a token for {uses} nodes"),
        Command::RevokeToken { id } => format!("revoke token {id}"),
        Command::Database { database, change: DatabaseCommand::Create { .. } } => {
            format!("create the database {database}")
        }
        Command::BeginGeneration { generation, .. } => {
            format!("begin generation {generation} of the cluster, accepting a loss of data")
        }
        Command::CreateCluster { cluster, .. } => format!("create the cluster {}", cluster.name),
        other => {
            let text = format!("{other:?}");
            text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
