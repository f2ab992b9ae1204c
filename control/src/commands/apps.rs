//! Apps: deploying, their variables, their list.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rung_bundle::{Limits, Packed};
use rung_proto::api::{App, Change, EnvName, Status};
use rung_proto::{Code, Failure};

use crate::args::{AppCommand, ChangeOptions, EnvCommand};
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::table::Table;
use crate::render::text::bytes;
use crate::render::{overview, time};
use crate::wire::encode;

const MAX_ENV_FILE_BYTES: u64 = 1024 * 1024;

/// Packs the folder, stores the bundle in the cluster, and runs it.
pub async fn deploy(
    screen: &Screen,
    client: &Client,
    folder: PathBuf,
    options: &ChangeOptions,
) -> Result<Exit, Trouble> {
    let packing = tokio::task::spawn_blocking(move || pack(&folder));
    let (packed, file) =
        packing.await.map_err(|error| Trouble::internal("the folder was not packed", error))??;
    let Packed { digest, entries, .. } = packed;
    let name = &packed.manifest.name;
    let short: String = digest.to_string().chars().take(12).collect();
    let size = bytes(packed.bytes);
    screen.note(&format!("packed {name}: {entries} entries, {size}, bundle {short}"));
    let stored = client.upload(file, packed.bytes).await?;
    mutation::run(screen, client, Change::Deploy { bundle: stored.digest }, options).await
}

/// Packs to a file without a name, which is gone with this process.
fn pack(folder: &Path) -> Result<(Packed, File), Failure> {
    let disk = |error: io::Error| {
        Failure::new(Code::DiskFailed, "the bundle cannot be written here").because(error)
    };
    let mut file = tempfile::tempfile().map_err(disk)?;
    let packed = rung_bundle::pack(folder, &mut file, &Limits::default())?;
    file.seek(SeekFrom::Start(0)).map_err(disk)?;
    Ok((packed, file))
}

pub async fn env(screen: &Screen, client: &Client, command: EnvCommand) -> Result<Exit, Trouble> {
    let (change, options) = match command {
        EnvCommand::Ls { app } => return list_env(screen, client, &app).await,
        EnvCommand::Set { app, variables, file, options } => {
            let mut set = BTreeMap::new();
            if let Some(path) = file {
                let text = read_env_file(&path)?;
                let lines = text.lines().map(str::trim);
                add_variables(&mut set, lines.filter(|l| !l.is_empty() && !l.starts_with('#')))?;
            }
            add_variables(&mut set, variables.iter().map(String::as_str))?;
            (Change::SetEnv { app, set, unset: Vec::new() }, options)
        }
        EnvCommand::Unset { app, names, options } => {
            (Change::SetEnv { app, set: BTreeMap::new(), unset: names }, options)
        }
    };
    mutation::run(screen, client, change, &options).await
}

fn read_env_file(path: &Path) -> Result<String, Failure> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        if path == Path::new("-") {
            io::stdin().lock().take(MAX_ENV_FILE_BYTES + 1).read_to_string(&mut text)?;
        } else {
            File::open(path)?.take(MAX_ENV_FILE_BYTES + 1).read_to_string(&mut text)?;
        }
        Ok(text)
    };
    let shown = path.display();
    let text = read().map_err(|error| {
        Failure::new(Code::Usage, format!("{shown} cannot be read")).because(error)
    })?;
    if text.len() as u64 > MAX_ENV_FILE_BYTES {
        return Err(Failure::new(Code::Usage, format!("{shown} is larger than 1 MiB")));
    }
    Ok(text)
}

/// Adds `NAME=VALUE` pairs. The value is everything after the first `=`, as it
/// stands: there are no quotes and no escapes.
fn add_variables<'a>(
    set: &mut BTreeMap<String, String>,
    pairs: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            // It may be a secret, so the error does not repeat it.
            return Err(Failure::new(Code::Usage, "a variable is written NAME=VALUE")
                .because("there is no = in one of those given"));
        };
        rung_bundle::check_variable(name, value)
            .map_err(|why| Failure::new(Code::Usage, "this variable cannot be set").because(why))?;
        set.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

async fn list_env(screen: &Screen, client: &Client, app: &str) -> Result<Exit, Trouble> {
    let names: Vec<EnvName> = client.get(&format!("/api/v1/apps/{}/env", encode(app))).await?;
    screen.show(
        &names,
        |names| names.iter().map(|variable| variable.name.clone()).collect(),
        |names| {
            let mut table = Table::new(&["NAME", "SET AT"]);
            for variable in names {
                let at = time::short(variable.set_at_ms);
                table.row(vec![variable.name.as_str().into(), at.into()]);
            }
            screen.table(&table)
        },
    );
    Ok(Exit::Done)
}

pub async fn app(screen: &Screen, client: &Client, command: AppCommand) -> Result<Exit, Trouble> {
    match command {
        AppCommand::Ls => {
            let status: Status = client.get("/api/v1/status").await?;
            screen.show(
                &status.apps,
                |apps| apps.iter().map(|app| app.name.clone()).collect(),
                |apps| screen.table(&overview::apps(apps)),
            );
        }
        AppCommand::Show { app } => {
            let status: Status = client.get("/api/v1/status").await?;
            let app = find(status.apps, &app)?;
            screen.show(
                &app,
                |app| vec![app.name.clone()],
                |app| overview::app(app, screen.columns(), screen.color),
            );
        }
        AppCommand::Rm { app, options } => {
            return mutation::run(screen, client, Change::RemoveApp { app }, &options).await;
        }
    }
    Ok(Exit::Done)
}

fn find(apps: Vec<App>, name: &str) -> Result<App, Failure> {
    let known: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    apps.into_iter().find(|app| app.name == name).ok_or_else(|| {
        let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
        Failure::new(Code::NotFound, format!("there is no app {name:?}"))
            .because(format!("apps here: {known}"))
            .next("deploy it with `ctl deploy <folder>`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_the_first_equals_sign() {
        let mut set = BTreeMap::new();
        add_variables(&mut set, ["A=1=2", "B="].into_iter()).unwrap();
        assert_eq!(set.get("A").map(String::as_str), Some("1=2"));
        assert_eq!(set.get("B").map(String::as_str), Some(""));
        for bad in ["A", "=x", "1A=x", "PORT=80"] {
            let refused = add_variables(&mut set, [bad].into_iter()).unwrap_err();
            assert_eq!(refused.code, Code::Usage, "{bad}");
        }
    }
}
