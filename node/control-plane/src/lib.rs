//! What the cluster should be, and how it gets there.
//!
//! Everything here is a pure function of state, observation and time:
//!
//! - [`State`] is the desired state that the control group replicates; a
//!   [`Command`] changes it through [`Machine::apply`], the same on every voter.
//! - [`View`] is what one node observes: membership, soft state, voters.
//! - [`reconcile`] compares the two and says what the leader should propose next.
//! - [`plan`] turns a person's change into an operation, and
//!   [`operation::advance`] takes a running operation one step further.
//!
//! It is *not* consensus, and it does no I/O: the node feeds it and carries out
//! what it says. Liveness never enters the replicated state.

pub mod apply;
pub mod command;
pub mod databases;
pub mod generation;
mod instances;
pub mod operation;
pub mod placement;
pub mod plan;
pub mod reconcile;
pub mod sealed;
pub mod secrets;
pub mod state;
pub mod view;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod simulation;

pub use apply::Machine;
pub use command::{Answer, Command, DatabaseCommand, Outcome, Proposal};
pub use plan::plan;
pub use reconcile::{Action, reconcile};
pub use state::{Delta, State, Update};
pub use view::View;
