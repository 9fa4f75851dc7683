//! How two JSON documents differ, member by member.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A member that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    /// Where it is, as `config.Labels.version`.
    pub field: String,
    /// What the first has; `None` where it has none.
    pub a: Option<Value>,
    /// What the second has.
    pub b: Option<Value>,
}

/// How manifests differ, but for their layers.
pub(super) fn manifests(a: &Value, b: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let (mut a, mut b) = (a.clone(), b.clone());
    for value in [&mut a, &mut b] {
        take(value, "layers");
    }
    differ("", Some(&a), Some(&b), &mut changes);
    changes
}

/// How configs differ, but for the diff IDs, which layers stand for. The environment is compared by
/// variables; of the history the steps after those that both begin with, whenever they were made.
pub(super) fn configs(a: &Value, b: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let (mut a, mut b) = (a.clone(), b.clone());
    let mut histories = Vec::new();
    for value in [&mut a, &mut b] {
        take(value, "rootfs");
        histories.push(match take(value, "history") {
            Some(Value::Array(steps)) => steps,
            _ => Vec::new(),
        });
        if let Some(env) = value.pointer_mut("/config/Env") {
            *env = variables(env);
        }
    }
    differ("", Some(&a), Some(&b), &mut changes);
    if let [first, second] = histories.as_slice() {
        history(first, second, &mut changes);
    }
    changes
}

fn take(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut()?.remove(key)
}

/// An environment as an object; anything odd as it is.
fn variables(env: &Value) -> Value {
    let Value::Array(values) = env else { return env.clone() };
    let pairs = values.iter().map(|value| {
        let (name, value) = value.as_str()?.split_once('=')?;
        Some((name.to_owned(), Value::from(value)))
    });
    pairs.collect::<Option<Map<_, _>>>().map_or_else(|| env.clone(), Value::Object)
}

fn differ(place: &str, a: Option<&Value>, b: Option<&Value>, changes: &mut Vec<FieldChange>) {
    if a == b {
        return;
    }
    let empty = Map::new();
    let object = |value: Option<&Value>| match value {
        Some(Value::Object(object)) => Some(object.clone()),
        // Builders write null for what they do not set.
        None | Some(Value::Null) => Some(empty.clone()),
        Some(_) => None,
    };
    let is_object = |value: Option<&Value>| value.is_some_and(Value::is_object);
    if (is_object(a) || is_object(b))
        && let (Some(a), Some(b)) = (object(a), object(b))
        && !(a.is_empty() && b.is_empty())
    {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            differ(&place, a.get(key), b.get(key), changes);
        }
        return;
    }
    changes.push(FieldChange { field: place.to_owned(), a: a.cloned(), b: b.cloned() });
}

fn history(a: &[Value], b: &[Value], changes: &mut Vec<FieldChange>) {
    let same = |a: &Value, b: &Value| {
        let (mut a, mut b) = (a.clone(), b.clone());
        take(&mut a, "created");
        take(&mut b, "created");
        a == b
    };
    let shared = a.iter().zip(b).take_while(|(a, b)| same(a, b)).count();
    for at in shared..a.len().max(b.len()) {
        let (a, b) = (a.get(at).cloned(), b.get(at).cloned());
        let is_same = a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| same(a, b));
        if !is_same {
            changes.push(FieldChange { field: format!("history[{at}]"), a, b });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_told_by_their_places() {
        let a = json!({
            "os": "linux",
            "config": { "Env": ["A=1", "B=2"], "Labels": null, "Cmd": ["sh"] },
            "history": [{ "created": "x", "created_by": "1" }, { "created_by": "2" }],
            "rootfs": { "diff_ids": ["1"] },
        });
        let b = json!({
            "os": "linux",
            "config": { "Env": ["B=3", "A=1"], "Labels": { "x": "y" }, "Cmd": ["sh", "-c"] },
            "history": [{ "created": "y", "created_by": "1" }, { "created_by": "3" }],
            "rootfs": { "diff_ids": ["2"] },
        });
        let changes = configs(&a, &b);
        let places: Vec<&str> = changes.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(places, ["config.Cmd", "config.Env.B", "config.Labels.x", "history[1]"]);
        assert_eq!(changes[2].a, None);
        assert_eq!(configs(&a, &a), []);
        assert_eq!(configs(&json!({}), &json!({ "config": {} })).len(), 1);
    }
}
