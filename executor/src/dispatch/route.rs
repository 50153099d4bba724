//! Events of finished jobs on their way to the jobs that they make, and the context that such a job
//! runs in (`spec/pipelines.md` 5, 7).

use shared::id::{CommandName, JobId};
use shared::log::Level;
use shared::time::Timestamp;

use super::Dispatcher;
use super::admit::{log_duplicate, new_job};
use super::claim::Run;
use crate::logging::log;
use crate::pipeline::Context;
use crate::pipeline::route::{Dispatch, Source, Stopped, route_answer};
use crate::plugin::protocol::{Response, Status};
use crate::queue::dedupe::Check;
use crate::queue::job::DEFAULT_MAX_ATTEMPTS;
use crate::queue::ready::Queued;
use crate::store::write::{EventContext, Routed, RoutedJobs};

/// The jobs that an answer makes: as they are stored, and as they are run once they are.
#[derive(Default)]
pub(super) struct Children {
    pub(super) routed: Vec<Routed>,
    pub(super) jobs: Vec<Child>,
    /// Pipelines that are not started.
    pub(super) stopped: Vec<Stopped>,
}

/// One of them, with what the hub is told.
pub(super) struct Child {
    pub(super) job: Queued,
    pub(super) pipeline: String,
    pub(super) step: String,
}

impl Dispatcher {
    /// The context that a job runs in, where it has one.
    ///
    /// # Errors
    /// The error of the job, which can not run.
    pub(super) fn context_of(&self, job: &Queued) -> Result<Option<Context>, String> {
        let Some(id) = &job.event_context_id else { return Ok(None) };
        let failed = |cause: &dyn std::fmt::Display| format!("job preflight failed: {cause}");
        let row = self.reader.event_context(id).map_err(|error| failed(&shared::log::chain(&error)))?;
        let Some(row) = row else { return Err(failed(&format!("event context {id} not found"))) };
        Context::of_row(id.clone(), row.pipeline_name, row.step_id, row.accumulated_json)
            .map(Some)
            .map_err(|error| failed(&error))
    }

    /// Routes what a job that succeeded answered.
    ///
    /// # Errors
    /// The error of the job: it fails, without a retry.
    pub(super) fn route(&self, run: &Run, response: &Response<'_>, at: Timestamp) -> Result<Children, String> {
        let Status::Ok { result } = &response.status else { return Ok(Children::default()) };
        if response.events.is_empty() && run.context.is_none() {
            return Ok(Children::default());
        }
        let source = Source {
            job_id: run.job.job_id.as_str(),
            plugin: run.job.plugin.as_str(),
            created_at: run.job.created_at,
            context: run.context.as_ref(),
            completed_at: at,
        };
        let routing = route_answer(&self.graph, source, &response.events, result).map_err(|error| error.to_string())?;
        let mut children = Children { stopped: routing.stopped, ..Children::default() };
        for dispatch in routing.dispatches {
            self.add_child(&mut children, &run.job, dispatch, at);
        }
        Ok(children)
    }

    fn add_child(&self, children: &mut Children, parent: &Queued, dispatch: Dispatch, at: Timestamp) {
        let known = self.catalog.usable(&dispatch.plugin);
        let job = Queued {
            job_id: JobId::parse(&dispatch.job_id).expect("a derived id is a valid id"),
            plugin: dispatch.plugin,
            command: CommandName::parse("handle").expect("a valid name"),
            payload: Some(dispatch.payload),
            attempt: 1,
            max_attempts: known.map_or(DEFAULT_MAX_ATTEMPTS, |known| known.conf.retry.max_attempts),
            submitted_by: "route".to_owned(),
            dedupe_key: dispatch.dedupe_key,
            created_at: at,
            parent_job_id: Some(parent.job_id.to_string()),
            event_context_id: Some(dispatch.context.id.clone()),
        };
        let mut row = new_job(&job, self.snapshot.as_ref());
        row.source_event_id = Some(dispatch.source_event_id);
        let check = Check::new(job.dedupe_key.as_deref(), self.dedupe_ttl, at);
        let (pipeline, step) = (dispatch.context.pipeline.clone(), dispatch.context.step.clone());
        let root = dispatch.root.map(|root| stored(root, None, at));
        let contexts = root.into_iter().chain([stored(dispatch.context, Some(dispatch.parent_id), at)]).collect();
        children.routed.push(Routed { contexts, job: row, check });
        children.jobs.push(Child { job, pipeline, step });
    }

    /// Pipelines that the events of a stored completion did not start.
    pub(super) fn tell_of_stopped(&mut self, job: &Queued, stopped: &[Stopped]) {
        for stopped in stopped {
            let fields = [
                ("job_id", job.job_id.as_str().into()),
                ("plugin", job.plugin.as_str().into()),
                ("pipeline", (&stopped.pipeline).into()),
                ("depth", stopped.depth.into()),
            ];
            log(Level::Warn, "pipeline not started: its chain of causes is too long", &fields);
            self.hub.publish("router.depth_exceeded", &fields);
        }
    }

    /// The jobs of a completion that are in the database now, in their order.
    pub(super) fn enqueue_children(&mut self, children: Vec<Child>, routed: &RoutedJobs) {
        routed.duplicates.iter().for_each(log_duplicate);
        let mut admitted = routed.admitted.iter().peekable();
        for child in children {
            if admitted.next_if(|id| **id == child.job.job_id).is_some() {
                self.depth += 1;
                self.publish_routed(&child);
                self.enqueue(child.job);
            }
        }
    }
}

fn stored(context: Context, parent_id: Option<String>, created_at: Timestamp) -> EventContext {
    EventContext {
        id: context.id,
        parent_id,
        pipeline_name: Some(context.pipeline),
        step_id: Some(context.step),
        accumulated_json: context.accumulated,
        created_at,
    }
}
