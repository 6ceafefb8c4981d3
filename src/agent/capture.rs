//! The pipes of all running commands, read by the agent's one thread as they fill: no task and no thread a run.
//!
//! One epoll set holds them, and that set is one source of events for the runtime. Reads are in the order in which the pipes became
//! readable; which of two pipes that filled at once was first can't be known. What is left out: what becomes of the bytes (`output`).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;

use super::readiness;
use super::runs::Token;
use crate::model::Stream;

/// Bytes of one read: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one turn, so that a flood of output doesn't delay starts for long.
const READS_MAX: usize = 32;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What `read_ready` found.
pub enum Event<'a> {
    Data(Token, Stream, &'a [u8]),
    /// Both of the pipes are closed.
    Closed(Token),
}

pub struct Capture {
    epoll: AsyncFd<OwnedFd>,
    pipes: HashMap<Token, [Option<OwnedFd>; 2]>,
    buffer: Box<[u8]>,
    ready: Vec<epoll::Event>,
}

impl Capture {
    /// Call it in a runtime with IO.
    pub fn new() -> io::Result<Capture> {
        let epoll = readiness::watch(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        Ok(Capture { epoll, pipes: HashMap::new(), buffer: vec![0; READ_BYTES].into_boxed_slice(), ready: Vec::with_capacity(READS_MAX) })
    }

    /// Opens the two pipes of a run and gives their ends for the command: standard output, standard error.
    pub fn open(&mut self, token: Token) -> io::Result<[OwnedFd; 2]> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        for (pipe, stream) in [(&stdout, Stream::Stdout), (&stderr, Stream::Stderr)] {
            let key = epoll::EventData::new_u64(token << 1 | u64::from(stream == Stream::Stderr));
            epoll::add(self.epoll.get_ref(), pipe, key, epoll::EventFlags::IN)?;
        }
        self.pipes.insert(token, [Some(stdout), Some(stderr)]);
        Ok([stdout_end, stderr_end])
    }

    /// Stops reading a run's pipes; `Closed` will not be said.
    pub fn close(&mut self, token: Token) {
        self.pipes.remove(&token);
    }

    /// Waits until some pipe can be read or is closed.
    pub async fn readable(&self) -> io::Result<()> {
        // Readiness stays set until `read_ready` has found nothing more.
        self.epoll.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads what can be read, but not without end.
    pub fn read_ready(&mut self, mut handle: impl FnMut(Event<'_>)) -> io::Result<()> {
        let mut reads = 0;
        while reads < READS_MAX {
            self.ready.clear();
            let mut readable = futures::FutureExt::now_or_never(self.epoll.readable()).transpose()?;
            match epoll::wait(self.epoll.get_ref(), rustix::buffer::spare_capacity(&mut self.ready), Some(&NO_WAIT)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.ready.is_empty() {
                if let Some(guard) = &mut readable {
                    guard.clear_ready();
                }
                return Ok(());
            }
            reads += self.ready.len();
            for event in &self.ready {
                let (flags, key) = (event.flags, event.data);
                let (token, stream) = (key.u64() >> 1, if key.u64() & 1 == 1 { Stream::Stderr } else { Stream::Stdout });
                read_pipe(&mut self.pipes, &mut self.buffer, token, stream, flags, &mut handle)?;
            }
        }
        Ok(())
    }

    /// Reads what is in a run's pipes right now, before they are given up.
    pub fn read_rest(&mut self, token: Token, mut handle: impl FnMut(Event<'_>)) -> io::Result<()> {
        for (stream, index) in [(Stream::Stdout, 0), (Stream::Stderr, 1)] {
            // A daemon that writes without end must not hold us: no more than a pipe can hold.
            let mut left = 1024 * 1024 / READ_BYTES;
            while let Some(pipe) = self.pipes.get(&token).and_then(|pipes| pipes[index].as_ref())
                && left > 0
                && rustix::io::ioctl_fionread(pipe)? > 0
            {
                read_pipe(&mut self.pipes, &mut self.buffer, token, stream, epoll::EventFlags::IN, &mut handle)?;
                left -= 1;
            }
        }
        Ok(())
    }
}

/// Reads a pipe that is known to be readable, so that the read does not block; and again to see its end, where its writers are gone.
fn read_pipe(
    pipes: &mut HashMap<Token, [Option<OwnedFd>; 2]>,
    buffer: &mut [u8],
    token: Token,
    stream: Stream,
    flags: epoll::EventFlags,
    handle: &mut impl FnMut(Event<'_>),
) -> io::Result<()> {
    let Some(ends) = pipes.get_mut(&token) else { return Ok(()) };
    let end = &mut ends[usize::from(stream == Stream::Stderr)];
    let Some(pipe) = end else { return Ok(()) };
    loop {
        match rustix::io::read(&*pipe, &mut *buffer) {
            Ok(0) => {
                *end = None;
                if ends.iter().all(Option::is_none) {
                    pipes.remove(&token);
                    handle(Event::Closed(token));
                }
                return Ok(());
            }
            Ok(length) => {
                handle(Event::Data(token, stream, &buffer[..length]));
                if length == buffer.len() || !flags.contains(epoll::EventFlags::HUP) {
                    return Ok(());
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
