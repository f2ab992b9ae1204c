//! A small HTTP server that shows which process answered. It speaks HTTP/1.1
//! with keep-alive, chunked bodies and WebSocket, by hand, so that a reader sees
//! all there is. See README.md for its paths.

mod handlers;
mod http;
mod server;
mod sha1;
mod websocket;

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<(), String> {
    let address = address_of_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        println!("listening on {address}");
        server::serve(listener, async move {
            tokio::select! {
                _ = terminate.recv() => println!("SIGTERM: finishing what is in progress"),
                _ = interrupt.recv() => println!("SIGINT: finishing what is in progress"),
            }
        })
        .await;
        println!("done");
        Ok(())
    })
}

fn address_of_environment() -> Result<SocketAddr, String> {
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let port = std::env::var("PORT").unwrap_or_else(|_| "8000".into());
    let host: std::net::IpAddr =
        host.parse().map_err(|_| format!("HOST is {host:?}, which is no IP address"))?;
    let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}, which is no port"))?;
    Ok(SocketAddr::new(host, port))
}
