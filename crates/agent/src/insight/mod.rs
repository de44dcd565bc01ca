//! Insights: what a pipeline says of its answers. docs/insights.md tells when to use what.
//!
//! [`Rules`] make events of answers, [`Aggregates`] make counts. Both are state machines that take time as an argument, and
//! only the clock that never jumps: a wall clock that does changes nothing but what is printed.

mod aggregate;
mod config;
mod latch;
mod rules;
mod smooth;
#[cfg(test)]
mod tests;
mod things;
mod zone;

pub use aggregate::Aggregates;
pub use config::{Method, RuleConfig, RuleError, SmoothConfig};
pub use rules::Rules;
pub use zone::{Anchor, Rectangle, Zone};
