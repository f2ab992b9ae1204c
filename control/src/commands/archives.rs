//! Archives of databases.

use std::path::Path;
use std::time::Duration;

use rung_proto::api::{ArchiveContent, ArchiveRequest, ArchiveSetting, Change, Status};
use rung_proto::{Code, Failure};

use crate::args::{ArchiveArguments, ChangeOptions, Patience};
use crate::client::Client;
use crate::commands::databases::{absolute, names, not_there};
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::{databases, time};

/// How long a new database may take to serve.
const CREATE: Duration = Duration::from_secs(120);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Archives a database from now on, or no longer.
pub async fn change(
    screen: &Screen,
    client: &Client,
    setting: ArchiveArguments,
) -> Result<Exit, Trouble> {
    let archive = match &setting.to {
        Some(dir) => Some(ArchiveSetting {
            dir: absolute(dir)?,
            keep_ms: millis(setting.keep),
            base_ms: millis(setting.base_every),
        }),
        None => None,
    };
    let database = setting.database.unwrap_or_default();
    let change = Change::ArchiveDatabase { database, archive };
    mutation::run(screen, client, change, &setting.options).await
}

/// Shows what can be restored from the archive of a database, or in a directory.
pub async fn list(screen: &Screen, client: &Client, what: &str) -> Result<(), Trouble> {
    let dir = if what.contains('/') {
        absolute(Path::new(what))?
    } else {
        let status: Status = client.get("/api/v1/status").await?;
        let known = names(&status.db);
        let shard = status.db.into_iter().find(|shard| shard.database == what);
        let shard = shard.ok_or_else(|| not_there(what, &known))?;
        let archive = shard.archive.ok_or_else(|| {
            Failure::new(Code::NotFound, format!("{what} is not archived"))
                .next(format!("`ctl db archive {what} --to DIR`, or say the directory"))
        })?;
        archive.dir
    };
    let content: ArchiveContent =
        client.long_change("/api/v1/archives", &ArchiveRequest { dir }).await?;
    screen.show(
        &content,
        |content| content.ranges.iter().map(|range| time::long(range.to_ms)).collect(),
        |content| screen.table(&databases::ranges(content)),
    );
    for damaged in &content.damaged {
        screen.note(&format!("damaged: {damaged}"));
    }
    Ok(())
}

/// Creates a database that is not there.
pub async fn ensure(screen: &Screen, client: &Client, database: &str) -> Result<(), Trouble> {
    let status: Status = client.get("/api/v1/status").await?;
    if !names(&status.db).iter().any(|known| known == database) {
        let change = Change::CreateDatabase { name: database.to_owned() };
        let patience = Patience { timeout: CREATE };
        let options = ChangeOptions { dry_run: false, if_index: None, patience };
        mutation::run(screen, client, change, &options).await?;
    }
    Ok(())
}
