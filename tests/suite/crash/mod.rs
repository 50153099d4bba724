//! The executor is killed at each step of a job's life, at each step of its own start, and at any
//! moment under load: at least once, never lost, and nothing is told twice.
//!
//! `DUCTILE_CRASH_KILLS` and `DUCTILE_CRASH_SEED` set how often `at_any_moment_under_load` kills and
//! how it draws; the soak does.

mod history;
mod steps;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::wire::gateway::Reply;
use tests::dice::{Dice, setting};
use tests::lone::{Begun, Front, Lone, trigger};
use tests::site::PATIENCE;
use tests::trap::{self, Trap};
use tests::{procs, wait};

use history::{FAILING, History, PLAIN};
use steps::Steps;

/// The calls by which the executor changes anything outside of its own memory, hears of anything,
/// or wakes a thread of its own.
const CALLS: [&str; 14] = [
    "pwrite64",
    "fdatasync",
    "ftruncate",
    "sendmsg",
    "recvmsg",
    "sendto",
    "recvfrom",
    "write",
    "writev",
    "read",
    "epoll_wait",
    "poll",
    "ppoll",
    "futex",
];

/// For so long after a start claims are committed before their spawn (design, decision 32).
const CAREFUL: Duration = Duration::from_millis(1050);

#[test]
fn at_each_step_of_a_job_right_after_a_start() {
    let steps = walk(2, Duration::ZERO, "");
    assert!(steps.kills() >= 40, "{}", steps.report());
}

#[test]
fn at_each_step_of_a_job_whose_claim_rides_with_its_completion() {
    let steps = walk(6, CAREFUL, "");
    assert!(steps.kills() >= 40, "{}", steps.report());
}

#[test]
fn at_each_step_of_a_job_whose_claim_is_written_while_it_runs() {
    let steps = walk(6, CAREFUL, r#"{"ms":15}"#);
    assert!(steps.kills() >= 40, "{}", steps.report());
}

/// Kills one executor after the other, each at the next call of one job's life, until the job's
/// end comes first: with every kind of call. How many died on the way.
#[expect(clippy::print_stderr, reason = "how many steps there were is shown with what failed")]
fn walk(lanes: usize, age: Duration, payload: &str) -> Steps {
    let steps = Steps::new(&CALLS);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut history = History::new();
                while let Some((call, nth)) = steps.next() {
                    history.told = format!("killed at {call} {nth} of a job with {payload:?}");
                    let (mut lone, mut front) = history.begin();
                    history.drained(&mut front);
                    wait::until_true("the executor to be as old as wanted", PATIENCE, || lone.age() >= age);
                    let set = Trap::set(lone.pid(), call, nth);
                    let died = match front.trigger(PLAIN, payload) {
                        Some(job) => {
                            history.promise(&job);
                            history.ends_or_dies(&job, &mut lone)
                        }
                        None => true,
                    };
                    drop(set);
                    steps.told(call, died);
                    if died {
                        lone.killed_by_another()
                    } else {
                        lone.kill()
                    }
                    history.death();
                }
                history.finish();
            });
        }
    });
    eprintln!("{payload:?}: {} kills: {}", steps.kills(), steps.report());
    steps
}

#[test]
fn at_each_step_of_a_job_whose_events_make_others() {
    let steps = walk(4, CAREFUL, r#"{"emit":2}"#);
    assert!(steps.kills() >= 40, "{}", steps.report());
}

#[test]
#[expect(clippy::print_stderr, reason = "how many steps there were is shown with what failed")]
fn at_each_step_of_a_start_that_finds_a_job_running() {
    let steps = Steps::new(&["pwrite64", "fdatasync", "ftruncate", "unlink"]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut history = History::new();
                while let Some((call, nth)) = steps.next() {
                    history.told = format!("killed at {call} {nth} of a start");
                    let (lone, mut front) = history.begin();
                    history.drained(&mut front);
                    let job = front.trigger(PLAIN, r#"{"ms":60}"#).expect("the executor lives");
                    history.promise(&job);
                    history.runs(&job);
                    lone.kill();
                    history.death();
                    let died = match Lone::start_under(&history.prepared, &trap::prefix(call, nth)) {
                        Begun::Killed => true,
                        Begun::Ready(lone, _) => {
                            lone.kill();
                            false
                        }
                    };
                    history.death();
                    steps.told(call, died);
                }
                history.finish();
            });
        }
    });
    eprintln!("{} kills: {}", steps.kills(), steps.report());
    assert!(steps.kills() >= 10, "{}", steps.report());
}

#[test]
#[expect(clippy::print_stderr, reason = "the seed is shown with what failed")]
fn at_any_moment_under_load() {
    const LANES: u64 = 4;
    let kills = setting("DUCTILE_CRASH_KILLS", 120);
    let seed = setting("DUCTILE_CRASH_SEED", fresh_seed());
    eprintln!("DUCTILE_CRASH_SEED={seed} DUCTILE_CRASH_KILLS={kills}");
    let accepted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let accepted = &accepted;
            scope.spawn(move || {
                let mut dice = Dice::new(seed.wrapping_add(lane));
                let mut history = History::new();
                for kill in 0..kills.div_ceil(LANES) {
                    history.told = format!("seed {seed}, lane {lane}, kill {kill}");
                    live_and_die(&mut history, &mut dice);
                }
                accepted.fetch_add(history.finish(), Ordering::Relaxed);
            });
        }
    });
    // So many were in the queue that a kill finds something to lose.
    assert!(accepted.into_inner() as u64 >= 3 * kills, "the load was none");
}

/// One life, drawn: killed during its start, or under a load of some jobs, young or old.
fn live_and_die(history: &mut History, dice: &mut Dice) {
    let micros = |dice: &mut Dice, below: u64| Duration::from_micros(dice.below(below));
    if dice.once_in(6) {
        Lone::start_and_kill(&history.prepared, micros(dice, 60_000));
        return history.death();
    }
    let (lone, mut front) = history.begin();
    if dice.once_in(3) {
        history.drained(&mut front);
    }
    let age = if dice.once_in(2) { CAREFUL } else { Duration::ZERO };
    wait::until_true("the executor to be as old as wanted", PATIENCE, || lone.age() >= age);
    let (pid, delay, jobs) = (lone.pid(), micros(dice, 80_000), 1 + dice.below(60));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let end = Instant::now() + delay;
            wait::until_true("the moment to kill", PATIENCE, || Instant::now() >= end);
            procs::signal(pid, Signal::KILL);
        });
        load(history, &mut front, dice, jobs);
    });
    lone.killed_by_another();
    history.death();
}

/// Sends jobs, some at a time without waiting for the answers, and hears what is answered until
/// the executor is gone.
fn load(history: &mut History, front: &mut Front, dice: &mut Dice, jobs: u64) {
    const AT_ONCE: u64 = 16;
    let (mut sent, mut answered) = (0, 0);
    loop {
        while sent < jobs && sent < answered + AT_ONCE {
            let request = match dice.below(6) {
                0 => trigger(FAILING, r#"{"fail":1}"#),
                1 => trigger(PLAIN, &format!(r#"{{"ms":{},"emit":{}}}"#, dice.below(30), dice.below(3))),
                2 => trigger(PLAIN, &format!(r#"{{"text":"{}"}}"#, "a".repeat(1 + dice.count(20_000)))),
                _ => trigger(PLAIN, ""),
            };
            if front.send(request).is_none() {
                break;
            }
            sent += 1;
        }
        match front.reply() {
            Some((_, Reply::Accepted { job_id })) => {
                history.promise(&job_id);
                answered += 1;
            }
            Some((_, other)) => panic!("{}: {other:?}", history.told),
            None => return,
        }
    }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
}
