//! `--payload JSON | --payload-file FILE`: what a job is given.

use std::path::Path;

use super::args::{Args, Flag};
use super::output::Failure;

pub(super) const JSON: Flag = Flag::value("payload", "JSON", "A JSON object for the plugin");
pub(super) const FILE: Flag = Flag::value("payload-file", "FILE", "A file with that object");

/// The payload as it was given, once it is known to be a JSON object.
///
/// # Errors
/// The texts of `spec/cli.md` 5.2.
pub(super) fn given(args: &Args) -> Result<Option<String>, Failure> {
    let text = match (args.text("payload")?, args.path("payload-file")) {
        (Some(_), Some(_)) => return Err(Failure::new("Error: use only one of --payload or --payload-file")),
        (None, None) => return Ok(None),
        (Some(text), None) => text.to_owned(),
        (None, Some(path)) => read(path)?,
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(_)) => Ok(Some(text)),
        Ok(_) => Err(Failure::new("Error: payload must be a JSON object")),
        Err(_) => Err(Failure::new("Error: payload must be valid JSON")),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let bytes =
        std::fs::read(path).map_err(|error| Failure::because(&format!("Error: read {}", path.display()), &error))?;
    String::from_utf8(bytes).map_err(|_| Failure::new("Error: payload must be valid JSON"))
}
