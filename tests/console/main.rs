//! The web console in a real browser: what a person does there, what it looks like, and whether
//! everybody can use it. And that its pages come quickly, however much stands in the books.
//!
//! Not part of plain `cargo test`: it needs Chromium and axe-core, which `tests/run` sees to.

#[cfg(test)]
#[path = "../promises/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the promises use more of it")]
mod support;

#[cfg(test)]
#[path = "../speed/stock.rs"]
mod stock;

#[cfg(test)]
mod browser;

#[cfg(test)]
mod day;

#[cfg(test)]
mod live;

#[cfg(test)]
mod looks;

#[cfg(test)]
mod quickness;

/// What ends a stock's making before its end.
#[cfg(test)]
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
