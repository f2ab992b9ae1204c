use proptest::prelude::*;

use super::*;

fn new() -> Lifecycle {
    let (life, actions) = Lifecycle::new(Policy::default(), 1);
    assert_eq!(actions, [Action::Prepare]);
    life
}

fn ok() -> Event {
    Event::Checked(Ok(()))
}

fn sick() -> Event {
    Event::Checked(Err("503".into()))
}

/// Takes a new instance to its first check.
fn checking(now: Millis) -> Lifecycle {
    let mut life = new();
    assert_eq!(life.on(Event::Prepared(Ok(())), now), [Action::Launch]);
    assert_eq!(life.on(Event::Launched(Ok(())), now), [Action::Check]);
    life
}

fn serving(now: Millis) -> Lifecycle {
    let mut life = checking(now);
    life.on(ok(), now);
    assert_eq!(life.on(Event::Tick, now + 50), [Action::Check]);
    assert_eq!(life.state(), InstanceState::Starting);
    life.on(ok(), now + 50);
    assert_eq!(life.state(), InstanceState::Healthy);
    life
}

/// Ends the process and everything of its session.
fn crash(life: &mut Lifecycle, now: Millis) {
    assert_eq!(life.on(Event::Exited("exit status: 1".into()), now), [Action::Kill]);
    life.on(Event::Gone, now);
}

#[test]
fn a_new_instance_must_be_healthy_several_times_in_a_row() {
    let mut life = checking(0);
    life.on(ok(), 10);
    assert_eq!(life.deadline(), Some(60));
    assert_eq!(life.on(Event::Tick, 60), [Action::Check]);
    life.on(sick(), 60);
    assert_eq!(life.problem(), Some("503"));
    assert_eq!(life.deadline(), Some(160));
    assert_eq!(life.on(Event::Tick, 160), [Action::Check]);
    life.on(ok(), 160);
    assert_eq!(life.state(), InstanceState::Starting);
    assert_eq!(life.on(Event::Tick, 360), [Action::Check]);
    life.on(ok(), 360);
    assert_eq!(life.state(), InstanceState::Healthy);
    assert_eq!(life.problem(), None);
}

#[test]
fn checks_slow_down_to_one_each_interval() {
    let mut life = checking(0);
    let mut now = 0;
    let mut gaps = Vec::new();
    for _ in 0..8 {
        life.on(sick(), now);
        let next = life.deadline().unwrap();
        gaps.push(next - now);
        now = next;
        assert_eq!(life.on(Event::Tick, now), [Action::Check]);
    }
    assert_eq!(gaps, [50, 100, 200, 400, 800, 1000, 1000, 1000]);
}

#[test]
fn one_that_is_not_healthy_in_time_is_ended_and_tried_again() {
    let mut life = checking(0);
    life.on(sick(), 10);
    assert_eq!(life.on(Event::Tick, 30_000), [Action::Terminate]);
    assert_eq!(life.problem(), Some("not healthy within 30 s: 503"));
    assert_eq!(life.on(Event::Tick, 39_999), []);
    assert_eq!(life.on(Event::Tick, 40_000), [Action::Kill]);
    life.on(Event::Exited("signal: 9".into()), 40_001);
    life.on(Event::Gone, 40_002);
    assert_eq!(life.restarts(), 1);
    let wait = life.deadline().unwrap() - 40_002;
    assert!((1000..=1200).contains(&wait), "{wait}");
    assert_eq!(life.on(Event::Tick, 50_000), [Action::Prepare]);
}

#[test]
fn a_proven_instance_starts_again_at_once_and_a_young_one_waits() {
    let mut proven = serving(0);
    crash(&mut proven, 5050);
    assert!(proven.deadline().unwrap() - 5050 <= 100);
    assert_eq!(proven.state(), InstanceState::Starting);
    let mut young = serving(0);
    crash(&mut young, 5049);
    assert!(young.deadline().unwrap() - 5049 >= 1000);
}

#[test]
fn five_crashes_in_a_row_are_final_and_the_backoff_grows_meanwhile() {
    let mut life = checking(0);
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..4 {
        crash(&mut life, now);
        waits.push(life.deadline().unwrap() - now);
        now = life.deadline().unwrap();
        assert_eq!(life.on(Event::Tick, now), [Action::Prepare]);
        life.on(Event::Prepared(Ok(())), now);
        life.on(Event::Launched(Ok(())), now);
    }
    crash(&mut life, now);
    assert_eq!(life.state(), InstanceState::Failed);
    assert_eq!(life.problem(), Some("5 starts in a row failed, the last: exit status: 1"));
    assert_eq!(life.deadline(), None);
    for (wait, expected) in waits.iter().zip([1000, 2000, 4000, 8000]) {
        assert!((expected * 8 / 10..=expected * 12 / 10).contains(wait), "{waits:?}");
    }
    assert!(life.on(Event::Drain, now).is_empty());
    assert_eq!(life.state(), InstanceState::Stopped);
}

#[test]
fn flapping_between_healthy_and_crashed_backs_off_too() {
    let mut life = serving(0);
    let mut now = 100;
    for round in 0..8 {
        crash(&mut life, now);
        let next = life.deadline().unwrap();
        if round == 7 {
            assert!(next - now >= 48_000, "{}", next - now);
            assert!(next - now <= 60_000);
        }
        now = next;
        life.on(Event::Tick, now);
        life.on(Event::Prepared(Ok(())), now);
        life.on(Event::Launched(Ok(())), now);
        life.on(ok(), now);
        life.on(Event::Tick, now + 50);
        life.on(ok(), now + 50);
        assert_eq!(life.state(), InstanceState::Healthy);
        now += 100;
    }
}

#[test]
fn three_failed_checks_in_a_row_start_it_again_and_two_do_not() {
    let mut life = serving(0);
    let mut now = 50;
    for event in [sick(), sick(), ok(), sick(), sick()] {
        now += 1000;
        assert_eq!(life.on(Event::Tick, now), [Action::Check]);
        assert_eq!(life.on(event, now), []);
        assert_eq!(life.state(), InstanceState::Healthy);
    }
    life.on(Event::Tick, now + 1000);
    assert_eq!(life.on(sick(), now + 1000), [Action::Terminate]);
    assert_eq!(life.state(), InstanceState::Starting);
}

#[test]
fn a_drain_asks_the_balancers_then_waits_then_ends() {
    let mut life = serving(0);
    assert_eq!(life.on(Event::Drain, 100), [Action::AskBalancers]);
    assert_eq!(life.state(), InstanceState::Draining);
    assert_eq!(life.on(Event::Finished, 150), []);
    assert_eq!(life.on(Event::LetGo, 200), [Action::AwaitRequests]);
    assert_eq!(life.on(Event::Finished, 300), [Action::Terminate]);
    life.on(Event::Exited("exit status: 0".into()), 310);
    assert_eq!(life.state(), InstanceState::Draining);
    life.on(Event::Gone, 320);
    assert_eq!(life.state(), InstanceState::Stopped);
}

#[test]
fn every_wait_of_a_drain_is_bounded() {
    let mut life = serving(0);
    life.on(Event::Drain, 0);
    assert_eq!(life.on(Event::Tick, 15_000), [Action::AwaitRequests]);
    assert_eq!(life.on(Event::Tick, 45_000), [Action::Terminate]);
    assert_eq!(life.on(Event::Tick, 55_000), [Action::Kill]);
    assert_eq!(life.on(Event::Tick, 56_000), [Action::Kill]);
}

#[test]
fn a_crash_while_draining_is_not_followed_by_a_start() {
    let mut life = serving(0);
    life.on(Event::Drain, 0);
    crash(&mut life, 10);
    assert_eq!(life.state(), InstanceState::Stopped);
}

#[test]
fn one_drained_while_it_starts_is_ended_once_it_runs() {
    let mut life = new();
    life.on(Event::Prepared(Ok(())), 0);
    life.on(Event::Drain, 0);
    assert_eq!(life.on(Event::Launched(Ok(())), 5), [Action::Terminate]);
    assert_eq!(life.state(), InstanceState::Draining);
}

#[test]
fn a_bundle_that_cannot_be_had_is_tried_again_for_ever() {
    let mut life = new();
    let mut now = 0;
    for _ in 0..20 {
        life.on(Event::Prepared(Err("no peer".into())), now);
        now = life.deadline().unwrap();
        assert_eq!(life.on(Event::Tick, now), [Action::Prepare]);
    }
    assert_eq!(life.state(), InstanceState::Starting);
    assert_eq!(life.restarts(), 0);
}

/// What the world can do next, given what it was asked to do.
#[derive(Default)]
struct World {
    running: bool,
    leader: bool,
    preparing: bool,
    launching: bool,
    checking: bool,
    asking: bool,
    awaiting: bool,
    killed: bool,
}

impl World {
    fn take(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Prepare => self.preparing = true,
                Action::Launch => {
                    assert!(!self.running, "a second process");
                    self.launching = true;
                }
                Action::Check => self.checking = true,
                Action::AskBalancers => self.asking = true,
                Action::AwaitRequests => self.awaiting = true,
                Action::Terminate => {
                    assert!(self.running);
                }
                Action::Kill => {
                    assert!(self.running);
                    self.killed = true;
                }
            }
        }
    }

    /// Of the events that are possible now, the one that `choice` picks.
    fn event(&mut self, choice: u8, good: bool) -> Option<Event> {
        let result = |what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
        match choice % 7 {
            0 if self.preparing => {
                self.preparing = false;
                Some(Event::Prepared(result("prepare")))
            }
            1 if self.launching => {
                self.launching = false;
                (self.running, self.leader, self.killed) = (good, good, false);
                Some(Event::Launched(result("launch")))
            }
            2 if self.checking => {
                self.checking = false;
                Some(Event::Checked(result("check")))
            }
            3 if self.leader => {
                self.leader = false;
                Some(Event::Exited("exit".into()))
            }
            4 if self.running && !self.leader => {
                self.running = false;
                Some(Event::Gone)
            }
            5 if self.asking => {
                self.asking = false;
                Some(Event::LetGo)
            }
            6 if self.awaiting => {
                self.awaiting = false;
                Some(Event::Finished)
            }
            _ => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Whatever happens in whatever order: never two processes, never stopped or
    /// failed with one, never healthy without one, never stuck, and after a
    /// drain it stops within the sum of the bounds.
    #[test]
    fn every_order_of_events_keeps_the_promises(
        steps in proptest::collection::vec((0u8..9, any::<bool>(), 0u64..3000), 1..120),
        seed in any::<u64>(),
    ) {
        let (mut life, actions) = Lifecycle::new(Policy::default(), seed);
        let mut world = World::default();
        world.take(&actions);
        let mut now = 0;
        let mut drained_at = None;
        for (choice, good, pause) in steps {
            now += pause;
            let event = match choice {
                7 => Some(Event::Tick),
                8 if drained_at.is_none() && pause > 2500 => {
                    drained_at = Some(now);
                    Some(Event::Drain)
                }
                _ => world.event(choice, good),
            };
            let Some(event) = event else { continue };
            let actions = life.on(event, now);
            world.take(&actions);
            check(&life, &world, drained_at.is_some())?;
        }
        if drained_at.is_none() {
            let actions = life.on(Event::Drain, now);
            world.take(&actions);
            drained_at = Some(now);
        }
        // The worst world: nothing answers, the process ends only when killed.
        let end = drained_at.unwrap_or(now).max(now) + 15_000 + 30_000 + 10_000 + 1000;
        if world.launching {
            let event = world.event(1, true).unwrap();
            let actions = life.on(event, now);
            world.take(&actions);
        }
        while now < end && life.state() != InstanceState::Stopped {
            now = life.deadline().unwrap_or(now).max(now);
            let actions = life.on(Event::Tick, now);
            world.take(&actions);
            if world.killed && world.running {
                if let Some(event) = world.event(3, true) {
                    let actions = life.on(event, now);
                    world.take(&actions);
                }
                let event = world.event(4, true).unwrap();
                let actions = life.on(event, now);
                world.take(&actions);
            }
            now += 1;
        }
        prop_assert_eq!(life.state(), InstanceState::Stopped);
    }
}

fn check(life: &Lifecycle, world: &World, draining: bool) -> Result<(), TestCaseError> {
    match life.state() {
        InstanceState::Healthy => prop_assert!(world.running && world.leader && !draining),
        InstanceState::Failed => prop_assert!(!world.running && !draining),
        InstanceState::Stopped => prop_assert!(!world.running && draining),
        InstanceState::Draining => prop_assert!(draining),
        InstanceState::Starting => prop_assert!(!draining || world.launching),
    }
    // Whoever waits for nothing has a deadline.
    let waits = world.preparing || world.launching || world.checking;
    let rests = matches!(life.state(), InstanceState::Failed | InstanceState::Stopped);
    prop_assert!(waits || rests || life.deadline().is_some());
    Ok(())
}
