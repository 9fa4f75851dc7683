//! JSON as values, with all its repeated names.

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What was read.
pub(super) struct Read {
    /// Nothing where it is no JSON.
    pub(super) value: Option<Value>,
    /// Where something is wrong, and what.
    pub(super) problems: Vec<(String, String)>,
}

/// Reads one JSON text; of a repeated name the last value counts.
pub(super) fn read(bytes: &[u8]) -> Read {
    let mut problems = Vec::new();
    // The parser does not look into strings that it skips.
    if std::str::from_utf8(bytes).is_err() {
        problems.push((String::new(), "it is not UTF-8".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let any = Any { place: String::new(), problems: &mut problems };
    let value = any.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    let value = value
        .map_err(|error| {
            let at = format!("line {} column {}", error.line(), error.column());
            let what = match error.classify() {
                serde_json::error::Category::Eof => "the JSON is cut off",
                _ => "it is not valid JSON",
            };
            problems.push((at, what.to_owned()));
        })
        .ok();
    Read { value, problems }
}

struct Any<'a> {
    place: String,
    problems: &'a mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let place = format!("{}[{}]", self.place, values.len());
            match seq.next_element_seed(Any { place, problems: self.problems })? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = below(&self.place, &key);
            if values.contains_key(&key) {
                if self.problems.len() > 1000 {
                    return Err(A::Error::custom("too many repeated names"));
                }
                self.problems.push((place.clone(), "the name is there twice".to_owned()));
            }
            let value = map.next_value_seed(Any { place, problems: self.problems })?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

/// The path of a member.
pub(super) fn below(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_found_wherever_they_are() {
        let found = read(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#);
        let places: Vec<&str> = found.problems.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["b[0].c", "a"]);
        assert_eq!(found.value, Some(serde_json::json!({ "a": 3, "b": [{ "c": 2 }] })));
    }

    #[test]
    fn what_is_no_json_is_told() {
        for (text, part) in [
            (&b"{"[..], "cut off"),
            (b"{} x", "not valid"),
            (b"", "cut off"),
            (b"[\"\xff\"]", "UTF-8"),
        ] {
            let found = read(text);
            assert!(found.problems.iter().any(|(_, what)| what.contains(part)), "{text:?}");
        }
        assert!(read("[".repeat(100_000).as_bytes()).value.is_none());
    }
}
