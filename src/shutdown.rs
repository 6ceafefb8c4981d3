//! Asking everything to stop, once, and knowing that it was asked.

use std::sync::Arc;

use tokio::sync::watch;

/// Clones are the same request.
#[derive(Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is requested.
    pub async fn requested(&self) {
        // The sender lives as long as this handle, so waiting can't fail.
        let _ = self.0.subscribe().wait_for(|requested| *requested).await;
    }
}
