use jiff::tz::TimeZoneDatabase;

use super::*;

fn cron(expression: &str, zone: &str) -> Cron {
    Cron::parse(expression, TimeZoneDatabase::bundled().get(zone).expect("a zone")).expect("an expression")
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

/// The instants that follow `after`, as minutes in UTC.
fn check(expression: &str, zone: &str, after: &str, expected: &[&str]) {
    let cron = cron(expression, zone);
    let mut last = at(after);
    let mut found = Vec::new();
    for _ in expected {
        last = cron.next_after(last).expect("a next one");
        found.push(format!("{}Z", &last.to_string()[..16]));
    }
    assert_eq!(found, expected, "{expression} in {zone} after {after}");
}

#[test]
fn fields_are_a_superset_of_crons() {
    let now = "2026-06-05T09:00:00Z"; // A Friday.
    check("*/15 * * * *", "UTC", now, &["2026-06-05T09:15Z", "2026-06-05T09:30Z"]);
    check("/20 * * * *", "UTC", now, &["2026-06-05T09:20Z"]);
    check("5/25 * * * *", "UTC", now, &["2026-06-05T09:05Z", "2026-06-05T09:30Z", "2026-06-05T09:55Z"]);
    check("0 9 * * mon-fri", "UTC", now, &["2026-06-08T09:00Z"]);
    check("0 0 * * 7", "UTC", now, &["2026-06-07T00:00Z"]);
    check("0 0 1 jan *", "UTC", now, &["2027-01-01T00:00Z"]);
    check("@daily", "UTC", now, &["2026-06-06T00:00Z"]);
    check("0 0 L * *", "UTC", now, &["2026-06-30T00:00Z"]);
    // Both day fields: either is enough; with `+` both are needed.
    check("0 0 13 * 5", "UTC", now, &["2026-06-12T00:00Z", "2026-06-13T00:00Z"]);
    check("0 0 13 * +5", "UTC", now, &["2026-11-13T00:00Z"]);
    check("0 0 29 2 *", "UTC", now, &["2028-02-29T00:00Z", "2032-02-29T00:00Z"]);
    check("* * * * *", "UTC", "2026-06-05T09:00:59.999999999Z", &["2026-06-05T09:01Z"]);
    check("* * * * *", "UTC", "2026-06-05T09:00:00.000000001Z", &["2026-06-05T09:01Z"]);
    check("0 9 * * *", "UTC", "2026-06-05T08:59:59.5Z", &["2026-06-05T09:00Z"]);
    check("0 9 * * *", "UTC", "2026-06-05T09:00:00.5Z", &["2026-06-06T09:00Z"]);
    check("* * * * *", "UTC", "1969-12-31T23:58:30Z", &["1969-12-31T23:59Z", "1970-01-01T00:00Z"]);
}

#[test]
fn fixed_is_what_has_no_star_in_minute_and_hour() {
    let check = |expression: &str, fixed: bool| assert_eq!(cron(expression, "UTC").is_fixed(), fixed, "{expression}");
    check("30 2 * * *", true);
    check("0,30 2 * * *", true);
    check("0-30/10 1-5 * * *", true);
    check("0/10 3 * * *", true);
    check("@daily", true);
    check("@hourly", false);
    check("30 * * * *", false);
    check("* 2 * * *", false);
    check("*/30 2 * * *", false);
    check("/30 2 * * *", false);
    check("1,/30 2 * * *", false);
    check("30 */2 * * *", false);
}

#[test]
fn fixed_runs_once_for_each_civil_minute() {
    // Berlin: 02:00 to 03:00 is skipped on 29 March and comes twice on 25 October.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-27T12:00:00Z",
        &["2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z"],
    );
    check(
        "0,30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00Z", "2026-03-30T00:00Z", "2026-03-30T00:30Z"],
    );
    check("30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00Z", "2026-03-29T01:30Z"]);
    check("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00Z", "2026-03-30T00:00Z"]);
    check("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30Z", "2026-10-26T01:30Z"]);
    // Asked within the second pass.
    check("30,50 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &["2026-10-26T01:30Z"]);
    check("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", &["2026-03-08T07:00Z", "2026-03-09T06:30Z"]);
    check("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", &["2026-11-01T05:30Z", "2026-11-02T06:30Z"]);
    // Lord Howe moves by 30 minutes.
    check("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", &["2026-10-03T15:30Z", "2026-10-04T15:15Z"]);
    check("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", &["2026-04-04T14:45Z", "2026-04-05T15:15Z"]);
    // Troll moves by two hours: 01:00 to 03:00 is skipped, and comes twice in autumn.
    check("10 1 * * *", "Antarctica/Troll", "2026-03-28T12:00:00Z", &["2026-03-29T01:00Z", "2026-03-29T23:10Z"]);
    check("10 1 * * *", "Antarctica/Troll", "2026-10-24T12:00:00Z", &["2026-10-24T23:10Z", "2026-10-26T01:10Z"]);
    check("0-59 1 * * *", "Antarctica/Troll", "2026-10-24T23:58:00Z", &["2026-10-24T23:59Z", "2026-10-26T01:00Z"]);
    // Apia had no 30 December 2011.
    check(
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        &["2011-12-29T22:00Z", "2011-12-30T10:00Z", "2011-12-30T22:00Z"],
    );
    check("0-59 0-23 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", &["2011-12-30T10:00Z", "2012-12-29T10:00Z"]);
}

#[test]
fn everything_else_runs_at_every_instant_that_matches() {
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00Z",
        &["2026-03-29T00:30Z", "2026-03-29T01:00Z", "2026-03-29T01:30Z"],
    );
    check("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-30T00:00Z"]);
    check(
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:00Z", "2026-10-25T00:30Z", "2026-10-25T01:00Z", "2026-10-25T01:30Z", "2026-10-26T01:00Z"],
    );
    check(
        "0 * * * *",
        "America/New_York",
        "2026-11-01T04:00:00Z",
        &["2026-11-01T05:00Z", "2026-11-01T06:00Z", "2026-11-01T07:00Z"],
    );
    check(
        "*/15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        &["2026-10-03T15:30Z", "2026-10-03T15:45Z", "2026-10-04T15:00Z"],
    );
    check(
        "*/15 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:20:00Z",
        &["2026-04-04T14:30Z", "2026-04-04T14:45Z", "2026-04-04T15:00Z", "2026-04-04T15:15Z", "2026-04-05T14:30Z"],
    );
    check(
        "0 */2 * * *",
        "Antarctica/Troll",
        "2026-10-24T21:00:00Z",
        &["2026-10-24T22:00Z", "2026-10-25T00:00Z", "2026-10-25T02:00Z", "2026-10-25T04:00Z"],
    );
    check("0 * * * *", "Pacific/Apia", "2011-12-30T08:30:00Z", &["2011-12-30T09:00Z", "2011-12-30T10:00Z"]);
    check("* * 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", &["2012-12-29T10:00Z"]);
    // Only ever in the gap.
    assert_eq!(cron("*/5 2 * 3 7L", "Europe/Berlin").next_after(at("2026-01-01T00:00:00Z")), None);
}

/// Casablanca goes back by an hour for Ramadan and forward after it: the months are named by the
/// database, so the changes are asked of it.
#[test]
fn negative_daylight_saving_is_like_any_other() {
    let zone = TimeZoneDatabase::bundled().get("Africa/Casablanca").expect("a zone");
    let mut changes = zone.following("2026-01-01T00:00:00Z".parse().expect("a time"));
    let back = changes.next().and_then(|change| super::super::zone::from_jiff(change.timestamp())).expect("one");
    let forth = changes.next().and_then(|change| super::super::zone::from_jiff(change.timestamp())).expect("one");
    assert_eq!(back.to_string(), "2026-02-15T02:00:00.000000000Z");
    assert_eq!(forth.to_string(), "2026-03-22T02:00:00.000000000Z");
    // 03:00 becomes 02:00, and five weeks later 02:00 becomes 03:00.
    check("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00:00Z", &["2026-02-15T01:30Z", "2026-02-16T02:30Z"]);
    check("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00:00Z", &["2026-03-22T02:00Z", "2026-03-23T01:30Z"]);
    check(
        "30 */1 * * *",
        "Africa/Casablanca",
        "2026-02-15T01:00:00Z",
        &["2026-02-15T01:30Z", "2026-02-15T02:30Z", "2026-02-15T03:30Z"],
    );
}

/// Every minute of the two days around each change of the clock in a year, looked at by the wall
/// clock, against the search.
#[test]
fn the_search_agrees_with_a_wall_clock() {
    let expressions = ["*/30 * * * *", "17 2 * * *", "0,45 1-3 * * *", "*/7 2 * * 0", "30 */5 1-7 * *"];
    let zones = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Africa/Casablanca",
        "America/St_Johns",
        "Asia/Kathmandu",
    ];
    for zone_name in zones {
        let zone = TimeZoneDatabase::bundled().get(zone_name).expect("a zone");
        let year = "2026-01-01T00:00:00Z".parse().expect("a time");
        let changes = zone.following(year).filter_map(|change| super::super::zone::from_jiff(change.timestamp()));
        let mut days: Vec<Timestamp> = changes.take_while(|at| *at < self::at("2027-01-01T00:00:00Z")).collect();
        days.push(at("2026-06-07T00:00:00Z"));
        for (expression, day) in
            expressions.into_iter().flat_map(|expression| days.iter().map(move |day| (expression, *day)))
        {
            let cron = cron(expression, zone_name);
            let minutes = |count: i64| Timestamp::from_unix_nanos(day.unix_nanos() + count * 60_000_000_000);
            let (mut now, end) = (minutes(-24 * 60), minutes(24 * 60));
            let mut next = cron.next_after(minutes(-24 * 60 - 1)).expect("one");
            while now < end {
                let wall = civil(&zone, now);
                let matches = cron.pattern.is_time_matching(&wall).expect("in range");
                let runs = now == next;
                let offset = zone.to_ambiguous_timestamp(wall).offset();
                let is_second_pass =
                    matches!(offset, AmbiguousOffset::Fold { after, .. } if after == zone.to_offset(to_jiff(now)));
                let ends_gap = zone
                    .preceding(to_jiff(now.plus(shared::time::Millis(1))))
                    .next()
                    .is_some_and(|change| change.timestamp() == to_jiff(now));
                if cron.is_fixed() {
                    assert!(!runs || (matches && !is_second_pass) || ends_gap, "{expression} {zone_name} {now}");
                    assert!(runs || !matches || is_second_pass, "{expression} {zone_name} {now}");
                } else {
                    assert_eq!(runs, matches, "{expression} {zone_name} {now}");
                }
                if runs {
                    next = cron.next_after(now).expect("one");
                }
                now = now.plus(shared::time::Millis::from_secs(60));
                assert!(next >= now, "{expression} {zone_name}: {next} was left out");
            }
        }
    }
}

#[test]
fn the_latest_one_is_found() {
    let cron = cron("0 */6 * * *", "UTC");
    let check = |floor: &str, now: &str, expected: Option<&str>| {
        assert_eq!(cron.latest_between(at(floor), at(now)), expected.map(at), "{floor} {now}");
    };
    check("2026-01-01T00:00:00Z", "2026-01-01T05:59:59Z", None);
    check("2026-01-01T00:00:00Z", "2026-01-01T06:00:00Z", Some("2026-01-01T06:00:00Z"));
    check("2026-01-01T00:00:00Z", "2026-01-01T17:59:59.999Z", Some("2026-01-01T12:00:00Z"));
    check("2006-01-01T00:00:00Z", "2026-01-01T18:00:00.000000001Z", Some("2026-01-01T18:00:00Z"));
    check("1950-01-01T00:00:00Z", "1960-01-01T18:00:01Z", Some("1960-01-01T18:00:00Z"));
    check("2026-01-02T00:00:00Z", "2026-01-01T18:00:00Z", None);
}

#[test]
fn what_is_no_expression_says_why() {
    let check = |expression: &str, error: &str| {
        let text = Cron::parse(expression, TimeZone::UTC).map_err(|error| error.to_string()).expect_err(expression);
        assert_eq!(text, error, "{expression:?}");
    };
    for fields in ["", "   ", "* * * *", "* * * * * *", "0 * * * * * 2026", "*", "@reboot"] {
        check(fields, "expected five fields: minute hour day-of-month month day-of-week");
    }
    for character in ["a * * * *", "* * * * \0", "0 0 * * fri!", "é * * * *", "٣ * * * *", "? ? * * *"] {
        check(character, "a character that no field can have");
    }
    check("61 * * * *", "number out of bounds");
    check("99999999999999999999 * * * *", "invalid number");
    check("5-1 * * * *", "range out of bounds");
    check("*/0 * * * *", "step cannot be zero");
    for never in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", ", * * * *", "0 , * * *", "0 0 , * *", "0 0 * , *"] {
        check(never, "never occurs");
    }
    check(&"* ".repeat(5000), "longer than 512 bytes");
    check(&"1,".repeat(5000), "longer than 512 bytes");
    assert!(Cron::parse(&format!("{} * * * *", "1,".repeat(200)), TimeZone::UTC).is_ok());
}

#[test]
fn the_end_of_the_calendar_is_an_end() {
    let last = Timestamp::from_unix_nanos(i64::MAX);
    for expression in ["* * * * *", "0 0 * * *"] {
        assert_eq!(cron(expression, "Europe/Berlin").next_after(last), None);
    }
    let first = Timestamp::from_unix_nanos(i64::MIN);
    assert!(cron("0 0 * * *", "Europe/Berlin").next_after(first).is_some());
}
