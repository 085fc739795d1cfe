//! Which fields of a JSON document are given twice: serde takes the last one without a word.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Objects with fewer fields are searched one by one; hashing pays off only beyond.
const FEW: usize = 16;

/// Paths (`spec.containers[0].name`) of fields that occur more than once, in document order, each once. A document that
/// is no JSON has none.
pub fn duplicates(json: &[u8]) -> Vec<String> {
    let (mut path, mut found) = (Vec::new(), Vec::new());
    let mut de = serde_json::Deserializer::from_slice(json);
    let scan = Scan { path: &mut path, found: &mut found };
    match scan.deserialize(&mut de) {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

enum Step<'de> {
    Key(Cow<'de, str>),
    Index(usize),
}

struct Scan<'s, 'de> {
    path: &'s mut Vec<Step<'de>>,
    found: &'s mut Vec<String>,
}

/// A key, borrowed from the document unless it holds escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(v)))
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The keys of one object so far.
#[derive(Default)]
struct Seen<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Seen<'de> {
    /// False if the key was there.
    fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

impl Scan<'_, '_> {
    fn report(&mut self) {
        let mut text = String::new();
        for step in self.path.iter() {
            match step {
                Step::Index(i) => text.push_str(&format!("[{i}]")),
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
            }
        }
        if !self.found.contains(&text) {
            self.found.push(text);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Seen::default();
        while let Some(Key(key)) = map.next_key()? {
            self.path.push(Step::Key(key.clone()));
            if !seen.insert(key) {
                self.report();
            }
            map.next_value_seed(Scan { path: self.path, found: self.found })?;
            self.path.pop();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            self.path.push(Step::Index(index));
            let more = seq.next_element_seed(Scan { path: self.path, found: self.found })?;
            self.path.pop();
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_client_gos() {
        let json = br#"{"spec":{"replicas":1,"replicas":2,"replicas":3,"template":{"spec":{"containers":[{"name":"a"},
            {"name":"b","name":"c"}]}}},"metadata":{"labels":{"a":"1","\u0061":"2"}},"spec":{}}"#;
        assert_eq!(duplicates(json), ["spec.replicas", "spec.template.spec.containers[1].name", "metadata.labels.a", "spec"]);
        assert!(duplicates(br#"{"a":[{"b":1},{"b":2}],"c":{"a":null,"b":1.5,"d":true}}"#).is_empty());
        assert!(duplicates(b"{").is_empty());
    }

    proptest! {
        #[test]
        fn the_last_of_many_is_found(count in 1usize..64, twice in 0usize..64) {
            let twice = twice % count;
            let fields: Vec<String> = (0..count).chain([twice]).map(|i| format!("\"k{i}\":{i}")).collect();
            let json = format!("{{{}}}", fields.join(","));
            prop_assert_eq!(duplicates(json.as_bytes()), vec![format!("k{twice}")]);
        }
    }
}
