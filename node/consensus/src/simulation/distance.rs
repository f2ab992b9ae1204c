//! Voters that are further from each other than heartbeats are apart.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, config};
use super::faulty_log::Bug;
use super::links::Weather;
use super::run::block_on;
use super::suspicion::led;
use crate::config::GroupConfig;

#[test]
fn a_leader_keeps_the_lead_when_answers_take_longer_than_heartbeats_are_apart() {
    for seed in 0..8 {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config());
            cluster.found(3).await.expect("a group that is made");
            let one_way = config().heartbeat * 6 / 10;
            cluster.links.set_weather(Weather { delay: (one_way, one_way), ..Weather::FAIR });
            // Whoever leads now keeps the lead.
            sleep(Duration::from_secs(2)).await;
            let (leader, others) = led(&cluster, seed).await;
            let term = others[0].group.status().borrow().term;
            let led_by = cluster.running().into_iter().find(|(id, _)| *id == leader);
            let (_, life) = led_by.expect("the leader runs");
            for _ in 0..200 {
                sleep(Duration::from_millis(50)).await;
                let status = life.group.status().borrow().clone();
                assert!(status.is_leader() && status.term == term, "seed {seed}: {status:?}");
                let heard = status.millis_since_quorum().expect("a majority answers");
                assert!(heard < 250, "seed {seed}: a majority was heard {heard} ms ago");
            }
        });
    }
}

/// Two voters of three that are nearly as far apart as their times are for, and whose leader
/// died without anybody knowing.
#[test]
fn two_voters_far_apart_do_not_take_each_others_votes_for_ever() {
    let config = GroupConfig {
        heartbeat: Duration::from_millis(133),
        election: (Duration::from_millis(667), Duration::from_millis(933)),
        ..config()
    };
    for seed in 0..40 {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config.clone());
            cluster.found(3).await.expect("a group that is made");
            let one_way = Duration::from_millis(190);
            cluster.links.set_weather(Weather { delay: (one_way, one_way), ..Weather::FAIR });
            sleep(Duration::from_secs(2)).await;
            let (leader, _) = led(&cluster, seed).await;
            let died = Instant::now();
            cluster.crash(leader, true);
            // The lease is over after 933 ms, both ask for votes within another 933 and know
            // that nobody won 570 later; 1.6 s after that one has asked alone and won.
            while cluster.leader().is_none() {
                let waited = died.elapsed();
                assert!(waited < Duration::from_millis(4_500), "seed {seed}: nobody leads");
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
}
