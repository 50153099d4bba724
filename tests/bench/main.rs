//! The figures of `docs/performance.md`: the product beside the machine's own limit, in one run.
//! `make bench`; about five minutes. Ratios are what counts: absolute numbers of two machines, or of
//! two days, are not compared.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod crowd;
mod floor;
mod ledger;
mod load;
mod sized;
mod stats;

use std::time::{Duration, Instant};

use crowd::Crowd;
use floor::Floor;
use ledger::Ledger;
use load::{Caller, per_second};
use stats::{Samples, median, millis};
use tests::instance::Instance;
use tests::procs;
use tests::site::Setup;
use tests::unit_set;

const SECRET: &str = "bench-secret-value-0123456789abcdef";

/// What can be measured; all of it when no name is given.
const PARTS: [&str; 11] =
    ["start", "units", "idle", "sync", "drained", "http", "spawn", "admission", "workers", "finished", "queued"];

fn main() {
    if unit_set::is_inside() {
        return units_inside();
    }
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| PARTS.contains(&word.as_str())).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|word| word == part);
    machine();
    let floor = Floor::new();
    let first = floor.tell();
    if wanted("start") {
        starts();
    }
    if wanted("units") {
        print!("{}", unit_set::again_under_systemd(&[]));
    }
    let instance = workers(8).start();
    if wanted("idle") {
        idle(&instance);
    }
    if wanted("sync") {
        let plain = sync(&instance, "bench", &floor);
        let secret = sync(&instance, "bench-secret", &floor);
        println!("secret, delivered and scrubbed, added        p50 {:+.3} ms", millis(secret) - millis(plain));
    }
    if wanted("drained") {
        let plain = drained(&instance, "bench", &floor, "");
        let secret = drained(&instance, "bench-secret", &floor, ", every job with a secret");
        println!("secret, delivered and scrubbed, added        {:+.3} ms a job, drained", 1e3 / secret - 1e3 / plain);
    }
    if wanted("http") {
        with_http(&instance, &floor);
    }
    if wanted("spawn") {
        enqueue_to_spawn(&instance, &Ledger::Empty, &floor);
    }
    drop(instance);
    if wanted("admission") {
        sized::admission(&Ledger::Empty);
    }
    if wanted("workers") {
        sized::by_workers(&Ledger::Empty, &floor);
    }
    if wanted("finished") {
        sized(&Ledger::finished(), &floor);
    }
    if wanted("queued") {
        sized(&Ledger::queued(), &floor);
    }
    let again = floor.tell();
    println!("raw spawn again, at the end                  {again:>9.0} /s = {:.2} of the first", again / first);
}

/// What a ledger of a size is measured by.
fn sized(ledger: &Ledger, floor: &Floor) {
    sized::admission(ledger);
    sized::by_workers(ledger, floor);
    enqueue_to_spawn(&ledger.start(workers(8 + ledger.held())), ledger, floor);
}

fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    println!("# {cores} cores, {}, kernel {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim());
}

fn workers(count: usize) -> Setup {
    Setup::new()
        .workers(count)
        .plugin("bench")
        .plugin_with("bench-secret", "uses: bench")
        .plugin_with("blocked", "uses: bench\nparallelism: 1")
        .secret("bench_key", SECRET, &["bench-secret"])
}

/// From the start of the launcher to the first `ok` of `/healthz`.
fn starts() {
    let prepared = workers(8).prepare();
    let runs = (0..11).map(|_| millis(prepared.time_to_ready())).collect();
    let (middle, low, high) = median(runs);
    println!("start to ready, launcher                     {middle:.1} ms  runs {low:.1}..{high:.1}");
}

/// The same of the unit set, from the start of its target.
fn units_inside() {
    let units = workers(8).install_units();
    let runs = (0..7).map(|_| millis(units.time_to_ready())).collect();
    let (middle, low, high) = median(runs);
    println!("start to ready, unit set                     {middle:.1} ms  runs {low:.1}..{high:.1}");
}

/// Resident memory of everything, before the first job.
fn idle(instance: &Instance) {
    let mut sum = 0;
    let mut parts = Vec::new();
    for program in tests::paths::PROGRAMS {
        let pid = if program == "ductile" { instance.launcher() } else { instance.pid(program) };
        let kib = procs::resident_kib(pid);
        sum += kib;
        parts.push(format!("{program} {:.1}", mib(kib)));
    }
    println!("idle RSS of all processes                    {:.1} MiB  ({})", mib(sum), parts.join(", "));
}

fn mib(kib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let kib = kib as f64;
    kib / 1024.0
}

/// Trigger to result over one connection, in turns with the bare plugin.
fn sync(instance: &Instance, plugin: &str, floor: &Floor) -> Duration {
    let body = load::payload();
    let mut caller = Caller::new(instance);
    for _ in 0..200 {
        caller.run(plugin, &body);
    }
    let (mut samples, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        raw.extend(floor.alone(250));
        samples.extend((0..250).map(|_| caller.run(plugin, &body)));
    }
    let (samples, raw) = (Samples::new(samples), Samples::new(raw).percentile(50));
    let (p50, p99) = (samples.percentile(50), samples.percentile(99));
    println!(
        "trigger to result, {plugin:<12}              p50 {:.3} ms  p99 {:.3} ms  (raw p50 {:.3} {:+.3} ms)",
        millis(p50),
        millis(p99),
        millis(raw),
        millis(p50) - millis(raw)
    );
    p50
}

/// Fills the queue faster than it drains, and times the rest.
fn drained(instance: &Instance, plugin: &str, floor: &Floor, what: &str) -> f64 {
    floor.beside(&format!("jobs, queue drained{what}"), || {
        load::admit(instance, plugin, 16, 12_000);
        let mut caller = Caller::new(instance);
        // The front's answer may be old: one that was asked for after it is not.
        std::thread::sleep(Duration::from_millis(120));
        let (left, start) = (caller.depth(), Instant::now());
        caller.drained();
        let took = start.elapsed();
        let failed: u32 = instance
            .ledger()
            .query_row("SELECT count(*) FROM job_queue WHERE status <> 'succeeded'", [], |row| row.get(0))
            .expect("the ledger has its jobs");
        assert_eq!(failed, 0, "{plugin}: jobs that fail are no measure");
        per_second(usize::try_from(left).unwrap_or(0), took)
    })
}

/// Jobs while they are admitted over HTTP by callers on the same cores.
fn with_http(instance: &Instance, floor: &Floor) {
    const JOBS: usize = 8_000;
    const AT_ONCE: usize = 250;
    floor.beside("jobs, with HTTP admission and its load", || {
        let (mut crowd, mut watcher) = (Crowd::new(instance, "bench", 64), Caller::new(instance));
        let start = Instant::now();
        for _ in 0..JOBS / AT_ONCE {
            // Enough waits that no worker is idle, and no more.
            while watcher.depth() > 1500 {
                std::thread::sleep(Duration::from_millis(20));
            }
            crowd.admit(AT_ONCE);
        }
        watcher.drained();
        per_second(JOBS, start.elapsed())
    });
}

/// From the row's creation to the plugin's own first instruction, and the same without what a bare
/// plugin takes from its spawn to there: exec and the C library's start.
fn enqueue_to_spawn(instance: &Instance, from: &Ledger, floor: &Floor) {
    let body = load::payload();
    let mut caller = Caller::new(instance);
    let mut bare = Vec::new();
    for _ in 0..4 {
        bare.extend(floor.to_main(250));
        for _ in 0..250 {
            caller.run("bench", &body);
        }
    }
    let ledger = instance.ledger();
    let mut statement = ledger
        .prepare("SELECT created_at, result FROM job_log ORDER BY completed_at DESC LIMIT 1000")
        .expect("the ledger has its log");
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).expect("rows");
    let samples = rows.map(|row| {
        let (created_at, result) = row.expect("a row");
        floor::since(shared::time::Timestamp::parse(&created_at).expect("a timestamp"), &result)
    });
    let (samples, bare) = (Samples::new(samples.collect()), Samples::new(bare).percentile(50));
    let (p50, p99) = (millis(samples.percentile(50)), millis(samples.percentile(99)));
    let bare = millis(bare);
    println!(
        "created to the plugin's main(){:<14} p50 {p50:.3} ms  p99 {p99:.3} ms  (bare, spawn to main(): {bare:.3}, so \
         created to spawn {:.3})",
        from.name(),
        p50 - bare
    );
}
