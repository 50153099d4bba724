//! The variables that `${NAME}` stands for, and how they enter a file (`spec/config.md` 5).
//!
//! The process's own variables win; those of env files lie beneath them and never reach the
//! process environment, so that a reload sees an edited file. Substitution happens in each scalar
//! after parsing: no value can change the structure of a file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use crate::yaml::{self, Kind, Node, YamlError};

/// A set of variables. Values are never printed.
#[derive(Clone, Default)]
pub struct Environment {
    process: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of this process; names and values that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let text = |os: OsString| os.into_string().ok();
        Self {
            process: std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
            files: BTreeMap::new(),
        }
    }

    /// Exactly these variables, as if they were the process's.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let process = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { process, files: BTreeMap::new() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.process.get(name).or_else(|| self.files.get(name)).map(String::as_str)
    }

    /// A variable that is set and not empty.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Adds the variables of an env file. A name that is known already keeps its value.
    ///
    /// # Errors
    /// The number of the first line that is neither blank, a comment nor `KEY=VALUE`.
    pub(super) fn add_file(&mut self, text: &str) -> Result<(), usize> {
        let mut found = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let assignment = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = assignment.split_once('=').ok_or(index + 1)?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() || name.contains('\0') || value.contains('\0') {
                return Err(index + 1);
            }
            let bare = ['"', '\'']
                .into_iter()
                .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
                .unwrap_or(value);
            found.push((name.to_owned(), bare.to_owned()));
        }
        for (name, value) in found {
            self.files.entry(name).or_insert(value);
        }
        Ok(())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables, {} from files)", self.process.len(), self.files.len())
    }
}

/// A parsed file whose placeholders are not replaced yet. Before parsing each `${NAME}` was given
/// another spelling, one that is an ordinary word of a plain scalar everywhere: inside `[…]` and
/// `{…}` the parser would take the braces for structure.
pub(super) struct Template {
    node: Node,
    /// What stands for `${` and `}`; in no other place of the text.
    marks: (char, char),
}

impl Template {
    /// # Errors
    /// `YamlError`, naming the file and the place.
    pub(super) fn parse(text: &[u8], file: &str) -> Result<Self, YamlError> {
        let Ok(utf8) = std::str::from_utf8(text) else {
            // The parser says where.
            return yaml::parse(text, file).map(|node| Self { node, marks: ('\0', '\0') });
        };
        let marks = unused_marks(utf8);
        let mut marked = String::with_capacity(utf8.len());
        let mut rest = utf8;
        while let Some((before, name, after)) = next_placeholder(rest) {
            marked.push_str(before);
            marked.push(marks.0);
            marked.push_str(name);
            marked.push(marks.1);
            rest = after;
        }
        marked.push_str(rest);
        Ok(Self { node: yaml::parse(marked.as_bytes(), file)?, marks })
    }

    /// The tree with every placeholder whose variable is set replaced; others stay as written.
    pub(super) fn resolve(&self, environment: &Environment) -> Node {
        let mut node = self.node.clone();
        node.for_each_scalar(&mut |scalar| {
            if !scalar.text.contains(self.marks.0) {
                return;
            }
            let (text, replaced) = self.fill(&scalar.text, environment);
            scalar.text = text;
            scalar.from_environment = replaced;
            if scalar.plain && replaced {
                scalar.kind = Kind::of_plain(&scalar.text);
            }
        });
        node
    }

    fn fill(&self, text: &str, environment: &Environment) -> (String, bool) {
        let mut out = String::with_capacity(text.len());
        let mut replaced = false;
        let mut rest = text;
        while let Some((before, marked)) = rest.split_once(self.marks.0) {
            out.push_str(before);
            let (name, after) = marked.split_once(self.marks.1).unwrap_or((marked, ""));
            match environment.get(name) {
                Some(value) => {
                    out.push_str(value);
                    replaced = true;
                }
                None => {
                    out.push_str("${");
                    out.push_str(name);
                    out.push('}');
                }
            }
            rest = after;
        }
        out.push_str(rest);
        (out, replaced)
    }
}

/// The name of the first placeholder left in a text.
pub(super) fn first_placeholder(text: &str) -> Option<&str> {
    next_placeholder(text).map(|(_, name, _)| name)
}

/// Splits at the first `${NAME}`.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("${").map(|at| from + at) {
        let rest = &text[at + 2..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && rest[end..].starts_with('}') {
            return Some((&text[..at], name, &rest[end + 1..]));
        }
        from = at + 2;
    }
    None
}

/// Two private-use characters that the text does not contain; the last ones where it contains
/// them all, which no text of an operator does.
fn unused_marks(text: &str) -> (char, char) {
    let used: std::collections::HashSet<char> =
        text.chars().filter(|c| ('\u{e000}'..='\u{f8ff}').contains(c)).collect();
    let mut free = ('\u{e000}'..='\u{f8ff}').filter(|c| !used.contains(c));
    (free.next().unwrap_or('\u{f8fe}'), free.next().unwrap_or('\u{f8ff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, variables: &[(&str, &str)]) -> String {
        let environment = Environment::of(variables.iter().copied());
        Template::parse(text.as_bytes(), "t").expect("valid").resolve(&environment).to_json().expect("JSON")
    }

    #[test]
    fn placeholders_are_replaced_in_each_scalar() {
        let check = |yaml: &str, variables: &[(&str, &str)], expected: &str| {
            assert_eq!(json(yaml, variables), expected, "{yaml}");
        };
        check("a: ${A}/x", &[("A", "/home")], r#"{"a":"/home/x"}"#);
        check("a: \"${A}${B}\"", &[("A", "1"), ("B", "2")], r#"{"a":"12"}"#);
        check("a: ${A}", &[("A", "8081")], r#"{"a":8081}"#);
        check("a: ${A}", &[("A", "true")], r#"{"a":true}"#);
        check("a: ${A}", &[("A", "")], r#"{"a":null}"#);
        check("a: \"${A}\"", &[("A", "")], r#"{"a":""}"#);
        check("a: ${NOT_SET}", &[], r#"{"a":"${NOT_SET}"}"#);
        check("a: [${A}, ${B}, x]", &[("A", "one")], r#"{"a":["one","${B}","x"]}"#);
        check("{a: ${A}}", &[("A", "7")], r#"{"a":7}"#);
        check("${A}: x", &[("A", "key")], r#"{"key":"x"}"#);
        check("a: $A ${1A} ${} ${A-x} $${A}", &[("A", "v")], r#"{"a":"$A ${1A} ${} ${A-x} $v"}"#);
        check("a: |\n  ${A}\n  b\n", &[("A", "v")], r#"{"a":"v\nb\n"}"#);
        check("a: \u{e000}A\u{e001} ${A}", &[("A", "v")], "{\"a\":\"\u{e000}A\u{e001} v\"}");
    }

    #[test]
    fn a_value_can_not_alter_the_structure() {
        let check = |value: &str, expected: &str| assert_eq!(json("a: ${A}\nb: 1", &[("A", value)]), expected);
        check("x: y", r#"{"a":"x: y","b":1}"#);
        check("x\nc: 3", r#"{"a":"x\nc: 3","b":1}"#);
        check("[1, 2]", r#"{"a":"[1, 2]","b":1}"#);
        check("x # y", r#"{"a":"x # y","b":1}"#);
        check("${B}", r#"{"a":"${B}","b":1}"#);
    }

    #[test]
    fn env_files_add_what_is_not_set() {
        let mut environment = Environment::of([("SET", "process")]);
        let file = "# comment\n\n export A = 1 \nB=\"two words\"\nC='x\"'\nD=a=b\nSET=file\nE=\nF=\"open\n";
        environment.add_file(file).expect("valid");
        environment.add_file("A=again\nG=2").expect("valid");
        let check = |name: &str, value: &str| assert_eq!(environment.get(name), Some(value), "{name}");
        check("A", "1");
        check("B", "two words");
        check("C", "x\"");
        check("D", "a=b");
        check("SET", "process");
        check("E", "");
        check("F", "\"open");
        check("G", "2");
        assert_eq!(environment.filled("E"), None);
    }

    #[test]
    fn a_bad_env_line_adds_nothing() {
        let mut environment = Environment::default();
        assert_eq!(environment.add_file("A=1\nnonsense\n"), Err(2));
        assert_eq!(environment.add_file("=x"), Err(1));
        assert_eq!(environment.get("A"), None);
        assert!(!format!("{:?}", Environment::of([("K", "hunter2")])).contains("hunter2"));
    }
}
