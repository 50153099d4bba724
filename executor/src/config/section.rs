//! How a mapping of a file becomes a struct of `raw`: one walk that takes the keys the struct
//! declares, complains of each value of the wrong type, and names every other key as ignored. So the
//! lenient decode and the strict one can not disagree, and both report everything they find.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::units::{Size, Span};
use crate::yaml::{Kind, Node, Value};

/// A key that no part of Ductile reads (`spec/config.md` 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredKey {
    /// The file's own name, without its directory.
    pub file: String,
    pub line: usize,
    pub key: String,
    /// What the section is called, as the reference calls it: `config.PluginConf`.
    pub section: &'static str,
}

impl fmt::Display for IgnoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, section } = self;
        write!(f, "{file}: line {line}: field {key} not found in type {section}")
    }
}

/// What reading one file brought to light.
pub(super) struct Findings {
    path: PathBuf,
    name: String,
    problems: RefCell<Vec<String>>,
    ignored: RefCell<Vec<IgnoredKey>>,
}

impl Findings {
    pub(super) fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { path: path.to_path_buf(), name, problems: RefCell::default(), ignored: RefCell::default() }
    }

    pub(super) fn into_parts(self) -> (Vec<String>, Vec<IgnoredKey>) {
        (self.problems.into_inner(), self.ignored.into_inner())
    }
}

/// One value of a file and where it stands.
pub(super) struct Slot<'a> {
    node: &'a Node,
    /// Keys from the top, joined by points; empty for the file as a whole.
    path: String,
    line: usize,
    findings: &'a Findings,
}

impl<'a> Slot<'a> {
    pub(super) fn of_file(node: &'a Node, findings: &'a Findings) -> Self {
        Self { node, path: String::new(), line: node.line, findings }
    }

    fn child(&self, key: &str, line: usize, node: &'a Node) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { node, path, line, findings: self.findings }
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        Self { node, path: format!("{}[{index}]", self.path), line: node.line, findings: self.findings }
    }

    /// The whole path of the file.
    pub(super) fn file(&self) -> &'a Path {
        &self.findings.path
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// `file: line 3`.
    pub(super) fn place(&self) -> String {
        format!("{}: line {}", self.findings.name, self.line)
    }

    /// A complaint about this value, with the place where it stands.
    pub(super) fn complaint(&self, text: &str) -> String {
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        format!("{}: {path}{text}", self.place())
    }

    fn complain(&self, text: &str) {
        self.findings.problems.borrow_mut().push(self.complaint(text));
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        self.complain(&format!("expected {what}, got {}", self.node.describe()));
        None
    }

    /// Walks a mapping: `take` is given every key with its value and says whether it knows it.
    /// `false` when this is no mapping.
    pub(super) fn section(&self, label: &'static str, mut take: impl FnMut(&str, &Slot<'a>) -> bool) -> bool {
        if self.node.is_null() {
            return false;
        }
        let Value::Map(entries) = &self.node.value else {
            return self.expected::<()>("a mapping").is_some();
        };
        for entry in entries {
            if !take(&entry.key, &self.child(&entry.key, entry.line, &entry.node)) {
                self.findings.ignored.borrow_mut().push(IgnoredKey {
                    file: self.findings.name.clone(),
                    line: entry.line,
                    key: entry.key.clone(),
                    section: label,
                });
            }
        }
        true
    }
}

/// A value that a key can have.
pub(super) trait FromNode: Sized {
    /// `None` for `null`, and after a complaint.
    fn read(slot: &Slot<'_>) -> Option<Self>;

    /// What a key of a free mapping means that has no value.
    fn of_null() -> Option<Self> {
        None
    }

    /// This value and one from a later file, which wins where both speak.
    fn merge(self, later: Self) -> Self {
        later
    }
}

/// A field of a section: a value that may be absent, a list, a free mapping, or something kept.
pub(super) trait Field {
    fn read_into(&mut self, slot: &Slot<'_>);
    fn merge_with(&mut self, later: Self);
}

impl<T: FromNode> Field for Option<T> {
    fn read_into(&mut self, slot: &Slot<'_>) {
        *self = T::read(slot);
    }

    fn merge_with(&mut self, later: Self) {
        *self = match (self.take(), later) {
            (Some(earlier), Some(later)) => Some(earlier.merge(later)),
            (earlier, later) => later.or(earlier),
        };
    }
}

/// Later files append.
impl<T: FromNode> Field for Vec<T> {
    fn read_into(&mut self, slot: &Slot<'_>) {
        match &slot.node.value {
            Value::List(items) => {
                let read = |(index, node)| T::read(&slot.item(index, node)).or_else(T::of_null);
                self.extend(items.iter().enumerate().filter_map(read));
            }
            _ if slot.node.is_null() => {}
            _ => slot.expected::<()>("a list").unwrap_or_default(),
        }
    }

    fn merge_with(&mut self, mut later: Self) {
        self.append(&mut later);
    }
}

/// A later file replaces the whole value of a name.
impl<T: FromNode> Field for BTreeMap<String, T> {
    fn read_into(&mut self, slot: &Slot<'_>) {
        match &slot.node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let read = T::read(&slot.child(&entry.key, entry.line, &entry.node)).or_else(T::of_null);
                    if let Some(value) = read {
                        self.insert(entry.key.clone(), value);
                    }
                }
            }
            _ if slot.node.is_null() => {}
            _ => slot.expected::<()>("a mapping").unwrap_or_default(),
        }
    }

    fn merge_with(&mut self, mut later: Self) {
        self.append(&mut later);
    }
}

/// What another part of the executor reads: every value of the key, in the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Kept(pub Vec<KeptNode>);

/// One value that was kept, and the file it stands in.
#[derive(Debug, Clone)]
pub struct KeptNode {
    pub file: PathBuf,
    pub node: Node,
}

impl Field for Kept {
    fn read_into(&mut self, slot: &Slot<'_>) {
        if !slot.node.is_null() {
            self.0.push(KeptNode { file: slot.findings.path.clone(), node: slot.node.clone() });
        }
    }

    fn merge_with(&mut self, mut later: Self) {
        self.0.append(&mut later.0);
    }
}

/// A value with the place that a complaint about it names: `plugins.yaml: line 12`.
pub(super) struct Placed<T> {
    pub(super) place: String,
    pub(super) value: T,
}

impl<T: FromNode> FromNode for Placed<T> {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        let value = T::read(slot).or_else(|| if slot.node.is_null() { T::of_null() } else { None })?;
        Some(Self { place: slot.place(), value })
    }
}

impl FromNode for String {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        match &slot.node.value {
            Value::Scalar(scalar) if scalar.kind == Kind::Null => None,
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            Value::List(_) | Value::Map(_) => slot.expected("text"),
        }
    }
}

impl FromNode for bool {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        if slot.node.is_null() {
            return None;
        }
        slot.node.scalar().and_then(crate::yaml::Scalar::as_bool).or_else(|| slot.expected("true or false"))
    }
}

impl FromNode for i64 {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        if slot.node.is_null() {
            return None;
        }
        slot.node.scalar().and_then(crate::yaml::Scalar::as_integer).or_else(|| slot.expected("a whole number"))
    }
}

impl FromNode for Span {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        let text = String::read(slot)?;
        Self::parse(&text).map_err(|error| slot.complain(&error.to_string())).ok()
    }
}

impl FromNode for Size {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        let text = String::read(slot)?;
        Self::parse(&text).map_err(|error| slot.complain(&error.to_string())).ok()
    }
}

/// A free-form mapping.
impl FromNode for Node {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        match &slot.node.value {
            _ if slot.node.is_null() => None,
            Value::Map(_) => Some(slot.node.clone()),
            Value::Scalar(_) | Value::List(_) => slot.expected("a mapping"),
        }
    }
}

/// Declares sections: a struct each, whose fields are exactly the keys that are known.
macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident as $label:literal { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        impl $crate::config::section::FromNode for $name {
            fn read(slot: &$crate::config::section::Slot<'_>) -> Option<Self> {
                let mut read = Self::default();
                slot.section($label, |key, slot| {
                    match key {
                        $(stringify!($field) => $crate::config::section::Field::read_into(&mut read.$field, slot),)*
                        _ => return false,
                    }
                    true
                })
                .then_some(read)
            }

            fn of_null() -> Option<Self> {
                Some(Self::default())
            }

            fn merge(mut self, later: Self) -> Self {
                $($crate::config::section::Field::merge_with(&mut self.$field, later.$field);)*
                self
            }
        }
    )*};
}
pub(super) use sections;
