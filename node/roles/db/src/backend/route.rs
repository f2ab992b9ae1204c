//! Where an operation is done, and what is tried when it cannot be done there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rung_proto::NodeId;
use rung_shard::Cancel;
use rung_sql::{SqlError, SqlState};
use tokio::sync::watch;

use super::failure::{outcome_unknown, transaction_lost};
use super::{Answer, Bounds, Cancellation, Failure, Level, LocalSession, Open, Operation};
use crate::directory::{Directory, ShardPlace};
use crate::link::Link;
use crate::server::Shared;
use crate::statistics::{Served, count};
use crate::users::Mark;

/// Between two looks for a primary, when nothing announces one.
const LOOK: Duration = Duration::from_millis(100);

/// Where a transaction is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Here,
    At(NodeId),
}

/// The hands of a session.
pub struct Backend {
    shared: Arc<Shared>,
    database: String,
    mark: Arc<Mark>,
    directory: watch::Receiver<Arc<Directory>>,
    cancellation: Cancellation,
    local: Option<LocalSession>,
    links: Vec<Link>,
    /// Where the transaction is open, if one is.
    transaction: Option<Place>,
    /// Who answered last that it is the primary.
    primary: Option<NodeId>,
    /// Where the last operation was done.
    last: Place,
}

impl Backend {
    pub fn new(
        shared: Arc<Shared>,
        database: &str,
        mark: Arc<Mark>,
        cancellation: Cancellation,
    ) -> Self {
        Self {
            directory: shared.config.directory.clone(),
            shared,
            database: database.to_owned(),
            mark,
            cancellation,
            local: None,
            links: Vec::new(),
            transaction: None,
            primary: None,
            last: Place::Here,
        }
    }

    /// The node that did the last operation, if that was not this one.
    pub fn other_node(&self) -> Option<NodeId> {
        match self.last {
            Place::Here => None,
            Place::At(node) => Some(node),
        }
    }

    /// Whether a transaction is open at the database.
    pub fn has_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Has something done, within a time limit if there is one.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn perform(
        &mut self,
        operation: Operation,
        limit: Option<Duration>,
    ) -> Result<Answer, SqlError> {
        let bounds = Bounds {
            deadline: Instant::now() + limit.unwrap_or(self.shared.config.limits.statement),
            cancel: Cancel::new(),
            canceled: self.cancellation.listen(),
        };
        let mut canceled = bounds.canceled.clone();
        let cancel = bounds.cancel.clone();
        let counters = self.shared.clone();
        let work = self.attempt(operation, &bounds);
        tokio::pin!(work);
        let done = tokio::select! {
            biased;
            done = &mut work => done,
            _ = canceled.changed() => {
                count(&counters.statistics.counters.canceled);
                cancel.cancel();
                work.await
            }
        };
        done.map_err(|failure| told(failure, &cancel, limit))
    }

    async fn attempt(&mut self, operation: Operation, bounds: &Bounds) -> Result<Answer, Failure> {
        if let Some(place) = self.transaction {
            let done = self.at(place, operation, bounds).await;
            return done.map_err(|failure| match failure {
                Failure::NotDone { .. } | Failure::TooFarBehind => transaction_lost().into(),
                failure => failure,
            });
        }
        match &operation {
            Operation::Describe { level, .. } | Operation::Read { level, .. } => {
                let level = *level;
                self.near(operation, level, bounds).await
            }
            Operation::Run { open: Open::Snapshot(level), .. } => {
                let level = *level;
                self.near(operation, level, bounds).await
            }
            Operation::Rollback => Ok(Answer::empty(&self.shared.spool)),
            Operation::Write(_)
            | Operation::Alone(_)
            | Operation::Run { open: Open::Writer { .. }, .. }
            | Operation::CopyIn { open: Open::Writer { .. }, .. } => {
                self.at_primary(operation, bounds).await
            }
            _ => Err(transaction_lost().into()),
        }
    }

    /// Reads at a copy nearby, or at the primary where none is fresh enough.
    async fn near(
        &mut self,
        mut operation: Operation,
        level: Level,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        if level != Level::Primary
            && let Some(place) = self.near_place()?
        {
            let level = self.with_mark(level);
            operation.set_level(level);
            let served = served_as(level);
            match self.at(place, operation.clone(), bounds).await {
                Ok(answer) => {
                    self.shared.statistics.served(served);
                    return Ok(answer);
                }
                Err(Failure::TooFarBehind | Failure::NotDone { .. } | Failure::Unknown(_)) => {}
                Err(Failure::WrongGeneration(error)) => {
                    if matches!(level, Level::Session(token) if token != self.mark.get()) {
                        return Err(Failure::WrongGeneration(error));
                    }
                    // What was seen in another life of the database says nothing of
                    // this one.
                    self.mark.forget();
                }
                Err(failure) => return Err(failure),
            }
        }
        let at_primary = match self.with_mark(level) {
            Level::Session(token) => Level::Session(token),
            Level::Linearizable => Level::Linearizable,
            _ => Level::Primary,
        };
        operation.set_level(at_primary);
        let answer = self.at_primary(operation, bounds).await?;
        self.shared.statistics.served(Served::ReadPrimary);
        Ok(answer)
    }

    /// Fills in what the user has seen.
    fn with_mark(&self, level: Level) -> Level {
        match level {
            Level::Session(given) => Level::Session(self.mark.highest(given)),
            level => level,
        }
    }

    fn near_place(&mut self) -> Result<Option<Place>, Failure> {
        let config = &self.shared.config;
        self.shard(|place| match &place.local {
            Some(_) => Some(Place::Here),
            None => place.near_copy(config.node, &config.dc).map(Place::At),
        })
    }

    /// What the directory says of the shard.
    fn shard<T>(&self, look: impl FnOnce(&ShardPlace) -> T) -> Result<T, Failure> {
        let directory = self.directory.borrow();
        match directory.databases.get(&self.database).and_then(|found| found.shards.get(&0)) {
            Some(place) => Ok(look(place)),
            None => Err(Failure::sql(
                SqlState::UNDEFINED_DATABASE,
                format!("database \"{}\" does not exist", self.database),
            )),
        }
    }

    /// Has something done at the primary. What is known not to have been done is
    /// tried again for a bounded time, wherever the primary is then.
    async fn at_primary(
        &mut self,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        let until = bounds.deadline.min(Instant::now() + self.shared.config.limits.primary_wait);
        let mut has_waited = false;
        let mut failed = None;
        loop {
            let tried = self.primary_place(failed)?;
            let failure = match tried {
                Some(place) => match self.at(place, operation.clone(), bounds).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                None => Failure::not_done("the database has no primary now", None),
            };
            self.primary = None;
            let (why, hint) = match failure {
                Failure::NotDone { why, primary } => (why, primary),
                Failure::TooFarBehind => (Box::new(Failure::TooFarBehind.into_error()), None),
                Failure::Unknown(_) if operation.is_repeatable() => {
                    (Box::new(outcome_unknown()), None)
                }
                failure => return Err(failure),
            };
            if !has_waited {
                has_waited = true;
                count(&self.shared.statistics.counters.waited_for_primary);
            }
            if bounds.cancel.is_canceled() || Instant::now() >= until {
                return Err(Failure::NotDone { why, primary: hint });
            }
            let asked = tried.map(|place| self.node_of(place));
            failed = asked;
            match hint {
                Some(primary) if Some(primary) != asked => self.primary = Some(primary),
                _ => self.wait_for_change(until).await,
            }
        }
    }

    fn node_of(&self, place: Place) -> NodeId {
        match place {
            Place::Here => self.shared.config.node,
            Place::At(node) => node,
        }
    }

    /// Where the primary should be: what somebody has just said, what the copy here
    /// hears, which is sooner than what the directory is told, or what that says. Whom
    /// the copy hears of may be gone, so it is not believed twice in a row.
    fn primary_place(&self, failed: Option<NodeId>) -> Result<Option<Place>, Failure> {
        let me = self.shared.config.node;
        let told = self.primary;
        let node = self.shard(|place| {
            let heard = || LocalSession::primary_of(place.local.as_ref()?, me);
            told.or_else(|| heard().filter(|node| Some(*node) != failed)).or(place.primary)
        })?;
        Ok(node.map(|node| if node == me { Place::Here } else { Place::At(node) }))
    }

    async fn wait_for_change(&mut self, until: Instant) {
        let wait = LOOK.min(until.saturating_duration_since(Instant::now()));
        let copy = self.shard(|place| place.local.as_ref().map(rung_shard::Shard::state));
        let copy_changes = async {
            match copy {
                Ok(Some(mut state)) => drop(state.changed().await),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = copy_changes => {}
            // Also when the node that told us of places is gone.
            _ = self.directory.changed() => {}
        }
    }

    async fn at(
        &mut self,
        place: Place,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        self.last = place;
        let done = match place {
            Place::Here => self.here(operation, bounds).await,
            Place::At(node) => self.over_link(node, operation, bounds).await,
        };
        let is_open = match place {
            Place::Here => self.local.as_ref().is_some_and(LocalSession::has_transaction),
            Place::At(node) => self.link(node).has_transaction(),
        };
        self.transaction = is_open.then_some(place);
        if let Ok(Answer { token: Some(token), .. }) = &done {
            self.mark.observe(*token);
        }
        done
    }

    async fn here(&mut self, operation: Operation, bounds: &Bounds) -> Result<Answer, Failure> {
        if self.local.is_none() {
            let Some(shard) = self.shard(|place| place.local.clone())? else {
                return Err(Failure::not_done("this node has no copy of the database", None));
            };
            self.local = Some(LocalSession::new(shard, self.shared.spool.clone()));
        }
        let Some(local) = &mut self.local else {
            return Err(Failure::not_done("this node has no copy of the database", None));
        };
        let done = local.perform(operation, bounds).await;
        if matches!(done, Err(Failure::NotDone { .. })) && !local.has_transaction() {
            // The node may have another handle by now.
            self.local = None;
        }
        done
    }

    fn link(&mut self, node: NodeId) -> &mut Link {
        let known = self.links.iter().position(|link| link.node() == node);
        let index = match known {
            Some(index) => index,
            None => {
                // A link to a node that is neither the primary nor a copy nearby any
                // more is not kept.
                if self.links.len() >= 3 {
                    self.links.remove(0);
                }
                self.links.push(Link::new(self.shared.clone(), node, &self.database));
                self.links.len() - 1
            }
        };
        &mut self.links[index]
    }

    async fn over_link(
        &mut self,
        node: NodeId,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        count(&self.shared.statistics.counters.sent);
        self.link(node).perform(operation, bounds).await
    }

    /// The session ends: what is open is rolled back.
    pub async fn close(&mut self) {
        let bounds = Bounds {
            deadline: Instant::now() + Duration::from_secs(1),
            cancel: Cancel::new(),
            canceled: self.cancellation.listen(),
        };
        if let Some(place) = self.transaction {
            let _ = self.at(place, Operation::Rollback, &bounds).await;
        }
        self.links.clear();
    }
}

impl Operation {
    fn set_level(&mut self, to: Level) {
        match self {
            Operation::Describe { level, .. }
            | Operation::Read { level, .. }
            | Operation::Run { open: Open::Snapshot(level), .. } => *level = to,
            _ => {}
        }
    }
}

fn served_as(level: Level) -> Served {
    match level {
        Level::Any => Served::ReadAny,
        Level::Bounded(_) => Served::ReadBounded,
        Level::Session(_) => Served::ReadSession,
        Level::Linearizable => Served::ReadLinearizable,
        Level::Primary => Served::ReadPrimary,
    }
}

/// What the client is told. What it has asked for itself, or its own limit, is said
/// in PostgreSQL's words.
fn told(failure: Failure, cancel: &Cancel, limit: Option<Duration>) -> SqlError {
    let mut error = failure.into_error();
    if error.state == SqlState::QUERY_CANCELED {
        if cancel.is_canceled() {
            "canceling statement due to user request".clone_into(&mut error.message);
        } else if limit.is_some() {
            "canceling statement due to statement timeout".clone_into(&mut error.message);
        }
    }
    error
}
