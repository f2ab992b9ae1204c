//! A site for photos, as anybody would write it. See README.md.

mod accounts;
mod database;
mod pages;
mod people;
mod photos;
mod request;
mod server;

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::database::Database;

fn main() -> Result<(), String> {
    // One thread is enough for what it does; more instances use more processors.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(run()))
}

async fn run() -> Result<(), String> {
    let address = listen_address()?;
    let url = variable("DATABASE_URL")?;
    let replica = std::env::var("DATABASE_REPLICA_URL").unwrap_or_else(|_| url.clone());
    let database = Rc::new(Database::new(&url, &replica)?);
    database.create_schema().await.map_err(|error| format!("the tables: {error}"))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    println!("listening on {address}");
    server::serve(listener, database, async move {
        terminate.recv().await;
        println!("SIGTERM: finishing what is in progress");
    })
    .await;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("the variable {name} is not set"))
}

fn listen_address() -> Result<SocketAddr, String> {
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let address = format!("{host}:{}", variable("PORT")?);
    address.parse().map_err(|_| format!("HOST and PORT give {address:?}, which is no address"))
}
