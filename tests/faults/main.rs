//! That nothing is lost, shown by doing to the real binary what happens to cheap computers: it is
//! killed, its disk fails, fills up and loses power, its clock jumps. Everyone who sends keeps a
//! ledger, and in the end the books are held against it.
//!
//! Not part of plain `cargo test`, because it takes its time and some of it needs root. It does
//! as much as fits beside the other tests; `tests/torture` does more of the same.

#[cfg(test)]
#[path = "../promises/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the promises use more of it")]
mod support;

#[cfg(test)]
mod ledger;

#[cfg(test)]
mod rounds;

#[cfg(test)]
mod kills;

#[cfg(test)]
mod calls;

#[cfg(test)]
mod every_call;

#[cfg(test)]
mod answers;

#[cfg(test)]
mod disk;

#[cfg(test)]
mod full_disk;

#[cfg(test)]
mod bad_days;

#[cfg(test)]
mod machine;

#[cfg(test)]
mod power_cut;

#[cfg(test)]
mod controls;
