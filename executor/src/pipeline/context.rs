//! A job's row of `event_context`: what its chain has gathered, and in the reserved object
//! `ductile` where in its pipeline it stands (`spec/pipelines.md` 7.1).

use std::fmt;

use serde_json::value::RawValue;

use super::object::{self, Member};

/// The reserved key of the accumulated object.
const CONTROL: &str = "ductile";
const INSTANCE: &str = "pipeline_instance_id";
const DEPTH: &str = "route_depth";
const MAX_DEPTH: &str = "route_max_depth";
/// Ours: how many root triggers lie in the chain of causes.
const HOPS: &str = "causal_hops";

/// One row, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub id: String,
    pub pipeline: String,
    /// Empty in the row that a pipeline instance begins with.
    pub step: String,
    /// A JSON object, as text.
    pub accumulated: String,
    /// `None` only in rows that we did not write.
    pub instance: Option<String>,
    pub depth: u32,
    /// `None`: no limit.
    pub max_depth: Option<u32>,
    pub hops: u32,
}

/// A stored row that can not be understood.
#[derive(Debug, PartialEq, Eq)]
pub enum ContextError {
    NotObject(String),
    ControlNotObject,
    BadControl(&'static str),
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotObject(why) => write!(f, "context is not a JSON object: {why}"),
            Self::ControlNotObject => write!(f, "context updates key {CONTROL:?} must be an object"),
            Self::BadControl(key) => write!(f, "context key {CONTROL}.{key} has the wrong type"),
        }
    }
}

impl std::error::Error for ContextError {}

impl Context {
    /// Reads the columns of a row.
    ///
    /// # Errors
    /// `ContextError`; a job with such a row can not run.
    pub fn of_row(
        id: String,
        pipeline_name: Option<String>,
        step_id: Option<String>,
        accumulated_json: String,
    ) -> Result<Self, ContextError> {
        let mut read = Self {
            id,
            pipeline: pipeline_name.unwrap_or_default(),
            step: step_id.unwrap_or_default(),
            accumulated: String::new(),
            instance: None,
            depth: 0,
            max_depth: None,
            hops: 0,
        };
        for (key, value) in control_of(&members(&accumulated_json)?)? {
            match key.as_str() {
                INSTANCE => {
                    let instance: String =
                        serde_json::from_str(value.get()).map_err(|_| ContextError::BadControl(INSTANCE))?;
                    read.instance = Some(instance).filter(|instance| !instance.is_empty());
                }
                DEPTH => read.depth = count(value, DEPTH)?,
                MAX_DEPTH => read.max_depth = Some(count(value, MAX_DEPTH)?).filter(|depth| *depth > 0),
                HOPS => read.hops = count(value, HOPS)?,
                _ => {}
            }
        }
        read.accumulated = accumulated_json;
        Ok(read)
    }

    /// The row that a new instance of a pipeline begins with.
    pub(super) fn root(id: String, pipeline: &str, instance: String, max_depth: Option<u32>, hops: u32) -> Self {
        let mut root = Self {
            id,
            pipeline: pipeline.to_owned(),
            step: String::new(),
            accumulated: String::new(),
            instance: Some(instance),
            depth: 0,
            max_depth,
            hops,
        };
        let control = root.control(&[]);
        object::push(&mut root.accumulated, &[(CONTROL.into(), control.into())]);
        root
    }

    /// A row below this one, in the same instance, one step deeper: it inherits what was gathered.
    pub(super) fn child(&self, id: String, step: &str, max_depth: Option<u32>) -> Result<Self, ContextError> {
        let mut child = Self {
            id,
            pipeline: self.pipeline.clone(),
            step: step.to_owned(),
            accumulated: String::with_capacity(self.accumulated.len() + 64),
            instance: self.instance.clone(),
            depth: self.depth.saturating_add(1),
            max_depth,
            hops: self.hops,
        };
        let inherited = members(&self.accumulated)?;
        let control = child.control(&control_of(&inherited)?);
        let gathered = inherited.into_iter().filter(|(key, _)| key != CONTROL);
        let mut whole: Vec<Member<'_>> = vec![(CONTROL.into(), control.into())];
        whole.extend(gathered.map(|(key, value)| (key.into(), value.get().into())));
        object::push(&mut child.accumulated, &whole);
        Ok(child)
    }

    /// The object `ductile` of this row, with what is not ours of the one before it.
    fn control(&self, inherited: &[(String, &RawValue)]) -> String {
        let mut control: Vec<Member<'_>> = Vec::new();
        if let Some(instance) = &self.instance {
            control.push((INSTANCE.into(), object::text(instance).into()));
        }
        control.push((DEPTH.into(), self.depth.to_string().into()));
        if let Some(max_depth) = self.max_depth {
            control.push((MAX_DEPTH.into(), max_depth.to_string().into()));
        }
        control.push((HOPS.into(), self.hops.to_string().into()));
        let is_ours = |key: &str| matches!(key, INSTANCE | DEPTH | MAX_DEPTH | HOPS);
        let foreign = inherited.iter().filter(|(key, _)| !is_ours(key));
        control.extend(foreign.map(|(key, value)| (key.as_str().into(), value.get().into())));
        let mut out = String::new();
        object::push(&mut out, &control);
        out
    }

    /// Every key that the chain has gathered, the object `ductile` too.
    pub(crate) fn gathered(&self) -> Result<Vec<(String, &RawValue)>, ContextError> {
        members(&self.accumulated)
    }

    /// What a request says of this row besides what was gathered (`spec/pipelines.md` 7.4).
    pub(crate) fn request_members(&self) -> Vec<Member<'_>> {
        let mut members: Vec<Member<'_>> = vec![
            ("ductile_pipeline".into(), object::text(&self.pipeline).into()),
            ("ductile_step_id".into(), object::text(&self.step).into()),
        ];
        if let Some(instance) = &self.instance {
            members.push(("ductile_pipeline_instance_id".into(), object::text(instance).into()));
        }
        if self.depth > 0 {
            members.push(("ductile_route_depth".into(), self.depth.to_string().into()));
        }
        if let Some(max_depth) = self.max_depth {
            members.push(("ductile_route_max_depth".into(), max_depth.to_string().into()));
        }
        members
    }
}

fn members(text: &str) -> Result<Vec<(String, &RawValue)>, ContextError> {
    object::members(text).map_err(|error| ContextError::NotObject(error.to_string()))
}

fn control_of<'a>(accumulated: &[(String, &'a RawValue)]) -> Result<Vec<(String, &'a RawValue)>, ContextError> {
    match accumulated.iter().rfind(|(key, _)| key == CONTROL) {
        None => Ok(Vec::new()),
        Some((_, control)) => object::members(control.get()).map_err(|_| ContextError::ControlNotObject),
    }
}

fn count(value: &RawValue, key: &'static str) -> Result<u32, ContextError> {
    let count: u64 = serde_json::from_str(value.get()).map_err(|_| ContextError::BadControl(key))?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(accumulated: &str) -> Result<Context, ContextError> {
        Context::of_row("c1".to_owned(), Some("p".to_owned()), Some("a".to_owned()), accumulated.to_owned())
    }

    #[test]
    fn a_row_reads_back_as_it_was_made() {
        let root = Context::root("r".to_owned(), "p", "i".to_owned(), Some(3), 2);
        assert_eq!(
            root.accumulated,
            r#"{"ductile":{"pipeline_instance_id":"i","route_depth":0,"route_max_depth":3,"causal_hops":2}}"#
        );
        let child = root.child("c1".to_owned(), "a", root.max_depth).expect("a child");
        assert_eq!(child.depth, 1);
        assert_eq!(read(&child.accumulated).as_ref(), Ok(&child));
        let unlimited = Context::root("r".to_owned(), "p", "i".to_owned(), None, 0);
        assert!(!unlimited.accumulated.contains("route_max_depth"));
    }

    #[test]
    fn a_child_inherits_what_was_gathered_digit_for_digit() {
        let parent =
            read(r#"{"n":12345678901234567890123,"ductile":{"route_depth":4,"mine":[1.50]},"deep":{"a":{"b":null}}}"#)
                .expect("valid");
        assert_eq!(parent.instance, None);
        let child = parent.child("c2".to_owned(), "b", None).expect("a child");
        assert_eq!(
            child.accumulated,
            r#"{"ductile":{"route_depth":5,"causal_hops":0,"mine":[1.50]},"n":12345678901234567890123,"deep":{"a":{"b":null}}}"#
        );
    }

    #[test]
    fn rows_that_are_none_of_ours_say_why() {
        let check = |accumulated: &str, text: &str| {
            let error = read(accumulated).expect_err(accumulated).to_string();
            assert!(error.starts_with(text), "{error}");
        };
        check("[]", "context is not a JSON object: ");
        check("{\"ductile\":7}", "context updates key \"ductile\" must be an object");
        check("{\"ductile\":{\"route_depth\":\"1\"}}", "context key ductile.route_depth has the wrong type");
        check("{\"ductile\":{\"route_depth\":-1}}", "context key ductile.route_depth has the wrong type");
        check("{\"ductile\":{\"pipeline_instance_id\":1}}", "context key ductile.pipeline_instance_id has the wrong");
        assert_eq!(read("{\"ductile\":{\"route_depth\":99999999999}}").expect("valid").depth, u32::MAX);
    }
}
