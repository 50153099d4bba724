//! `ductile system scheduler --next N`: when every entry starts next, in a zone that a person can
//! read.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Zoned, fmt::strtime};
use serde::Serialize;
use shared::exit;
use shared::time::Timestamp;
use shared::wire::gateway::{Reply, Request, Schedule};

use crate::cli::args::Args;
use crate::cli::executor;
use crate::cli::output::{self, Failure, Outcome};

/// The most that the executor answers.
const MOST: u32 = 100;

pub(super) fn run(args: &Args, count: u32, zone: Option<&str>) -> Outcome {
    if count > MOST {
        return Err(Failure::new(format!("next must be at most {MOST}")));
    }
    let zones = Zones { asked: zone.map(named).transpose()?, host: host() };
    match executor::ask(args, Request::Schedules { count }, Duration::ZERO)? {
        Reply::Schedules(schedules) => {
            if args.wants_json() {
                output::json(&Shown { schedules: schedules.iter().map(|one| shown(one, &zones)).collect() });
            } else {
                output::result(&text(&schedules, &zones));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}

/// Where the clocks are that a start is shown by.
struct Zones {
    asked: Option<TimeZone>,
    host: TimeZone,
}

impl Zones {
    /// The zone that was asked for, else the entry's own, else the host's.
    fn of(&self, schedule: &Schedule) -> TimeZone {
        let own = || schedule.timezone.as_deref().and_then(|name| TimeZone::get(name).ok());
        self.asked.clone().or_else(own).unwrap_or_else(|| self.host.clone())
    }
}

fn named(name: &str) -> Result<TimeZone, Failure> {
    TimeZone::get(name).map_err(|_| {
        Failure::new(format!("Error: unknown time zone {name:?}: expected an IANA name such as Europe/Berlin or UTC"))
    })
}

/// An unknown host zone counts as UTC, as it does for the scheduler.
fn host() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

fn in_zone(at: Timestamp, zone: TimeZone) -> Option<Zoned> {
    jiff::Timestamp::from_nanosecond(i128::from(at.unix_nanos())).ok().map(|at| at.to_zoned(zone))
}

/// RFC 3339 with the zone's offset at that time; fractions only for machines.
fn written(at: Timestamp, zone: TimeZone, format: &str) -> String {
    let written = in_zone(at, zone).and_then(|at| strtime::format(format, &at).ok());
    written.unwrap_or_else(|| at.to_string())
}

/// One line for each start; an entry without one has a line that says why.
fn text(schedules: &[Schedule], zones: &Zones) -> String {
    if schedules.is_empty() {
        return "No schedule entries.\n".to_owned();
    }
    let head = ["ENTRY", "COMMAND", "MODE", "STATUS", "NEXT"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for schedule in schedules {
        let zone = zones.of(schedule);
        let entry = format!("{}:{}", schedule.plugin, schedule.schedule_id);
        let mut row = |last: String| {
            let fixed = [&entry, &schedule.command, &schedule.mode, &schedule.status].map(String::clone);
            rows.push(fixed.into_iter().chain([last]).collect());
        };
        for at in &schedule.next {
            row(written(*at, zone.clone(), "%Y-%m-%dT%H:%M:%S%:z"));
        }
        if schedule.next.is_empty() {
            row(schedule.reason.as_deref().map_or_else(|| "-".to_owned(), |reason| format!("- ({reason})")));
        }
    }
    output::table(&rows)
}

#[derive(Serialize)]
struct Shown<'a> {
    schedules: Vec<ShownSchedule<'a>>,
}

#[derive(Serialize)]
struct ShownSchedule<'a> {
    plugin: &'a str,
    schedule_id: &'a str,
    command: &'a str,
    mode: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    next: Vec<String>,
}

fn shown<'a>(schedule: &'a Schedule, zones: &Zones) -> ShownSchedule<'a> {
    let zone = zones.of(schedule);
    ShownSchedule {
        plugin: &schedule.plugin,
        schedule_id: &schedule.schedule_id,
        command: &schedule.command,
        mode: &schedule.mode,
        status: &schedule.status,
        reason: schedule.reason.as_deref(),
        timezone: schedule.timezone.as_deref(),
        next: schedule.next.iter().map(|at| written(*at, zone.clone(), "%Y-%m-%dT%H:%M:%S.%9f%:z")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(id: &str, zone: Option<&str>, next: &[&str]) -> Schedule {
        Schedule {
            plugin: "echo".to_owned(),
            schedule_id: id.to_owned(),
            command: "poll".to_owned(),
            mode: "cron".to_owned(),
            status: "active".to_owned(),
            reason: None,
            timezone: zone.map(str::to_owned),
            next: next.iter().map(|text| Timestamp::parse(text).expect("a time")).collect(),
        }
    }

    fn zones(asked: Option<&str>) -> Zones {
        Zones { asked: asked.map(|name| named(name).expect("known")), host: TimeZone::UTC }
    }

    #[test]
    fn starts_stand_below_each_other_with_their_offsets() {
        let broken = Schedule {
            status: "paused_invalid".to_owned(),
            reason: Some("bad".to_owned()),
            ..schedule("x", None, &[])
        };
        // The clocks of Berlin go back between the two.
        let autumn = ["2026-10-24T22:30:00.5Z", "2026-10-25T22:30:00Z"];
        let entries = [schedule("night", Some("Europe/Berlin"), &autumn), schedule("d", None, &autumn[..1]), broken];
        assert_eq!(
            text(&entries, &zones(None)),
            "ENTRY       COMMAND  MODE  STATUS          NEXT\n\
             echo:night  poll     cron  active          2026-10-25T00:30:00+02:00\n\
             echo:night  poll     cron  active          2026-10-25T23:30:00+01:00\n\
             echo:d      poll     cron  active          2026-10-24T22:30:00+00:00\n\
             echo:x      poll     cron  paused_invalid  - (bad)\n"
        );
        let in_tokyo = text(&entries[..1], &zones(Some("Asia/Tokyo")));
        assert!(in_tokyo.contains("2026-10-25T07:30:00+09:00"), "{in_tokyo}");
        assert_eq!(text(&[], &zones(None)), "No schedule entries.\n");
    }

    #[test]
    fn machines_get_every_digit() {
        let entry = schedule("night", Some("Europe/Berlin"), &["2026-10-24T22:30:00.000000007Z"]);
        let json = serde_json::to_string(&shown(&entry, &zones(None))).expect("no odd keys");
        assert!(
            json.ends_with("\"timezone\":\"Europe/Berlin\",\"next\":[\"2026-10-25T00:30:00.000000007+02:00\"]}"),
            "{json}"
        );
    }

    #[test]
    fn a_zone_is_known_or_a_clear_error() {
        for name in ["UTC", "Europe/Berlin", "america/new_york"] {
            assert!(named(name).is_ok(), "{name}");
        }
        for name in ["Mars/Olympus", "", "+02:00", "../../etc/passwd"] {
            let failure = named(name).expect_err("unknown");
            assert!(failure.text.starts_with(&format!("Error: unknown time zone {name:?}: ")), "{}", failure.text);
        }
    }
}
