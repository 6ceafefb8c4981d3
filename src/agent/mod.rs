pub mod guardian;
