//! Actors: who restarts what crashed, how they are reached from other nodes,
//! and who notices when an event loop hangs.
//!
//! `ractor` gives mailboxes, actors and the events of their deaths. This crate
//! adds what it lacks: restarts with backoff and an intensity ([`Supervisor`],
//! decided by the pure [`RestartHistory`]), bounded inboxes ([`Inbox`]), actors
//! that work on so many requests at once ([`serve_requests`]), calls to actors on
//! other nodes by (node, incarnation, role, name) ([`ActorRouter`], [`call`]),
//! the table of what the mesh may call ([`ServiceTable`]), and a watchdog over
//! event loops ([`Watchdog`]).
//!
//! It is *not* a distributed actor system: nothing is located, migrated or
//! monitored across nodes, and messages are delivered at most once. It carries
//! control, not data: bodies, pages and snapshots travel on streams of the mesh.

mod actors;
mod address;
mod inbox;
mod remote;
mod restart;
mod router;
mod services;
mod serving;
mod supervisor;
mod watchdog;

pub use actors::Actors;
pub use address::ActorAddress;
pub use inbox::{Envelope, Inbox, InboxReceiver, SendError};
pub use ractor;
pub use remote::{CallOptions, RemoteError, Retry, call};
pub use restart::{Decision, Exit, Restart, RestartHistory, RestartPolicy};
pub use router::{ActorRefusal, ActorRouter, Request, RouteTaken, decode_call};
pub use services::{ServiceHandler, ServiceTable, ServiceTaken, service};
pub use serving::{Serving, serve_requests};
pub use supervisor::{
    AddError, ChildSpec, Shutdown, Supervisor, SupervisorEvent, SupervisorGone, TaskResult,
};
pub use watchdog::{
    LoopState, StallReport, Thread, Verdict, Watch, Watchdog, WatchdogConfig, WatchdogCounters,
};
