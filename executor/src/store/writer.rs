//! The writer: one thread that owns the one connection that writes. Operations that wait are
//! committed together, since a commit costs far more than what is in it.
//!
//! Invariant: operations are applied in the order of submission, and each is answered exactly
//! once, after its commit or its failure. Nothing is tried again here: what failed goes back to
//! whoever submitted it. After a failure of the database everything that comes goes back likewise,
//! untried, until `resume`: nothing overtakes what failed.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch;
use super::error::{StoreError, StoreErrorKind::Refused};
use super::open::WriteConnection;
use super::write::{Applied, Outcome, Urgency, Write};

/// How long a lazy operation may wait for company.
const WINDOW: Duration = Duration::from_millis(4);

/// So many waiting operations are company enough.
const ENOUGH: usize = 64;

/// The most operations of one commit; what is beyond goes into the next at once.
const MAX_BATCH: usize = 1024;

/// A handle on the writer thread. Dropping it does what `stop` does.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    /// The thread is to be woken for what was submitted.
    owes_wake: Cell<bool>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    tickets: Vec<u64>,
    writes: Vec<Write>,
    /// When the batch must be begun at the latest; `None` while nothing waits.
    due: Option<Instant>,
    /// The failure for which everything goes back.
    halted: Option<StoreError>,
    stopping: bool,
}

impl Writer {
    /// Starts the thread. `on_commit` is called on it once for each batch, with the outcomes in
    /// the order of submission; while it runs nothing is committed.
    ///
    /// # Errors
    /// What the system says when it can not make a thread.
    pub fn start(connection: WriteConnection, on_commit: impl Fn(Vec<Outcome>) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(connection, &theirs, &on_commit))?;
        Ok(Self { shared, owes_wake: Cell::new(false), thread: Some(thread) })
    }

    /// Hands an operation over; its outcome carries the ticket. Never blocks on the database. The
    /// thread may sleep on until `wake`.
    pub fn submit(&self, ticket: u64, write: Write, urgency: Urgency) {
        let now = Instant::now();
        let due = match urgency {
            Urgency::Now => now,
            Urgency::Lazy => now + WINDOW,
        };
        let mut queue = self.shared.lock();
        queue.tickets.push(ticket);
        queue.writes.push(write);
        // The thread sleeps towards the time that it knows; only an earlier one wakes it. While it
        // commits, this wakes nobody and costs next to nothing.
        let earlier = queue.due.is_none_or(|known| due < known);
        if earlier {
            queue.due = Some(due);
        }
        let enough = queue.writes.len() == ENOUGH;
        drop(queue);
        if earlier || enough {
            self.owes_wake.set(true);
        }
    }

    /// Wakes the thread when something was submitted that it has to look at.
    pub fn wake(&self) {
        if self.owes_wake.replace(false) {
            self.shared.changed.notify_one();
        }
    }

    /// Tries again from now on. Whoever calls has had the answer to everything submitted before, and
    /// submits what failed first.
    pub fn resume(&self) {
        self.shared.lock().halted = None;
    }

    /// Stores all that waits, lets SQLite tend its statistics, and closes the database.
    ///
    /// # Errors
    /// `StoreError` of the last two, which cost no data: worth a warning.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.lock().stopping = true;
        self.shared.changed.notify_one();
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.end();
        }
    }
}

impl Shared {
    /// The queue is whole between any two statements that change it, so a poisoned lock is only a
    /// panic that is on its way to ending the process.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a batch is due and takes it. `pause`: for so long at most while nothing waits; one of
    /// no length goes before what waits.
    fn next(&self, pause: Option<Duration>) -> Turn {
        if pause == Some(Duration::ZERO) {
            return Turn::Pause;
        }
        let end_of_pause = pause.map(|pause| Instant::now() + pause);
        let mut queue = self.lock();
        loop {
            let wait = match queue.due {
                None if queue.stopping => return Turn::End,
                None => match end_of_pause.map(|end| end.saturating_duration_since(Instant::now())) {
                    Some(Duration::ZERO) => return Turn::Pause,
                    left => left,
                },
                Some(_) if queue.stopping || queue.writes.len() >= ENOUGH => break,
                Some(due) => match due.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => break,
                    left => left,
                },
            };
            queue = match wait {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        if queue.writes.len() <= MAX_BATCH {
            queue.due = None;
            return Turn::Batch(std::mem::take(&mut queue.tickets), std::mem::take(&mut queue.writes));
        }
        // `due` stays in the past, so that the rest follows at once.
        Turn::Batch(queue.tickets.drain(..MAX_BATCH).collect(), queue.writes.drain(..MAX_BATCH).collect())
    }
}

/// What the thread does next.
#[derive(Debug)]
enum Turn {
    /// Tickets and operations.
    Batch(Vec<u64>, Vec<Write>),
    /// It is time for a checkpoint.
    Pause,
    /// All is stored and the end has come.
    End,
}

fn run(connection: WriteConnection, shared: &Shared, on_commit: &dyn Fn(Vec<Outcome>)) -> Result<(), StoreError> {
    loop {
        let (tickets, writes) = match shared.next(connection.checkpoints.due()) {
            Turn::Batch(tickets, writes) => (tickets, writes),
            Turn::Pause => {
                connection.checkpoints.run(&connection.connection);
                continue;
            }
            Turn::End => return close(connection),
        };
        let halted = shared.lock().halted.clone();
        let answers = match halted {
            Some(fault) => vec![Err(fault); writes.len()],
            None => batch::run(&connection, &writes),
        };
        let fault = answers.iter().filter_map(|answer| answer.as_ref().err()).find(|e| e.kind() != Refused);
        if let Some(fault) = fault {
            shared.lock().halted = Some(fault.clone());
        }
        let operations = tickets.into_iter().zip(writes);
        on_commit(operations.zip(answers).map(|((ticket, write), result)| outcome(ticket, write, result)).collect());
    }
}

fn outcome(ticket: u64, write: Write, result: Result<Applied, StoreError>) -> Outcome {
    let returned = matches!(result, Err(_) | Ok(Applied::StateRefused { .. } | Applied::Stale)).then_some(write);
    Outcome { ticket, result, returned }
}

fn close(connection: WriteConnection) -> Result<(), StoreError> {
    // The limit bounds the time that this takes, whatever the size of the tables.
    let optimized = connection
        .connection
        .execute_batch("PRAGMA analysis_limit = 400; PRAGMA optimize")
        .map_err(|e| StoreError::sqlite("optimize the database", e));
    connection.connection.close().map_err(|(_, e)| StoreError::sqlite("close the database", e))?;
    optimized
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;
    use crate::store::tests::{Home, new_job};

    use std::sync::mpsc;

    type Batches = mpsc::Receiver<Vec<Outcome>>;

    fn start(home: &mut Home) -> (Writer, Batches) {
        let (sender, receiver) = mpsc::channel();
        let connection = home.take_connection();
        let writer = Writer::start(connection, move |outcomes| {
            let _ = sender.send(outcomes);
        });
        (writer.expect("a thread"), receiver)
    }

    fn hand(writer: &Writer, ticket: u64, write: Write, urgency: Urgency) {
        writer.submit(ticket, write, urgency);
        writer.wake();
    }

    fn tickets(outcomes: &[Outcome]) -> Vec<u64> {
        outcomes
            .iter()
            .map(|outcome| {
                assert_eq!(outcome.result.as_ref().expect("stored"), &Applied::Admitted);
                outcome.ticket
            })
            .collect()
    }

    fn next(batches: &Batches) -> Vec<Outcome> {
        batches.recv_timeout(Duration::from_secs(20)).expect("a commit in time")
    }

    #[test]
    fn what_waits_is_committed_together_and_in_order() {
        let mut home = Home::new("writer-together");
        let (writer, batches) = start(&mut home);
        // A foreign write lock holds the first batch, so that the others wait behind it.
        let foreign = home.foreign();
        foreign.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        hand(&writer, 0, Write::Admit(new_job("job-0")), Urgency::Now);
        let deadline = Instant::now() + Duration::from_secs(20);
        while writer.shared.lock().due.is_some() {
            assert!(Instant::now() < deadline, "the first batch is taken");
            std::thread::yield_now();
        }
        for ticket in 1..200 {
            let urgency = if ticket % 7 == 0 { Urgency::Now } else { Urgency::Lazy };
            hand(&writer, ticket, Write::Admit(new_job(&format!("job-{ticket}"))), urgency);
        }
        foreign.execute_batch("ROLLBACK").expect("released");
        assert_eq!(tickets(&next(&batches)), [0]);
        assert_eq!(tickets(&next(&batches)), (1..200).collect::<Vec<_>>());
        writer.stop().expect("closed");
        let order: Vec<String> = home.column("SELECT id FROM job_queue ORDER BY rowid");
        assert_eq!(order, (0..200).map(|n| format!("job-{n}")).collect::<Vec<_>>());
        let order: Vec<String> = home.column("SELECT job_id FROM job_transitions ORDER BY id");
        assert_eq!(order, (0..200).map(|n| format!("job-{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_lazy_operation_waits_for_the_window_and_an_urgent_one_takes_it_along() {
        let mut home = Home::new("writer-lazy");
        let (writer, batches) = start(&mut home);
        let before = Instant::now();
        hand(&writer, 1, Write::Admit(new_job("job-1")), Urgency::Lazy);
        assert_eq!(tickets(&next(&batches)), [1]);
        assert!(before.elapsed() >= WINDOW);
        let mut taken = Vec::new();
        hand(&writer, 2, Write::Admit(new_job("job-2")), Urgency::Lazy);
        hand(&writer, 3, Write::Admit(new_job("job-3")), Urgency::Now);
        while taken.len() < 2 {
            taken.extend(tickets(&next(&batches)));
        }
        assert_eq!(taken, [2, 3]);
    }

    #[test]
    fn stopping_stores_what_waits() {
        let mut home = Home::new("writer-stop");
        let (writer, batches) = start(&mut home);
        for ticket in 0..10 {
            hand(&writer, ticket, Write::Admit(new_job(&format!("job-{ticket}"))), Urgency::Lazy);
        }
        writer.stop().expect("closed");
        let all: Vec<Outcome> = batches.iter().flatten().collect();
        assert_eq!(tickets(&all), (0..10).collect::<Vec<_>>());
        assert_eq!(home.count("SELECT count(*) FROM job_queue"), 10);
    }

    #[test]
    fn what_failed_comes_back_and_can_be_submitted_again() {
        let mut home = Home::new("writer-returned");
        home.connection.as_ref().expect("open").raw().execute_batch("PRAGMA busy_timeout = 1").expect("set");
        let (writer, batches) = start(&mut home);
        let foreign = home.foreign();
        foreign.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        hand(&writer, 1, Write::Admit(new_job("job-1")), Urgency::Now);
        let failed = next(&batches).remove(0);
        assert_eq!(failed.result.expect_err("busy").kind(), StoreErrorKind::Busy);
        let write = failed.returned.expect("handed back");
        assert_eq!(write, Write::Admit(new_job("job-1")));
        foreign.execute_batch("ROLLBACK").expect("released");
        // It came after what failed, and must not be stored before it.
        hand(&writer, 2, Write::Admit(new_job("job-2")), Urgency::Now);
        let second = next(&batches).remove(0);
        assert_eq!(second.result.expect_err("untried").kind(), StoreErrorKind::Busy);
        writer.resume();
        hand(&writer, 3, write, Urgency::Now);
        hand(&writer, 4, second.returned.expect("handed back"), Urgency::Now);
        let mut stored = Vec::new();
        while stored.len() < 2 {
            stored.extend(next(&batches));
        }
        assert_eq!(tickets(&stored), [3, 4]);
        assert!(stored.iter().all(|outcome| outcome.returned.is_none()));
    }

    #[test]
    fn a_batch_has_a_largest_size() {
        let shared = Shared::default();
        {
            let mut queue = shared.lock();
            for ticket in 0..(MAX_BATCH as u64 + 5) {
                queue.tickets.push(ticket);
                queue.writes.push(Write::Admit(new_job("job")));
            }
            queue.due = Some(Instant::now());
            queue.stopping = true;
        }
        assert!(matches!(shared.next(Some(Duration::ZERO)), Turn::Pause), "what waits does not put it off");
        let Turn::Batch(first, _) = shared.next(None) else { panic!("a batch") };
        let Turn::Batch(second, writes) = shared.next(None) else { panic!("the rest") };
        assert_eq!((first.len(), second.len(), writes.len()), (MAX_BATCH, 5, 5));
        assert_eq!(second.first(), Some(&(MAX_BATCH as u64)));
        assert!(matches!(shared.next(None), Turn::End));
    }
}
