//! Plans for databases: create one, make another copy the primary.

use rung_proto::api::{ArchiveSetting, Consent};
use rung_proto::{Code, Failure, Role};

use super::{Planned, STEP_MS, find_node, recovery};
use crate::command::{Command, DatabaseCommand};
use crate::databases::cannot_lead;
use crate::databases::recovery::{Copies, advice};
use crate::operation::{NewOperation, StepRecord, Work};
use crate::state::{DatabaseRecord, ShardRecord, State};
use crate::view::View;

/// Copies of a database that nobody said a number for: a primary and two replicas.
const DEFAULT_COPIES: u32 = 3;
/// How long a hand-over may take before it is given up.
const PROMOTE_MS: u64 = 15_000;
/// How long the first base of an archive may take before nobody waits for it any more;
/// it is made all the same.
const ARCHIVE_MS: u64 = 3_600_000;

pub(super) fn database_subject(name: &str) -> String {
    format!("database/{name}")
}

/// What creates a database unless it is there: commands, and the step that waits
/// for it. `copies` is how many nodes are to hold it at least.
pub(super) fn creation(
    name: &str,
    copies: u32,
    verifier: Option<String>,
    state: &State,
) -> Result<(Vec<Command>, Option<StepRecord>), Failure> {
    if state.databases.contains_key(name) {
        return Ok((Vec::new(), None));
    }
    let verifier = verifier
        .ok_or_else(|| Failure::new(Code::Internal, "the database's password was not prepared"))?;
    let mut commands = Vec::new();
    if state.role(Role::Db).want < copies {
        commands.push(Command::SetRoleWant { role: Role::Db, want: copies });
    }
    commands.push(Command::Database {
        database: name.to_owned(),
        change: DatabaseCommand::Create { verifier },
    });
    let wait = StepRecord::new(
        format!("wait for the database {name}"),
        Work::DatabaseServes { database: name.to_owned() },
        STEP_MS,
    );
    Ok((commands, Some(wait)))
}

pub(super) fn create(
    name: &str,
    verifier: Option<String>,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    if crate::placement::candidates(Role::Db, state, view).is_empty() {
        return Err(super::no_candidate(Role::Db, state, view));
    }
    let (initial, wait) = creation(name, DEFAULT_COPIES, verifier, state)?;
    let Some(wait) = wait else { return Ok(None) };
    Ok(Some(NewOperation {
        kind: "db-create".to_owned(),
        summary: format!("create the database {name}"),
        subjects: vec![database_subject(name)],
        initial,
        steps: vec![wait],
        compensation: Vec::new(),
    }))
}

pub(super) fn find_database<'a>(
    name: Option<&str>,
    state: &'a State,
) -> Result<&'a DatabaseRecord, Failure> {
    let names: Vec<&str> = state.databases.keys().map(String::as_str).collect();
    match (name, names.as_slice()) {
        (Some(name), _) => state.databases.get(name).ok_or_else(|| {
            Failure::new(Code::NotFound, format!("there is no database {name}"))
                .because(format!("the databases are {}", names.join(", ")))
        }),
        (None, [only]) => Ok(&state.databases[*only]),
        (None, []) => Err(Failure::new(Code::NotFound, "there is no database")
            .next("deploy an app whose rung.toml has [db], or `ctl db create NAME`")),
        (None, _) => Err(Failure::new(Code::Usage, "there are several databases")
            .because(names.join(", "))
            .next("say which one with --database")),
    }
}

pub(super) fn find_shard(database: &DatabaseRecord, shard: u32) -> Result<&ShardRecord, Failure> {
    database.shards.get(&shard).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("{} has no shard {shard}", database.name))
    })
}

pub(super) fn promote(
    name: &str,
    database: Option<&str>,
    shard: u32,
    consent: Consent,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    let database = find_database(database, state)?;
    let record = find_shard(database, shard)?;
    let is_lost = Copies::of(record, state, view).majority_is_lost() || record.recovery.is_some();
    if is_lost && (consent.data_loss || consent.fenced) {
        return recovery::recover_shard(database, shard, Some(node.id), consent, state, view);
    }
    let primary = view.primary(record.group).map(|(primary, _)| primary);
    if primary == Some(node.id) {
        return Ok(None);
    }
    if cannot_lead(node.id, record, view).is_some() {
        return Err(cannot_promote(name, database, record, state, view));
    }
    let from = primary.map_or_else(|| "nobody".to_owned(), |primary| state.node_name(primary));
    let prefer = |node| Command::Database {
        database: database.name.clone(),
        change: DatabaseCommand::Prefer { shard, node },
    };
    let forget = || {
        StepRecord::new(
            "let the group choose again when it must",
            Work::Apply(vec![prefer(None)]),
            STEP_MS,
        )
    };
    Ok(Some(NewOperation {
        kind: "promote".to_owned(),
        summary: format!("promote {name} for {}/{shard}, from {from}", database.name),
        subjects: vec![database_subject(&database.name)],
        initial: vec![prefer(Some(node.id))],
        steps: vec![
            StepRecord::new(
                format!("wait for {name} to be the primary"),
                Work::PrimaryOn { database: database.name.clone(), shard, node: node.id },
                PROMOTE_MS,
            ),
            forget(),
        ],
        compensation: vec![forget()],
    }))
}

/// Archives a database from now on, or no longer; the step waits for a first base.
pub(super) fn archive(
    name: &str,
    archive: Option<ArchiveSetting>,
    state: &State,
) -> Result<Planned, Failure> {
    let database = find_database(Some(name), state)?;
    if database.archive == archive {
        return Ok(None);
    }
    if archive.as_ref().is_some_and(|archive| !archive.dir.starts_with('/')) {
        return Err(Failure::new(Code::Usage, "the directory of an archive is absolute"));
    }
    let (summary, steps) = match &archive {
        None => (format!("archive {name} no longer"), Vec::new()),
        Some(archive) => {
            let wait = StepRecord::new(
                format!("wait until everything is in {}", archive.dir),
                Work::DatabaseArchived { database: name.to_owned() },
                ARCHIVE_MS,
            );
            (format!("archive {name} to {}", archive.dir), vec![wait])
        }
    };
    Ok(Some(NewOperation {
        kind: "db-archive".to_owned(),
        summary,
        subjects: vec![database_subject(name)],
        initial: vec![Command::Database {
            database: name.to_owned(),
            change: DatabaseCommand::SetArchive { archive },
        }],
        steps,
        compensation: Vec::new(),
    }))
}

/// Every node and what speaks against it: a promotion that would lose something
/// is refused, not tried.
pub(crate) fn cannot_promote(
    name: &str,
    database: &DatabaseRecord,
    record: &ShardRecord,
    state: &State,
    view: &View,
) -> Failure {
    let reasons = state.nodes.values().map(|node| {
        let why = cannot_lead(node.id, record, view);
        format!("{} {}", node.name, why.unwrap_or_else(|| "can be promoted".to_owned()))
    });
    Failure::new(
        Code::NoCandidate,
        format!("{name} cannot become the primary of {}", database.name),
    )
    .because(reasons.collect::<Vec<_>>().join("; "))
    .next(match Copies::of(record, state, view).majority_is_lost() {
        true => advice(&database.name),
        false => "`ctl status` shows the copies; promote one that serves and votes".to_owned(),
    })
}
