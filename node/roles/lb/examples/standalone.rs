//! The load balancer alone: proxies a port to given addresses. For measuring,
//! and for trying it against any server.
//!
//! `standalone LISTEN UPSTREAM... [--threads N] [--log FILE]`

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use rung_lb::{AccessLog, AppRoute, Balancer, LbConfig, Place, RoutingTable, Target, TargetState};
use rung_proto::{InstanceId, NodeId};

const USAGE: &str = "usage: standalone LISTEN UPSTREAM... [--threads N] [--log FILE]";

struct Arguments {
    addresses: Vec<SocketAddr>,
    threads: usize,
    log: AccessLog,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { addresses: Vec::new(), threads: 0, log: AccessLog::Off };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--threads" => {
                let text = value()?;
                parsed.threads = text.parse().map_err(|_| format!("{text:?} is no number"))?;
            }
            "--log" => {
                let path = value()?.into();
                parsed.log = AccessLog::File { path, max_bytes: 256 << 20, keep: 1 };
            }
            _ => {
                let address = word.parse().map_err(|_| format!("{word:?} is no ADDRESS:PORT"))?;
                parsed.addresses.push(address);
            }
        }
    }
    if parsed.addresses.len() < 2 { Err(USAGE.into()) } else { Ok(parsed) }
}

async fn serve(arguments: Arguments) -> Result<(), String> {
    let config = LbConfig {
        threads: arguments.threads,
        access_log: arguments.log,
        ..LbConfig::new(NodeId(1), "here", arguments.addresses[0])
    };
    let balancer = Balancer::start(config, None).map_err(|error| error.failure().to_string())?;
    let instances = arguments.addresses[1..]
        .iter()
        .zip(1..)
        .map(|(address, id)| Target {
            id: InstanceId(id),
            node: NodeId(1),
            dc: "here".into(),
            place: Place::Local { address: *address },
            state: TargetState::Ready,
            since_ms: 0,
        })
        .collect();
    let apps = vec![AppRoute::new("app", Vec::new(), instances)];
    balancer.update(RoutingTable { version: 1, apps }).await;
    println!("listening on {}", balancer.http_address());
    tokio::select! {
        reason = balancer.failed() => return Err(reason),
        result = tokio::signal::ctrl_c() => result.map_err(|error| error.to_string())?,
    }
    balancer.stop(Duration::from_secs(5)).await;
    Ok(())
}

fn main() -> ExitCode {
    let result = parse(std::env::args().skip(1)).and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(serve(arguments))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
