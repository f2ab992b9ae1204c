use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rung_proto::NodeId;

use super::*;
use crate::hash_ring::{HashRing, hash_key};
use crate::health::Outcome;
use crate::route::LastingApp;
use crate::table::{HashKey, Place, Target, TargetState};

const NOW: u64 = 1_000_000;

fn app(policy: Policy, dcs: &[&str]) -> App {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let ready: Vec<_> = dcs
        .iter()
        .enumerate()
        .map(|(index, dc)| {
            let target = Target {
                id: InstanceId(index as u64 + 1),
                node: NodeId(index as u64 + 1),
                dc: dc.to_string(),
                place: Place::Local { address },
                state: TargetState::Ready,
                since_ms: 0,
            };
            Arc::new(Instance::new(&target, Arc::new(AtomicBool::new(false)), 900_000, NOW, 1))
        })
        .collect();
    App {
        name: "a".into(),
        ring: HashRing::new(ready.iter().map(|instance| instance.id)),
        near: dcs.iter().filter(|dc| **dc == "here").count(),
        ready,
        policy,
        max_in_flight: None,
        sticky: false,
        lasting: Arc::new(LastingApp::new(1)),
    }
}

struct Picker {
    config: HealthConfig,
    random: Random,
}

impl Picker {
    fn new() -> Picker {
        Picker { config: HealthConfig::default(), random: Random::seeded(7) }
    }

    fn pick(&mut self, app: &App, key: u64, tried: &[u64]) -> Option<u64> {
        let tried: Vec<_> = tried.iter().map(|id| InstanceId(*id)).collect();
        let choice = Choice {
            now_ms: NOW,
            key,
            tried: &tried,
            bound: None,
            safe: false,
            config: &self.config,
        };
        choose(app, &choice, &mut self.random).map(|at| at.instance.id.0)
    }

    /// How often each of four instances is chosen in `times`.
    fn shares(&mut self, app: &App, times: usize) -> [usize; 5] {
        let mut counts = [0; 5];
        for _ in 0..times {
            counts[self.pick(app, 0, &[]).unwrap() as usize] += 1;
        }
        counts
    }
}

#[test]
fn round_robin_takes_turns() {
    let app = app(Policy::RoundRobin, &["here"; 3]);
    let mut picker = Picker::new();
    let picks: Vec<_> = (0..6).map(|_| picker.pick(&app, 0, &[]).unwrap()).collect();
    assert_eq!(picks, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn least_connections_takes_the_one_with_the_fewest() {
    let app = app(Policy::LeastConnections, &["here"; 3]);
    let _busy: Vec<_> = [0, 0, 2].map(|i: usize| InFlight::new(app.ready[i].clone(), false)).into();
    assert_eq!(Picker::new().shares(&app, 50), [0, 0, 50, 0, 0]);
}

#[test]
fn power_of_two_avoids_the_slow_one_and_forgives_it_later() {
    let app = app(Policy::PowerOfTwo, &["here"; 2]);
    for instance in &app.ready {
        instance.record_latency(if instance.id.0 == 1 { 80_000 } else { 1_000 }, NOW);
    }
    let mut picker = Picker::new();
    assert_eq!(picker.shares(&app, 100)[2], 100);
    let old = NOW - 9_000_000 / 10;
    app.ready[0].record_latency(80_000, old);
    let choice_cost = app.ready[0].cost(NOW, &picker.config);
    assert!(choice_cost < 2_000.0, "{choice_cost}");
}

#[test]
fn a_hash_key_stays_with_its_instance_and_moves_only_when_that_fails() {
    let app = app(Policy::ConsistentHash(HashKey::ClientAddress), &["here"; 4]);
    let mut picker = Picker::new();
    for key in (0..50_u64).map(|key| hash_key(&key.to_le_bytes())) {
        let owner = picker.pick(&app, key, &[]).unwrap();
        assert_eq!(picker.pick(&app, key, &[]), Some(owner));
        assert_ne!(picker.pick(&app, key, &[owner]), Some(owner));
    }
}

#[test]
fn requests_stay_in_their_data_center_while_something_is_good_there() {
    let app = app(Policy::PowerOfTwo, &["here", "here", "there", "there"]);
    let mut picker = Picker::new();
    let shares = picker.shares(&app, 100);
    assert_eq!(shares[3] + shares[4], 0);
    app.ready[0].health.eject(NOW, &picker.config);
    assert_eq!(picker.shares(&app, 100)[2], 100);
    app.ready[1].retired.store(true, Relaxed);
    let shares = picker.shares(&app, 100);
    assert_eq!(shares[1] + shares[2], 0);
    assert_eq!(shares[3] + shares[4], 100);
}

#[test]
fn with_a_share_asked_for_a_weak_data_center_gets_help() {
    let app = app(Policy::PowerOfTwo, &["here", "here", "there", "there"]);
    let mut picker = Picker::new();
    picker.config.local_share = 0.6;
    app.ready[0].health.eject(NOW, &picker.config);
    let shares = picker.shares(&app, 300);
    assert!(shares[3] > 0 && shares[4] > 0, "{shares:?}");
}

#[test]
fn never_more_than_half_is_ejected() {
    for (instances, most) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        let app = app(Policy::PowerOfTwo, &vec!["here"; instances]);
        let config = HealthConfig::default();
        let ejected =
            app.ready.iter().filter(|instance| eject(&app, instance, NOW, &config)).count();
        assert_eq!(ejected, most, "of {instances}");
    }
}

#[test]
fn nobody_good_is_still_somebody_and_a_suspected_node_comes_last() {
    let app = app(Policy::PowerOfTwo, &["here"; 3]);
    let mut picker = Picker::new();
    for instance in &app.ready {
        instance.health.eject(NOW, &picker.config);
    }
    app.ready[0].avoided.store(true, Relaxed);
    assert_ne!(picker.pick(&app, 0, &[]), Some(1));
    assert_eq!(picker.pick(&app, 0, &[2, 3]), Some(1));
    assert_eq!(picker.pick(&app, 0, &[1, 2, 3]), None);
    app.ready[1].retired.store(true, Relaxed);
    assert_eq!(picker.pick(&app, 0, &[1, 3]), None, "a draining one gets nothing");
}

#[test]
fn an_ejected_instance_is_probed_by_one_safe_request() {
    let app = app(Policy::PowerOfTwo, &["here"; 2]);
    let config = HealthConfig { eject: Duration::from_millis(100), ..HealthConfig::default() };
    app.ready[0].health.eject(NOW, &config);
    let mut random = Random::seeded(1);
    let mut choose_at = |now_ms, safe| {
        let choice = Choice { now_ms, key: 0, tried: &[], bound: None, safe, config: &config };
        choose(&app, &choice, &mut random).unwrap()
    };
    assert_eq!(choose_at(NOW + 99, true).instance.id.0, 2);
    assert_eq!(choose_at(NOW + 101, false).instance.id.0, 2, "not by an unsafe one");
    let mut probe = choose_at(NOW + 101, true);
    assert_eq!((probe.instance.id.0, probe.probe), (1, true));
    assert_eq!(choose_at(NOW + 101, true).instance.id.0, 2, "only one at a time");
    assert!(!probe.record(Outcome::Good, NOW + 102, &config));
    drop(probe);
    assert_eq!(app.ready[0].health.standing(NOW + 102), Standing::Good);
}

#[test]
fn an_instance_that_just_became_ready_gets_a_smaller_share() {
    let app = app(Policy::LeastConnections, &["here"; 2]);
    let mut picker = Picker::new();
    let new = &app.ready[0];
    new.health.eject(NOW - 5000, &picker.config);
    assert!(new.health.start_probe());
    new.health.record(Outcome::Good, true, NOW, &picker.config);
    assert_eq!(picker.shares(&app, 100)[2], 100);
    let _load: Vec<_> = (0..20).map(|_| InFlight::new(app.ready[1].clone(), false)).collect();
    assert_eq!(picker.pick(&app, 0, &[]), Some(1));
}

#[test]
fn an_instance_that_was_ready_before_the_balancer_started_has_its_full_share() {
    let app = app(Policy::RoundRobin, &["here"]);
    let target = Target {
        id: InstanceId(9),
        node: NodeId(1),
        dc: "here".into(),
        place: Place::Remote,
        state: TargetState::Ready,
        since_ms: 0,
    };
    let old = Instance::new(&target, Arc::default(), 900_000, 5, 1);
    let new = Instance::new(&target, Arc::default(), 0, 5, 1);
    let config = HealthConfig::default();
    assert_eq!(old.weight(6, &config), 1.0);
    assert_eq!(new.weight(6, &config), 0.1);
    assert_eq!(app.ready[0].weight(NOW, &config), 1.0);
}
