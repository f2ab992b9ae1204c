//! How long nodes wait for each other.

use std::time::Duration;

use rung_membership::Settings as MembershipSettings;

/// Up to here the times of a local network do, though others repeat some probes.
pub const NEAR: Duration = Duration::from_millis(150);
/// The furthest that they may be from each other.
pub const FAR: Duration = Duration::from_millis(400);

/// What follows from the longest round trip between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    round_trip: Duration,
}

impl Timing {
    pub fn new(round_trip: Duration) -> Self {
        Self { round_trip }
    }

    pub fn membership(self) -> MembershipSettings {
        if self.round_trip <= NEAR { MembershipSettings::lan() } else { MembershipSettings::wan() }
    }

    /// Another copy of a database stands for election when it has not heard of the primary
    /// for the second of these, during which the others would not vote for it, and a time
    /// between both: 600 to 700 ms for a round trip of 150 ms. A heartbeat must be answered
    /// within three quarters of the first, which so is a quarter more than a round trip. Where
    /// the primary's process has ended, `suspicion` does not wait for all that.
    pub fn election(self) -> (Duration, Duration) {
        let shortest = self.round_trip * 5 / 3;
        (shortest, shortest * 7 / 5)
    }

    /// How long the primary of a database waits for the answer to a heartbeat.
    pub fn answer(self) -> Duration {
        self.election().0 * 3 / 4
    }

    /// How often the primary of a database says that it lives.
    pub fn heartbeat(self) -> Duration {
        self.round_trip / 3
    }

    /// A primary that said nothing for so long is asked for.
    pub fn silence(self) -> Duration {
        self.heartbeat() * 2
    }

    /// Voters that know of a primary's end stand for election so long after each other, so
    /// that they do not take each other's votes.
    pub fn apart(self) -> Duration {
        self.round_trip / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_with_the_distance() {
        let milliseconds = Duration::from_millis;
        let near = Timing::new(milliseconds(150));
        assert_eq!(near.election(), (milliseconds(250), milliseconds(350)));
        assert_eq!((near.heartbeat(), near.silence()), (milliseconds(50), milliseconds(100)));
        assert_eq!((near.answer(), near.apart()), (milliseconds(750) / 4, milliseconds(75)));
        assert_eq!(near.membership(), MembershipSettings::lan());
        let far = Timing::new(milliseconds(300));
        assert_eq!(far.election(), (milliseconds(500), milliseconds(700)));
        assert!(far.heartbeat() * 2 < far.election().0);
        assert!(far.membership().probe_rtt > milliseconds(300));
    }
}
