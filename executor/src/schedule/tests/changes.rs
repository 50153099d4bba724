//! An entry whose timing is written anew under the id that it had, and clocks that go back.

use super::*;

const MINUTE: i64 = 60;

fn jittered(interval: i64, jitter: i64) -> Entry {
    let millis = |seconds: i64| Millis::from_secs(seconds.unsigned_abs());
    entry(Timing::Every { interval: millis(interval), jitter: millis(jitter) })
}

fn after(delay: u64) -> Entry {
    entry(Timing::After(Millis::from_secs(delay)))
}

#[test]
fn a_longer_interval_does_not_run_the_last_slot_again() {
    // The start is still ahead.
    let mut world = World::default();
    world.run(&every(HOUR), 0, 10 * HOUR + 1);
    world.run(&every(DAY), 10 * HOUR + 300, 3 * DAY);
    assert_eq!(world.slots()[9..], [9 * HOUR, 10 * HOUR, DAY + 10 * HOUR, 2 * DAY + 10 * HOUR]);
    // The start has come.
    let mut world = World::default();
    world.run(&every(HOUR), 0, 10 * HOUR + 1);
    world.run(&every(DAY), 11 * HOUR + 300, 2 * DAY);
    assert_eq!(world.slots()[9..], [9 * HOUR, 10 * HOUR, DAY + 10 * HOUR]);
}

#[test]
fn a_shorter_interval_goes_on_from_the_last_slot() {
    let mut world = World::default();
    world.run(&every(HOUR), 0, 10 * HOUR + 1);
    world.run(&every(HOUR / 2), 10 * HOUR + 2000, 12 * HOUR);
    assert_eq!(
        world.slots()[10..],
        [10, 11].map(|hour| hour * HOUR).into_iter().chain([11 * HOUR + 1800]).collect::<Vec<_>>()
    );
}

#[test]
fn another_mode_does_not_run_at_the_time_of_the_one_before() {
    // At its own time, neither early nor never.
    for before in [every(HOUR), cron("0 * * * *"), after(11 * 3600)] {
        let mut world = World::default();
        world.run(&before, 0, 10 * HOUR + 1);
        let runs = world.runs.len();
        world.run(&entry(Timing::At(at(30 * HOUR))), 10 * HOUR + 300, 3 * DAY);
        assert_eq!(world.runs[runs..], [(30 * HOUR, 30 * HOUR)]);
    }
    // Past: now, whatever was next.
    let mut world = World::default();
    world.run(&every(HOUR), 0, 10 * HOUR + 1);
    world.run(&entry(Timing::At(at(5 * HOUR + 1))), 10 * HOUR + 300, 3 * DAY);
    assert_eq!(world.runs[11..], [(5 * HOUR + 1, 10 * HOUR + 300)]);
    // From the time that it was first seen, also where it is seen again before that.
    for before in [every(HOUR), cron("0 * * * *")] {
        let mut world = World::default();
        world.run(&before, 0, 10 * HOUR + 1);
        let runs = world.runs.len();
        let first = 10 * HOUR + 300;
        world.look(&after(2 * 3600), first);
        world.look(&after(2 * 3600), first + 600);
        world.run(&after(2 * 3600), first + 1200, 3 * DAY);
        assert_eq!(world.runs[runs..], [(first + 2 * HOUR, first + 2 * HOUR)]);
    }
    for before in [every(HOUR), after(11 * 3600), entry(Timing::At(at(11 * HOUR)))] {
        let mut world = World::default();
        world.run(&before, 0, 10 * HOUR + 1);
        let runs = world.runs.len();
        world.run(&cron("30 12 * * *"), 10 * HOUR + 300, DAY);
        assert_eq!(world.runs[runs..], [(12 * HOUR + 1800, 12 * HOUR + 1800)]);
    }
    // At once, where it did not run before.
    for before in [after(11 * 3600), entry(Timing::At(at(11 * HOUR)))] {
        let mut world = World::default();
        world.run(&before, 0, 10 * HOUR + 1);
        world.run(&every(HOUR), 10 * HOUR + 300, 12 * HOUR);
        assert_eq!(world.slots(), [10 * HOUR + 300, 11 * HOUR + 300]);
    }
}

#[test]
fn a_one_shot_is_armed_again_from_its_beginning() {
    let rearmed = |world: &mut World, entry: &Entry, now: i64| {
        let record = world.record.clone().expect("kept");
        world.record = Some(rearm(entry, record, at(now)));
        world.run(entry, now + 1, now + 3 * DAY);
    };
    let mut world = World::default();
    world.run(&after(3600), 0, DAY);
    rearmed(&mut world, &after(3600), DAY);
    rearmed(&mut world, &after(3600), 2 * DAY);
    assert_eq!(world.slots(), [HOUR, DAY + HOUR, 2 * DAY + HOUR]);
    let once = entry(Timing::At(at(HOUR)));
    let mut world = World::default();
    world.run(&once, 0, DAY);
    rearmed(&mut world, &once, DAY);
    assert_eq!(world.runs, [(HOUR, HOUR), (DAY, DAY + 1)]);
}

#[test]
fn another_expression_is_awaited_and_the_one_before_forgotten() {
    // The first of these days is a Monday. Before the old time and after it:
    for now in [4 * HOUR + 1, DAY + 5 * HOUR] {
        let mut world = World::default();
        world.run(&cron("0 3 * * *"), 0, 3 * HOUR + 1);
        world.run(&cron("0 4 * * mon"), now, 8 * DAY);
        assert_eq!(world.slots(), [3 * HOUR, 7 * DAY + 4 * HOUR], "at {now}");
    }
    // Another zone.
    let berlin = jiff::tz::TimeZoneDatabase::bundled().get("Europe/Berlin").expect("a zone");
    let there = entry(Timing::Cron(Cron::parse("0 9 * * *", berlin).expect("valid")));
    let mut world = World::default();
    world.run(&there, 0, DAY);
    world.run(&cron("0 9 * * *"), DAY, 2 * DAY);
    assert_eq!(world.slots(), [7 * HOUR, DAY + 9 * HOUR]);
}

#[test]
fn a_slot_that_ran_is_not_run_again_when_the_clock_has_gone_back() {
    let entry = cron("0 * * * *");
    // 12:00 ran, the clock goes back to 10:30; 11:00 is looked at late or blocked until past 12:00.
    let went_back = || {
        let mut world = World { is_stepping: true, ..World::default() };
        world.run(&entry, 9 * HOUR, 9 * HOUR + 1);
        world.run(&entry, 12 * HOUR, 12 * HOUR + 1);
        assert_eq!(world.slots(), [9 * HOUR, 12 * HOUR]);
        world.look(&entry, 10 * HOUR + 1800);
        world
    };
    let mut world = went_back();
    world.look(&entry, 12 * HOUR + 600);
    assert_eq!(world.runs[2..], [(11 * HOUR, 12 * HOUR + 600)]);
    assert_eq!(world.row(12 * HOUR).2, "run");
    let mut world = went_back();
    world.outstanding = 1;
    world.run(&entry, 11 * HOUR, 12 * HOUR + 600);
    assert_eq!(world.row(12 * HOUR).2, "run");
    world.outstanding = 0;
    world.run(&entry, 12 * HOUR + 600, 14 * HOUR);
    assert_eq!(world.runs[2..], [(11 * HOUR, 12 * HOUR + 600), (13 * HOUR, 13 * HOUR)]);
    let mut world = went_back();
    world.look(&entry, 15 * HOUR + 600);
    assert_eq!(world.runs[2..], [(15 * HOUR, 15 * HOUR + 600)]);
    assert_eq!((world.row(11 * HOUR), world.row(13 * HOUR)), ((11 * HOUR, 1, "late"), (14 * HOUR, 2, "late")));
    assert_eq!(world.row(12 * HOUR).2, "run");
}

#[test]
fn a_small_step_back_does_not_move_the_grid() {
    let entry = jittered(HOUR, 10 * MINUTE);
    let mut world = World { jitter: 0.7, ..World::default() };
    world.run(&entry, 10 * HOUR, 11 * HOUR + 7 * MINUTE + 1);
    assert_eq!(world.runs, [(10 * HOUR, 10 * HOUR), (11 * HOUR, 11 * HOUR + 7 * MINUTE)]);
    world.run(&entry, 10 * HOUR + 58 * MINUTE, 14 * HOUR);
    assert_eq!(world.slots()[2..], [12 * HOUR, 13 * HOUR]);
}

#[test]
fn a_slot_whose_start_lies_ahead_is_not_caught_up_with() {
    for how in [CatchUp::RunOnce, CatchUp::RunAll] {
        let entry = Entry { catch_up: how, ..jittered(HOUR, 10 * MINUTE) };
        let mut world = World { jitter: 0.7, ..World::default() };
        world.run(&entry, 9 * HOUR, 10 * HOUR + 10 * MINUTE);
        // Its start is drawn: seven minutes past.
        let step = world.start(&entry, 11 * HOUR + 3 * MINUTE);
        assert!(!step.is_changed, "{how:?}: {step:?}");
        world.run(&entry, 11 * HOUR + 3 * MINUTE, 12 * HOUR);
        assert_eq!(world.runs[2..], [(11 * HOUR, 11 * HOUR + 7 * MINUTE)], "{how:?}");
        // Its start was missed.
        world.start(&entry, 12 * HOUR + 8 * MINUTE);
        world.run(&entry, 12 * HOUR + 8 * MINUTE, 14 * HOUR);
        let expected = [(12 * HOUR, 12 * HOUR + 8 * MINUTE), (13 * HOUR, 13 * HOUR + 7 * MINUTE)];
        assert_eq!(world.runs[3..], expected, "{how:?}");
        world.check_grid(HOUR);
    }
}

#[test]
fn what_ran_before_the_clock_went_back_is_not_caught_up_with() {
    let entry = Entry { catch_up: CatchUp::RunAll, ..every(HOUR) };
    let mut world = World { missed: Some("clock_step"), is_stepping: true, ..World::default() };
    world.run(&entry, 9 * HOUR, 9 * HOUR + 1);
    world.look(&entry, 12 * HOUR);
    assert_eq!(world.slots(), [9 * HOUR, 12 * HOUR]);
    // As it is read after a restart, the clock an hour and a half back.
    let record = world.record.take().expect("kept");
    world.record = Some(Record { last_slot_at: Some(at(9 * HOUR)), last_fired_at: Some(at(9 * HOUR)), ..record });
    world.start(&entry, 10 * HOUR + 1800);
    world.start(&entry, 13 * HOUR);
    assert_eq!(world.slots()[2..], [10 * HOUR, 11 * HOUR, 13 * HOUR]);
    assert_eq!(world.row(12 * HOUR).2, "run");
}
