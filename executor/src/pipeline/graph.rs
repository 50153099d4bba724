//! From valid pipelines to routes (`spec/pipelines.md` 4.1 and 4.2), and the two ways to look them
//! up: by the step that a job ran as, and by the type of an event. Immutable once made.

use std::collections::{HashMap, HashSet};

use shared::id::PluginName;

use super::definition::{Pipeline, Step};
use crate::yaml::quoted;

/// The most routes that one pipeline may compile to: two neighbouring splits multiply.
const MAX_ROUTES: usize = 100_000;

/// All pipelines of one load.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pipelines: Vec<Compiled>,
    /// By id, then by the remaining fields.
    routes: Vec<Route>,
    /// Event type to its entry routes, in route order.
    triggers: HashMap<String, Vec<usize>>,
    /// Pipeline and step to the edges that leave it, in route order.
    edges: HashMap<String, HashMap<String, Vec<usize>>>,
    max_hops: u32,
}

/// One pipeline.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub name: String,
    pub trigger: String,
    pub from_plugin: Option<PluginName>,
    /// Steps and their plugins, in written order.
    pub steps: Vec<(String, PluginName)>,
    /// `None`: no limit.
    pub max_depth: Option<u32>,
    /// `blake3:<hex>` over the routes; equal input gives an equal one.
    pub fingerprint: String,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// `entry:<step>`, `edge:<from>-><to>` or `terminal:<step>`.
    pub id: String,
    pub pipeline: String,
    pub source: RouteSource,
    /// `None`: the end of the pipeline, which dispatches nothing.
    pub target: Option<Target>,
    /// A source must be less deep than this to take an edge; what an entry gives its instance.
    pub depth_lt: Option<u32>,
}

/// Where a route begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteSource {
    Trigger { event_type: String, from_plugin: Option<PluginName> },
    Step(String),
}

/// Where it leads: a step that runs the plugin's command `handle`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub step: String,
    pub plugin: PluginName,
}

impl Graph {
    /// Compiles pipelines whose names are unique. `max_hops` is `service.max_causal_hops`.
    ///
    /// # Errors
    /// Every pipeline that compiles to more routes than is allowed.
    pub fn new(pipelines: &[Pipeline], max_hops: u32) -> Result<Self, Vec<String>> {
        let mut graph = Self { max_hops, ..Self::default() };
        let mut problems = Vec::new();
        for pipeline in pipelines {
            match compile(pipeline) {
                Ok((compiled, routes)) => {
                    graph.pipelines.push(compiled);
                    graph.routes.extend(routes);
                }
                Err(problem) => problems.push(format!("pipeline {}: {problem}", quoted(&pipeline.name))),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        graph.routes.sort();
        for (index, route) in graph.routes.iter().enumerate() {
            match &route.source {
                RouteSource::Trigger { event_type, .. } => {
                    graph.triggers.entry(event_type.clone()).or_default().push(index);
                }
                RouteSource::Step(step) if route.target.is_some() => {
                    let of_pipeline = graph.edges.entry(route.pipeline.clone()).or_default();
                    of_pipeline.entry(step.clone()).or_default().push(index);
                }
                RouteSource::Step(_) => {}
            }
        }
        Ok(graph)
    }

    /// In the order of the files.
    pub fn pipelines(&self) -> &[Compiled] {
        &self.pipelines
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// How many root triggers one chain of causes may hold.
    pub(super) fn max_hops(&self) -> u32 {
        self.max_hops
    }

    /// The entry routes of an event type.
    pub(super) fn triggered(&self, event_type: &str) -> impl Iterator<Item = &Route> {
        self.at(self.triggers.get(event_type))
    }

    /// The edges that leave a step.
    pub(super) fn leaving(&self, pipeline: &str, step: &str) -> impl Iterator<Item = &Route> {
        self.at(self.edges.get(pipeline).and_then(|steps| steps.get(step)))
    }

    fn at<'g>(&'g self, indices: Option<&'g Vec<usize>>) -> impl Iterator<Item = &'g Route> {
        indices.into_iter().flatten().map(|index| &self.routes[*index])
    }

    /// The complaints about plugins that nobody discovered; aliases count as known.
    pub fn unknown_plugins(&self, is_known: impl Fn(&PluginName) -> bool) -> Vec<String> {
        let mut problems = Vec::new();
        for pipeline in &self.pipelines {
            let name = quoted(&pipeline.name);
            if let Some(plugin) = pipeline.from_plugin.as_ref().filter(|plugin| !is_known(plugin)) {
                let plugin = quoted(plugin.as_str());
                problems.push(format!("pipeline {name}: from_plugin references unknown plugin {plugin}"));
            }
            for (step, plugin) in pipeline.steps.iter().filter(|(_, plugin)| !is_known(plugin)) {
                let (step, plugin) = (quoted(step), quoted(plugin.as_str()));
                problems.push(format!("pipeline {name} step {step} references unknown plugin {plugin}"));
            }
        }
        problems
    }
}

fn compile(pipeline: &Pipeline) -> Result<(Compiled, Vec<Route>), String> {
    let mut builder = Builder { taken: HashSet::new(), next: 1, steps: Vec::new(), edges: Vec::new() };
    for step in &pipeline.steps {
        builder.take_ids(step);
    }
    let part = builder.sequence(&pipeline.steps)?;
    let max_depth = match pipeline.max_depth {
        None => Some(part.depth.max(1)),
        Some(0) => None,
        written => written,
    };
    let Builder { steps, edges, .. } = builder;
    let step = |node: usize| steps[node].0.clone();
    let target = |node: usize| Some(Target { step: step(node), plugin: steps[node].1.clone() });
    let route =
        |id: String, source, target| Route { id, pipeline: pipeline.name.clone(), source, target, depth_lt: max_depth };
    let trigger =
        || RouteSource::Trigger { event_type: pipeline.on.clone(), from_plugin: pipeline.from_plugin.clone() };
    let mut routes = Vec::with_capacity(edges.len() + part.entries.len() + part.exits.len());
    routes.extend(part.entries.iter().map(|node| route(format!("entry:{}", step(*node)), trigger(), target(*node))));
    routes.extend(edges.iter().map(|(from, to)| {
        route(format!("edge:{}->{}", step(*from), step(*to)), RouteSource::Step(step(*from)), target(*to))
    }));
    routes.extend(
        part.exits.iter().map(|node| route(format!("terminal:{}", step(*node)), RouteSource::Step(step(*node)), None)),
    );
    routes.sort();
    let compiled = Compiled {
        name: pipeline.name.clone(),
        trigger: pipeline.on.clone(),
        from_plugin: pipeline.from_plugin.clone(),
        max_depth,
        fingerprint: fingerprint(&routes),
        steps,
    };
    Ok((compiled, routes))
}

/// Numbers the steps of one pipeline and joins them.
struct Builder {
    /// Ids that are written somewhere in the pipeline.
    taken: HashSet<String>,
    next: usize,
    steps: Vec<(String, PluginName)>,
    edges: Vec<(usize, usize)>,
}

/// What a step, or several, look like from outside.
struct Part {
    entries: Vec<usize>,
    exits: Vec<usize>,
    /// Nodes on the longest path.
    depth: u32,
}

impl Builder {
    fn take_ids(&mut self, step: &Step) {
        match step {
            Step::Uses { id, .. } => self.taken.extend(id.clone()),
            Step::Sequence(steps) | Step::Split(steps) => steps.iter().for_each(|step| self.take_ids(step)),
        }
    }

    fn free_id(&mut self) -> String {
        loop {
            let id = format!("step_{}", self.next);
            self.next += 1;
            if !self.taken.contains(&id) {
                return id;
            }
        }
    }

    fn part(&mut self, step: &Step) -> Result<Part, String> {
        match step {
            Step::Uses { id, plugin } => {
                let id = id.clone().unwrap_or_else(|| self.free_id());
                self.steps.push((id, plugin.clone()));
                let node = self.steps.len() - 1;
                Ok(Part { entries: vec![node], exits: vec![node], depth: 1 })
            }
            Step::Sequence(steps) => self.sequence(steps),
            Step::Split(branches) => {
                let mut whole = Part { entries: Vec::new(), exits: Vec::new(), depth: 0 };
                for branch in branches {
                    let part = self.part(branch)?;
                    whole.entries.extend(part.entries);
                    whole.exits.extend(part.exits);
                    whole.depth = whole.depth.max(part.depth);
                }
                Ok(whole)
            }
        }
    }

    /// Joins every exit of a step to every entry of the one after it.
    fn sequence(&mut self, steps: &[Step]) -> Result<Part, String> {
        let mut whole = Part { entries: Vec::new(), exits: Vec::new(), depth: 0 };
        for (index, step) in steps.iter().enumerate() {
            let part = self.part(step)?;
            if index == 0 {
                whole.entries = part.entries;
            } else {
                let joined = whole.exits.len().saturating_mul(part.entries.len());
                if self.edges.len().saturating_add(joined) > MAX_ROUTES {
                    return Err(format!("compiles to more than {MAX_ROUTES} routes"));
                }
                for from in &whole.exits {
                    self.edges.extend(part.entries.iter().map(|to| (*from, *to)));
                }
            }
            whole.exits = part.exits;
            whole.depth = whole.depth.saturating_add(part.depth);
        }
        Ok(whole)
    }
}

/// Each field of each route, with its length in front.
fn fingerprint(routes: &[Route]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    for route in routes {
        add(&route.id);
        add(&route.pipeline);
        match &route.source {
            RouteSource::Trigger { event_type, from_plugin } => {
                add("trigger");
                add(event_type);
                add(from_plugin.as_ref().map_or("", PluginName::as_str));
            }
            RouteSource::Step(step) => {
                add("step");
                add(step);
            }
        }
        match &route.target {
            Some(target) => {
                add("uses");
                add(&target.step);
                add(target.plugin.as_str());
            }
            None => add("terminal"),
        }
        add(&route.depth_lt.unwrap_or(0).to_string());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests {
    use super::super::definition::{self, Written, WrittenStep};
    use super::*;

    fn uses(id: Option<&str>, plugin: &str) -> WrittenStep {
        WrittenStep { id: id.map(str::to_owned), uses: Some(plugin.to_owned()), ..WrittenStep::default() }
    }

    fn split(split: Vec<WrittenStep>) -> WrittenStep {
        WrittenStep { split, ..WrittenStep::default() }
    }

    fn sequence(steps: Vec<WrittenStep>) -> WrittenStep {
        WrittenStep { steps, ..WrittenStep::default() }
    }

    fn graph(written: &[Written]) -> Result<Graph, Vec<String>> {
        let (pipelines, problems) = definition::check(written);
        assert_eq!(problems, [""; 0]);
        Graph::new(&pipelines, 20)
    }

    fn written(name: &str, max_depth: Option<i64>, steps: Vec<WrittenStep>) -> Written {
        let text = |text: &str| Some(text.to_owned());
        Written { name: text(name), on: text("t"), max_depth, steps, ..Written::default() }
    }

    /// The route ids and the depth of a pipeline of these steps.
    fn check(steps: Vec<WrittenStep>, ids: &[&str], depth: u32) {
        let graph = graph(&[written("p", None, steps)]).expect("compiles");
        assert_eq!(graph.routes().iter().map(|route| route.id.as_str()).collect::<Vec<_>>(), ids);
        assert_eq!(graph.pipelines()[0].max_depth, Some(depth));
    }

    #[test]
    fn steps_compile_to_the_routes_of_the_chapter() {
        let step = |id: &str| uses(Some(id), "x");
        check(vec![step("a")], &["entry:a", "terminal:a"], 1);
        check(vec![step("b"), step("a")], &["edge:b->a", "entry:b", "terminal:a"], 2);
        check(
            vec![step("a"), split(vec![step("b"), sequence(vec![step("c"), step("d")])]), step("e")],
            &["edge:a->b", "edge:a->c", "edge:b->e", "edge:c->d", "edge:d->e", "entry:a", "terminal:e"],
            4,
        );
        check(
            vec![split(vec![step("a"), step("b")]), split(vec![step("c"), step("d")])],
            &["edge:a->c", "edge:a->d", "edge:b->c", "edge:b->d", "entry:a", "entry:b", "terminal:c", "terminal:d"],
            2,
        );
        check(
            vec![sequence(vec![step("a"), step("b")]), step("c")],
            &["edge:a->b", "edge:b->c", "entry:a", "terminal:c"],
            3,
        );
    }

    #[test]
    fn a_step_without_an_id_is_numbered_around_those_that_are_taken() {
        let steps =
            vec![uses(None, "x"), uses(Some("step_2"), "x"), split(vec![uses(None, "x")]), uses(Some(" "), "x")];
        let graph = graph(&[written("p", None, steps)]).expect("compiles");
        let ids: Vec<_> = graph.pipelines()[0].steps.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["step_1", "step_2", "step_3", "step_4"]);
    }

    #[test]
    fn a_written_depth_replaces_the_longest_path_and_nought_removes_it() {
        let depth = |written_depth| {
            let steps = vec![uses(None, "x"), uses(None, "x")];
            graph(&[written("p", written_depth, steps)]).expect("compiles").routes()[0].depth_lt
        };
        assert_eq!(depth(None), Some(2));
        assert_eq!(depth(Some(7)), Some(7));
        assert_eq!(depth(Some(0)), None);
    }

    #[test]
    fn fingerprints_follow_the_input_and_nothing_else() {
        let print = |plugin: &str| {
            let graph = graph(&[written("p", None, vec![uses(None, plugin)])]).expect("compiles");
            graph.pipelines()[0].fingerprint.clone()
        };
        assert_eq!(print("x"), print("x"));
        assert_ne!(print("x"), print("y"));
        assert!(print("x").starts_with("blake3:") && print("x").len() == 7 + 64);
    }

    #[test]
    fn splits_that_multiply_are_refused_before_they_fill_the_memory() {
        let wide = || split((0..1000).map(|_| uses(None, "x")).collect());
        let problems = graph(&[written("wide", None, vec![wide(), wide()])]).expect_err("too wide");
        assert_eq!(problems, ["pipeline \"wide\": compiles to more than 100000 routes"]);
    }

    #[test]
    fn plugins_that_nobody_knows_are_named() {
        let mut pipeline = written("p", None, vec![uses(None, "x"), uses(Some("s"), "gone")]);
        pipeline.from_plugin = Some("lost".to_owned());
        let graph = graph(&[pipeline]).expect("compiles");
        assert_eq!(
            graph.unknown_plugins(|name| name.as_str() == "x"),
            [
                "pipeline \"p\": from_plugin references unknown plugin \"lost\"",
                "pipeline \"p\" step \"s\" references unknown plugin \"gone\"",
            ]
        );
    }
}
