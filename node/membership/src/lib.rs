//! Who is in the cluster and who seems alive: SWIM (by `foca`) and what it needs
//! around it.
//!
//! [`Swim`] is the whole protocol as a state machine without I/O: datagrams,
//! timers and commands go in with an explicit time, datagrams, exchanges and
//! member events come out. [`Membership`] drives it over the mesh. [`simulation`]
//! drives hundreds of them in simulated time.
//!
//! Around foca this crate adds announces that are retried, an exchange of the
//! full state with a seed at joining and with a random peer every few seconds,
//! damping by local health after Lifeguard (Dadgar, Phillips, Currey, 2018), a
//! second chance for suspects, and memory of the members that are down, so that
//! a healed partition finds itself again.
//!
//! It is *not* an authority. What it says is a hint: it never decides who owns
//! something, and nobody may act on its word alone where a mistake would lose
//! data. It does not authenticate either: the mesh does, and says who sent each
//! datagram.

mod codec;
mod driver;
mod health;
mod identity;
mod settings;
pub mod simulation;
mod swim;
mod timers;
mod view;

pub use codec::{DecodeError, Packet, decode_packet, decode_state};
pub use driver::{Membership, MembershipConfig, MembershipError};
pub use health::{Health, Symptom};
pub use identity::{Identity, InvalidText, MAX_TEXT, Text};
pub use settings::{MAX_PACKET, Settings};
pub use swim::{Counters, Output, Seed, Swim};
pub use view::{Event, Member, MemberState, MembershipView};
