//! Keeps the commented files under configs/ equal to the defaults: a test helper for the three programs.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Compares a file under configs/ with `R::default()`: it loads without a problem, gives exactly the default, and shows
/// every key there is (keys without a value may stand in a comment: `# key: example`). Returns what differs.
pub fn compare<R>(file: &Path) -> Result<(), String>
where
    R: Default + Serialize + DeserializeOwned,
{
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let (loaded, problems) =
        super::load_text::<R>(file, &text).map_err(|problems| problems.to_string())?;
    problems.finish(()).map_err(|problems| problems.to_string())?;
    let json = |value: &R| serde_json::to_value(value).map_err(|e| e.to_string());
    let (loaded, default) = (json(&loaded)?, json(&R::default())?);
    let document = super::yaml::parse(&text).map_err(|error| error.text)?;
    let written = to_json(&document.root);
    let mut differences = Vec::new();
    differ("", &loaded, &default, &mut differences);
    missing("", &default, &written, &text, &mut differences);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

fn to_json(node: &super::yaml::Node) -> Value {
    use super::yaml::Kind;
    match &node.kind {
        Kind::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.value))).collect()
        }
        Kind::Sequence(items) => items.iter().map(to_json).collect(),
        _ => Value::Null,
    }
}

fn differ(path: &str, file: &Value, default: &Value, out: &mut Vec<String>) {
    match (file, default) {
        (Value::Object(file), Value::Object(default)) => {
            for (key, value) in default {
                let path = format!("{path}.{key}");
                differ(&path, file.get(key).unwrap_or(&Value::Null), value, out);
            }
        }
        _ if file == default => {}
        _ => out.push(format!("{path}: the file has {file}, the default is {default}")),
    }
}

fn missing(path: &str, default: &Value, written: &Value, text: &str, out: &mut Vec<String>) {
    let Value::Object(keys) = default else { return };
    for (key, value) in keys {
        let path = format!("{path}.{key}");
        match written.get(key) {
            Some(inner) => missing(&path, value, inner, text, out),
            None if mentioned_in_comment(key, text) && (value.is_null() || empty(value)) => {}
            None => out.push(format!("{path}: not in the file")),
        }
    }
}

fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn mentioned_in_comment(key: &str, text: &str) -> bool {
    text.lines().any(|line| {
        line.trim_start()
            .strip_prefix('#')
            .and_then(|comment| comment.trim_start().trim_start_matches("- ").strip_prefix(key))
            .is_some_and(|rest| rest.starts_with(':'))
    })
}
