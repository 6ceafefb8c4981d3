pub mod clock;
pub mod guardian;
