//! The database keeps its promises while its primary is killed, stopped, cut off and
//! replaced. `db-attack` does the same for longer.

use std::time::Duration;

use rung_tests::attack::Attack;
use rung_tests::cluster::SOON;
use rung_tests::namespaces::{Cut, missing};
use rung_tests::workload::Mix;
use rung_tests::{Cluster, eventually};

/// Long enough for another primary.
const FAULT: Duration = Duration::from_secs(2);

#[track_caller]
fn attack(mix: Mix) -> Attack {
    Attack::begin(Cluster::builder().nodes(3).alone().start(), mix)
}

#[test]
fn no_acknowledged_row_is_lost_or_doubled_when_primaries_are_killed() {
    let mut attack = attack(Mix::WRITERS);
    for _ in 0..3 {
        attack.kill_primary();
    }
    attack.end().expect_sound();
}

#[test]
fn a_primary_that_was_stopped_takes_nothing_back_when_it_wakes() {
    let mut attack = attack(Mix::WRITERS);
    attack.pause_primary(FAULT);
    attack.end().expect_sound();
}

#[test]
fn what_was_acknowledged_survives_the_end_of_all_nodes() {
    let mut attack = attack(Mix::WRITERS);
    attack.kill_everybody();
    attack.end().expect_sound();
}

#[test]
fn promotions_lose_nothing() {
    let mut attack = attack(Mix::WRITERS);
    for _ in 0..3 {
        attack.promote();
    }
    attack.end().expect_sound();
}

#[test]
fn what_clients_see_has_an_order_while_primaries_are_killed_and_replaced() {
    let mut attack = attack(Mix::HISTORIES);
    attack.go_on_for(50);
    attack.kill_primary();
    attack.promote();
    attack.pause_primary(FAULT);
    attack.end().expect_sound();
}

#[track_caller]
fn cut_off_the_primary(cuts: &[Cut]) {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let builder = Cluster::builder().nodes(3).alone().dcs(&["east", "west", "north"]);
    let mut attack = Attack::begin(builder.on_machines().start(), Mix::ALL);
    for cut in cuts {
        attack.cut_primary(*cut, FAULT);
    }
    attack.end().expect_sound();
}

#[test]
fn a_primary_that_is_cut_off_one_way_acknowledges_nothing_alone() {
    cut_off_the_primary(&[Cut::Out, Cut::In]);
}

#[test]
fn a_primary_that_is_cut_off_both_ways_acknowledges_nothing_alone() {
    cut_off_the_primary(&[Cut::Both]);
}

#[test]
fn copies_on_other_continents_keep_their_primary_and_replace_one_that_died() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let builder = Cluster::builder().nodes(3).alone().dcs(&["east", "west", "north"]);
    let builder = builder.argument("--round-trip").argument("400ms");
    let mut cluster = builder.on_machines().start();
    // Without the option a primary does not keep the lead for a second.
    cluster.machines().expect("machines").delay(Duration::from_millis(150));
    let mut attack = Attack::begin(cluster, Mix::WRITERS);
    // Once may be the fault of a machine that stood still.
    eventually("a primary keeps its lead for some seconds of writes", SOON, || {
        let epoch = attack.epoch();
        attack.go_on_for(100);
        attack.epoch() == epoch
    });
    attack.kill_primary();
    attack.end().expect_sound();
}
