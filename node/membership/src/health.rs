//! How far a node trusts itself: the local health of Lifeguard.

/// The worst score.
const WORST: u8 = 8;

/// What a node noticed of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symptom {
    /// A probe was answered.
    Answered,
    /// Probes of different members in a row went unanswered. One member that
    /// does not answer says nothing of us.
    Unanswered,
    /// Another node suspected us.
    Suspected,
    /// A timer ran late.
    Late,
    /// The whole process stood still.
    Paused,
}

/// A score from 0, well, to 8. Timeouts are multiplied by one more than it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    score: u8,
}

impl Health {
    /// Takes one observation into account.
    pub fn observe(&mut self, symptom: Symptom) {
        self.score = match symptom {
            Symptom::Answered => self.score.saturating_sub(1),
            Symptom::Unanswered | Symptom::Suspected | Symptom::Late => (self.score + 1).min(WORST),
            Symptom::Paused => WORST,
        };
    }

    /// 0 is well, 8 is the worst.
    pub fn score(self) -> u8 {
        self.score
    }

    /// What timeouts are multiplied by, 1 to 9.
    pub fn factor(self) -> u32 {
        u32::from(self.score) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_within_its_range_and_recovers() {
        let mut health = Health::default();
        health.observe(Symptom::Answered);
        assert_eq!(health.factor(), 1);
        (0..20).for_each(|_| health.observe(Symptom::Unanswered));
        assert_eq!(health.score(), WORST);
        (0..8).for_each(|_| health.observe(Symptom::Answered));
        assert_eq!(health.score(), 0);
        health.observe(Symptom::Paused);
        assert_eq!(health.factor(), 9);
    }
}
