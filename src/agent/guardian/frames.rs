//! The link's framing: four bytes of length (little endian), then postcard; file descriptors ride beside the bytes by SCM_RIGHTS.
//!
//! Invariant: a descriptor never arrives later than the last byte of the frame that it belongs to, and descriptors arrive in the order of
//! their frames. The sender sees to it by sending all descriptors of a batch with the batch's first bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
    sendmsg,
};
use serde::Serialize;

/// Above a command of 256 KiB, an environment of 64 KiB and a path; a longer frame is a breach of the protocol.
pub(super) const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Descriptors that one message may carry; Linux allows 253 (SCM_MAX_FD).
pub(super) const BATCH_FDS_MAX: usize = 128;

const LENGTH_BYTES: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;
/// A buffer that grew beyond this for one long command is given back once it is empty.
const KEPT_BYTES: usize = 2 * CHUNK_BYTES;

/// Appends one message as a frame.
pub(super) fn append(out: &mut Vec<u8>, message: &impl Serialize) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    *out = postcard::to_extend(message, take(out)).map_err(io::Error::other)?;
    let length = out.len() - start - LENGTH_BYTES;
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(breach("a frame longer than its limit"));
    }
    out[start..start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Bytes and descriptors on their way out; what was sent is forgotten.
#[derive(Default)]
pub(super) struct Outbox {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    sent: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends as much as the socket takes without blocking; `WouldBlock` if some remains.
    pub fn send(&mut self, link: BorrowedFd<'_>) -> io::Result<()> {
        while !self.is_empty() {
            match send_once(link, &self.bytes[self.sent..], &self.fds) {
                Ok(count) => {
                    self.sent += count;
                    self.fds.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        Ok(())
    }
}

fn send_once(link: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(breach("more descriptors in a batch than its limit"));
    }
    Ok(sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// What one attempt to receive brought.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Received {
    Some,
    Closed,
}

/// Bytes and descriptors that came in and are not yet taken.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { bytes: Vec::new(), taken: 0, chunk: vec![0; CHUNK_BYTES].into_boxed_slice(), fds: VecDeque::new() }
    }

    /// Receives once, without blocking (`WouldBlock`). Bounded: callers take the whole frames before they receive again.
    pub fn receive(&mut self, link: BorrowedFd<'_>) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = recvmsg(link, &mut [IoSliceMut::new(&mut self.chunk)], &mut control, flags)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(breach("descriptors were lost on the way: too many open files"));
        }
        if message.bytes == 0 {
            return Ok(Received::Closed);
        }
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(&self.chunk[..message.bytes]);
        Ok(Received::Some)
    }

    /// Whether [`Inbox::next`] would give a frame.
    pub fn has_frame(&self) -> bool {
        self.frame_length().is_some_and(|length| self.bytes.len() - self.taken >= LENGTH_BYTES + length)
    }

    /// The next whole frame, and the descriptors from which it takes its own.
    pub fn next(&mut self) -> io::Result<Option<(&[u8], &mut VecDeque<OwnedFd>)>> {
        let Some(length) = self.frame_length() else {
            self.forget_taken();
            return Ok(None);
        };
        if length > FRAME_BYTES_MAX {
            return Err(breach("a frame longer than its limit"));
        }
        let start = self.taken + LENGTH_BYTES;
        let Some(frame) = self.bytes.get(start..start + length) else { return Ok(None) };
        self.taken = start + length;
        Ok(Some((frame, &mut self.fds)))
    }

    fn frame_length(&self) -> Option<usize> {
        let head = self.bytes.get(self.taken..)?.first_chunk::<LENGTH_BYTES>()?;
        Some(u32::from_le_bytes(*head) as usize)
    }

    fn forget_taken(&mut self) {
        if self.taken == self.bytes.len() {
            self.taken = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        }
    }
}

/// The other side does not keep to the protocol: the link is closed, and with it the fence falls.
pub(super) fn breach(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn receive_all(inbox: &mut Inbox, link: &UnixStream) {
        while inbox.receive(link.as_fd()).is_ok_and(|received| received == Received::Some) {}
    }

    #[test]
    fn frames_and_their_descriptors_arrive_in_order_however_the_bytes_are_cut() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::new());
        let texts = ["first".to_owned(), "x".repeat(300 * 1024), "last".to_owned()];
        let mut readers = Vec::new();
        for text in &texts {
            let (reader, writer) = std::io::pipe().unwrap();
            append(&mut outbox.bytes, text).unwrap();
            outbox.fds.push(writer.into());
            readers.push(reader);
        }
        let mut received = Vec::new();
        while received.len() < texts.len() {
            let sent = outbox.send(ours.as_fd());
            assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
            receive_all(&mut inbox, &theirs);
            while let Some((frame, fds)) = inbox.next().unwrap() {
                let text: String = postcard::from_bytes(frame).unwrap();
                let mut file = std::fs::File::from(fds.pop_front().expect("a descriptor comes no later than its frame"));
                write!(file, "{}", received.len()).unwrap();
                received.push(text);
            }
        }
        assert_eq!(received, texts);
        assert!(outbox.is_empty() && outbox.fds.is_empty() && !inbox.has_frame());
        for (place, mut reader) in readers.into_iter().enumerate() {
            let mut written = String::new();
            reader.read_to_string(&mut written).unwrap();
            assert_eq!(written, place.to_string(), "no copy of the descriptor was kept, and none went astray");
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_neither_sent_nor_taken() {
        let mut out = vec![7];
        assert!(append(&mut out, &"x".repeat(FRAME_BYTES_MAX + 1)).is_err());
        assert_eq!(out, [7], "and leaves no trace in the buffer");
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let mut inbox = Inbox::new();
        inbox.receive(theirs.as_fd()).unwrap();
        assert!(inbox.next().is_err());
    }

    #[test]
    fn a_closed_link_is_told_apart_from_an_empty_one() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::new();
        assert_eq!(inbox.receive(theirs.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(inbox.receive(theirs.as_fd()).unwrap(), Received::Closed);
    }
}
