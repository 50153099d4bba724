//! The command line: a verb and its flags, `--flag value` or `--flag=value`, one dash or two.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::settings::Named;

pub(crate) const USAGE: &str = "\
Usage: ductile-vault-agent [verb] [flags]

  (none)              serve on the sockets of the unit set   --config P | --vault P --key P [--checksums P]
                      or of a launcher                       --line, and the same
                                                             [--accept-older]
  init                make a new vault                       --vault P --key P
  keygen              make a new age key                     [--out P]
  set                 store a secret, value on stdin         --vault P --key P --name N [--pattern manual|auto]
                                                             [--principal a,b] [--scope plugin|gateway]
  register-principal  register a principal                   --vault P --key P --name N [--kind K]
  get                 print one secret                       --config P | --vault P --key P, --name N
  fingerprint         answer a launcher's plugin lock        --line --config P | --vault P --key P
  version             print the version
";

/// Flags that take a value, flags that do not, and the verbs that know them.
const FLAGS: [(&str, bool, &[&str]); 14] = [
    ("config", true, &["", "get", "fingerprint"]),
    ("vault", true, &["", "init", "set", "register-principal", "get", "fingerprint"]),
    ("key", true, &["", "init", "set", "register-principal", "get", "fingerprint"]),
    ("checksums", true, &["", "fingerprint"]),
    ("accept-older", false, &[""]),
    ("line", false, &["", "fingerprint"]),
    ("launcher-version", true, &["", "fingerprint"]),
    ("out", true, &["keygen"]),
    ("name", true, &["set", "register-principal", "get"]),
    ("pattern", true, &["set"]),
    ("principal", true, &["set"]),
    ("scope", true, &["set"]),
    ("kind", true, &["register-principal"]),
    ("version", false, &[""]),
];
const VERBS: [&str; 7] = ["init", "keygen", "set", "register-principal", "get", "fingerprint", "version"];

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// Empty for the resident forms.
    pub(crate) verb: String,
    values: HashMap<&'static str, String>,
}

impl Args {
    /// The value of a flag, if it was given.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        self.values.get(flag).map(String::as_str)
    }

    /// The files that it names.
    pub(crate) fn named(&self) -> Named {
        let path = |flag: &str| self.value(flag).map(PathBuf::from);
        Named { config: path("config"), vault: path("vault"), key: path("key"), checksums: path("checksums") }
    }

    /// Whether a flag without a value was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.value(flag) == Some("true")
    }
}

/// What the command line asks for besides a verb.
#[derive(Debug)]
pub(crate) enum Asked {
    Run(Args),
    Help,
    /// The text for stderr.
    Wrong(String),
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Asked {
    let mut args = Args::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else { return Asked::Wrong("Flag error: argument is not UTF-8".to_owned()) };
        if matches!(word, "-h" | "--help" | "help") {
            return Asked::Help;
        }
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            if args.verb.is_empty() && VERBS.contains(&word) {
                word.clone_into(&mut args.verb);
                continue;
            }
            return Asked::Wrong(format!("Unknown vault-agent action: {word}"));
        };
        let (name, inline) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let Some((name, valued, _)) = FLAGS.iter().find(|(known, ..)| *known == name) else {
            return Asked::Wrong(format!("Flag error: unknown flag --{name}"));
        };
        let value = match (inline, valued) {
            (Some(value), _) => value.to_owned(),
            (None, false) => "true".to_owned(),
            (None, true) => match words.next().and_then(|word| word.into_string().ok()) {
                Some(value) => value,
                None => return Asked::Wrong(format!("Flag error: --{name} needs a value")),
            },
        };
        if !valued && !matches!(value.as_str(), "true" | "false") {
            return Asked::Wrong(format!("Flag error: --{name} is true or false"));
        }
        args.values.insert(name, value);
    }
    if args.has("version") {
        "version".clone_into(&mut args.verb);
        args.values.remove("version");
    }
    let foreign =
        FLAGS.iter().find(|(name, _, verbs)| args.value(name).is_some() && !verbs.contains(&args.verb.as_str()));
    match foreign {
        Some((name, ..)) => Asked::Wrong(format!("Flag error: --{name} is no flag of {:?}", args.verb)),
        None => Asked::Run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Asked {
        super::parse(words.iter().map(OsString::from))
    }

    fn args(words: &[&str]) -> Args {
        match parse(words) {
            Asked::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn wrong(words: &[&str]) -> String {
        match parse(words) {
            Asked::Wrong(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_come_in_either_form_and_any_order() {
        let got = args(&["--vault", "/v", "set", "-key=/k", "--name=a=b", "--principal", ""]);
        assert_eq!((got.verb.as_str(), got.value("vault"), got.value("key")), ("set", Some("/v"), Some("/k")));
        assert_eq!((got.value("name"), got.value("principal"), got.value("pattern")), (Some("a=b"), Some(""), None));
        let got = args(&["--line", "--config", "/c", "--accept-older=false"]);
        assert_eq!((got.verb.as_str(), got.has("line"), got.has("accept-older")), ("", true, false));
        assert_eq!(args(&["--version"]).verb, "version");
        assert!(matches!(parse(&["set", "--help"]), Asked::Help));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(wrong(&["rotate"]), "Unknown vault-agent action: rotate");
        assert_eq!(wrong(&["init", "set"]), "Unknown vault-agent action: set");
        assert_eq!(wrong(&["--vualt", "/v"]), "Flag error: unknown flag --vualt");
        assert_eq!(wrong(&["init", "--vault"]), "Flag error: --vault needs a value");
        assert_eq!(wrong(&["--line=maybe"]), "Flag error: --line is true or false");
        assert_eq!(wrong(&["init", "--name", "x"]), "Flag error: --name is no flag of \"init\"");
    }
}
