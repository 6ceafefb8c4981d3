//! Frames: a length and a postcard body, over any byte stream.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tarpc::serde_transport::{self, Transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::wire::FRAME_BYTES_MAX;

/// How long a caller may let the called side work, at most. tarpc computes with what the caller says, and panics at large numbers.
pub const CALL_DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// How tarpc's `ClientMessage` begins.
#[derive(Deserialize)]
enum Call {
    /// The deadline comes first.
    Request(Duration),
    Cancel,
}

/// postcard as a codec of tokio-serde.
pub struct Postcard<Item, SinkItem> {
    /// What comes in are calls.
    is_served: bool,
    _items: PhantomData<fn() -> (Item, SinkItem)>,
}

impl<Item, SinkItem> Postcard<Item, SinkItem> {
    fn new(is_served: bool) -> Self {
        Postcard { is_served, _items: PhantomData }
    }
}

impl<Item: for<'de> Deserialize<'de>, SinkItem> tokio_serde::Deserializer<Item> for Postcard<Item, SinkItem> {
    type Error = io::Error;
    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<Item> {
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if self.is_served
            && let (Call::Request(deadline), _) = postcard::take_from_bytes(frame).map_err(malformed)?
            && deadline > CALL_DEADLINE_MAX
        {
            let what = format!("a call that may take {} s, more than {}", deadline.as_secs(), CALL_DEADLINE_MAX.as_secs());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        postcard::from_bytes(frame).map_err(malformed)
    }
}

impl<Item, SinkItem: Serialize> tokio_serde::Serializer<SinkItem> for Postcard<Item, SinkItem> {
    type Error = io::Error;
    fn serialize(self: Pin<&mut Self>, item: &SinkItem) -> io::Result<Bytes> {
        postcard::to_stdvec(item).map(Bytes::from).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A tarpc transport over `io`, for the side that calls.
pub fn transport<S, Item, SinkItem>(io: S) -> Transport<S, Item, SinkItem, Postcard<Item, SinkItem>>
where
    S: AsyncRead + AsyncWrite,
    Item: for<'de> Deserialize<'de>,
    SinkItem: Serialize,
{
    transport_of(io, FRAME_BYTES_MAX)
}

/// The same with frames of up to `frame_bytes_max`, on which both sides must agree: a larger one breaks the connection.
pub fn transport_of<S, Item, SinkItem>(io: S, frame_bytes_max: usize) -> Transport<S, Item, SinkItem, Postcard<Item, SinkItem>>
where
    S: AsyncRead + AsyncWrite,
    Item: for<'de> Deserialize<'de>,
    SinkItem: Serialize,
{
    serde_transport::new(framed(io, frame_bytes_max), Postcard::new(false))
}

/// The same for the side that is called: a call that asks for more time than `CALL_DEADLINE_MAX` breaks the connection.
pub fn serving<S, Item, SinkItem>(io: S, frame_bytes_max: usize) -> Transport<S, Item, SinkItem, Postcard<Item, SinkItem>>
where
    S: AsyncRead + AsyncWrite,
    Item: for<'de> Deserialize<'de>,
    SinkItem: Serialize,
{
    serde_transport::new(framed(io, frame_bytes_max), Postcard::new(true))
}

fn framed<S: AsyncRead + AsyncWrite>(io: S, frame_bytes_max: usize) -> Framed<S, LengthDelimitedCodec> {
    Framed::new(io, LengthDelimitedCodec::builder().max_frame_length(frame_bytes_max).new_codec())
}
