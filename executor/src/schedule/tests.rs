//! Entries over simulated days: each slot is run once or leaves a row that says why not.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use shared::id::{CommandName, PluginName};
use shared::time::{Millis, Timestamp};

use super::catch_up::catch_up;
use super::cron::Cron;
use super::entry::{CatchUp, Entry, IfRunning, Timing};
use super::next::{Situation, Step, rearm, step};
use super::preview::preview;
use super::ran::Ran;
use super::record::{Outcome, Record, Status};
use super::window::{Weekdays, Window};
use crate::queue::breaker::Gate;

mod changes;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn at(seconds: i64) -> Timestamp {
    // A Monday, 00:00 UTC.
    Timestamp::from_unix_nanos((1_780_272_000 + seconds) * 1_000_000_000)
}

fn seconds(at: Timestamp) -> i64 {
    at.unix_nanos() / 1_000_000_000 - 1_780_272_000
}

fn entry(timing: Timing) -> Entry {
    Entry {
        plugin: PluginName::parse("echo").expect("valid"),
        id: "a".to_owned(),
        command: CommandName::parse("poll").expect("valid"),
        payload: "{}".to_owned(),
        timing,
        zone_name: None,
        constraint_zone: TimeZone::UTC,
        only_between: None,
        not_on: Weekdays::default(),
        catch_up: CatchUp::Skip,
        if_running: IfRunning::Skip,
        max_outstanding: 1,
    }
}

fn every(interval: i64) -> Entry {
    entry(Timing::Every { interval: Millis::from_secs(interval.unsigned_abs()), jitter: Millis(0) })
}

fn cron(expression: &str) -> Entry {
    entry(Timing::Cron(Cron::parse(expression, TimeZone::UTC).expect("valid")))
}

/// What the database would hold.
#[derive(Default)]
struct World {
    record: Option<Record>,
    /// First slot: last slot, count and what became of them.
    rows: BTreeMap<i64, (i64, u32, String)>,
    /// Slot and start of each run.
    runs: Vec<(i64, i64)>,
    outstanding: u32,
    gate: Option<Gate>,
    is_unsupported: bool,
    jitter: f64,
    missed: Option<&'static str>,
    /// The clock goes back: a slot may be told of again, but never one that ran.
    is_stepping: bool,
}

impl World {
    fn look(&mut self, entry: &Entry, now: i64) -> Step {
        let step = step(entry, self.record.clone(), &self.situation(entry, now));
        self.keep(&step, now);
        step
    }

    fn start(&mut self, entry: &Entry, now: i64) -> Step {
        let situation = Situation { missed: "executor_was_down", ..self.situation(entry, now) };
        let step = catch_up(entry, self.record.clone(), &situation);
        self.keep(&step, now);
        step
    }

    fn situation(&self, entry: &Entry, now: i64) -> Situation {
        // As much of what ran as the dispatcher knows.
        let mut ran: Ran = self.slots().into_iter().map(at).collect();
        ran.forget_before(Ran::floor(entry, self.record.as_ref(), at(now)));
        Situation {
            now: at(now),
            outstanding: self.outstanding,
            gate: self.gate.clone().unwrap_or(Gate::Pass),
            is_supported: !self.is_unsupported,
            jitter: self.jitter,
            missed: self.missed.unwrap_or("late"),
            ran,
        }
    }

    fn keep(&mut self, step: &Step, now: i64) {
        for row in &step.occurrences {
            let reason = match &row.outcome {
                Outcome::Enqueued { .. } => unreachable!("the caller makes these"),
                Outcome::Skipped { reason } | Outcome::Missed { reason } => *reason,
            };
            let (first, last) = (seconds(row.slot_at), seconds(row.until_at));
            let old = self.rows.insert(first, (last, row.slots, reason.to_owned()));
            let may_be = |old: &(i64, u32, String)| self.is_stepping && old.2 != "run";
            assert!(old.as_ref().is_none_or(may_be), "slot {first} is told of twice: {old:?}");
        }
        for fire in &step.fires {
            let slot = seconds(fire.slot_at);
            let old = self.rows.insert(slot, (slot, 1, "run".to_owned()));
            assert!(old.is_none_or(|old| old.2 != "run"), "slot {slot} runs twice");
            self.runs.push((slot, now));
        }
        self.record = step.is_changed.then(|| step.record.clone()).or(self.record.take());
        assert!(step.fires.len() <= 1 || step.fires.iter().all(|fire| fire.is_catch_up));
    }

    /// Looks whenever it is asked to, until `end`; every look must lead on.
    fn run(&mut self, entry: &Entry, from: i64, end: i64) -> i64 {
        let mut now = from;
        let mut looks = 0;
        while now < end {
            let step = self.look(entry, now);
            looks += 1;
            let Some(wake) = step.wake_at else { return looks };
            assert!(wake > at(now), "a look at {now} wakes at once");
            // In whole seconds, as late as the second is long.
            now = (wake.unix_nanos() - at(0).unix_nanos()).div_euclid(1_000_000_000).max(now + 1);
        }
        looks
    }

    fn slots(&self) -> Vec<i64> {
        self.runs.iter().map(|(slot, _)| *slot).collect()
    }

    fn different_slots(&self) -> usize {
        self.slots().into_iter().collect::<std::collections::BTreeSet<i64>>().len()
    }

    fn row(&self, slot: i64) -> (i64, u32, &str) {
        let (last, count, reason) = &self.rows[&slot];
        (*last, *count, reason)
    }

    /// From the first row to the last no slot of the grid is without a row, and none has two.
    fn check_grid(&self, interval: i64) {
        let mut expected = None;
        for (first, (last, count, reason)) in &self.rows {
            assert_eq!(expected.unwrap_or(*first), *first, "rows: {:?}", self.rows);
            assert_eq!((last - first) / interval + 1, i64::from(*count), "{reason} from {first}");
            expected = Some(last + interval);
        }
    }
}

#[test]
fn every_fires_at_once_and_then_on_its_grid() {
    let mut world = World::default();
    let entry = every(600);
    world.run(&entry, 5, 3600);
    assert_eq!(world.slots(), [5, 605, 1205, 1805, 2405, 3005]);
    world.check_grid(600);
    // A late look does not move the grid.
    let step = world.look(&entry, 3700);
    assert_eq!(step.wake_at, Some(at(4205)));
    assert_eq!(world.runs.last(), Some(&(3605, 3700)));
}

#[test]
fn jitter_delays_within_the_slot_and_does_not_add_up() {
    let timing = Timing::Every { interval: Millis::from_secs(60), jitter: Millis::from_secs(3600) };
    let entry = entry(timing);
    for jitter in [0.0, 0.5, 1.0, f64::NAN, 7.0] {
        let mut world = World { jitter, ..World::default() };
        world.run(&entry, 0, 600);
        assert_eq!(world.slots(), (0..10).map(|n| n * 60).collect::<Vec<_>>(), "{jitter}");
        assert!(world.runs.iter().all(|(slot, start)| (*slot..slot + 60).contains(start)), "{:?}", world.runs);
        world.check_grid(60);
    }
}

#[test]
fn a_blocked_slot_stays_due_until_the_next_and_says_why_once() {
    let mut world = World::default();
    let entry = every(60);
    world.look(&entry, 0);
    world.outstanding = 1;
    let step = world.look(&entry, 60);
    assert_eq!((step.skipped, step.is_blocked, step.wake_at), (Some("already_running"), true, Some(at(120))));
    let step = world.look(&entry, 70);
    assert_eq!((step.skipped, step.is_changed), (None, false));
    world.outstanding = 0;
    world.look(&entry, 80);
    assert_eq!(world.runs, [(0, 0), (60, 80)]);
    // Never allowed: the next slot replaces it.
    world.outstanding = 1;
    world.run(&entry, 120, 400);
    assert_eq!(world.slots(), [0, 60]);
    assert_eq!(world.row(120), (120, 1, "already_running"));
    world.check_grid(60);
}

#[test]
fn overlap_is_decided_as_the_entry_says() {
    let check = |if_running, outstanding, fires: bool, cancels: bool, reason: Option<&'static str>| {
        let entry = Entry { if_running, max_outstanding: 2, ..every(60) };
        let mut world = World { outstanding, ..World::default() };
        let step = world.look(&entry, 0);
        assert_eq!((step.fires.len() == 1, step.cancel_outstanding, step.skipped), (fires, cancels, reason));
    };
    check(IfRunning::Skip, 0, true, false, None);
    check(IfRunning::Skip, 1, false, false, Some("already_running"));
    check(IfRunning::Queue, 1, true, false, None);
    check(IfRunning::Queue, 2, false, false, Some("outstanding_limit"));
    check(IfRunning::Cancel, 0, true, false, None);
    check(IfRunning::Cancel, 5, true, true, None);
}

#[test]
fn windows_and_days_block_until_they_allow() {
    let window = Window::parse("08:00-09:00").expect("valid");
    let mut not_on = Weekdays::default();
    not_on.leave_out("tue").expect("valid");
    let entry = Entry { only_between: Some(window), not_on, ..every(DAY) };
    let mut world = World::default();
    let step = world.look(&entry, 0);
    assert_eq!((step.skipped, step.wake_at), (Some("outside_time_window"), Some(at(8 * HOUR))));
    world.run(&entry, 0, 4 * DAY);
    // Monday, not Tuesday, Wednesday, Thursday.
    assert_eq!(world.runs, [(0, 8 * HOUR), (2 * DAY, 2 * DAY + 8 * HOUR), (3 * DAY, 3 * DAY + 8 * HOUR)]);
    assert_eq!(world.row(DAY), (DAY, 1, "outside_day_constraint"));
    world.check_grid(DAY);
}

#[test]
fn a_breaker_blocks_until_its_cool_down() {
    let mut world = World::default();
    let entry = every(60);
    world.gate = Some(Gate::Shut { until: Some(at(90)) });
    let step = world.look(&entry, 0);
    assert_eq!((step.skipped, step.wake_at), (Some("circuit_open"), Some(at(60))));
    assert_eq!(world.look(&entry, 60).wake_at, Some(at(90)));
    world.gate = Some(Gate::Shut { until: None });
    assert_eq!(world.look(&entry, 120).wake_at, Some(at(180)));
    world.gate = None;
    world.look(&entry, 130);
    assert_eq!(world.runs, [(120, 130)]);
    world.check_grid(60);
}

#[test]
fn cron_fires_in_a_minute_that_matches_and_then_at_each() {
    let mut world = World::default();
    let entry = cron("*/15 * * * *");
    world.run(&entry, 15 * 60 + 20, HOUR + 1);
    assert_eq!(world.runs[0], (900, 920));
    assert_eq!(world.slots(), [900, 1800, 2700, 3600]);
    let mut world = World::default();
    world.run(&entry, 16 * 60, HOUR);
    assert_eq!(world.slots(), [1800, 2700]);
}

#[test]
fn what_passed_while_nothing_ran_fires_once_and_the_rest_is_missed() {
    for (entry, interval) in [(every(900), 900), (cron("*/15 * * * *"), 900)] {
        let mut world = World::default();
        world.run(&entry, 0, 1000);
        assert_eq!(world.slots(), [0, 900]);
        world.missed = Some("executor_was_down");
        world.look(&entry, 10 * HOUR + 30);
        assert_eq!(world.slots(), [0, 900, 36_000]);
        assert_eq!(world.row(1800), (35_100, 38, "executor_was_down"));
        world.check_grid(interval);
    }
}

#[test]
fn years_without_a_look_are_counted_without_a_storm() {
    let mut world = World::default();
    let entry = every(1);
    world.look(&entry, 0);
    world.look(&entry, 400 * DAY);
    assert_eq!(world.row(1).1, 34_559_999);
    let mut world = World::default();
    let entry = cron("* * * * *");
    world.look(&entry, 0);
    world.look(&entry, 400 * DAY);
    assert_eq!(world.row(60), (400 * DAY - 60, super::slots::COUNTED, "late"));
    assert_eq!(world.runs, [(0, 0), (400 * DAY, 400 * DAY)]);
}

#[test]
fn one_shots_run_once_whatever_happens() {
    let mut world = World::default();
    let once = entry(Timing::At(at(100)));
    assert_eq!(world.look(&once, 0).wake_at, Some(at(100)));
    world.outstanding = 1;
    assert_eq!(world.look(&once, 100).skipped, Some("already_running"));
    world.outstanding = 0;
    world.look(&once, 150);
    let record = world.record.clone().expect("kept");
    assert_eq!((record.status, record.reason.as_deref()), (Status::Exhausted, Some("one_shot_exhausted")));
    for now in [151, 1000, 50] {
        let step = world.look(&once, now);
        assert!(step.fires.is_empty() && step.wake_at.is_none() && !step.is_changed);
    }
    assert_eq!(world.runs, [(100, 150)]);
    world.record = Some(rearm(&once, record, at(2000)));
    world.look(&once, 2001);
    assert_eq!(world.runs, [(100, 150), (2000, 2001)]);

    let mut world = World::default();
    let later = entry(Timing::After(Millis::from_secs(60)));
    assert_eq!(world.look(&later, 0).wake_at, Some(at(60)));
    // It survives a restart, and a clock that went back does not put it off.
    assert_eq!(world.look(&later, 30).wake_at, Some(at(60)));
    assert_eq!(world.look(&later, -DAY).wake_at, Some(at(60 - DAY)));
    world.look(&later, 60 - DAY);
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn at_in_the_past_runs_at_the_first_look() {
    let mut world = World::default();
    world.look(&entry(Timing::At(at(-DAY))), 0);
    assert_eq!(world.runs, [(-DAY, 0)]);
}

#[test]
fn what_is_not_supported_is_paused_and_its_slots_say_so() {
    let mut world = World { is_unsupported: true, ..World::default() };
    let entry = every(60);
    let step = world.look(&entry, 0);
    assert_eq!(step.skipped, Some("command_not_supported"));
    assert_eq!(step.record.status, Status::PausedInvalid);
    world.run(&entry, 60, 300);
    assert!(world.runs.is_empty());
    world.is_unsupported = false;
    assert_eq!(world.look(&entry, 310).record.status, Status::Active);
    world.check_grid(60);
}

#[test]
fn another_command_starts_anew() {
    let mut world = World::default();
    world.run(&every(60), 0, 70);
    world.look(&every(60), 100);
    let other = Entry { command: CommandName::parse("health").expect("valid"), ..every(60) };
    let record = world.look(&other, 110).record;
    assert_eq!((record.command.as_str(), record.last_success_at), ("health", None));
}

#[test]
fn a_record_of_the_reference_goes_on() {
    let record = Record {
        last_fired_at: Some(at(0)),
        next_run_at: Some(at(610)),
        last_success_at: Some(at(7)),
        ..Record::new("poll")
    };
    let mut world = World { record: Some(record), ..World::default() };
    let entry = every(600);
    assert_eq!(world.look(&entry, 100).wake_at, Some(at(610)));
    world.look(&entry, 610);
    assert_eq!(world.runs, [(600, 610)]);
}

#[test]
fn catch_up_makes_the_jobs_that_were_asked_for() {
    let check = |how, jobs: &[i64], missed: Option<(i64, i64, u32)>| {
        let entry = Entry { catch_up: how, ..every(60) };
        let mut world = World::default();
        world.run(&entry, 0, 61);
        let step = world.start(&entry, 330);
        let slots: Vec<i64> = step.fires.iter().map(|fire| seconds(fire.slot_at)).collect();
        assert_eq!(slots, jobs);
        if let Some((first, last, count)) = missed {
            assert_eq!(world.row(first), (last, count, "executor_was_down"));
        }
        world.missed = Some("executor_was_down");
        world.run(&entry, 330, 600);
        world.check_grid(60);
        world.slots()
    };
    assert_eq!(check(CatchUp::Skip, &[], None).len(), 2 + 1 + 4);
    assert_eq!(check(CatchUp::RunOnce, &[120], Some((180, 300, 3))).len(), 2 + 1 + 4);
    assert_eq!(check(CatchUp::RunAll, &[120, 180, 240, 300], None).len(), 2 + 4 + 4);
    let key = |entry: &Entry, world: &mut World| world.start(entry, 330).fires[0].key.clone();
    let entry = Entry { catch_up: CatchUp::RunAll, ..every(60) };
    let mut world = World::default();
    world.run(&entry, 0, 61);
    assert_eq!(key(&entry, &mut world), "echo:poll:a:catchup:2026-06-01T00:02:00Z");
    // A year away is a hundred jobs.
    let mut world = World::default();
    world.run(&entry, 0, 61);
    assert_eq!(world.start(&entry, 365 * DAY).fires.len(), 100);
    world.check_grid(60);
    // Never fired: nothing was missed.
    assert!(!World::default().start(&entry, 330).is_changed);
}

#[test]
fn a_clock_that_goes_back_loses_nothing_and_storms_nothing() {
    let mut world = World::default();
    let entry = every(600);
    world.run(&entry, 0, 3 * DAY);
    let before = world.runs.len();
    // A day back: one run at once, then every ten minutes.
    world.run(&entry, 2 * DAY + 7, 2 * DAY + 7 + 6000);
    assert_eq!(world.runs.len() - before, 10);
    assert_eq!(world.runs[before], (2 * DAY + 7, 2 * DAY + 7));

    let mut world = World::default();
    let entry = cron("0 * * * *");
    world.run(&entry, 0, 3 * DAY);
    let before = world.runs.len();
    // Hours that ran are not run again; the next new one is.
    world.run(&entry, 2 * DAY, 3 * DAY + HOUR + 1);
    assert_eq!(world.slots()[before..], [3 * DAY, 3 * DAY + HOUR]);

    // A day ahead for an hour, and back: what was told of as missed is run now, and what ran ahead is not
    // run when that day comes.
    let mut world = World { missed: Some("clock_step"), is_stepping: true, ..World::default() };
    world.run(&entry, 0, HOUR + 10);
    world.run(&entry, DAY + 10, DAY + HOUR + 10);
    assert_eq!(world.slots(), [0, HOUR, DAY, DAY + HOUR]);
    world.run(&entry, HOUR + 20, DAY + 2 * HOUR + 1);
    let expected: Vec<i64> = (2..24).chain([26]).map(|hour| hour * HOUR).collect();
    assert_eq!(world.slots()[4..], expected);
}

#[test]
fn a_clock_that_goes_forward_runs_once_and_tells_of_the_rest() {
    for entry in [every(600), cron("*/10 * * * *")] {
        let mut world = World { missed: Some("clock_step"), ..World::default() };
        world.run(&entry, 0, HOUR);
        let before = world.runs.len();
        world.look(&entry, HOUR + DAY);
        assert_eq!(world.runs.len() - before, 1);
        assert_eq!(world.row(HOUR), (HOUR + DAY - 600, 144, "clock_step"));
        world.check_grid(600);
    }
}

#[test]
fn another_interval_or_expression_holds_from_the_next_look() {
    let mut world = World::default();
    world.run(&every(DAY), 0, 10);
    assert_eq!(world.look(&every(60), 100).fires.len(), 1);
    let mut world = World::default();
    world.run(&cron("0 0 1 1 *"), 0, 10);
    assert_eq!(world.look(&cron("*/5 * * * *"), 100).wake_at, Some(at(300)));
}

#[test]
fn a_preview_shows_the_next_starts() {
    let show = |entry: &Entry, record: Option<&Record>, count| {
        preview(entry, record, at(30), count, &Ran::default()).into_iter().map(seconds).collect::<Vec<_>>()
    };
    assert_eq!(show(&every(60), None, 3), [30, 90, 150]);
    let record = Record { next_run_at: Some(at(75)), last_slot_at: Some(at(0)), ..Record::new("poll") };
    assert_eq!(show(&every(60), Some(&record), 3), [75, 120, 180]);
    // The minute that is matches.
    assert_eq!(show(&cron("*/20 * * * *"), None, 2), [30, 1200]);
    let window = Window::parse("08:00-09:00").expect("valid");
    let entry = Entry { only_between: Some(window), ..cron("30 * * * *") };
    // The slot of half past seven waits for the window.
    assert_eq!(show(&entry, None, 3), [8 * HOUR, 8 * HOUR + 1800, DAY + 8 * HOUR]);
    let never = Record { status: Status::Exhausted, ..Record::new("poll") };
    assert!(show(&self::entry(Timing::At(at(0))), Some(&never), 3).is_empty());
}

#[test]
fn a_preview_of_an_entry_that_is_mostly_kept_from_running_is_short_work() {
    let show = |entry: &Entry, record: Option<&Record>, now: i64, ran: &[i64]| {
        let ran = ran.iter().copied().map(at).collect();
        preview(entry, record, at(now), 3, &ran).into_iter().map(seconds).collect::<Vec<_>>()
    };
    let window = |entry: Entry| Entry { only_between: Window::parse("09:00-10:00").ok(), ..entry };
    // More slots than anyone would look at lie before the window.
    let entry = window(every(5));
    let record = Record {
        next_run_at: Some(at(10 * HOUR + 2)),
        last_slot_at: Some(at(10 * HOUR - 3)),
        last_fired_at: Some(at(10 * HOUR - 3)),
        ..Record::new("poll")
    };
    // The last slot before it waits for it.
    let opens = DAY + 9 * HOUR;
    assert_eq!(show(&entry, Some(&record), 10 * HOUR, &[]), [opens, opens + 2, opens + 7]);
    assert_eq!(show(&window(cron("*/7 * * * *")), None, 10 * HOUR, &[]), [opens, opens + 7 * 60, opens + 14 * 60]);
    // The window opens on days alone on which the entry has no slot that is left.
    let sunday = ["mon", "tue", "wed", "thu", "fri", "sat"];
    let mut not_on = Weekdays::default();
    sunday.iter().for_each(|day| not_on.leave_out(day).expect("a day"));
    let weekly = [6, 13, 20].map(|day| day * DAY + 9 * HOUR);
    assert_eq!(show(&Entry { not_on, ..window(cron("0 9 * * *")) }, None, 0, &[]), weekly);
    // Never.
    not_on.leave_out("sun").expect("a day");
    assert!(show(&Entry { not_on, ..every(1) }, None, 0, &[]).is_empty());
    // Until the end of all times.
    let record = Record::new("poll");
    let decades = preview(&every(3650 * DAY), Some(&record), at(0), 100, &Ran::default());
    assert_eq!((decades.len(), decades.first()), (24, Some(&at(0))));
    // What ran is not to come.
    let hourly = Record { next_run_at: Some(at(HOUR)), last_slot_at: Some(at(0)), ..Record::new("poll") };
    let hours = [HOUR, 4 * HOUR, 5 * HOUR];
    assert_eq!(show(&cron("0 * * * *"), Some(&hourly), 30, &[2 * HOUR, 3 * HOUR]), hours);
}

/// Random looks, blocks and restarts, the clock only going forward: the grid has no hole.
#[test]
fn a_random_walk_leaves_no_slot_untold() {
    for seed in 1..400_u64 {
        let mut dice = dice(seed);
        let catch_up = [CatchUp::Skip, CatchUp::RunOnce, CatchUp::RunAll][usize::try_from(dice(3)).expect("small")];
        let jitter = Millis::from_secs(u64::try_from(dice(3) * 20).expect("small"));
        let entry = Entry { catch_up, ..entry(Timing::Every { interval: Millis::from_secs(60), jitter }) };
        let mut world = World::default();
        let mut now = 0;
        for _ in 0..200 {
            world.outstanding = u32::try_from(dice(2)).expect("small");
            // The start is on a whole second.
            world.jitter = [0.0, 0.25, 0.5, 0.75, 1.0][usize::try_from(dice(5)).expect("small")];
            if dice(20) == 0 {
                world.start(&entry, now);
            }
            let step = world.look(&entry, now);
            let wake = step.wake_at.map_or(now, seconds);
            now = if dice(3) == 0 { now + dice(500) } else { wake.max(now) };
        }
        world.check_grid(60);
        assert_eq!(world.different_slots(), world.runs.len(), "seed {seed}: a slot ran twice");
    }
}

/// The clock goes where it will, and so does the timing: no slot runs twice.
#[test]
fn a_random_walk_of_clock_and_timing_runs_no_slot_twice() {
    for seed in 1..400_u64 {
        let mut dice = dice(seed);
        let jittered = |interval, jitter| {
            let (interval, jitter) = (Millis::from_secs(interval), Millis::from_secs(jitter));
            Entry { catch_up: CatchUp::RunAll, ..entry(Timing::Every { interval, jitter }) }
        };
        let entries = [jittered(60, 40), jittered(300, 100), jittered(40, 0), cron("* * * * *"), cron("*/5 * * * *")];
        let mut entry = &entries[usize::try_from(dice(5)).expect("small")];
        let mut world = World { is_stepping: true, ..World::default() };
        let mut now = DAY;
        for _ in 0..300 {
            world.outstanding = u32::try_from(dice(2)).expect("small");
            world.jitter = [0.0, 0.25, 0.5, 0.75, 1.0][usize::try_from(dice(5)).expect("small")];
            if dice(50) == 0 {
                entry = &entries[usize::try_from(dice(5)).expect("small")];
            }
            if dice(20) == 0 {
                world.start(entry, now);
            }
            let step = world.look(entry, now);
            let wake = step.wake_at.map_or(now, seconds);
            now = match dice(12) {
                0..3 => now + dice(500),
                3 => now - dice(400),
                _ => wake.max(now),
            };
        }
        assert_eq!(world.different_slots(), world.runs.len(), "seed {seed}: a slot ran twice");
    }
}

fn dice(seed: u64) -> impl FnMut(i64) -> i64 {
    let mut state = seed;
    move |sides| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(state >> 33).expect("31 bits") % sides
    }
}
