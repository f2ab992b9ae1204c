//! How fresh a read is: waits until this copy has what the read must see.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rung_consensus::{Group, ReadError};
use tokio::time::timeout_at;

use crate::core::Core;
use crate::error::ShardError;
use crate::read::ReadLevel;
use crate::token::Token;

/// When this copy last asked the leader, and heard that a quorum follows it.
#[derive(Default)]
pub(crate) struct Fresh {
    /// Held by the one that asks: who waits for it meanwhile needs to ask only if it
    /// began before he came.
    asking: tokio::sync::Mutex<()>,
    /// When the last confirmed question was sent. All that was committed then is
    /// applied here.
    confirmed: Mutex<Option<Instant>>,
}

impl Fresh {
    fn confirmed(&self) -> Option<Instant> {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a reading that begins then is as fresh as `level` asks.
    pub async fn wait(
        &self,
        core: &Core,
        group: &Group,
        level: ReadLevel,
        until: Instant,
    ) -> Result<(), ShardError> {
        match level {
            ReadLevel::Any => Ok(()),
            ReadLevel::Session(token) => session(core, token, until).await,
            ReadLevel::Linearizable => self.asked_since(group, Instant::now(), until).await,
            ReadLevel::Bounded(age) => {
                let asked = Instant::now();
                let oldest = asked.checked_sub(age);
                if self.confirmed().is_some_and(|confirmed| Some(confirmed) >= oldest) {
                    return Ok(());
                }
                match self.asked_since(group, oldest.unwrap_or(asked), until).await {
                    Err(ShardError::NoQuorum | ShardError::TimedOut(_)) => {
                        Err(ShardError::TooFarBehind)
                    }
                    asked => asked,
                }
            }
        }
    }

    /// Waits until a question that was sent at `since` or later is answered, and sends
    /// it if nobody has.
    async fn asked_since(
        &self,
        group: &Group,
        since: Instant,
        until: Instant,
    ) -> Result<(), ShardError> {
        const WAITED: ShardError = ShardError::TimedOut("waited for the leader's confirmation");
        let asking = timeout_at(until.into(), self.asking.lock()).await.map_err(|_| WAITED)?;
        if self.confirmed().is_some_and(|confirmed| confirmed >= since) {
            return Ok(());
        }
        let sent = Instant::now();
        let left = until.saturating_duration_since(sent);
        let confirmed = group.read_barrier(left).await.map_err(|error| match error {
            ReadError::Deadline => WAITED,
            ReadError::NotLeader { .. } | ReadError::NoQuorum(_) => ShardError::NoQuorum,
            ReadError::Stopped(why) => ShardError::Stopped(why),
        });
        if confirmed.is_ok() {
            *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        }
        drop(asking);
        confirmed.map(drop)
    }
}

/// Waits until this copy has what the session has seen already.
async fn session(core: &Core, token: Token, until: Instant) -> Result<(), ShardError> {
    check_token(core, &token)?;
    if core.gate.position().sequence >= token.sequence {
        return Ok(());
    }
    let until = until.min(Instant::now() + core.config.limits.session_wait);
    let mut settled = core.settled.subscribe();
    let reached = settled.wait_for(|settled| settled.sequence >= token.sequence);
    match timeout_at(until.into(), reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ShardError::Stopped("it was closed".to_owned())),
        Err(_) => Err(ShardError::TooFarBehind),
    }
}

fn check_token(core: &Core, token: &Token) -> Result<(), ShardError> {
    let config = &core.config;
    if token.generation != config.generation {
        return Err(ShardError::WrongGeneration {
            token: token.generation,
            shard: config.generation,
        });
    }
    if token.shard != config.number {
        return Err(ShardError::WrongShard { token: token.shard, shard: config.number });
    }
    Ok(())
}
