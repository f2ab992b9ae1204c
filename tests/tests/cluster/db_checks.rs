//! The checks of what clients of a database saw, checked with a real server that
//! keeps its promises, and with one that was told not to.

use rung_tests::check::{list_append, registers, rows, session_reads};
use rung_tests::postgres::{Postgres, missing};
use rung_tests::workload::{
    Doors, Mix, Records, Workload, make_tables, read_at_the_end, read_rows,
};

const MIX: Mix = Mix { is_rung: false, lists: 6, ..Mix::ALL };

fn server(settings: &[&str]) -> Option<(Postgres, Doors)> {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return None;
    }
    let server = Postgres::start(settings);
    let doors = Doors { write: server.door(), read: server.door() };
    make_tables(&doors.write, &MIX);
    Some((server, doors))
}

fn end(load: Workload, doors: &Doors) -> Records {
    let now = load.now();
    let mut records = load.stop();
    read_at_the_end(&doors.write, &mut records, now * 2).expect("the last reads");
    records
}

#[test]
fn a_server_that_keeps_its_promises_is_found_to_keep_them() {
    let settings = ["default_transaction_isolation = 'serializable'"];
    let Some((mut server, doors)) = server(&settings) else { return };
    let load = Workload::start(&[doors.clone(), doors.clone()], MIX);
    for _ in 0..2 {
        load.go_on_for(300);
        let since = load.now();
        server.kill();
        server.restart();
        load.next_acknowledged(since);
    }
    load.go_on_for(100);
    let records = end(load, &doors);
    let verdict = rows::check(&records.rows, &read_rows(&doors.write).unwrap());
    println!("{verdict}");
    assert_eq!(verdict.faults, []);
    assert!(verdict.acknowledged > 500 && verdict.unknown > 0);
    assert_eq!(registers::check(&records.registers), []);
    // It promises an order, but not that of real time.
    let order = list_append::Order::Any;
    assert_eq!(list_append::check(&records.lists, order), []);
    assert_eq!(session_reads::check(&records.sessions), []);
    assert!(records.registers.len() > 100 && records.lists.len() > 100);
    assert!(records.sessions.len() > 20);
}

#[test]
fn a_server_that_acknowledges_before_it_writes_is_caught() {
    let Some((mut server, doors)) =
        server(&["synchronous_commit = off", "wal_writer_delay = '10s'", "wal_buffers = '64MB'"])
    else {
        return;
    };
    let load = Workload::start(std::slice::from_ref(&doors), MIX);
    load.go_on_for(300);
    let since = load.now();
    server.kill();
    server.restart();
    load.next_acknowledged(since);
    let records = end(load, &doors);
    let verdict = rows::check(&records.rows, &read_rows(&doors.write).unwrap());
    println!("{verdict}");
    assert!(verdict.faults.iter().any(|fault| matches!(fault, rows::Fault::Missing(_))));
}

#[test]
fn transactions_that_do_not_see_each_other_are_caught() {
    let Some((_server, doors)) = server(&[]) else { return };
    let mix = Mix { begin: "BEGIN ISOLATION LEVEL READ COMMITTED", ..MIX };
    let load = Workload::start(&[doors.clone(), doors.clone()], mix);
    load.go_on_for(600);
    let records = end(load, &doors);
    let lists = list_append::check(&records.lists, list_append::Order::Any);
    println!("{} transactions, {} faults", records.lists.len(), lists.len());
    assert_ne!(lists, []);
    assert_eq!(registers::check(&records.registers), [], "single statements are in order");
}
