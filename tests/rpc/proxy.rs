//! A way from one member to another that can be cut, and slowed down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the dialling side of each connection said, in the order in which they began.
pub type Recording = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Proxy {
    pub address: String,
    state: Arc<State>,
}

struct State {
    target: String,
    /// Connections live as long as this is even and does not change.
    cuts: watch::Sender<u64>,
    /// Of each connection, 0 for no limit.
    bytes_per_s_max: AtomicU64,
    recording: Mutex<Option<Recording>>,
}

impl Proxy {
    pub async fn new(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state =
            Arc::new(State { target, cuts: watch::Sender::new(0), bytes_per_s_max: AtomicU64::new(0), recording: Mutex::new(None) });
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().carry(stream));
            }
        });
        Proxy { address, state }
    }

    /// Ends all connections, and lets none through until it is healed.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts = (*cuts + 1) | 1);
    }

    pub fn heal(&self) {
        self.state.cuts.send_modify(|cuts| *cuts = (*cuts + 1) & !1);
    }

    /// Records connections from now on.
    pub fn record(&self) -> Recording {
        let recording = Recording::default();
        *self.state.recording.lock().unwrap() = Some(recording.clone());
        recording
    }

    pub fn slow_down(&self, bytes_per_s_max: u64) {
        self.state.bytes_per_s_max.store(bytes_per_s_max, Ordering::Relaxed);
    }
}

impl State {
    async fn carry(self: Arc<State>, mut from: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let life = *cuts.borrow_and_update();
        let Ok(mut to) = TcpStream::connect(&self.target).await else { return };
        if life % 2 == 1 || from.set_nodelay(true).and(to.set_nodelay(true)).is_err() {
            return;
        }
        let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (from.split(), to.split());
        let recording = self.recording.lock().unwrap().clone();
        let place = recording.map(|recording| {
            let mut connections = recording.lock().unwrap();
            connections.push(Vec::new());
            (recording.clone(), connections.len() - 1)
        });
        tokio::select! {
            () = self.pass(&mut from_read, &mut to_write, place) => {}
            () = self.pass(&mut to_read, &mut from_write, None) => {}
            _ = cuts.changed() => {}
        }
    }

    async fn pass(&self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), recording: Option<(Recording, usize)>) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if let Some((recording, place)) = &recording {
                recording.lock().unwrap()[*place].extend_from_slice(&bytes[..count]);
            }
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
            let limit = self.bytes_per_s_max.load(Ordering::Relaxed);
            if limit > 0 {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / limit as f64)).await;
            }
        }
    }
}
