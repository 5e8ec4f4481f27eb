//! What strangers, head office, a technician and a dying disk can hand to a parser, by the hundred
//! thousand: none of it may make the program panic, and what is understood must be understood
//! right.
//!
//! Every input in `corpus/TARGET` is replayed by `cargo test`. With `TILLD_FUZZ_SECONDS=600` each
//! target is also given inputs that are made from those, by a generator whose seed is printed
//! (`TILLD_FUZZ_SEED` replays it). An input that leads to an outcome not seen before is kept for
//! further changes. One that fails is written to `target/tmp/fuzz/TARGET`: it belongs into the
//! corpus.

#[cfg(test)]
mod mutation;

#[cfg(test)]
mod targets;

#[cfg(test)]
mod tests {
    use super::mutation::fuzz;
    use super::targets;

    #[test]
    fn no_request_body_does_harm_and_what_is_taken_comes_back_the_same() {
        fuzz("request", targets::request);
    }

    #[test]
    fn no_sealed_body_does_harm_and_what_is_sealed_opens_again() {
        fuzz("cipher", targets::cipher);
    }

    #[test]
    fn no_answer_of_head_office_does_harm() {
        fuzz("answer", targets::answer);
    }

    #[test]
    fn no_configuration_does_harm_and_every_mistake_has_its_place() {
        fuzz("config", targets::config);
    }

    #[test]
    fn no_damage_to_the_tape_does_harm_and_none_invents_a_collection() {
        fuzz("tape", targets::tape);
    }
}
