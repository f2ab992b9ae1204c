//! A database under attack: clients at work through every node while its primary is
//! killed, stopped, cut off or replaced, and then the account of what they saw.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::check::list_append::Order;
use crate::check::rows::Numbered;
use crate::check::{Nanos, Outcome, Timed, list_append, registers, rows, session_reads};
use crate::cluster::{Cluster, SOON};
use crate::namespaces::Cut;
use crate::process::signal;
use crate::workload::{self, Doors, Mix, Workload, make_tables, read_rows};

const DATABASE: &str = "attacked";
/// Faults of one kind that are printed.
const SHOWN: usize = 5;

/// A cluster, its database and its clients.
#[derive(Debug)]
pub struct Attack {
    cluster: Cluster,
    replicas: usize,
    doors: Vec<Doors>,
    load: Workload,
    outages: Vec<Outage>,
    promotions: Vec<Promotion>,
}

/// What was done to the primary, and how long no write was acknowledged: from the
/// fault to the answer to the first write that was sent after it.
#[derive(Clone, Debug)]
pub struct Outage {
    pub what: &'static str,
    pub until_acknowledged: Duration,
}

/// A change of the primary by an operator.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// The longest that a client waited for a statement meanwhile.
    pub stall: Duration,
    /// Writes that were not acknowledged meanwhile.
    pub failed: usize,
}

/// What the attack found.
#[derive(Clone, Debug)]
pub struct Findings {
    pub took: Duration,
    pub outages: Vec<Outage>,
    pub promotions: Vec<Promotion>,
    /// The rows as each copy has them.
    pub rows: Vec<(String, rows::Verdict)>,
    pub registers: (usize, Vec<registers::Fault>),
    pub lists: (usize, Vec<list_append::Fault>),
    pub sessions: (usize, Vec<session_reads::WentBack>),
    /// What writers were told when they were not served, and how often.
    pub told: BTreeMap<String, usize>,
}

impl Attack {
    /// Creates the database with a copy on every node and starts clients on each.
    #[track_caller]
    pub fn begin(cluster: Cluster, mix: Mix) -> Self {
        let replicas = cluster.running().len() - 1;
        Self::begin_with(cluster, replicas, mix)
    }

    /// The same with so many replicas; the other nodes only have clients.
    #[track_caller]
    pub fn begin_with(cluster: Cluster, replicas: usize, mix: Mix) -> Self {
        let nodes = cluster.running();
        cluster.create_database(DATABASE, replicas);
        let doors: Vec<Doors> = nodes.iter().map(|node| cluster.doors(node, DATABASE)).collect();
        make_tables(&doors[0].write, &mix);
        let load = Workload::start(&doors, mix);
        load.go_on_for(20);
        Self { cluster, replicas, doors, load, outages: Vec::new(), promotions: Vec::new() }
    }

    pub fn primary(&self) -> String {
        self.cluster.primary(DATABASE, &[])
    }

    /// The term that the primary leads in; the next one's is higher.
    ///
    /// # Panics
    /// When nobody knows the database.
    #[track_caller]
    pub fn epoch(&self) -> u64 {
        self.cluster.shard(DATABASE, &[]).expect("somebody knows it").epoch
    }

    /// Lets clients work undisturbed for so many transactions.
    #[track_caller]
    pub fn go_on_for(&self, transactions: u64) {
        self.load.go_on_for(transactions);
    }

    fn was_killed(&self, node: &str) {
        let doors = self.doors.iter().filter(|doors| doors.write.node == node);
        doors.for_each(|doors| doors.write.was_killed());
    }

    fn outage(&mut self, what: &'static str, since: Nanos) {
        let until_acknowledged = self.load.next_acknowledged(since);
        self.outages.push(Outage { what, until_acknowledged });
    }

    /// Until the database is whole, and clients work.
    #[track_caller]
    fn settle(&self) {
        self.cluster.wait_serving(DATABASE, self.replicas);
        self.load.go_on_for(10);
    }

    /// kill -9 of the primary; the others go on, and it comes back.
    #[track_caller]
    pub fn kill_primary(&mut self) {
        let primary = self.primary();
        self.was_killed(&primary);
        let since = self.load.now();
        self.cluster.kill(&primary);
        self.outage("kill -9", since);
        self.cluster.restart(&primary);
        self.settle();
    }

    /// SIGSTOP of the primary until others have served for so long; then it goes on
    /// as if nothing had happened.
    #[track_caller]
    pub fn pause_primary(&mut self, at_least: Duration) {
        let primary = self.primary();
        let since = self.load.now();
        let begun = Instant::now();
        signal(self.cluster.pid(&primary), "STOP");
        self.outage("SIGSTOP", since);
        self.wait_for(begun, at_least);
        signal(self.cluster.pid(&primary), "CONT");
        self.settle();
    }

    /// Cuts the primary off from the others for so long.
    ///
    /// # Panics
    /// When nodes have no machines of their own.
    #[track_caller]
    pub fn cut_primary(&mut self, cut: Cut, at_least: Duration) {
        let primary = self.primary();
        let what = match cut {
            Cut::Out => "cut off, outward",
            Cut::In => "cut off, inward",
            Cut::Both => "cut off, both ways",
        };
        let begun = Instant::now();
        let since = self.load.now();
        let machines = self.cluster.machines().expect("a cluster on machines");
        machines.isolate(&primary, cut);
        self.outage(what, since);
        self.wait_for(begun, at_least);
        self.cluster.machines().expect("a cluster on machines").heal(&primary);
        self.settle();
    }

    /// kill -9 of all nodes at once; then all are started again.
    #[track_caller]
    pub fn kill_everybody(&mut self) {
        let nodes = self.cluster.running();
        for node in &nodes {
            self.was_killed(node);
        }
        self.cluster.kill_all(&nodes);
        // Counted from when they are started, not from when they are killed.
        let since = self.load.now();
        for node in &nodes {
            self.cluster.spawn(node, &[]);
        }
        self.outage("all killed, started", since);
        self.settle();
    }

    /// Makes a replica the primary.
    #[track_caller]
    pub fn promote(&mut self) {
        let primary = self.primary();
        let shard = self.cluster.shard(DATABASE, &[]).expect("somebody knows it");
        let mut copies = shard.replicas.into_iter().map(|replica| replica.node);
        let target = copies.find(|node| *node != primary).expect("a replica");
        let from = self.load.now();
        self.cluster.ctl_of(&target, &["promote", &target]).expect(0);
        let to = self.load.now();
        self.load.next_acknowledged(to);
        crate::eventually("the copy is the primary", SOON, || self.primary() == target);
        let (stall, failed) = self.load.longest_stall(from, to);
        self.promotions.push(Promotion { stall, failed });
        self.settle();
    }

    /// The length of a fault is the fault, not a wait for something to happen.
    fn wait_for(&self, begun: Instant, at_least: Duration) {
        std::thread::sleep(at_least.saturating_sub(begun.elapsed()));
        self.load.go_on_for(20);
    }

    /// Ends the clients, reads every copy, and checks everything.
    ///
    /// # Panics
    /// When a copy cannot be read.
    #[track_caller]
    pub fn end(self) -> Findings {
        let took = Duration::from_nanos(self.load.now());
        let mut records = self.load.stop();
        let replicas = self.cluster.wait_level(DATABASE);
        let primary = self.cluster.primary(DATABASE, &[]);
        let writes = |node: &str| {
            let mut doors = self.doors.iter();
            doors.find(|doors| doors.write.node == node).expect("a node with doors").clone()
        };
        let linearizable = "SET rung.read = 'linearizable'";
        let whole = writes(&primary).write.with_settings(linearizable);
        let end = took.as_nanos() as Nanos + SOON.as_nanos() as Nanos;
        workload::read_at_the_end(&whole, &mut records, end).expect("the last reads");
        let mut copies = vec![(format!("{primary} (primary)"), whole)];
        copies.extend(replicas.into_iter().map(|node| {
            let door = writes(&node).read.with_settings("SET rung.read = 'any'");
            (node, door)
        }));
        let rows = copies.into_iter().map(|(copy, door)| {
            let there = read_rows(&door).unwrap_or_else(|told| panic!("{copy}: {told:?}"));
            (copy, rows::check(&records.rows, &there))
        });
        Findings {
            took,
            outages: self.outages,
            promotions: self.promotions,
            rows: rows.collect(),
            registers: (records.registers.len(), registers::check(&records.registers)),
            lists: (records.lists.len(), list_append::check(&records.lists, Order::RealTime)),
            sessions: (records.sessions.len(), session_reads::check(&records.sessions)),
            told: told(&records.rows),
        }
    }
}

/// What was not acknowledged, by what was said of it.
fn told(rows: &[Timed<Numbered>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let (kind, text) = match &row.outcome {
            Outcome::Acknowledged => continue,
            Outcome::Refused(text) => ("refused", text),
            Outcome::Unknown(text) => ("unknown", text),
        };
        let write = if row.what.parts == 1 { "statements" } else { "transactions" };
        let short: String = text.chars().take(160).collect();
        *counts.entry(format!("{write} {kind}: {short}")).or_default() += 1;
    }
    counts
}

impl Findings {
    /// Whether nothing that was acknowledged, read or refused turned out to be wrong.
    pub fn is_sound(&self) -> bool {
        self.rows.iter().all(|(_, verdict)| verdict.faults.is_empty())
            && self.registers.1.is_empty()
            && self.lists.1.is_empty()
            && self.sessions.1.is_empty()
    }

    /// # Panics
    /// When it is not sound.
    #[track_caller]
    pub fn expect_sound(&self) {
        println!("{self}");
        assert!(self.is_sound(), "the database broke a promise: {self}");
    }
}

/// The middle and the largest.
fn median_and_maximum(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort_unstable();
    Some((times[times.len().checked_sub(1)? / 2], *times.last()?))
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clients worked for {:.1} s", self.took.as_secs_f64())?;
        let mut kinds: Vec<&str> = self.outages.iter().map(|outage| outage.what).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let of_kind = self.outages.iter().filter(|outage| outage.what == kind);
            let times: Vec<_> = of_kind.map(|outage| outage.until_acknowledged).collect();
            let count = times.len();
            let Some((median, maximum)) = median_and_maximum(times) else { continue };
            writeln!(
                f,
                "{kind}, {count} times: next acknowledged write after {:.0} ms (median), {:.0} ms \
                 (longest)",
                median.as_secs_f64() * 1e3,
                maximum.as_secs_f64() * 1e3,
            )?;
        }
        let stalls = self.promotions.iter().map(|promotion| promotion.stall).collect();
        if let Some((median, maximum)) = median_and_maximum(stalls) {
            let failed: usize = self.promotions.iter().map(|promotion| promotion.failed).sum();
            writeln!(
                f,
                "promote, {} times: longest wait for a statement {:.0} ms (median), {:.0} ms \
                 (longest), {failed} not acknowledged",
                self.promotions.len(),
                median.as_secs_f64() * 1e3,
                maximum.as_secs_f64() * 1e3,
            )?;
        }
        for (copy, verdict) in &self.rows {
            writeln!(f, "rows on {copy}: {verdict}")?;
            list(f, &verdict.faults, |fault| format!("{fault:?}"))?;
        }
        writeln!(
            f,
            "registers: {} operations, {} faults",
            self.registers.0,
            self.registers.1.len()
        )?;
        list(f, &self.registers.1, ToString::to_string)?;
        writeln!(f, "lists: {} transactions, {} faults", self.lists.0, self.lists.1.len())?;
        list(f, &self.lists.1, ToString::to_string)?;
        writeln!(f, "sessions: {} reads, {} faults", self.sessions.0, self.sessions.1.len())?;
        list(f, &self.sessions.1, ToString::to_string)?;
        let mut told: Vec<_> = self.told.iter().collect();
        told.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (text, count) in told.into_iter().take(SHOWN) {
            writeln!(f, "{count} {text}")?;
        }
        Ok(())
    }
}

fn list<T>(f: &mut fmt::Formatter<'_>, faults: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
    for fault in faults.iter().take(SHOWN) {
        let mut text = show(fault);
        let end = text.char_indices().nth(2000).map_or(text.len(), |(end, _)| end);
        text.truncate(end);
        writeln!(f, "    {text}")?;
    }
    if faults.len() > SHOWN {
        f.write_fmt(format_args!("    and {} more\n", faults.len() - SHOWN))?;
    }
    f.write_str("")
}
