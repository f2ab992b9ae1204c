//! Commands about databases.

use rung_proto::{Code, Failure, GroupId};

use super::{Attempt, refuse};
use crate::command::DatabaseCommand;
use crate::state::{DatabaseRecord, MAX_DATABASES, ShardRecord, Update};

impl Attempt<'_> {
    pub(super) fn database(&mut self, name: &str, change: &DatabaseCommand) -> Result<(), Failure> {
        if let DatabaseCommand::Create { verifier } = change {
            return self.create_database(name, verifier);
        }
        let Some(mut record) = self.machine.state.databases.get(name).cloned() else {
            return refuse(Code::NotFound, format!("there is no database {name}"));
        };
        match change {
            DatabaseCommand::Create { .. } => {}
            DatabaseCommand::Found { shard, node } => {
                let shard = find(&mut record, *shard)?;
                if shard.founded {
                    return refuse(Code::Precondition, "the shard's group exists");
                }
                shard.founder = Some(*node);
            }
            DatabaseCommand::Founded { shard, node } => {
                let shard = find(&mut record, *shard)?;
                if shard.founder != Some(*node) {
                    return refuse(Code::Precondition, "another node is to create the group");
                }
                shard.founded = true;
            }
            DatabaseCommand::SetWitness { shard, node } => {
                find(&mut record, *shard)?.witness = *node
            }
            DatabaseCommand::SetArchive { archive } => record.archive.clone_from(archive),
            DatabaseCommand::Prefer { shard, node } => find(&mut record, *shard)?.preferred = *node,
            DatabaseCommand::BeginRecovery { .. }
            | DatabaseCommand::ChooseSurvivor { .. }
            | DatabaseCommand::Recovered { .. } => self.recovery(&mut record, change)?,
        }
        self.put(Update::Database(name.to_owned(), Some(Box::new(record))));
        Ok(())
    }

    fn create_database(&mut self, name: &str, verifier: &str) -> Result<(), Failure> {
        let databases = &self.machine.state.databases;
        if databases.contains_key(name) {
            return Ok(());
        }
        if databases.len() >= MAX_DATABASES {
            return refuse(Code::Precondition, format!("there are {MAX_DATABASES} databases"));
        }
        let group = GroupId(self.next_id());
        let shard = ShardRecord {
            group,
            founder: None,
            founded: false,
            witness: None,
            preferred: None,
            generation: 1,
            recovery: None,
            retired: Vec::new(),
        };
        let record = DatabaseRecord {
            name: name.to_owned(),
            created_ms: self.proposal.at_ms,
            verifier: verifier.to_owned(),
            shards: [(0, shard)].into(),
            archive: None,
        };
        self.put(Update::Database(name.to_owned(), Some(Box::new(record))));
        self.event("database-created", format!("the database {name} was created"), None, None);
        Ok(())
    }
}

pub(super) fn find(record: &mut DatabaseRecord, shard: u32) -> Result<&mut ShardRecord, Failure> {
    let what = format!("{} has no shard {shard}", record.name);
    record.shards.get_mut(&shard).ok_or_else(|| Failure::new(Code::NotFound, what))
}
