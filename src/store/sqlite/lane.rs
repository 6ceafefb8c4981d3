//! The threads that own the connections, and the bounded queues in front of them: one lane with one thread that writes, one with a few
//! that read, so that neither holds up the other (SQLite's WAL lets them run side by side).
//!
//! The writer takes what waits in its queue together and commits it in one transaction, so that many callers share one fsync. Of several,
//! each has a savepoint of its own: one that fails undoes itself alone. A caller is answered after the commit, never before.
//!
//! A lane stops when it is told to, after what was queued before, or when its last handle is dropped. A caller that goes away does not
//! undo its write.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::store::{Result, StoreError};

/// Tasks that wait in a lane, at most.
const QUEUE_TASKS_MAX: usize = 1024;
/// How long a caller waits for a place in a full queue.
const QUEUE_WAIT_MS_MAX: u64 = 10_000;
/// How long a caller waits for an answer once it has its place.
const ANSWER_WAIT_MS_MAX: u64 = 60_000;
/// Rows that share a transaction, about: whoever waits behind it should not wait long.
const GROUP_ROWS_MAX: usize = 4096;

/// The way to the threads of one kind.
pub(super) struct Lane {
    queue: mpsc::Sender<Message>,
    /// Closes when the last thread has let go of its connection.
    ended: watch::Receiver<()>,
    name: &'static str,
}

enum Message {
    Do(Box<dyn Task>),
    /// Do nothing that comes after this.
    Stop,
}

/// A caller's work on its way through a lane.
trait Task: Send {
    /// How many rows the work writes, about.
    fn rows(&self) -> usize;
    /// Does the work; false: what it wrote is to be undone.
    fn work(&mut self, connection: &Connection) -> bool;
    /// Answers the caller: with the work's own answer, unless the transaction around it failed.
    fn answer(self: Box<Self>, transaction: &Result<()>);
}

struct Call<W, T> {
    rows: usize,
    work: Option<W>,
    done: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<W, T> Task for Call<W, T>
where
    W: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn rows(&self) -> usize {
        self.rows
    }

    fn work(&mut self, connection: &Connection) -> bool {
        self.done = self.work.take().map(|work| work(connection));
        matches!(self.done, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, transaction: &Result<()>) {
        let answer = match (self.done, transaction) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.clone()),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(StoreError::Internal("a task was passed over".into())),
        };
        self.reply.send(answer).ok(); // the caller may have gone away
    }
}

impl Lane {
    /// A lane with one thread that writes through `connection`. `committed` is called after each commit, before callers are answered.
    pub(super) fn writer(connection: Connection, committed: impl Fn(&Connection) + Send + 'static) -> Result<Lane> {
        let (queue, tasks) = mpsc::channel(QUEUE_TASKS_MAX);
        let (end, ended) = watch::channel(());
        spawn("store-writer".into(), move || {
            write_all(&connection, tasks, &committed);
            finish(connection);
            drop(end);
        })?;
        Ok(Lane { queue, ended, name: "writer" })
    }

    /// A lane with one thread for each of `connections`, which only read.
    pub(super) fn readers(connections: Vec<Connection>) -> Result<Lane> {
        let (queue, tasks) = mpsc::channel(QUEUE_TASKS_MAX);
        let (end, ended) = watch::channel(());
        let (tasks, end) = (Arc::new(Mutex::new(tasks)), Arc::new(end));
        for (index, connection) in connections.into_iter().enumerate() {
            let (tasks, end) = (tasks.clone(), end.clone());
            spawn(format!("store-reader-{index}"), move || {
                read_all(&connection, &tasks);
                drop(connection);
                drop(end);
            })?;
        }
        Ok(Lane { queue, ended, name: "readers" })
    }

    /// Has `work` done, and waits for the answer. A write that ran out of time may still be done later.
    pub(super) async fn call<T, W>(&self, rows: usize, work: W) -> Result<T>
    where
        W: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { rows, work: Some(work), done: None, reply });
        match timeout(Duration::from_millis(QUEUE_WAIT_MS_MAX), self.queue.send(Message::Do(call))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.is_closed()),
            Err(_) => {
                return Err(StoreError::Unavailable(format!("the queue of its {} has been full for {QUEUE_WAIT_MS_MAX} ms", self.name)));
            }
        }
        match timeout(Duration::from_millis(ANSWER_WAIT_MS_MAX), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.is_closed()),
            Err(_) => Err(StoreError::Unavailable(format!("its {} did not answer for {ANSWER_WAIT_MS_MAX} ms", self.name))),
        }
    }

    /// Ends the threads after what is queued, and waits until they have let go of their connections.
    pub(super) async fn stop(&self) {
        self.queue.send(Message::Stop).await.ok(); // an error says that they have ended
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    fn is_closed(&self) -> StoreError {
        StoreError::Unavailable(format!("its {} has stopped", self.name))
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name).spawn(body);
    spawned.map(drop).map_err(|error| StoreError::Unavailable(format!("no thread could be started: {error}")))
}

fn read_all(connection: &Connection, tasks: &Mutex<mpsc::Receiver<Message>>) {
    loop {
        // The lock is held while waiting: the other readers wait for the lock instead. A reader that panicked has left the queue whole.
        let mut queue = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.blocking_recv() {
            Some(Message::Do(mut task)) => {
                drop(queue);
                let is_read = in_transaction(connection, "BEGIN", || {
                    task.work(connection);
                    Ok(())
                });
                task.answer(&is_read);
            }
            Some(Message::Stop) => queue.close(),
            None => return,
        }
    }
}

fn write_all(connection: &Connection, mut queue: mpsc::Receiver<Message>, committed: &dyn Fn(&Connection)) {
    while let Some(message) = queue.blocking_recv() {
        let mut group = Vec::new();
        gather(message, &mut queue, &mut group);
        if group.is_empty() {
            continue; // it was the word to stop
        }
        let outcome = in_transaction(connection, "BEGIN IMMEDIATE", || match &mut group[..] {
            [task] => work_alone(connection, task.as_mut()),
            tasks => tasks.iter_mut().try_for_each(|task| work_apart(connection, task.as_mut())),
        });
        if outcome.is_ok() {
            committed(connection);
        }
        group.into_iter().for_each(|task| task.answer(&outcome));
    }
}

/// Takes `first` and what waits behind it, up to about `GROUP_ROWS_MAX` rows.
fn gather(first: Message, queue: &mut mpsc::Receiver<Message>, group: &mut Vec<Box<dyn Task>>) {
    let (mut next, mut rows) = (Some(first), 0);
    while let Some(message) = next {
        match message {
            Message::Do(task) => {
                rows += task.rows();
                group.push(task);
            }
            Message::Stop => queue.close(),
        }
        next = if rows < GROUP_ROWS_MAX { queue.try_recv().ok() } else { None };
    }
}

/// Does the work of a task that has the transaction to itself, which is what undoes it. A savepoint would cost a copy of each page that
/// is changed: half the speed of a batch of history.
fn work_alone(connection: &Connection, task: &mut dyn Task) -> Result<()> {
    let is_kept = task.work(connection);
    if connection.is_autocommit() {
        return Err(StoreError::Unavailable("the transaction was lost; nothing was written".into()));
    }
    if is_kept { Ok(()) } else { Err(StoreError::Internal("the task failed and was undone".into())) } // it has said why itself
}

/// Does a task's work such that it can be undone without the others'. An error is of the whole transaction.
fn work_apart(connection: &Connection, task: &mut dyn Task) -> Result<()> {
    connection.prepare_cached("SAVEPOINT task")?.execute([])?;
    let is_kept = task.work(connection);
    if connection.is_autocommit() {
        // After some failures (disk full, for one) SQLite has rolled back everything by itself.
        return Err(StoreError::Unavailable("a write that shared the transaction lost it; nothing was written".into()));
    }
    if !is_kept {
        connection.prepare_cached("ROLLBACK TO task")?.execute([])?;
    }
    connection.prepare_cached("RELEASE task")?.execute([])?;
    Ok(())
}

fn in_transaction(connection: &Connection, begin: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    connection.prepare_cached(begin)?.execute([])?;
    let outcome = work().and_then(|()| Ok(connection.prepare_cached("COMMIT")?.execute([]).map(drop)?));
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

/// Empties the WAL into the file. What fails here is made up for at the next start.
fn finish(connection: Connection) {
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        log::warn!("the store's write-ahead log was not emptied at the end; the next start will: {error}");
    }
    if let Err((_, error)) = connection.close() {
        log::warn!("the store's file was not closed in order; the next start makes up for it: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn numbers() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE numbers (number INTEGER PRIMARY KEY)").unwrap();
        connection
    }

    fn insert(connection: &Connection, number: usize) -> Result<()> {
        Ok(connection.execute("INSERT INTO numbers VALUES (?1)", [number as i64]).map(drop)?)
    }

    #[tokio::test]
    async fn writes_that_wait_together_share_a_commit_and_a_stop_lets_them_finish() {
        let commits = Arc::new(AtomicUsize::new(0));
        let counter = commits.clone();
        let lane = Lane::writer(numbers(), move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let (open_gate, gate) = std::sync::mpsc::channel::<()>();
        let (tell_started, started) = oneshot::channel();
        let held = lane.call(1, move |_| {
            tell_started.send(()).ok();
            Ok(gate.recv().is_ok())
        });
        let held_back = async {
            started.await.unwrap();
            // Joined futures are begun in this order: all writes are queued before the gate opens.
            let all = futures::future::join_all((0..20).map(|number| lane.call(1, move |connection| insert(connection, number))));
            let open = async { open_gate.send(()).unwrap() };
            let stop = async {
                lane.stop().await;
                lane.call(1, |_| Ok(())).await
            };
            futures::join!(all, open, stop)
        };
        let (held, (answers, (), late)) = futures::join!(held, held_back);
        assert_eq!(held, Ok(true));
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert!(matches!(late, Err(StoreError::Unavailable(_))));
        assert_eq!(commits.load(Ordering::SeqCst), 2, "one of the write that held up the others, one of all these");
    }

    #[tokio::test]
    async fn a_task_that_fails_is_undone_alone() {
        let lane = Lane::writer(numbers(), |_| ()).unwrap();
        let writes = (0..20).map(|number| {
            lane.call(1, move |connection| {
                insert(connection, number)?;
                if number % 5 == 3 { Err(StoreError::NoSuchJob) } else { Ok(()) }
            })
        });
        let failed = futures::future::join_all(writes).await.iter().filter(|answer| **answer == Err(StoreError::NoSuchJob)).count();
        let left =
            lane.call(0, |connection| Ok(connection.query_row("SELECT count(*) FROM numbers", [], |row| row.get::<_, i64>(0))?)).await;
        assert_eq!((failed, left), (4, Ok(16)));
    }
}
