//! Flags and positionals of one action (`spec/cli.md` 1.2): `-flag` and `--flag` are the same,
//! values stand after a blank or `=`, and flags may stand anywhere.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::output::Failure;

/// One flag of an action.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Flag {
    pub(in crate::cli) name: &'static str,
    /// A second spelling, such as `v` for `verbose`.
    pub(in crate::cli) alias: Option<&'static str>,
    /// Placeholder of its value in the usage; a flag without one is a switch.
    pub(in crate::cli) value: Option<&'static str>,
    pub(in crate::cli) about: &'static str,
}

impl Flag {
    pub(in crate::cli) const fn value(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { name, alias: None, value: Some(value), about }
    }

    pub(in crate::cli) const fn switch(name: &'static str, about: &'static str) -> Self {
        Self { name, alias: None, value: None, about }
    }

    fn is_called(&self, name: &[u8]) -> bool {
        self.name.as_bytes() == name || self.alias.is_some_and(|alias| alias.as_bytes() == name)
    }
}

/// What an action takes.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Shape {
    pub(in crate::cli) flags: &'static [Flag],
    /// The most positionals; a command that has another rule checks it itself.
    pub(in crate::cli) positionals: usize,
}

/// What was given to an action.
#[derive(Debug)]
pub(in crate::cli) struct Args {
    matches: clap::ArgMatches,
}

/// How the arguments of an action read.
#[derive(Debug)]
pub(in crate::cli) enum Read {
    /// `--help` or `-h` stood among them.
    Help,
    Args(Args),
}

const POSITIONALS: &str = "positionals";

/// Reads the arguments after noun and action; `common` are flags that every action takes.
///
/// # Errors
/// `Flag error: …` for an unknown flag, a value that is missing or not one, a positional too many.
pub(in crate::cli) fn read(shape: Shape, common: &'static [Flag], arguments: &[OsString]) -> Result<Read, Failure> {
    let flags = || shape.flags.iter().chain(common);
    let takes_value = |name: &[u8]| flags().any(|flag| flag.value.is_some() && flag.is_called(name));
    let Some(arguments) = normalised(takes_value, arguments) else { return Ok(Read::Help) };
    let mut command =
        clap::Command::new("ductile").no_binary_name(true).disable_help_flag(true).disable_version_flag(true).args(
            flags().map(|flag| {
                let arg = clap::Arg::new(flag.name).long(flag.name).overrides_with(flag.name).require_equals(true);
                let arg = if let Some(alias) = flag.alias { arg.alias(alias) } else { arg };
                match flag.value {
                    Some(_) => arg.value_parser(clap::value_parser!(OsString)).num_args(1),
                    None => arg.value_parser(clap::value_parser!(bool)).num_args(0..=1).default_missing_value("true"),
                }
            }),
        );
    if shape.positionals > 0 {
        let positionals = clap::Arg::new(POSITIONALS)
            .value_parser(clap::value_parser!(OsString))
            .num_args(0..=shape.positionals)
            .action(clap::ArgAction::Append);
        command = command.arg(positionals);
    }
    match command.try_get_matches_from(arguments) {
        Ok(matches) => Ok(Read::Args(Args { matches })),
        Err(error) => Err(Failure::new(format!("Flag error: {}", complaint(&error)))),
    }
}

/// The arguments with two dashes before each flag and `=` before each value, so that a value may
/// begin with a dash; `None` when help is asked for.
fn normalised(takes_value: impl Fn(&[u8]) -> bool, arguments: &[OsString]) -> Option<Vec<OsString>> {
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            out.push(argument.clone());
            out.extend(rest.cloned());
            break;
        }
        let Some(name) = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|n| !n.is_empty())
        else {
            out.push(argument.clone());
            continue;
        };
        if matches!(name, b"help" | b"h") {
            return None;
        }
        let mut flag = b"--".to_vec();
        flag.extend_from_slice(name);
        if takes_value(name)
            && let Some(value) = rest.next()
        {
            flag.push(b'=');
            flag.extend_from_slice(value.as_bytes());
        }
        out.push(OsString::from_vec(flag));
    }
    Some(out)
}

fn complaint(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split(['=', '[', ' ']).next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => format!("unknown flag {argument}"),
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => "too many arguments".to_owned(),
        ErrorKind::InvalidValue => match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) if !value.is_empty() => {
                format!("{argument} is either true or false, not {value:?}")
            }
            _ => format!("{argument} needs a value"),
        },
        ErrorKind::NoEquals | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{argument} needs a value")
        }
        _ => "arguments could not be read".to_owned(),
    }
}

impl Args {
    /// The value of a flag, where it was given.
    pub(in crate::cli) fn os(&self, name: &str) -> Option<&OsStr> {
        self.matches.get_one::<OsString>(name).map(OsString::as_os_str)
    }

    /// A path as it was given; an empty one counts as not given.
    pub(in crate::cli) fn path(&self, name: &str) -> Option<&Path> {
        self.os(name).filter(|value| !value.is_empty()).map(Path::new)
    }

    /// The value of a flag as text.
    ///
    /// # Errors
    /// `Flag error: …` for bytes that are not UTF-8.
    pub(in crate::cli) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(value) = self.os(name) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| Failure::new(format!("Flag error: --{name} is not UTF-8 text")))
    }

    /// The value of a flag as a number of at least 1.
    ///
    /// # Errors
    /// `Flag error: …` for anything else.
    pub(in crate::cli) fn count(&self, name: &str) -> Result<Option<u32>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(0) => Err(Failure::new(format!("{name} must be greater than zero"))),
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(Failure::new(format!("Flag error: --{name} is a whole number, not {text:?}"))),
        }
    }

    /// Whether a switch is on; one that the action does not have is off.
    pub(in crate::cli) fn switch(&self, name: &str) -> bool {
        matches!(self.matches.try_get_one::<bool>(name), Ok(Some(true)))
    }

    /// Whether the answer, a failure too, is wanted as JSON.
    pub(in crate::cli) fn wants_json(&self) -> bool {
        let format = self.matches.try_get_one::<OsString>("format").ok().flatten();
        self.switch("json") || format.is_some_and(|format| format == "json")
    }

    /// The positionals as text.
    ///
    /// # Errors
    /// A complaint about bytes that are not UTF-8.
    pub(in crate::cli) fn positionals(&self) -> Result<Vec<&str>, Failure> {
        let given = self.matches.try_get_many::<OsString>(POSITIONALS).ok().flatten().unwrap_or_default();
        given
            .map(|value| value.to_str().ok_or_else(|| Failure::new("Flag error: an argument is not UTF-8 text")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        flags: &[
            Flag::value("config", "PATH", ""),
            Flag::value("payload", "JSON", ""),
            Flag { alias: Some("v"), ..Flag::switch("verbose", "") },
            Flag::switch("all", ""),
        ],
        positionals: 1,
    };

    fn given(arguments: &[&str]) -> Result<Read, Failure> {
        read(SHAPE, &[], &arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn flags_stand_anywhere_in_every_spelling() {
        let check = |arguments: &[&str]| {
            let Ok(Read::Args(args)) = given(arguments) else { panic!("{arguments:?}: {:?}", given(arguments)) };
            assert_eq!(args.path("config"), Some(Path::new("/c")), "{arguments:?}");
            assert!(args.switch("all"), "{arguments:?}");
            assert_eq!(args.positionals().expect("text"), ["code"], "{arguments:?}");
        };
        check(&["--all", "code", "--config", "/c"]);
        check(&["-config=/c", "-all=true", "code"]);
        check(&["code", "-config", "/c", "--all"]);
        check(&["--config", "/other", "--config=/c", "--all", "--all", "--", "code"]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let Ok(Read::Args(args)) = given(&["--payload", "-5", "--all=false", "-v"]) else { panic!("reads") };
        assert_eq!(args.text("payload").expect("text"), Some("-5"));
        assert!(!args.switch("all") && args.switch("verbose") && !args.switch("unheard"));
        assert!(args.positionals().expect("none").is_empty());
    }

    #[test]
    fn counts_are_whole_and_positive() {
        let count = |value: &str| {
            let Ok(Read::Args(args)) = given(&["--payload", value]) else { panic!("reads") };
            args.count("payload").map_err(|failure| failure.text)
        };
        assert_eq!(count("1"), Ok(Some(1)));
        assert_eq!(count("4294967295"), Ok(Some(u32::MAX)));
        assert_eq!(count("0"), Err("payload must be greater than zero".to_owned()));
        for bad in ["-1", "", "1.5", "ten", "4294967296"] {
            assert_eq!(count(bad), Err(format!("Flag error: --payload is a whole number, not {bad:?}")));
        }
    }

    #[test]
    fn help_is_found_wherever_it_stands() {
        assert!(matches!(given(&["code", "--all", "-h"]), Ok(Read::Help)));
        assert!(matches!(given(&["--help", "--unheard"]), Ok(Read::Help)));
        assert!(matches!(given(&["--payload", "--help"]), Ok(Read::Args(_))));
    }

    #[test]
    fn complaints_name_the_flag() {
        let check = |arguments: &[&str], text: &str| {
            let failure = given(arguments).expect_err("refused");
            assert_eq!((failure.text.as_str(), failure.code), (text, 1), "{arguments:?}");
        };
        check(&["--unheard"], "Flag error: unknown flag --unheard");
        check(&["-unheard=5"], "Flag error: unknown flag --unheard");
        check(&["--config"], "Flag error: --config needs a value");
        check(&["--all=perhaps"], "Flag error: --all is either true or false, not \"perhaps\"");
        check(&["a", "b"], "Flag error: too many arguments");
    }

    #[test]
    fn bytes_that_are_no_text_are_a_complaint_and_not_a_crash() {
        let odd = OsString::from_vec(b"--config=\xff".to_vec());
        let Ok(Read::Args(args)) = read(SHAPE, &[], &[odd, OsString::from_vec(vec![0xfe])]) else { panic!("reads") };
        assert!(args.path("config").is_some());
        assert!(args.text("config").is_err() && args.positionals().is_err());
    }
}
