//! Who may connect, and what each of them has seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rung_shard::Token;

use crate::wire::ScramVerifier;

/// A user as the node tells it.
#[derive(Clone, Debug)]
pub struct UserRecord {
    /// The name of an app, or `rung`.
    pub name: String,
    pub verifier: ScramVerifier,
    /// The databases that it may connect to; none named means all.
    pub databases: Option<Vec<String>>,
    pub is_operator: bool,
}

/// A user, with what its connections to this node have seen.
#[derive(Debug)]
pub struct User {
    pub name: String,
    pub(crate) verifier: ScramVerifier,
    databases: Option<Vec<String>>,
    pub is_operator: bool,
    marks: Arc<Mutex<HashMap<String, Arc<Mark>>>>,
}

impl User {
    pub fn may_use(&self, database: &str) -> bool {
        self.databases.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == database))
    }

    /// What this user has seen of a database.
    pub fn mark(&self, database: &str) -> Arc<Mark> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.entry(database.to_owned()).or_default().clone()
    }
}

/// The highest position that any connection of a user has seen through this node.
/// Reads at the level `session` are at least as fresh, so an app reads its own
/// writes through pools and through both of its URLs.
#[derive(Debug, Default)]
pub struct Mark(Mutex<Option<Token>>);

impl Mark {
    pub fn get(&self) -> Option<Token> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The later one of what was seen and `given`. One that was given and is of an
    /// earlier generation stays what it is, so that whoever gave it is told.
    pub fn highest(&self, given: Option<Token>) -> Option<Token> {
        match (self.get(), given) {
            (Some(seen), Some(given)) if given.generation < seen.generation => Some(given),
            (Some(seen), Some(given)) => Some(later(seen, given)),
            (seen, given) => seen.or(given),
        }
    }

    /// What was seen says nothing any more.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes a position that was seen. One of a newer generation replaces any other.
    pub fn observe(&self, token: Token) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(seen.map_or(token, |seen| later(seen, token)));
    }
}

/// The later one of two positions.
pub fn later(one: Token, other: Token) -> Token {
    let order = |token: Token| (token.generation, token.epoch, token.sequence);
    if order(other) > order(one) { other } else { one }
}

/// The users by name.
#[derive(Clone, Debug, Default)]
pub struct Users(HashMap<String, Arc<User>>);

impl Users {
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.0.get(name).cloned()
    }

    /// These are the users from now on. What those who stay have seen stays.
    pub fn replaced_by(&self, records: Vec<UserRecord>) -> Users {
        let users = records.into_iter().map(|record| {
            let marks = self.0.get(&record.name).map(|user| user.marks.clone());
            let user = User {
                name: record.name.clone(),
                verifier: record.verifier,
                databases: record.databases,
                is_operator: record.is_operator,
                marks: marks.unwrap_or_default(),
            };
            (record.name, Arc::new(user))
        });
        Users(users.collect())
    }
}

#[cfg(test)]
mod tests {
    use rung_proto::Generation;

    use super::*;

    #[test]
    fn what_a_user_has_seen_only_grows_and_outlives_a_change_of_users() {
        let record = || UserRecord {
            name: "app".into(),
            verifier: ScramVerifier::new("p"),
            databases: Some(vec!["app".into()]),
            is_operator: false,
        };
        let token = |generation, epoch, sequence| Token {
            generation: Generation(generation),
            shard: 0,
            epoch,
            sequence,
        };
        let users = Users::default().replaced_by(vec![record()]);
        let mark = users.get("app").unwrap().mark("app");
        mark.observe(token(1, 5, 10));
        mark.observe(token(1, 4, 11));
        assert_eq!(mark.get(), Some(token(1, 5, 10)));
        let users = users.replaced_by(vec![record()]);
        let mark = users.get("app").unwrap().mark("app");
        mark.observe(token(2, 1, 1));
        assert_eq!(mark.get(), Some(token(2, 1, 1)));
        assert!(!users.get("app").unwrap().may_use("other"));
    }
}
