//! From the tree to a structure, finding all problems instead of the first.
//!
//! serde stops at the first error. So: deserialize, note the error, leave out the value it is about, and again, until it
//! succeeds or nothing is left to leave out. The structures' defaults stand in for what was left out; a required value
//! that was left out makes its parent be left out too, without a second message.
//! Invariant: each round leaves out one more path, so the loop ends after at most `ROUNDS_MAX` rounds.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::path::{Path, Step};
use super::problems::Problems;
use super::suggest::hint;
use super::yaml::{Entry, Kind, Node};

const ROUNDS_MAX: usize = 200;

pub(super) fn deserialize<R: DeserializeOwned>(problems: &mut Problems) -> Option<R> {
    for _ in 0..ROUNDS_MAX {
        let root = &problems.document.root;
        let walk = Walk { node: root, path: Path::default(), skipped: &problems.skipped };
        let fault = match R::deserialize(walk) {
            Ok(raw) => return Some(raw),
            Err(fault) => fault,
        };
        let path = fault.path.unwrap_or_default();
        match fault.kind {
            FaultKind::UnknownKey { text } => {
                let position = root.position_of_key(&path);
                problems.push(position, path.to_string(), text);
            }
            FaultKind::Missing { field } => {
                if !problems.skipped.contains(&path.key(field)) {
                    let position = root.position_of(&path);
                    let text = "missing; it has no default".to_owned();
                    problems.push(position, path.key(field).to_string(), text);
                }
            }
            FaultKind::Value { text } => {
                let position = root.position_of(&path);
                problems.push(position, path.to_string(), text);
            }
        }
        if path.is_root() || problems.skipped.contains(&path) {
            return None;
        }
        problems.skipped.push(path);
    }
    None
}

#[derive(Debug)]
struct WalkError {
    /// Set by the innermost value that the error passes.
    path: Option<Path>,
    kind: FaultKind,
}

#[derive(Debug)]
enum FaultKind {
    UnknownKey { text: String },
    Missing { field: &'static str },
    Value { text: String },
}

impl WalkError {
    fn value(text: impl Into<String>) -> WalkError {
        WalkError { path: None, kind: FaultKind::Value { text: text.into() } }
    }

    fn or_at(mut self, path: &Path) -> WalkError {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for WalkError {}

impl serde::de::Error for WalkError {
    fn custom<T: fmt::Display>(message: T) -> WalkError {
        let text = message.to_string();
        WalkError::value(match text.as_str() {
            "invalid socket address syntax" => {
                "this is not an address; write IP:PORT, for example 127.0.0.1:9092".to_owned()
            }
            "invalid IP address syntax" => {
                "this is not an IP address; write one such as 127.0.0.1".to_owned()
            }
            _ => text,
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> WalkError {
        WalkError::value(format!("{}; write {}", describe(found), wanted(expected)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> WalkError {
        <WalkError as serde::de::Error>::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> WalkError {
        let choices = expected.join(", ");
        WalkError::value(match super::suggest::nearest(variant, expected) {
            Some(name) => format!("`{variant}` is not one of {choices}; did you mean `{name}`?"),
            None => format!("`{variant}` is not one of {choices}"),
        })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> WalkError {
        let text = format!("unknown key{}", hint(field, expected));
        WalkError { path: None, kind: FaultKind::UnknownKey { text } }
    }

    fn missing_field(field: &'static str) -> WalkError {
        WalkError { path: None, kind: FaultKind::Missing { field } }
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("`{text}` is text"),
        Unexpected::Unsigned(n) => format!("{n} is a number"),
        Unexpected::Signed(n) => format!("{n} is a number"),
        Unexpected::Float(n) => format!("{n} is a number"),
        Unexpected::Bool(value) => format!("{value} is a boolean"),
        Unexpected::Unit => "there is no value".to_owned(),
        Unexpected::Seq => "this is a list".to_owned(),
        Unexpected::Map => "this is a mapping".to_owned(),
        other => format!("this is {other}"),
    }
}

/// serde names Rust's types; people need the values.
fn wanted(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let range = match name.as_str() {
        "u8" => "0 to 255".to_owned(),
        "u16" => "0 to 65535".to_owned(),
        "u32" => format!("0 to {}", u32::MAX),
        "u64" | "usize" => "0 upwards".to_owned(),
        "i16" => format!("{} to {}", i16::MIN, i16::MAX),
        "i32" => format!("{} to {}", i32::MIN, i32::MAX),
        "i64" => return "a whole number".to_owned(),
        "a boolean" => return "true or false".to_owned(),
        "a string" | "a borrowed string" => return "a text".to_owned(),
        "a sequence" => return "a list such as [a, b]".to_owned(),
        _ if name.starts_with("struct ") => return "a mapping of keys to values".to_owned(),
        _ => return name,
    };
    format!("a whole number, {range}")
}

/// One node on the way.
struct Walk<'a> {
    node: &'a Node,
    path: Path,
    skipped: &'a [Path],
}

impl<'a> Walk<'a> {
    fn entries(self, entries: &'a [Entry]) -> WalkMap<'a> {
        WalkMap { entries: entries.iter(), value: None, path: self.path, skipped: self.skipped }
    }

    fn items(self, items: &'a [Node]) -> WalkItems<'a> {
        WalkItems { items: items.iter().enumerate(), path: self.path, skipped: self.skipped }
    }
}

impl<'de> Deserializer<'de> for Walk<'de> {
    type Error = WalkError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value, _) => visitor.visit_bool(*value),
            Kind::Unsigned(value, _) => visitor.visit_u64(*value),
            Kind::Signed(value, _) => visitor.visit_i64(*value),
            Kind::Float(value, _) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_borrowed_str(text),
            Kind::Sequence(items) => visitor.visit_seq(self.items(items)),
            Kind::Mapping(entries) => visitor.visit_map(self.entries(entries)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            // Where a text is wanted, `12` and `true` are texts as well.
            Kind::Bool(_, text)
            | Kind::Unsigned(_, text)
            | Kind::Signed(_, text)
            | Kind::Float(_, text) => visitor.visit_borrowed_str(text),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            // A list whose items are all commented out.
            Kind::Null => visitor.visit_seq(self.items(&[])),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            // A section whose keys are all commented out.
            Kind::Null => visitor.visit_map(self.entries(&[])),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            // serde's structures accept lists of values too; a configuration does not.
            Kind::Sequence(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        match &self.node.kind {
            Kind::Bool(_, text)
            | Kind::Unsigned(_, text)
            | Kind::Signed(_, text)
            | Kind::Float(_, text)
            | Kind::Text(text) => {
                let variant: StrDeserializer<'_, WalkError> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            Kind::Mapping(entries) => {
                visitor.visit_enum(MapAccessDeserializer::new(self.entries(entries)))
            }
            Kind::Null | Kind::Sequence(_) => {
                let null = matches!(self.node.kind, Kind::Null);
                let found = describe(if null { Unexpected::Unit } else { Unexpected::Seq });
                Err(WalkError::value(format!("{found}; write {}", variants.join(" or "))))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

struct WalkMap<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
    path: Path,
    skipped: &'a [Path],
}

impl<'de> MapAccess<'de> for WalkMap<'de> {
    type Error = WalkError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, WalkError> {
        for entry in self.entries.by_ref() {
            let path = self.path.key(&entry.key);
            if self.skipped.contains(&path) {
                continue;
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, WalkError> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some).map_err(|fault| fault.or_at(&path));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, WalkError> {
        let Some(entry) = self.value.take() else {
            return Err(WalkError::value("a value was asked for before its key"));
        };
        let path = self.path.key(&entry.key);
        let walk = Walk { node: &entry.value, path: path.clone(), skipped: self.skipped };
        seed.deserialize(walk).map_err(|fault| fault.or_at(&path))
    }
}

struct WalkItems<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    path: Path,
    skipped: &'a [Path],
}

impl<'de> SeqAccess<'de> for WalkItems<'de> {
    type Error = WalkError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, WalkError> {
        for (index, node) in self.items.by_ref() {
            let path = self.path.child(Step::Index(index));
            if self.skipped.contains(&path) {
                continue;
            }
            let walk = Walk { node, path: path.clone(), skipped: self.skipped };
            return seed.deserialize(walk).map(Some).map_err(|fault| fault.or_at(&path));
        }
        Ok(None)
    }
}
