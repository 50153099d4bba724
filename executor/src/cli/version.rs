//! `ductile version` (`spec/cli.md` 2). Commit and time come from whoever builds a release, by
//! `DUCTILE_COMMIT` and `DUCTILE_BUILD_TIME`; a build without them says so.

use shared::exit;
use shared::time::Timestamp;

use super::args::{Args, Flag, Shape};
use super::output::{self, Failure, Outcome};

pub(super) const USAGE: &str = "Usage: ductile version [--json]\n";

pub(super) const SHAPE: Shape = Shape { flags: &[Flag::switch("json", "Answer as JSON")], positionals: usize::MAX };

const UNKNOWN: &str = "unknown";

#[derive(Debug, PartialEq, Eq, serde::Serialize)]
struct Version {
    version: &'static str,
    commit: String,
    build_time: String,
}

pub(super) fn run(args: &Args) -> Outcome {
    if !args.positionals()?.is_empty() {
        return Err(Failure::new(USAGE.trim_end()));
    }
    let version = shown(option_env!("DUCTILE_COMMIT"), option_env!("DUCTILE_BUILD_TIME"));
    if args.wants_json() {
        output::json(&version);
    } else {
        let Version { version, commit, build_time } = version;
        output::result(&format!("ductile {version}\ncommit: {commit}\nbuilt_at: {build_time}\n"));
    }
    Ok(exit::OK)
}

fn shown(commit: Option<&str>, built: Option<&str>) -> Version {
    let commit = commit.map(str::trim).filter(|text| !text.is_empty());
    let built = built.and_then(|text| Timestamp::parse(text.trim()));
    Version {
        version: shared::VERSION,
        commit: commit.map_or(UNKNOWN.to_owned(), |text| text.chars().take(12).collect()),
        build_time: built.map_or(UNKNOWN.to_owned(), seconds),
    }
}

/// RFC 3339 in whole seconds.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    text.split('.').next().map_or_else(|| text.clone(), |whole| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_facts_are_normalised() {
        let check = |commit, built, expected: (&str, &str)| {
            let version = shown(commit, built);
            assert_eq!((version.commit.as_str(), version.build_time.as_str()), expected);
        };
        check(None, None, ("unknown", "unknown"));
        check(Some("  "), Some("yesterday"), ("unknown", "unknown"));
        check(Some("abc123456789def"), Some("2026-02-12T11:30:00Z"), ("abc123456789", "2026-02-12T11:30:00Z"));
        check(Some("abc"), Some("2026-02-12T06:30:00.25-05:00"), ("abc", "2026-02-12T11:30:00Z"));
    }
}
