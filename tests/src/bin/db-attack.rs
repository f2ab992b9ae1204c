//! Attacks a database for as long as asked and prints what was found. The short
//! version of it is among the cluster tests.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rung_tests::attack::Attack;
use rung_tests::namespaces::{Cut, missing};
use rung_tests::workload::Mix;
use rung_tests::{Builder, Cluster};

/// Starts a cluster, attacks its database while clients write and read, and checks
/// what they saw. Exit code 1 when a promise was broken.
#[derive(Parser, Debug)]
struct Options {
    /// Nodes, each with clients
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Copies beside the primary's [default: one on every other node]
    #[arg(long)]
    replicas: Option<usize>,
    /// kill -9 of the primary
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// SIGSTOP of the primary
    #[arg(long, default_value_t = 5)]
    pauses: u32,
    /// Seconds that pauses and cuts last
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Cuts of the primary: outward, inward and both ways by turns
    #[arg(long, default_value_t = 6)]
    cuts: u32,
    /// Ends of all nodes at once
    #[arg(long, default_value_t = 3)]
    blackouts: u32,
    /// Promotions
    #[arg(long, default_value_t = 10)]
    promotions: u32,
    /// Transactions between two attacks
    #[arg(long, default_value_t = 200)]
    between: u64,
    /// Only writers of numbered rows, no histories
    #[arg(long)]
    rows_only: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut builder = Cluster::builder().nodes(options.nodes).dcs(&["east", "west", "north"]);
    let mut cuts = options.cuts;
    match missing() {
        Some(why) if cuts > 0 => {
            println!("no cuts: {why}");
            cuts = 0;
        }
        _ => builder = if cuts > 0 { Builder::on_machines(builder) } else { builder },
    }
    let mix = if options.rows_only { Mix::WRITERS } else { Mix::ALL };
    let replicas = options.replicas.unwrap_or(usize::from(options.nodes) - 1);
    let mut attack = Attack::begin_with(builder.start(), replicas, mix);
    let lasting = Duration::from_secs(options.seconds);
    let mut repeat = |what: &str, times: u32, act: &mut dyn FnMut(&mut Attack, u32)| {
        for turn in 0..times {
            println!("{what} {} of {times}", turn + 1);
            attack.go_on_for(options.between);
            act(&mut attack, turn);
        }
    };
    repeat("promote", options.promotions, &mut |attack, _| attack.promote());
    repeat("kill", options.kills, &mut |attack, _| attack.kill_primary());
    repeat("pause", options.pauses, &mut |attack, _| attack.pause_primary(lasting));
    repeat("cut", cuts, &mut |attack, turn| {
        let cut = [Cut::Out, Cut::In, Cut::Both][turn as usize % 3];
        attack.cut_primary(cut, lasting);
    });
    repeat("kill all", options.blackouts, &mut |attack, _| attack.kill_everybody());
    let findings = attack.end();
    println!("{findings}");
    if findings.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
