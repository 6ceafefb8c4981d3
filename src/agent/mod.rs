pub use crate::clock;
pub mod guardian;
