//! JSON of which every reader makes the same: no key comes twice in an object.

use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess,
};

/// Parses JSON that has no key twice in any object.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Walk.deserialize(&mut deserializer)?;
    deserializer.end()?;
    serde_json::from_slice(bytes)
}

/// Goes through a value of any kind.
struct Walk;

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Self)?;
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("key {key:?} comes twice")));
            }
            seen.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn keys_come_once() {
        for text in ["{\"a\":1,\"b\":[{\"a\":null}]}", "[]", "1.5", "\"x\"", "-3", "true"] {
            parse::<Value>(text.as_bytes()).unwrap();
        }
        for text in ["{\"a\":1,\"a\":1}", "[{\"x\":{\"a\":1,\"\\u0061\":2}}]"] {
            let error = parse::<Value>(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("key \"a\" comes twice"), "{error}");
        }
        for text in ["", "{} {}", "{", "[1,]"] {
            parse::<Value>(text.as_bytes()).unwrap_err();
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        parse::<Value>(deep.as_bytes()).unwrap_err();
    }
}
