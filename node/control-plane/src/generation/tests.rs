use super::*;
use crate::samples::cluster;

const CONSENT: Consent = Consent { data_loss: true, fenced: true };

fn place(term: u64, index: u64) -> LogPlace {
    LogPlace { term, index }
}

fn told(last: LogPlace) -> Told {
    let voters = [1, 2, 3].map(NodeId).into();
    let replica = Replica { last, committed: Some(place(1, 2)), voters };
    Told { generation: 1, accepted: None, replica: Some(replica) }
}

fn nobody() -> Told {
    Told { generation: 1, accepted: None, replica: None }
}

fn state() -> State {
    cluster(&["east"; 4]).state
}

fn decide(me: u64, all: &[(u64, Told)], consent: Consent) -> Result<Plan, Failure> {
    let told = all.iter().map(|(node, told)| (NodeId(*node), told.clone())).collect();
    plan(NodeId(me), &told, consent, &state())
}

#[test]
fn one_of_three_goes_on_when_the_operator_takes_it_upon_himself() {
    let all = [(1, told(place(2, 9))), (4, nobody())];
    let refused = decide(1, &all, Consent::default()).unwrap_err();
    assert_eq!(refused.code, Code::DataLoss);
    let text = refused.to_string();
    assert!(text.contains("n2 is unreachable") && text.contains("2.9"), "{text}");
    let half = Consent { data_loss: true, fenced: false };
    assert_eq!(decide(1, &all, half).unwrap_err().code, Code::DataLoss);
    let expected = Plan { generation: 2, survivors: [NodeId(1)].into() };
    assert_eq!(decide(1, &all, CONSENT), Ok(expected));
}

#[test]
fn nothing_begins_while_a_majority_is_reachable() {
    let all = [(1, told(place(2, 9))), (2, told(place(2, 7)))];
    assert_eq!(decide(1, &all, CONSENT).unwrap_err().code, Code::MajorityReachable);
}

#[test]
fn a_recovery_that_was_interrupted_is_begun_again_in_a_later_generation() {
    let accepted = Told { accepted: Some(2), ..told(place(2, 9)) };
    let all = [(1, accepted), (2, told(place(2, 7)))];
    let expected = Plan { generation: 3, survivors: [1, 2].map(NodeId).into() };
    assert_eq!(decide(1, &all, CONSENT), Ok(expected));
}

#[test]
fn the_log_that_has_most_is_taken() {
    let all = [(1, told(place(2, 9))), (4, told(place(3, 1)))];
    let behind = decide(1, &all, CONSENT).unwrap_err();
    assert_eq!(behind.code, Code::SurvivorBehind);
    assert!(behind.next.contains("on n4"), "{behind}");
    assert!(decide(4, &all, CONSENT).is_ok());
    assert_eq!(decide(5, &all, CONSENT).unwrap_err().code, Code::SurvivorBehind);
    assert_eq!(decide(1, &[(1, nobody())], CONSENT).unwrap_err().code, Code::NoCandidate);
}

#[test]
fn one_that_has_more_when_all_have_stopped_is_not_passed_over() {
    let stopped = |mine| BTreeMap::from([(NodeId(1), mine), (NodeId(4), place(2, 7))]);
    assert_eq!(check(NodeId(1), &stopped(place(2, 7)), &state()), Ok(()));
    assert_eq!(check(NodeId(1), &stopped(place(3, 1)), &state()), Ok(()));
    let more = check(NodeId(1), &stopped(place(2, 6)), &state()).unwrap_err();
    assert_eq!(more.code, Code::SurvivorBehind);
}
