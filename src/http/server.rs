//! The accept loop: takes connections up to a limit, serves them with hyper, and ends them in bounded time.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use log::{debug, warn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Activity, CountedBody, Impatient};
use super::problem::Problem;
use super::{Context, Services, Settings, router};

/// Headers of one request, at most.
const HEADERS_MAX: usize = 100;
/// Bytes of a request's head, at most.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 64;
/// How often the other end of an HTTP/2 connection must show that it lives.
const HTTP2_PING_MS: u64 = 20_000;
/// How long an idle connection has to end in order.
const LINGER_MS: u64 = 1_000;
/// How long the accept loop rests when the process has no file descriptors left.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Connections beyond the limit that are told so at once; those beyond that are just closed.
const REFUSALS_MAX: usize = 64;
/// A listening server that does not serve yet.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    settings: Settings,
}

impl Server {
    /// Listens on `listen` (`host:port`; port 0 takes a free one). The error names the address.
    pub async fn bind(listen: &str, settings: Settings) -> io::Result<Server> {
        let named = |error: io::Error| {
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("can't listen for HTTP on {listen}: {cause}"))
        };
        let listener = TcpListener::bind(listen).await.map_err(named)?;
        let local_addr = listener.local_addr().map_err(named)?;
        Ok(Server { listener, local_addr, settings })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is ready, then lets answers that are under way end, for a bounded time.
    pub async fn run(self, services: Services, shutdown: impl Future<Output = ()>) {
        let stopping = CancellationToken::new();
        let context = Arc::new(Context {
            store: services.store,
            engine: services.engine,
            settings: self.settings.clone(),
            is_loopback: self.local_addr.ip().is_loopback(),
            stopping: stopping.clone(),
        });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept_loop(self.listener, &context, &mut connections) => {}
            () = shutdown => {}
        }
        stopping.cancel();
        let drained = timeout(Duration::from_millis(context.settings.drain_ms), async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            warn!("{} HTTP connections are cut off: they did not end within {} ms", connections.len(), context.settings.drain_ms);
            connections.shutdown().await;
        }
    }
}

async fn accept_loop(listener: TcpListener, context: &Arc<Context>, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(context.settings.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let api = router::filter(context.clone());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                rest_after(error).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if let Ok(place) = places.clone().try_acquire_owned() {
            let service = TowerToHyperService::new(warp::service(api.clone()));
            let serving = serve(stream, service, context.clone());
            connections.spawn(async move {
                serving.await;
                drop(place);
            });
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            debug!("refused a connection: {} are open", context.settings.connections_max);
            connections.spawn(async move {
                let _ = timeout(Duration::from_millis(LINGER_MS), refuse(stream)).await;
                drop(place);
            });
        }
    }
}

/// A connection that broke before it was taken is nobody's loss; anything else, such as too few file descriptors, may last.
async fn rest_after(error: io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!("can't take HTTP connections: {error}");
        sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
    }
}

/// Tells a client that there is no room, and waits for it to hear it: closing at once with unread bytes would lose the answer.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", "too many connections are open");
    let body = problem.body();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

async fn serve<S, B>(stream: TcpStream, api: S, context: Arc<Context>)
where
    S: Service<Request<Incoming>, Response = hyper::Response<B>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        debug!("can't set TCP_NODELAY: {error}");
    }
    let settings = &context.settings;
    let activity = Arc::new(Activity::default());
    let counted = service_fn(|request| {
        let (busy, answer) = (activity.begin(), api.call(request));
        async move { answer.await.map(|response| response.map(|body| CountedBody::new(body, busy))) }
    });
    let io = TokioIo::new(Impatient::new(stream, Duration::from_millis(settings.write_stall_ms)));
    let builder = builder(settings);
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, counted));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = activity.idle_for(Duration::from_millis(settings.idle_ms)) => {
            connection.as_mut().graceful_shutdown();
            timeout(Duration::from_millis(LINGER_MS), connection.as_mut()).await.unwrap_or(Ok(()))
        }
        () = context.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = outcome {
        debug!("an HTTP connection broke: {error}");
    }
}

fn builder(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(settings.idle_ms))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_millis(HTTP2_PING_MS))
        .keep_alive_timeout(Duration::from_millis(HTTP2_PING_MS));
    builder
}
