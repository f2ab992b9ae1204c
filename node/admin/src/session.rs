//! Tickets and sessions of the dashboard, in memory only.
//!
//! A ticket is the secret in a one-time link; a session is the secret in the
//! cookie that the link becomes. Both are 256 random bits, few, and short-lived.

use std::time::{Duration, Instant};

/// How long a link may be opened.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// How long a browser may look.
pub const SESSION_LIFE: Duration = Duration::from_secs(15 * 60);

const MAX_TICKETS: usize = 16;
const MAX_SESSIONS: usize = 32;

struct Secret {
    text: String,
    expires: Instant,
}

/// A bounded list of secrets with an expiry; a new one replaces the oldest.
struct Secrets {
    limit: usize,
    life: Duration,
    list: Vec<Secret>,
}

impl Secrets {
    fn issue(&mut self, now: Instant) -> String {
        self.forget_expired(now);
        if self.list.len() >= self.limit {
            self.list.remove(0);
        }
        let text = random_text();
        self.list.push(Secret { text: text.clone(), expires: now + self.life });
        text
    }

    fn forget_expired(&mut self, now: Instant) {
        self.list.retain(|secret| secret.expires > now);
    }

    fn position(&mut self, text: &str, now: Instant) -> Option<usize> {
        self.forget_expired(now);
        // Each comparison looks at every byte, so that timing tells nothing.
        self.list.iter().position(|secret| same(secret.text.as_bytes(), text.as_bytes()))
    }
}

/// All tickets and sessions of a node.
pub struct Sessions {
    tickets: Secrets,
    sessions: Secrets,
}

impl Sessions {
    pub fn new() -> Self {
        Self {
            tickets: Secrets { limit: MAX_TICKETS, life: TICKET_LIFE, list: Vec::new() },
            sessions: Secrets { limit: MAX_SESSIONS, life: SESSION_LIFE, list: Vec::new() },
        }
    }

    /// A new ticket for a link.
    pub fn issue_ticket(&mut self, now: Instant) -> String {
        self.tickets.issue(now)
    }

    /// Turns a ticket into a session, once.
    pub fn redeem(&mut self, ticket: &str, now: Instant) -> Option<String> {
        let position = self.tickets.position(ticket, now)?;
        self.tickets.list.remove(position);
        Some(self.sessions.issue(now))
    }

    /// Whether the session still holds.
    pub fn holds(&mut self, session: &str, now: Instant) -> bool {
        self.sessions.position(session, now).is_some()
    }
}

pub fn random_text() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_one_session_once() {
        let now = Instant::now();
        let mut sessions = Sessions::new();
        let ticket = sessions.issue_ticket(now);
        let session = sessions.redeem(&ticket, now).unwrap();
        assert!(sessions.redeem(&ticket, now).is_none());
        assert!(sessions.holds(&session, now));
        assert!(!sessions.holds(&ticket, now));
        assert!(!sessions.holds("", now));
    }

    #[test]
    fn tickets_and_sessions_expire() {
        let now = Instant::now();
        let mut sessions = Sessions::new();
        let late = sessions.issue_ticket(now);
        let ticket = sessions.issue_ticket(now);
        let session = sessions.redeem(&ticket, now).unwrap();
        assert!(sessions.redeem(&late, now + TICKET_LIFE).is_none());
        assert!(sessions.holds(&session, now + SESSION_LIFE - Duration::from_secs(1)));
        assert!(!sessions.holds(&session, now + SESSION_LIFE));
    }

    #[test]
    fn the_number_of_tickets_is_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut sessions = Sessions::new();
        let first = sessions.issue_ticket(now);
        let others: Vec<_> = (0..MAX_TICKETS).map(|_| sessions.issue_ticket(now)).collect();
        assert!(sessions.redeem(&first, now).is_none());
        assert!(sessions.redeem(&others[0], now).is_some());
    }
}
