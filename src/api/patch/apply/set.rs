//! Sets of fields, as a trie of path elements: what `fieldsV1` holds.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// `f:name`
    Field(String),
    /// `k:{"name":"a"}`: an item of a list by its keys (canonical JSON).
    Keys(String),
    /// `v:"a"`: an item of a set (JSON).
    Value(String),
    /// `i:0`
    Index(String),
}

impl Element {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let rest = rest.to_owned();
        Some(match kind {
            "f" => Self::Field(rest),
            "k" => Self::Keys(rest),
            "v" => Self::Value(rest),
            "i" => Self::Index(rest),
            _ => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Keys(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(at) => format!("i:{at}"),
        }
    }

    /// As paths show it: `.name`, `[name="a",port=80]`, `[="a"]`, `[0]`.
    fn shown(&self) -> String {
        match self {
            Self::Field(name) => format!(".{name}"),
            Self::Keys(keys) => match serde_json::from_str::<Map<String, Value>>(keys) {
                Ok(keys) => format!("[{}]", keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
                Err(_) => format!("[{keys}]"),
            },
            Self::Value(value) => format!("[={value}]"),
            Self::Index(at) => format!("[{at}]"),
        }
    }
}

/// A set of paths below one place, which may itself be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub member: bool,
    pub children: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// No path is in it. (Branches without members are never kept.)
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn put(&mut self, element: Element, child: FieldSet) {
        if !child.is_empty() {
            self.children.entry(element).or_default().union(&child);
        }
    }

    pub fn union(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().union(child);
        }
    }

    /// Takes out the very paths of `other`, not what lies below them.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (element, theirs) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.subtract(theirs);
                if mine.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (element, mine) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.put(element.clone(), mine.intersection(theirs));
            }
        }
        out
    }

    /// True if every path of it is in `other`.
    pub fn within(&self, other: &FieldSet) -> bool {
        (!self.member || other.member) && self.children.iter().all(|(e, c)| other.children.get(e).is_some_and(|o| c.within(o)))
    }

    /// Takes out a field with all that lies below it.
    pub fn remove_field(&mut self, name: &str) {
        self.children.remove(&Element::Field(name.to_owned()));
    }

    /// The paths, as conflicts show them.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, at: &mut String, out: &mut Vec<String>) {
        if self.member && !at.is_empty() {
            out.push(at.clone());
        }
        for (element, child) in &self.children {
            let length = at.len();
            at.push_str(&element.shown());
            child.collect(at, out);
            at.truncate(length);
        }
    }

    /// The `fieldsV1` of the set.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        if self.member && !self.children.is_empty() {
            out.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            out.insert(element.text(), child.to_json());
        }
        Value::Object(out)
    }

    /// Reads a `fieldsV1`; what is no path element is dropped.
    pub fn from_json(fields: &Value) -> Self {
        let mut out = Self::default();
        for (key, value) in fields.as_object().into_iter().flatten() {
            if key == "." {
                out.member = true;
            } else if let Some(element) = Element::parse(key) {
                let mut child = Self::from_json(value);
                // A path that leads nowhere further is itself in the set.
                child.member |= child.children.is_empty();
                out.put(element, child);
            }
        }
        out
    }
}
