//! Databases.

use std::path::Path;

use rung_proto::api::{
    ArchiveRestore, BackupDone, BackupRequest, Change, DatabaseShard, DatabaseTop, DatabaseUrl,
    RestoreDone, Status,
};
use rung_proto::{Code, Failure};

use super::db_recover;
use crate::args::{ArchiveCommand, DbCommand};
use crate::client::Client;
use crate::commands::{archives, scrub};
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::text::bytes;
use crate::render::{databases, time};
use crate::wire::encode;

pub async fn run(screen: &Screen, client: &Client, command: DbCommand) -> Result<Exit, Trouble> {
    match command {
        DbCommand::Ls => {
            let status: Status = client.get("/api/v1/status").await?;
            screen.show(
                &status.db,
                |shards| names(shards),
                |shards| screen.table(&databases::list(shards)),
            );
        }
        DbCommand::Show { database } => {
            let status: Status = client.get("/api/v1/status").await?;
            let mut shards = status.db;
            let known = names(&shards);
            shards.retain(|shard| shard.database == database);
            if shards.is_empty() {
                return Err(not_there(&database, &known).into());
            }
            screen.show(
                &shards,
                |shards| names(shards),
                |shards| {
                    let copies = screen.table(&databases::copies(shards));
                    let archives = databases::archives(shards);
                    if archives.is_empty() {
                        return copies;
                    }
                    format!("{copies}\n{}", screen.table(&archives))
                },
            );
        }
        DbCommand::Backup { database, to } => {
            let request = BackupRequest { path: to.map(|to| absolute(&to)).transpose()? };
            let path = format!("/api/v1/databases/{}/backup", encode(&database));
            let done: BackupDone = client.long_change(&path, &request).await?;
            screen.show(&done, |done| vec![done.path.clone()], |done| format!("{}\n", done.path));
            screen.note(&format!("{} at position {}", bytes(done.bytes), done.position));
        }
        DbCommand::Scrub { database, rate, patience } => {
            return scrub::run(screen, client, &database, rate, patience).await;
        }
        DbCommand::Archive { look: Some(ArchiveCommand::Ls { what }), .. } => {
            archives::list(screen, client, &what).await?;
        }
        DbCommand::Archive { look: None, setting } => {
            return archives::change(screen, client, setting).await;
        }
        DbCommand::Restore { database, file, archive, at, replace: _ } => {
            archives::ensure(screen, client, &database).await?;
            let path = format!("/api/v1/databases/{}/", encode(&database));
            let done: RestoreDone = match (archive, file) {
                (Some(dir), _) => {
                    let request = ArchiveRestore { dir: absolute(&dir)?, at };
                    client.long_change(&format!("{path}restore-archive"), &request).await?
                }
                (None, file) => {
                    let file = file.unwrap_or_default();
                    let request = BackupRequest { path: Some(absolute(&file)?) };
                    client.long_change(&format!("{path}restore"), &request).await?
                }
            };
            screen.show(
                &done,
                |done| vec![done.position.clone()],
                |done| format!("{database} is restored, at position {}\n", done.position),
            );
            if let Some((position, at_ms)) = done.from_archive {
                let at = time::long(at_ms);
                screen.note(&format!("as it was at position {position}, of {at}"));
            }
        }
        DbCommand::Top => {
            let top: DatabaseTop = client.get("/api/v1/databases").await?;
            screen.show(
                &top,
                |top| top.statements.iter().map(|one| one.text.clone()).collect(),
                |top| {
                    let tables = databases::top(top).map(|table| screen.table(&table));
                    tables
                        .into_iter()
                        .filter(|table| !table.is_empty())
                        .collect::<Vec<_>>()
                        .join("\n")
                },
            );
        }
        DbCommand::Recover(wanted) => return db_recover::recover(screen, client, wanted).await,
        DbCommand::Tail(command) => return db_recover::tail(screen, client, command).await,
        DbCommand::Create { name, options } => {
            let change = Change::CreateDatabase { name };
            return mutation::run(screen, client, change, &options).await;
        }
        DbCommand::Url { database, replica, ca } => {
            let database = match database {
                Some(database) => database,
                None => the_only_one(client).await?,
            };
            let path = format!("/api/v1/databases/{}/url", encode(&database));
            let urls: DatabaseUrl = client.get(&path).await?;
            let url = match &ca {
                None if replica => urls.replica_url.clone(),
                None => urls.url.clone(),
                Some(file) => verified_url(&urls, replica, file)?,
            };
            screen.show(&urls, |_| vec![url.clone()], |_| format!("{url}\n"));
        }
    }
    Ok(Exit::Done)
}

/// Writes the CA's certificate, and gives a URL by which clients verify with it: of
/// the address for other machines, if there is one.
fn verified_url(urls: &DatabaseUrl, replica: bool, file: &Path) -> Result<String, Failure> {
    let Some(certificate) = &urls.ca_certificate else {
        return Err(Failure::new(Code::Precondition, "there is no CA of the cluster to verify by")
            .because("the node shows the certificate in tls/postgres.crt, or none yet")
            .next("give clients the CA of that certificate; without one, try again in a moment"));
    };
    let path = absolute(file)?;
    std::fs::write(&path, certificate).map_err(|error| {
        Failure::new(Code::Usage, format!("{path} cannot be written")).because(error)
    })?;
    let (here, remote) = match replica {
        true => (&urls.replica_url, &urls.remote_replica_url),
        false => (&urls.url, &urls.remote_url),
    };
    let url = remote.as_ref().unwrap_or(here);
    let more = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{more}sslmode=verify-full&sslrootcert={}", encode(&path)))
}

/// A path as the node understands it, which works in another directory.
pub fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::new(Code::Usage, "the path is not usable").because(error))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| Failure::new(Code::Usage, "the path is not UTF-8"))
}

pub fn names(shards: &[DatabaseShard]) -> Vec<String> {
    let mut names: Vec<String> = shards.iter().map(|shard| shard.database.clone()).collect();
    names.dedup();
    names
}

pub fn not_there(database: &str, known: &[String]) -> Failure {
    Failure::new(Code::NotFound, format!("there is no database {database}"))
        .because(format!("the databases are: {}", known.join(", ")))
        .next("`ctl db create NAME` makes one")
}

async fn the_only_one(client: &Client) -> Result<String, Failure> {
    let status: Status = client.get("/api/v1/status").await?;
    let mut known = names(&status.db);
    match known.len() {
        1 => Ok(known.remove(0)),
        0 => Err(Failure::new(Code::NotFound, "there is no database")
            .next("deploy an app whose rung.toml has [db], or `ctl db create NAME`")),
        _ => Err(Failure::new(Code::Usage, "there are several databases")
            .because(known.join(", "))
            .next("say which one")),
    }
}
