//! The machine's own limit, measured in the same run as the product: the same plugin, spawned with
//! nothing around it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use shared::time::Timestamp;
use tests::scratch::Scratch;

use crate::stats::{Samples, median, millis};

/// What the machine itself can do at the moment. It moves by a third within minutes, so that each
/// figure is put beside what was measured right before and after it.
pub(crate) struct Floor {
    scratch: Scratch,
}

impl Floor {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        tests::plugins::install("bench", scratch.path());
        Self { scratch }
    }

    fn plugin(&self) -> PathBuf {
        self.scratch.path().join("bench/bench")
    }

    /// Plugins a second, so many at once.
    pub(crate) fn at_once(&self, threads: usize, seconds: f64) -> f64 {
        at_once(&self.plugin(), threads, seconds)
    }

    /// R: two at once.
    fn rate(&self) -> f64 {
        self.at_once(2, 1.0)
    }

    /// How long each of `count` plugins took, one at a time.
    pub(crate) fn alone(&self, count: usize) -> Vec<Duration> {
        alone(&self.plugin(), count)
    }

    /// From spawn to `main()`, of `count` plugins, one at a time.
    pub(crate) fn to_main(&self, count: usize) -> Vec<Duration> {
        to_main(&self.plugin(), count)
    }

    /// Prints both, and returns R.
    pub(crate) fn tell(&self) -> f64 {
        let (rate, low, high) = median((0..3).map(|_| self.rate()).collect());
        println!("raw spawn, 2 at once (R)                     {rate:>9.0} /s   runs {low:.0}..{high:.0}");
        let alone = Samples::new(self.alone(2000));
        let (p50, p99) = (alone.percentile(50), alone.percentile(99));
        println!("raw spawn, alone                             p50 {:.3} ms  p99 {:.3} ms", millis(p50), millis(p99));
        rate
    }

    /// Rates of three runs, each beside R: the middle one of both, with the spread of the ratios.
    pub(crate) fn beside(&self, what: &str, mut run: impl FnMut() -> f64) -> f64 {
        let mut before = self.rate();
        let mut ratios = Vec::new();
        let rates = (0..3).map(|_| {
            let rate = run();
            let after = self.rate();
            ratios.push(rate / f64::midpoint(before, after));
            before = after;
            rate
        });
        let (rate, ..) = median(rates.collect());
        let (ratio, low, high) = median(ratios);
        println!("{what:<44} {rate:>9.0} /s = {ratio:.2} R  runs {low:.2}..{high:.2}");
        rate
    }
}

/// Plugins a second, as many at once as are asked for. Each is run as a worker would that keeps no
/// ledger: 1 KiB in, 1 KiB out, wait.
fn at_once(plugin: &Path, threads: usize, seconds: f64) -> f64 {
    let request = &request();
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(seconds);
    let count: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    let mut count = 0;
                    while Instant::now() < until {
                        run(plugin, request);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
    });
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth of spawns")]
    let count = count as f64;
    count / start.elapsed().as_secs_f64()
}

/// How long each of `count` plugins took, one at a time.
fn alone(plugin: &Path, count: usize) -> Vec<Duration> {
    let request = request();
    (0..count)
        .map(|_| {
            let at = Instant::now();
            run(plugin, &request);
            at.elapsed()
        })
        .collect()
}

/// From the spawn to the plugin's own first instruction, of `count` plugins, one at a time.
fn to_main(plugin: &Path, count: usize) -> Vec<Duration> {
    let request = request();
    (0..count)
        .map(|_| {
            let at = Timestamp::from_system_time(SystemTime::now());
            since(at, &run(plugin, &request))
        })
        .collect()
}

/// From a moment to the first instruction of the plugin that gave this answer.
pub(crate) fn since(at: Timestamp, answer: &str) -> Duration {
    let begun: i64 = answer["{\"status\":\"ok\",\"result\":\"".len()..]
        .split(' ')
        .next()
        .and_then(|nanos| nanos.parse().ok())
        .expect("nanoseconds");
    Duration::from_nanos(u64::try_from(begun - at.unix_nanos()).unwrap_or(0))
}

fn request() -> String {
    format!("{{\"protocol\":2,\"payload\":\"{}\"}}\n", "a".repeat(990))
}

fn run(plugin: &Path, request: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the raw spawn is what is measured")]
    let mut child = Command::new(plugin)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    child.stdin.take().expect("piped").write_all(request.as_bytes()).expect("the plugin reads");
    let mut answer = String::with_capacity(1025);
    child.stdout.take().expect("piped").read_to_string(&mut answer).expect("the plugin answers");
    assert!(child.wait().expect("it ends").success() && answer.len() == 1024);
    answer
}
