//! From what a finished job emitted to the jobs that follow (`spec/pipelines.md` 5): first the
//! edges that leave its step, then the pipelines that its events trigger. All or nothing: one event
//! that can not be routed fails the whole answer, so that nobody sees half of its jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::value::RawValue;
use shared::id::PluginName;
use shared::time::Timestamp;

use super::context::{Context, ContextError};
use super::graph::{Graph, Route, RouteSource, Target};
use super::id::{Kind, derive};
use super::object::{self, Member};
use crate::plugin::protocol::{Emitted, EventFault};

/// The most jobs that one answer may make, and the most bytes of their payloads and contexts.
const MAX_DISPATCHES: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a step that emitted nothing is taken to say.
const STEP_SUCCEEDED: &str = "ductile.step.succeeded";

/// A job that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub job_id: &'a str,
    pub plugin: &'a str,
    /// Gives the ids of its events their time where its own id has none.
    pub created_at: Timestamp,
    /// Its row of `event_context`.
    pub context: Option<&'a Context>,
    /// Becomes the time of its events.
    pub completed_at: Timestamp,
}

/// One event, read and with its place among those of its job.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub index: usize,
    pub kind: &'a str,
    /// A JSON object.
    pub payload: &'a str,
    /// Trimmed and not empty.
    pub dedupe_key: Option<&'a str>,
}

/// One job to enqueue: command `handle` of a plugin, as a step of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    pub job_id: String,
    pub plugin: PluginName,
    /// The event, as JSON.
    pub payload: String,
    pub dedupe_key: Option<String>,
    /// The event's id; from its second job of the same plugin on with `#<n>` behind it.
    pub source_event_id: String,
    /// The row that the job runs in; it names pipeline, step, instance, depth and hops.
    pub context: Context,
    /// The row above that one.
    pub parent_id: String,
    /// That row where it begins a new instance: to be stored first, unless it is there. Every entry
    /// job of the instance brings it along, since any of them may turn out to be a duplicate.
    pub root: Option<Context>,
}

/// A pipeline that was not started, since its chain of causes is too long
/// (`router.depth_exceeded`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub pipeline: String,
    /// The hop that it would have been.
    pub depth: u32,
}

/// What comes of an event, or of all events of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// In the order in which they are to be enqueued.
    pub dispatches: Vec<Dispatch>,
    pub stopped: Vec<Stopped>,
    /// How many events led nowhere.
    pub unmatched: usize,
    bytes: usize,
}

/// Why the events of a job can not be routed; the job fails without retry. The texts are interface.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteError {
    is_synthetic: bool,
    /// Which event, where there are several.
    index: Option<usize>,
    fault: RouteFault,
}

#[derive(Debug, PartialEq, Eq)]
enum RouteFault {
    Event(EventFault),
    Payload(String),
    Context(ContextError),
    TooMany,
    TooLarge,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_synthetic {
            "failed to route step-succeeded event: "
        } else {
            "failed to route events: "
        })?;
        match &self.fault {
            RouteFault::Event(fault) => fault.fmt(f),
            RouteFault::Payload(why) => write!(f, "event.payload: {why}"),
            RouteFault::Context(error) => error.fmt(f),
            RouteFault::TooMany => write!(f, "the answer would make more than {MAX_DISPATCHES} jobs"),
            RouteFault::TooLarge => write!(f, "the answer would make jobs of more than {MAX_BYTES} bytes"),
        }?;
        self.index.map_or(Ok(()), |index| write!(f, " (events[{index}])"))
    }
}

impl std::error::Error for RouteError {}

/// Routes everything that a job answered: `events` as in its response, and where there are none and
/// the job is a step, the event that says so much.
///
/// # Errors
/// `RouteError`.
pub fn route_answer(
    graph: &Graph,
    source: Source<'_>,
    events: &[&RawValue],
    result: &str,
) -> Result<Routing, RouteError> {
    let mut routing = Routing::default();
    let result: Option<Member<'_>> =
        (!result.trim().is_empty()).then(|| ("result".into(), object::text(result).into()));
    if events.is_empty() {
        if source.context.is_some_and(|context| !context.step.is_empty()) {
            let mut payload = String::new();
            object::push(&mut payload, result.as_slice());
            let event = Event { index: 0, kind: STEP_SUCCEEDED, payload: &payload, dedupe_key: None };
            add(graph, source, event, &[], &mut routing).map_err(|fault| RouteError {
                is_synthetic: true,
                index: None,
                fault,
            })?;
        }
        return Ok(routing);
    }
    for (index, event) in events.iter().enumerate() {
        let place = (events.len() > 1).then_some(index);
        let fail = |fault| RouteError { is_synthetic: false, index: place, fault };
        let emitted = Emitted::parse(event).map_err(|fault| fail(RouteFault::Event(fault)))?;
        let event = Event {
            index,
            kind: &emitted.kind,
            payload: emitted.payload.map_or("{}", RawValue::get),
            dedupe_key: emitted.dedupe_key.as_deref(),
        };
        add(graph, source, event, result.as_slice(), &mut routing).map_err(fail)?;
    }
    Ok(routing)
}

/// Routes one event alone.
///
/// # Errors
/// `RouteError`.
pub fn route(graph: &Graph, source: Source<'_>, event: Event<'_>) -> Result<Routing, RouteError> {
    let mut routing = Routing::default();
    add(graph, source, event, &[], &mut routing).map_err(|fault| RouteError {
        is_synthetic: false,
        index: None,
        fault,
    })?;
    Ok(routing)
}

/// Adds what comes of one event; `result` is a member that its payload gets.
fn add(
    graph: &Graph,
    source: Source<'_>,
    event: Event<'_>,
    result: &[Member<'_>],
    routing: &mut Routing,
) -> Result<(), RouteFault> {
    let edges: Vec<(&Route, &Target)> = source.context.into_iter().flat_map(|at| leaving(graph, at)).collect();
    let entries: Vec<(&Route, &Target)> = triggered(graph, source, event.kind).collect();
    if edges.is_empty() && entries.is_empty() {
        routing.unmatched += 1;
        return Ok(());
    }
    if routing.dispatches.len() + edges.len() + entries.len() > MAX_DISPATCHES {
        return Err(RouteFault::TooMany);
    }
    let event_id = derive(Kind::Event, source.job_id, &[&event.index.to_string()], source.created_at);
    let payload = envelope(source, event, &event_id, result).map_err(|error| RouteFault::Payload(error.to_string()))?;
    let mut maker = Maker { source, event_id, payload, event, made: BTreeSet::new(), targets: BTreeMap::new() };
    if let Some(at) = source.context {
        for (route, target) in edges {
            maker.dispatch(at, None, target, at.max_depth.or(route.depth_lt), routing)?;
        }
    }
    let hops = source.context.map_or(0, |at| at.hops).saturating_add(1);
    for (route, target) in entries {
        if hops > graph.max_hops() {
            if !routing.stopped.iter().any(|stopped| stopped.pipeline == route.pipeline) {
                routing.stopped.push(Stopped { pipeline: route.pipeline.clone(), depth: hops });
            }
            continue;
        }
        let root = maker.root(route, hops);
        maker.dispatch(&root, Some(&root), target, root.max_depth, routing)?;
    }
    Ok(())
}

/// The edges that a job's row lets its events take (`spec/pipelines.md` 8).
fn leaving<'g>(graph: &'g Graph, at: &Context) -> impl Iterator<Item = (&'g Route, &'g Target)> {
    let (depth, limit) = (at.depth, at.max_depth);
    let may_go = move |route: &Route| limit.or(route.depth_lt).is_none_or(|limit| depth < limit);
    let is_placed = at.instance.is_some();
    graph
        .leaving(&at.pipeline, &at.step)
        .filter(move |route| is_placed && may_go(route))
        .filter_map(|route| Some((route, route.target.as_ref()?)))
}

/// The entries of the pipelines that an event triggers.
fn triggered<'g>(graph: &'g Graph, source: Source<'_>, kind: &str) -> impl Iterator<Item = (&'g Route, &'g Target)> {
    graph.triggered(kind).filter_map(move |route| {
        let RouteSource::Trigger { from_plugin, .. } = &route.source else { return None };
        let is_from = from_plugin.as_ref().is_none_or(|plugin| plugin.as_str() == source.plugin);
        Some((route, route.target.as_ref()?)).filter(|_| is_from)
    })
}

/// The event as the next job stores it. What only the core may say it says itself
/// (`spec/pipelines.md` 15, row 1).
fn envelope(
    source: Source<'_>,
    event: Event<'_>,
    event_id: &str,
    result: &[Member<'_>],
) -> Result<String, serde_json::Error> {
    let mut added: Vec<Member<'_>> = result.to_vec();
    added.push(("ductile_upstream_plugin".into(), object::text(source.plugin).into()));
    if let Some(at) = source.context {
        for (key, value) in [("ductile_upstream_pipeline", &at.pipeline), ("ductile_upstream_step_id", &at.step)] {
            if !value.is_empty() {
                added.push((key.into(), object::text(value).into()));
            }
        }
    }
    let mut payload = String::with_capacity(event.payload.len() + 256);
    object::push_with_missing(&mut payload, event.payload, &added)?;
    let mut members: Vec<Member<'_>> =
        vec![("type".into(), object::text(event.kind).into()), ("payload".into(), payload.into())];
    members.extend(event.dedupe_key.map(|key| ("dedupe_key".into(), object::text(key).into())));
    members.push(("source".into(), object::text(source.plugin).into()));
    members.push(("timestamp".into(), object::text(&source.completed_at.to_string()).into()));
    members.push(("event_id".into(), object::text(event_id).into()));
    let mut out = String::with_capacity(members.iter().map(|(key, value)| key.len() + value.len() + 4).sum());
    object::push(&mut out, &members);
    Ok(out)
}

/// Makes the jobs of one event.
struct Maker<'a> {
    source: Source<'a>,
    event: Event<'a>,
    event_id: String,
    payload: String,
    /// Ids of the jobs so far, which stand for pipeline, instance and step.
    made: BTreeSet<String>,
    /// How many jobs of each plugin.
    targets: BTreeMap<String, u32>,
}

impl Maker<'_> {
    fn id(&self, kind: Kind, parts: &[&str]) -> String {
        derive(kind, &self.event_id, parts, self.source.created_at)
    }

    /// The row of the new instance that this event starts of a pipeline.
    fn root(&self, entry: &Route, hops: u32) -> Context {
        let instance = self.id(Kind::Instance, &[&entry.pipeline]);
        Context::root(self.id(Kind::Root, &[&instance]), &entry.pipeline, instance, entry.depth_lt, hops)
    }

    /// One job below `parent`, unless this very one is made already.
    fn dispatch(
        &mut self,
        parent: &Context,
        root: Option<&Context>,
        target: &Target,
        max_depth: Option<u32>,
        routing: &mut Routing,
    ) -> Result<(), RouteFault> {
        let identity = [parent.instance.as_deref().unwrap_or_default(), &parent.pipeline, &target.step];
        let job_id = self.id(Kind::Job, &identity);
        if !self.made.insert(job_id.clone()) {
            return Ok(());
        }
        let context =
            parent.child(self.id(Kind::Context, &identity), &target.step, max_depth).map_err(RouteFault::Context)?;
        routing.bytes += self.payload.len() + context.accumulated.len();
        if routing.bytes > MAX_BYTES {
            return Err(RouteFault::TooLarge);
        }
        let count = self.targets.entry(target.plugin.to_string()).or_default();
        *count += 1;
        let source_event_id = if *count == 1 { self.event_id.clone() } else { format!("{}#{count}", self.event_id) };
        routing.dispatches.push(Dispatch {
            job_id,
            plugin: target.plugin.clone(),
            payload: self.payload.clone(),
            dedupe_key: self.event.dedupe_key.map(str::to_owned),
            source_event_id,
            context,
            parent_id: parent.id.clone(),
            root: root.cloned(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
