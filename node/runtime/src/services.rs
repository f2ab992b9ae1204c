//! What other nodes may call on this one, by service number.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rung_transport::{CallHandler, CallRefusal, IncomingCall};

/// Handles the calls of one service. The function itself runs in the order in
/// which calls arrive on a lane and must not block; its futures run at the same
/// time.
pub type ServiceHandler =
    Arc<dyn Fn(IncomingCall) -> BoxFuture<'static, Result<Bytes, CallRefusal>> + Send + Sync>;

/// Makes a handler of an async function.
pub fn service<F>(handler: impl Fn(IncomingCall) -> F + Send + Sync + 'static) -> ServiceHandler
where
    F: Future<Output = Result<Bytes, CallRefusal>> + Send + 'static,
{
    Arc::new(move |call| handler(call).boxed())
}

/// Two services want one number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service {number} is {owner} already and cannot be {wanted} too")]
pub struct ServiceTaken {
    pub number: u16,
    pub owner: &'static str,
    pub wanted: &'static str,
}

/// The services of a node. It may be filled after the mesh was started: until
/// then callers are told that there is no such service.
#[derive(Default)]
pub struct ServiceTable {
    services: RwLock<BTreeMap<u16, (&'static str, ServiceHandler)>>,
}

impl ServiceTable {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a service; `name` is for messages.
    ///
    /// # Errors
    /// When its number is taken.
    pub fn register(
        &self,
        number: u16,
        name: &'static str,
        handler: ServiceHandler,
    ) -> Result<(), ServiceTaken> {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((owner, _)) = services.get(&number) {
            return Err(ServiceTaken { number, owner, wanted: name });
        }
        services.insert(number, (name, handler));
        Ok(())
    }

    /// Takes a service away; whether there was one.
    pub fn unregister(&self, number: u16) -> bool {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        services.remove(&number).is_some()
    }

    /// The function that the mesh wants.
    pub fn handler(self: &Arc<Self>) -> CallHandler {
        let table = self.clone();
        Arc::new(move |call| {
            let number = call.service;
            match table.find(number) {
                Some(handler) => handler(call),
                None => async move { Err(CallRefusal::UnknownService(number)) }.boxed(),
            }
        })
    }

    fn find(&self, number: u16) -> Option<ServiceHandler> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.get(&number).map(|(_, handler)| handler.clone())
    }
}
