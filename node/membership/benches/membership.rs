//! `cargo bench -p rung-membership`: how fast crashes are known and joins are
//! complete, how many false alarms there are and what it costs, in simulated
//! time. With words of `join crash steady stalls heal` only those parts are run, with
//! `quick` a fraction of each.

use std::time::Duration;

use rung_membership::simulation::{Cluster, Network};
use rung_membership::{MemberState, Settings};

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let quick = words.iter().any(|word| word == "quick");
    let all = words.iter().all(|word| word == "quick");
    let wanted = |part: &str| all || words.iter().any(|word| word == part);
    let seeds = if quick { 1 } else { 3 };
    for (name, damping) in [("damped", true), ("undamped", false)] {
        let settings = Settings { damping, ..Settings::lan() };
        let losses = [0.0, 0.05];
        for (size, loss) in pairs(&[50, 128, 500], &losses).filter(|_| wanted("join")) {
            joins(name, &settings, size, loss, seeds);
        }
        for (size, loss) in pairs(&[8, 128], &losses).filter(|_| wanted("crash")) {
            crashes(name, &settings, size, loss, seeds);
        }
        let time = Duration::from_secs(if quick { 60 } else { 300 });
        for (size, loss) in pairs(&[8, 128], &[0.05]).filter(|_| wanted("steady")) {
            steady(name, &settings, size, loss, time);
        }
        if wanted("stalls") {
            stalls(name, &settings, if quick { 60 } else { 300 });
        }
        for (size, loss) in pairs(&[8, 128], &[0.01]).filter(|_| wanted("heal")) {
            heals(name, &settings, size, loss, seeds);
        }
    }
}

fn pairs<'a>(sizes: &'a [usize], losses: &'a [f64]) -> impl Iterator<Item = (usize, f64)> + 'a {
    sizes.iter().flat_map(|size| losses.iter().map(|loss| (*size, *loss)))
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

fn joins(name: &str, settings: &Settings, size: usize, loss: f64, seeds: u64) {
    let mut took = Vec::new();
    let mut bytes = 0.0;
    for seed in 1..=seeds {
        let mut cluster = Cluster::new(size, settings.clone(), Network::lan(loss), seed);
        cluster.start_all(Duration::from_secs(1));
        match cluster.run_to(Duration::from_secs(60), Cluster::agrees) {
            Some(time) => took.push(time),
            None => took.push(Duration::MAX),
        }
        bytes += cluster.bytes_sent() as f64 / size as f64;
    }
    took.sort();
    println!(
        "join   {name:8} n={size:3} loss={loss:.2}: all see all {:.2?} after the last of them \
         started (worst {:.2?}), {:.0} kB a node",
        percentile(&took, 0.5),
        percentile(&took, 1.0),
        bytes / seeds as f64 / 1e3
    );
}

/// Two times for each crash: until each single observer knew, and until all did.
fn crashes(name: &str, settings: &Settings, size: usize, loss: f64, seeds: u64) {
    let (mut each, mut all) = (Vec::new(), Vec::new());
    let mut false_alarms = 0;
    let mut missed = 0;
    for seed in 1..=seeds {
        let network = Network::lan(loss);
        let mut cluster = Cluster::settled(size, settings.clone(), network, 100 + seed);
        // Never fewer than half are left.
        for subject in 1..=(size / 2 - 1).min(40) {
            let began = cluster.now();
            let seen_before = cluster.sightings().len();
            cluster.crash(subject);
            cluster.run_for(Duration::from_secs(8));
            let new = &cluster.sightings()[seen_before..];
            let down: Vec<_> = new.iter().filter(|s| s.state == MemberState::Down).collect();
            let of_subject: Vec<_> =
                down.iter().filter(|s| s.subject == subject).map(|s| s.at - began).collect();
            false_alarms += down.len() - of_subject.len();
            missed += (size - subject).saturating_sub(of_subject.len());
            all.extend(of_subject.iter().max());
            each.extend(of_subject);
        }
    }
    each.sort();
    all.sort();
    println!(
        "crash  {name:8} n={size:3} loss={loss:.2}: each knows p50 {:.2?} p99 {:.2?} max {:.2?}; \
         all know p50 {:.2?} p99 {:.2?}; {} crashes, {missed} missed, {false_alarms} false",
        percentile(&each, 0.5),
        percentile(&each, 0.99),
        percentile(&each, 1.0),
        percentile(&all, 0.5),
        percentile(&all, 0.99),
        all.len(),
    );
}

fn steady(name: &str, settings: &Settings, size: usize, loss: f64, time: Duration) {
    let mut cluster = Cluster::settled(size, settings.clone(), Network::lan(loss), 7);
    let (bytes, seen) = (cluster.bytes_sent(), cluster.sightings().len());
    cluster.run_for(time);
    let new = &cluster.sightings()[seen..];
    let count = |state| new.iter().filter(|s| s.state == state).count();
    let suspicions: u64 =
        (0..size).filter_map(|n| cluster.swim(n)).map(|s| s.counters().suspicions).sum();
    println!(
        "steady {name:8} n={size:3} loss={loss:.2}: {:.0} s, {} false alarms, {suspicions} \
         suspicions raised, {:.1} kbit/s a node",
        time.as_secs_f64(),
        count(MemberState::Down),
        (cluster.bytes_sent() - bytes) as f64 * 8.0 / 1e3 / time.as_secs_f64() / size as f64
    );
}

/// Every second one node in ten stands still for 0.8 s, too short to be dead;
/// every ten seconds one stands still for five, and is rightly taken for down.
fn stalls(name: &str, settings: &Settings, seconds: usize) {
    let size = 50;
    let mut cluster = Cluster::settled(size, settings.clone(), Network::lan(0.01), 9);
    let seen = cluster.sightings().len();
    let mut long = Vec::new();
    for second in 0..seconds {
        for n in 0..5 {
            cluster.pause((second * 13 + n * 7) % size, Duration::from_millis(800));
        }
        if second % 10 == 0 {
            let subject = (second / 10 * 17 + 3) % size;
            cluster.pause(subject, Duration::from_secs(5));
            long.push((cluster.now(), subject));
        }
        cluster.run_for(Duration::from_secs(1));
    }
    let excused = |at: Duration, subject: usize| {
        let window = Duration::from_secs(8);
        long.iter().any(|(began, who)| *who == subject && at >= *began && at < *began + window)
    };
    let new = &cluster.sightings()[seen..];
    let false_alarms =
        new.iter().filter(|s| s.state == MemberState::Down && !excused(s.at, s.subject)).count();
    println!("stalls {name:8} n={size:3}: {seconds} s, {false_alarms} false alarms");
}

/// Half of the nodes do not reach the other half for a minute.
fn heals(name: &str, settings: &Settings, size: usize, loss: f64, seeds: u64) {
    let mut took = Vec::new();
    let mut own_side = 0;
    for seed in 1..=seeds {
        let mut cluster = Cluster::settled(size, settings.clone(), Network::lan(loss), seed);
        let seen = cluster.sightings().len();
        (0..size / 2).for_each(|index| cluster.set_side(index, 1));
        cluster.run_for(Duration::from_secs(60));
        (0..size / 2).for_each(|index| cluster.set_side(index, 0));
        let healed = cluster.run_to(Duration::from_secs(120), Cluster::agrees);
        took.push(healed.unwrap_or(Duration::MAX));
        let side = |index| index < size / 2;
        own_side += cluster.sightings()[seen..]
            .iter()
            .filter(|s| s.state == MemberState::Down && side(s.observer) == side(s.subject))
            .count();
    }
    took.sort();
    println!(
        "heal   {name:8} n={size:3} loss={loss:.2}: all see all again after {:.2?} (worst {:.2?}), \
         {own_side} false alarms within a side",
        percentile(&took, 0.5),
        percentile(&took, 1.0)
    );
}
