//! Joining, and exchanging the full state.

use std::time::Duration;

use bytes::Bytes;
use foca::State;
use rand::RngExt;
use rung_proto::NodeId;

use super::{Job, Output, Runtime, Seed, Swim, jittered};
use crate::codec::{DecodeError, decode_state, encode_state};
use crate::identity::{Identity, Text};
use crate::view::MemberState;

/// At most as many exchanges are under way at once.
const MAX_EXCHANGES: usize = 4;
/// An exchange without an answer is given up after this time.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);
/// How many seeds are asked at once.
const SEEDS_AT_ONCE: usize = 2;
/// One exchange of so many goes to somebody who seems down, or to a seed that
/// is not a member: that is how a partition heals.
const OUTSIDE_ONE_IN: u32 = 4;
/// The first exchanges after the start come sooner than the later ones.
const EARLY_EXCHANGES: u32 = 3;

impl Swim {
    /// Tries to join by the seeds, again and again until there is a member.
    pub(super) fn join(&mut self, now: Duration) {
        let joined = self.exchanges_done > 0 && self.foca.num_members() > 0;
        let delay = jittered(&mut self.rng, self.join_delay);
        self.timers.add(now + delay, Job::Join);
        if joined || self.seeds.is_empty() {
            self.join_delay = self.settings.exchange_period;
            return;
        }
        self.join_delay = (self.join_delay * 2).min(self.settings.exchange_period);
        let first = self.rng.random_range(0..self.seeds.len());
        for offset in 0..SEEDS_AT_ONCE.min(self.seeds.len()) {
            let seed = self.seeds[(first + offset) % self.seeds.len()];
            self.announce(now, seed);
            self.start_exchange(now, seed.node, seed.address);
        }
    }

    fn announce(&mut self, now: Duration, seed: Seed) {
        // A member accepts an announce for any life of itself.
        let anybody = Identity {
            node: seed.node,
            incarnation: rung_proto::Incarnation(0),
            renewal: 0,
            left: false,
            address: seed.address,
            dc: Text::new("").expect("short"),
            name: Text::new("").expect("short"),
        };
        let mut runtime = Runtime::new();
        if let Err(error) = self.foca.announce(anybody, &mut runtime) {
            tracing::warn!(node = %self.node(), %error, "could not announce to a seed");
        }
        self.absorb(now, runtime, false);
    }

    /// Exchanges the state with a random peer.
    pub(super) fn periodic_exchange(&mut self, now: Duration) {
        let period = if self.exchanges_done < EARLY_EXCHANGES {
            self.settings.exchange_period / 5
        } else {
            self.settings.exchange_period
        };
        let delay = jittered(&mut self.rng, period);
        self.timers.add(now + delay, Job::Exchange);
        let alone = self.foca.num_members() == 0;
        let outside = alone || self.rng.random_range(0..OUTSIDE_ONE_IN) == 0;
        let peer = if outside { self.random_outsider() } else { None };
        let peer = peer.or_else(|| self.random_known(MemberState::is_active));
        if let Some(peer) = peer {
            self.start_exchange(now, peer.node, peer.address);
        }
    }

    /// Somebody who is not a member now but was, or should be.
    fn random_outsider(&mut self) -> Option<Seed> {
        let strangers = self.seeds.iter().filter(|seed| !self.known.contains_key(&seed.node));
        let down = self.known.values().filter(|known| known.state == MemberState::Down);
        let down = down.map(|k| Seed { node: k.identity.node, address: k.identity.address });
        let candidates: Vec<_> = strangers.copied().chain(down).collect();
        if candidates.is_empty() {
            return None;
        }
        Some(candidates[self.rng.random_range(0..candidates.len())])
    }

    pub(super) fn start_exchange(
        &mut self,
        now: Duration,
        to: NodeId,
        address: std::net::SocketAddr,
    ) {
        self.exchanges.retain(|_, given_up| *given_up > now);
        if self.exchanges.len() >= MAX_EXCHANGES || self.exchanges.contains_key(&to) {
            return;
        }
        self.exchanges.insert(to, now + EXCHANGE_DEADLINE);
        let body = self.state_bytes();
        self.outputs.push_back(Output::Exchange { to, address, body });
    }

    fn state_bytes(&self) -> Bytes {
        let own = self.foca.identity();
        let state = if self.left { State::Down } else { State::Alive };
        let mut members = vec![foca::Member::new(own.clone(), 0, state)];
        let others = self.foca.iter_membership_state().filter(|m| m.id().node != own.node);
        members.extend(others.cloned());
        Bytes::from(encode_state(&members))
    }

    /// Answers a peer that exchanges its state.
    ///
    /// # Errors
    /// When the body is malformed or not the peer's own.
    pub fn exchange(
        &mut self,
        now: Duration,
        from: NodeId,
        body: &[u8],
    ) -> Result<Bytes, DecodeError> {
        let members = self.check_state(from, body)?;
        if !self.left {
            self.merge(now, members, true);
        }
        Ok(self.state_bytes())
    }

    /// Takes the result of an [`Output::Exchange`]; `None` when it failed.
    ///
    /// # Errors
    /// When the answer is malformed or not the peer's own.
    pub fn exchanged(
        &mut self,
        now: Duration,
        from: NodeId,
        answer: Option<&[u8]>,
    ) -> Result<(), DecodeError> {
        self.exchanges.remove(&from);
        let Some(answer) = answer else {
            self.counters.failed_exchanges += 1;
            return Ok(());
        };
        let members = self.check_state(from, answer)?;
        if self.left {
            return Ok(());
        }
        // What the first answer teaches a joiner is news to nobody else.
        let broadcast = self.exchanges_done > 0;
        self.exchanges_done = self.exchanges_done.saturating_add(1);
        self.merge(now, members, broadcast);
        Ok(())
    }

    fn check_state(
        &mut self,
        from: NodeId,
        body: &[u8],
    ) -> Result<Vec<foca::Member<Identity>>, DecodeError> {
        let checked = decode_state(body).and_then(|members| {
            let unknown = members.iter().filter(|m| !self.known.contains_key(&m.id().node));
            if self.known.len() + unknown.count() > self.settings.max_members {
                return Err(DecodeError::NoRoom);
            }
            match members.first() {
                Some(first) if first.id().node == from && from != self.node() => Ok(members),
                _ => Err(DecodeError::Invalid("sender")),
            }
        });
        if checked.is_err() {
            self.counters.refused += 1;
        }
        checked
    }

    fn merge(&mut self, now: Duration, members: Vec<foca::Member<Identity>>, broadcast: bool) {
        if self.is_superseded(members.iter().map(foca::Member::id)) {
            return;
        }
        let mut news = Vec::new();
        let mut hints = Vec::new();
        for member in members {
            let id = member.id();
            if id.node == self.node() {
                // foca answers what is said of our present life; of an earlier
                // one it would make a member of its own.
                if id == self.foca.identity() && member.state() != State::Alive {
                    news.push(member);
                }
                continue;
            }
            match self.known.get(&id.node) {
                // Nodes that taught each other about the dead would never forget
                // them.
                None if member.state() == State::Down => {}
                // After a partition each side holds the other for down. To
                // believe it would put down members that are well, so look first.
                Some(known)
                    if member.state() == State::Down
                        && known.state.is_active()
                        && known.identity == *id =>
                {
                    hints.push(id.node);
                }
                _ => news.push(member),
            }
        }
        self.apply(now, news, broadcast);
        hints.into_iter().for_each(|node| self.hint(now, node));
    }
}
