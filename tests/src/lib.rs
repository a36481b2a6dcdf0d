pub mod checker;
pub mod history;
pub mod random;
pub mod skip;
