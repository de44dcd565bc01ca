//! What people look at: self-contained HTML pages.
//!
//! A page is one file that reads well in light and dark, on a phone and on paper, loads nothing from anywhere, and runs no
//! script but its own (its Content-Security-Policy says so). Markup is made with [`maud::html!`], which escapes whatever is
//! spliced in (a crate that makes pages has to depend on `maud` itself); the parts below implement [`maud::Render`], so
//! they are spliced like text:
//!
//! ```
//! use espalier_pages::{Axis, Chart, page};
//! use maud::html;
//! let loss = Chart::new("Loss", Axis::new("epoch").whole(), Axis::new("cross-entropy"))
//!     .line("train", [(1.0, 0.9), (2.0, 0.5)])
//!     .line("val", [(1.0, 0.8), (2.0, 0.6)])
//!     .mark(2.0, "best");
//! let text = page("A run", html! { h1 { "A run" } (loss) });
//! assert!(text.starts_with("<!DOCTYPE html>"));
//! ```

mod chart;
mod heat;
mod page;
mod parts;
mod picture;

pub use chart::{Axis, Chart};
pub use heat::Heat;
pub use page::{live_page, page};
pub use parts::{Table, bar, callout, facts, gallery, mosaic, number, pair, percent, properties, section};
pub use picture::{Picture, PictureError};
