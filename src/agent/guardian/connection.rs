//! The task that owns the agent's end of the link: sends what the handles have ordered, and hands out answers and notices.
//!
//! It always reads: notices wait here for a slow reader, at most two for each run that the agent started, and never hold an answer up.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::client::{Guardian, Notice, Shared, Spawned};
use super::frames::{Inbox, Received, breach};
use super::launch::Launched;
use super::messages::Report;

/// Notices in the channel; beyond it they wait in the task.
const NOTICES_MAX: usize = 1024;
/// Linux bounds the descriptors on their way through sockets for each user; when others have used them up, it is tried again.
const FDS_RETRY: Duration = Duration::from_millis(5);
const FDS_RETRIES_MAX: usize = 400;

/// Within a tokio runtime: starts the task.
pub(super) fn attach(launched: Launched) -> io::Result<(Guardian, mpsc::Receiver<Notice>)> {
    let link = UnixStream::from_std(launched.link.into())?;
    let (notices, received) = mpsc::channel(NOTICES_MAX);
    let (guardian, shared) = Guardian::new(link);
    let connection = Connection { inbox: launched.inbox, shared, notices, waiting: VecDeque::new() };
    tokio::spawn(connection.run(launched.child));
    Ok((guardian, received))
}

struct Connection {
    inbox: Inbox,
    shared: Arc<Shared>,
    notices: mpsc::Sender<Notice>,
    waiting: VecDeque<Notice>,
}

enum Event {
    Ordered,
    Readable,
    Noticed,
}

impl Connection {
    async fn run(mut self, child: Child) {
        if let Err(error) = self.serve().await {
            log::error!("the link to the guardian broke: {error}");
        }
        let Connection { shared, notices, waiting, .. } = self;
        shared.forsake();
        reap(child).await;
        shared.gone.send_replace(true);
        let lost = (!shared.is_shutting_down()).then_some(Notice::GuardianLost);
        for notice in waiting.into_iter().chain(lost) {
            if notices.send(notice).await.is_err() {
                return;
            }
        }
    }

    /// Returns when the link closes or is to be closed.
    async fn serve(&mut self) -> io::Result<()> {
        let (shared, notices) = (self.shared.clone(), self.notices.clone());
        let mut is_sending = false;
        loop {
            let event = tokio::select! {
                () = shared.wake.notified() => Event::Ordered,
                ready = shared.link.writable(), if is_sending => ready.map(|()| Event::Ordered)?,
                ready = shared.link.readable() => ready.map(|()| Event::Readable)?,
                place = notices.reserve(), if !self.waiting.is_empty() => {
                    let Ok(place) = place else { return Ok(()) };
                    if let Some(notice) = self.waiting.pop_front() {
                        place.send(notice);
                    }
                    Event::Noticed
                }
            };
            match event {
                Event::Ordered if shared.is_closed() => return Ok(()),
                Event::Ordered => is_sending = self.send().await?,
                Event::Readable if !self.receive()? => return Ok(()),
                Event::Readable | Event::Noticed => {}
            }
        }
    }

    /// Sends what waits; true if some remains.
    async fn send(&mut self) -> io::Result<bool> {
        let mut retries = 0;
        loop {
            match self.shared.send_waiting() {
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if is_out_of_fds(&error) && retries < FDS_RETRIES_MAX => {
                    retries += 1;
                    tokio::time::sleep(FDS_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// False if the link is closed.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            let inbox = &mut self.inbox;
            match self.shared.link.try_io(Interest::READABLE, || inbox.receive(self.shared.link.as_fd())) {
                Ok(Received::Some) => self.take_reports()?,
                Ok(Received::Closed) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_reports(&mut self) -> io::Result<()> {
        while let Some((frame, _)) = self.inbox.next()? {
            let report = postcard::from_bytes(frame).map_err(|_| breach("a report that can't be read"))?;
            match report {
                Report::Ready => return Err(breach("ready twice")),
                Report::Spawned { token, pid, start_time_ticks, at } => {
                    self.shared.answer_spawn(token, Ok(Spawned { pid, start_time_ticks, at }));
                }
                Report::Refused { token, refusal } => self.shared.answer_spawn(token, Err(refusal.into())),
                Report::Revoked { token, prevented } => self.shared.answer_revoke(token, prevented),
                Report::Exited { token, end, at } => self.notify(Notice::Exited { token, end, at }),
                Report::GroupGone { token } => self.notify(Notice::GroupGone { token }),
            }
        }
        Ok(())
    }

    fn notify(&mut self, notice: Notice) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(notice);
        } else if let Err(mpsc::error::TrySendError::Full(notice)) = self.notices.try_send(notice) {
            self.waiting.push_back(notice);
        }
    }
}

fn is_out_of_fds(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error())
}

/// The guardian ends soon after its link; its zombie must not stay.
async fn reap(mut child: Child) {
    let waited = tokio::task::spawn_blocking(move || child.wait()).await;
    if let Ok(Ok(status)) = waited
        && !status.success()
    {
        log::error!("the guardian ended: {status}");
    }
}
