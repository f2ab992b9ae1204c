//! Whole clusters in simulated time.

use std::time::Duration;

use proptest::prelude::*;
use rung_proto::NodeId;

use crate::codec::{Packet, encode_packet, encode_state, strategies};
use crate::identity::Identity;
use crate::settings::Settings;
use crate::simulation::{Cluster, Network, Sighting, node_id};
use crate::{MemberState, Swim};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn downs(cluster: &Cluster) -> Vec<Sighting> {
    cluster.sightings().iter().filter(|s| s.state == MemberState::Down).copied().collect()
}

/// When each other running node had the subject as down, after `began`.
fn detections(cluster: &Cluster, subject: usize, began: Duration) -> Vec<Duration> {
    let seen = cluster.sightings().iter();
    seen.filter(|s| s.subject == subject && s.state == MemberState::Down && s.at >= began)
        .map(|s| s.at - began)
        .collect()
}

#[test]
fn nobody_is_declared_down_at_five_percent_loss() {
    let mut cluster = Cluster::settled(128, Settings::lan(), Network::lan(0.05), 1);
    cluster.run_to(seconds(5), Cluster::agrees).expect("all see all");
    cluster.run_for(seconds(90));
    assert_eq!(downs(&cluster), []);
}

/// Nodes whose packets take so many milliseconds, who all see each other for so long.
#[track_caller]
fn calm(settings: Settings, [shortest, longest]: [u64; 2], time: Duration) -> Cluster {
    let [shortest, longest] = [shortest, longest].map(Duration::from_millis);
    let network = Network { loss: 0.01, shortest, longest };
    let mut cluster = Cluster::settled(24, settings, network, 2);
    cluster.run_to(seconds(5), Cluster::agrees).expect("all see all");
    cluster.run_for(time);
    assert_eq!(downs(&cluster), []);
    cluster
}

#[test]
fn nodes_a_hundred_and_fifty_milliseconds_apart_keep_calm() {
    calm(Settings::lan(), [40, 75], seconds(60));
}

#[test]
fn nodes_four_hundred_milliseconds_apart_keep_calm_and_notice_a_crash() {
    let mut cluster = calm(Settings::wan(), [120, 200], seconds(300));
    let began = cluster.now();
    cluster.crash(7);
    cluster.run_for(seconds(30));
    let seen = detections(&cluster, 7, began);
    assert_eq!(seen.len(), 23);
    assert!(seen.iter().all(|took| *took < seconds(10)), "{seen:?}");
}

#[test]
fn a_crash_is_known_to_all_within_seconds() {
    let mut cluster = Cluster::settled(128, Settings::lan(), Network::lan(0.01), 3);
    let mut slowest = Vec::new();
    for subject in 1..=6 {
        let began = cluster.now();
        cluster.crash(subject);
        cluster.run_for(seconds(6));
        let seen = detections(&cluster, subject, began);
        assert_eq!(seen.len(), 128 - subject, "all who run know of {subject}");
        slowest.extend(seen.into_iter().max());
    }
    slowest.sort();
    assert!(slowest[slowest.len() / 2] < seconds(3), "{slowest:?}");
    assert!(slowest[slowest.len() - 1] < seconds(4), "{slowest:?}");
}

#[test]
fn a_crowd_that_joins_within_a_second_is_soon_complete() {
    let mut cluster = Cluster::new(160, Settings::lan(), Network::lan(0.05), 4);
    cluster.start_all(seconds(1));
    let took = cluster.run_to(seconds(20), Cluster::agrees).expect("all see all");
    assert!(took < seconds(4), "{took:?} after the last start");
    assert_eq!(downs(&cluster), []);
}

#[test]
fn joining_succeeds_although_the_seed_starts_last() {
    let mut cluster = Cluster::new(5, Settings::lan(), Network::lan(0.0), 5);
    (1..5).for_each(|index| cluster.start(index));
    cluster.run_for(seconds(20));
    assert!(!cluster.agrees());
    cluster.start(0);
    cluster.run_to(seconds(10), Cluster::agrees).expect("all joined by the seed");
}

#[test]
fn a_node_that_stood_still_comes_back_and_blames_nobody() {
    let mut cluster = Cluster::settled(48, Settings::lan(), Network::lan(0.02), 6);
    cluster.pause(7, seconds(30));
    cluster.run_for(seconds(30));
    assert!(downs(&cluster).iter().all(|s| s.subject == 7), "only the paused node is down");
    assert_eq!(cluster.swim(0).unwrap().state(node_id(7)), Some(MemberState::Down));
    cluster.run_to(seconds(15), Cluster::agrees).expect("it is back");
    cluster.run_for(seconds(20));
    assert!(cluster.agrees());
    assert!(downs(&cluster).iter().all(|s| s.subject == 7), "it blamed nobody");
    let back = cluster.swim(7).unwrap();
    assert_eq!(back.counters().renewals, 1);
    assert_eq!(back.health().score(), 0, "its health recovered");
}

#[test]
fn short_stalls_of_many_nodes_make_nobody_look_dead() {
    let mut cluster = Cluster::settled(40, Settings::lan(), Network::lan(0.01), 7);
    for round in 0..20 {
        (0..4).for_each(|n| cluster.pause((round * 7 + n * 11) % 40, Duration::from_millis(400)));
        cluster.run_for(seconds(1));
    }
    assert_eq!(downs(&cluster), []);
    assert!(cluster.agrees());
}

#[test]
fn a_partition_heals_by_itself() {
    let mut cluster = Cluster::settled(40, Settings::lan(), Network::lan(0.01), 8);
    (0..20).for_each(|index| cluster.set_side(index, 1));
    cluster.run_for(seconds(60));
    let across = |s: &Sighting| (s.observer < 20) != (s.subject < 20);
    assert!(downs(&cluster).iter().all(across), "each side keeps its own");
    for (observer, subject) in [(0, 39), (39, 0)] {
        let state = cluster.swim(observer).unwrap().state(node_id(subject));
        assert_eq!(state, Some(MemberState::Down));
    }
    (0..20).for_each(|index| cluster.set_side(index, 0));
    let took = cluster.run_to(seconds(60), Cluster::agrees).expect("healed");
    assert!(took < seconds(30), "{took:?}");
    assert!(downs(&cluster).iter().all(across), "healing put down nobody of the own side");
}

#[test]
fn a_node_that_starts_again_replaces_its_former_life() {
    let mut cluster = Cluster::settled(16, Settings::lan(), Network::lan(0.01), 9);
    cluster.crash(5);
    cluster.run_for(seconds(8));
    assert!(cluster.agrees());
    cluster.start(5);
    cluster.run_to(seconds(5), Cluster::agrees).expect("it is back");
    let member = cluster.swim(0).unwrap().view().members[&node_id(5)].clone();
    assert_eq!((member.state, member.incarnation.0), (MemberState::Alive, 2));

    // Also when it is back before anybody noticed that it was gone.
    cluster.crash(5);
    cluster.start(5);
    cluster.run_for(seconds(5));
    assert!(cluster.agrees());
    assert_eq!(cluster.swim(0).unwrap().view().members[&node_id(5)].incarnation.0, 3);
}

#[test]
fn a_node_that_leaves_is_seen_to_have_left_and_may_come_back() {
    let mut cluster = Cluster::settled(16, Settings::lan(), Network::lan(0.05), 10);
    cluster.command(3, |swim, now| swim.leave(now));
    cluster.run_for(seconds(1));
    cluster.crash(3);
    cluster.run_for(seconds(10));
    for observer in (0..16).filter(|index| *index != 3) {
        let state = cluster.swim(observer).unwrap().state(node_id(3));
        assert_eq!(state, Some(MemberState::Left), "at {observer}");
    }
    assert_eq!(downs(&cluster), []);
    cluster.start(3);
    cluster.run_to(seconds(5), Cluster::agrees).expect("it is back");
}

#[test]
fn a_removed_node_is_gone_everywhere() {
    let mut cluster = Cluster::settled(8, Settings::lan(), Network::lan(0.0), 11);
    cluster.crash(2);
    cluster.command(0, |swim, now| swim.remove(now, node_id(2)));
    cluster.run_for(seconds(3));
    assert_eq!(cluster.swim(7).unwrap().state(node_id(2)), Some(MemberState::Left));
}

#[test]
fn a_hint_speeds_detection_up_and_proves_nothing() {
    let mut cluster = Cluster::settled(32, Settings::lan(), Network::lan(0.0), 12);
    let began = cluster.now();
    cluster.command(1, |swim, now| swim.hint(now, node_id(9)));
    cluster.run_for(seconds(3));
    assert!(detections(&cluster, 9, began).is_empty(), "a living node answers a hint");
    assert!(cluster.swim(1).unwrap().state(node_id(9)) == Some(MemberState::Alive));

    let began = cluster.now();
    cluster.crash(9);
    (0..9).for_each(|n| cluster.command(n, |swim, now| swim.hint(now, node_id(9))));
    cluster.run_for(seconds(5));
    let seen = detections(&cluster, 9, began);
    assert_eq!(seen.len(), 31);
    assert!(*seen.iter().max().unwrap() < Duration::from_millis(1800), "{:?}", seen.iter().max());
}

#[test]
fn what_is_down_is_forgotten_when_it_is_too_much_or_too_old() {
    let settings = Settings { max_down: 3, remember_down: seconds(60), ..Settings::lan() };
    let mut cluster = Cluster::settled(12, settings, Network::lan(0.0), 13);
    (4..12).for_each(|index| cluster.crash(index));
    cluster.run_for(seconds(30));
    let view = cluster.swim(0).unwrap().view();
    let down = view.members.values().filter(|m| m.state == MemberState::Down).count();
    assert_eq!((down, view.active().count()), (3, 4));
    cluster.run_for(seconds(60));
    assert_eq!(cluster.swim(0).unwrap().view().members.len(), 4);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut cluster = Cluster::settled(24, Settings::lan(), Network::lan(0.1), seed);
        cluster.crash(3);
        cluster.pause(4, seconds(3));
        cluster.run_for(seconds(10));
        (cluster.trace(), cluster.bytes_sent())
    };
    assert_eq!(run(14), run(14));
    assert_ne!(run(14), run(15));
}

#[test]
fn hostile_datagrams_are_refused_and_change_nothing() {
    let mut cluster = Cluster::settled(4, Settings::lan(), Network::lan(0.0), 16);
    let before = cluster.swim(0).unwrap().view();
    cluster.command(0, |swim, now| {
        assert!(swim.handle_datagram(now, node_id(1), b"nonsense").is_err());
        assert!(swim.handle_datagram(now, node_id(1), &[]).is_err());
        assert!(swim.exchange(now, node_id(1), &[1, 0, 0]).is_err());
        assert!(swim.exchanged(now, node_id(1), Some(&[7])).is_err());
        assert_eq!(swim.counters().refused, 4);
    });
    // A well formed state in the name of somebody else.
    let mut stolen = None;
    cluster.command(1, |swim, now| {
        swim.start_exchange(now, NodeId(3), "10.0.0.2:7400".parse().unwrap());
        stolen = swim.poll_output();
    });
    let Some(crate::Output::Exchange { body, .. }) = stolen else { panic!("no exchange") };
    cluster.command(0, |swim, now| {
        assert!(swim.exchange(now, node_id(2), &body).is_err());
        assert!(swim.exchange(now, node_id(1), &body).is_ok());
    });
    assert_eq!(cluster.swim(0).unwrap().view().members, before.members);
}

#[test]
fn a_process_with_an_old_copy_of_an_identity_notices_it() {
    let mut cluster = Cluster::settled(4, Settings::lan(), Network::lan(0.0), 17);
    cluster.crash(2);
    cluster.start(2);
    cluster.run_for(seconds(5));
    let mut state = None;
    cluster.command(0, |swim, now| {
        swim.start_exchange(now, node_id(3), "10.0.0.3:7400".parse().unwrap());
        while let Some(output) = swim.poll_output() {
            if let crate::Output::Exchange { body, .. } = output {
                state = Some(body);
            }
        }
    });
    let mut old = cluster.swim(2).unwrap().identity().clone();
    old.incarnation.0 = 1;
    let mut swim = crate::Swim::new(old, Settings::lan(), Vec::new(), 1, cluster.now());
    swim.exchange(cluster.now(), node_id(0), &state.unwrap()).unwrap();
    assert_eq!(swim.view().superseded_by.map(|i| i.0), Some(2));
}

/// Nodes 1 to 6 in a few lives each: enough for every kind of conflict.
fn small(identity: Identity) -> Identity {
    let node = NodeId(identity.node.0 % 6 + 1);
    let incarnation = rung_proto::Incarnation(identity.incarnation.0 % 3);
    Identity { node, incarnation, renewal: identity.renewal % 3, ..identity }
}

fn small_member(member: foca::Member<Identity>) -> foca::Member<Identity> {
    let incarnation = member.incarnation() % 4;
    foca::Member::new(small(member.id().clone()), incarnation, member.state())
}

fn input() -> impl Strategy<Value = (u64, Vec<u8>, u8, bool)> {
    let members = || proptest::collection::vec(strategies::member().prop_map(small_member), 0..6);
    let parts = (strategies::identity(), strategies::message(), members());
    (parts, any::<bool>(), any::<u8>(), any::<bool>()).prop_map(
        |((src, message, updates), to_us, what, as_state)| {
            let src = small(src);
            let from = src.node.0;
            if as_state {
                let mut members = vec![foca::Member::alive(src)];
                members.extend(updates);
                return (from, encode_state(&members), what, true);
            }
            let dst = Identity { node: NodeId(1), ..src.clone() };
            let life = if to_us { rung_proto::Incarnation(1) } else { src.incarnation };
            let dst = Identity { incarnation: life, renewal: 0, left: false, ..dst };
            let header = foca::Header { src, src_incarnation: 0, dst, message };
            (from, encode_packet(&Packet { header, updates }), what, false)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_well_formed_input_makes_a_node_panic_or_forget_itself(
        inputs in proptest::collection::vec(input(), 1..80),
        seed in any::<u64>(),
    ) {
        let cluster = Cluster::settled(1, Settings::lan(), Network::lan(0.0), seed);
        let own = cluster.swim(0).unwrap().identity().clone();
        let mut now = cluster.now();
        let mut swim = Swim::new(own.clone(), Settings::lan(), Vec::new(), seed, now);
        for (from, bytes, what, as_state) in inputs {
            // What is refused is refused; only that it is survived matters.
            let _ = match (as_state, what % 4) {
                (true, 0) => swim.exchange(now, NodeId(from), &bytes).map(drop),
                (true, _) => swim.exchanged(now, NodeId(from), Some(&bytes)),
                (false, _) => swim.handle_datagram(now, NodeId(from), &bytes),
            };
            swim.hint(now, NodeId(u64::from(what % 7)));
            now += Duration::from_millis(u64::from(what) * 3);
            swim.handle_timeout(now);
            while swim.poll_output().is_some() {}
            let view = swim.view();
            prop_assert_eq!(view.state(own.node), Some(MemberState::Alive));
            prop_assert!(view.members.keys().all(|node| node.0 <= 6));
            prop_assert_eq!(view.active().count(), swim.active_count() + 1);
        }
    }
}
