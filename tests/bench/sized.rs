//! What is measured again with a ledger of a size: admission, jobs by the number of workers, and
//! the way from admission to spawn.

use std::time::{Duration, Instant};

use tests::instance::Instance;

use crate::floor::Floor;
use crate::ledger::Ledger;
use crate::load::{self, Caller, per_second};
use crate::workers;

/// Durable admission while every worker is held.
pub(crate) fn admission(ledger: &Ledger) {
    for connections in [64, 8, 1] {
        let instance = ledger.start(workers(1 + ledger.held()));
        Caller::new(&instance).trigger("bench", "nap", "{}");
        let rate = load::admit(&instance, "bench", connections, connections.max(8) * 400);
        let name = ledger.name();
        println!("durable admission, {connections:>2} connections{name:<16} {rate:>9.0} /s");
    }
}

/// Jobs with so many workers, beside as many raw spawns at once.
pub(crate) fn by_workers(ledger: &Ledger, floor: &Floor) {
    for count in [1, 2, 4, 8] {
        let raw = floor.at_once(count, 1.5);
        let instance = ledger.start(workers(count + ledger.held()));
        load::admit(&instance, "bench", 16, 6000);
        let (left, start) = (outstanding(&instance), Instant::now());
        while outstanding(&instance) > 0 {
            assert!(start.elapsed() < Duration::from_secs(120), "the jobs do not end");
            std::thread::sleep(Duration::from_millis(25));
        }
        let name = ledger.name();
        if left < 1000 {
            println!("jobs, {count} workers{name:<29} admission is no faster than the jobs: no figure");
            continue;
        }
        let rate = per_second(left, start.elapsed());
        println!("jobs, {count} workers{name:<29} {rate:>9.0} /s = {:.2} of {raw:.0} raw spawns", rate / raw);
    }
}

/// Jobs of the plugin that are not at their end; one query over what is outstanding.
fn outstanding(instance: &Instance) -> usize {
    let count: i64 = instance
        .ledger()
        .query_row(
            "SELECT count(*) FROM job_queue INDEXED BY job_queue_plugin_command_status_idx \
             WHERE plugin = 'bench' AND command = 'poll' AND status IN ('queued', 'running')",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    usize::try_from(count).expect("a count")
}
