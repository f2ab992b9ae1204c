//! The handle: starting, changing, watching and stopping a balancer.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rung_proto::{InstanceId, NodeId};
use rung_transport::Mesh;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::access_log;
use crate::config::{LbConfig, LbError};
use crate::metrics::LbMetrics;
use crate::shared::{Shared, Worker};
use crate::table::RoutingTable;
use crate::tls::{Certificate, Certificates, server_config};
use crate::worker::{self, Command, Listeners, listen};

/// How often a stop looks whether the last request is done.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How long a thread may take to acknowledge; they never block, so one that
/// does not is broken, and `failed` tells.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// A running load balancer. Dropping it ends it without draining.
pub struct Balancer {
    shared: Arc<Shared>,
    http: SocketAddr,
    https: Option<SocketAddr>,
    threads: Vec<mpsc::Sender<Command>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    failed: watch::Receiver<Option<String>>,
    /// One table at a time.
    updating: tokio::sync::Mutex<()>,
}

impl Balancer {
    /// Binds the ports and starts the threads. Until the first
    /// [`Balancer::update`] every request is answered 404.
    ///
    /// # Errors
    /// A port that is taken or not allowed, an access log that cannot be opened.
    pub fn start(config: LbConfig, mesh: Option<Mesh>) -> Result<Balancer, LbError> {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = if config.threads == 0 { cores() } else { config.threads };
        let http = listen(config.http, threads)?;
        let https = config.https.map(|address| listen(address, threads)).transpose()?;
        let bound = |listeners: &[std::net::TcpListener]| {
            listeners.first().and_then(|listener| listener.local_addr().ok())
        };
        let http_address = bound(&http).unwrap_or(config.http);
        let https_address = https.as_deref().and_then(bound);
        let certificates = Arc::new(Certificates::default());
        let tls = match https {
            Some(_) => Some(TlsAcceptor::from(Arc::new(server_config(certificates.clone())?))),
            None => None,
        };
        let (log, log_thread) = access_log::start(&config.access_log)?.unzip();
        let shared = Arc::new(Shared::new(config, threads, mesh, certificates, log));
        let (failed_sender, failed) = watch::channel(None);
        let mut balancer = Balancer {
            shared: shared.clone(),
            http: http_address,
            https: https_address,
            threads: Vec::new(),
            handles: Mutex::new(log_thread.into_iter().collect()),
            failed,
            updating: tokio::sync::Mutex::default(),
        };
        let mut https = https.map(Vec::into_iter);
        for (index, http) in http.into_iter().enumerate() {
            let listeners = Listeners { http, https: https.as_mut().and_then(Iterator::next) };
            let worker = Arc::new(Worker { index, shared: shared.clone(), log: Mutex::default() });
            let (commands, incoming) = mpsc::channel(64);
            let (tls, failed) = (tls.clone(), failed_sender.clone());
            let handle = std::thread::Builder::new()
                .name(format!("rung-lb-{index}"))
                .spawn(move || run_thread(worker, listeners, tls, incoming, &failed))
                .map_err(LbError::Thread)?;
            balancer.threads.push(commands);
            balancer.handles().push(handle);
        }
        tracing::info!(role = "lb", %http_address, ?https_address, threads, "load balancer listens");
        Ok(balancer)
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens for HTTP; tells the port where 0 was asked for.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens for HTTPS.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Routes by `table` from now on. Returns when every thread does, and the
    /// kept connections to instances that are gone or draining are closed: from
    /// then on no request is sent there that is not counted by
    /// [`Balancer::in_flight`] already. This is the acknowledgement that a drain
    /// waits for. False when a thread did not take the table in time or has
    /// ended: then nothing may be concluded from it.
    pub async fn update(&self, table: RoutingTable) -> bool {
        let _one_at_a_time = self.updating.lock().await;
        let retired = Arc::new(self.shared.replace_table(&table));
        let acknowledged = self.tell_all(|done| Command::Retire(retired.clone(), done));
        let taken = tokio::time::timeout(ACKNOWLEDGE, acknowledged).await.unwrap_or(false);
        if !taken {
            tracing::error!(
                role = "lb",
                version = table.version,
                "a data-plane thread did not acknowledge a routing table"
            );
        }
        taken
    }

    /// Asks all threads and waits for their answers; whether all have answered.
    async fn tell_all(&self, command: impl Fn(oneshot::Sender<()>) -> Command) -> bool {
        let mut all = true;
        let mut answers = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            let (done, answer) = oneshot::channel();
            match thread.send(command(done)).await {
                Ok(()) => answers.push(answer),
                Err(_) => all = false,
            }
        }
        for answer in answers {
            // A thread that ends drops what it was asked.
            all &= answer.await.is_ok();
        }
        all
    }

    /// Prefers other nodes to `node`, and lets safe requests that wait there for
    /// a response try elsewhere, until told otherwise. For a node that is
    /// suspected to be dead.
    pub fn avoid_node(&self, node: NodeId, avoid: bool) {
        self.shared.avoid_node(node, avoid);
    }

    /// Requests and tunnels that are at an instance now.
    pub fn in_flight(&self, id: InstanceId) -> usize {
        self.shared.in_flight(id)
    }

    /// Everything counted so far.
    pub fn metrics(&self) -> LbMetrics {
        self.shared.metrics()
    }

    /// Replaces the certificates for HTTPS; the first one serves names that have
    /// none.
    ///
    /// # Errors
    /// A key that cannot be read or does not belong to its chain; the former
    /// certificates stay.
    pub fn set_certificates(&self, certificates: Vec<Certificate>) -> Result<(), LbError> {
        self.shared.certificates.replace(certificates)
    }

    /// Resolves when a data-plane thread ended that should not have; says which
    /// and why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let reason = match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            // The senders are the threads; none of them is left.
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None if self.shared.stopping.load(Relaxed) => std::future::pending().await,
            None => "every data-plane thread of the load balancer has ended".into(),
        }
    }

    /// Stops listening, lets the requests that are being served end, at most for
    /// `drain`, and ends.
    pub async fn stop(self, drain: Duration) {
        self.shared.stopping.store(true, Relaxed);
        let end = Instant::now() + drain;
        let silent = self.tell_all(Command::StopListening);
        if tokio::time::timeout(drain.max(DRAIN_LOOK), silent).await.is_err() {
            tracing::error!(role = "lb", "a data-plane thread did not stop listening");
        }
        while self.shared.active.load(Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let handles = std::mem::take(&mut *self.handles());
        drop(self);
        // Threads end at once; the last one lets go of the access log.
        let joined = tokio::task::spawn_blocking(move || {
            handles.into_iter().for_each(|handle| drop(handle.join()));
        });
        if joined.await.is_err() {
            tracing::error!(role = "lb", "waiting for the data-plane threads failed");
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        for thread in &self.threads {
            // Full only when the thread does not run any more; it also ends when
            // the sender is gone.
            let _ = thread.try_send(Command::End);
        }
    }
}

fn run_thread(
    worker: Arc<Worker>,
    listeners: Listeners,
    tls: Option<TlsAcceptor>,
    commands: mpsc::Receiver<Command>,
    failed: &watch::Sender<Option<String>>,
) {
    let (index, shared) = (worker.index, worker.shared.clone());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(worker::run(worker, listeners, tls, commands))
    }));
    let reason = match ended {
        Ok(Ok(())) if shared.stopping.load(Relaxed) => return,
        Ok(Ok(())) => "it was told to end".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            text.unwrap_or_else(|| "it panicked".to_owned())
        }
    };
    let reason = format!("data-plane thread {index} of the load balancer ended: {reason}");
    tracing::error!(role = "lb", "{reason}");
    failed.send_replace(Some(reason));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_table_counts_as_taken_only_when_every_thread_took_it() {
        let mut config = LbConfig::new(NodeId(1), "east", "127.0.0.1:0".parse().unwrap());
        config.threads = 2;
        let balancer = Balancer::start(config, None).unwrap();
        assert!(balancer.update(RoutingTable::default()).await);
        balancer.threads[1].send(Command::End).await.unwrap();
        assert!(balancer.failed().await.contains("data-plane thread 1"));
        assert!(!balancer.update(RoutingTable::default()).await);
    }
}
