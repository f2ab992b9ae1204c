//! The commands, one module for each group.

mod apps;
mod archives;
mod databases;
mod db_recover;
mod explain;
mod inspect;
mod nodes;
mod recover;
mod scrub;
mod streams;
mod tokens;

use std::time::{Duration, Instant};

use clap::CommandFactory;
use rung_proto::OperationId;
use rung_proto::api::{Change, Operation};

use crate::args::{Arguments, Command, OpCommand};
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble, now_ms};
use crate::render::operation;

/// Runs one command.
///
/// # Errors
/// What went wrong and the exit code that it means.
pub async fn run(screen: &Screen, arguments: Arguments) -> Result<Exit, Trouble> {
    let data = arguments.data;
    let client = || Client::find(data.clone());
    match arguments.command {
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            // Into memory first: clap_complete panics when its writer fails.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "ctl", &mut script);
            screen.print(&String::from_utf8_lossy(&script));
            Ok(Exit::Done)
        }
        Command::Explain { subject } => explain::run(screen, client, subject.as_deref()).await,
        Command::Status { watch } => inspect::status(screen, &client()?, watch).await,
        Command::Top { watch } => inspect::top(screen, &client()?, watch).await,
        Command::Doctor => inspect::doctor(screen, &client()?).await,
        Command::Audit => inspect::audit(screen, &client()?).await,
        Command::Ui => inspect::ui(screen, &client()?).await,
        Command::Events { watch, since } => streams::events(screen, &client()?, watch, since).await,
        Command::Logs { follow, lines, node, target } => {
            let wanted = streams::Logs { target, node, lines, follow };
            streams::logs(screen, &client()?, wanted).await
        }
        Command::Deploy { folder, options } => {
            apps::deploy(screen, &client()?, folder, &options).await
        }
        Command::Rollback { app, to, options } => {
            let change = Change::Rollback { app, release: to };
            mutation::run(screen, &client()?, change, &options).await
        }
        Command::Env(command) => apps::env(screen, &client()?, command).await,
        Command::App(command) => apps::app(screen, &client()?, command).await,
        Command::Db(command) => databases::run(screen, &client()?, command).await,
        Command::Promote { node, database, shard, consent, options } => {
            let change = Change::Promote { node, database, shard, consent: consent.consent() };
            mutation::run(screen, &client()?, change, &options).await
        }
        Command::Recover { consent } => recover::run(screen, &client()?, consent).await,
        Command::Node(command) => nodes::node(screen, &client()?, command).await,
        Command::Role(command) => nodes::role(screen, &client()?, command).await,
        Command::Move { role, node, from, options } => {
            let change = Change::Move { role, node, from };
            mutation::run(screen, &client()?, change, &options).await
        }
        Command::Scale { what, count, app, options } => {
            let change = nodes::scale(what, count, app)?;
            mutation::run(screen, &client()?, change, &options).await
        }
        Command::Token(command) => tokens::run(screen, &client()?, command).await,
        Command::Op(command) => op(screen, &client()?, command).await,
    }
}

async fn op(screen: &Screen, client: &Client, command: OpCommand) -> Result<Exit, Trouble> {
    match command {
        OpCommand::Ls => {
            let operations: Vec<Operation> = client.get("/api/v1/operations").await?;
            screen.show(
                &operations,
                |all| all.iter().map(|operation| operation.id.to_string()).collect(),
                |all| screen.table(&operation::table(all, screen.is_wide(), now_ms())),
            );
        }
        OpCommand::Show { id } => {
            let operation: Operation = client.get(&format!("/api/v1/operations/{id}")).await?;
            screen.show(
                &operation,
                |operation| vec![operation.id.to_string()],
                |operation| operation::page(operation, screen.color),
            );
        }
        OpCommand::Watch { id, patience } => {
            let deadline = Instant::now() + patience.timeout;
            return mutation::follow(screen, client, OperationId(id), None, deadline).await;
        }
    }
    Ok(Exit::Done)
}

/// How often what is watched without a stream is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
