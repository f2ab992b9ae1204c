//! New generations of databases, and what is left of the old ones.

use rung_proto::api::{Change, Tail, TailPage, TailReplayed, TailRequest};

use crate::args::{ConsentOptions, RecoverOptions, TailCommand};
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::table::Table;
use crate::render::text::clean;
use crate::render::time;
use crate::wire::encode;

impl ConsentOptions {
    pub fn consent(self) -> rung_proto::api::Consent {
        rung_proto::api::Consent { data_loss: self.accept_data_loss, fenced: self.confirm_fenced }
    }
}

pub async fn recover(
    screen: &Screen,
    client: &Client,
    wanted: RecoverOptions,
) -> Result<Exit, Trouble> {
    let change = Change::RecoverDatabase {
        database: wanted.database,
        shard: wanted.shard,
        from: wanted.from,
        consent: wanted.consent.consent(),
    };
    mutation::run(screen, client, change, &wanted.options).await
}

pub async fn tail(screen: &Screen, client: &Client, command: TailCommand) -> Result<Exit, Trouble> {
    match command {
        TailCommand::Ls { database } => {
            let path = format!("/api/v1/databases/{}/tails", encode(&database));
            let tails: Vec<Tail> = client.get(&path).await?;
            screen.show(
                &tails,
                |tails| tails.iter().map(|tail| tail.file.clone()).collect(),
                |tails| screen.table(&table(tails)),
            );
        }
        TailCommand::Show { database, file } => {
            let path = format!("/api/v1/databases/{}/tails/{}", encode(&database), encode(&file));
            let page: TailPage = client.get(&path).await?;
            screen.show(&page, |page| vec![page.tail.file.clone()], |page| text(screen, page));
        }
        TailCommand::Replay { database, file } => {
            let path = format!("/api/v1/databases/{}/tails/replay", encode(&database));
            let done: TailReplayed = client.long_change(&path, &TailRequest { file }).await?;
            screen.show(
                &done,
                |done| vec![done.position.clone()],
                |done| replayed(&database, done),
            );
            if done.conflicts > 0 {
                return Ok(Exit::Failed);
            }
        }
    }
    Ok(Exit::Done)
}

fn table(tails: &[Tail]) -> Table {
    let mut table =
        Table::new(&["TAIL", "NODE", "GEN", "FROM", "TO", "BATCHES", "ROWS", "ACKNOWLEDGED", "AT"]);
    for tail in tails {
        let rows = match &tail.whole {
            Some(_) => "not compared".to_owned(),
            None => tail.rows.to_string(),
        };
        let at = time::short(tail.at_ms);
        let at = if tail.replayed_ms.is_some() { format!("{at}, replayed") } else { at };
        table.row(vec![
            tail.file.as_str().into(),
            tail.node.as_str().into(),
            tail.generation.to_string().into(),
            tail.from.as_str().into(),
            tail.to.as_str().into(),
            tail.entries.to_string().into(),
            rows.into(),
            tail.acknowledged_rows.to_string().into(),
            at.into(),
        ]);
    }
    table
}

fn text(screen: &Screen, page: &TailPage) -> String {
    let mut out = screen.table(&table(std::slice::from_ref(&page.tail)));
    if let Some(whole) = &page.tail.whole {
        out.push_str(&format!("the whole copy is in tails/{whole} of the node's data directory\n"));
    }
    for line in &page.lines {
        out.push_str(&clean(line));
        out.push('\n');
    }
    out
}

fn replayed(database: &str, done: &TailReplayed) -> String {
    let mut out = format!(
        "{} rows applied, {} were there already, {} conflicts; {database} is at {}\n",
        done.applied, done.already, done.conflicts, done.position
    );
    for conflict in &done.told {
        out.push_str(&format!("  {}\n", clean(conflict)));
    }
    out
}
