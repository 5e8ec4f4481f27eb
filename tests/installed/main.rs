//! What `tilld` promises as a Debian package, held against the real package in booted containers.
//!
//! Not part of plain `cargo test`: it needs root, systemd-nspawn, debootstrap and the package. Each
//! test has a machine of its own; nothing here looks inside the program.

#[cfg(test)]
mod support;

#[cfg(test)]
mod installing;

#[cfg(test)]
mod shipped;

#[cfg(test)]
mod people;

#[cfg(test)]
mod journal;

#[cfg(test)]
mod secrets;

#[cfg(test)]
mod reload;

#[cfg(test)]
mod restarts;

#[cfg(test)]
mod failures;

#[cfg(test)]
mod upgrades;

#[cfg(test)]
mod backups;

#[cfg(test)]
mod leaving;
