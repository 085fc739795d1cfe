//! YAML to JSON, event by event, so that neither aliases nor duplicate keys hide anything: what an alias stands for counts
//! each time, and duplicate keys stay in the text for field validation to see.
//!
//! May import: nothing of ours.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The JSON of a YAML document, at most `max_bytes` long.
///
/// # Errors
/// The text is no YAML, uses tags, or stands for more than `max_bytes` (an alias bomb).
pub fn to_json(yaml: &[u8], max_bytes: usize) -> Result<Vec<u8>, serde_yaml::Error> {
    let mut out = Vec::with_capacity(yaml.len() + yaml.len() / 4);
    Node { out: &mut out, max_bytes }.deserialize(serde_yaml::Deserializer::from_slice(yaml))?;
    Ok(out)
}

/// Writes one node.
struct Node<'o> {
    out: &'o mut Vec<u8>,
    max_bytes: usize,
}

impl Node<'_> {
    fn inner(&mut self) -> Node<'_> {
        Node { out: self.out, max_bytes: self.max_bytes }
    }

    fn put<E: Error>(self, value: &impl serde::Serialize) -> Result<(), E> {
        serde_json::to_writer(&mut *self.out, value).map_err(E::custom)?;
        self.check()
    }

    fn check<E: Error>(&self) -> Result<(), E> {
        if self.out.len() > self.max_bytes { Err(E::custom("the document is too large once its aliases are followed")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value that JSON has too")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.put(&v)
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.put(&v)
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.put(&v)
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        if v.is_finite() { self.put(&v) } else { Err(E::custom("JSON has no such number")) }
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.put(&v)
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.put(&())
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.put(&())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut first = true;
        loop {
            let before = self.out.len();
            if !first {
                self.out.push(b',');
            }
            if seq.next_element_seed(self.inner())?.is_none() {
                self.out.truncate(before);
                self.out.push(b']');
                return self.check();
            }
            first = false;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.out.push(b'{');
        let mut first = true;
        while let Some(Key(key)) = map.next_key::<Key>()? {
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.inner().put::<A::Error>(&key)?;
            self.out.push(b':');
            map.next_value_seed(self.inner())?;
        }
        self.out.push(b'}');
        self.check()
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("tags are not supported"))
    }
}

/// A key; JSON writes those that are numbers or booleans as strings.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Key, E> {
                Ok(Key(v.to_owned()))
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(yaml: &str) -> Result<String, serde_yaml::Error> {
        to_json(yaml.as_bytes(), 10_000).map(|b| String::from_utf8(b).unwrap())
    }

    #[test]
    fn what_manifests_hold() {
        for (yaml, want) in [
            ("a: 1\nb: [x, 'y', 2.5, true, ~, -3]\n", r#"{"a":1,"b":["x","y",2.5,true,null,-3]}"#),
            ("a: {}\nb: []\n", r#"{"a":{},"b":[]}"#),
            ("a: |\n  two\n  lines\n", r#"{"a":"two\nlines\n"}"#),
            ("8080: x\ntrue: y\n", r#"{"8080":"x","true":"y"}"#),
            ("x: &a {k: v}\ny: *a\n", r#"{"x":{"k":"v"},"y":{"k":"v"}}"#),
            ("a: 1\na: 2\n", r#"{"a":1,"a":2}"#),
            (r#"{"json": "too", "n": 1}"#, r#"{"json":"too","n":1}"#),
        ] {
            assert_eq!(json(yaml).unwrap(), want, "{yaml}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut yaml = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 8].join(", ");
            yaml.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(json(&yaml).is_err());
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for yaml in ["a: .inf\n", "a: !tag x\n", "a: [\n", "a: b: c\n", "? [x]\n: y\n", "--- a\n--- b\n"] {
            assert!(json(yaml).is_err(), "{yaml}");
        }
        assert!(to_json(b"a: \xff\xfe", 100).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-c:{}\\[\\]&*!|>'\" \n-]{0,60}") {
            if let Ok(json) = to_json(text.as_bytes(), 1000) {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
            }
        }
    }
}
