//! The one file that touches YAML: text -> a tree of values with positions, and structures -> text.
//!
//! The tree's shape and positions come from an event parser; what a plain scalar means (number, boolean, null or text) is
//! serde_yaml's decision. Invariants: positions count from 1; at most `NODES_MAX` nodes (so aliases cannot explode) and
//! `DEPTH_MAX` levels; of a duplicate key the first is kept and each repetition is a fault.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::path::{Path, Step};

const NODES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 32;

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl From<&Marker> for Position {
    fn from(marker: &Marker) -> Position {
        Position { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// The text is not YAML, or not the part of YAML that a configuration may use.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) text: String,
}

/// Wrong, but the rest of the document is still good.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) position: Position,
    pub(super) path: Path,
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Node,
    pub(super) faults: Vec<Fault>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool, String),
    Unsigned(u64, String),
    Signed(i64, String),
    Float(f64, String),
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) value: Node,
}

impl Document {
    pub(super) fn empty() -> Document {
        let position = Position { line: 1, column: 1 };
        Document { root: Node { position, kind: Kind::Null }, faults: Vec::new() }
    }
}

impl Node {
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries =
            if let Kind::Mapping(entries) = &self.kind { entries.as_slice() } else { &[] };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// The value at `path`.
    pub(super) fn find(&self, path: &Path) -> Option<&Node> {
        path.steps().iter().try_fold(self, |node, step| match (step, &node.kind) {
            (Step::Key(key), Kind::Mapping(entries)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.value)
            }
            (Step::Index(index), Kind::Sequence(items)) => items.get(*index),
            _ => None,
        })
    }

    /// Where the value at `path` is written: a scalar's own place, a collection's key; else the nearest above.
    pub(super) fn position_of(&self, path: &Path) -> Position {
        let mut node = self;
        let mut position = self.position;
        for step in path.steps() {
            match (step, &node.kind) {
                (Step::Key(key), Kind::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    node = &entry.value;
                    position = match node.kind {
                        Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) => entry.position,
                        _ => node.position,
                    };
                }
                (Step::Index(index), Kind::Sequence(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    node = item;
                    position = item.position;
                }
                _ => break,
            }
        }
        position
    }

    /// Where the key at the end of `path` is written.
    pub(super) fn position_of_key(&self, path: &Path) -> Position {
        let mut node = self;
        let mut position = self.position;
        for step in path.steps() {
            match (step, &node.kind) {
                (Step::Key(key), Kind::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    (node, position) = (&entry.value, entry.position);
                }
                (Step::Index(index), Kind::Sequence(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    (node, position) = (item, item.position);
                }
                _ => break,
            }
        }
        position
    }
}

/// As the value that it is, keys in their order.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Bool(value, _) => serializer.serialize_bool(*value),
            Kind::Unsigned(value, _) => serializer.serialize_u64(*value),
            Kind::Signed(value, _) => serializer.serialize_i64(*value),
            Kind::Float(value, _) => serializer.serialize_f64(*value),
            Kind::Text(text) => serializer.serialize_str(text),
            Kind::Sequence(items) => serializer.collect_seq(items),
            Kind::Mapping(entries) => {
                serializer.collect_map(entries.iter().map(|entry| (&entry.key, &entry.value)))
            }
        }
    }
}

/// A structure as YAML text.
pub fn to_yaml<T: Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

/// Reads the first (and only) document of `text`.
pub(super) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: Vec::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::Nothing | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if root.is_some() => {
                return Err(error(
                    &span.start,
                    "a second document begins here; a configuration is one",
                ));
            }
            event => root = Some(builder.node(event, &span, &Path::default())?),
        }
    }
    let mut document = Document::empty();
    if let Some(root) = root {
        document.root = root;
    }
    if !matches!(document.root.kind, Kind::Null | Kind::Mapping(_)) {
        let text = "the file must be a mapping of keys to values, such as `logging:`".to_owned();
        return Err(SyntaxError { position: document.root.position, text });
    }
    document.faults = builder.faults;
    Ok(document)
}

fn error(marker: &Marker, text: impl Into<String>) -> SyntaxError {
    SyntaxError { position: marker.into(), text: text.into() }
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(fault)) => {
                Err(error(fault.marker(), format!("this is not valid YAML: {}", fault.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, nodes: usize, marker: &Marker) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(error(marker, format!("more than {NODES_MAX} values in one file")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: &Span, path: &Path) -> Result<Node, SyntaxError> {
        self.count(1, &span.start)?;
        if path.steps().len() > DEPTH_MAX {
            return Err(error(&span.start, format!("more than {DEPTH_MAX} levels deep")));
        }
        let position = Position::from(&span.start);
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let as_text = style != ScalarStyle::Plain
                    || tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                (anchor, if as_text { Kind::Text(text.into_owned()) } else { plain(&text) })
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(path)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(path)?),
            Event::Alias(anchor) => {
                let known = self.anchors.iter().rev().find(|(id, _)| *id == anchor);
                let Some((_, node)) = known.cloned() else {
                    return Err(error(&span.start, "this alias contains itself"));
                };
                self.count(size(&node), &span.start)?;
                return Ok(Node { position, kind: node.kind });
            }
            other => return Err(error(&span.start, format!("unexpected {other:?}"))),
        };
        let node = Node { position, kind };
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn sequence(&mut self, path: &Path) -> Result<Kind, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Kind::Sequence(items));
            }
            let item = self.node(event, &span, &path.child(Step::Index(items.len())))?;
            items.push(item);
        }
    }

    fn mapping(&mut self, path: &Path) -> Result<Kind, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Kind::Mapping(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(error(
                        &span.start,
                        "a key must be a word, not a list or a mapping",
                    ));
                }
            };
            let position = Position::from(&span.start);
            let path = path.key(&key);
            let (event, span) = self.next()?;
            let value = self.node(event, &span, &path)?;
            match entries.iter().find(|entry| entry.key == key) {
                None => entries.push(Entry { key, position, value }),
                Some(first) => {
                    let line = first.position.line;
                    let text = format!("given twice (first on line {line}); keep one of them");
                    self.faults.push(Fault { position, path, text });
                }
            }
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Sequence(items) => items.iter().map(size).sum(),
        Kind::Mapping(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        _ => 0,
    }
}

/// What an unquoted scalar means.
fn plain(text: &str) -> Kind {
    let kept = text.to_owned();
    match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Null) if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Kind::Null,
        Ok(Value::Bool(value)) => Kind::Bool(value, kept),
        Ok(Value::Number(number)) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => Kind::Unsigned(value, kept),
            (_, Some(value), _) => Kind::Signed(value, kept),
            (.., Some(value)) => Kind::Float(value, kept),
            _ => Kind::Text(kept),
        },
        _ => Kind::Text(kept),
    }
}
