//! Suspects get a second chance, and hints are looked into.
//!
//! foca tells everybody about a suspect, and only luck decides when the suspect
//! itself hears of it. Here the suspect is pinged and told, several times before
//! its time is up (Lifeguard's buddy system); its answer carries a higher
//! incarnation and ends the suspicion.

use std::time::Duration;

use bytes::Bytes;
use foca::{Header, Message, State, Timer};
use rung_proto::NodeId;

use super::{Job, Output, Swim};
use crate::codec::{Packet, encode_packet};
use crate::identity::Identity;
use crate::view::MemberState;

/// At most as many hints are looked into at once; what is dropped is found by
/// the ordinary probes.
const MAX_HINTS: usize = 32;
/// How many pings a hinted member may leave unanswered before it is suspected.
const HINT_PINGS: u8 = 2;

#[derive(Debug)]
pub(super) struct Suspicion {
    pub(super) started: Duration,
    /// When it is looked at again; a job that comes earlier belongs to one that
    /// was replaced.
    pub(super) next: Duration,
    identity: Identity,
    incarnation: foca::Incarnation,
    /// What foca wants to be told when the time is up.
    timer: Timer<Identity>,
}

#[derive(Debug)]
pub(super) struct Hint {
    /// As in [`Suspicion`].
    pub(super) next: Duration,
    pings: u8,
}

impl Swim {
    /// Something suggests that a node is gone, for example its connection was
    /// closed. It is pinged soon; the hint itself proves nothing.
    pub fn hint(&mut self, now: Duration, node: NodeId) {
        if !self.left {
            self.look_into(now, node, now);
        }
    }

    /// Others suspect a member. Usually they settle it; should their verdict not
    /// arrive, we look ourselves.
    pub(super) fn doubt(&mut self, now: Duration, node: NodeId) {
        let patience = self.settings.suspicion * 2 * self.factor();
        self.look_into(now, node, now + patience);
    }

    fn look_into(&mut self, now: Duration, node: NodeId, at: Duration) {
        let active = self.state(node).is_some_and(MemberState::is_active);
        let sooner = self.hints.get(&node).is_none_or(|hint| at < hint.next);
        let room = self.hints.len() < MAX_HINTS || self.hints.contains_key(&node);
        if !active || !sooner || !room || self.suspicions.contains_key(&node) {
            return;
        }
        self.hints.insert(node, Hint { next: at, pings: 0 });
        if at > now {
            self.timers.add(at, Job::Hint(node));
        } else {
            self.check_hint(now, node);
        }
    }

    /// Any datagram from the node removes the hint, so that this finds none.
    pub(super) fn check_hint(&mut self, now: Duration, node: NodeId) {
        let wait = self.settings.probe_rtt * 2 * self.factor();
        let Some(hint) = self.hints.get_mut(&node).filter(|hint| hint.next <= now) else { return };
        let Some(known) = self.known.get(&node).filter(|known| known.state.is_active()) else {
            self.hints.remove(&node);
            return;
        };
        let (identity, incarnation) = (known.identity.clone(), known.swim_incarnation);
        if known.state == MemberState::Alive && hint.pings < HINT_PINGS {
            hint.pings += 1;
            hint.next = now + wait;
            self.ping(&identity, None);
            self.timers.add(now + wait, Job::Hint(node));
            return;
        }
        self.hints.remove(&node);
        let suspect = foca::Member::new(identity.clone(), incarnation, State::Suspect);
        self.apply(now, vec![suspect], true);
        if self.state(node) == Some(MemberState::Suspect) {
            self.counters.suspicions += 1;
            let (member_id, token) = (identity.clone(), self.timer_token);
            let timer = Timer::ChangeSuspectToDown { member_id, incarnation, token };
            self.suspect(now, identity, incarnation, timer);
        }
    }

    pub(super) fn suspect(
        &mut self,
        now: Duration,
        identity: Identity,
        incarnation: foca::Incarnation,
        timer: Timer<Identity>,
    ) {
        let node = identity.node;
        let running = self
            .suspicions
            .get(&node)
            .is_some_and(|s| s.identity == identity && s.incarnation == incarnation);
        if running {
            // foca failed to reach it once more. Its token may have changed since.
            self.suspicions.entry(node).and_modify(|suspicion| suspicion.timer = timer);
            return;
        }
        let suspicion = Suspicion { started: now, next: now, identity, incarnation, timer };
        self.suspicions.insert(node, suspicion);
        self.timers.add(now, Job::Suspicion(node));
    }

    /// Ends a suspicion that was refuted, pings a suspect, or declares it down.
    pub(super) fn check_suspicion(&mut self, now: Duration, node: NodeId) {
        let Some(suspicion) = self.suspicions.get(&node).filter(|s| s.next <= now) else { return };
        let stands = self.known.get(&node).is_some_and(|known| {
            known.state == MemberState::Suspect
                && known.identity == suspicion.identity
                && known.swim_incarnation == suspicion.incarnation
        });
        if !stands {
            self.suspicions.remove(&node);
            return;
        }
        // Health is asked anew each time: a node that got worse since it raised
        // the suspicion waits longer.
        let deadline = suspicion.started + self.settings.suspicion * self.factor();
        if now >= deadline {
            self.declare_down(now, node);
            return;
        }
        let mut next = deadline;
        if self.settings.damping {
            let (identity, incarnation) = (suspicion.identity.clone(), suspicion.incarnation);
            self.ping(&identity, Some(incarnation));
            next = deadline.min(now + self.settings.suspect_ping);
        }
        self.suspicions.entry(node).and_modify(|suspicion| suspicion.next = next);
        self.timers.add(next, Job::Suspicion(node));
    }

    fn declare_down(&mut self, now: Duration, node: NodeId) {
        let Some(suspicion) = self.suspicions.remove(&node) else { return };
        self.foca_timer(now, suspicion.timer);
        self.reconcile(now);
        if self.state(node) == Some(MemberState::Down) {
            self.counters.declared_down += 1;
        }
    }

    /// Pings a member outside of foca's own round, and tells it that it is
    /// suspected. Its answer goes to foca, which takes it as a sign of life.
    fn ping(&mut self, to: &Identity, suspected: Option<foca::Incarnation>) {
        let header = Header {
            src: self.foca.identity().clone(),
            // Our own count is foca's secret; a low one is merely no news.
            src_incarnation: 0,
            dst: to.clone(),
            message: Message::Ping(0),
        };
        let updates = suspected
            .map(|incarnation| foca::Member::new(to.clone(), incarnation, State::Suspect))
            .into_iter()
            .collect();
        let body = Bytes::from(encode_packet(&Packet { header, updates }));
        self.outputs.push_back(Output::Send { to: to.node, address: to.address, body });
    }
}
