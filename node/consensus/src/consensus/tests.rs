use rung_wal::disk::{Faults, SimDisk};
use rung_wal::{Driver, WalConfig};
use tokio::time::timeout;

use super::*;
use crate::error::ProposeError;
use crate::message::{Answer, Ballot, Header, Request, encode_request};
use crate::network::NetworkError;
use crate::state_machine::{Committed, SnapshotSource};
use crate::status::GroupRole;

const GROUP: GroupId = GroupId(9);
const PATIENCE: Duration = Duration::from_secs(10);

/// A network without other nodes.
struct Alone;

impl Network for Alone {
    fn call(
        &self,
        to: NodeId,
        _body: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        ready(Err(NetworkError::Unreachable(to, "there are no others".to_owned()))).boxed()
    }

    fn open_stream(
        &self,
        to: NodeId,
        _header: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetworkError>> {
        ready(Err(NetworkError::Unreachable(to, "there are no others".to_owned()))).boxed()
    }
}

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        if entries.iter().any(|entry| entry.payload == "poison") {
            return Err(io::Error::other("the entry is poisoned"));
        }
        Ok(entries.iter().map(|entry| entry.payload.clone()).collect())
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        Ok(Box::new(io::empty()))
    }

    fn restore(&mut self, source: &mut dyn io::Read) -> io::Result<()> {
        io::copy(source, &mut io::sink()).map(drop)
    }
}

fn node() -> (SimDisk, Consensus) {
    let disk = SimDisk::new(1);
    let config = WalConfig {
        segment_bytes: 64 << 10,
        max_record_bytes: 8 << 10,
        driver: Driver::Task { delay: Duration::ZERO },
        ..WalConfig::new("/wal")
    };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config).unwrap();
    let consensus = Consensus::start(ConsensusConfig {
        node: NodeId(1),
        generation: Generation(4),
        dir: "/groups".into(),
        disk: Arc::new(disk.clone()),
        wal,
        network: Arc::new(Alone),
    });
    (disk, consensus)
}

async fn group(consensus: &Consensus) -> Group {
    group_with_id(consensus, GROUP).await
}

async fn group_with_id(consensus: &Consensus, id: GroupId) -> Group {
    let voters = BTreeSet::from([NodeId(1)]);
    let group = consensus.create(GroupConfig::new(id, "test"), Nothing, &voters).await.unwrap();
    let mut status = group.status();
    let leads = status.wait_for(|status| status.is_leader());
    timeout(PATIENCE, leads).await.unwrap().unwrap();
    group
}

async fn stopped(group: &Group) -> String {
    let mut status = group.status();
    let stopped = status.wait_for(|status| matches!(status.role, GroupRole::Stopped(_)));
    match &timeout(PATIENCE, stopped).await.unwrap().unwrap().role {
        GroupRole::Stopped(why) => why.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_group_whose_log_died_stops_and_says_why() {
    let (disk, consensus) = node();
    let group = group(&consensus).await;
    let applied = group.propose(Bytes::from("before"), PATIENCE).await.unwrap();
    assert_eq!(applied.answer, "before");
    disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
    let lost = group.propose(Bytes::from("lost"), PATIENCE).await;
    assert_eq!(lost, Err(ProposeError::OutcomeUnknown));
    let why = stopped(&group).await;
    assert!(why.contains("simulated failure of a sync"), "{why}");
    let refused = group.propose(Bytes::from("after"), PATIENCE).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(_))), "{refused:?}");
    assert!(group.read_barrier(Duration::from_secs(1)).await.is_err());
}

#[tokio::test]
async fn a_state_machine_that_fails_stops_its_group_on_this_node_only() {
    let (_disk, consensus) = node();
    let poisoned = group(&consensus).await;
    let other = group_with_id(&consensus, GroupId(10)).await;
    let lost = poisoned.propose(Bytes::from("poison"), PATIENCE).await;
    assert_eq!(lost, Err(ProposeError::OutcomeUnknown));
    let why = stopped(&poisoned).await;
    assert!(why.contains("the entry is poisoned"), "{why}");
    other.propose(Bytes::from("fine"), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_group_is_open_once_and_can_be_opened_again_after_it_was_closed() {
    let (_disk, consensus) = node();
    let first = group(&consensus).await;
    first.propose(Bytes::from("kept"), PATIENCE).await.unwrap();
    let again = consensus.open(GroupConfig::new(GROUP, "test"), Nothing).await;
    assert!(matches!(again, Err(OpenError::AlreadyOpen(GROUP))));
    assert!(consensus.close(GROUP).await);
    assert!(!consensus.close(GROUP).await);
    let second = consensus.open(GroupConfig::new(GROUP, "test"), Nothing).await.unwrap();
    assert_eq!(second.status().borrow().voters, BTreeSet::from([NodeId(1)]));
}

#[tokio::test]
async fn messages_of_another_generation_or_in_anothers_name_are_refused() {
    let (_disk, consensus) = node();
    let _group = group(&consensus).await;
    let ballot = Ballot { term: 100, node: NodeId(2), granted: false };
    let request = Request::Vote { ballot, last: None, transfer: false };
    let vote = |generation, group| {
        encode_request(&Header { generation, group, request: request.clone() }, &[])
    };
    let right = Generation(4);
    let ask = |from, body| consensus.handle(from, body);
    let answer = ask(NodeId(2), vote(Generation(3), GROUP)).await;
    assert_eq!(answer, Err(Refusal::Generation));
    let answer = ask(NodeId(3), vote(right, GROUP)).await;
    assert_eq!(answer, Err(Refusal::Impersonation));
    let answer = ask(NodeId(2), vote(right, GroupId(77))).await;
    assert_eq!(answer, Err(Refusal::UnknownGroup(GroupId(77))));
    let answer = ask(NodeId(2), Bytes::from_static(b"\0\0\0\x01x")).await;
    assert!(matches!(answer, Err(Refusal::Malformed(_))), "{answer:?}");
    let answer = ask(NodeId(2), vote(right, GROUP)).await.unwrap();
    let answer: Answer = encoding::decode(&answer).unwrap();
    assert!(matches!(answer, Answer::Vote { granted: false, .. }), "{answer:?}");
}

#[tokio::test]
async fn a_full_disk_costs_a_snapshot_and_not_the_group() {
    let (disk, consensus) = node();
    let group = group(&consensus).await;
    group.propose(Bytes::from("before"), PATIENCE).await.unwrap();
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    let skipped = group.snapshot_now(Duration::from_millis(300)).await;
    assert!(skipped.is_err(), "there was no room for a snapshot");
    group.propose(Bytes::from("after"), PATIENCE).await.unwrap();
    assert!(group.status().borrow().is_leader());
    assert_eq!(group.status().borrow().snapshot, None);
}

#[tokio::test]
async fn a_group_that_was_dropped_is_received_again_and_not_made_again() {
    let (_disk, consensus) = node();
    let first = group(&consensus).await;
    first.propose(Bytes::from("forgotten"), PATIENCE).await.unwrap();
    assert!(consensus.has_replica(GROUP));
    assert!(!consensus.has_replica(GroupId(10)));
    consensus.remove(GROUP).await.unwrap();
    assert!(!consensus.has_replica(GROUP));
    // What was never here leaves nothing to remember.
    consensus.remove(GroupId(10)).await.unwrap();
    group_with_id(&consensus, GroupId(10)).await;

    let voters = BTreeSet::from([NodeId(1)]);
    let again = consensus.create(GroupConfig::new(GROUP, "test"), Nothing, &voters).await.unwrap();
    let status = again.status().borrow().clone();
    assert_eq!((status.role, status.last), (GroupRole::Learner, None));
    assert!(!consensus.has_replica(GROUP));
    let ballot = Ballot { term: 100, node: NodeId(2), granted: false };
    let request = Request::Vote { ballot, last: None, transfer: false };
    let header = Header { generation: Generation(4), group: GROUP, request };
    let answer = consensus.handle(NodeId(2), encode_request(&header, &[])).await;
    assert_eq!(answer, Err(Refusal::Returning));
}

#[tokio::test]
async fn a_lost_majority_is_taken_over_with_everything_that_the_log_holds() {
    let (_disk, consensus) = node();
    // The two others are never heard of, so not even the first entry is committed.
    let three = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    let lost = consensus.create(GroupConfig::new(GROUP, "test"), Nothing, &three).await.unwrap();
    assert_eq!(lost.status().borrow().committed, None);
    assert!(matches!(consensus.take_over(GROUP).await, Err(OpenError::AlreadyOpen(GROUP))));
    consensus.close(GROUP).await;
    let before = consensus.closed_log(GROUP).await.unwrap().last.unwrap();
    let taken = consensus.take_over(GROUP).await.unwrap();
    assert!(taken.term > before.term && taken.index == before.index + 1);
    let group = consensus.open(GroupConfig::new(GROUP, "test"), Nothing).await.unwrap();
    let mut status = group.status();
    let leads = status.wait_for(|status| status.is_leader() && status.applied >= Some(taken));
    let now = timeout(PATIENCE, leads).await.unwrap().unwrap().clone();
    assert_eq!(now.voters, BTreeSet::from([NodeId(1)]));
    assert!(now.term > taken.term);
    let applied = group.propose(Bytes::from("more"), PATIENCE).await.unwrap();
    assert_eq!(applied.answer, "more");
    let nothing = consensus.take_over(GroupId(77)).await;
    assert!(matches!(nothing, Err(OpenError::Failed { .. })), "{nothing:?}");
}
