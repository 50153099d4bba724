//! The machine's own limits, measured in the same run as the product: spawning the same plugin
//! with nothing around it, and one fsync'ed write.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::stats::{Samples, median};

/// What the raw spawn of the plugin costs here.
pub(crate) struct Spawn {
    /// Plugins a second, two at once: R.
    pub rate: f64,
    pub spread: (f64, f64),
    /// One at a time.
    pub alone: Samples,
}

/// Runs the plugin as a worker would that keeps no ledger: 1 KiB in, 1 KiB out, wait.
pub(crate) fn spawn(plugin: &Path, seconds: f64) -> Spawn {
    let request = request();
    let rates = (0..3).map(|_| rate(plugin, &request, 2, seconds)).collect();
    let (rate, lowest, highest) = median(rates);
    let mut samples = Vec::new();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < until {
        let at = Instant::now();
        run(plugin, &request);
        samples.push(at.elapsed());
    }
    Spawn { rate, spread: (lowest, highest), alone: Samples::new(samples) }
}

/// As many at once as are asked for: a second.
pub(crate) fn at_once(plugin: &Path, threads: usize, seconds: f64) -> f64 {
    rate(plugin, &request(), threads, seconds)
}

fn request() -> String {
    format!("{{\"protocol\":2,\"payload\":\"{}\"}}\n", "a".repeat(990))
}

fn rate(plugin: &Path, request: &str, threads: usize, seconds: f64) -> f64 {
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

fn run(plugin: &Path, request: &str) {
    #[expect(clippy::disallowed_methods, reason = "the raw spawn is what is measured")]
    let mut child = Command::new(plugin)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    child.stdin.take().expect("piped").write_all(request.as_bytes()).expect("the plugin reads");
    let mut answer = Vec::with_capacity(1024);
    child.stdout.take().expect("piped").read_to_end(&mut answer).expect("the plugin answers");
    assert!(child.wait().expect("it ends").success() && answer.len() == 1024);
}
