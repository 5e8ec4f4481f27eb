//! When to pass what on to head office. Knows no wire and no SQL.

pub mod lane;
