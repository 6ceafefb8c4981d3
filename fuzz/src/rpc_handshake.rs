//! All that is read before a peer is known, on both sides, and a little more: with a proof that is right, the hello and its answer.

use chrono_flow::model::ClusterId;
use chrono_flow::rpc::handshake::{Hello, Name, Service, accept, dial};
use chrono_flow::rpc::wire::PROTOCOL_VERSION;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::script::{Script, block_on};
use super::split;

const SERVICES: &[Service] = &[Service::Controller, Service::Peer];
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
pub const GREETING_BYTES: usize = 8 + 4 + 32;

/// A greeting with a nonce of nines.
pub fn greeting() -> Vec<u8> {
    [b"chronofl".as_slice(), &PROTOCOL_VERSION.to_le_bytes(), &[9; 32]].concat()
}

/// What a side without a secret proves with.
fn proof(label: &[u8; 20], dialler: &[u8], acceptor: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(&[]).expect("a key of any length");
    let mac = mac.chain_update(label).chain_update(PROTOCOL_VERSION.to_le_bytes()).chain_update(dialler).chain_update(acceptor);
    mac.finalize().into_bytes().to_vec()
}

pub fn run(bytes: &[u8]) {
    let (kind, rest) = split(bytes);
    let hello = Hello { cluster: Some(CLUSTER), from: Name::Controller(7), service: Service::Peer };
    let rest = rest.to_vec();
    let said = match kind % 4 {
        0 => accepted(Script::new(rest)),
        1 => dialled(Script::new(rest), &hello),
        // The dialler knows what it takes, up to its hello.
        2 => accepted(Script::answering(greeting(), once(rest, |said| proof(b"chrono-flow dialler ", &[9; 32], &said[12..])))),
        // So does the acceptor, up to its answer.
        _ => dialled(Script::answering(greeting(), once(rest, |said| proof(b"chrono-flow acceptor", &said[12..44], &[9; 32]))), &hello),
    };
    // A greeting, a proof, and a hello or its answer: nobody is told more.
    assert!(said <= GREETING_BYTES + 32 + 2 + 64, "{said} bytes");
}

/// The proof, made from what the other side's greeting says, and the rest behind it.
fn once(rest: Vec<u8>, prove: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> impl FnMut(&[u8]) -> Vec<u8> + Send + 'static {
    let mut rest = Some(rest);
    move |said| match (said.len() >= GREETING_BYTES).then(|| rest.take()).flatten() {
        Some(rest) => [prove(&said[..said.len().min(GREETING_BYTES)]), rest].concat(),
        None => Vec::new(),
    }
}

fn accepted(mut script: Script) -> usize {
    let result = block_on(accept(&mut script, None, Some(CLUSTER), SERVICES));
    if let Ok(hello) = result {
        assert!(SERVICES.contains(&hello.service) && hello.cluster.is_none_or(|cluster| cluster == CLUSTER));
    }
    script.said.len()
}

fn dialled(mut script: Script, hello: &Hello) -> usize {
    let _ = block_on(dial(&mut script, None, hello));
    script.said.len()
}
