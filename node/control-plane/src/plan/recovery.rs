//! The plan of a new generation of a database whose majority is lost.

use rung_proto::api::Consent;
use rung_proto::{Code, Failure, NodeId};

use super::databases::{database_subject, find_database, find_shard};
use super::{Planned, STEP_MS, find_node};
use crate::command::{Command, DatabaseCommand};
use crate::databases::recovery::Copies;
use crate::operation::{NewOperation, StepRecord, Work};
use crate::state::{DatabaseRecord, ShardRecord, State};
use crate::view::View;

/// How long the copy of a large database may take.
const FOUND_MS: u64 = 3_600_000;

pub(super) fn recover(
    database: &str,
    shard: u32,
    from: Option<&str>,
    consent: Consent,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let database = find_database(Some(database), state)?;
    let from = from.map(|name| find_node(name, state).map(|node| node.id)).transpose()?;
    recover_shard(database, shard, from, consent, state, view)
}

/// Recovers from the survivor that has the most, or from the one that was named.
pub(super) fn recover_shard(
    database: &DatabaseRecord,
    number: u32,
    from: Option<NodeId>,
    consent: Consent,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let shard = find_shard(database, number)?;
    let name = format!("{}/{number}", database.name);
    let copies = Copies::of(shard, state, view);
    if !copies.majority_is_lost() && shard.recovery.is_none() {
        let what = format!("a majority of the copies of {name} is reachable");
        return Err(Failure::new(Code::MajorityReachable, what)
            .because(copies.seen(state))
            .next("nothing needs to be lost; `ctl doctor` says what keeps it from serving"));
    }
    let survivor = copies.choose(from, state)?;
    let taken = state.node_name(survivor.node);
    if !(consent.data_loss && consent.fenced) {
        let what = format!("recovering {name} from the copy on {taken} may lose data");
        return Err(Failure::new(Code::DataLoss, what)
            .because(format!("{}; {}", copies.loss(survivor), copies.seen(state)))
            .next(missing_consent(consent)));
    }
    Ok(Some(operation(&database.name, number, shard, &copies, from, state)))
}

/// What a person who has not said it yet must say so that data may be lost.
pub(crate) fn missing_consent(consent: Consent) -> String {
    let flags = match (consent.data_loss, consent.fenced) {
        (false, false) => "--accept-data-loss --confirm-fenced",
        (false, true) => "--accept-data-loss",
        _ => "--confirm-fenced",
    };
    format!(
        "start the unreachable nodes if they can be started; if they are gone for good and are \
         off or cut off, add {flags}"
    )
}

fn operation(
    database: &str,
    number: u32,
    shard: &ShardRecord,
    copies: &Copies,
    from: Option<NodeId>,
    state: &State,
) -> NewOperation {
    let begun = shard.recovery.as_ref().map_or(0, |recovery| recovery.generation);
    let generation = shard.generation.max(begun) + 1;
    let survivors: Vec<NodeId> = copies.survivors.iter().map(|survivor| survivor.node).collect();
    let names = survivors.iter().map(|node| state.node_name(*node)).collect::<Vec<_>>().join(", ");
    let begin = DatabaseCommand::BeginRecovery {
        shard: number,
        generation,
        survivors: survivors.into_iter().collect(),
        from,
    };
    let database = || database.to_owned();
    let step = |name: String, work, budget| StepRecord::new(name, work, budget);
    NewOperation {
        kind: "db-recover".to_owned(),
        summary: format!(
            "recover {}/{number} as generation {generation} from {names}, accepting a loss of data",
            database()
        ),
        subjects: vec![database_subject(&database())],
        initial: vec![Command::Database { database: database(), change: begin }],
        steps: vec![
            step(
                format!(
                    "stop generation {} on {names}, and see who has the most",
                    shard.generation
                ),
                Work::ChooseSurvivor { database: database(), shard: number, generation },
                STEP_MS,
            ),
            step(
                format!("make generation {generation} from that copy"),
                Work::Recovered { database: database(), shard: number, generation },
                FOUND_MS,
            ),
            step(
                format!("wait for the primary of generation {generation}"),
                Work::DatabaseServes { database: database() },
                STEP_MS,
            ),
        ],
        compensation: Vec::new(),
    }
}
