//! What `tilld` promises, held against the real binary over real TLS.
//!
//! One test binary, so that it is linked once; one module for each kind of promise. Nothing here
//! looks inside the program: what counts is what a caller, an operator and the disk can see.

#[cfg(test)]
mod support;

#[cfg(test)]
mod protocol;

#[cfg(test)]
mod identity;

#[cfg(test)]
mod encryption;

#[cfg(test)]
mod bad_input;

#[cfg(test)]
mod relays;

#[cfg(test)]
mod head_office;

#[cfg(test)]
mod outages;

#[cfg(test)]
mod upstream_answers;

#[cfg(test)]
mod disasters;

#[cfg(test)]
mod doctor;

#[cfg(test)]
mod selftest;

#[cfg(test)]
mod client_certificates;

#[cfg(test)]
mod hostile_clients;

#[cfg(test)]
mod durability;

#[cfg(test)]
mod foreign_clients;

#[cfg(test)]
mod operating;

#[cfg(test)]
mod reload;

#[cfg(test)]
mod journal;

#[cfg(test)]
mod status;

#[cfg(test)]
mod figures;

#[cfg(test)]
mod console;

#[cfg(test)]
mod storage;

#[cfg(test)]
mod tape;

#[cfg(test)]
mod tape_damage;

#[cfg(test)]
mod backup;

#[cfg(test)]
mod restore;

#[cfg(test)]
mod acts;

#[cfg(test)]
mod exit_codes;

#[cfg(test)]
mod reports;

#[cfg(test)]
mod printing;

#[cfg(test)]
mod demo;
