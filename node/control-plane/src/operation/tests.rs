use rung_proto::GroupId;
use rung_proto::soft::{CopyKind, CopyStatus};

use super::*;
use crate::samples::{cluster, view};

fn copy_that_has_taken_over(bytes: u64) -> CopyStatus {
    CopyStatus {
        database: "photos".to_owned(),
        shard: 0,
        group: GroupId(7),
        kind: CopyKind::Replica,
        state: CopyState::CatchingUp,
        generation: 1,
        epoch: 1,
        sequence: 0,
        lag_ms: None,
        voters: Vec::new(),
        learners: Vec::new(),
        problem: None,
        snapshot_bytes: bytes,
        last: None,
        sealed: None,
        archive: None,
        scrub: None,
    }
}

/// A step that waits for copies, as it was when its work had last got further.
fn waiting(work: Work, reached: u64, reached_ms: u64) -> OperationRecord {
    let mut step = StepRecord::new("wait for copies", work, 1_000);
    (step.state, step.started_ms) = (StepState::Running, 10_000);
    (step.reached, step.reached_ms) = (reached, reached_ms);
    OperationRecord {
        id: OperationId(1),
        kind: "scale".to_owned(),
        summary: String::new(),
        subjects: Vec::new(),
        state: OperationState::Running,
        steps: vec![step],
        compensation: Vec::new(),
        undoing: false,
        requested_by: String::new(),
        created_ms: 0,
        finished_ms: None,
        failure: None,
    }
}

#[test]
fn copying_a_large_database_fails_only_when_it_stands_still() {
    let machine = cluster(&["east", "west"]);
    let mut seen = view(&machine.state);
    let copied = |seen: &mut View, bytes: u64| {
        let soft = seen.soft.get_mut(&NodeId(2)).unwrap();
        soft.databases = vec![copy_that_has_taken_over(bytes)];
    };
    let work = || Work::RoleOn { role: Role::Db, node: NodeId(2) };
    seen.now_ms = 100_000;
    copied(&mut seen, 640 << 20);
    // It took long, and has just got further.
    let update = advance(&waiting(work(), 9, 50_000), &machine.state, &seen).unwrap();
    assert_eq!((update.to, update.reached), (StepState::Running, 10));
    // It got further within its budget.
    let update = advance(&waiting(work(), 10, 99_500), &machine.state, &seen);
    assert!(update.is_none_or(|update| update.to == StepState::Running));
    // It stands still, or has fallen behind what it had reached.
    for reached in [10, 11] {
        let update = advance(&waiting(work(), reached, 50_000), &machine.state, &seen).unwrap();
        assert_eq!(update.to, StepState::Failed);
    }
    // Other roles have nothing to copy.
    let web = Work::RoleCount { role: Role::Lb };
    let update = advance(&waiting(web, 0, 0), &machine.state, &seen);
    assert!(update.is_none_or(|update| update.reached == 0));
}
