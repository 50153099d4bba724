//! `plugin_state`, `plugin_facts` and the sequence that orders facts (`spec/plugins.md` 10).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::value::RawValue;

use super::rows::ManyRows;
use super::write::{FactRule, StateUpdate};

/// Bytes that a plugin's state may have.
const MAX_STATE: usize = 1_048_576;

type Object<'a> = BTreeMap<String, &'a RawValue>;

static FACTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO plugin_facts (id, seq, plugin_name, fact_type, job_id, command, fact_json, created_at)",
        "(?,?,?,?,?,?,?,?)",
    )
});

/// Why a state update can not be stored; the text becomes the job's error.
pub(super) type RefusalText = String;

/// What an update will store, worked out before anything of the completion is written.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    update: &'a StateUpdate,
    /// The plugin's new state; `None` leaves it alone.
    state: Option<String>,
}

/// Checks an update against the rules and the stored state.
pub(super) fn plan<'a>(
    connection: &Connection,
    update: &'a StateUpdate,
) -> rusqlite::Result<Result<Option<Plan<'a>>, RefusalText>> {
    let Ok(updates) = serde_json::from_str::<Object<'_>>(&update.updates_json) else {
        return Ok(Err("state_updates is not a JSON object".to_owned()));
    };
    if updates.is_empty() {
        return Ok(Ok(None));
    }
    if update.facts.len() != update.fact_ids.len() {
        return Ok(Err("state update has not one id for each fact".to_owned()));
    }
    let state = if update.facts.is_empty() {
        match merged(stored(connection, &update.plugin)?.as_deref(), updates) {
            Some(state) => Some(state),
            None => return Ok(Err(invalid_stored(&update.plugin))),
        }
    } else if update.facts.iter().any(|rule| rule.mirror) {
        Some(update.updates_json.clone())
    } else {
        None
    };
    match state.map(within_limit).transpose() {
        Ok(state) => Ok(Ok(Some(Plan { update, state }))),
        Err(text) => Ok(Err(text)),
    }
}

impl Plan<'_> {
    pub(super) fn store(&self, connection: &Connection, job_id: &str, now: &str) -> rusqlite::Result<()> {
        let update = self.update;
        if !update.facts.is_empty() {
            let last = take_sequence(connection, update.facts.len())?;
            let first = last - i64::try_from(update.facts.len()).unwrap_or(i64::MAX) + 1;
            let facts: Vec<(i64, &FactRule, &String)> = (first..)
                .zip(update.facts.iter().zip(&update.fact_ids))
                .map(|(seq, (rule, id))| (seq, rule, id))
                .collect();
            FACTS.insert(connection, &facts, |(seq, rule, id), binder| {
                binder.push(id)?;
                binder.push(seq)?;
                binder.push(&update.plugin)?;
                binder.push(&rule.fact_type)?;
                binder.push(job_id)?;
                binder.push(&update.command)?;
                binder.push(&update.updates_json)?;
                binder.push(now)
            })?;
        }
        if let Some(state) = &self.state {
            let mut statement = connection.prepare_cached(
                "INSERT INTO plugin_state (plugin_name, state, updated_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT(plugin_name) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at",
            )?;
            statement.execute(params![update.plugin, state, now])?;
        }
        Ok(())
    }
}

/// The plugin's state as it is stored; `None` when it has none.
pub(super) fn stored(connection: &Connection, plugin: &str) -> rusqlite::Result<Option<String>> {
    // The column's declared type gives it numeric affinity; the cast undoes that.
    let mut statement =
        connection.prepare_cached("SELECT CAST(state AS TEXT) FROM plugin_state WHERE plugin_name = ?1")?;
    statement.query_row([plugin], |row| row.get(0)).optional()
}

/// Whether a stored state can be given to its plugin: a JSON object, or the `null` that the
/// reference takes for an empty one.
///
/// # Errors
/// The text with which the job fails.
pub fn check_stored(plugin: &str, state: &str) -> Result<(), String> {
    match serde_json::from_str::<Option<BTreeMap<String, &RawValue>>>(state) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid_stored(plugin)),
    }
}

/// The text of a stored state that is no JSON object.
pub fn invalid_stored(plugin: &str) -> String {
    format!("stored plugin state is invalid JSON for plugin=\"{plugin}\"")
}

/// The next `count` values of the facts' sequence; answers the last of them.
fn take_sequence(connection: &Connection, count: usize) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO storage_sequences (name, value) VALUES ('plugin_facts', ?1) \
         ON CONFLICT(name) DO UPDATE SET value = value + excluded.value RETURNING value",
    )?;
    statement.query_row([i64::try_from(count).unwrap_or(i64::MAX)], |row| row.get(0))
}

/// Top-level keys replaced, the others kept; `None` when the stored text is no JSON object.
fn merged(stored: Option<&str>, updates: Object<'_>) -> Option<String> {
    let stored = stored.unwrap_or("{}");
    let mut state: Object<'_> = serde_json::from_str::<Option<Object<'_>>>(stored).ok()?.unwrap_or_default();
    state.extend(updates);
    serde_json::to_string(&state).ok()
}

/// The limit counts what the object says, not how it was indented.
fn within_limit(state: String) -> Result<String, RefusalText> {
    if state.len() <= MAX_STATE {
        return Ok(state);
    }
    match serde_json::from_str::<serde_json::Value>(&state).map(|value| value.to_string()) {
        Ok(compact) if compact.len() <= MAX_STATE => Ok(compact),
        _ => Err(format!("plugin state exceeds max size ({MAX_STATE} bytes)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updates(text: &str) -> Object<'_> {
        serde_json::from_str(text).expect("an object")
    }

    #[test]
    fn merging_is_shallow_and_exact() {
        let check = |stored: Option<&str>, new: &str, result: Option<&str>| {
            assert_eq!(merged(stored, updates(new)).as_deref(), result, "{stored:?} {new}");
        };
        check(None, r#"{"a":1}"#, Some(r#"{"a":1}"#));
        check(Some("null"), r#"{"a":1}"#, Some(r#"{"a":1}"#));
        check(Some(r#"{"b":{"x":1,"y":2},"a":0}"#), r#"{"b":{"x":9}}"#, Some(r#"{"a":0,"b":{"x":9}}"#));
        check(Some(r#"{"a":1}"#), r#"{"a":null}"#, Some(r#"{"a":null}"#));
        check(Some(r#"{"n":9007199254740993123}"#), r#"{"m":1.10}"#, Some(r#"{"m":1.10,"n":9007199254740993123}"#));
        check(Some("[1]"), r#"{"a":1}"#, None);
        check(Some("{broken"), r#"{"a":1}"#, None);
        check(Some(""), r#"{"a":1}"#, None);
    }

    #[test]
    fn the_limit_does_not_count_white_space() {
        let object =
            |filling: usize, space: usize| format!("{{\"a\":{}\"{}\"}}", " ".repeat(space), "x".repeat(filling - 8));
        assert_eq!(within_limit(object(MAX_STATE, 0)).map(|s| s.len()), Ok(MAX_STATE));
        assert_eq!(within_limit(object(MAX_STATE, 500)).map(|s| s.len()), Ok(MAX_STATE));
        let text = "plugin state exceeds max size (1048576 bytes)".to_owned();
        assert_eq!(within_limit(object(MAX_STATE + 1, 0)), Err(text));
    }

    #[test]
    fn only_an_object_can_be_given_to_a_plugin() {
        for good in ["{}", r#"{"a":[1]}"#, "null"] {
            assert_eq!(check_stored("p", good), Ok(()));
        }
        for bad in ["", "[]", "1", "{", "{}x"] {
            assert_eq!(check_stored("p", bad), Err("stored plugin state is invalid JSON for plugin=\"p\"".to_owned()));
        }
    }
}
