//! Comparing all copies of a database.

use std::time::{Duration, Instant};

use rung_proto::api::{ScrubRequested, ScrubStarted, Status};
use rung_proto::soft::ScrubStatus;
use rung_proto::{Code, Failure};

use crate::args::Patience;
use crate::client::Client;
use crate::output::{Exit, Screen, Trouble};
use crate::wire::encode;

const LOOK: Duration = Duration::from_millis(300);

/// Begins a scrub, waits until it has ended, and shows what it found.
pub async fn run(
    screen: &Screen,
    client: &Client,
    database: &str,
    rate: u64,
    patience: Patience,
) -> Result<Exit, Trouble> {
    let until = Instant::now() + patience.timeout;
    let path = format!("/api/v1/databases/{}/scrub", encode(database));
    let request = ScrubRequested { bytes_per_second: Some(rate << 20) };
    let started: ScrubStarted = client.long_change(&path, &request).await?;
    let mut last = None;
    let ended = loop {
        tokio::time::sleep(LOOK).await;
        let status: Result<Status, Failure> = client.get("/api/v1/status").await;
        let shards = status.map(|status| status.db).unwrap_or_default();
        let scrubs = shards.into_iter().filter(|shard| shard.database == database);
        let scrub = scrubs.filter_map(|shard| shard.scrub).find(|scrub| scrub.id >= started.id);
        last = scrub.or(last);
        match &last {
            Some(scrub) if !scrub.running => break scrub.clone(),
            _ if Instant::now() >= until => return Err(not_ended(database, last.as_ref()).into()),
            _ => {}
        }
    };
    screen.show(
        &ended,
        |ended| ended.damage.clone(),
        |ended| {
            let (done, pages) = (ended.pages_done, ended.pages);
            let found = ended.damage.iter().map(|line| format!("{line}\n"));
            format!("{done} of {pages} pages compared\n{}", found.collect::<String>())
        },
    );
    if let Some(problem) = &ended.problem {
        screen.note(problem);
    }
    let is_whole = ended.damage.is_empty() && ended.pages_done == ended.pages;
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

fn not_ended(database: &str, last: Option<&ScrubStatus>) -> Failure {
    let done = last.map_or((0, 0), |scrub| (scrub.pages_done, scrub.pages));
    Failure::new(Code::OutcomeUnknown, format!("the scrub of {database} has not ended"))
        .because(format!("{} of {} pages were compared", done.0, done.1))
        .next("it goes on; `ctl db show`, and `ctl doctor` tells what it finds")
}
