//! The tree out of the library's events, in two passes over one text: the first finds structure,
//! types and places, the second the spelling of numbers, which the first can not see. Places come
//! from the slices that the library lends: a borrowed text lies in the document itself.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess};
use serde::de::{VariantAccess, Visitor};

use super::node::{Entry, Kind, Node, Scalar, Value};

/// Builds the tree of one document of at most `max_values` values.
pub(super) fn build(text: &str, max_values: usize) -> Result<Node, serde_yaml::Error> {
    let document = Document::new(text, max_values);
    let mut node = Build { document: &document, line: 1 }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    if document.unspelled.get() {
        Spell(&mut node).deserialize(serde_yaml::Deserializer::from_str(text))?;
    }
    if document.merges.get() {
        node.merge_keys().map_err(serde_yaml::Error::custom)?;
    }
    Ok(node)
}

/// What the first pass knows of the text as a whole.
struct Document<'t> {
    text: &'t str,
    newlines: Vec<usize>,
    values_left: Cell<usize>,
    /// A scalar was met whose spelling only the second pass sees.
    unspelled: Cell<bool>,
    /// A merge key was met.
    merges: Cell<bool>,
}

impl<'t> Document<'t> {
    fn new(text: &'t str, max_values: usize) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        Self {
            text,
            newlines,
            values_left: Cell::new(max_values),
            unspelled: Cell::new(false),
            merges: Cell::new(false),
        }
    }

    /// Where a borrowed slice begins in the text.
    fn offset(&self, slice: &str) -> Option<usize> {
        let offset = slice.as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        (offset <= self.text.len()).then_some(offset)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.newlines.partition_point(|newline| *newline < offset)
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        match self.values_left.get().checked_sub(1) {
            Some(left) => {
                self.values_left.set(left);
                Ok(())
            }
            None => Err(E::custom("stands for too many values")),
        }
    }
}

/// Reads the next value of the document; `line` is that of the nearest key before it.
#[derive(Clone, Copy)]
struct Build<'d, 't> {
    document: &'d Document<'t>,
    line: usize,
}

impl Build<'_, '_> {
    fn scalar<E: Error>(self, kind: Kind) -> Result<Node, E> {
        self.document.count()?;
        self.document.unspelled.set(true);
        Ok(Node { line: self.line, value: Value::Scalar(Scalar::new(kind, String::new(), true)) })
    }

    fn text<E: Error>(self, text: &str, plain: bool, line: usize) -> Result<Node, E> {
        self.document.count()?;
        Ok(Node { line, value: Value::Scalar(Scalar::new(Kind::Text, text.to_owned(), plain)) })
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_, '_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.scalar(Kind::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        // Nothing to spell: the document is empty.
        Ok(Node { line: self.line, value: Value::Scalar(Scalar::new(Kind::Null, String::new(), true)) })
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
        self.scalar(Kind::Bool)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node, E> {
        self.scalar(Kind::Integer)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Node, E> {
        self.scalar(Kind::Integer)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Node, E> {
        self.scalar(Kind::Integer)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Node, E> {
        self.scalar(Kind::Integer)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
        self.scalar(Kind::Float)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        // Escapes, folds or several lines: where it stands is not known, and it is never retyped.
        self.text(text, false, self.line)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Node, E> {
        let Some(offset) = self.document.offset(text) else { return self.visit_str(text) };
        let before = offset.checked_sub(1).and_then(|at| self.document.text.as_bytes().get(at));
        self.text(text, !matches!(before, Some(b'"' | b'\'')), self.document.line(offset))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        self.document.count()?;
        let mut items = Vec::new();
        let mut line = self.line;
        while let Some(item) = list.next_element_seed(Build { line, ..self })? {
            line = item.last_line();
            items.push(item);
        }
        let line = items.first().map_or(self.line, |item| item.line);
        Ok(Node { line, value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        self.document.count()?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut near = self.line;
        while let Some((key, line)) = map.next_key_seed(Key { document: self.document, line: near })? {
            if key == "<<" {
                self.document.merges.set(true);
            }
            let node = map.next_value_seed(Build { line, ..self })?;
            near = node.last_line();
            entries.push(Entry { key, line, node });
        }
        let mut order: Vec<&Entry> = entries.iter().collect();
        order.sort_by(|a, b| a.key.cmp(&b.key).then(a.line.cmp(&b.line)));
        if let Some(pair) = order.windows(2).find(|pair| pair[0].key == pair[1].key) {
            let (first, again) = (pair[0], pair[1]);
            return Err(A::Error::custom(format!(
                "mapping key {} of line {} already defined at line {}",
                super::quoted(&first.key),
                again.line,
                first.line
            )));
        }
        let line = entries.first().map_or(self.line, |entry| entry.line);
        Ok(Node { line, value: Value::Map(entries) })
    }

    /// A tag of the writer's own: what it stands on counts, as in the reference.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (_, variant) = tagged.variant::<String>()?;
        variant.newtype_variant_seed(self)
    }
}

/// A key and its line. Keys that are lists or mappings are refused by the type asked for.
struct Key<'d, 't> {
    document: &'d Document<'t>,
    line: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = (String, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = (String, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok((text.to_owned(), self.line))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        let line = self.document.offset(text).map_or(self.line, |offset| self.document.line(offset));
        Ok((text.to_owned(), line))
    }
}

/// The second pass: the same walk, asking for every scalar as text.
struct Spell<'n>(&'n mut Node);

impl<'de> DeserializeSeed<'de> for Spell<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.0.value {
            Value::Scalar(scalar) if scalar.kind == Kind::Text => {
                deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ())
            }
            Value::Scalar(_) => deserializer.deserialize_str(self),
            Value::List(_) => deserializer.deserialize_seq(self),
            Value::Map(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Spell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of the first pass")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if let Value::Scalar(scalar) = &mut self.0.value {
            text.clone_into(&mut scalar.text);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Value::List(items) = &mut self.0.value {
            for item in items {
                list.next_element_seed(Spell(item))?;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Value::Map(entries) = &mut self.0.value {
            for entry in entries {
                map.next_key::<IgnoredAny>()?;
                map.next_value_seed(Spell(&mut entry.node))?;
            }
        }
        Ok(())
    }
}
