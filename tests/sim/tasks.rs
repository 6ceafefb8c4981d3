//! Futures of one node, polled by hand when they have been woken: what a node's process would run. Dropped, they end as in a crash.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Default)]
pub struct Tasks(Vec<Task>);

struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Tasks {
    pub fn spawn(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        // The runtime's budget is for one task a poll; here all share one.
        let future = Box::pin(tokio::task::unconstrained(future));
        self.0.push(Task { future, woken: Arc::new(Woken(AtomicBool::new(true))) });
    }

    /// Lets those go on that have been woken; says whether there were any.
    pub fn poll(&mut self) -> bool {
        let mut has_polled = false;
        let mut place = 0;
        while place < self.0.len() {
            let task = &mut self.0[place];
            if !task.woken.0.swap(false, Ordering::Relaxed) {
                place += 1;
                continue;
            }
            has_polled = true;
            let waker = Waker::from(task.woken.clone());
            match task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => drop(self.0.remove(place)),
                Poll::Pending => place += 1,
            }
        }
        has_polled
    }
}
