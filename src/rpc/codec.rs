//! Frames: a length and a postcard body, over any byte stream.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tarpc::serde_transport::{self, Transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::wire::FRAME_BYTES_MAX;

/// postcard as a codec of tokio-serde.
pub struct Postcard<Item, SinkItem>(PhantomData<fn() -> (Item, SinkItem)>);

impl<Item, SinkItem> Default for Postcard<Item, SinkItem> {
    fn default() -> Self {
        Postcard(PhantomData)
    }
}

impl<Item: for<'de> Deserialize<'de>, SinkItem> tokio_serde::Deserializer<Item> for Postcard<Item, SinkItem> {
    type Error = io::Error;
    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<Item> {
        postcard::from_bytes(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl<Item, SinkItem: Serialize> tokio_serde::Serializer<SinkItem> for Postcard<Item, SinkItem> {
    type Error = io::Error;
    fn serialize(self: Pin<&mut Self>, item: &SinkItem) -> io::Result<Bytes> {
        postcard::to_stdvec(item).map(Bytes::from).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A tarpc transport over `io`, for either side.
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
    let codec = LengthDelimitedCodec::builder().max_frame_length(frame_bytes_max).new_codec();
    serde_transport::new(Framed::new(io, codec), Postcard::default())
}
