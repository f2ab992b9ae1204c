//! Commands about nodes, their roles and the tokens that admit them.

use rung_proto::{Code, Epoch, Failure, InstanceId, NodeId, Role};

use super::{Attempt, refuse};
use crate::command::{Answer, Outcome};
use crate::secrets::{Hash, MAX_TOKENS, TokenRecord, token_id};
use crate::state::{MAX_NODES, NodeRecord, Update};

impl Attempt<'_> {
    pub(super) fn node(&self, id: NodeId) -> Result<NodeRecord, Failure> {
        match self.machine.state.nodes.get(&id) {
            Some(record) => Ok(record.clone()),
            None => refuse(Code::NotFound, format!("there is no node {id}")),
        }
    }

    pub(super) fn put_node(&mut self, record: NodeRecord) {
        self.put(Update::Node(record.id, Some(Box::new(record))));
    }

    pub(super) fn admit(&mut self, node: &NodeRecord, key: Hash) -> Result<(), Failure> {
        let state = &self.machine.state;
        if state.nodes.len() >= MAX_NODES {
            return refuse(Code::Precondition, format!("a cluster has at most {MAX_NODES} nodes"));
        }
        if let Some(other) = state.node_named(&node.name) {
            return Err(Failure::new(
                Code::NameTaken,
                format!("the name {} belongs to another node", node.name),
            )
            .because(format!("{} joined as {}", node.name, other.id))
            .next(format!(
                "choose another --name, or `ctl node remove {}` if that machine is gone for good",
                node.name
            )));
        }
        if state.nodes.contains_key(&node.id) || state.removed.contains_key(&node.id) {
            return refuse(
                Code::IdentityRefused,
                format!("the node id {} was used before", node.id),
            );
        }
        let mut record = node.clone();
        record.joined = self.index;
        let (name, dc) = (record.name.clone(), record.dc.clone());
        self.machine.secrets.node_keys.insert(record.id, key);
        self.put_node(record);
        self.event("node-joined", format!("{name} joined in {dc}"), Some(name), None);
        Ok(())
    }

    pub(super) fn admit_by_token(&mut self, token: Hash, key: Hash, node: &NodeRecord) -> Outcome {
        let Some(mut record) = self.machine.secrets.tokens.get(&token).cloned() else {
            return Err(Failure::new(Code::TokenInvalid, "the join token is not known here")
                .because("it was revoked, expired long ago, or belongs to another cluster")
                .next("make a new one with `ctl token create`"));
        };
        if let Some(admitted) = record.admitted.get(&key) {
            if !self.machine.state.nodes.contains_key(admitted) {
                return refuse(
                    Code::IdentityRefused,
                    format!("the node {admitted} was removed from the cluster"),
                );
            }
            return Ok(Answer::Admitted(*admitted));
        }
        if record.expires_ms <= self.proposal.at_ms {
            return Err(Failure::new(Code::TokenExpired, "the join token has expired")
                .because(format!(
                    "it expired {} s ago",
                    (self.proposal.at_ms - record.expires_ms) / 1000
                ))
                .next("make a new one with `ctl token create`"));
        }
        if record.uses_left == 0 {
            return Err(Failure::new(Code::TokenSpent, "the join token was used up")
                .next("make a new one with `ctl token create --uses N`"));
        }
        self.admit(node, key)?;
        record.uses_left -= 1;
        record.admitted.insert(key, node.id);
        self.machine.secrets.tokens.insert(token, record);
        Ok(Answer::Admitted(node.id))
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Result<(), Failure> {
        let record = self.node(id)?;
        for role in Role::ALL {
            let mut owners = self.machine.state.role(role);
            if owners.owners.remove(&id).is_some() {
                self.put(Update::Role(role, owners));
            }
        }
        let left: Vec<InstanceId> = self
            .machine
            .state
            .instances
            .values()
            .filter(|instance| instance.node == id)
            .map(|instance| instance.id)
            .collect();
        for instance in left {
            self.put(Update::Instance(instance, None));
        }
        self.put(Update::Node(id, None));
        self.put(Update::Removed(id, self.index));
        self.machine.secrets.node_keys.remove(&id);
        let name = record.name;
        self.event("node-removed", format!("{name} was removed"), Some(name), None);
        Ok(())
    }

    pub(super) fn assign(&mut self, role: Role, node: NodeId) -> Result<(), Failure> {
        let name = self.node(node)?.name;
        let mut record = self.machine.state.role(role);
        if record.owners.contains_key(&node) {
            return Ok(());
        }
        // The index of the entry is an epoch that no later ownership can reuse.
        record.owners.insert(node, Epoch(self.index));
        self.put(Update::Role(role, record));
        self.event("role-assigned", format!("{name} has {role}"), Some(name), None);
        Ok(())
    }

    // Tokens.

    pub(super) fn create_token(
        &mut self,
        hash: Hash,
        expires_ms: u64,
        uses: u32,
    ) -> Result<(), Failure> {
        let now = self.proposal.at_ms;
        let tokens = &mut self.machine.secrets.tokens;
        // An expired token is kept for a day, so that a joiner is told why.
        tokens.retain(|_, token| token.expires_ms.saturating_add(86_400_000) > now);
        // Asked for again after a lost answer: what was used of it stays used.
        if tokens.contains_key(&hash) {
            return Ok(());
        }
        if tokens.len() >= MAX_TOKENS {
            return refuse(Code::Precondition, format!("there are {MAX_TOKENS} tokens already"));
        }
        let record = TokenRecord {
            expires_ms,
            uses_left: uses,
            created_by: self.proposal.by.clone(),
            admitted: Default::default(),
        };
        tokens.insert(hash, record);
        Ok(())
    }

    pub(super) fn revoke_token(&mut self, id: &str) -> Result<(), Failure> {
        let tokens = &mut self.machine.secrets.tokens;
        let found = tokens.keys().find(|hash| token_id(hash) == id).copied();
        match found {
            Some(hash) => {
                tokens.remove(&hash);
                Ok(())
            }
            None => refuse(Code::NotFound, format!("there is no token {id}")),
        }
    }
}
