//! Choosing an instance.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rung_proto::InstanceId;

use crate::config::HealthConfig;
use crate::health::Standing;
use crate::instance::{InFlight, Instance};
use crate::random::Random;
use crate::route::App;
use crate::table::Policy;

/// A probe that only a safe request may be waits this long for one, then any
/// request serves.
const UNSAFE_PROBE_AFTER_MS: u64 = 10_000;

/// What the choice depends on besides the instances.
pub(crate) struct Choice<'a> {
    pub now_ms: u64,
    /// Hash of the key, for consistent hashing.
    pub key: u64,
    /// Instances that this request has already tried.
    pub tried: &'a [InstanceId],
    /// The instance that the client is bound to.
    pub bound: Option<InstanceId>,
    /// The request could be sent again, so it may be a probe.
    pub safe: bool,
    pub config: &'a HealthConfig,
}

/// Chooses an instance for a request and counts the request there.
///
/// When no instance is in good standing, an ejected or avoided one is better
/// than none. `None`: there is no instance that was not tried.
pub(crate) fn choose(app: &App, choice: &Choice<'_>, random: &mut Random) -> Option<InFlight> {
    if let Some(instance) = due_probe(app, choice)
        && instance.health.start_probe()
    {
        return Some(InFlight::new(instance.clone(), true));
    }
    if let Some(bound) = choice.bound
        && let Some(instance) = app.ready.iter().find(|instance| instance.id == bound)
        && is_good(instance, choice)
    {
        return Some(InFlight::new(instance.clone(), false));
    }
    let group = preferred_group(app, choice);
    let chosen = by_policy(app, group, choice, random)
        .or_else(|| by_policy(app, &app.ready, choice, random))
        .or_else(|| last_resort(app, choice));
    chosen.map(|instance| InFlight::new(instance.clone(), false))
}

fn untried(instance: &Instance, choice: &Choice<'_>) -> bool {
    !instance.retired.load(Relaxed) && !choice.tried.contains(&instance.id)
}

fn is_good(instance: &Instance, choice: &Choice<'_>) -> bool {
    untried(instance, choice)
        && !instance.avoided.load(Relaxed)
        && instance.health.standing(choice.now_ms) == Standing::Good
}

/// An instance whose ejection is over and that this request may try.
fn due_probe<'a>(app: &'a App, choice: &Choice<'_>) -> Option<&'a Arc<Instance>> {
    app.ready.iter().find(|instance| match instance.health.standing(choice.now_ms) {
        Standing::ProbeDue { since_ms } => {
            untried(instance, choice)
                && !instance.avoided.load(Relaxed)
                && (choice.safe || choice.now_ms > since_ms + UNSAFE_PROBE_AFTER_MS)
        }
        _ => false,
    })
}

/// The instances of this data center while enough of them are good.
fn preferred_group<'a>(app: &'a App, choice: &Choice<'_>) -> &'a [Arc<Instance>] {
    let near = &app.ready[..app.near];
    if near.is_empty() || near.len() == app.ready.len() {
        return &app.ready;
    }
    let good = near.iter().filter(|instance| is_good(instance, choice)).count();
    let enough = (near.len() as f64 * choice.config.local_share).max(1.0);
    if good as f64 >= enough { near } else { &app.ready }
}

fn by_policy<'a>(
    app: &'a App,
    group: &'a [Arc<Instance>],
    choice: &Choice<'_>,
    random: &mut Random,
) -> Option<&'a Arc<Instance>> {
    match &app.policy {
        Policy::PowerOfTwo => power_of_two(group, choice, random),
        Policy::RoundRobin => round_robin(app, group, choice, random),
        Policy::LeastConnections => least_connections(group, choice, random),
        // A key belongs to one instance of all; data centers do not matter.
        Policy::ConsistentHash(_) => app
            .ring
            .walk(choice.key)
            .map(|index| &app.ready[index])
            .find(|instance| is_good(instance, choice)),
    }
}

fn power_of_two<'a>(
    group: &'a [Arc<Instance>],
    choice: &Choice<'_>,
    random: &mut Random,
) -> Option<&'a Arc<Instance>> {
    if group.is_empty() {
        return None;
    }
    let first = random.below(group.len());
    let first = good_from(group, first, choice)?;
    let second = good_from(group, random.below(group.len()), choice)?;
    // The second is another one where there is another one.
    let second = if second == first { good_from(group, first + 1, choice)? } else { second };
    let (first, second) = (&group[first], &group[second]);
    let cost = |instance: &Instance| instance.cost(choice.now_ms, choice.config);
    Some(if cost(second) < cost(first) { second } else { first })
}

/// The first good instance at or behind `start`, around the end.
fn good_from(group: &[Arc<Instance>], start: usize, choice: &Choice<'_>) -> Option<usize> {
    (start..start + group.len())
        .map(|index| index % group.len())
        .find(|index| is_good(&group[*index], choice))
}

fn round_robin<'a>(
    app: &App,
    group: &'a [Arc<Instance>],
    choice: &Choice<'_>,
    random: &mut Random,
) -> Option<&'a Arc<Instance>> {
    let mut candidate = None;
    for _ in 0..group.len() {
        let turn = app.lasting.next.fetch_add(1, Relaxed) % group.len();
        let index = good_from(group, turn, choice)?;
        candidate = Some(&group[index]);
        // One that is starting slowly misses some of its turns.
        if random.share() <= group[index].weight(choice.now_ms, choice.config) {
            break;
        }
    }
    candidate
}

fn least_connections<'a>(
    group: &'a [Arc<Instance>],
    choice: &Choice<'_>,
    random: &mut Random,
) -> Option<&'a Arc<Instance>> {
    if group.is_empty() {
        return None;
    }
    // Starting somewhere else each time spreads ties.
    let start = random.below(group.len());
    let load = |instance: &Instance| {
        (instance.in_flight.load(Relaxed) as f64 + 1.0)
            / instance.weight(choice.now_ms, choice.config)
    };
    group[start..]
        .iter()
        .chain(&group[..start])
        .filter(|instance| is_good(instance, choice))
        .min_by(|a, b| load(a).total_cmp(&load(b)))
}

/// Nobody is good: rather one that was ejected, rather one on a suspected node,
/// than none.
fn last_resort<'a>(app: &'a App, choice: &Choice<'_>) -> Option<&'a Arc<Instance>> {
    let untried = || app.ready.iter().filter(|instance| untried(instance, choice));
    let load = |instance: &&Arc<Instance>| instance.in_flight.load(Relaxed);
    untried()
        .filter(|instance| !instance.avoided.load(Relaxed))
        .min_by_key(load)
        .or_else(|| untried().min_by_key(load))
}

/// Leaves `instance` out, unless half of the app's instances are left out
/// already.
pub(crate) fn eject(app: &App, instance: &Instance, now_ms: u64, config: &HealthConfig) -> bool {
    let out = app
        .ready
        .iter()
        .filter(|other| other.id != instance.id)
        .filter(|other| other.health.standing(now_ms) != Standing::Good)
        .count();
    if (out + 1) * 2 > app.ready.len() {
        return false;
    }
    instance.health.eject(now_ms, config);
    true
}

#[cfg(test)]
mod tests;
