//! `rungd`: a node of Rung.

mod backend;
mod bootstrap;
mod bundles;
mod certificates;
mod clock;
mod control;
mod control_machine;
mod control_recovery;
mod data_dir;
mod database_access;
mod database_archive;
mod database_backup;
mod database_scrub;
mod database_top;
mod databases;
mod dns_role;
mod doctor;
mod follow;
mod lb_role;
mod leader;
mod leader_requests;
mod logs;
mod metrics;
mod node;
mod observe;
mod open_files;
mod options;
mod protocol;
mod request_actors;
mod role_log;
mod roles;
mod routing;
mod services;
mod site_certificates;
mod soft_state;
mod sql_certificate;
mod sql_role;
mod status;
mod streams;
mod tail;
mod timing;
mod web_role;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rung_admin::{AdminConfig, AdminServer};
use rung_proto::{Code, Failure};
use rung_runtime::{Watchdog, WatchdogConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::backend::NodeBackend;
use crate::data_dir::DataDir;
use crate::node::Node;
use crate::options::Options;
use crate::role_log::RoleLog;

/// What stopping in order may take before the process ends anyway.
const STOP: Duration = Duration::from_secs(25);
/// The libraries below say much about nothing, and strangers can make the DNS
/// library warn.
const DEFAULT_LOG: &str = "info,openraft=warn,hickory_proto=error";
const STOP_APPS: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    // Apps are started through a second run of this very program.
    if std::env::args().nth(1).as_deref() == Some(rung_web::EXEC_ARGUMENT) {
        rung_web::exec_app();
    }
    let options = Options::parse();
    let role_log = RoleLog::new();
    start_logging(&role_log);
    open_files::raise_limit();
    match run(&options, role_log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_failure(&failure);
            ExitCode::from(failure.code.exit_code())
        }
    }
}

fn start_logging(role_log: &Arc<RoleLog>) {
    let filter =
        EnvFilter::try_from_env("RUNG_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let lines: Box<dyn Layer<_> + Send + Sync> = if std::io::stderr().is_terminal() {
        Box::new(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
    } else {
        Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .with_current_span(false)
                .with_writer(std::io::stderr),
        )
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(role_log::layer(Arc::clone(role_log)))
        .init();
}

fn print_failure(failure: &Failure) {
    eprintln!("rungd: {}", failure.what);
    if !failure.why.is_empty() {
        eprintln!("  why:  {}", failure.why);
    }
    if !failure.next.is_empty() {
        eprintln!("  next: {}", failure.next);
    }
    eprintln!("  code: {}", failure.code);
}

fn run(options: &Options, role_log: Arc<RoleLog>) -> Result<(), Failure> {
    let internal = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Code::Internal, what).because(error)
    };
    let data = Arc::new(DataDir::open(&options.data)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(core_threads())
        .thread_name("rung-core")
        .enable_all()
        .build()
        .map_err(|error| internal("the core runtime could not start", &error))?;
    let watchdog = Watchdog::start(WatchdogConfig::default(), |stall| {
        tracing::error!(?stall, "an event loop stood still");
    })
    .map_err(|error| internal("the watchdog could not start", &error))?;
    let _watch = watchdog.watch("core", runtime.handle(), true);
    let result = runtime.block_on(serve(options, data, role_log));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Threads of the core runtime: membership, consensus and control never wait for a busy
/// role, whose data plane has threads of its own. A commit is a chain of short tasks,
/// which a second thread of a small machine lengthens by waking it for each.
fn core_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if cores > 2 { 2 } else { 1 }
}

async fn serve(
    options: &Options,
    data: Arc<DataDir>,
    role_log: Arc<RoleLog>,
) -> Result<(), Failure> {
    let internal = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Code::Internal, what).because(error)
    };
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| internal("signals cannot be received", &error))?;
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| internal("signals cannot be received", &error))?;
    let node = tokio::select! {
        node = Node::start(options, data, role_log) => node?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    roles::start(&node).await.map_err(|error| internal("an actor could not start", &error))?;
    let config = AdminConfig {
        socket_dir: node.data.path().to_owned(),
        upload_dir: node.data.join("uploads"),
        tcp: node.addresses.admin,
        names: Vec::new(),
        limits: rung_admin::Limits::default(),
    };
    let backend = Arc::new(NodeBackend::new(Arc::clone(&node)));
    let admin = AdminServer::start(config, backend).await.map_err(Failure::from)?;
    let (name, id) = (node.name(), node.id);
    tracing::info!(node = name, %id, incarnation = %node.incarnation, "serving");
    let mut log_failed = node.wal.failed();
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        reason = log_failed.wait_for(Option::is_some) => {
            let why = reason.ok().and_then(|reason| reason.clone()).unwrap_or_default();
            Err(why)
        }
    };
    if let Err(why) = ended {
        // What the disk holds is not known any more, so nothing may be promised
        // from it: the process ends, and a start finds out what is there.
        return Err(Failure::new(Code::DiskFailed, "the log of this node has failed")
            .because(why)
            .next("check the disk, then start the node again"));
    }
    tracing::info!(node = name, "stopping");
    if tokio::time::timeout(STOP, stop(&node, admin)).await.is_err() {
        tracing::warn!("stopping took too long; the rest ends with the process");
    }
    Ok(())
}

/// Lets go in the order in which others notice least: apps first, while the
/// balancers still hear of it, then membership, so that no name server gives
/// this node's balancer out while it serves its last requests.
async fn stop(node: &Arc<Node>, admin: AdminServer) {
    node.web.stop(STOP_APPS).await;
    node.membership.leave().await;
    node.control.step_down().await;
    node.supervisor.stop(Duration::from_secs(6)).await;
    node.databases.close().await;
    admin.stop().await;
    node.consensus.shutdown().await;
    node.mesh.close().await;
    node.wal.close();
}
