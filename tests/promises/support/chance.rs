//! Random choices of a test, printed as a seed and repeated by it.

use tilld::system::entropy;

/// Set to make every case of a sampled kind, which takes hours instead of minutes.
const TORTURE: &str = "TILLD_TORTURE";

/// Set to repeat what a failed run printed.
const SEED: &str = "TILLD_SEED";

/// Random choices that are repeated by a seed (splitmix64).
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Chance {
        let fresh = || u64::from_le_bytes(entropy::bytes().expect("randomness"));
        let given = std::env::var(SEED).ok();
        let seed = given.map_or_else(fresh, |seed| seed.parse().expect("a number"));
        println!("{SEED}={seed}");
        Chance(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound as u64).expect("below a usize")
    }

    /// So many of these in any order; all of them when [`TORTURE`] is set.
    pub fn sample<T>(&mut self, mut all: Vec<T>, count: usize) -> Vec<T> {
        let is_torture = std::env::var_os(TORTURE).is_some();
        let count = if is_torture { all.len() } else { count.min(all.len()) };
        (0..count).map(|_| all.swap_remove(self.below(all.len()))).collect()
    }
}
