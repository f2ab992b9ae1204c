//! The generation of the cluster that this node is in, and its way to the next.
//!
//! A node *accepts* a generation that another one begins: its replica of the control
//! log is closed and stays so, also after a restart. The node whose log is taken makes
//! itself the only voter and *founds* the generation. Every other node *adopts* it as
//! soon as it hears of it: it drops its replica of the old log, keeps what that said in
//! a file, and follows the new one.

use std::collections::BTreeSet;

use rung_control_plane::generation::{Replica, Told};
use rung_proto::soft::{LogPlace, first_generation};
use rung_proto::{Code, Failure, Generation};
use serde::{Deserialize, Serialize};

use super::{Control, GROUP, open_failure};
use crate::data_dir::DataDir;
use crate::protocol::Leadership;

const FILE: &str = "control/generation";

/// What a node remembers of generations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Generations {
    /// The one that it is in.
    pub current: u64,
    /// A later one that it has accepted.
    accepted: Option<Accepted>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Accepted {
    generation: u64,
    /// Who voted, as the replica had it when it was closed.
    voters: BTreeSet<rung_proto::NodeId>,
}

impl Generations {
    /// What the data directory says; the first generation when it says nothing.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load(data: &DataDir) -> Result<Self, Failure> {
        let stored = data.read_json(FILE)?;
        Ok(stored.unwrap_or(Self { current: first_generation(), accepted: None }))
    }
}

fn place(position: rung_consensus::Position) -> LogPlace {
    LogPlace { term: position.term, index: position.index }
}

impl Control {
    /// The generation that this node is in.
    pub fn generation(&self) -> u64 {
        self.generations.borrow().current
    }

    /// One that was accepted here and has not begun, as far as this node knows.
    pub fn accepted_generation(&self) -> Option<u64> {
        self.generations.borrow().accepted.as_ref().map(|accepted| accepted.generation)
    }

    pub(super) fn refuse_sealed(&self) -> Result<(), Failure> {
        match self.accepted_generation() {
            None => Ok(()),
            Some(generation) => Err(Failure::new(
                Code::Precondition,
                format!("generation {generation} of the cluster has begun"),
            )
            .because("this node has accepted it and waits for it")
            .next("`ctl recover` again, if whoever began it is gone")),
        }
    }

    /// This node's part in the control group.
    ///
    /// # Errors
    /// When its log is damaged.
    pub async fn tell(&self) -> Result<Told, Failure> {
        let Generations { current, accepted } = self.generations.borrow().clone();
        let mut told = Told {
            generation: current,
            accepted: accepted.as_ref().map(|accepted| accepted.generation),
            replica: None,
        };
        if self.consensus.has_replica(GROUP) {
            let log =
                self.consensus.closed_log(GROUP).await.map_err(|error| open_failure(&error))?;
            let voters = match (self.group(), accepted) {
                (Some(group), _) => group.status().borrow().voters.clone(),
                (None, Some(accepted)) => accepted.voters,
                (None, None) => BTreeSet::new(),
            };
            told.replica = log.last.map(|last| Replica {
                last: place(last),
                committed: log.committed.map(place),
                voters,
            });
        }
        Ok(told)
    }

    /// Accepts a generation that somebody begins: from now on this node takes no part
    /// in the old group. Returns the last entry of its log.
    ///
    /// # Errors
    /// When it is in this generation or has accepted it already, has no log, or the
    /// disk fails.
    pub async fn seal(&self, generation: u64) -> Result<LogPlace, Failure> {
        let _alone = self.replica.lock().await;
        let told = self.tell().await?;
        let known = told.generation.max(told.accepted.unwrap_or(0));
        if generation <= known {
            let what = format!("generation {generation} of the cluster has begun already");
            return Err(Failure::new(Code::Precondition, what)
                .because(format!("this node has accepted generation {known}"))
                .next("`ctl recover` again"));
        }
        let Some(replica) = told.replica else {
            return Err(Failure::new(Code::Precondition, "this node has no control log"));
        };
        tracing::warn!(generation, "a new generation of the cluster begins");
        let accepted = Some(Accepted { generation, voters: replica.voters });
        self.remember(Generations { current: told.generation, accepted })?;
        self.consensus.close(GROUP).await;
        let last = self.consensus.last_entry(GROUP).map(place);
        last.ok_or_else(|| Failure::new(Code::Internal, "a control log vanished"))
    }

    /// Begins a generation that every survivor has accepted, from this node's log.
    ///
    /// # Errors
    /// When another one was accepted here meanwhile, or the disk fails.
    pub async fn found(&self, generation: u64) -> Result<(), Failure> {
        let _alone = self.replica.lock().await;
        if self.accepted_generation() != Some(generation) {
            let what = format!("generation {generation} was given up for a later one");
            return Err(Failure::new(Code::Precondition, what).next("`ctl recover` again"));
        }
        let taken = self.consensus.take_over(GROUP).await.map_err(|error| open_failure(&error))?;
        self.enter(generation)?;
        tracing::warn!(generation, position = %taken, "this node begins a new generation");
        self.open_replica().await
    }

    /// Goes over to a generation that has begun elsewhere.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn adopt(&self, generation: u64) -> Result<(), Failure> {
        let _alone = self.replica.lock().await;
        let current = self.generation();
        if generation <= current {
            return Ok(());
        }
        let last = self.consensus.last_entry(GROUP).map(place);
        if self.consensus.has_replica(GROUP) {
            self.data.write_json(&format!("control/former-{current}"), &*self.state())?;
            // Before the generation is on the disk: a start between the two must not
            // take the old log for one of the new generation.
            self.drop_replica().await?;
        }
        self.enter(generation)?;
        let leadership = Leadership { generation, ..Leadership::default() };
        self.leadership.send_replace(leadership);
        tracing::warn!(generation, ?last, "this node goes over to a new generation");
        Ok(())
    }

    fn enter(&self, generation: u64) -> Result<(), Failure> {
        self.remember(Generations { current: generation, accepted: None })?;
        self.consensus.set_generation(Generation(generation));
        self.mesh.set_generation(Generation(generation));
        Ok(())
    }

    fn remember(&self, generations: Generations) -> Result<(), Failure> {
        self.data.write_json(FILE, &generations)?;
        self.generations.send_replace(generations);
        Ok(())
    }

    /// Changes with the generation that this node is in.
    pub fn watch_generation(&self) -> tokio::sync::watch::Receiver<Generations> {
        self.generations.subscribe()
    }
}
